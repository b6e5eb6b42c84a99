"""What the panel holds, saved and loaded with the scene."""

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class VFMTransferParameterNode:
    """The choices of one study.

    Attributes:
        t2w, hbv, adc: Its volumes.
        task: As `terms.TaskId` names it.
        bundleA, bundleB: Names of the networks; empty for none.
    """

    t2w: vtkMRMLScalarVolumeNode
    hbv: vtkMRMLScalarVolumeNode
    adc: vtkMRMLScalarVolumeNode
    task: str = "anatomy-segmentation"
    bundleA: str = ""
    bundleB: str = ""
