"""What all tasks have in common: what a network sees, probabilities of logits, cases cut around the gland."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import SOURCE, decode
from task_cases import a_scan, prepared_for

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import DatasetError, MissingSequenceError
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import activated, slice_axis
from VFMTransferLib.tasks.super_resolution.task import doubled_in_plane


def test_softmax_and_sigmoid_by_hand():
    np.testing.assert_allclose(activated(np.log([[1.0], [3.0]]), "softmax"), [[0.25], [0.75]])
    np.testing.assert_allclose(activated(np.array([[0.0], [np.log(3)], [-900.0]]), "sigmoid"), [[0.5], [0.75], [0]])


def test_softmax_of_large_logits_does_not_overflow():
    np.testing.assert_allclose(activated(np.array([[1000.0], [1000.0]]), "softmax"), 0.5)


def test_slice_axis_is_the_one_towards_superior():
    sagittal = Geometry((9, 12, 10), (3.0, 0.6, 0.6), direction=(0, 1, 0, 0, 0, 1, 1, 0, 0))
    assert slice_axis(sagittal) == 0
    assert doubled_in_plane(sagittal).size == (9, 24, 20)


def test_unknown_phase_axis_is_refused(a_case):
    prepared, spec = prepared_for(a_case, "distortion-correction")
    with pytest.raises(ValueError, match="left-right"):
        decode(np.zeros((1, *prepared.region.shape), np.float32), prepared, a_case, spec, SOURCE, phase_axis="j")


@pytest.mark.parametrize("task", list(TASKS))
def test_a_network_sees_the_tasks_sequences_and_no_mask(phantom, task):
    study = TASKS[task].from_phantom(phantom)
    assert study.case.sequences == TASKS[task].sequences
    assert study.case.gland is None
    assert study.is_phantom


def test_phantoms_hold_the_truth_of_segmentation_and_classification(phantom):
    anatomy = TASKS["anatomy-segmentation"].from_phantom(phantom).masks
    zones = anatomy[Label.PERIPHERAL_ZONE].array + anatomy[Label.TRANSITION_ZONE].array
    np.testing.assert_array_equal(zones, anatomy[Label.PROSTATE].array)
    lesion = TASKS["lesion-segmentation"].from_phantom(phantom)
    np.testing.assert_array_equal(lesion.masks[Label.CSPCA].array, phantom.lesion.array >= 2)
    assert lesion.is_significant == phantom.clinically_significant
    assert TASKS["classification"].from_phantom(phantom).category == f"PI-RADS {phantom.pirads}"


def test_a_phantom_without_its_twin_is_refused(phantom):
    with pytest.raises(DatasetError, match="full_resolution=True"):
        TASKS["super-resolution"].from_phantom(replace(phantom, t2w_full_resolution=None))
    with pytest.raises(DatasetError, match="with hbv and adc"):
        TASKS["adc-translation"].from_phantom(replace(phantom, diffusion=None))


def test_a_scan_holds_no_labels_and_no_image_that_it_lacks():
    with pytest.raises(DatasetError, match="needs labels"):
        TASKS["lesion-segmentation"].from_scan(a_scan())
    t2w_alone = Case("scan", {Sequence.T2W: a_scan()[Sequence.T2W]})
    with pytest.raises(MissingSequenceError):
        TASKS["distortion-correction"].from_scan(t2w_alone)


@pytest.mark.parametrize("task", list(TASKS))
def test_cut_around_the_gland_every_voxel_stays_where_it_was(phantom, task):
    whole = TASKS[task].from_phantom(phantom)
    part = TASKS[task].around_gland(whole, 60.0)
    assert part.gland.array.sum() == whole.gland.array.sum()
    pairs = [(part.case[s], whole.case[s]) for s in part.case.sequences]
    pairs += [(part.images[name], whole.images[name]) for name in part.images]
    pairs += [(part.masks[label], whole.masks[label]) for label in part.masks]
    for cut, full in pairs:
        assert cut.array.shape[1] * cut.geometry.spacing_mm[1] <= 66
        np.testing.assert_allclose(full.resample_to(cut.geometry).array, cut.array, atol=1e-3 * np.abs(cut.array).max())


def test_a_case_without_gland_cannot_be_cut_around_it():
    with pytest.raises(DatasetError, match="mask of the prostate"):
        TASKS["adc-translation"].around_gland(TASKS["adc-translation"].from_scan(a_scan()), 60.0)
