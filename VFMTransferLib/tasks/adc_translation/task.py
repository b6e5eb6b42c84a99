"""A synthetic ADC from T2w alone, in 1e-6 mm²/s; its error counts over tissue and over the gland."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...core.case import Case
from ...core.errors import DatasetError
from ...core.placement import to_reference
from ...core.result import Result
from ...core.terms import Sequence as MRSequence
from ...core.volume import Volume
from ..base import LabeledCase, Method, NetworkOutput
from ..image_to_image import ImageTask

if TYPE_CHECKING:
    from ...phantom import Phantom
    from .training import AdcTraining

ADC_SYNTHETIC = "adc-synthetic"
ADC_PER_OUTPUT = 1000.0  # networks give ADC in 1e-3 mm²/s, so that tissue is near 1; volumes hold 1e-6 mm²/s


class AdcTranslation(ImageTask):
    """Truth: the measured ADC, where it shows tissue."""

    id = "adc-translation"
    title = "T2w→ADC translation"
    short_title = "T2w→ADC"
    network_title = "T2w→ADC translation"
    sequences = (MRSequence.T2W,)
    truth_sequences = (MRSequence.T2W, MRSequence.ADC)
    outputs = (ADC_SYNTHETIC,)
    initial_output = 1.2
    metric = "mae"
    higher_is_better = False
    baseline = "mean-adc"
    card_measures = ("mae", "ssim", "mae gland")
    example_measures = ("mae", "ssim")
    measured_by = MRSequence.ADC

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        if phantom.diffusion is None:
            raise DatasetError(f"A phantom for {self.title} must be made with hbv and adc.")
        return self.labeled(phantom.case, gland=phantom.gland, images={ADC_SYNTHETIC: phantom.diffusion.adc_true})

    def from_scan(self, case: Case, *, seed: int = 0, gland: Volume | None = None) -> LabeledCase:
        return self.labeled(case, gland=gland, is_phantom=False, images={ADC_SYNTHETIC: case[MRSequence.ADC]})

    def measured_region(self, truth: Volume) -> np.ndarray:
        """Where diffusion shows tissue: elsewhere nothing was measured."""
        return truth.array > 0

    def decode(self, output: NetworkOutput) -> Result:
        adc = to_reference(np.maximum(output.logits[0], 0) * ADC_PER_OUTPUT, output.prepared, ADC_SYNTHETIC)
        provenance = output.provenance.with_notes(
            "adc-synthetic was made from T2w alone (1e-6 mm²/s); it was not measured.",
            "Where diffusion shows nothing (fat, air, cortical bone) nothing was learned, and its values mean nothing.",
        )
        return Result(output.case.id, self.id, provenance, images={ADC_SYNTHETIC: adc})

    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """The mean ADC of the training cases, inside and outside of the gland, whose true mask it is given."""
        self.require_training(training)
        inside, outside = (np.concatenate(parts) for parts in zip(*map(_adc_of_tissue, training), strict=True))
        if not len(inside) or not len(outside):
            raise DatasetError(
                "The mean ADC needs training cases whose ADC shows tissue inside and outside of the gland."
            )
        means = np.array([outside.mean(), inside.mean()], np.float32)

        def baseline(labeled: LabeledCase) -> Result:
            grid = labeled.case[MRSequence.T2W].geometry
            gland = _gland(labeled).resample_to(grid, "nearest").array > 0
            adc = Volume(means[gland.astype(int)], grid, ADC_SYNTHETIC)
            return self.baseline_result(labeled, images={ADC_SYNTHETIC: adc})

        return baseline

    def training(self) -> AdcTraining:
        from .training import AdcTraining

        return AdcTraining(self)


def _adc_of_tissue(labeled: LabeledCase) -> tuple[np.ndarray, np.ndarray]:
    """Values of the true ADC inside and outside of the gland, where it shows tissue."""
    adc = labeled.images[ADC_SYNTHETIC]
    gland = _gland(labeled).resample_to(adc.geometry, "nearest").array > 0
    tissue = adc.array > 0
    return adc.array[gland & tissue], adc.array[~gland & tissue]


def _gland(labeled: LabeledCase) -> Volume:
    if labeled.gland is None:
        raise DatasetError(f"The mean ADC needs the gland of case '{labeled.case.id}', which has no mask. Draw one.")
    return labeled.gland


TASK = AdcTranslation()
