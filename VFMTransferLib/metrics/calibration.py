"""Class probabilities that equal frequencies: one temperature, and a bias for each class.

Networks tend to be surer than they are right, which dividing their logits by one temperature corrects (Guo et al., "On
Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599). Ours also learn with classes balanced, as if all
were equally frequent, which a bias a class corrects (bias-corrected temperature scaling, Alexandari et al., ICML 2020,
arXiv 1901.06852). Both are fitted on validation cases by penalized likelihood, since these are few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.notes import Note

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Calibration:
    """How logits become calibrated ones: divided by the temperature, plus the bias of their class.

    Attributes:
        temperature: Above 1 where the network was too sure.
        bias: Of each class, in the order of the output's channels.
        cases: On how many validation cases it was fitted.
    """

    temperature: float
    bias: tuple[float, ...]
    cases: int

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits; the first axis is the class."""
        import numpy as np  # not above: bundles can be listed where numpy is missing

        bias = np.asarray(self.bias, np.float32).reshape(-1, *[1] * (logits.ndim - 1))
        return logits / np.float32(self.temperature) + bias

    @property
    def note(self) -> Note:
        """One sentence for results and cards."""
        return Note(
            "calibration",
            f"Class probabilities are calibrated on {self.cases} validation cases: temperature {self.temperature:.2f} "
            f"and a bias of {', '.join(f'{bias:+.2f}' for bias in self.bias)} (Guo et al. 2017).",
        )
