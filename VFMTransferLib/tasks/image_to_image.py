"""Tasks whose result is an image. As it stands, a network's one output channel is added to an image of the case.

A new task of this kind states its texts and where the truth comes from; see `docs/developing.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..core.case import Case
from ..core.notes import Note
from ..core.placement import to_reference
from ..core.result import Result
from ..core.terms import Sequence as MRSequence
from ..core.volume import Geometry, Volume
from ..metrics.agreement import SSIM_RADIUS_PX, data_range, mae, psnr_db, ssim
from .base import CaseFiles, CaseScore, HeadKind, LabeledCase, Method, NetworkOutput, Task, finite
from .outputs import IMAGE

if TYPE_CHECKING:
    from .training import TaskTraining

ARBITRARY_UNIT = "a.u."
_ROUNDING = 1e-3  # of a share of measured voxels


class ImageTask(Task):
    """A task that gives images.

    `outputs` are their file stems, which begin with the sequence (`t2w-super-resolved`); measures are of the first.
    `naive_title` is what views call the image that `naive_image` gives.
    """

    output = IMAGE
    head: ClassVar[HeadKind] = "restoration"
    metric = "psnr_db"
    drop_path = 0.0
    baseline = "unchanged"
    naive_title: ClassVar[str] = "Unchanged"
    card_measures: ClassVar[tuple[str, ...]] = ("psnr_db", "ssim", "mae")
    example_measures: ClassVar[tuple[str, ...]] = ("psnr_db", "ssim")
    outputs: ClassVar[tuple[str, ...]]
    decoded_note: ClassVar[Note] = Note("decoding", "The network adds to the image that it saw.")
    unmeasured: ClassVar[str] = "shows nothing that could be measured"  # of what `measured_region` leaves out

    def read_labeled(self, files: CaseFiles) -> LabeledCase:
        return self.from_scan(files.case, seed=files.seed, gland=files.gland)

    def plain_image(self, image: Volume, grid: Geometry) -> Volume:
        """An image of the case on the grid of an output, interpolated without a network."""
        return image.resample_to(grid, "bspline")

    def naive_image(self, case: Case, output: str, grid: Geometry, reference: Volume | None) -> Volume | None:
        """What stands beside an output as the naive result: the case's own image, interpolated, where it has one.

        Args:
            output: One of `outputs`.
            grid: Of the output.
            reference: Of the output, on its own grid, where it is known.
        """
        sequence = sequence_of(output)
        if sequence not in self.sequences or sequence not in case:
            return None
        return self.plain_image(case[sequence].to_nearest_lps(), grid)

    def start_image(self, case: Case) -> Volume:
        """The image of a case that a network adds to."""
        return case[self.reference]

    def measured_region(self, truth: Volume) -> np.ndarray:
        """Where a true image is compared (D, H, W), bool, on its own grid."""
        return np.ones(truth.array.shape, bool)

    def decode(self, output: NetworkOutput) -> Result:
        """The image that the network starts from plus what it adds, in that image's own intensities."""
        start, name, prepared = self.start_image(output.case), self.outputs[0], output.prepared
        scale = prepared.scales[output.spec.preprocess.sequences.index(self.reference)]
        added = to_reference(output.logits[0] * scale.std, prepared, name, target=start.geometry)
        images = {name: Volume(np.maximum(start.array + added.array, 0), start.geometry, name)}
        provenance = output.provenance.with_notes(self.decoded_note)
        return Result(output.case.id, self.id, provenance, images=images)

    def score(self, result: Result, labeled: LabeledCase) -> CaseScore:
        """Errors of each image on its own grid, where the truth is compared; those of the first bear plain names."""
        found: dict[str, float] = {}
        for name, truth in labeled.images.items():
            image = result.images[name]
            suffix = "" if name == next(iter(labeled.images)) else f" {name}"
            placed, seen = (
                truth.resample_to(image.geometry),
                _on_grid(np.ones(truth.array.shape), truth, image.geometry),
            )
            span = data_range(placed.array, seen) if seen.any() else 0.0
            regions = {"": self.region_on(truth, image.geometry)}
            if labeled.gland is not None:
                inside = labeled.gland.resample_to(image.geometry, "nearest").array > 0
                regions[" gland"] = regions[""] & inside
            for region, mask in regions.items():
                found |= {f"{kind}{suffix}{region}": v for kind, v in image_errors(image, placed, mask, span).items()}
        return CaseScore(labeled.case.id, finite(found))

    def region_on(self, truth: Volume, grid: Geometry) -> np.ndarray:
        """`measured_region` on another grid: voxels whose interpolated truth is of measured ones alone."""
        share = truth.with_array(self.measured_region(truth).astype(np.float32)).resample_to(grid).array
        return np.asarray(share > 1 - _ROUNDING)

    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """The image that a network would start from, as it is."""

        def baseline(labeled: LabeledCase) -> Result:
            image = self.start_image(labeled.case)
            images = {self.outputs[0]: image.with_array(np.maximum(image.array, 0))}
            return self.baseline_result(labeled, images=images)

        return baseline

    def training(self) -> TaskTraining:
        from .training import ResidualTraining

        return ResidualTraining(self)


def _on_grid(mask: np.ndarray, image: Volume, grid: Geometry) -> np.ndarray:
    """A mask of an image's voxels on a grid; False outside of the image."""
    return image.with_array(mask.astype(np.uint8)).resample_to(grid, "nearest").array > 0


def sequence_of(output: str) -> MRSequence:
    """Sequence that an output image is of, by the first word of its name."""
    return MRSequence(output.split("-")[0])


def unit_of(output: str) -> str:
    """Unit of an output's voxels and differences; signal intensities are arbitrary."""
    return "1e-6 mm²/s" if sequence_of(output) is MRSequence.ADC else ARBITRARY_UNIT


def image_errors(image: Volume, truth: Volume, mask: np.ndarray, span: float) -> dict[str, float]:
    """MAE, PSNR and SSIM of an image where a mask is, as every report, training and study gives them.

    The span is the data range of the truth in its whole field of view, whatever the mask is. There are none in an empty
    mask, no PSNR and SSIM of a constant truth, and no SSIM of slices that are smaller than its window.
    """
    if not mask.any():
        return {}
    found = {"mae": mae(image.array, truth.array, mask)}
    if span > 0:
        found["psnr_db"] = psnr_db(image.array, truth.array, span, mask)
    if span > 0 and min(image.array.shape[1:]) > 2 * SSIM_RADIUS_PX:
        found["ssim"] = ssim(image.array, truth.array, span, mask)
    return found
