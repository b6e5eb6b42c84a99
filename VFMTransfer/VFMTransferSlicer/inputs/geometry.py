"""How a volume lies in space, what a network makes of it, and what of it needs a look. Needs MRML, but no Qt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import slicer

from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.tasks import task_of
from VFMTransferLib.worker.messages import Grid

from .exporting import gridInWorld
from .series import LAST_AXIS, planeOf, sliceAxis

TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "high-b DWI", Sequence.ADC: "ADC"}
_FEWEST_SLICES = 10
_SMALL_OVERLAP = 0.5
_SAMPLES = 12  # points along each axis by which the overlap of two fields of view is measured
_ACQUISITION_TRANSFORM = "acquisition transform"  # ends the name that Slicer gives it, where slices are uneven
# As in the library's `io.plausibility`: limits for the median and for the 95th percentile, in 1e-6 mm²/s.
_ADC_MEDIAN, _ADC_TOP = (400.0, 2500.0), (1000.0, 6000.0)
_ADC_UNITS = {"1e-6 mm²/s": 1.0, "1e-3 mm²/s": 1e3, "mm²/s": 1e6}
_NATIVE_UNIT = "1e-6 mm²/s"


@dataclass(frozen=True)
class Described:
    """A volume in words.

    Attributes:
        line: Where its voxels lie, and on which grid networks see it.
        warnings: What needs a look, in sentences; a run is not kept from beginning.
    """

    line: str
    warnings: tuple[str, ...] = ()


def describeGeometry(
    node: slicer.vtkMRMLScalarVolumeNode,
    sequence: Sequence,
    spec: ModelSpec | None = None,
    about: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> Described:
    """Say how a volume lies, and what of it could be wrong.

    Args:
        node: The volume.
        sequence: What it was chosen as.
        spec: The network that will see it; None while there is none.
        about: The volume on whose field of view the network works, where that is another one.
    """
    if node.GetImageData() is None:
        return Described("", ("The volume is empty; load it again.",))
    try:
        grid = gridInWorld(node)
    except GeometryError:
        return Described(_sizeOf(node), (_bentBy(node.GetParentTransformNode()),))
    axis = sliceAxis(node)
    plane, degrees = planeOf(node), obliquenessDeg(grid, LAST_AXIS if axis is None else axis)
    parts = [_spacing(grid.spacing_mm), " × ".join(map(str, grid.size)), plane]
    if round(degrees):
        parts[-1] += f", oblique by {degrees:.0f}°"
    if node.GetParentTransformNode() is not None:
        parts.append(f"moved by '{node.GetParentTransformNode().GetName()}'")
    if spec is not None and sequence in spec.preprocess.sequences:
        parts.append(_resampling(grid, sequence, spec))
    return Described(" · ".join(parts), tuple(_warnings(node, sequence, grid, plane, about)))


def obliquenessDeg(grid: Grid, axis: int) -> float:
    """Angle between the normal of the slices and its nearest anatomical axis.

    Args:
        grid: Where the voxels lie.
        axis: The index axis along which slices follow each other.
    """
    normal = np.abs(np.reshape(grid.direction, (3, 3))[:, axis])
    return float(np.degrees(np.arccos(np.clip(normal.max(), 0.0, 1.0))))


def adcUnit(node: slicer.vtkMRMLScalarVolumeNode) -> str | None:
    """The unit in which a volume's values are those of an ADC map, or None if in no unit."""
    array = slicer.util.arrayFromVolume(node)
    _, height, width = array.shape
    center = array[:, height // 4 : height - height // 4, width // 4 : width - width // 4]  # no air, no coil
    positive = center[center > 0]
    if not positive.size:
        return None
    median, top = np.percentile(positive, [50, 95])
    for unit, factor in _ADC_UNITS.items():
        if _within(median * factor, _ADC_MEDIAN) and _within(top * factor, _ADC_TOP):
            return unit
    return None


def shareInside(inner: Grid, outer: Grid) -> float:
    """Fraction of a field of view that lies within another, by a coarse lattice of points."""
    steps = [(np.arange(_SAMPLES) + 0.5) / _SAMPLES * n - 0.5 for n in inner.size]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1) @ _axes(inner).T + inner.origin_mm
    index = (points - outer.origin_mm) @ np.linalg.inv(_axes(outer)).T
    return float(np.all((index >= -0.5) & (index <= np.asarray(outer.size) - 0.5), axis=-1).mean())


def _resampling(grid: Grid, sequence: Sequence, spec: ModelSpec) -> str:
    """On which grid a network sees the volume; see the library's `encoders.inputs.network_grid`."""
    reference = task_of(spec).reference
    if reference not in spec.preprocess.sequences:
        reference = next(own for own in spec.preprocess.sequences if own is not None)
    if sequence is not reference:
        return f"will be resampled by position to the {TITLES[reference]}'s field of view"
    if words := task_of(spec).grid_words:
        return f"will be {words}"
    wanted = spec.preprocess.spacing_mm
    isThere = np.allclose(sorted(grid.spacing_mm), sorted(wanted), atol=1e-3)
    return "will be used without resampling" if isThere else f"will be resampled to {_spacing(wanted)}"


def _warnings(
    node: slicer.vtkMRMLScalarVolumeNode,
    sequence: Sequence,
    grid: Grid,
    plane: str,
    about: slicer.vtkMRMLScalarVolumeNode | None,
) -> Iterator[str]:
    direction = np.reshape(grid.direction, (3, 3))
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        yield "Its axes are not at right angles; resample it first."
    if plane != "axial":
        yield f"It is {plane}, but networks need axial images."
    if sequence is Sequence.T2W and min(grid.size) < _FEWEST_SLICES:
        yield f"It has only {min(grid.size)} slices; the prostate may not be whole."
    if sequence is Sequence.ADC:
        yield from _adcWarnings(node)
    if about is not None and about is not node and about.GetImageData() is not None:
        yield from _overlapWarnings(grid, about)


def _adcWarnings(node: slicer.vtkMRMLScalarVolumeNode) -> Iterator[str]:
    unit = adcUnit(node)
    if unit is None:
        yield "Its values are not those of an ADC map in any unit; check the choice."
    elif unit != _NATIVE_UNIT:
        yield f"Its values are in {unit} by their range, and will be converted to {_NATIVE_UNIT}."


def _overlapWarnings(grid: Grid, about: slicer.vtkMRMLScalarVolumeNode) -> Iterator[str]:
    try:
        other = gridInWorld(about)
    except GeometryError:
        return  # its own line shows it
    share = max(shareInside(grid, other), shareInside(other, grid))
    if share < _SMALL_OVERLAP:
        yield f"It shares only {share:.0%} of its field of view with '{about.GetName()}'; are both of one case?"


def _bentBy(transform: slicer.vtkMRMLTransformNode) -> str:
    if transform.GetName().lower().endswith(_ACQUISITION_TRANSFORM):
        return "Its slices are not evenly spaced. Harden its acquisition transform (Transforms module) first."
    return f"Transform '{transform.GetName()}' is nonlinear. Harden the transform (Transforms module) first."


def _sizeOf(node: slicer.vtkMRMLScalarVolumeNode) -> str:
    return f"{_spacing(node.GetSpacing())} · " + " × ".join(map(str, node.GetImageData().GetDimensions()))


def _spacing(spacing: Iterable[float]) -> str:
    return " × ".join(f"{length:.3g}" for length in spacing) + " mm"


def _axes(grid: Grid) -> np.ndarray:
    """3x3, voxel steps to LPS millimeters."""
    return np.reshape(grid.direction, (3, 3)) * np.asarray(grid.spacing_mm)


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]
