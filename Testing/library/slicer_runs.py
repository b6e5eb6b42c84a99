"""Finished runs in Slicer's real MRML, with answers that are known voxel for voxel."""

import numpy as np
from slicer_scenes import add_volume, slicer, vtk
from vtk.util.numpy_support import numpy_to_vtk

from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferSlicer.runs import ArmInScene, RunInScene

ARMS = ("pretrained", "scratch")
PERIPHERAL, TRANSITION = str(Label.PERIPHERAL_ZONE), str(Label.TRANSITION_ZONE)


def numbers_of(arm: str, task: str, **more) -> dict:
    model = {"bundle": f"net-{arm}", "title": f"A network, {arm}", "arm": arm, "sha256": "0" * 64}
    probabilities = {"class_probabilities": {}, "derived_probabilities": {}}
    return {"task": str(task), "model": model, "volumes_ml": {}, "lesions": [], **probabilities, **more}


def add_segmentation(scene, volume, labels: np.ndarray, names: tuple[str, ...], name: str):
    """Value 1 + i of a label map (D, H, W) on a volume node's grid in the world becomes the segment `names[i]`."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    if volume.GetParentTransformNode() is not None:
        to_world = vtk.vtkMatrix4x4()
        volume.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
        vtk.vtkMatrix4x4.Multiply4x4(to_world, matrix, matrix)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    for index, segment in enumerate(names):
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*reversed(labels.shape))
        image.GetPointData().SetScalars(numpy_to_vtk((labels == index + 1).astype(np.uint8).ravel(), deep=True))
        image.SetImageToWorldMatrix(matrix)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, segment, [0.2 * (index + 1), 0.5, 0.9], segment)
    node.CreateDefaultDisplayNodes()
    return node


def a_segmentation_run(scene, t2w, first: np.ndarray, second: np.ndarray, **more) -> RunInScene:
    """Both arms say where two zones are; `more` sets further fields of the run."""
    task = "anatomy-segmentation"
    arms = []
    for arm, labels in zip(ARMS, (first, second), strict=True):
        node = add_segmentation(scene, t2w, labels, (PERIPHERAL, TRANSITION), f"T2 segmentation ({arm})")
        arms.append(ArmInScene(f"net-{arm}", numbers_of(arm, task), node))
    return RunInScene(task, {Sequence.T2W: t2w}, t2w, arms, **more)


def an_image_run(scene, t2w, grid, first: np.ndarray, second: np.ndarray, **more) -> RunInScene:
    """Both arms give a synthetic ADC on a grid (`Geometry`)."""
    task = "adc-translation"
    arms = []
    for arm, array in zip(ARMS, (first, second), strict=True):
        node = add_volume(scene, Volume(array, grid, "adc"), f"T2 ADC ({arm}, synthetic)")
        node.CreateDefaultDisplayNodes()
        node.SetAttribute("VFMTransfer.Task", str(task))
        arms.append(ArmInScene(f"net-{arm}", numbers_of(arm, task), images={"adc-synthetic": node}))
    measures = [{"subject": "adc-synthetic", "measure": "mae", "between": "a-b", "value": 1.0, "unit": "1e-6 mm²/s"}]
    comparison = {"measures": measures, "disagreements": [], "focus_slice": 3}
    return RunInScene(task, {Sequence.T2W: t2w}, t2w, arms, **{"comparison": comparison, **more})
