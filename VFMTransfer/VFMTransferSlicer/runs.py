"""What a run left in the scene: one case, one task, the networks' answers and how they compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import slicer

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.worker.messages import Exported

_STARTS = {"pretrained": "pretrained", "scratch": "from scratch"}
# With a smaller fraction done, or in less time, the time that is left cannot be estimated.
_MIN_FRACTION = 0.05
_MIN_S = 1.0


def startFirst(title: str, arm: str | None) -> str:
    """A network's title that begins with where its weights started, since narrow widgets cut off the end.

    Args:
        title: Of its bundle.
        arm: As the bundle names it; None for neither of both.
    """
    start = _STARTS.get(arm or "", "")
    return f"{start.capitalize()}: {title.removesuffix(f', {start}')}" if start else title


@dataclass
class ArmInScene:
    """One network's result for the case, as nodes.

    Attributes:
        bundle: Name of the network.
        numbers: The content of `result.json`: volumes in ml, lesions, class probabilities, provenance.
        segmentation: Its segments; None where the task gives none.
        images: Name → volume node, for tasks that give images.
        probabilities: Label name → volume node (0..1), where the network gives them.
        transform: Grid transform (mm) that takes the distorted volume to the corrected one; None for other tasks.
        title: What stands in brackets in the names of its nodes; empty for `ownTitle`.
    """

    bundle: str
    numbers: dict[str, Any]
    segmentation: slicer.vtkMRMLSegmentationNode | None = None
    images: dict[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    probabilities: dict[str, slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    transform: slicer.vtkMRMLGridTransformNode | None = None
    title: str = ""

    @property
    def ownTitle(self) -> str:
        """Where its weights started, or the bundle's name where that is not known."""
        return _STARTS.get(self.numbers["model"].get("arm"), self.bundle)

    @property
    def isWithheld(self) -> bool:
        """Whether its correction was withheld, so that its images are the case's own; earlier results lack the key."""
        return bool(self.numbers.get("withheld", False))

    @property
    def nodes(self) -> list[slicer.vtkMRMLNode]:
        """All its nodes that are still in a scene."""
        every = (self.segmentation, *self.images.values(), *self.probabilities.values(), self.transform)
        return [node for node in every if node is not None and node.GetScene() is not None]


def renameArm(arm: ArmInScene, title: str = "", isSeen: bool = True) -> None:
    """Call an arm's nodes something else, and show them in the user's own views or not.

    Args:
        arm: In the scene, or what is left of it.
        title: Instead of the one that it has; empty for its own.
        isSeen: Whether its segmentation is visible.
    """
    former, new = arm.title or arm.ownTitle, title or arm.ownTitle
    for node in arm.nodes:
        before, bracket, after = node.GetName().rpartition(f"({former}")  # the volume's own name may have one too
        if bracket:
            node.SetName(f"{before}({new}{after}")
    arm.title = title
    if arm.segmentation in arm.nodes and arm.segmentation.GetDisplayNode() is not None:
        arm.segmentation.GetDisplayNode().SetVisibility(isSeen)


@dataclass
class RunInScene:
    """One run, as far as it has come.

    Attributes:
        task: Its id.
        inputs: What the networks got.
        about: The input on whose grid the results lie.
        arms: A, then B, as they finish.
        reference: The truth, if one was given.
        gland: A segmentation of the prostate to draw over the images, where one is known and is no arm's answer.
        comparison: The content of `comparison.json`, once there are two arms.
        folder: Holds `report/` and `comparison.csv` as long as this is the latest run; then None.
        dicom: Where the inputs lie, and the DICOM files that they are of; None where none is from DICOM.
        page: The page of the report, saved with the scene.
    """

    task: str
    inputs: Mapping[Sequence, slicer.vtkMRMLScalarVolumeNode]
    about: slicer.vtkMRMLScalarVolumeNode
    arms: list[ArmInScene] = field(default_factory=list)
    reference: slicer.vtkMRMLNode | None = None
    gland: slicer.vtkMRMLSegmentationNode | None = None
    comparison: dict[str, Any] | None = None
    folder: Path | None = None
    dicom: Exported | None = None
    page: slicer.vtkMRMLTextNode | None = None

    @property
    def isInScene(self) -> bool:
        """Whether the case is still in a scene."""
        return self.about.GetScene() is not None

    @property
    def isMasked(self) -> bool:
        """Whether its networks are called otherwise than by their own names, as during a blinded reading."""
        return any(arm.title for arm in self.arms)


@dataclass
class ArmClock:
    """How far a network is, and how long it still takes.

    Attributes:
        now: Returns the time, in seconds.
        fraction: How much is done, 0..1.
        stage: What it does, in the worker's word; empty before it begins.
    """

    now: Callable[[], float] = monotonic
    fraction: float = 0.0
    stage: str = ""
    _begin: tuple[float, float] | None = field(default=None, init=False)  # time and fraction of the first report

    def receive(self, stage: str, fraction: float) -> None:
        """Take a report of the worker."""
        if self._begin is None:
            self._begin = self.now(), fraction
        self.stage, self.fraction = stage, fraction

    @property
    def remaining_s(self) -> float | None:
        """Time that is left at the pace so far; None where that cannot be estimated."""
        if self._begin is None:
            return None
        elapsed, done = self.now() - self._begin[0], self.fraction - self._begin[1]
        if elapsed < _MIN_S or done < _MIN_FRACTION:
            return None
        return elapsed * (1.0 - self.fraction) / done
