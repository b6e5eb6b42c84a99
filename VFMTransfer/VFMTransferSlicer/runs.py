"""What a run left in the scene: one study, one task, the networks' answers and how they compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from VFMTransferLib.core.terms import Sequence, TaskId


@dataclass
class ArmInScene:
    """What one network says of the study, as nodes.

    Attributes:
        bundle: Name of the network.
        numbers: The content of `result.json`: volumes in ml, lesions, class probabilities, provenance.
        segmentation: Its segments; None where the task gives none.
        images: Name → volume node, for tasks that give images.
        probabilities: Label name → volume node (0..1), where the network gives them.
        transform: Grid transform (mm) that takes the distorted volume to the corrected one; None for other tasks.
    """

    bundle: str
    numbers: dict[str, Any]
    segmentation: slicer.vtkMRMLSegmentationNode | None = None
    images: dict[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    probabilities: dict[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    transform: slicer.vtkMRMLGridTransformNode | None = None

    @property
    def nodes(self) -> list[slicer.vtkMRMLNode]:
        """All its nodes that are still in a scene."""
        every = (self.segmentation, *self.images.values(), *self.probabilities.values(), self.transform)
        return [node for node in every if node is not None and node.GetScene() is not None]


@dataclass
class RunInScene:
    """One run, as far as it has come.

    Attributes:
        task: What was asked.
        inputs: What the networks saw.
        about: The input on whose grid the results lie.
        arms: A, then B, as they finish.
        reference: The truth, if one was given.
        comparison: The content of `comparison.json`, once there are two arms.
        folder: Holds `report/` and `comparison.csv` as long as this is the latest run; then None.
    """

    task: TaskId
    inputs: Mapping[Sequence, slicer.vtkMRMLScalarVolumeNode]
    about: slicer.vtkMRMLScalarVolumeNode
    arms: list[ArmInScene] = field(default_factory=list)
    reference: slicer.vtkMRMLNode | None = None
    comparison: dict[str, Any] | None = None
    folder: Path | None = None

    @property
    def isInScene(self) -> bool:
        """Whether the study is still in a scene."""
        return self.about.GetScene() is not None
