"""Blocks of pixels as channels, what an untrained head gives, and displacements that the cost-volume head finds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from VFMTransferLib.layers.image_heads import CostVolumeHead, fold_blocks, unfold_blocks


def test_blocks_of_a_slice_become_channels_and_pixels_again():
    image = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    torch.testing.assert_close(fold_blocks(image), torch.nn.functional.pixel_unshuffle(image, 2))
    torch.testing.assert_close(unfold_blocks(fold_blocks(image)), image)


def test_a_volumes_slices_are_folded_one_by_one():
    volume = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    folded = fold_blocks(volume)
    for z in range(5):
        torch.testing.assert_close(folded[:, :, z], fold_blocks(volume[:, :, z]))
    torch.testing.assert_close(unfold_blocks(folded), volume)


def test_an_odd_row_is_filled_up():
    folded = fold_blocks(torch.ones(1, 1, 3, 4))
    assert folded.shape == (1, 4, 2, 2)
    assert folded.sum() == 12


def a_head(is_flat: bool, certainty: float = 200.0, step_mm: float = 1.0) -> CostVolumeHead:
    """A head that compares the images themselves."""
    head = CostVolumeHead([5], 1, 1, step_mm, is_flat)
    pool = nn.Identity()
    head.anatomy = head.diffusion = pool
    head.certainty.data.fill_(certainty)
    return head


def texture(*shape: int) -> torch.Tensor:
    noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool1d(noise.flatten(0, -2), 5, 1, 2).reshape(noise.shape)


@pytest.mark.parametrize(("is_flat", "shape"), [(True, (32, 64)), (False, (8, 16, 64))])
@pytest.mark.parametrize(("shift", "step_mm"), [(-3, 1.0), (0, 1.0), (2, 1.0), (2, 0.75)])
def test_what_was_moved_is_found_in_millimeters(is_flat, shape, shift, step_mm):
    t2w = texture(*shape)
    moved = torch.roll(t2w, shift, dims=-1)  # place p is shown at p + shift
    coarse = [max(n // 8, 1) for n in shape]
    found = a_head(is_flat, step_mm=step_mm)(t2w, moved, [torch.zeros(1, 5, *coarse)])
    assert found.shape == t2w.shape
    middle = found[..., 16:-16]
    torch.testing.assert_close(middle, torch.full_like(middle, shift * step_mm), atol=0.25, rtol=0)


def test_similarity_does_not_hang_on_contrast():
    t2w, diffusion = texture(16, 40), torch.roll(texture(16, 40), 1, dims=-1)
    head = a_head(is_flat=True)
    plain = head.similarity(t2w, diffusion)
    assert float(plain.abs().max()) <= 1 + 1e-5
    torch.testing.assert_close(head.similarity(t2w, 3 * diffusion), plain, atol=1e-3, rtol=0)


def test_an_image_without_signal_is_not_moved():
    head = a_head(is_flat=True)
    found = head(texture(16, 40), torch.zeros(1, 1, 16, 40), [torch.zeros(1, 5, 2, 5)])
    assert float(found.detach().abs().max()) < 1e-4


def test_what_is_searched_is_in_millimeters():
    assert CostVolumeHead([5], 2, 4, 0.5).reach == 14
    assert CostVolumeHead([5], 2, 4, 2.0, is_flat=True).reach == 4
