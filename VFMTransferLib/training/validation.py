"""Validation of a network in training, by the same way that a user predicts: windows, placement, result, score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import nn

from ..core.placement import Prepared
from ..core.result import Provenance, Result
from ..encoders.base import ModelSpec
from ..inference.windows import infer
from ..metrics.calibration import Calibration
from ..tasks import task_of
from ..tasks.base import DecodeOptions, LabeledCase, NetworkOutput
from ..tasks.scores import Scores, score_results
from .samples import prepare_labeled

_SOURCE = Provenance("in-training", "in training", "", "", "torch", "cpu", "fp32")


def on_arrays(network: nn.Module) -> Callable[..., np.ndarray]:
    """A network in evaluation mode as `infer` runs one: from the arrays of a batch to its output, an array."""

    def run(*arrays: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
            return network(*(torch.from_numpy(array).to(device) for array in arrays)).float().cpu().numpy()

    return run


class ValidationCases:
    """Cases with their truth, prepared once, on which networks of one kind are validated."""

    def __init__(self, spec: ModelSpec, cases: Iterable[LabeledCase]) -> None:
        self.spec = spec
        self.cases: list[tuple[LabeledCase, Prepared]] = [(case, prepare_labeled(case, spec)) for case in cases]

    def scores(self, network: nn.Module, calibration: Calibration | None = None) -> Scores:
        """How good a network in evaluation mode is, its classes calibrated where that is given."""
        return score_results(str(self.spec.task), self.results(network, calibration))

    def results(
        self, network: nn.Module, calibration: Calibration | None = None
    ) -> Iterator[tuple[Result, LabeledCase]]:
        """The result of a network in evaluation mode on each case, and the case."""
        run = on_arrays(network)
        for case, prepared in self.cases:
            logits = infer(run, prepared, self.spec)
            options = DecodeOptions(phase_axis=case.phase_axis, gland=case.gland, calibration=calibration)
            output = NetworkOutput(logits, prepared, case.case, self.spec, _SOURCE, options)
            yield task_of(self.spec).decode(output), case
