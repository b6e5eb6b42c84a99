"""A new field at every sample, and the loss of a displacement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from study_examples import a_study, tiny_study_spec
from torch import Generator

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.measurements import PHASE_AXES
from VFMTransferLib.core.placement import cut
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.phantom import distort
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.distortion_correction import training as module
from VFMTransferLib.tasks.distortion_correction.task import ADC_CORRECTED, HBV_CORRECTED
from VFMTransferLib.tasks.distortion_correction.training import (
    IMAGE_WEIGHT,
    displacement_loss,
    draw_displacement_mm,
    on_the_fly_distortion,
    undistorted,
)
from VFMTransferLib.training.config import NO_AUGMENTATION
from VFMTransferLib.training.samples import prepare_labeled, samples_of

TASK = "distortion-correction"
START, SIZE = (2, -3, 5), (4, 24, 20)


def a_scan():
    """A phantom taken for a real scan, distorted by a field that is known."""
    ideal = a_study(TASK)
    images = {Sequence.HBV: ideal.images[HBV_CORRECTED], Sequence.ADC: ideal.images[ADC_CORRECTED]}
    case = replace(ideal.case, volumes={**ideal.case.volumes, **images})
    return TASKS[TASK].from_scan(case, seed=4, gland=ideal.gland)


@pytest.mark.parametrize("axis", [-1, -2])
def test_the_true_displacement_undoes_the_distortion(axis):
    place = np.indices((3, 30, 40))[axis].astype(np.float32)
    image = np.exp(-(((place - 18) / 6) ** 2)).astype(np.float32)
    shift = 1.5 * np.sin(place / 7).astype(np.float32)
    seen = torch.from_numpy(distort(image, shift, 3 + axis))
    found = undistorted(seen, torch.from_numpy(2.0 * shift), axis, step_mm=2.0)
    middle = (slice(None), slice(5, -5), slice(5, -5))
    assert float((found - torch.from_numpy(image))[middle].abs().max()) < 0.1 * float(
        (seen - torch.from_numpy(image))[middle].abs().max()
    )


def test_a_displacements_loss_by_hand():
    """A constant displacement by a voxel of 2 mm, found to half: the field is 1 mm off, the ramp half a step."""
    ramp = torch.arange(8.0).expand(2, 8)
    truth_mm, found_mm = torch.full((2, 8), 2.0), torch.full((2, 8), 1.0)
    tissue = torch.zeros(2, 8)
    tissue[:, 1:6] = 1
    loss = displacement_loss(found_mm, torch.stack([truth_mm, ramp, ramp + 1, tissue]), -1, 2.0)
    assert float(loss) == pytest.approx(1 + IMAGE_WEIGHT * 0.5)


def test_a_displacement_can_be_learned_from_the_image_alone():
    place = torch.arange(40.0).expand(2, 40)
    truth, seen = (torch.exp(-(((place - middle) / 5) ** 2)) for middle in (18, 19.5))
    along = torch.zeros(1, requires_grad=True)  # one number for all places
    optimizer = torch.optim.Adam([along], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (undistorted(seen, along.expand(2, 40), -1, 1.0) - truth).abs().mean().backward()
        optimizer.step()
    assert float(along.detach()) == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize("family", ["profound", "provicnet"])
def test_the_cases_own_field_gives_the_case_as_predicted(family, monkeypatch):
    study, spec = a_scan(), tiny_study_spec(family, TASK)
    prepared = prepare_labeled(study, spec)
    fresh = on_the_fly_distortion(study, prepared, spec)
    own_mm = study.along_phase_mm.to_nearest_lps().array
    slab, _ = fresh._around(START, SIZE)
    monkeypatch.setattr(module, "draw_displacement_mm", lambda *_: own_mm[slab])
    expected = cut(prepared.array, START, SIZE)
    images, maps = fresh.block(torch.from_numpy(expected), START, Generator().manual_seed(0))
    inside = np.s_[:, :, 3:, :]  # outside of the image a window holds zeros, whatever the normalization
    assert np.abs(images.numpy() - expected)[inside].mean() < 1e-4
    truth = cut(TASKS[study.task].training().targets(study, prepared, spec), START, SIZE)
    np.testing.assert_allclose(maps.numpy()[:3][inside], truth[:3][inside], atol=2e-3)


@pytest.mark.parametrize("family", ["profound", "provicnet"])
def test_each_sample_has_another_field_and_the_same_generator_the_same(family):
    study, spec = a_study(TASK), tiny_study_spec(family, TASK)
    samples = samples_of(study, spec)
    first, again, other = (samples.sample(Generator().manual_seed(seed), NO_AUGMENTATION) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.inputs, again.inputs, strict=True))
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.target[:, 0], other.target[:, 0])
    assert float(first.target[:, 0].abs().mean()) > 0.05


@pytest.mark.parametrize("is_phantom", [True, False])
def test_only_a_phantom_is_made_like_a_scan_first(is_phantom):
    study, spec = a_study(TASK) if is_phantom else a_scan(), tiny_study_spec("profound", TASK)
    prepared = prepare_labeled(study, spec)
    images = torch.from_numpy(cut(prepared.array, START, SIZE))
    fresh = on_the_fly_distortion(study, prepared, spec)
    one, other = (fresh.block(images, START, Generator().manual_seed(seed))[1] for seed in (1, 2))
    assert torch.equal(one[2:], other[2:]) is not is_phantom  # a scan's truth is the scan


def test_all_that_moved_a_phantom_is_its_target(monkeypatch):
    study, spec = a_study(TASK), tiny_study_spec("profound", TASK)
    prepared = prepare_labeled(study, spec)
    monkeypatch.setattr(module, "draw_displacement_mm", lambda shape, *_: np.zeros(shape, np.float32))
    monkeypatch.setattr(module, "_MOVED_MM", 4.0)  # so that interpolation counts little
    fresh = on_the_fly_distortion(study, prepared, spec)
    own = cut(TASKS[TASK].training().targets(study, prepared, spec), START, SIZE)[0]
    found = [
        fresh.block(torch.from_numpy(cut(prepared.array, START, SIZE)), START, Generator().manual_seed(seed))[1]
        for seed in range(6)
    ]
    inside = np.s_[:, 3:, :]
    axis, errors = PHASE_AXES[study.phase_axis], []
    for maps in found:  # a share of its own field, and one shift of the whole
        share, moved = np.polyfit(own[inside].ravel(), maps.numpy()[0][inside].ravel(), 1)
        np.testing.assert_allclose(maps.numpy()[0][inside], share * own[inside] + moved, atol=2e-3)
        assert 0 <= share <= 1
        seen, truth = maps[1:3]
        pulled = undistorted(seen, maps[0], -1 - axis, spec.preprocess.spacing_mm[axis])
        middle = (slice(None), slice(5, -2), slice(5, -5))
        errors.append([float((image - truth)[middle].abs().mean()) for image in (pulled, seen)])
    assert len({float(maps[0].mean()) for maps in found}) == 6
    after, before = np.sum(errors, axis=0)
    assert after < 0.25 * before


def test_what_is_not_diffusion_stays():
    study, spec = a_study(TASK), tiny_study_spec("profound", TASK)
    prepared = prepare_labeled(study, spec)
    before = torch.from_numpy(cut(prepared.array, START, SIZE))
    images, _ = on_the_fly_distortion(study, prepared, spec).block(before, START, Generator().manual_seed(0))
    assert torch.equal(images[0], before[0])
    assert not torch.equal(images[1], before[1])


def test_a_turned_grid_cannot_be_distorted_anew():
    study, spec = a_study(TASK), tiny_study_spec("profound", TASK)
    prepared = prepare_labeled(study, spec)
    turned = replace(
        prepared, geometry=replace(prepared.geometry, direction=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    )
    with pytest.raises(DatasetError, match="must run along"):
        on_the_fly_distortion(study, turned, spec)


def test_drawn_displacements_are_those_of_pelvic_scans():
    rng = np.random.default_rng(0)
    drawn = [draw_displacement_mm((6, 40, 40), (3.0, 2.0, 2.0), rng) for _ in range(30)]
    assert 0.7 < np.std(drawn) < 2.2
    assert max(np.abs(np.gradient(field, 2.0, axis=2)).max() for field in drawn) < 0.6  # nothing folds
