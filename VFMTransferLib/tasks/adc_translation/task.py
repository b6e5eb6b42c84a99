"""A synthetic ADC from T2w alone, in 1e-6 mm²/s; its error counts over tissue and over the gland."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.case import Case
from ...core.errors import DatasetError
from ...core.notes import Note
from ...core.placement import to_reference
from ...core.result import Result
from ...core.terms import Label
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry, Volume
from ..base import ZONE_VALUES, CaseFiles, LabeledCase, Method, NetworkOutput, read_truth
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
    naive_title = "Mean ADC by region"
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
        zones = read_truth(files, files.names.zones, ZONE_VALUES)
        return replace(super().read_labeled(files), masks={} if zones is None else _zones(zones))

    def measured_region(self, truth: Volume) -> np.ndarray:
        """Where diffusion shows tissue: elsewhere nothing was measured."""
        return truth.array > 0

    def naive_image(self, case: Case, output: str, grid: Geometry, reference: Volume | None) -> Volume | None:
        """The reference's own mean in each zone, the gland and all else: the best that one number a region can do.

        None without a reference, or where it does not show tissue inside and outside of the gland.
        """
        if reference is None:
            return None
        zones = [case.zones[zone] for zone in _ZONES if zone in case.zones]
        means = _regional_means(reference, [] if case.gland is None else [case.gland, *zones], grid)
        return None if means is None else Volume(means, grid, output)

    def decode(self, output: NetworkOutput) -> Result:
        adc = to_reference(np.maximum(output.logits[0], 0) * ADC_PER_OUTPUT, output.prepared, ADC_SYNTHETIC)
        provenance = output.provenance.with_notes(
            Note("synthetic", "adc-synthetic was made from T2w alone (1e-6 mm²/s); it was not measured."),
            Note(
                "no-diffusion",
                "Where diffusion shows nothing (fat, air, cortical bone) nothing was learned, and its values mean "
                "nothing.",
            ),
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
            adc = _regional_means(truth, regions, grid)
            if adc is None:
                raise DatasetError(
                    f"The mean ADC of case '{labeled.case.id}' needs an ADC that shows tissue inside and outside of "
                    "the gland."
                )
            return self.baseline_result(labeled, images={ADC_SYNTHETIC: Volume(adc, grid, ADC_SYNTHETIC)})

        return baseline

    def training(self) -> AdcTraining:
        from .training import AdcTraining

        return AdcTraining(self)


def _zones(zones: Volume) -> dict[Label, Volume]:
    """A mask for each zone of a label map."""
    return {label: zones.with_array((zones.array == number).astype(np.uint8)) for label, number in _ZONES.items()}


def _regional_means(adc: Volume, regions: Sequence[Volume], grid: Geometry) -> np.ndarray | None:
    """The mean ADC of each region's tissue where that region is, and of the remaining tissue elsewhere.

    Args:
        adc: Shows tissue where it is above 0.
        regions: Masks: the gland, then its zones, which are laid over it; none where the gland is not known.
        grid: Of what is returned, (D, H, W), float32.

    Returns:
        None where the gland or what lies outside of it shows no tissue. A zone without tissue has the gland's mean.
    """
    tissue = adc.array > 0
    inside = [region.resample_to(adc.geometry, "nearest").array > 0 for region in regions]
    values = [adc.array[tissue & mask] for mask in inside]
    rest = adc.array[tissue & ~inside[0]] if inside else adc.array[tissue]
    if not len(rest) or (values and not len(values[0])):
        return None
    means = np.full(grid.shape, rest.mean(), np.float32)
    for region, own in zip(regions, values, strict=True):
        if len(own):
            means[region.resample_to(grid, "nearest").array > 0] = own.mean()
    return means


def _gland(labeled: LabeledCase) -> Volume:
    if labeled.gland is None:
        raise DatasetError(f"The mean ADC needs the gland of case '{labeled.case.id}', which has no mask. Draw one.")
    return labeled.gland


TASK = AdcTranslation()
