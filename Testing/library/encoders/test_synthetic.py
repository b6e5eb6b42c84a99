"""The pretext task `synthetic`: what is drawn at random, what must be found again, and what the loss rewards."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders import find_family
from VFMTransferLib.encoders.pretext import TISSUE_MAPS, View, pretext_task
from VFMTransferLib.encoders.synthetic import dense_loss, random_appearance, targets_of
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.training.augmentation import NO_AUGMENTATION
from VFMTransferLib.training.samples import tissue_samples

SPEC = find_family("profound").pretraining_network()
T2W, HBV, ADC = (SPEC.preprocess.sequences.index(sequence) for sequence in Sequence)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(3, t2w_spacing_mm=(2.0, 2.0, 3.0), tissue_maps=True)


@pytest.fixture(scope="module")
def maps(phantom):
    return tissue_samples(phantom, SPEC).view(Generator().manual_seed(0), NO_AUGMENTATION)[0]


def appearance(maps, seed, diffusion_missing=0.0, missing=0.0):
    return random_appearance(maps, SPEC, Generator().manual_seed(seed), diffusion_missing, missing, noise=0.12)


def test_a_view_shows_the_phantoms_own_maps_around_the_gland(phantom, maps):
    assert maps.shape == (len(TISSUE_MAPS), *SPEC.preprocess.patch)
    capsule = maps[TISSUE_MAPS.index("capsule_mm")]
    assert float((capsule < 0).sum()) * math.prod(SPEC.preprocess.spacing_mm) / 1000 == pytest.approx(
        phantom.volume_ml, rel=0.12
    )
    inside = torch.nonzero(capsule < 0).float().mean(dim=0)
    middle = torch.tensor([n / 2 for n in SPEC.preprocess.patch])
    assert float((inside - middle).abs().max()) < 2


def test_of_a_slice_neighbors_and_place_come_along(phantom):
    spec = find_family("provicnet").pretraining_network()
    shown, position = tissue_samples(phantom, spec).view(Generator().manual_seed(1), NO_AUGMENTATION)
    assert shown.shape == (7, 3, spec.encoder.image_px, spec.encoder.image_px)
    assert 0 <= float(position[0]) < float(position[1])


def test_one_anatomy_appears_otherwise_each_time_but_the_same_of_equal_numbers(maps):
    first, again, other = (appearance(maps, seed) for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) > 0.2
    assert torch.isfinite(first).all()


def test_sequences_are_missing_as_often_as_asked_and_never_all(maps):
    small = maps[:, ::4, ::8, ::8]
    shown = torch.stack([appearance(small, seed, 0.5, 0.3).flatten(1).abs().amax(dim=1) > 0 for seed in range(200)])
    assert shown.any(dim=1).all()
    without = ~shown[:, HBV] & ~shown[:, ADC]
    assert 0.4 < float(without.float().mean()) < 0.75
    assert float(shown[:, T2W].float().mean()) > 0.7


def test_a_view_of_tissue_gives_images_and_targets_of_half_the_size(maps):
    images, targets = pretext_task("synthetic").sample(View(maps), Generator().manual_seed(0))
    assert images.shape == (3, *SPEC.preprocess.patch)
    assert targets.shape == (8, *(n // 2 for n in SPEC.preprocess.patch))


def test_the_truth_has_a_smaller_loss_than_anything_that_leaves_it(maps):
    targets = targets_of(maps)[None]
    truth = targets[:, :7].clone()
    truth[:, 4:7] = truth[:, 4:7].clamp_min(1e-6).log()
    best = float(dense_loss(truth, targets))
    for channel in range(7):
        changed = truth.clone()
        changed[:, channel] = changed[:, channel].flip(-1) if channel > 3 else changed[:, channel] + 0.5
        assert float(dense_loss(changed, targets)) > best + 0.01


def test_the_maps_are_not_asked_for_in_air():
    air = torch.zeros(7, 4, 4, 4)
    air[1:3] = 100.0
    targets = targets_of(air)[None]
    output = torch.zeros(1, 7, 4, 4, 4)
    output[:, 4] = 20.0
    changed = output.clone()
    changed[:, :3] += 3.0
    assert torch.equal(dense_loss(output, targets), dense_loss(changed, targets))


def test_equal_features_of_two_appearances_are_rewarded(maps):
    pretext = pretext_task("synthetic-contrastive", places=24)
    torch.manual_seed(0)
    network = pretext.build()
    batch = [part[None] for part in pretext.sample(View(maps), Generator().manual_seed(0))]
    first, second, targets = batch
    assert not torch.equal(first, second)
    with torch.no_grad():
        same = pretext.loss(network, Generator().manual_seed(0), first, first, targets)
        other = pretext.loss(network, Generator().manual_seed(0), first, second, targets)
    assert float(same) < float(other)
