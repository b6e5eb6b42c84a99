"""Sample data: phantoms with their truth, made on this computer by a child process. No network, no patient.

Runs wherever there is a stand-in for `qt.QProcess`; only `registerSampleData` needs the application.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.util import getNodesByClass, vtkMatrixFromArray
from vtk.util.numpy_support import numpy_to_vtk

from VFMTransferLib.core.errors import JobError, OutputError
from VFMTransferLib.core.terms import LABEL_TERMS, SIGNIFICANT_GRADE, Code, Label, LabelTerm, Sequence

from ..logic import newTemporaryFolder
from ..results.nifti import NiftiImage, readNifti
from ..results.nodes import Window, removeNode, volumeNode, windowFor
from ..signals import Signal
from ..workers.commands import LibraryCommand
from ..workers.process import MakeProcess, newProcess
from ..workers.steps import Steps

TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "high-b DWI", Sequence.ADC: "ADC"}
# Attributes of its nodes, saved with the scene. Names that begin with "VFMTransfer." are those of results.
SEED, ROLE = "Phantom.Seed", "Phantom.Role"
TRUTH = "truth"
_ZONES = {Label.PERIPHERAL_ZONE: 1, Label.TRANSITION_ZONE: 2}  # as the library writes them
_CONTEXT = "Segmentation category and type - DICOM master list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"
_LABELS = ("gland", "zones", "lesion")
_WAIT_S = 0.02  # how long a step waits for a file, which lets the thread that reads it have Python's lock
_INVALID_ITEM = 0


@dataclass
class PhantomInScene:
    """A synthetic study.

    Attributes:
        seed: Makes the same one again.
        volumes: T2w, high-b DWI and ADC.
        truth: Prostate, zones and cancer.
    """

    seed: int
    volumes: dict[Sequence, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    truth: slicer.vtkMRMLSegmentationNode | None = None


def nameOf(seed: int) -> str:
    """What the study is called in the subject hierarchy."""
    return f"Phantom {seed} (synthetic)"


def isPhantomTruth(node: slicer.vtkMRMLNode | None) -> bool:
    return node is not None and node.GetAttribute(ROLE) == TRUTH


def seedOf(node: slicer.vtkMRMLNode | None) -> int | None:
    """The seed of the phantom that a node belongs to; None for others."""
    seed = (node.GetAttribute(SEED) or "") if node is not None else ""
    return int(seed) if seed.isdigit() else None


def findPhantom(scene: slicer.vtkMRMLScene, seed: int | None) -> PhantomInScene | None:
    """The phantom of this seed, if the scene holds it whole."""
    if seed is None:
        return None
    found = PhantomInScene(seed)
    for node in _nodesOfPhantoms(scene):
        if seedOf(node) == seed:
            role = node.GetAttribute(ROLE)
            if role == TRUTH:
                found.truth = node
            else:
                found.volumes[Sequence(role)] = node
    return found if len(found.volumes) == len(Sequence) and found.truth is not None else None


def seedsIn(scene: slicer.vtkMRMLScene) -> set[int]:
    """Seeds of the phantoms of which the scene holds a part."""
    return {seedOf(node) for node in _nodesOfPhantoms(scene)}


def loadPhantom(folder: Path, seed: int, scene: slicer.vtkMRMLScene) -> Steps:
    """Load what `vfm-transfer phantom` wrote, a node or a segment with each step; all of it or nothing.

    Args:
        folder: Of this one phantom; may be deleted after the last step.
        seed: Its seed.
        scene: Where it goes.

    Raises:
        ImageError: A file is missing or damaged.
    """
    nodes: list[slicer.vtkMRMLDisplayableNode] = []
    pool = ThreadPoolExecutor(1, "VFMTransfer reading")
    try:
        read = {name: pool.submit(_read, folder / f"{name}.nii.gz") for name in (*Sequence, *_LABELS)}
        for future in read.values():
            while not wait([future], _WAIT_S).done:
                yield
        for sequence in Sequence:
            image, window = read[sequence].result()
            name = f"Phantom {seed} {TITLES[sequence]} (synthetic)"
            nodes.append(volumeNode(image.frames[0], image.ijkToRas, name, window, scene))
            _mark(nodes[-1], seed, sequence)
            yield
        truth = slicer.vtkMRMLSegmentationNode()
        truth.SetName(f"Phantom {seed} truth (synthetic)")
        yield from _fillTruth(truth, {name: read[name].result()[0] for name in _LABELS})
        nodes.append(truth)
        _mark(truth, seed, TRUTH)
        truth.SetReferenceImageGeometryParameterFromVolumeNode(nodes[0])
        _addHidden(truth, scene)
        _placeInStudy(nodes, seed)
    except BaseException:
        for node in nodes:
            if node.GetScene() is not None:
                removeNode(node)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(path: Path) -> tuple[NiftiImage, Window]:
    image = readNifti(path)
    return image, windowFor(image.frames[0])


def terminologyOf(term: LabelTerm) -> str:
    """A term as Slicer writes it: context, category, type, modifier, region."""

    def code(one: Code | None) -> str:
        return f"{one.scheme}^{one.value}^{one.meaning}" if one else "^^"

    return f"{_CONTEXT}~{code(term.category)}~{code(term.type)}~^^~{_REGION_CONTEXT}~{code(term.region)}~^^"


def _fillTruth(node: slicer.vtkMRMLSegmentationNode, labels: dict[str, NiftiImage]) -> Steps:
    """What is true, a segment with each step."""
    gland, zones, grades = (labels[name].frames[0] for name in _LABELS)
    masks = {Label.PROSTATE: gland > 0} | {label: zones == value for label, value in _ZONES.items()}
    indolent = (grades > 0) & (grades < SIGNIFICANT_GRADE)
    if indolent.any():
        masks[Label.INDOLENT_CANCER] = indolent
    masks[Label.CSPCA] = grades >= SIGNIFICANT_GRADE  # also where there is none, which is a truth as well
    box = _boxAround(np.any(list(masks.values()), axis=0))
    for label, mask in masks.items():
        _addSegment(node, label, mask[box], box, labels["gland"].ijkToRas)
        yield


def _addHidden(node: slicer.vtkMRMLSegmentationNode, scene: slicer.vtkMRMLScene) -> None:
    """Bring it into the scene unseen: else it would be seen in the views of both networks as well."""
    display = slicer.vtkMRMLSegmentationDisplayNode()
    display.SetVisibility(False)
    scene.AddNode(display)
    node.SetAndObserveDisplayNodeID(display.GetID())
    scene.AddNode(node)


def _boxAround(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """Indices (z, y, x) of what is marked, and so much less than all that the window need not wait for it."""
    bounds = [(int(index.min()), int(index.max()) + 1) for index in np.nonzero(mask)]
    return tuple(slice(first, end) for first, end in bounds)


def _addSegment(
    node: slicer.vtkMRMLSegmentationNode,
    label: Label,
    mask: np.ndarray,
    box: tuple[slice, slice, slice],
    ijkToRas: np.ndarray,
) -> None:
    term = LABEL_TERMS[label]
    image = slicer.vtkOrientedImageData()
    image.SetExtent([bound for one in reversed(box) for bound in (one.start, one.stop - 1)])
    image.SetImageToWorldMatrix(vtkMatrixFromArray(ijkToRas))
    voxels = np.ascontiguousarray(mask, np.uint8).ravel()
    image.GetPointData().SetScalars(numpy_to_vtk(voxels, deep=True, array_type=vtk.VTK_UNSIGNED_CHAR))
    color = [value / 255 for value in term.color]
    identifier = node.AddSegmentFromBinaryLabelmapRepresentation(image, term.title, color, str(label))
    segment = node.GetSegmentation().GetSegment(identifier)
    segment.SetTag(segment.GetTerminologyEntryTagName(), terminologyOf(term))


def _mark(node: slicer.vtkMRMLNode, seed: int, role: str) -> None:
    node.SetAttribute(SEED, str(seed))
    node.SetAttribute(ROLE, str(role))


def _placeInStudy(nodes: list[slicer.vtkMRMLNode], seed: int) -> None:
    """A patient and a study of their own, named so that nobody takes them for a person's."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(nodes[0].GetScene())
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), nameOf(seed))
    study = hierarchy.CreateStudyItem(patient, nameOf(seed))
    for node in nodes:
        item = hierarchy.GetItemByDataNode(node)
        if item == _INVALID_ITEM:  # the application makes an item for each new node; without it nobody does
            hierarchy.CreateItem(study, node)
        else:
            hierarchy.SetItemParent(item, study)


def _nodesOfPhantoms(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLNode]:
    kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")
    every = [node for kind in kinds for node in getNodesByClass(kind, scene)]
    return [node for node in every if seedOf(node) is not None and node.GetAttribute(ROLE)]


CATEGORY = "VFM Transfer"
SAMPLE_SEED = 7  # one lesion of the peripheral zone, ISUP grade group 3
THUMBNAIL = Path(__file__).resolve().parents[2] / "Resources" / "Icons" / "VFMTransferPhantom.png"


class PhantomMaker:
    """Makes one phantom at a time and loads it; the window goes on meanwhile.

    Args:
        later: Calls a function when the window had its turn.
        makeProcess: Makes a `qt.QProcess`; see `process.newProcess`.

    Attributes:
        loaded: Emitted with the `PhantomInScene`.
        failed: Emitted with a sentence to show, and details for a bug report.
    """

    def __init__(self, later: Callable[[Callable[[], None]], None], makeProcess: MakeProcess = newProcess) -> None:
        self._command = LibraryCommand(later, newTemporaryFolder, makeProcess)
        self.loaded, self.failed = Signal(), self._command.failed
        self._command.finished.connect(self._onFinished)
        self._wanted: tuple[slicer.vtkMRMLScene, int] | None = None

    @property
    def isBusy(self) -> bool:
        return self._command.isBusy

    def make(self, seed: int, scene: slicer.vtkMRMLScene) -> None:
        """Bring a phantom into the scene, unless it is there; `loaded` or `failed` is emitted.

        Raises:
            JobError: Another one is on its way.
        """
        if self.isBusy:
            raise JobError("A phantom is being made. Wait a moment.")
        self._wanted = scene, seed
        if findPhantom(scene, seed) is not None:
            self._onFinished()
            return
        try:
            self._command.start(
                lambda folder: iter(()),
                lambda folder: ["phantom", "--seed", str(seed), "--no-full-resolution", "--output", str(folder)],
                lambda document, folder: loadPhantom(next(folder.iterdir()), seed, scene),
            )
        except OutputError as error:
            self.failed.emit(str(error), "")

    def cancel(self) -> None:
        """Stop, and leave nothing, without a signal."""
        self._command.cancel()

    def _onFinished(self) -> None:
        scene, seed = self._wanted
        self.loaded.emit(findPhantom(scene, seed))


def showInViews(volume: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Show a volume in the slice views, in the plane of its own slices, if there are any views."""
    if slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=volume, foreground=None, fit=True, rotateToVolumePlane=True)


def registerSampleData() -> None:
    """Offer the sample study in Slicer's Sample Data module; called once the application has started."""
    import qt
    import SampleData
    from slicer.i18n import tr as _

    maker = PhantomMaker(lambda step: qt.QTimer.singleShot(0, step))
    maker.loaded.connect(lambda phantom: showInViews(phantom.volumes[Sequence.T2W]))
    maker.failed.connect(lambda sentence, details: slicer.util.errorDisplay(sentence, detailedText=details))

    def download(source: SampleData.SampleDataSource) -> None:
        if not maker.isBusy:
            slicer.util.showStatusMessage(_("Making the phantom; it takes some seconds."), 10000)
            maker.make(SAMPLE_SEED, slicer.mrmlScene)

    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # from Slicer 5.12 on
        logic.registerCustomSampleDataCategory(CATEGORY, _("VFM Transfer"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=nameOf(SAMPLE_SEED),
        thumbnailFileName=str(THUMBNAIL),
        uris="",
        customDownloader=download,
    )
