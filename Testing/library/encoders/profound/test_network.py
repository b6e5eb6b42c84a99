"""ProFound's networks: maps, heads, second implementations."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from networks import SMALL_CONVNEXT, SMALL_SPECS, noise, small_network
from torch import nn

from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.profound.network import ConvNeXtV2


def test_the_encoder_halves_four_times_in_total():
    encoder = ConvNeXtV2(SMALL_CONVNEXT)
    maps = encoder.forward_features(noise((1, 3, 37, 51, 70), 0))
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 9, 12, 17), (12, 4, 6, 8), (16, 2, 3, 4), (20, 2, 3, 4)]


def test_drop_path_rises_from_block_to_block():
    encoder = ConvNeXtV2(SMALL_CONVNEXT, drop_path=0.2)
    rates = [block.drop_path.rate for stage in encoder.stages for block in stage]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_upernet_gives_the_auxiliary_logits_in_training_only():
    network = build_network(SMALL_SPECS["profound-upernet-anatomy"])
    x = noise((1, 3, 16, 37, 32), 0)
    logits, auxiliary = network.train()(x)
    assert logits.shape == auxiliary.shape == (1, 9, 16, 37, 32)
    assert isinstance(network.eval()(x), torch.Tensor)


def test_upernet_equals_itself_with_pytorchs_own_pooling_at_an_odd_size():
    network = small_network("profound-upernet-lesion")
    x = noise((1, 3, 21, 90, 107), 0)
    with torch.no_grad():
        found = network(x)
        for pool, size in zip(network.decode_head.psp_modules, (1, 2, 3, 6), strict=True):
            pool[0] = nn.AdaptiveAvgPool3d(size)
        torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)


def test_unetr_equals_the_same_decoder_of_monais_blocks():
    blocks = pytest.importorskip("monai.networks.blocks")
    network = small_network("profound-unetr-lesion")
    dims, width = SMALL_CONVNEXT.dims, 4
    common = {"spatial_dims": 3, "norm_name": "instance"}
    skip = {**common, "num_layer": 0, "kernel_size": 3, "stride": 1, "upsample_kernel_size": 2}
    up = {**common, "kernel_size": 3, "upsample_kernel_size": 2, "res_block": True}
    parts = OrderedDict(
        encoder1=blocks.UnetrBasicBlock(
            in_channels=3, out_channels=width, kernel_size=3, stride=1, res_block=True, **common
        ),
        encoder2=blocks.UnetrPrUpBlock(in_channels=dims[0], out_channels=2 * width, **skip),
        encoder3=blocks.UnetrPrUpBlock(in_channels=dims[1], out_channels=4 * width, **skip),
        encoder4=blocks.UnetrPrUpBlock(in_channels=dims[2], out_channels=8 * width, **skip),
        decoder5=blocks.UnetrUpBlock(in_channels=dims[3], out_channels=8 * width, **up),
        decoder4=blocks.UnetrUpBlock(in_channels=8 * width, out_channels=4 * width, **up),
        decoder3=blocks.UnetrUpBlock(in_channels=4 * width, out_channels=2 * width, **up),
        decoder2=blocks.UnetrUpBlock(in_channels=2 * width, out_channels=width, **up),
        out=blocks.UnetOutBlock(spatial_dims=3, in_channels=width, out_channels=1),
    )
    decoder = nn.Sequential(parts).eval()
    decoder.load_state_dict(network.decoder.state_dict(), strict=True)
    x = noise((2, 3, 16, 32, 48), 0)
    with torch.no_grad():
        a, b, c, d = network.encoder.forward_features(x)
        y = decoder.decoder5(on_channels(network.encoder.norm, d), decoder.encoder4(on_channels(network.norm3, c)))
        y = decoder.decoder4(y, decoder.encoder3(on_channels(network.norm2, b)))
        y = decoder.decoder3(y, decoder.encoder2(on_channels(network.norm1, a)))
        y = decoder.out(decoder.decoder2(y, decoder.encoder1(x)))
        torch.testing.assert_close(network(x), y, rtol=1e-4, atol=1e-5)


def on_channels(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """A plain layer norm over axis 1."""
    centered = x - x.mean(1, keepdim=True)
    x = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return x * norm.weight[:, None, None, None] + norm.bias[:, None, None, None]


def test_unetr_says_which_sizes_it_takes():
    with pytest.raises(ValueError, match="multiple of 16"):
        small_network("profound-unetr-lesion")(noise((1, 3, 16, 30, 32), 0))
