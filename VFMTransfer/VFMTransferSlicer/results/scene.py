"""What a network wrote, as nodes in the scene of its inputs. Needs MRML, but no Qt."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.util import vtkMatrixFromArray
from vtk.util.numpy_support import numpy_to_vtk

from VFMTransferLib.core.errors import JobError
from VFMTransferLib.core.terms import LABEL_TERMS, Label, Sequence

from ..runs import ArmInScene
from .nifti import NiftiImage, readNifti
from .nodes import (
    Window,
    addNode,
    blankVolume,
    fillVolume,
    gridTransformNode,
    removeNode,
    segmentationNode,
    signSegments,
    windowFor,
    windowOf,
)

ATTRIBUTE = "VFMTransfer."
ROLE, ABOUT = ATTRIBUTE + "Role", ATTRIBUTE + "about"  # what a node is for, and the volume that it refers to
RESULT = "result.json"
SEGMENTATION = "segmentation.seg.nrrd"
PROBABILITIES = "probabilities"
DISPLACEMENT = "displacement"
IMAGE_SUFFIX = ".nii.gz"
LABELS = "labels"  # the segmentation holds the same, and more
_WAIT_S = 0.02  # how long a step waits for a file, which lets the thread that reads it have Python's lock
_LABEL_TITLES = {str(label): term.title for label, term in LABEL_TERMS.items()}
# Output → the input it is named after, and what it is of it.
_IMAGE_TITLES = {
    "t2w-super-resolved": (Sequence.T2W, "SR"),
    "hbv-corrected": (Sequence.HBV, "corrected"),
    "adc-corrected": (Sequence.ADC, "corrected"),
    "adc-synthetic": (Sequence.T2W, "ADC"),
}
_PROBABILITY_WINDOW = (0.0, 1.0)
_INVALID_ITEM = 0
_GLAND = "gland"
GLAND_FILE = "gland.nii.gz"  # of `VFMTransferLib.worker.jobs`
_GLAND_COLOR = (1.0, 0.85, 0.2)  # seen on gray, and no color of A or B
CONTEXT = "Segmentation category and type - VFM Transfer"
TERMS = Path(__file__).resolve().parents[2] / "Resources" / "Terminologies" / "VFMTransfer.term.json"

Volumes = Mapping[Sequence, slicer.vtkMRMLScalarVolumeNode]
Steps = Generator[None, None, None]


def loadTerminology(logic: slicer.vtkSlicerTerminologiesModuleLogic) -> None:
    """Let Slicer find the zones by their codes, with the colors that the networks' segments have.

    Args:
        logic: Of Slicer's module for terminologies; there once the application has started.

    Raises:
        FileNotFoundError: The list was not installed with the module.
    """
    if not logic.IsTerminologyContextLoaded(CONTEXT) and not logic.LoadTerminologyFromFile(str(TERMS)):
        raise FileNotFoundError(f"{TERMS.name} must be in the module's resources. Install VFM Transfer again.")


def loadArm(folder: Path, inputs: Volumes, reference: Sequence) -> ArmInScene:
    """Load what a network wrote, all at once; see `loadArmInSteps`."""
    steps = loadArmInSteps(folder, inputs, reference)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def loadArmInSteps(
    folder: Path, inputs: Volumes, reference: Sequence, title: str = ""
) -> Generator[None, None, ArmInScene]:
    """Load what a network wrote as new nodes beside its inputs, a little with each step; nothing is overwritten.

    Files are read in a thread, nodes are made in the caller's: one step takes less than 100 ms for a prostate case.
    The folder must stay until the last step. Closed before that, or on an error, it leaves no node behind.

    Args:
        folder: The arm's folder, with its `result.json`.
        inputs: The volumes that the network saw.
        reference: The one on whose grid the result lies.
        title: What its nodes are called instead of where its weights started; they are not shown then.

    Returns:
        The arm, as the generator's value.

    Raises:
        ImageError: A file cannot be read.
        JobError: The scene was closed meanwhile.
    """
    numbers = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    loading = _Loading(folder, numbers, dict(inputs), inputs[reference], title)
    try:
        for step in loading.steps():
            yield step
            if any(node.GetScene() is None for node in inputs.values()):
                raise JobError("The volumes of this run are no longer in the scene, so its results were not loaded.")
    except BaseException:
        for node in loading.arm.nodes:
            removeNode(node)
        raise
    return loading.arm


def loadGland(path: Path, about: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """The prostate that the worker found, as a segmentation beside a volume, hidden in the user's own views.

    It takes the place of an earlier one about the same volume.

    Raises:
        ImageError: The file cannot be read.
    """
    read = readNifti(path)
    voxels = (read.frames[0] > 0).astype(np.uint8)
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*reversed(voxels.shape))
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=True))
    image.SetImageToWorldMatrix(vtkMatrixFromArray(read.ijkToRas))
    former = findNode(about, "vtkMRMLSegmentationNode", _GLAND)
    node = former or slicer.vtkMRMLSegmentationNode()
    node.GetSegmentation().RemoveAllSegments()
    node.AddSegmentFromBinaryLabelmapRepresentation(image, str(Label.PROSTATE), _GLAND_COLOR, str(Label.PROSTATE))
    node.SetAndObserveTransformNodeID(None)  # the file lies in the world
    if former is None:
        node.SetName(f"{about.GetName()} prostate (for orientation)")
        node.SetAttribute(ROLE, _GLAND)
        addNode(node, about.GetScene())
        node.SetNodeReferenceID(ABOUT, about.GetID())
        node.GetDisplayNode().SetVisibility(False)
        placeBeside(node, about)
    return node


def findNode(about: slicer.vtkMRMLScalarVolumeNode, kind: str, role: str) -> slicer.vtkMRMLNode | None:
    """The node of a class and a role that the scene has of a volume."""
    scene = about.GetScene()
    for index in range(scene.GetNumberOfNodesByClass(kind)):
        node = scene.GetNthNodeByClass(index, kind)
        if node.GetAttribute(ROLE) == role and node.GetNodeReference(ABOUT) is about:
            return node
    return None


class _Loading:
    """One arm on its way into the scene.

    Args:
        folder: Its files.
        numbers: Its `result.json`.
        inputs: What the network saw.
        about: The input on whose grid the result lies.
        title: As for `loadArmInSteps`.
    """

    def __init__(
        self,
        folder: Path,
        numbers: dict[str, Any],
        inputs: Volumes,
        about: slicer.vtkMRMLScalarVolumeNode,
        title: str,
    ) -> None:
        self.arm = ArmInScene(numbers["model"]["bundle"], numbers, title=title)
        self._folder = folder
        self._inputs = inputs
        self._about = about
        self._armTitle = title or self.arm.ownTitle

    def steps(self) -> Steps:
        files = [file.removesuffix(IMAGE_SUFFIX) for file in self.arm.numbers["files"] if file.endswith(IMAGE_SUFFIX)]
        pool = ThreadPoolExecutor(1, "VFMTransfer reading")
        try:
            read = {
                name: pool.submit(_readWithWindows, self._folder / (name + IMAGE_SUFFIX))
                for name in files
                if name != LABELS
            }
            if SEGMENTATION in self.arm.numbers["files"]:
                yield from self._addSegmentation()
            for name, future in read.items():
                while not wait([future], _WAIT_S).done:
                    yield
                yield from self._add(name, *future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _add(self, name: str, image: NiftiImage, windows: list[Window]) -> Steps:
        if name == DISPLACEMENT:
            self.arm.transform = gridTransformNode(image, self._titled("distortion correction"))
            yield from self._place(self.arm.transform)
        elif name == PROBABILITIES:
            for label, voxels in zip(self.arm.numbers["probabilities"], image.frames, strict=True):
                title = self._titled(f"{_LABEL_TITLES.get(label, label)} probability")
                self.arm.probabilities[label] = node = blankVolume(voxels, image.ijkToRas, title)
                yield from fillVolume(node, voxels)
                yield from self._place(node, _PROBABILITY_WINDOW)
        else:
            yield from self._addImage(name, image, windows[0])

    def _addSegmentation(self) -> Steps:
        self.arm.segmentation = segmentationNode(self._folder / SEGMENTATION, self._titled("segmentation"), self._about)
        signSegments(self.arm.segmentation, self.arm.bundle)
        yield from self._place(self.arm.segmentation)

    def _addImage(self, name: str, image: NiftiImage, window: Window) -> Steps:
        """Show an output as the input of its sequence is shown, so that the two can be compared."""
        of, title = _IMAGE_TITLES.get(name, (None, name))
        source = self._inputs.get(of, self._about)
        alike = self._inputs.get(Sequence(name.split("-")[0])) if of is not None else None
        origin = "uncorrected" if self.arm.isWithheld else "synthetic"
        title = f"{source.GetName()} {title} ({self._armTitle}, {origin})"
        self.arm.images[name] = node = blankVolume(image.frames[0], image.ijkToRas, title)
        yield from fillVolume(node, image.frames[0])
        yield from self._place(node, (windowOf(alike) if alike is not None else None) or window)

    def _place(self, node: slicer.vtkMRMLNode, window: Window | None = None) -> Steps:
        """Describe a node that is filled, and bring it into the scene."""
        describe(node, self.arm.numbers, self._inputs)
        yield
        addNode(node, self._about.GetScene(), window)
        if self.arm.title and node.IsA("vtkMRMLSegmentationNode"):
            node.GetDisplayNode().SetVisibility(False)
        placeBeside(node, self._about)
        yield

    def _titled(self, what: str) -> str:
        return f"{self._about.GetName()} {what} ({self._armTitle})"


def placeBeside(node: slicer.vtkMRMLNode, neighbor: slicer.vtkMRMLNode) -> None:
    """Put a node into the DICOM study, or folder, of its neighbor in the subject hierarchy."""
    _placeIn(_parentOf(neighbor), node)


def _parentOf(node: slicer.vtkMRMLNode) -> int:
    """The item that a node's own lies in."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetSceneItemID() if item == _INVALID_ITEM else hierarchy.GetItemParent(item)


def _placeIn(parent: int, node: slicer.vtkMRMLNode) -> int:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    if item == _INVALID_ITEM:  # the application makes an item for each new node; without it nobody does
        return hierarchy.CreateItem(parent, node)
    hierarchy.SetItemParent(item, parent)
    return item


def describe(node: slicer.vtkMRMLNode, numbers: Mapping[str, Any], inputs: Volumes) -> None:
    """Write into a node where it came from; attributes and references are saved with the scene."""
    facts = {key.title().replace("_", ""): value for key, value in numbers["model"].items()}
    facts |= {"Task": numbers["task"], "ResearchUse": numbers["research_use"]}
    if numbers.get("withheld", False):  # earlier results lack it
        facts["Withheld"] = True
    facts["Versions"] = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    facts["Seconds"] = f"{sum(numbers['seconds'].values()):.2f}"
    facts["Options"] = ", ".join(f"{name} {value}" for name, value in numbers["options"].items() if value is not None)
    facts["Inputs"] = ", ".join(f"{sequence}: {volume.GetName()}" for sequence, volume in inputs.items())
    for name, value in facts.items():
        node.SetAttribute(ATTRIBUTE + name, str(value))
    for sequence, volume in inputs.items():
        node.SetNodeReferenceID(ATTRIBUTE + sequence, volume.GetID())


def _readWithWindows(path: Path) -> tuple[NiftiImage, list[Window]]:
    """A file, and how each of its frames is best shown."""
    image = readNifti(path)
    return image, [windowFor(frame) for frame in image.frames]
