"""The prostate's frame and size: midline, base and apex, three diameters, ellipsoid volume, PSA density.

All is measured along the axes of the scan that run nearest to the patient's, as a reader measures on axial slices and
on a sagittal plane that was reformatted from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from ..core.errors import ImageError
from ..core.measurements import GlandMeasurements, checked_psa
from ..core.notes import Note
from ..core.volume import ML_PER_MM3, Geometry, Volume, bounding_box
from ..metrics.detection import CONNECTIVITY

GLAND_RANGE_ML = (5.0, 500.0)
"""What a prostate can measure, far wider than is seen; a mask outside of it marks something else."""
MAX_LEFT_OUT = 0.1
"""Share of a mask that is left out where it lies apart from the largest part. Of more, none of the parts is the gland:
of a mask that was drawn on every other slice, each slice is one."""

NO_MIDSAGITTAL_NOTE = Note(
    "no-midsagittal",
    "AP and longitudinal diameter, and the ellipsoid, were not measured: the prostate's mask holds nothing in the "
    "mid-sagittal plane, as one of two lobes. Check the mask.",
)


@dataclass(frozen=True)
class GlandFrame:
    """A prostate in its own terms: where its midline, base and apex are.

    The midline is the straight line, from slice to slice, that fits the middles of mass of the slices best: our
    definition, for PI-RADS draws it through the urethra, which no mask shows.

    Attributes:
        mask: The prostate (D, H, W), bool, not empty.
        geometry: Its grid; index axes run nearest to Left, Posterior, Superior.
        parts_note: On a mask of several parts, what of it is the prostate; None where it has one.
    """

    mask: np.ndarray
    geometry: Geometry
    parts_note: Note | None = None

    @classmethod
    def from_mask(cls, mask: Volume) -> GlandFrame:
        """The frame of a mask on any grid: of its largest connected part, if what lies apart from it is small.

        A stray voxel would otherwise count as base, apex, front or back.

        Raises:
            ImageError: The mask is empty.
        """
        mask = mask.to_nearest_lps()
        marked = mask.array > 0
        if not marked.any():
            raise ImageError("The mask must mark the prostate, but is empty. Select another mask.")
        organ, _ = one_organ(marked, mask.geometry.voxel_volume_ml)
        apart, whole = np.count_nonzero(marked & ~organ), np.count_nonzero(marked)
        if apart > MAX_LEFT_OUT * whole:
            note = Note(
                "gland-parts",
                f"The prostate's mask is in parts, of which the largest holds {1 - apart / whole:.0%}: diameters, "
                "ellipsoid and sectors are of all of them; check the mask.",
            )
            return cls(marked, mask.geometry, note)
        note = Note(
            "gland-parts",
            "Diameters, ellipsoid and sectors are of the largest connected part of the prostate's mask; "
            f"{apart * mask.geometry.voxel_volume_ml:.2g} ml apart from it were left out.",
        )
        return cls(organ, mask.geometry, note if apart else None)

    @property
    def notes(self) -> tuple[Note, ...]:
        """What must be known of what is measured in this frame."""
        return tuple(filter(None, (self.parts_note, None if self.midsagittal.any() else NO_MIDSAGITTAL_NOTE)))

    @cached_property
    def slices(self) -> np.ndarray:
        """Indices of the slices that hold gland, from apex to base."""
        return np.flatnonzero(self.mask.any(axis=(1, 2)))

    @cached_property
    def midline(self) -> np.ndarray:
        """Index x of the midline in each slice of the grid (D,), continuous."""
        area = self.mask.sum(axis=(1, 2))[self.slices]
        middles = self.mask.sum(axis=1)[self.slices] @ np.arange(self.mask.shape[2]) / area
        fit = np.polynomial.Polynomial.fit(self.slices, middles, deg=min(1, len(area) - 1), w=np.sqrt(area))
        return np.asarray(fit(np.arange(len(self.mask))), float)

    @cached_property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last index x of the gland in each slice (D,); outside of it those of the nearest slice."""
        return self._edges(self.mask.max(axis=1))

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """First (most anterior) and last index y of the gland in each slice (D,); see `columns`."""
        return self._edges(self.mask.max(axis=2))

    def _edges(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, last = lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
        nearest = self.slices[np.abs(np.arange(len(lines))[:, None] - self.slices).argmin(axis=1)]
        return first[nearest], last[nearest]

    def height(self, z: np.ndarray) -> np.ndarray:
        """How far slices lie from the apex (0) to the base (1), by index z; the gland's slices reach to their edges."""
        apex, base = self.slices[0] - 0.5, self.slices[-1] + 0.5
        return (z - apex) / (base - apex)

    def lateral(self, z: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Distance from the midline as a share of that side's width: to -1 on the right, to 1 on the left."""
        first, last = self.columns
        right, left = self.midline - (first - 0.5), (last + 0.5) - self.midline
        off = x - self.midline[z]
        return off / np.maximum(np.where(off < 0, right[z], left[z]), 0.5)

    def depth(self, z: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How far voxels lie from the front (0) to the back (1) of their slice's gland."""
        first, last = self.rows
        return (y - first[z] + 0.5) / (last - first + 1)[z]

    @property
    def transverse_mm(self) -> float:
        """Largest extent from left to right of an axial slice."""
        return _longest(self.mask.max(axis=1)) * self.geometry.spacing_mm[0]

    @property
    def midsagittal(self) -> np.ndarray:
        """The mid-sagittal plane (D, H): in each slice the column that is nearest to the midline."""
        columns = np.clip(np.rint(self.midline).astype(int), 0, self.mask.shape[2] - 1)
        return self.mask[np.arange(len(self.mask)), :, columns]

    @property
    def anteroposterior_mm(self) -> float | None:
        """Largest extent from front to back of the mid-sagittal plane, along the axial slices; None of an empty one."""
        return _longest(self.midsagittal) * self.geometry.spacing_mm[1] or None

    @property
    def longitudinal_mm(self) -> float | None:
        """From the lowest to the highest slice that the mid-sagittal plane holds gland in; None where it holds none.

        With the chord of `anteroposterior_mm` it gives the area of an ellipse, however much that leans: the product
        of a chord through the middle and the width across it does not depend on their direction.
        """
        return _longest(self.midsagittal.max(axis=1)[None]) * self.geometry.spacing_mm[2] or None


def one_organ(mask: np.ndarray, voxel_volume_ml: float) -> tuple[np.ndarray, tuple[Note, ...]]:
    """The largest connected part of a mask (26 neighbors) without holes, and a note on what was left out."""
    if not mask.any():
        return mask, (Note("no-gland", "No voxel was marked as prostate."),)
    box = bounding_box(mask)
    parts, count = ndimage.label(mask[box], structure=CONNECTIVITY)
    sizes = np.bincount(parts.ravel())[1:]
    organ = np.zeros_like(mask)
    organ[box] = ndimage.binary_fill_holes(parts == sizes.argmax() + 1)
    left_out_ml = (sizes.sum() - sizes.max()) * voxel_volume_ml
    note = Note(
        "gland-parts",
        f"The largest connected part is the prostate; {count - 1} smaller ({left_out_ml:.2f} ml) were left out.",
    )
    return organ, (note,) if count > 1 else ()


def _longest(lines: np.ndarray) -> int:
    """Largest number of voxels from the first to the last that is marked in one of the lines (N, M)."""
    marked = lines[lines.any(axis=1)]
    if not len(marked):
        return 0
    return int((marked.shape[1] - marked[:, ::-1].argmax(axis=1) - marked.argmax(axis=1)).max())


def measure_gland(mask: Volume, source: str, psa_ng_ml: float | None = None) -> GlandMeasurements:
    """Diameters and volumes of a prostate, and its PSA density where there is a PSA.

    Args:
        mask: The prostate on any grid; the T2w's, so that axes and slices are those that a reader measures on. What of
            it is measured is in `GlandFrame.notes`.
        source: Whose mask it is, as a sentence has it.
        psa_ng_ml: Above 0.

    Raises:
        ImageError: The mask is empty, or its size is no prostate's.
        PsaError: The PSA cannot be one.
    """
    frame = GlandFrame.from_mask(mask)
    segmented_ml = mask.volume_ml
    low, high = GLAND_RANGE_ML
    if not low <= segmented_ml <= high:
        raise ImageError(
            f"The mask must be of a prostate, of {low:.0f} to {high:.0f} ml, but measures {segmented_ml:.1f} ml. "
            "Select another mask."
        )
    diameters = (frame.transverse_mm, frame.anteroposterior_mm, frame.longitudinal_mm)
    known = [mm for mm in diameters if mm is not None]
    ellipsoid_ml = float(np.prod(known)) * np.pi / 6 * ML_PER_MM3 if len(known) == len(diameters) else None
    psa = None if psa_ng_ml is None else checked_psa(psa_ng_ml)
    densities = [
        None if psa is None or volume_ml is None else psa / volume_ml for volume_ml in (ellipsoid_ml, segmented_ml)
    ]
    return GlandMeasurements(*diameters, ellipsoid_ml, segmented_ml, source, psa, *densities)
