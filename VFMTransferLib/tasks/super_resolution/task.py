"""T2w with twice its in-plane matrix: detail is added to what zero-filled k-space interpolation gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.fft import dctn, idctn

from ...core.case import Case
from ...core.errors import DatasetError
from ...core.notes import Note
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry, IntTriple, Triple, Volume
from ...phantom import truncate_k_space
from ..base import LabeledCase, cut_volume, slice_axis, square_around
from ..image_to_image import ImageTask

if TYPE_CHECKING:
    from ...phantom import Phantom
    from .training import SuperResolutionTraining

SUPER_RESOLVED = "t2w-super-resolved"
_HALF = 0.5
# Fine voxels at each edge that do not count. A spectrum that is cut without padding makes one edge ring into the other:
# on real exams the error is raised within 8 voxels of the edge.
MARGIN_VOXELS = 10
_PADDED_VOXELS = 32  # beyond each edge before the spectrum is cut; a scanner measures more than it shows
# Of the coarse acquisition, as scanners do it: lines measured of all along the phase axis, and the filter of the edge
# of k-space, which falls as half a cosine.
_PARTIAL_FOURIER = (1.0, 1.0, 7 / 8, 6 / 8)
_FILTERED, _FILTER_START, _FILTER_END = 0.5, 0.6, (0.3, 0.9)


class SuperResolution(ImageTask):
    """Truth: the T2w itself, but for its margin; the network sees it with half its matrix, as a scanner would have
    acquired it.
    """

    id = "super-resolution"
    title = "Super-resolution"
    short_title = "super-resolution"
    network_title = "super-resolution of T2w"
    intended_use = "Research on restoration: T2w shown with twice the matrix beside the interpolated one."
    inappropriate_settings = (
        "Judgment of lesions, capsule or vessels by detail that only the restored image shows.",
        "T2w that was interpolated by the scanner already, or made coarse otherwise than by fewer lines of k-space.",
    )
    stop_using_when = (
        "Detail appears that the interpolated image does not suggest.",
        "On own scans, halved and restored, it does not exceed zero-filled interpolation in the interior.",
    )
    sequences = (MRSequence.T2W,)
    outputs = (SUPER_RESOLVED,)
    baseline = "zero-filled"
    naive_title = "Zero-filled"
    decoded_note = Note("decoding", "The network adds detail to the T2w interpolated by zero-filled k-space.")
    unmeasured = "is its margin, where k-space that was cut wraps round,"
    works_within_slices = True
    grid_words = "zero-filled to twice the in-plane matrix"

    def network_grid(self, seen: Geometry, spacing_mm: Triple) -> Geometry:
        """The T2w's own matrix doubled in plane, whatever its spacing is."""
        doubled = doubled_in_plane(seen)
        return doubled.with_spacing((*doubled.spacing_mm[:2], spacing_mm[2]))

    def place(self, volume: Volume, grid: Geometry) -> Volume:
        """By zero-filled k-space within the slices, then linearly from slice to slice."""
        return zero_filled(volume.to_nearest_lps()).resample_to(grid)

    def phantom_options(self) -> dict[str, Any]:
        return {**super().phantom_options(), "full_resolution": True}

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        if phantom.t2w_full_resolution is None:
            raise DatasetError("A phantom for super-resolution must be made with full_resolution=True.")
        # The pair is made as a scan's is, so that both are one task.
        labeled = self.labeled(phantom.case, gland=phantom.gland)
        return self._halved(labeled, phantom.t2w_full_resolution, phantom.seed)

    def from_scan(self, case: Case, *, seed: int = 0, gland: Volume | None = None) -> LabeledCase:
        return self._halved(self.labeled(case, gland=gland, is_phantom=False), case[MRSequence.T2W], seed)

    def _halved(self, labeled: LabeledCase, t2w: Volume, seed: int) -> LabeledCase:
        coarse, fine = halved_in_plane(t2w, draw_acquisition(np.random.default_rng(seed)))
        seen = replace(labeled.case, volumes={MRSequence.T2W: coarse})
        return replace(labeled, case=seen, images={SUPER_RESOLVED: fine})

    def measured_region(self, truth: Volume) -> np.ndarray:
        """All but the margin in plane, of at most a quarter of the matrix each."""
        region = np.ones(truth.array.shape, bool)
        for axis in {0, 1, 2} - {2 - slice_axis(truth.geometry)}:
            margin = min(MARGIN_VOXELS, region.shape[axis] // 4)
            lines = np.moveaxis(region, axis, 0)
            lines[:margin] = lines[len(lines) - margin :] = False
        return region

    def cut_image(self, image: Volume, seen: Geometry, center_mm: np.ndarray, width_mm: float) -> Volume:
        """Two fine voxels for each coarse one in plane, whatever the rounding of the square."""
        factors = _in_plane_factors(image.geometry)
        start, size = (np.multiply(part, factors) for part in square_around(seen, center_mm, width_mm))
        return cut_volume(image, tuple(start.tolist()), tuple(size.tolist()))

    def plain_image(self, image: Volume, grid: Geometry) -> Volume:
        if grid.equals(doubled_in_plane(image.geometry)):
            return zero_filled(image)
        return super().plain_image(image, grid)

    def start_image(self, case: Case) -> Volume:
        return zero_filled(case[MRSequence.T2W])

    def training(self) -> SuperResolutionTraining:
        from .training import SuperResolutionTraining

        return SuperResolutionTraining(self)


def _in_plane_factors(geometry: Geometry) -> IntTriple:
    x, y, z = (1 if axis == slice_axis(geometry) else 2 for axis in range(3))
    return x, y, z


def doubled_in_plane(geometry: Geometry) -> Geometry:
    """The same field of view and slices with twice the voxels in plane, each half as wide.

    Each old voxel is cut in four, so that its center lies between theirs, whichever way the axes run.
    """
    return geometry.refined(_in_plane_factors(geometry))


def zero_filled(volume: Volume) -> Volume:
    """The volume on `doubled_in_plane`, its spectrum filled up with zeros: sinc interpolation, as scanners do.

    Where the acquisition truncated k-space, this is the image that holds what was measured, and nothing else. The
    spectrum is that of the image mirrored at its edges (cosine transform), since the field of view of a prostate scan
    cuts through the body: repeated as it is, its left edge would ring into the right one.
    """
    grid = doubled_in_plane(volume.geometry)
    axes = [2 - axis for axis in range(3) if axis != slice_axis(volume.geometry)]
    # Cosine transforms sample half a voxel off the edge, which is where both grids lie.
    filled = np.zeros(grid.shape, np.float32)
    spectrum = dctn(volume.array.astype(np.float32, copy=False), axes=axes, norm="ortho")
    filled[tuple(slice(n) for n in volume.geometry.shape)] = spectrum
    array = 2 * idctn(filled, axes=axes, norm="ortho")
    return Volume(np.ascontiguousarray(array, np.float32), grid, volume.name)


@dataclass(frozen=True)
class Acquisition:
    """How the middle of k-space is acquired: all of it without a filter by default.

    Attributes:
        partial_fourier: Share of the lines that is measured along the phase axis; the others are filled with zeros.
        phase_axis: Array axis of a slice, 0 rows or 1 columns.
        edge: What the filter leaves of the highest frequency along each axis.
    """

    partial_fourier: float = 1.0
    phase_axis: int = 0
    edge: float = 1.0

    def applied(self, slices: np.ndarray) -> np.ndarray:
        """The magnitude of slices (D, H, W), complex, acquired so; without negative values."""
        if self.partial_fourier == 1 and self.edge == 1:
            return np.maximum(slices.real, 0)
        spectrum = np.fft.fft2(slices)
        for axis in (0, 1):
            frequency = np.fft.fftfreq(slices.shape[1 + axis]) * 2  # of the highest
            share = np.clip((np.abs(frequency) - _FILTER_START) / (1 - _FILTER_START), 0, 1)
            weight = self.edge + (1 - self.edge) * (1 + np.cos(np.pi * share)) / 2
            if axis == self.phase_axis:
                weight = weight * (frequency >= 1 - 2 * self.partial_fourier)
            spectrum *= np.expand_dims(weight, 1 - axis)
        return np.abs(np.fft.ifft2(spectrum))


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """One at random, as scanners are set."""
    partial, axis = float(rng.choice(_PARTIAL_FOURIER)), int(rng.integers(2))
    return Acquisition(partial, axis, float(rng.uniform(*_FILTER_END)) if rng.random() < _FILTERED else 1.0)


def halved_in_plane(t2w: Volume, acquisition: Acquisition = Acquisition()) -> tuple[Volume, Volume]:
    """The T2w with half its matrix by truncated k-space, and the T2w that it should become again.

    Axes are nearest to L, P, S. Both cover the same field of view, without an odd row or column: `doubled_in_plane` of
    the coarse grid is the fine grid. The T2w is mirrored beyond its edges before its spectrum is cut, so that no edge
    rings into the opposite one.
    """
    turned = t2w.to_nearest_lps()
    nx, ny, nz = (n - n % 2 if axis < 2 else n for axis, n in enumerate(turned.geometry.size))
    grid = turned.geometry.crop((0, 0, 0), (nx, ny, nz))
    fine = Volume(np.ascontiguousarray(turned.array[:, :ny, :nx], np.float32), grid, "t2w")
    pads = [min(_PADDED_VOXELS, n // 2 * 2) for n in (ny, nx)]
    padded = np.pad(fine.array, ((0, 0), *((pad, pad) for pad in pads)), "symmetric")
    whole = acquisition.applied(truncate_k_space(padded, _HALF, crop=True))
    top, left = (pad // 2 for pad in pads)
    coarse = np.ascontiguousarray(whole[:, top : top + ny // 2, left : left + nx // 2], np.float32)
    sx, sy, sz = grid.spacing_mm
    origin = tuple(grid.to_world((0.5, 0.5, 0.0)).tolist())
    halved = Geometry((nx // 2, ny // 2, nz), (2 * sx, 2 * sy, sz), origin, grid.direction)
    assert doubled_in_plane(halved).equals(grid)
    return Volume(coarse, halved, "t2w"), fine


TASK = SuperResolution()
