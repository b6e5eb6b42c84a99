"""What is measured once a network has predicted: the gland's size, each lesion, and the quality of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..core.case import Case
from ..core.errors import ImageError
from ..core.measurements import GlandMeasurements, QualityCriterion
from ..core.notes import Note
from ..core.result import Result
from ..core.terms import Sequence
from ..core.volume import Volume, share_within
from ..radiology.gland import GlandFrame, measure_gland
from ..radiology.lesions import is_cut_off, measure_lesions
from ..radiology.quality import measure_diffusion, measure_t2w
from .case_cache import CaseCache, content_sha256

NO_DENSITY_NOTE = Note(
    "no-density", "PSA density was not computed, since no mask of the prostate is known. Provide a mask of the gland."
)
CUT_LEVELS_NOTE = Note(
    "cut-levels",
    "The prostate reaches the first or the last slice, so that a part of it may be missing: levels and sectors of "
    "lesions are those of the part that is shown.",
)
MIN_COVERED = 0.98  # of a mask by the T2w; with less it is measured on its own grid


@dataclass(frozen=True)
class KnownGland:
    """The prostate of a case, and who marked it.

    Attributes:
        mask: Nothing, or an empty one, where it is not known.
        source: As measurements state it.
        zones: Zone name → mask.
    """

    mask: Volume | None
    source: str
    zones: Mapping[str, Volume] = field(default_factory=dict)


class CaseMeasurements:
    """Measures one case and results on it; the case stays as it is.

    Args:
        images: Sequence → checksum of its image, by which `cache` keeps what was measured of images.
        psa_ng_ml: Prostate-specific antigen, for its density.
    """

    def __init__(self, case: Case, images: Mapping[str, str | None], cache: CaseCache, psa_ng_ml: float | None) -> None:
        self.case = case
        self._images = images
        self._cache = cache
        self._psa_ng_ml = psa_ng_ml

    def add_to(self, result: Result, known: KnownGland) -> Result:
        """The result with the size of the gland, where it is known, what is measured of each lesion, and quality."""
        gland = known.mask if known.mask is not None and known.mask.array.any() else None
        if gland is not None:
            try:
                size, notes = self.gland(gland, known.source)
                result = replace(_noted(result, *notes), gland=size)
            except ImageError as error:
                result = _noted(result, Note("gland-not-measured", f"The gland was not measured. {error}"))
        elif self._psa_ng_ml is not None:
            result = _noted(result, NO_DENSITY_NOTE)
        if result.lesions and result.labels is not None:
            volumes = self.case.volumes
            lesions = measure_lesions(
                result.labels,
                result.lesions,
                adc=volumes.get(Sequence.ADC),
                hbv=volumes.get(Sequence.HBV),
                gland=known.mask,
                zones=known.zones,
            )
            is_cut = known.mask is not None and is_cut_off(known.mask, result.labels.geometry)
            result = replace(_noted(result, *([CUT_LEVELS_NOTE] if is_cut else [])), lesions=lesions)
        return replace(result, quality=self._quality(gland))

    def gland(self, mask: Volume, source: str) -> tuple[GlandMeasurements, tuple[Note, ...]]:
        """The gland's size, measured along the axes of a T2w that covers it, else along its own, and notes on it.

        Raises:
            ImageError: The mask cannot be that of a prostate.
        """
        grid = self.case.volumes.get(Sequence.T2W, mask).geometry
        on_grid = mask.resample_to(grid, "nearest")
        covered = share_within(mask, grid)
        notes: tuple[Note, ...] = ()
        if covered < MIN_COVERED:
            notes = (
                Note(
                    "gland-grid",
                    f"t2w covers only {covered:.0%} of the prostate's mask, which was measured on its own grid.",
                ),
            )
        measured = on_grid if on_grid.array.any() and not notes else mask
        return measure_gland(measured, source, self._psa_ng_ml), (*notes, *GlandFrame.from_mask(measured).notes)

    def _quality(self, gland: Volume | None) -> tuple[QualityCriterion, ...]:
        """Criteria of the images, each measured once; those of T2w hold whatever other sequences a task has."""
        mask, acquisitions = content_sha256(gland), self.case.acquisitions
        of_t2w = ("quality of t2w", self._images.get(Sequence.T2W), acquisitions.get(Sequence.T2W), mask)
        of_diffusion = ("quality of diffusion", tuple(self._images.items()), tuple(acquisitions.items()), mask)
        return (
            *self._cache.recall(of_t2w, lambda: tuple(measure_t2w(self.case, gland))),
            *self._cache.recall(of_diffusion, lambda: tuple(measure_diffusion(self.case, gland))),
        )


def _noted(result: Result, *notes: Note) -> Result:
    return replace(result, provenance=result.provenance.with_notes(*notes))
