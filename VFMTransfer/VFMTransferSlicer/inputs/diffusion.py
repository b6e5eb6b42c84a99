"""A diffusion series in the scene, frame by frame, and its fit as volumes. Needs MRML, but no Qt.

Series come as a sequence, a multi-volume, a diffusion-weighted or a vector volume; what states their b values differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.worker.messages import Exported, ImageFile

from ..results.nifti import readNifti
from ..results.nodes import volumeNode, windowFor
from ..results.scene import placeBeside
from .exporting import exportVolume, gridInWorld, maskOf, saveArray, writeExported
from .series import ATTRIBUTE, FIT_OF, namedB

SERIES_CLASSES = (
    "vtkMRMLSequenceNode",
    "vtkMRMLMultiVolumeNode",
    "vtkMRMLDiffusionWeightedVolumeNode",
    "vtkMRMLVectorVolumeNode",
)
FIT = "VFMTransferFit"
_FRAME_LABELS = "MultiVolume.FrameLabels"
_MAX_B = 5000.0
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class FoundSeries:
    """A series as far as it is known.

    Attributes:
        frames: How many images it holds.
        bValues: s/mm², one a frame; empty where they are not stated.
    """

    frames: int
    bValues: tuple[float, ...] = ()


def seriesIn(node: slicer.vtkMRMLNode) -> FoundSeries:
    """Count the frames of a series, and find their b values."""
    if node.IsA("vtkMRMLSequenceNode"):
        count = node.GetNumberOfDataNodes()
        stated = [_onlyB(node.GetNthIndexValue(index)) for index in range(count)]
    else:
        image = node.GetImageData()
        count = image.GetNumberOfScalarComponents() if image is not None else 0
        labels = node.GetAttribute(_FRAME_LABELS)
        if node.IsA("vtkMRMLDiffusionWeightedVolumeNode"):
            stated = [float(node.GetBValue(index)) for index in range(node.GetNumberOfGradients())]
        else:
            stated = [_onlyB(label) for label in labels.split(",")] if labels else []
    isStated = len(stated) == count and all(b is not None and 0 <= b <= _MAX_B for b in stated)
    # Frames that are numbered from 0 or 1 are times or places, not b values.
    isStated = isStated and len(set(stated)) > 1 and max(stated) >= 100
    return FoundSeries(count, tuple(stated) if isStated else ())


def _onlyB(text: str) -> float | None:
    found = namedB(text.lower())
    if len(found) == 1:
        return next(iter(found))
    numbers = _NUMBER.findall(text)
    return float(numbers[0]) if len(numbers) == 1 else None


def readBValues(text: str, frames: int) -> tuple[float, ...]:
    """b values as a user writes them, one a frame.

    Raises:
        ImageError: They are none, or too many or too few.
    """
    words = text.replace(";", " ").replace(",", " ").split()
    try:
        values = tuple(float(word) for word in words)
    except ValueError:
        values = ()
    if len(values) != frames or not all(0 <= b <= _MAX_B for b in values):
        raise ImageError(
            f"The b values must be one a frame, {frames} numbers of 0 to {_MAX_B:.0f} s/mm², e.g. '50 400 800', got "
            f"'{text.strip():.40}'. Enter them in the order of the frames."
        )
    if len(set(values)) != len(values):
        raise ImageError(
            "Each b value must be that of one frame, the trace of all directions, but one repeats. Select the trace "
            "images."
        )
    return values


def exportSeries(
    node: slicer.vtkMRMLNode,
    bValues: tuple[float, ...],
    gland: slicer.vtkMRMLNode | None,
    about: slicer.vtkMRMLScalarVolumeNode | None,
    folder: Path,
) -> Iterator[None]:
    """Write a series for `vfm-transfer diffusion --exported`, a frame a step.

    Args:
        node: The series.
        bValues: One a frame.
        gland: Where the prostate is, in which the fit is judged.
        about: The volume on whose grid segments of it are written; without one it is left out.
        folder: Gets the files.

    Raises:
        ImageError: A frame is no image.
        GeometryError: A parent transform bends it.
        OutputError: The folder cannot be written.
    """
    series: dict[str, ImageFile] = {}
    for index, b in enumerate(bValues):
        name = f"b{index}"
        if node.IsA("vtkMRMLSequenceNode"):
            frame = node.GetNthDataNode(index)
            if not frame.IsA("vtkMRMLScalarVolumeNode"):
                raise ImageError(f"Sequence '{node.GetName()}' holds something else than volumes. Choose another one.")
            series[f"{b:g}"] = exportVolume(frame, folder, name)
        else:
            array = slicer.util.arrayFromVolume(node)  # (D, H, W, frames)
            saveArray(array[..., index], folder / f"{name}.npy")
            series[f"{b:g}"] = ImageFile(f"{name}.npy", gridInWorld(node))
        yield
    mask = None if gland is None or about is None else maskOf(gland, about, folder, "gland")
    writeExported(Exported({}, gland=mask, series=series), folder)


_TITLES = {"adc": "ADC (fitted)", "residual": "ADC residual", "fit-problems": "ADC fit problems"}
_NO_INPUT = ("residual", "fit-problems")


def loadFit(
    document: dict[str, Any], folder: Path, series: slicer.vtkMRMLNode, loaded: dict[str, Any]
) -> Iterator[None]:
    """Load what the fit wrote as volumes of the series' study, one a step; their names state what was computed.

    Args:
        document: The command's answer.
        folder: Holds the files.
        series: What was fitted; in a scene.
        loaded: Gets the nodes: `adc`, `residual`, `fit-problems`, and as `b1500-computed`.
    """
    for file in document["files"]:
        kind = file.removesuffix(".nii.gz")
        image = readNifti(folder / file)
        title = _TITLES.get(kind, kind.replace("-computed", " (computed)"))
        name = f"{series.GetName()} {title}"
        node = volumeNode(image.frames[0], image.ijkToRas, name, windowFor(image.frames[0]), series.GetScene())
        # What begins so is no input of a network; a fitted ADC and a computed high-b image are.
        node.SetAttribute(f"{ATTRIBUTE}Fit" if kind in _NO_INPUT else FIT, kind)
        node.SetNodeReferenceID(FIT_OF, series.GetID())
        placeBeside(node, series)
        loaded[kind] = node
        yield
