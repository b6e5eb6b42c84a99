"""A synthetic ADC from T2w alone, in 1e-6 mm²/s; its error counts over tissue and over the gland."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.case import Case
from ...core.errors import DatasetError
from ...core.placement import to_reference
from ...core.result import Result
from ...core.terms import Label
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry, Volume
from ..base import CaseFiles, LabeledCase, Method, NetworkOutput, read_label_map
from ..image_to_image import ImageTask

if TYPE_CHECKING:
    from ...phantom import Phantom
    from .training import AdcTraining

ADC_SYNTHETIC = "adc-synthetic"
_ZONES = {Label.PERIPHERAL_ZONE: 1, Label.TRANSITION_ZONE: 2}  # their values in label maps
ADC_PER_OUTPUT = 1000.0  # networks give ADC in 1e-3 mm²/s, so that tissue is near 1; volumes hold 1e-6 mm²/s


class AdcTranslation(ImageTask):
    """Truth: the measured ADC, where it shows tissue."""

    id = "adc-translation"
    title = "T2w→ADC translation"
    short_title = "T2w→ADC"
    network_title = "T2w→ADC translation"
    intended_use = "Research on translation: an ADC made from T2w, beside a measured one."
    inappropriate_settings = (
        "Any measurement or search for cancer: restricted diffusion that T2w does not show cannot be in it.",
        "Use in place of a diffusion scan that is missing.",
    )
    stop_using_when = (
        "On own cases its error in the gland exceeds that of the mean ADC of their own zones.",
        "It is shown or stored without the word synthetic.",
    )
    sequences = (MRSequence.T2W,)
    truth_sequences = (MRSequence.T2W, MRSequence.ADC)
    outputs = (ADC_SYNTHETIC,)
    initial_output = 1.2
    metric = "mae"
    higher_is_better = False
    baseline = "zone-adc"
    card_measures = ("mae", "ssim", "mae gland")
    example_measures = ("mae", "ssim")
    measured_by = MRSequence.ADC

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        if phantom.diffusion is None:
            raise DatasetError(f"A phantom for {self.title} must be made with hbv and adc.")
        truth = {ADC_SYNTHETIC: phantom.diffusion.adc_true}
        return self.labeled(phantom.case, gland=phantom.gland, masks=_zones(phantom.zones), images=truth)

    def from_scan(self, case: Case, *, seed: int = 0, gland: Volume | None = None) -> LabeledCase:
        return self.labeled(case, gland=gland, is_phantom=False, images={ADC_SYNTHETIC: case[MRSequence.ADC]})

    def read_labeled(self, files: CaseFiles) -> LabeledCase:
        zones = read_label_map(files.folder, files.names.zones)
        return replace(super().read_labeled(files), masks={} if zones is None else _zones(zones))

    def measured_region(self, truth: Volume) -> np.ndarray:
        """Where diffusion shows tissue: elsewhere nothing was measured."""
        return truth.array > 0

    def naive_image(self, case: Case, output: str, grid: Geometry, reference: Volume | None) -> Volume | None:
        """The reference's own mean over tissue, everywhere: the best that one number can do; None without one."""
        if reference is None or not (reference.array > 0).any():
            return None
        mean = np.float32(reference.array[reference.array > 0].mean())
        return Volume(np.full(grid.shape, mean, np.float32), grid, output)

    def decode(self, output: NetworkOutput) -> Result:
        adc = to_reference(np.maximum(output.logits[0], 0) * ADC_PER_OUTPUT, output.prepared, ADC_SYNTHETIC)
        provenance = output.provenance.with_notes(
            "adc-synthetic was made from T2w alone (1e-6 mm²/s); it was not measured.",
            "Where diffusion shows nothing (fat, air, cortical bone) nothing was learned, and its values mean nothing.",
        )
        return Result(output.case.id, self.id, provenance, images={ADC_SYNTHETIC: adc})

    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """The mean of the case's own true ADC in each of its zones, and outside of the gland.

        It is given zones and ADC of the case itself, of the gland alone where there are no zones: what a network adds
        to it is the pattern within a zone. Ours.
        """

        def baseline(labeled: LabeledCase) -> Result:
            grid, truth = labeled.case[MRSequence.T2W].geometry, labeled.images[ADC_SYNTHETIC]
            regions = [_gland(labeled), *(mask for label, mask in labeled.masks.items() if label in _ZONES)]
            tissue = truth.array > 0
            inside = [mask.resample_to(truth.geometry, "nearest").array > 0 for mask in regions]
            values = [truth.array[~inside[0] & tissue], *(truth.array[mask & tissue] for mask in inside)]
            if not len(values[0]) or not len(values[1]):
                raise DatasetError(
                    f"The mean ADC of case '{labeled.case.id}' needs an ADC that shows tissue inside and outside of "
                    "the gland."
                )
            adc = np.full(grid.shape, values[0].mean(), np.float32)
            for mask, own in zip(regions, values[1:], strict=True):  # the gland, and its zones over it
                if len(own):
                    adc[mask.resample_to(grid, "nearest").array > 0] = own.mean()
            return self.baseline_result(labeled, images={ADC_SYNTHETIC: Volume(adc, grid, ADC_SYNTHETIC)})

        return baseline

    def training(self) -> AdcTraining:
        from .training import AdcTraining

        return AdcTraining(self)


def _zones(zones: Volume) -> dict[Label, Volume]:
    """A mask for each zone of a label map."""
    return {label: zones.with_array((zones.array == number).astype(np.uint8)) for label, number in _ZONES.items()}


def _gland(labeled: LabeledCase) -> Volume:
    if labeled.gland is None:
        raise DatasetError(f"The mean ADC needs the gland of case '{labeled.case.id}', which has no mask. Draw one.")
    return labeled.gland


TASK = AdcTranslation()
