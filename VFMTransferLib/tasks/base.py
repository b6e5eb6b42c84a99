"""The study's tasks as data: what each takes, what it gives, how it is measured."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.terms import Sequence, TaskId

_ALL = (Sequence.T2W, Sequence.HBV, Sequence.ADC)


@dataclass(frozen=True)
class Task:
    """One task of the study.

    Attributes:
        id: Name in files and on the command line.
        title: Name on screen.
        sequences: What a case must contain.
        reference: The sequence on whose grid the result comes back.
        output: `segmentation`, `classification` or `image`.
        metric: Primary measure, a function's name in `metrics.py` or a clinical statistic.
        higher_is_better: Direction of the primary measure.
    """

    id: TaskId
    title: str
    sequences: tuple[Sequence, ...]
    reference: Sequence
    output: str
    metric: str
    higher_is_better: bool = True


TASKS: dict[TaskId, Task] = {
    task.id: task
    for task in (
        Task(TaskId.ANATOMY_SEGMENTATION, "Anatomy segmentation", _ALL[:1], Sequence.T2W, "segmentation", "dice"),
        Task(TaskId.LESION_SEGMENTATION, "Lesion segmentation", _ALL, Sequence.T2W, "segmentation", "dice"),
        Task(TaskId.CLASSIFICATION, "Classification", _ALL, Sequence.T2W, "classification", "auroc"),
        Task(TaskId.SUPER_RESOLUTION, "Super-resolution", _ALL[:1], Sequence.T2W, "image", "psnr_db"),
        Task(TaskId.DISTORTION_CORRECTION, "Distortion correction", _ALL, Sequence.HBV, "image", "psnr_db"),
        Task(TaskId.ADC_TRANSLATION, "T2w→ADC translation", _ALL[:1], Sequence.T2W, "image", "mae", False),
    )
}
