"""Every network of the registry, small: shapes, gradients, odd sizes, and second implementations."""

from __future__ import annotations

import ast
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import SMALL_CONVNEXT, SMALL_SPECS, SMALL_VIT, inputs, noise, small_network, with_made_up_weights
from specs import MODELS, PROFOUND_ENCODER, ViTSpec
from torch import nn

from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.inputs import neighbor_slices, slice_positions
from VFMTransferLib.encoders.profound.network import ConvNeXtV2
from VFMTransferLib.encoders.provicnet.network import Attention, VisionTransformer, own_slice
from VFMTransferLib.encoders.weights import empty_network

NAMES = list(SMALL_SPECS)
IN_3D = [name for name in NAMES if name.startswith("profound")]
# What a network carries but its loss does not reach.
UNREACHED = {
    "upernet": ("encoder.norm.",),
    "restoration": ("encoder.norm.", *(f"encoders.{s}.backbone.mask_token" for s in ("t2w", "hbv", "adc"))),
    "matching": ("encoder.norm.", *(f"encoders.{s}.backbone.mask_token" for s in ("t2w", "hbv", "adc"))),
    "classifier": tuple(f"encoders.{s}.backbone.mask_token" for s in ("t2w", "hbv", "adc")),
    "convolution": ("backbone.mask_token",),
    "fusion": tuple(f"{s}.{part}" for s in ("t2w", "adc", "dwi") for part in ("backbone.mask_token", "head.")),
}
LISTINGS = {
    "encoder": "profound-encoder",
    "classifier": "profound-classifier",
    "upernet_lesion": "profound-upernet-lesion",
    "upernet_anatomy": "profound-upernet-anatomy",
    "unetr_lesion": "profound-unetr-lesion",
    "ProViCNet_contrastive": "provicnet-t2w",
}


def expected_shape(name: str, size: tuple[int, int, int]) -> tuple[int, ...]:
    spec = SMALL_SPECS[name]
    channels = spec.head.out_channels
    if spec.head.kind in ("none", "classifier"):
        return (2, channels)
    return (2, channels, *size) if spec.family == "profound" else (2, channels, 256, 256)


@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_shape_of_the_task(name):
    size = (32, 48, 64)
    with torch.no_grad():
        output = small_network(name)(*inputs(SMALL_SPECS[name], size))
    assert tuple(output.shape) == expected_shape(name, size)


@pytest.mark.parametrize("name", [name for name in IN_3D if "unetr" not in name])
def test_sizes_need_not_be_multiples_of_16(name):
    size = (19, 37, 50)
    with torch.no_grad():
        output = small_network(name)(*inputs(SMALL_SPECS[name], size))
    assert tuple(output.shape) == expected_shape(name, size)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_reaches_every_parameter(name):
    spec = SMALL_SPECS[name]
    network = small_network(name)
    network.train(spec.head.kind == "upernet")  # its auxiliary head serves training only
    outputs = network(*inputs(spec, (32, 48, 64)))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    sum((output * noise(tuple(output.shape), 5)).sum() for output in outputs).backward()
    unreached = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in unreached if not n.startswith(UNREACHED.get(spec.head.kind, ()))] == []


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


@pytest.mark.parametrize("name", [name for name in NAMES if SMALL_SPECS[name].head.kind == "restoration"])
@pytest.mark.parametrize("expected", [0.0, 1.2])
def test_an_untrained_image_to_image_head_gives_its_initial_output(name, expected):
    spec = SMALL_SPECS[name]
    output = build_network(spec, initial_output=expected)(*inputs(spec, (16, 17, 32)))
    torch.testing.assert_close(output, torch.full_like(output, expected))


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


def test_an_unknown_head_is_a_mistake_of_the_caller():
    spec = SMALL_SPECS["profound-classifier"]
    with pytest.raises(ValueError, match="got fusion"):
        build_network(replace(spec, head=replace(spec.head, kind="fusion")))


def tensors_listed(text: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """Network → tensor → shape, from the published listings."""
    networks: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            tensors = networks.setdefault(line.split()[1], {})
        elif line:
            name, shape, _ = line.split("\t")
            tensors[name] = ast.literal_eval(shape)
    return networks


@pytest.mark.parametrize("listed", LISTINGS)
def test_full_size_has_the_tensors_of_the_authors_files(listed, reference_numbers):
    text = "".join((reference_numbers / f"{name}_state_dict.txt").read_text() for name in ("profound", "provicnet"))
    expected = {n: s for n, s in tensors_listed(text)[listed].items() if not n.startswith("CL_Head.")}
    spec = {**MODELS, PROFOUND_ENCODER.name: PROFOUND_ENCODER}[LISTINGS[listed]]
    assert {n: tuple(t.shape) for n, t in empty_network(spec).state_dict().items()} == expected


def test_full_size_fusion_has_the_tensors_of_the_authors_file(reference_numbers):
    expected = tensors_listed((reference_numbers / "provicnet_state_dict.txt").read_text())["FusionModalities"]
    fusion = empty_network(MODELS["provicnet-fusion"]).fusion
    assert {n: tuple(t.shape) for n, t in fusion.state_dict().items()} == expected
