"""What the panel holds, saved and loaded with the scene."""

from typing import Annotated

from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLTableNode,
)
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class VFMTransferParameterNode:
    """The choices of one case.

    Attributes:
        t2w, hbv, adc: Its volumes.
        gland: Where the prostate is.
        reference: The truth: a segmentation, or for tasks that give images a volume.
        roi: A box around which the networks' window lies.
        psa: Prostate-specific antigen in ng/ml, as it was typed.
        phaseAxis: Along which diffusion is distorted, as in `predict.predict`.
        task: Its id, as in `tasks.TASKS`.
        bundleA, bundleB: Names of the networks; empty for none.
        runtime, device, region: As in `predict.predict`.
        secondRow, opacity, segmentStyle: How the results are shown side by side.
        readingTable: The answers of blinded reading.
    """

    t2w: vtkMRMLScalarVolumeNode
    hbv: vtkMRMLScalarVolumeNode
    adc: vtkMRMLScalarVolumeNode
    # The wrapper can hold no node in a union unless None is named.
    gland: vtkMRMLSegmentationNode | vtkMRMLLabelMapVolumeNode | None
    # A label map is a scalar volume too, but the selector offers only the very classes that are named.
    reference: vtkMRMLSegmentationNode | vtkMRMLLabelMapVolumeNode | vtkMRMLScalarVolumeNode | None
    roi: vtkMRMLMarkupsROINode
    psa: str = ""
    phaseAxis: str = "auto"
    task: str = "anatomy-segmentation"
    bundleA: str = ""
    bundleB: str = ""
    runtime: str = "auto"
    device: str = "auto"
    region: str = "gland"
    secondRow: bool = True
    opacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    segmentStyle: str = "outline"
    readingTable: vtkMRMLTableNode
