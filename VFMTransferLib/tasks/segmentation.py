"""Tasks whose result is a label map, decided on the reference's own voxels, so that its edges follow these."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core.notes import Note
from ..core.placement import confine, confined_note, to_reference
from ..core.result import Result
from ..core.terms import Label
from ..core.volume import Volume
from .base import NetworkOutput, Task, activated
from .outputs import SEGMENTATION

if TYPE_CHECKING:
    from ..encoders.base import ModelSpec

Probabilities = dict[str, Volume]
"""Label name → probability on the grid of the reference sequence."""


IDLE_THRESHOLD_NOTE = Note(
    "threshold-unused", "The threshold was not used: this network marks the most probable structure of each voxel."
)


class SegmentationTask(Task):
    """Marks the most probable structure of each voxel; a task overrides `mark` where more is to decide."""

    output = SEGMENTATION
    head = "dense"
    activation = "softmax"
    metric = "dice"

    def decode(self, output: NetworkOutput) -> Result:
        spec, roi = output.spec, output.options.roi
        probabilities = {
            str(name): to_reference(channel, output.prepared, str(name), fill=float(name == Label.BACKGROUND))
            for name, channel in zip(spec.labels, activated(output.logits, spec.activation), strict=True)
            if self.decides_by(name)
        }
        if roi is not None:
            probabilities, output = confine(probabilities, roi), output.with_notes(confined_note(roi))
        return self.mark(probabilities, output)

    def decides_by(self, label: str) -> bool:
        """Whether `mark` needs the probability of a label."""
        return True

    def mark(self, probabilities: Probabilities, output: NetworkOutput) -> Result:
        """The result of probabilities on the grid of the reference sequence."""
        shown = structures_of(probabilities)
        return self.label_result(
            shown, above_all(probabilities, output.threshold), with_threshold_note(probabilities, output)
        )

    def label_result(
        self, shown: Probabilities, marked: np.ndarray, output: NetworkOutput, parts: Probabilities | None = None
    ) -> Result:
        """The result that keeps `shown`, and where a voxel is marked (D, H, W) marks the most probable of `parts`."""
        parts = parts or shown
        table = label_values(output.spec)
        values = np.array([table[name] for name in parts], np.uint8)
        likeliest = np.argmax([p.array[marked] for p in parts.values()], axis=0)
        grid = next(iter(parts.values())).geometry
        labels = Volume(np.zeros(grid.shape, np.uint8), grid, "labels")
        labels.array[marked] = values[likeliest]
        counts = np.bincount(labels.array.ravel(), minlength=len(output.spec.labels) + 1)
        return Result(
            output.case.id,
            self.id,
            output.provenance,
            label_values={name: value for name, value in table.items() if name in parts},
            labels=labels,
            probabilities=shown,
            volumes_ml={name: float(counts[table[name]] * grid.voxel_volume_ml) for name in parts},
        )


def label_values(spec: ModelSpec) -> dict[str, int]:
    """Label name → value in label maps: its channel, counted from 1 where the network has no background channel."""
    first = 0 if spec.labels[0] == Label.BACKGROUND else 1
    return {str(n): i for i, n in enumerate(spec.labels, start=first) if n != Label.BACKGROUND}


def soft_mask(mask: Volume) -> Volume:
    """A mask as 0 and 1 in single precision, of which interpolation gives how much of a voxel it covers."""
    return mask.with_array((mask.array > 0).astype(np.float32))


def labels_of(result: Result) -> Volume:
    """The label map of a result of a segmentation."""
    if result.labels is None:
        raise ValueError("A result of a segmentation must have labels.")
    return result.labels


def structures_of(probabilities: Probabilities) -> Probabilities:
    """All but the background."""
    return {name: p for name, p in probabilities.items() if name != Label.BACKGROUND}


def with_threshold_note(probabilities: Probabilities, output: NetworkOutput) -> NetworkOutput:
    """The output of `above_all`, with a note where a threshold was asked for that decides nothing there."""
    is_idle = output.options.threshold is not None and Label.BACKGROUND in probabilities
    return output.with_notes(IDLE_THRESHOLD_NOTE) if is_idle else output


def above_all(probabilities: Probabilities, threshold: float) -> np.ndarray:
    """Where a structure is more probable than the background, or than the threshold where no channel is background."""
    highest = np.max([p.array for p in structures_of(probabilities).values()], axis=0)
    background = probabilities.get(str(Label.BACKGROUND))
    return highest > (threshold if background is None else background.array)
