"""The pretext task `synthetic`: what is drawn at random, what must be found again, and what the loss rewards."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Generator

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders import find_family
from VFMTransferLib.encoders.inputs import neighbor_slices
from VFMTransferLib.encoders.pretext import TISSUE_MAPS, View, pretext_task
from VFMTransferLib.encoders.synthetic import OUTPUTS, dense_loss, random_appearance, targets_of
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.training.config import NO_AUGMENTATION
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


def shown_channels(maps, *sequences, share=0.5, count=200):
    """Which channels show anything, (count, S), of networks that take these sequences alone."""
    spec = replace(SPEC, preprocess=replace(SPEC.preprocess, sequences=sequences))
    small = maps[:, ::4, ::8, ::8]
    views = (random_appearance(small, spec, Generator().manual_seed(i), share, share, 0.12) for i in range(count))
    return torch.stack([view.flatten(1).abs().amax(dim=1) > 0 for view in views])


@pytest.mark.parametrize("own", [(Sequence.T2W,), (Sequence.ADC,), (Sequence.HBV, Sequence.ADC)])
def test_a_network_of_fewer_sequences_is_never_shown_nothing(maps, own):
    shown = shown_channels(maps, *own, *(3 - len(own)) * [None])
    assert shown.any(dim=1).all()
    assert not shown[:, len(own) :].any()
    if len(own) > 1:
        assert 0.2 < float((~shown[:, :2]).any(dim=1).float().mean()) < 0.8


@pytest.mark.parametrize("order", [("t2w", "hbv", "adc"), ("hbv", "t2w", "adc"), ("adc",)])
def test_each_encoder_of_slices_learns_from_its_own_sequence(phantom, order):
    provicnet = find_family("provicnet")
    small = provicnet.resized(provicnet.pretraining_network(), {"depth": 1, "dim": 16, "heads": 2})
    sequences = tuple(map(Sequence, order))
    spec = provicnet.pretext_task("mae", replace(small, preprocess=replace(small.preprocess, sequences=sequences))).spec
    pretext = replace(pretext_task("synthetic", spec), diffusion_missing=0.0, missing=0.0)
    view, position = tissue_samples(phantom, pretext.learned).view(Generator().manual_seed(1), NO_AUGMENTATION)
    images, *rest = pretext.sample(View(view, position), Generator().manual_seed(0))
    network = pretext.build()
    blank = 0 * images
    learned = pretext.learned.preprocess.sequences
    assert set(learned) == set(sequences)
    for channel, sequence in enumerate(learned):
        alone = blank.clone()
        alone[channel] = images[channel]
        gradients = []
        for shown in (alone, blank):
            network.zero_grad()
            pretext.loss(network, Generator().manual_seed(0), *(part[None] for part in (shown, *rest))).backward()
            kept = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
            gradients.append(pretext.pretrained({n: kept.get(n, 0 * p) for n, p in network.state_dict().items()}))
        changed = {
            provicnet.own_name(name, spec).split(".")[0]
            for name, gradient in gradients[0].items()
            if name.endswith("patch_embed.proj.weight") and not torch.equal(gradient, gradients[1][name])
        }
        assert changed == {sequence}


def test_slices_cannot_be_learned_from_two_sequences():
    spec = find_family("provicnet").pretraining_network()
    two = replace(spec, preprocess=replace(spec.preprocess, sequences=(Sequence.T2W, Sequence.ADC)))
    with pytest.raises(ValueError, match="must take one sequence or t2w, adc, hbv, got t2w, adc"):
        pretext_task("synthetic", two).build()


def test_slices_at_the_ends_are_shown_and_asked_for_as_at_prediction(phantom):
    pretext = pretext_task("synthetic", find_family("provicnet").pretraining_network())
    samples, pd = tissue_samples(phantom, pretext.spec), TISSUE_MAPS.index("pd")
    depth = samples.geometry.shape[0]
    numbers = torch.arange(depth).half()[None, :, None, None].expand_as(samples.maps)  # each slice shows its own number
    for z in (0, 1, depth - 1):
        shown, position = replace(samples, maps=numbers, marked=(z,)).view(Generator().manual_seed(0), NO_AUGMENTATION)
        assert position.tolist() == [z, depth]
        assert shown[pd].mean(dim=(1, 2)).tolist() == pytest.approx(neighbor_slices(z, depth), abs=1e-3)
        _, targets, _ = pretext.sample(View(shown, position), Generator().manual_seed(0))
        assert torch.allclose(targets[OUTPUTS.index("pd")], targets_of(torch.full((7, 1), float(z)))[1], atol=1e-2)


def test_the_distance_to_the_capsule_is_of_the_view(phantom):
    """A prostate that is shown at another size is one of another size: its distances are measured in the view."""
    samples = tissue_samples(phantom, SPEC)
    scaled = replace(NO_AUGMENTATION, log_scale=0.3, log_axis_scale=0.1, flip=0.5, rotation_deg=(0.0, 0.0, 20.0))
    for seed in range(12):
        maps, _ = samples.view(Generator().manual_seed(seed), scaled)
        distance = maps[TISSUE_MAPS.index("capsule_mm")]
        spacing_mm = SPEC.preprocess.spacing_mm[::-1]
        slopes = torch.stack(torch.gradient(distance, spacing=list(spacing_mm)))
        near = distance.abs() < 3
        assert float(slopes.norm(dim=0)[near].median()) == pytest.approx(1.0, abs=0.08)
