"""ProViCNet's networks: tokens, positions, heads, second implementations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import SMALL_SPECS, SMALL_VIT, inputs, noise, small_network, with_made_up_weights
from specs import ViTSpec
from torch import nn

from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.inputs import neighbor_slices, slice_positions
from VFMTransferLib.encoders.provicnet.network import VisionTransformer, own_slice
from VFMTransferLib.layers.transformer import Attention


@pytest.mark.parametrize(("z", "count", "channel"), [(0, 9, 0), (1, 9, 1), (7, 9, 1), (8, 9, 2), (0, 1, 0), (1, 2, 2)])
def test_a_restoration_of_slices_looks_at_the_slice_it_is_about(z, count, channel):
    volume = torch.arange(count, dtype=torch.float32)[:, None, None].expand(count, 2, 2)
    window = volume[list(neighbor_slices(z, count))][None]
    found = own_slice(window, torch.from_numpy(slice_positions(z, count)))
    assert neighbor_slices(z, count)[channel] == z
    assert bool((found == z).all())


def test_a_restoration_of_slices_starts_from_encoders_of_single_sequences():
    pretrained = small_network("provicnet-t2w")
    network = build_network(SMALL_SPECS["provicnet-restoration-distortion-correction"])
    weights = {name: t for name, t in pretrained.state_dict().items() if not name.startswith("head.")}
    for encoder in network.encoders.values():
        encoder.load_state_dict(weights)  # strictly
    window, positions = inputs(SMALL_SPECS["provicnet-t2w"], (1, 1, 1))
    expected = pretrained.patch_tokens(window, positions)
    torch.testing.assert_close(network.eval().encoders["adc"].patch_tokens(window, positions), expected)


def test_attention_equals_softmax_of_scaled_products():
    attention = with_made_up_weights(Attention(12, heads=3))
    x = noise((2, 7, 12), 0)
    qkv = (x.numpy() @ attention.qkv.weight.detach().numpy().T + attention.qkv.bias.detach().numpy()).reshape(
        2, 7, 3, 3, 4
    )  # (B, N, which, heads, C / heads)
    mixed = np.zeros((2, 7, 3, 4))
    for sample in range(2):
        for head in range(3):
            query, key, value = (qkv[sample, :, which, head] for which in range(3))
            scores = np.exp(query @ key.T / np.sqrt(4))
            mixed[sample, :, head] = scores / scores.sum(1, keepdims=True) @ value
    expected = mixed.reshape(2, 7, 12) @ attention.proj.weight.detach().numpy().T
    expected += attention.proj.bias.detach().numpy()
    np.testing.assert_allclose(attention(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stored_px", "image_px"), [(518, 448), (224, 224), (224, 448)])
def test_position_embedding_is_scaled_as_pytorch_scales_it(stored_px, image_px):
    spec = ViTSpec(depth=0, dim=4, heads=1, image_px=image_px, pretrained_image_px=stored_px)
    network = with_made_up_weights(VisionTransformer(spec))
    stored, side = stored_px // 14, image_px // 14
    grid = network.pos_embed[:, 1:].reshape(1, stored, stored, 4).permute(0, 3, 1, 2)
    scaled = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    expected = scaled.permute(0, 2, 3, 1).reshape(1, side * side, 4)
    torch.testing.assert_close(network._patch_positions(), expected, rtol=1e-4, atol=1e-6)


def test_tokens_are_cls_registers_extra_patches_and_only_cls_and_patches_have_positions():
    spec = replace(SMALL_VIT, depth=0, pretrained_image_px=SMALL_VIT.image_px)
    network = with_made_up_weights(VisionTransformer(spec))
    nn.init.ones_(network.norm.weight)
    nn.init.zeros_(network.norm.bias)
    x, extra = noise((1, 3, 64, 64), 0), noise((1, 2, 64), 1)
    kernel, bias = network.patch_embed.proj.weight, network.patch_embed.proj.bias
    second_patch = (kernel * x[:, :, :2, 2:4]).sum((1, 2, 3)) + bias
    expected = torch.stack(
        [
            network.cls_token[0, 0] + network.pos_embed[0, 0],
            *network.register_tokens[0],
            *extra[0],
            second_patch + network.pos_embed[0, 2],
        ]
    )
    tokens = network(x, extra)[0]
    found = torch.cat([tokens[:7], tokens[8:9]])
    torch.testing.assert_close(found, F.layer_norm(expected, (64,), eps=1e-6), rtol=1e-4, atol=1e-4)


def test_fusion_equals_a_plain_second_implementation():
    network = small_network("provicnet-fusion")
    tokens = [noise((1, 1024, 64), seed) for seed in range(3)]
    state = network.fusion.state_dict()
    with torch.no_grad():
        streams = [
            doubled(grid(t), state, f"{name}.UpsampleModule.", "1", "2")
            for t, name in zip(tokens, ("Stream_T2W", "Stream_ADC", "Stream_DWI"), strict=True)
        ]
        y = doubled(torch.cat(streams, 1), state, "FusionSegmentation.", "1", "2")
        expected = doubled(y, state, "FusionSegmentation.", "5", None)
        torch.testing.assert_close(network.fusion(*tokens), expected, rtol=1e-4, atol=1e-5)


def grid(tokens: torch.Tensor) -> torch.Tensor:
    """Patch tokens as a map, one by one."""
    return torch.stack([tokens[:, row * 32 : row * 32 + 32].transpose(1, 2) for row in range(32)], dim=2)


def doubled(x: torch.Tensor, state: dict, prefix: str, convolution: str, norm: str | None) -> torch.Tensor:
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = F.conv2d(x, state[f"{prefix}{convolution}.weight"], state[f"{prefix}{convolution}.bias"], padding=1)
    if norm is None:
        return x
    mean, variance, weight, bias = (
        state[f"{prefix}{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)


def test_the_fused_network_joins_the_tokens_of_its_three_networks():
    network = small_network("provicnet-fusion")
    t2w, adc, dwi, positions = inputs(SMALL_SPECS["provicnet-fusion"], (1, 1, 1))
    with torch.no_grad():
        tokens = (
            network.t2w.patch_tokens(t2w, positions),
            network.adc.patch_tokens(adc, positions),
            network.dwi.patch_tokens(dwi, positions),
        )
        torch.testing.assert_close(network(t2w, adc, dwi, positions), network.fusion(*tokens))


def test_positions_may_be_whole_numbers():
    network = small_network("provicnet-t2w")
    x, counts = inputs(SMALL_SPECS["provicnet-t2w"], (1, 1, 1))
    with torch.inference_mode():
        torch.testing.assert_close(network(x, counts.long()), network(x, counts))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_classifier_that_is_certain_of_a_cancer_has_finite_logits_and_gradients(precision):
    network = small_network("provicnet-classifier").train()
    last = network.segmentation[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([-30.0, -30.0, -30.0, 30.0]))  # significant cancer, everywhere
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        logits, _ = network(*inputs(SMALL_SPECS["provicnet-classifier"], (1, 1, 1)))
    logits.float().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
