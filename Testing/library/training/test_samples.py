"""Samples are what prediction shows a network, unvaried, and stay finite however they are varied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from slice_cases import SPEC, a_case, a_sliced_case
from specs import prepare
from study_examples import FAMILIES, a_study, tiny_study_spec
from torch import Generator, nn
from training_cases import ANTERIOR, OBLIQUE, tiny_case, tiny_crops, tiny_spec

from VFMTransferLib.core.errors import DatasetError, MissingSequenceError
from VFMTransferLib.core.placement import cut
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.inputs import neighbor_slices, scale_slices
from VFMTransferLib.inference.windows import infer
from VFMTransferLib.tasks.training import Objective, collate
from VFMTransferLib.training.config import NO_AUGMENTATION, Augmentation
from VFMTransferLib.training.samples import (
    SLICES_A_CASE,
    TARGET_STRIDE,
    crop_samples,
    prepare_labeled,
    samples_of,
    slice_samples,
)


@pytest.mark.parametrize("direction", [OBLIQUE, ANTERIOR])
def test_a_plain_view_is_the_input_that_prediction_makes(direction):
    spec = tiny_spec()
    case, mask = tiny_case(0, direction)
    prepared = prepare(case, spec)
    expected = cut(prepared.array, prepared.starts[0], prepared.patch)
    image, _ = crop_samples(case, spec, [mask]).view(torch.Generator())
    # The case is kept in half precision.
    np.testing.assert_allclose(image.numpy(), expected, atol=5e-3)


def test_a_target_is_the_labels_share_of_each_block_of_the_input():
    spec = tiny_spec()
    case, mask = tiny_case(0)
    _, target = crop_samples(case, spec, [mask]).view(torch.Generator())
    assert target.shape == (1, 8, 16, 24)
    prepared = prepare(case, spec)
    fine = mask.with_array(mask.array.astype(np.float32)).resample_to(prepared.geometry).array
    window = torch.from_numpy(cut(fine[None], prepared.starts[0], prepared.patch))[None]
    blocks = torch.nn.functional.avg_pool3d(window, 2)[0]
    assert (target - blocks).abs().mean() < 0.02


def test_an_empty_mask_is_refused():
    case, mask = tiny_case(0)
    with pytest.raises(DatasetError, match="must cover at least one voxel"):
        crop_samples(case, tiny_spec(), [mask.with_array(0 * mask.array)])


def test_random_views_stay_finite_and_leave_the_case_unchanged():
    case = tiny_crops(1)
    image, labels = case.image.clone(), case.labels.clone()
    how = Augmentation(narrow=1.0, thick=1.0, coarse=1.0, contrast=1.0, elastic=1.0)
    for seed in range(10):
        view, target = case.view(torch.Generator().manual_seed(seed), how)
        assert torch.isfinite(view).all()
        assert target.min() >= 0
        assert target.max() <= 1 + 1e-6
    assert torch.equal(case.image, image)
    assert torch.equal(case.labels, labels)


def test_channels_without_a_sequence_stay_zero():
    image, _ = tiny_crops(0).view(torch.Generator().manual_seed(1), Augmentation())
    assert image[0].any()
    assert not image[1:].any()


def test_a_sequence_that_a_case_lacks_stays_zero_however_views_vary():
    """Noise and level belong to what was scanned; a missing image that varied would be a target of noise."""
    grid = replace(tiny_spec().preprocess, sequences=(Sequence.T2W, Sequence.HBV, None))
    case, how = tiny_crops(0, replace(tiny_spec(), preprocess=grid)), Augmentation(noise=1.0, level=0.3)
    for seed in range(4):
        image, _ = case.view(torch.Generator().manual_seed(seed), how)
        assert image[0].any()
        assert not image[1].any()


def test_a_case_without_labels_gives_no_target():
    case, _ = tiny_case(0)
    assert crop_samples(case, tiny_spec()).view(torch.Generator())[1] is None


def test_an_unvaried_sample_is_what_prediction_shows_the_network():
    case, gland, classes = a_case()
    windows, position, maps = slice_samples(case, SPEC, gland, classes).view(Generator().manual_seed(1))
    prepared = prepare(case, SPEC, gland=gland)
    z = int(position[0])
    assert position.tolist() == [z, 7]
    _, y, x = prepared.starts[z]
    padded = np.pad(prepared.array, ((0, 0), (0, 0), (64, 64), (64, 64)))
    window = padded[:, list(neighbor_slices(z, 7)), y + 64 : y + 128, x + 64 : x + 128]
    np.testing.assert_allclose(windows.numpy(), scale_slices(window, 32), atol=0.01)  # images are kept as fp16
    truth = np.pad(classes.resample_to(prepared.geometry, "nearest").array, ((0, 0), (64, 64), (64, 64)))
    np.testing.assert_array_equal(maps[0].numpy(), truth[z, y + 64 : y + 128, x + 64 : x + 128])


def test_most_samples_hold_gland_and_the_ends_come_too():
    case = a_sliced_case()
    drawn = [case.view(Generator().manual_seed(i), Augmentation()) for i in range(60)]
    assert sum(bool(maps.any()) for _, _, maps in drawn) > 40
    assert {int(position[0]) for _, position, _ in drawn} == set(range(7))


def test_a_class_that_the_network_does_not_know_is_refused():
    case, gland, classes = a_case()
    with pytest.raises(DatasetError, match="must be below 4, but one is 9"):
        slice_samples(case, SPEC, gland, classes.with_array(classes.array * 3))


@pytest.mark.parametrize("task", ["super-resolution", "adc-translation"])
def test_an_unvaried_window_is_one_of_predictions(task):
    study, spec = a_study(task), tiny_study_spec("profound", task)
    prepared = prepare_labeled(study, spec)
    sample = samples_of(study, spec).sample(Generator().manual_seed(0), NO_AUGMENTATION)
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(1, 1, *x.shape[2:])

    infer(lambda *arrays: Recorder()(*map(torch.from_numpy, arrays)).numpy(), prepared, spec)
    assert min(float((sample.inputs[0] - window).abs().max()) for window in seen) < 0.02  # kept as fp16


@pytest.mark.parametrize("task", ["lesion-segmentation", "classification"])
def test_an_unvaried_view_is_predictions_crop_around_the_gland(task):
    study, spec = a_study(task), tiny_study_spec("profound", task)
    prepared = prepare_labeled(study, spec)
    assert prepared.centered_on == "gland"
    sample = samples_of(study, spec).sample(Generator(), NO_AUGMENTATION)
    z, y, x = prepared.starts[0]
    shown = np.s_[:, max(z, 0) : z + 16, max(y, 0) : y + 32, max(x, 0) : x + 48]
    expected = prepared.array[shown]
    given = sample.inputs[0][0][:, : expected.shape[1], : expected.shape[2], : expected.shape[3]].numpy()
    middle = np.s_[:, 2:-2, 2:-2, 2:-2]  # at the scan's own edge the two interpolate differently
    assert np.corrcoef(given[0][middle[1:]].ravel(), expected[0][middle[1:]].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("family", FAMILIES)
def test_in_the_mirror_a_displacement_to_the_left_points_to_the_right(family):
    study, spec = a_study("distortion-correction"), tiny_study_spec(family, "distortion-correction")
    study = replace(study, phase_axis="left-right")
    always, never = replace(NO_AUGMENTATION, flip=1.0), NO_AUGMENTATION
    samples = samples_of(study, spec)
    plain, flipped = (samples.sample(Generator().manual_seed(2), how).target[0] for how in (never, always))
    torch.testing.assert_close(flipped[0], -plain[0].flip(-1))
    torch.testing.assert_close(flipped[1:], plain[1:].flip(-1))
    along_y = samples_of(replace(study, phase_axis="anterior-posterior"), spec)
    plain, turned = (along_y.sample(Generator().manual_seed(2), how).target[0] for how in (never, always))
    torch.testing.assert_close(turned, plain.flip(-1))


def test_a_classifier_of_slices_is_trained_on_the_worst_slice_that_prediction_takes():
    study, spec = a_study("classification"), tiny_study_spec("provicnet", "classification")
    samples = samples_of(study, spec)
    assert samples.marked == tuple(z for z, _, _ in prepare_labeled(study, spec).starts)
    sample = samples.sample(Generator().manual_seed(0), NO_AUGMENTATION)
    assert sample.inputs[0].shape == (SLICES_A_CASE, 3, 64, 64)
    network = build_network(spec).eval()
    logits = network(*sample.inputs)
    severity = logits.softmax(dim=1) @ torch.arange(4.0)
    weights = (1.0, 1.0, 1.0, 1.0)
    expected = nn.functional.cross_entropy(logits[severity.argmax()][None], torch.tensor([samples.category]))
    torch.testing.assert_close(Objective(spec, weights).loss(network, collate([sample])), expected)


def test_varied_samples_repeat_with_their_seed_and_differ_with_another():
    for family in FAMILIES:
        samples = samples_of(a_study("adc-translation"), tiny_study_spec(family, "adc-translation"))
        a, again, b = (samples.sample(Generator().manual_seed(seed), Augmentation()).inputs[0] for seed in (1, 1, 2))
        assert torch.equal(a, again)
        assert not torch.equal(a, b)


def test_a_case_of_another_task_is_refused():
    with pytest.raises(DatasetError, match="must be for adc-translation, but is for super-resolution"):
        samples_of(a_study("super-resolution"), tiny_study_spec("profound", "adc-translation"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["lesion-segmentation", "classification"])
def test_a_labeled_case_without_a_sequence_that_the_network_takes_is_refused(family, task):
    labeled = a_study(task)
    lacking = replace(labeled, case=replace(labeled.case, volumes=dict(labeled.case.volumes)))
    del lacking.case.volumes[Sequence.ADC]
    with pytest.raises(MissingSequenceError, match="but lacks adc"):
        samples_of(lacking, tiny_study_spec(family, task))


def test_targets_of_lesions_are_half_as_fine_as_the_input():
    spec = tiny_study_spec("profound", "lesion-segmentation")
    sample = samples_of(a_study("lesion-segmentation"), spec).sample(Generator(), NO_AUGMENTATION)
    assert sample.target.shape == (1, 1, *(n // TARGET_STRIDE for n in spec.preprocess.patch))
    assert sample.target.max() > 0.2


@pytest.mark.parametrize("task", ["super-resolution", "classification"])
def test_unvaried_slices_are_those_of_prediction_also_where_windows_share_a_slice(task):
    study, spec = a_study(task), tiny_study_spec("provicnet", task)
    prepared = prepare_labeled(study, spec)
    several = len({start[1:] for start in prepared.starts}) > 1
    assert several == (task == "super-resolution")
    seen = []

    class Recorder(nn.Module):
        def forward(self, *inputs):
            seen.append(inputs)
            return torch.zeros((1, 4) if task == "classification" else (1, 1, 64, 64))

    infer(lambda *arrays: Recorder()(*map(torch.from_numpy, arrays)).numpy(), prepared, spec)
    for seed in range(4):
        sample = samples_of(study, spec).sample(Generator().manual_seed(seed), NO_AUGMENTATION)
        first = [part[:1] for part in sample.inputs]
        nearest = min(max(float((a - b).abs().max()) for a, b in zip(first, shown, strict=True)) for shown in seen)
        assert nearest < 0.02  # kept as fp16


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_of_the_gland_helps_but_to_find_the_gland_itself(family):
    """The network that finds it sees the image's middle, as where nobody has drawn a mask; others see the gland."""
    for task, seen in (("anatomy-segmentation", "image"), ("lesion-segmentation", "gland")):
        study, spec = a_study(task), tiny_study_spec(family, task)
        spec = replace(spec, preprocess=replace(spec.preprocess, whole_volume=False))
        assert prepare_labeled(study, spec).centered_on == seen
        if not spec.is_slice_based:
            assert (samples_of(study, spec).middle is None) == (seen == "image")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("axis", [-1, -2])
def test_diffusion_may_lie_beside_t2w_while_the_truth_stays(family, axis):
    """As when the prostate moves between the scans; both diffusion images move together, and never along the slices."""
    spec = tiny_study_spec(family, "lesion-segmentation")
    samples = samples_of(a_study("lesion-segmentation"), spec)
    name, voxels = ("image", samples.image) if family == "profound" else ("images", samples.images)
    numbers = torch.arange(voxels.shape[axis]).half()  # each voxel shows where it lies along one axis
    samples = replace(samples, **{name: (numbers if axis == -1 else numbers[:, None]).expand_as(voxels).contiguous()})
    apart, found = replace(NO_AUGMENTATION, misregistration_mm=9.0), set()
    for seed in range(6):
        plain, moved = (samples.sample(Generator().manual_seed(seed), how) for how in (NO_AUGMENTATION, apart))
        assert torch.equal(plain.target, moved.target)
        images = [part[0] for part in plain.inputs[:3]] if family == "provicnet" else plain.inputs[0][0]
        shifted = [part[0] for part in moved.inputs[:3]] if family == "provicnet" else moved.inputs[0][0]
        differences = {
            sequence: float((after - before).median())
            for sequence, before, after in zip(spec.preprocess.sequences, images, shifted, strict=True)
        }
        assert differences[Sequence.T2W] == 0
        assert differences[Sequence.ADC] == pytest.approx(differences[Sequence.HBV], abs=1e-2)
        found.add(round(differences[Sequence.ADC], 1))
        assert abs(differences[Sequence.ADC]) <= 9.0 / 3.0 + 0.1  # voxels of 3 mm
    assert len(found) > 2
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_signal_may_pile_up_in_the_high_b_image_while_the_rest_and_the_truth_stay(family):
    spec = tiny_study_spec(family, "lesion-segmentation")
    samples, how = samples_of(a_study("lesion-segmentation"), spec), replace(NO_AUGMENTATION, pile_up=1.0)
    changed = 0
    for seed in range(6):
        plain, piled = (samples.sample(Generator().manual_seed(seed), each) for each in (NO_AUGMENTATION, how))
        assert torch.equal(plain.target, piled.target)
        before, after = (
            [part[0] for part in sample.inputs[:3]] if family == "provicnet" else sample.inputs[0][0]
            for sample in (plain, piled)
        )
        for sequence, was, seen in zip(spec.preprocess.sequences, before, after, strict=True):
            if sequence is Sequence.HBV:
                changed += not torch.allclose(was, seen, atol=0.05)
            else:
                torch.testing.assert_close(was, seen)
    assert changed >= 4
