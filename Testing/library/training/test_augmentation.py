"""Random views are what their settings say, and the same for the same seed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from VFMTransferLib.core.decoding import to_json
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.training.augmentation import (
    between_knots,
    random_affine,
    random_field_of_view,
    random_knots,
    random_pile_up,
    vary_intensity,
)
from VFMTransferLib.training.config import NO_AUGMENTATION, Augmentation

PATCH, SPACING = (6, 10, 14), (0.5, 1.0, 2.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def an_image() -> torch.Tensor:
    return torch.randn((12, 20, 24), generator=seeded(0))


def test_no_augmentation_places_voxels_around_the_center_by_their_spacing():
    positions = between_knots(random_knots(PATCH, SPACING, seeded(0), NO_AUGMENTATION), PATCH)
    assert positions.shape == (3, *PATCH)
    torch.testing.assert_close(positions[:, 0, 0, 0], torch.tensor([-6.5 * 0.5, -4.5 * 1.0, -2.5 * 2.0]))
    torch.testing.assert_close(positions[:, 3, 5, 7], torch.tensor([0.5 * 0.5, 0.5 * 1.0, 0.5 * 2.0]))


def test_positions_between_knots_are_exact_for_an_affine_map():
    how = Augmentation(elastic=0.0)
    matrix, shift = random_affine(seeded(5), how)
    patch = (40, 50, 60)
    positions = between_knots(random_knots(patch, SPACING, seeded(5), how), patch)
    offset = torch.tensor([(7 - 29.5) * 0.5, (11 - 24.5) * 1.0, (13 - 19.5) * 2.0])
    torch.testing.assert_close(positions[:, 13, 11, 7], matrix @ offset + shift, rtol=1e-4, atol=1e-3)


def test_an_affine_map_stays_within_its_limits():
    how = Augmentation()
    for seed in range(50):
        matrix, shift = random_affine(seeded(seed), how)
        scales = torch.linalg.svdvals(matrix)
        largest = math.exp(how.log_scale + how.log_axis_scale)
        assert 1 / largest - 1e-5 <= scales.min()
        assert scales.max() <= largest + 1e-5
        assert (shift.abs() <= torch.tensor(how.shift_mm)).all()


def test_half_of_the_views_are_mirrored():
    signs = [torch.linalg.det(random_affine(seeded(seed), Augmentation())[0]).sign() for seed in range(200)]
    assert 70 < sum(sign < 0 for sign in signs) < 130


def test_an_elastic_warp_moves_no_voxel_further_than_its_limit():
    still = NO_AUGMENTATION
    warped = Augmentation(**{**vars(still), "elastic": 1.0, "elastic_mm": 4.0})
    plain = random_knots(PATCH, SPACING, seeded(1), still)
    moved = random_knots(PATCH, SPACING, seeded(1), warped)
    distance = (moved - plain).abs()
    assert 0 < distance.max() <= 4.0


def test_a_narrow_field_of_view_lies_within_the_whole_one():
    how = Augmentation(narrow=1.0, narrowest=0.6)
    for seed in range(30):
        window = random_field_of_view(seeded(seed), how)
        assert (window[:, 0] >= 0).all()
        assert (window[:, 1] <= 1).all()
        assert ((window[:, 1] - window[:, 0]) >= 0.6 - 1e-6).all()
    assert random_field_of_view(seeded(0), NO_AUGMENTATION).tolist() == [[0.0, 1.0]] * 3


def test_no_variation_of_intensity_leaves_the_image_and_empties_the_outside(an_image):
    inside = torch.ones(an_image.shape, dtype=torch.bool)
    inside[:2] = False
    varied = vary_intensity(an_image, inside, seeded(1), NO_AUGMENTATION)
    torch.testing.assert_close(varied[2:], an_image[2:], rtol=1e-3, atol=1e-3)
    assert not varied[:2].any()


@pytest.mark.parametrize("name", ["gamma", "bias", "contrast", "thick", "coarse", "noise"])
def test_each_variation_of_intensity_changes_the_image_but_not_its_size(an_image, name):
    how = Augmentation(**{**vars(NO_AUGMENTATION), name: 1.0})
    inside = torch.ones(an_image.shape, dtype=torch.bool)
    before = an_image.clone()
    varied = vary_intensity(an_image, inside, seeded(4), how)
    assert varied.shape == an_image.shape
    assert torch.isfinite(varied).all()
    assert (varied - an_image).abs().max() > 0.05
    assert torch.equal(an_image, before)


def test_a_near_coil_brightens_what_lies_behind_the_middle():
    view = torch.ones((8, 40, 40))
    view[:, ::2] = 0.5  # so that there is something to normalize
    how = replace(NO_AUGMENTATION, near_coil=1.0)
    brighter, steepest = [], []
    for seed in range(20):
        seen = vary_intensity(view, torch.ones_like(view, dtype=torch.bool), seeded(seed), how)
        contrast = seen[:, 1::2] - seen[:, ::2]  # (8, 20, 40), the gain
        brighter.append(float(contrast[:, 10:].mean() / contrast[:, :10].mean()))
        steepest.append(float(contrast.max() / contrast.min()))
    assert min(brighter) > 1
    assert max(steepest) > 4


def test_without_a_near_coil_no_random_number_is_taken_for_it(an_image):
    # Views of the shipped recipes, which know of none, stay as they were.
    inside = torch.ones_like(an_image, dtype=torch.bool)
    never, seldom = (vary_intensity(an_image, inside, seeded(1), Augmentation(near_coil=p)) for p in (0.0, 1e-9))
    assert not torch.equal(never, seldom)
    assert "near_coil" not in to_json(Augmentation())


def test_signal_piles_up_in_places_of_the_high_b_image_alone():
    image = torch.full((9, 90, 90), 2.0)
    image[:, 0] = -1.0  # air
    how, spacing_mm = replace(NO_AUGMENTATION, pile_up=1.0), (1.0, 1.0, 3.0)
    gains = []
    for seed in range(30):
        for sequence in (Sequence.T2W, Sequence.ADC, None):
            assert random_pile_up(image, sequence, spacing_mm, seeded(seed), how) is image
        piled = random_pile_up(image, Sequence.HBV, spacing_mm, seeded(seed), how)
        gain = (piled + 1)[:, 1:] / 3
        assert torch.equal(piled[:, 0], image[:, 0])
        assert (gain - 1).abs().mean() < 0.1  # places, not the whole image
        gains += [float(gain.max()), float(gain.min())]
    assert 0.25 < min(gains) < 0.75
    assert 1.8 < max(gains) < 7


def test_how_wide_piled_up_signal_is_does_not_depend_on_the_spacing():
    """Seen at 1 and at 2 mm, one draw changes the same voxels of the coarser grid."""
    how = replace(NO_AUGMENTATION, pile_up=1.0)
    fine, coarse = torch.ones((5, 81, 81)), torch.ones((5, 41, 41))
    fine[:, 0] = coarse[:, 0] = 0.0
    for seed in range(5):
        seen = random_pile_up(fine, Sequence.HBV, (1.0, 1.0, 3.0), seeded(seed), how)
        expected = random_pile_up(coarse, Sequence.HBV, (2.0, 2.0, 3.0), seeded(seed), how)
        torch.testing.assert_close(seen[:, 2::2, ::2], expected[:, 1:])
        assert (expected[:, 1:] != 1).any()


def test_the_level_changes_scale_and_offset_within_its_limit(an_image):
    inside = torch.ones(an_image.shape, dtype=torch.bool)
    how = replace(NO_AUGMENTATION, level=0.3)
    varied = [vary_intensity(an_image, inside, seeded(seed), how) for seed in range(20)]
    scales = torch.stack([view.std() / an_image.std() for view in varied])
    offsets = torch.stack([view.mean() - scale * an_image.mean() for view, scale in zip(varied, scales, strict=True)])
    assert scales.log().abs().max() < 0.31
    assert offsets.abs().max() < 0.31
    assert min(scales.log().std(), offsets.std()) > 0.1


def test_a_constant_image_stays_finite():
    image = torch.zeros(6, 8, 10)
    inside = torch.ones(image.shape, dtype=torch.bool)
    for seed in range(20):
        assert torch.isfinite(vary_intensity(image, inside, seeded(seed), Augmentation())).all()


def test_the_same_seed_gives_the_same_view(an_image):
    inside = torch.ones(an_image.shape, dtype=torch.bool)
    a = vary_intensity(an_image, inside, seeded(9), Augmentation())
    b = vary_intensity(an_image, inside, seeded(9), Augmentation())
    assert torch.equal(a, b)
