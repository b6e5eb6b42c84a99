"""Two sets of class probabilities against each other, and each against the true class."""

from __future__ import annotations

from ..core.errors import BundleError, ImageError
from ..metrics.classification import log_loss
from .measures import Between, Measure, measure

ALL_CLASSES = "all classes"


def probability_measures(a: dict[str, float], b: dict[str, float]) -> tuple[Measure, ...]:
    """Both probabilities of each name, and A's minus B's."""
    found: list[Measure] = []
    for name in (name for name in a if name in b):
        found.append(measure("probability", name, Between.A, a[name]))
        found.append(measure("probability", name, Between.B, b[name]))
        found.append(measure("probability_difference", name, Between.A_B, a[name] - b[name]))
    return tuple(found)


def classification_measures(a: dict[str, float], b: dict[str, float], truth: str | None) -> tuple[Measure, ...]:
    """Probability of each class, the distance of A from B, and the loss where the class is known.

    Args:
        a: Class → probability by A.
        b: Class → probability by B.
        truth: The class that the case has, if known.

    Raises:
        BundleError: A and B know different classes.
        ImageError: `truth` is none of them.
    """
    if set(a) != set(b):
        raise BundleError(f"A and B must know the same classes, got {', '.join(a)} and {', '.join(b)}.")
    if truth is not None and truth not in a:
        raise ImageError(f"The reference must be one of {', '.join(a)}, got '{truth}'.")
    found = list(probability_measures(a, b))
    distance = sum(abs(a[name] - b[name]) for name in a) / 2
    found.append(measure("total_variation", ALL_CLASSES, Between.A_B, distance))
    if truth is not None:
        found.append(_log_loss(Between.A_REFERENCE, a[truth], truth))
        found.append(_log_loss(Between.B_REFERENCE, b[truth], truth))
    return tuple(found)


def most_probable(probabilities: dict[str, float]) -> str:
    """The class with the highest probability."""
    return max(probabilities, key=lambda name: probabilities[name])


def _log_loss(between: Between, probability: float, truth: str) -> Measure:
    return measure("log_loss", ALL_CLASSES, between, log_loss(probability), f"true class: {truth}")
