"""How sure each arm is, voxel by voxel, of the one label that matters most."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..study.comparison import Comparison
from ..terms import Label
from .display import Display
from .encoding import encode_labels

STEPS = 255
_FIRST_CHOICE = (Label.CSPCA, Label.PROSTATE)


def probability_label(comparison: Comparison) -> str | None:
    """The label whose probability both arms give: cancer, else the prostate, else the first that is no background."""
    names = [str(name) for name in comparison.a.probabilities if name in comparison.b.probabilities]
    chosen = [str(name) for name in _FIRST_CHOICE if name in names]
    chosen += [name for name in names if name != Label.BACKGROUND]
    return chosen[0] if chosen else None


def probability_layers(comparison: Comparison, display: Display) -> dict[str, Any]:
    """Layers of 0..255 for probabilities of 0..1, by arm; none where the arms give no probability."""
    label = probability_label(comparison)
    if label is None or comparison.task.output != "segmentation":
        return {}
    layers = {}
    for who, result in (("a", comparison.a), ("b", comparison.b)):
        share = np.clip(display.image(result.probabilities[label]), 0.0, 1.0)
        layers[f"probability:{who}"] = {**encode_labels(np.rint(share * STEPS)), "scale": 1 / STEPS}
    return layers
