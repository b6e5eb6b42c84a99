"""From which confidence a place counts as a lesion: chosen on validation cases, as a detector's threshold is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_FALSE_MARKS = 0.5  # an exam; ours
_STEPS = 100  # of a confidence


@dataclass(frozen=True)
class OperatingPoint:
    """A region of voxels above the threshold is a mark where its largest probability is at least `min_confidence`.

    Attributes:
        min_confidence: In hundredths; 1 marks nothing but what is certain.
        cases: On how many validation cases it was chosen.
    """

    min_confidence: float
    cases: int

    @property
    def note(self) -> str:
        """One sentence for cards."""
        return (
            f"Places whose largest probability is below {self.min_confidence:.2f} are no marks: the lowest number with "
            f"at most {MAX_FALSE_MARKS:g} false marks an exam on {self.cases} validation cases (ours)."
        )


def operating_point(false_marks: Sequence[float], cases: int) -> OperatingPoint | None:
    """The lowest confidence that at most `MAX_FALSE_MARKS` false marks an exam reach.

    None where none is needed, and where none is enough: too many false marks are certain.

    Args:
        false_marks: Confidence of each false mark on the cases together.
    """
    allowed = math.floor(MAX_FALSE_MARKS * cases)
    if len(false_marks) <= allowed:
        return None
    surest = sorted(false_marks, reverse=True)[allowed]  # of those that are too many
    if surest >= 1:
        return None
    step = next(step for step in range(math.floor(surest * _STEPS), _STEPS + 1) if step / _STEPS > surest)
    return OperatingPoint(step / _STEPS, cases)
