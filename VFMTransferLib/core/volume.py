"""One image in space: voxels (D, H, W) on a grid (x, y, z) in LPS millimeters.

The only file that turns one axis order into the other. Resampling and orientation are SimpleITK's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import SimpleITK as sitk

from .errors import GeometryError

ML_PER_MM3 = 1e-3
_ALIGNED_TOLERANCE = 1e-6  # of a voxel
GRID_TOLERANCE_MM = 1e-3
DIRECTION_TOLERANCE = 1e-4
_INTERPOLATORS = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear, "bspline": sitk.sitkBSpline}

Triple = tuple[float, float, float]
IntTriple = tuple[int, int, int]


_THICK = 1.5  # an axis whose step is so many times the others' is that of the slices, however they are stored


@dataclass(frozen=True)
class Geometry:
    """A grid in space, in SimpleITK's terms.

    Attributes:
        size: Voxels along (x, y, z).
        spacing_mm: Millimeters between voxel centers along (x, y, z).
        origin_mm: Center of the first voxel, LPS.
        direction: 3x3 direction cosines, row by row; column k is the direction of index axis k in LPS.
    """

    size: IntTriple
    spacing_mm: Triple = (1.0, 1.0, 1.0)
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def shape(self) -> IntTriple:
        """Array shape (D, H, W)."""
        x, y, z = self.size
        return (z, y, x)

    @property
    def voxel_volume_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) * ML_PER_MM3

    @property
    def extent_mm(self) -> Triple:
        """Edge lengths of the field of view along (x, y, z)."""
        x, y, z = (n * s for n, s in zip(self.size, self.spacing_mm, strict=True))
        return (x, y, z)

    @property
    def affine(self) -> np.ndarray:
        """4x4 matrix from index (x, y, z, 1) to LPS millimeters."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm)
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def center_mm(self) -> np.ndarray:
        """Middle of the field of view, LPS."""
        return self.to_world((np.asarray(self.size) - 1) / 2)

    @property
    def obliqueness_deg(self) -> float:
        """Largest angle between an index axis and its nearest anatomical axis."""
        nearest = np.abs(np.reshape(self.direction, (3, 3))).max(axis=0)
        return float(np.degrees(np.arccos(np.clip(nearest.min(), -1.0, 1.0))))

    @property
    def slice_axis(self) -> int:
        """The index axis across which slices lie: that of a clearly larger step, else the one nearest to Superior."""
        widest = int(np.argmax(self.spacing_mm))
        if self.spacing_mm[widest] >= _THICK * sorted(self.spacing_mm)[1]:
            return widest
        return next(axis for axis, letter in enumerate(self.orientation) if letter in "IS")

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each index axis, for example `LPS`."""
        return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(self.direction)

    def to_world(self, index: np.ndarray | tuple[float, ...]) -> np.ndarray:
        """LPS millimeters of continuous indices (..., 3) in the order (x, y, z)."""
        return np.asarray(index) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, point_mm: np.ndarray | tuple[float, ...]) -> np.ndarray:
        """Continuous indices (..., 3) in the order (x, y, z) of LPS millimeters."""
        return (np.asarray(point_mm) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def nearest_voxel(self, point_mm: np.ndarray | tuple[float, ...]) -> IntTriple:
        """The voxel (x, y, z) that is nearest to a point (LPS), which may lie outside."""
        x, y, z = np.clip(np.rint(self.to_index(point_mm)), 0, np.asarray(self.size) - 1).astype(int).tolist()
        return (x, y, z)

    def equals(self, other: Geometry) -> bool:
        """Whether both are one grid, within what file formats round away."""
        return (
            self.size == other.size
            and np.allclose(self.affine[:3, 3], other.affine[:3, 3], atol=GRID_TOLERANCE_MM)
            and np.allclose(self.spacing_mm, other.spacing_mm, atol=GRID_TOLERANCE_MM)
            and np.allclose(self.direction, other.direction, atol=DIRECTION_TOLERANCE)
        )

    def with_spacing(self, spacing_mm: Triple) -> Geometry:
        """The same field of view and axes at another spacing; size max(round(n·old/new), 1).

        The origin (center of the first voxel) stays, as in the preparation that the published networks were trained on.
        """
        size = tuple(
            max(round(n * old / new), 1) for n, old, new in zip(self.size, self.spacing_mm, spacing_mm, strict=True)
        )
        return replace(self, size=size, spacing_mm=tuple(map(float, spacing_mm)))  # type: ignore[arg-type]

    def crop(self, start: IntTriple, size: IntTriple) -> Geometry:
        """The grid of `size` voxels from index `start` (x, y, z); may reach outside this one."""
        origin = tuple(float(v) for v in self.to_world(start))
        return replace(self, size=size, origin_mm=origin)  # type: ignore[arg-type]

    def to_nearest_lps(self) -> Geometry:
        """The same grid with axes as of `Volume.to_nearest_lps`."""
        return Volume(np.zeros(self.shape, np.uint8), self).to_nearest_lps().geometry

    def refined(self, factors: IntTriple) -> Geometry:
        """The same field of view with each voxel cut into `factors` along (x, y, z)."""
        size = tuple(n * f for n, f in zip(self.size, factors, strict=True))
        spacing = tuple(s / f for s, f in zip(self.spacing_mm, factors, strict=True))
        origin = self.to_world(tuple(-0.5 + 0.5 / f for f in factors))
        return replace(self, size=size, spacing_mm=spacing, origin_mm=tuple(origin.tolist()))  # type: ignore[arg-type]

    @classmethod
    def centered(cls, center_mm: np.ndarray, size: IntTriple, spacing_mm: Triple, direction: np.ndarray) -> Geometry:
        """The grid of a direction (3, 3) whose middle lies at a point."""
        origin = center_mm - direction @ ((np.array(size) - 1) / 2 * spacing_mm)
        return cls(size, spacing_mm, tuple(origin.tolist()), tuple(direction.ravel().tolist()))

    def image(self, dtype: int = sitk.sitkUInt8) -> sitk.Image:
        """An empty SimpleITK image on this grid."""
        image = sitk.Image(list(self.size), dtype)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction)
        return image

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        spacing = "x".join(f"{s:.3g}" for s in self.spacing_mm)
        return f"{size} at {spacing} mm, {self.orientation}, oblique {self.obliqueness_deg:.0f}°"


@dataclass(frozen=True)
class Volume:
    """Voxels (D, H, W), treated as read-only, and where they lie.

    `name` is for messages; never a path or a patient's name.
    """

    array: np.ndarray
    geometry: Geometry
    name: str = field(default="image", compare=False)

    def __post_init__(self) -> None:
        if tuple(self.array.shape) != self.geometry.shape:
            raise ValueError(f"Array must be {self.geometry.shape} (D, H, W) on its grid, got {self.array.shape}.")

    @classmethod
    def from_sitk(cls, image: sitk.Image, name: str = "image") -> Volume:
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise ValueError("A volume must be three-dimensional with one value a voxel.")
        geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        return cls(sitk.GetArrayFromImage(image), geometry, name)

    def to_sitk(self) -> sitk.Image:
        array = self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(self.geometry.image())
        return image

    def with_array(self, array: np.ndarray) -> Volume:
        """Other voxels on the same grid."""
        return replace(self, array=array)

    @property
    def volume_ml(self) -> float:
        """Volume of the non-zero voxels."""
        return int(np.count_nonzero(self.array)) * self.geometry.voxel_volume_ml

    def to_nearest_lps(self) -> Volume:
        """Axes permuted and flipped so that x, y, z run nearest to L, P, S; an oblique grid stays oblique."""
        if self.geometry.orientation == "LPS":
            return self
        return Volume.from_sitk(sitk.DICOMOrient(self.to_sitk(), "LPS"), self.name)

    def cropped_to(self, box: tuple[slice, slice, slice]) -> Volume:
        """The voxels of a box (D, H, W), whose slices have a start and an end inside the volume."""
        z, y, x = box
        size = (x.stop - x.start, y.stop - y.start, z.stop - z.start)
        return Volume(self.array[box], self.geometry.crop((x.start, y.start, z.start), size), self.name)

    def resample_to(self, geometry: Geometry, interpolation: str = "linear", fill: float = 0.0) -> Volume:
        """The voxels at the positions of another grid, by `nearest`, `linear` or `bspline`; `fill` outside.

        Interpolated voxels are float32, of whatever type this volume's are.
        """
        if geometry.equals(self.geometry):
            return self
        box = self._box_of(geometry)
        if box is not None:  # no voxel of such a grid lies between voxels
            part = self.array[box]
            part = part if interpolation == "nearest" else part.astype(np.float32, copy=False)
            return Volume(part, geometry, self.name)
        image = self.to_sitk()
        if interpolation != "nearest" and image.GetPixelID() != sitk.sitkFloat32:  # a cast copies in any case
            image = sitk.Cast(image, sitk.sitkFloat32)
        if min(self.geometry.size) == 1:
            image = _thickened(image)
        out = sitk.Resample(
            image, geometry.image(), sitk.Transform(), _INTERPOLATORS[interpolation], fill, image.GetPixelID()
        )
        return Volume(sitk.GetArrayFromImage(out), geometry, self.name)

    def _box_of(self, part: Geometry) -> tuple[slice, ...] | None:
        """Where a grid lies in this one whose voxels are some of this one's; None of any other grid."""
        own = self.geometry
        if part.spacing_mm != own.spacing_mm or part.direction != own.direction:
            return None
        start = own.to_index(part.origin_mm)
        first = np.rint(start).astype(int)
        if np.abs(start - first).max() > _ALIGNED_TOLERANCE:
            return None
        if (first < 0).any() or (first + part.size > own.size).any():
            return None
        return tuple(slice(a, a + n) for a, n in zip(first[::-1].tolist(), part.shape, strict=True))

    def require_same_grid(self, other: Volume) -> None:
        """Raise GeometryError unless `other` lies on this volume's grid."""
        if not self.geometry.equals(other.geometry):
            raise GeometryError(
                f"{other.name} must lie on the grid of {self.name} ({self.geometry}), but lies on {other.geometry}. "
                "Resample it there first."
            )


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice, slice]:
    """The smallest box (D, H, W) that holds all marked voxels, wider by a margin inside the array; ValueError of none.

    Work on it, not on the whole array, is the same where nothing outside counts.
    """
    slices = []
    for axis, size in enumerate(mask.shape):
        found = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if len(found) == 0:
            raise ValueError("A mask must mark at least one voxel to have a bounding box, but marks none.")
        slices.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, size)))
    z, y, x = slices
    return (z, y, x)


def marked_voxels(mask: np.ndarray) -> np.ndarray:
    """Indices (N, 3), by z, y, x, of the marked voxels, as `np.argwhere`, which looks at each voxel three times."""
    if not mask.any():
        return np.zeros((0, 3), int)
    box = bounding_box(mask)
    return np.argwhere(mask[box]) + [part.start for part in box]


def share_within(mask: Volume, grid: Geometry) -> float:
    """Share of a mask's marked voxels whose centers lie within a grid; 1 of none."""
    voxels = marked_voxels(mask.array != 0)
    index = grid.to_index(mask.geometry.to_world(voxels[:, ::-1]))
    inside = ((index >= -0.5) & (index <= np.array(grid.size) - 0.5)).all(axis=1)
    return float(inside.mean()) if len(voxels) else 1.0


def _thickened(image: sitk.Image) -> sitk.Image:
    """An axis of one voxel doubled, since linear interpolation needs two samples along each axis."""
    for axis, size in enumerate(image.GetSize()):
        if size == 1:
            shift = np.reshape(image.GetDirection(), (3, 3))[:, axis] * image.GetSpacing()[axis] / 2
            origin = np.asarray(image.GetOrigin()) - shift / 2
            factors = [1 + (other == axis) for other in range(3)]
            spacing = [s / f for s, f in zip(image.GetSpacing(), factors, strict=True)]
            image = sitk.Expand(image, factors, sitk.sitkNearestNeighbor)
            image.SetSpacing(spacing)
            image.SetOrigin(origin.tolist())
    return image


@contextmanager
def itk_warnings_silenced() -> Iterator[None]:
    """Keep ITK's own warnings, which name files, out of the console."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
