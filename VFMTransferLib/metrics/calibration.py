"""Class probabilities that come true as often as they say: one temperature, and a bias for each class.

Networks tend to be surer than they are right, which dividing their logits by one temperature mends (Guo et al., "On
Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599). Ours also learn with classes balanced, as if all
were equally frequent, which a bias for each class mends (its vector scaling with one common factor; Alexandari et al.,
ICML 2020, arXiv 1901.06852, call it bias-corrected temperature scaling). Both are fitted on validation cases by
penalized likelihood, since these are few: what is expected without any case is the network as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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

    def of(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits; the first axis is the class."""
        import numpy as np  # not above: bundles can be listed where numpy is missing

        bias = np.asarray(self.bias, np.float32).reshape(-1, *[1] * (logits.ndim - 1))
        return logits / np.float32(self.temperature) + bias

    @property
    def note(self) -> str:
        """One sentence for results and cards."""
        return (
            f"Class probabilities are calibrated on {self.cases} validation cases: temperature {self.temperature:.2f} "
            f"and a bias of {', '.join(f'{bias:+.2f}' for bias in self.bias)} (Guo et al. 2017)."
        )


# Fit the calibration of class probabilities on validation cases; how far probabilities are from frequencies.

# Standard deviations of the penalty: a temperature off by a factor of 1.6, or odds off by a factor of e, are each as
# likely as a normal variable that is one deviation off.
_LOG_TEMPERATURE_SD = 0.5
_BIAS_SD = 1.0
_DIGITS = 6  # of what is stored: far below what cases can tell, far above rounding
_BINS = 10


def fit_calibration(logits: np.ndarray, possible: np.ndarray) -> Calibration:
    """The calibration under which what is known of cases is likeliest, with a penalty for leaving the network as it is.

    Args:
        logits: (N, C), of the network; logarithms of its probabilities serve as well.
        possible: (N, C), True for the class that a case has, or for all that it may have.

    Raises:
        ValueError: There are no cases, or one can have no class.
    """
    from scipy.optimize import minimize  # takes longer to import than a prediction may wait

    logits, possible = np.asarray(logits, float), np.asarray(possible, bool)
    if not len(logits) or logits.shape != possible.shape or not possible.any(axis=1).all():
        raise ValueError(f"Each of 1 or more cases must have a class, got {logits.shape} and {possible.shape}.")
    found = minimize(penalized_loss, np.zeros(1 + logits.shape[1]), (logits, possible), "L-BFGS-B", jac=True)
    log_scale, *bias = (round(float(value), _DIGITS) + 0.0 for value in found.x)
    return Calibration(round(math.exp(-log_scale), _DIGITS), tuple(bias), len(logits))


def penalized_loss(parameters: np.ndarray, logits: np.ndarray, possible: np.ndarray) -> tuple[float, np.ndarray]:
    """What `fit_calibration` minimizes, and its gradient.

    Args:
        parameters: Logarithm of 1 / temperature, then the biases.
        logits, possible: As there.
    """
    scale, bias = math.exp(parameters[0]), parameters[1:]
    calibrated = scale * logits + bias
    everything = _log_sum(calibrated)
    known = np.where(possible, calibrated, -np.inf)
    wrong = np.exp(calibrated - everything) - np.exp(known - _log_sum(known))  # (N, C), gradient of the loss
    deviations = parameters / np.array([_LOG_TEMPERATURE_SD, *[_BIAS_SD] * len(bias)])
    loss = float((everything - _log_sum(known)).sum() + 0.5 * (deviations**2).sum())
    gradient = np.array([scale * (wrong * logits).sum(), *wrong.sum(axis=0)])
    return loss, gradient + deviations / np.array([_LOG_TEMPERATURE_SD, *[_BIAS_SD] * len(bias)])


def expected_calibration_error(probabilities: Sequence[float], happened: Sequence[bool], bins: int = _BINS) -> float:
    """How far probabilities are from frequencies: the mean over cases of their bin's difference (Guo et al., eq. 3).

    Args:
        probabilities: Of what may happen, 0..1.
        happened: Whether it did.
        bins: Bins of equal width.

    Returns:
        0..1; `nan` without cases. Of few cases it is large by chance alone.
    """
    said, came = np.asarray(probabilities, float), np.asarray(happened, float)
    if not len(said):
        return math.nan
    place = np.minimum((said * bins).astype(int), bins - 1)
    gaps = np.bincount(place, said - came, minlength=bins)  # bin's cases times its difference of means
    return float(np.abs(gaps).sum() / len(said))


def _log_sum(logits: np.ndarray) -> np.ndarray:
    """Logarithm of the sum of exponentials over classes, (N, 1)."""
    most = logits.max(axis=1, keepdims=True)
    return most + np.log(np.exp(logits - most).sum(axis=1, keepdims=True))
