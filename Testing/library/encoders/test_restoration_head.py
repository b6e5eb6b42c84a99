"""Blocks of pixels as channels, and what an untrained restoration head gives."""

from __future__ import annotations

import torch

from VFMTransferLib.encoders.image_heads import fold_blocks, unfold_blocks


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
