"""ProViCNet: a DINOv2 vision transformer with registers on slices, and its heads. Any depth and width.

Papers: ViT, arXiv 2010.11929; DINOv2, arXiv 2304.07193; registers, arXiv 2309.16588; ProViCNet, arXiv 2502.00366.
Tensor names are those of facebookresearch/dinov2 (Apache-2.0) and of the authors' files (pimed/ProViCNet, MIT), so that
these load strictly. Axes: N tokens, C channels of a token.

A sequence's network takes x (B, 3, image_px, image_px), channels slices z - 1, z, z + 1, and positions (B, 2), the
slice's index z and the number of slices, as they are. A network of several sequences takes the windows of each, in the
order of its specification, then the positions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers.blocks import NORM_EPS, resize
from ...layers.image_heads import CostVolumeHead, SliceImageToImageHead, SliceUpsamplingHead
from ...layers.transformer import Block, PatchEmbed
from ..base import NEIGHBORS, ModelSpec
from ..pretext import TISSUES
from .spec import ViTSpec, encoder_prefixes

_INIT_STD = 0.02
_POSITION_TOKENS = 2
_TOKENS_TO_OUTPUT = 8
_CANCERS = slice(2, None)  # of TISSUES
_PLACE_PX = 4  # side of a place, whose mean counts, so that no pixel decides alone
_RARELY = 1e-3  # a probability, and a number of places, that count as none: in half precision they may be 0
_LITTLE = -1.25  # softplus of it is a quarter


class VisionTransformer(nn.Module):
    """Backbone: an image and further tokens become normalized tokens.

    `image_px` fixes the number of patches; the stored position embedding is the one of `pretrained_image_px` and is
    scaled on the way.
    """

    def __init__(self, spec: ViTSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.stored_grid = spec.pretrained_image_px // spec.patch_px
        dim = spec.dim
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.stored_grid**2, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, spec.registers, dim))
        # Serves DINOv2's own pre-training only; the files carry it.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = PatchEmbed(spec.in_channels, dim, spec.patch_px)
        rates = torch.linspace(0, drop_path, spec.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(dim, spec.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        scaling = _bicubic_matrix(self.stored_grid, spec.image_px // spec.patch_px)
        self.register_buffer("position_scaling", scaling, persistent=False)
        for module in self.modules():  # from scratch as DINOv2 does
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                nn.init.zeros_(module.bias)
        for token in (self.cls_token, self.pos_embed, self.register_tokens):
            nn.init.trunc_normal_(token, std=_INIT_STD)

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        """Encode x (B, C, image_px, image_px) with tokens (B, E, dim) that join without a position embedding.

        Returns:
            Normalized tokens (B, 1 + registers + E + patches, dim): cls, registers, extra, patches.
        """
        patches = self.patch_embed(x) + self._patch_positions()
        batch = x.shape[0]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        tokens = torch.cat([cls, self.register_tokens.expand(batch, -1, -1), extra, patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _patch_positions(self) -> Tensor:
        """Scale the stored position embedding to the image's patches: (1, patches, dim)."""
        stored = self.pos_embed[:, 1:].unflatten(1, (self.stored_grid, self.stored_grid))  # (1, h, w, C)
        rows = self.position_scaling @ stored.flatten(2)  # (1, H, w * C)
        columns = self.position_scaling @ rows.unflatten(2, (self.stored_grid, -1))  # (1, H, W, C)
        return columns.flatten(1, 2)


def _bicubic_matrix(stored: int, wanted: int) -> Tensor:
    """Matrix (wanted, stored) that scales one axis as PyTorch's bicubic interpolation with antialias.

    The filter is separable and linear; ONNX has no operator that reproduces it, but a matrix product exports anywhere.
    """
    # The device is stated because the network may be built on the meta device.
    units = torch.eye(stored, device="cpu")[None, None]
    scaled = F.interpolate(units, size=(wanted, stored), mode="bicubic", antialias=True, align_corners=False)
    return scaled[0, 0]


def token_grid(tokens: Tensor, side: int) -> Tensor:
    """View patch tokens (B, side * side, C), which run row by row, as a map (B, C, side, side)."""
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def _double(in_channels: int, out_channels: int, normalize: bool = True) -> list[nn.Module]:
    layers = [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(in_channels, out_channels, 3, padding=1)]
    return [*layers, nn.BatchNorm2d(out_channels), nn.ReLU()] if normalize else layers


class ConvolutionHead(nn.Module):
    """Three doublings, for one sequence: channels to width to half of it to the logits."""

    def __init__(self, channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.segmentation_conv = nn.Sequential(
            *_double(channels, width),
            *_double(width, width // 2),
            *_double(width // 2, out_channels, normalize=False),
        )

    def forward(self, grid: Tensor) -> Tensor:
        """Map the grid (B, channels, S, S) to logits (B, out, 8S, 8S)."""
        return self.segmentation_conv(grid)


class FusionHead(nn.Module):
    """Joins the three sequences, `width` channels each, after their first doubling; `side` patches along the image."""

    def __init__(self, channels: int, width: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        # Upstream's names, as they stand in the files' tensor names.
        self.Stream_T2W, self.Stream_ADC, self.Stream_DWI = (
            nn.Sequential(OrderedDict(UpsampleModule=nn.Sequential(*_double(channels, width)))) for _ in range(3)
        )
        self.FusionSegmentation = nn.Sequential(
            *_double(3 * width, width),
            *_double(width, out_channels, normalize=False),
        )

    def forward(self, t2w: Tensor, adc: Tensor, dwi: Tensor) -> Tensor:
        """Fuse the patch tokens (B, side * side, channels) of three sequences to logits (B, out, 8 side, 8 side)."""
        streams = ((self.Stream_T2W, t2w), (self.Stream_ADC, adc), (self.Stream_DWI, dwi))
        joined = torch.cat([stream(token_grid(tokens, self.side)) for stream, tokens in streams], dim=1)
        return self.FusionSegmentation(joined)


class SliceEncoder(nn.Module):
    """The backbone of one sequence, which also gets the position of its slice in the volume."""

    def __init__(self, encoder: ViTSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.side = encoder.image_px // encoder.patch_px
        self.leading_tokens = 1 + encoder.registers + _POSITION_TOKENS
        self.backbone = VisionTransformer(encoder, drop_path)
        self.axis_pos = nn.Linear(1, encoder.dim)
        self.axis_max = nn.Linear(1, encoder.dim)

    def patch_tokens(self, x: Tensor, positions: Tensor) -> Tensor:
        """Encode a slice: normalized patch tokens (B, side * side, dim), row by row."""
        positions = positions.to(x.dtype)  # counts are whole numbers, and may come as such
        extra = torch.stack([self.axis_pos(positions[:, :1]), self.axis_max(positions[:, 1:])], dim=1)
        return self.backbone(x, extra)[:, self.leading_tokens :]


class ProViCNet(SliceEncoder):
    """The network of one sequence."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec.encoder, drop_path)
        self.head = ConvolutionHead(spec.encoder.dim, spec.head.width, spec.head.out_channels)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Segment a slice: logits (B, out, 8 * side, 8 * side)."""
        return self.segment(self.patch_tokens(x, positions))

    def segment(self, tokens: Tensor) -> Tensor:
        """Logits (B, out, 8 * side, 8 * side) from a slice's patch tokens."""
        return self.head(token_grid(tokens, self.side))


class ProViCNetFusion(nn.Module):
    """The networks of three sequences, and the head that joins their tokens.

    The sequence networks keep their own heads: each is whole, and can be run alone.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        encoder, head = spec.encoder, spec.head
        self.t2w, self.adc, self.dwi = (ProViCNet(spec, drop_path) for _ in range(3))
        side = encoder.image_px // encoder.patch_px
        self.fusion = FusionHead(encoder.dim, head.width, head.out_channels, side)

    def forward(self, t2w: Tensor, adc: Tensor, dwi: Tensor, positions: Tensor) -> Tensor:
        """Segment a slice from the windows of its three sequences: logits (B, out, 8 * side, 8 * side)."""
        return self.fusion(
            self.t2w.patch_tokens(t2w, positions),
            self.adc.patch_tokens(adc, positions),
            self.dwi.patch_tokens(dwi, positions),
        )


class _SliceEncoders(nn.Module):
    """One encoder for each sequence of the specification. The heads on them are this project's own."""

    def __init__(self, spec: ModelSpec, drop_path: float) -> None:
        super().__init__()
        self.side = spec.encoder.image_px // spec.encoder.patch_px
        self.output_size = 2 * [_TOKENS_TO_OUTPUT * self.side]
        self.encoders = nn.ModuleDict(
            {str(s): SliceEncoder(spec.encoder, drop_path) for s in spec.preprocess.sequences}
        )

    def patch_tokens(self, windows: Sequence[Tensor], positions: Tensor) -> Iterator[Tensor]:
        """Of each sequence the normalized patch tokens (B, side * side, dim)."""
        for encoder, window in zip(self.encoders.children(), windows, strict=True):
            yield cast(SliceEncoder, encoder).patch_tokens(window, positions)

    def joint_grid(self, windows: Sequence[Tensor], positions: Tensor) -> Tensor:
        """Tokens of all sequences as one map (B, channels, side, side)."""
        tokens = list(self.patch_tokens(windows, positions))
        return torch.cat([token_grid(found, self.side) for found in tokens], dim=1)


class ProViCNetEncoders(_SliceEncoders):
    """The encoders alone: what pretraining writes that trains no head."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec, drop_path)

    def forward(self, *windows_and_positions: Tensor) -> Tensor:
        """The mean of each sequence's normalized patch tokens, (B, sequences * dim)."""
        *windows, positions = windows_and_positions
        return torch.cat([tokens.mean(dim=1) for tokens in self.patch_tokens(windows, positions)], dim=1)


class OrderedClasses(nn.Module):
    """Adjacent-category logits of ordered classes: of class k, k times a severity, which rises with each feature.

    So the slice with the most suspicious features has the highest expected class, from the first step on.
    """

    order: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), _LITTLE))
        self.bias = nn.Parameter(torch.zeros(classes))
        # The device is stated because the network may be built on the meta device.
        self.register_buffer("order", torch.arange(classes, dtype=torch.float32, device="cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, features) to logits (B, classes)."""
        severity = (x * F.softplus(self.weight)).sum(dim=1, keepdim=True)
        return severity * self.order + self.bias


class ProViCNetClassifier(_SliceEncoders):
    """Segments cancer; the class follows from the most suspicious place, and from how many places are, of indolent and
    of clinically significant cancer.

    It classifies one slice; a case has the logits of its worst one (`inference.windows.infer`). One class a case is
    little to learn from, so that the segmentation is an auxiliary output: where lesions are known, they teach it. The
    class is given nothing else: from features of the places a perceptron learned the training cases instead.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        dim, width = spec.encoder.dim, spec.head.width
        self.streams = nn.ModuleList(nn.Sequential(*_double(dim, width)) for _ in self.encoders)
        joined = len(self.streams) * width
        self.segmentation = nn.Sequential(*_double(joined, width), *_double(width, len(TISSUES), normalize=False))
        self.head = OrderedClasses(2 * len(TISSUES[_CANCERS]), spec.head.out_channels)

    def forward(self, *windows_and_positions: Tensor) -> Tensor | list[Tensor]:
        """Classify a slice: logits (B, out); in training mode a list of these and of each pixel's logits of `TISSUES`
        (B, 4, 8 * side, 8 * side).
        """
        *windows, positions = windows_and_positions
        tissue = self.segment(windows, positions)
        # In float32: bfloat16 has no number between 0.996 and 1, and rounds 1 - _RARELY to 1, whose logit is infinite.
        probabilities = tissue.float().softmax(dim=1)[:, _CANCERS]
        places = F.avg_pool2d(probabilities, _PLACE_PX).flatten(2)  # (B, cancers, places)
        worst = places.amax(dim=2).clamp(_RARELY, 1 - _RARELY)
        extent = places.sum(dim=2).clamp(min=_RARELY)
        logits = self.head(torch.cat([worst.log() - (1 - worst).log(), extent.log()], dim=1))
        return [logits, tissue] if self.training else logits

    def segment(self, windows: Sequence[Tensor], positions: Tensor) -> Tensor:
        """Logits of `TISSUES` (B, 4, 8 * side, 8 * side), by a head as `FusionHead`, but of any sequences."""
        tokens = self.patch_tokens(windows, positions)
        streams = [stream(token_grid(own, self.side)) for stream, own in zip(self.streams, tokens, strict=True)]
        return self.segmentation(torch.cat(streams, dim=1))


class ProViCNetImageToImage(_SliceEncoders):
    """A decoder to an image with skips from the slices themselves.

    The output has the size of the slices as they are cut, or, by sub-pixel convolution, half of that is what is seen.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        count = len(self.encoders)
        channels, tokens = count * (NEIGHBORS + 1), count * spec.encoder.dim
        kind = SliceUpsamplingHead if spec.preprocess.patch[-1] == 2 * self.output_size[-1] else SliceImageToImageHead
        self.head = kind(channels, tokens, spec.head.width, spec.head.out_channels, initial_output)

    def forward(self, *windows_and_positions: Tensor) -> Tensor:
        """The image of a slice (B, out, 8 * side, 8 * side), or twice that, in the unit that the task states."""
        *windows, positions = windows_and_positions
        grid = self.joint_grid(windows, positions)
        slices = torch.cat([*windows, *(own_slice(window, positions) for window in windows)], dim=1)
        return self.head(resize(slices, self.output_size), grid)


class ProViCNetCostVolume(_SliceEncoders):
    """A cost-volume head: the displacement of diffusion against T2w, the first sequence, in a slice."""

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec, drop_path)
        count, (step_mm, _, _) = len(self.encoders), spec.preprocess.spacing_mm
        self.head = CostVolumeHead([count * spec.encoder.dim], count - 1, spec.head.width, step_mm, is_flat=True)

    def forward(self, *windows_and_positions: Tensor) -> Tensor:
        """Displacement (B, 1, 8 * side, 8 * side) in mm along x, see `CostVolumeHead`."""
        *windows, positions = windows_and_positions
        grid = self.joint_grid(windows, positions)
        t2w, *diffusion = (resize(own_slice(window, positions), self.output_size) for window in windows)
        return self.head(t2w, torch.cat(diffusion, dim=1), [grid])


def own_slice(window: Tensor, positions: Tensor) -> Tensor:
    """The slice (B, 1, H, W) of a window (B, 3, H, W) that the output is about.

    It is the middle one, but at a volume's ends, where the window has moved inwards: see `inputs.neighbor_slices`.
    """
    z, count = positions.to(window.dtype)[:, :, None, None, None].unbind(1)  # each (B, 1, 1, 1)
    first, last = (z < 1).to(window.dtype), (z > count - 2).to(window.dtype)
    below, middle, above = window.split(1, dim=1)
    return first * below + last * (1 - first) * above + (1 - first) * (1 - last) * middle


_BUILDERS: dict[str, type[nn.Module]] = {
    "none": ProViCNetEncoders,
    "classifier": ProViCNetClassifier,
    "convolution": ProViCNet,
    "fusion": ProViCNetFusion,
    "matching": ProViCNetCostVolume,
}


def build(spec: ModelSpec, drop_path: float, initial_output: float) -> nn.Module:
    """See `EncoderFamily.build`."""
    if spec.head.kind == "restoration":
        return ProViCNetImageToImage(spec, drop_path, initial_output)
    return _BUILDERS[spec.head.kind](spec, drop_path)


def _slice_encoders(network: nn.Module, spec: ModelSpec) -> list[SliceEncoder]:
    """The encoders of a network, in the order in which it takes their sequences."""
    return [cast(SliceEncoder, network.get_submodule(p.rstrip("."))) for p in encoder_prefixes(spec).values()]


def patch_tokens(network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> Tensor:
    """Normalized patch tokens (B, tokens, sequences * dim) for what the network's `forward` takes."""
    *windows, positions = inputs
    encoders = _slice_encoders(network, spec)
    return torch.cat([e.patch_tokens(w, positions) for e, w in zip(encoders, windows, strict=True)], dim=2)


def block_features(network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """See `ProViCNetFamily.features`."""
    encoders = _slice_encoders(network, spec)
    with _block_outputs(encoders) as outputs:
        normalized = patch_tokens(network, spec, inputs).mean(dim=1)
    found = {}
    for i, tokens in enumerate(zip(*outputs, strict=True), start=1):
        patches = [own[:, encoder.leading_tokens :] for own, encoder in zip(tokens, encoders, strict=True)]
        found[f"block-{i}"] = torch.cat(patches, dim=2).mean(dim=1)
    return {**found, "encoder": normalized}


@contextmanager
def _block_outputs(encoders: Iterable[SliceEncoder]) -> Iterator[list[list[Tensor]]]:
    """What each encoder's blocks give while the context lasts: encoder → block → tokens (B, N, dim)."""
    outputs: list[list[Tensor]] = []
    hooks = []
    for encoder in encoders:
        own: list[Tensor] = []
        outputs.append(own)
        for block in encoder.backbone.blocks:
            hooks.append(block.register_forward_hook(lambda _module, _given, output, to=own: to.append(output)))
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
