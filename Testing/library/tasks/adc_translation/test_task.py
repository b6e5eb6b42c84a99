"""A synthetic ADC has the unit and the grid of its truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import SOURCE, decode
from task_cases import a_scan, prepared_for

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.phantom import make_phantom, write_phantom
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.training.cases import read_labeled


def test_synthetic_adc_is_in_square_micrometers_per_second_on_the_t2w_grid(a_case):
    prepared, spec = prepared_for(a_case, "adc-translation")
    output = np.full((1, *prepared.region.shape), 1.25, np.float32)
    output[:, :, :, -20:] = -1
    result = decode(output, prepared, a_case, spec, SOURCE)
    adc = result.images["adc-synthetic"]
    assert adc.geometry == a_case[Sequence.T2W].geometry
    assert adc.array.min() == 0
    assert adc.array.max() == pytest.approx(1250)
    assert any("not measured" in note.text for note in result.provenance.notes)


def test_translation_takes_the_measured_adc_for_the_truth():
    scan = a_scan()
    study = TASKS["adc-translation"].from_scan(scan)
    assert study.case.sequences == (Sequence.T2W,)
    assert study.images == {ADC_SYNTHETIC: scan[Sequence.ADC]}


def test_the_naive_baseline_is_the_mean_adc_of_the_cases_own_zones(phantom):
    task = TASKS["adc-translation"]
    study = task.from_phantom(phantom)
    image = task.naive_baseline([])(study).images[ADC_SYNTHETIC].array
    adc = phantom.diffusion.adc_true
    for number in (1, 2):
        there = (phantom.zones.resample_to(adc.geometry, "nearest").array == number) & (adc.array > 0)
        assert np.unique(image[phantom.zones.array == number]) == pytest.approx(adc.array[there].mean())
    whole = task.naive_baseline([])(replace(study, masks={})).images[ADC_SYNTHETIC].array
    assert len(np.unique(whole)) == 2  # without zones: the gland, and what lies outside


def test_only_voxels_whose_truth_is_all_measured_count():
    """A truth of one number with nothing measured around it, on a grid three times as coarse as the result's."""
    task = TASKS["adc-translation"]
    coarse, fine = Geometry((30, 30, 4), (2.0, 2.0, 3.0)), Geometry((90, 90, 4), (0.65, 0.65, 3.0))
    _, j, i = np.indices(coarse.shape)
    adc = np.where((i - 14.5) ** 2 + (j - 14.5) ** 2 < 100, 1500, 0).astype(np.float32)
    case = Case("p", {Sequence.T2W: Volume(np.ones(fine.shape, np.float32), fine)})
    labeled = task.labeled(case, images={ADC_SYNTHETIC: Volume(adc, coarse)})
    perfect = Volume(np.full(fine.shape, 1500, np.float32), fine)
    result = task.baseline_result(labeled, images={ADC_SYNTHETIC: perfect})
    assert task.score(result, labeled).values["mae"] == pytest.approx(0, abs=0.1)
    region = task.region_on(Volume(adc, coarse), fine)
    there = Volume(adc, coarse).resample_to(fine).array
    assert region.sum() > 0.8 * (there > 750).sum()
    assert there[region].min() == pytest.approx(1500, rel=2e-3)


def test_zones_on_disk_are_read_for_the_baseline(tmp_path):
    write_phantom(make_phantom(3, t2w_spacing_mm=(3.0, 3.0, 4.0)), tmp_path / "case")
    study = read_labeled(tmp_path / "case", "adc-translation")
    assert set(study.masks) == {Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE}
