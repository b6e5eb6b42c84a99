"""Phantoms in the scene: the three volumes of a synthetic study, and its truth. Needs MRML, but no Qt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.util import getNodesByClass, vtkMatrixFromArray
from vtk.util.numpy_support import numpy_to_vtk

from VFMTransferLib.terms import LABEL_TERMS, Code, Label, LabelTerm, Sequence

from .nifti import NiftiImage, readNifti
from .nodes import newNode, removeNode, volumeNode, windowFor
from .steps import Steps

TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "high-b DWI", Sequence.ADC: "ADC"}
# Attributes of its nodes, saved with the scene. Names that begin with "VFMTransfer." are those of results.
SEED, ROLE = "Phantom.Seed", "Phantom.Role"
TRUTH = "truth"
_SIGNIFICANT_GRADE = 2  # ISUP grade group
_ZONES = {Label.PERIPHERAL_ZONE: 1, Label.TRANSITION_ZONE: 2}  # as the library writes them
_CONTEXT = "Segmentation category and type - DICOM master list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"
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


def findPhantom(scene: slicer.vtkMRMLScene, seed: int) -> PhantomInScene | None:
    """The phantom of this seed, if the scene holds it whole."""
    found = PhantomInScene(seed)
    for node in _nodesOfPhantoms(scene):
        if node.GetAttribute(SEED) == str(seed):
            role = node.GetAttribute(ROLE)
            if role == TRUTH:
                found.truth = node
            else:
                found.volumes[Sequence(role)] = node
    return found if len(found.volumes) == len(Sequence) and found.truth is not None else None


def seedsIn(scene: slicer.vtkMRMLScene) -> set[int]:
    """Seeds of the phantoms of which the scene holds a part."""
    return {int(node.GetAttribute(SEED)) for node in _nodesOfPhantoms(scene)}


def loadPhantom(folder: Path, seed: int, scene: slicer.vtkMRMLScene) -> Steps:
    """Load what `vfm-transfer phantom` wrote, a file with each step; all of it or nothing.

    Args:
        folder: Of this one phantom; may be deleted after the last step.
        seed: Its seed.
        scene: Where it goes.

    Raises:
        ImageError: A file is missing or damaged.
    """
    nodes: list[slicer.vtkMRMLDisplayableNode] = []
    try:
        for sequence in Sequence:
            image = readNifti(folder / f"{sequence}.nii.gz")
            name = f"Phantom {seed} {TITLES[sequence]} (synthetic)"
            voxels = image.frames[0]
            nodes.append(volumeNode(voxels, image.ijkToRas, name, windowFor(voxels), scene))
            _mark(nodes[-1], seed, sequence)
            yield
        labels = {name: readNifti(folder / f"{name}.nii.gz") for name in ("gland", "zones", "lesion")}
        yield
        nodes.append(_truthNode(labels, f"Phantom {seed} truth (synthetic)", nodes[0]))
        _mark(nodes[-1], seed, TRUTH)
        _placeInStudy(nodes, seed)
    except BaseException:
        for node in nodes:
            removeNode(node)
        raise


def terminologyOf(term: LabelTerm) -> str:
    """A term as Slicer writes it: context, category, type, modifier, region."""

    def code(one: Code | None) -> str:
        return f"{one.scheme}^{one.value}^{one.meaning}" if one else "^^"

    return f"{_CONTEXT}~{code(term.category)}~{code(term.type)}~^^~{_REGION_CONTEXT}~{code(term.region)}~^^"


def _truthNode(
    labels: dict[str, NiftiImage], name: str, volume: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    """What is true, as segments; hidden, for it would be seen in the views of both networks as well."""
    gland, zones, grades = (labels[key].frames[0] for key in ("gland", "zones", "lesion"))
    masks = {Label.PROSTATE: gland > 0} | {label: zones == value for label, value in _ZONES.items()}
    indolent = (grades > 0) & (grades < _SIGNIFICANT_GRADE)
    if indolent.any():
        masks[Label.INDOLENT_CANCER] = indolent
    masks[Label.CSPCA] = grades >= _SIGNIFICANT_GRADE  # also where there is none, which is a truth as well
    node = newNode("vtkMRMLSegmentationNode", name, volume.GetScene())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for label, mask in masks.items():
        _addSegment(node, label, mask, labels["gland"].ijkToRas)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    return node


def _addSegment(node: slicer.vtkMRMLSegmentationNode, label: Label, mask: np.ndarray, ijkToRas: np.ndarray) -> None:
    term = LABEL_TERMS[label]
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*reversed(mask.shape))
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
    return [node for node in every if (node.GetAttribute(SEED) or "").isdigit() and node.GetAttribute(ROLE)]
