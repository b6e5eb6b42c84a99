"""Heads for image-to-image tasks, up to the input's size with skips from the image itself, and the cost-volume head.

Nobody has published weights for these tasks, so the heads are this project's own. They carry no normalization at the
finer levels: what is predicted is intensity, and normalizing costs accuracy there (EDSR, arXiv 1707.02921).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import resize

_BLOCK = 4  # pixels of a block
_FINE = 3


class RefineStep(nn.Module):
    """One step up from a coarser map: resize to the skip, join both, convolve (`nn.Conv2d` for maps of slices)."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, convolution: type[nn.Module] = nn.Conv3d
    ) -> None:
        super().__init__()
        # Narrowing before resizing, not after it, saves the work of all places but every eighth, or fourth.
        self.narrow = convolution(in_channels, out_channels, 1)
        self.skip = convolution(skip_channels, out_channels, 1)
        self.join = convolution(2 * out_channels, out_channels, 3, padding=1)
        self.refine = convolution(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join x (B, in, ...) with skip (B, skip, [D,] H, W) to (B, out, [D,] H, W)."""
        x = resize(self.narrow(x), skip.shape[2:])
        x = F.gelu(self.join(torch.cat([x, self.skip(skip)], dim=1)))
        return x + F.gelu(self.refine(x))


class ImageToImageHead(nn.Module):
    """Decoder over the image and the encoder's four normalized maps.

    Its finest level sees blocks of 2 x 2 pixels as channels (ESPCN, arXiv 1609.05158): so each of its convolutions
    costs a quarter and sees twice as far, and what it adds to a pixel depends on where in the block that lies. The last
    convolution's weights start at zero, so that an untrained network gives `start` everywhere.

    Args:
        in_channels: Channels of the image.
        dims: Channels of the encoder's four maps, at strides 4, 8, 16, 16.
        width: A third of the channels of the two finest levels; the others have 4, 8 and 16 times as many.
        out_channels: Channels of the output.
        start: Output of the untrained network.
    """

    def __init__(
        self, in_channels: int, dims: tuple[int, ...], width: int, out_channels: int, start: float = 0.0
    ) -> None:
        super().__init__()
        fine = _FINE * width
        self.image_full = nn.Conv3d(_BLOCK * in_channels, fine, 3, padding=1)
        self.image_half = nn.Conv3d(fine, fine, 3, stride=(2, 1, 1), padding=1)
        self.bottom = nn.Conv3d(dims[2] + dims[3], 16 * width, 1)
        sizes = (
            (16 * width, dims[1], 8 * width),
            (8 * width, dims[0], 4 * width),
            (4 * width, fine, fine),
            3 * (fine,),
        )
        self.steps = nn.ModuleList(RefineStep(*size) for size in sizes)
        self.out = _last(nn.Conv3d(fine, _BLOCK * out_channels, 3, padding=1), start)

    def forward(self, image: Tensor, maps: list[Tensor]) -> Tensor:
        """Decode to (B, out, D, H, W) at the image's size."""
        full = F.gelu(self.image_full(fold_blocks(image)))  # (B, fine, D, H / 2, W / 2)
        half = F.gelu(self.image_half(full))  # (B, fine, D / 2, H / 2, W / 2)
        x = F.gelu(self.bottom(torch.cat(maps[2:], dim=1)))  # stride 16
        for step, skip in zip(self.steps, (maps[1], maps[0], half, full), strict=True):
            x = step(x, skip)
        return unfold_blocks(self.out(x))[..., : image.shape[-2], : image.shape[-1]]


class SliceImageToImageHead(nn.Module):
    """Decoder over a slice and the patch tokens of its sequences, up to eight times the tokens' grid.

    Blocks of pixels and the start are as above.

    Args:
        image_channels: Of the slices that the skips come from.
        token_channels: Of the tokens of all sequences together.
        width: A third of the channels of the finest level; the others have 4 and 8 times as many.
        out_channels: Channels of the output.
        start: Output of the untrained network.
    """

    def __init__(
        self, image_channels: int, token_channels: int, width: int, out_channels: int, start: float = 0.0
    ) -> None:
        super().__init__()
        fine = _FINE * width
        self.image_full = nn.Conv2d(_BLOCK * image_channels, fine, 3, padding=1)
        self.image_half = nn.Conv2d(fine, 4 * width, 3, stride=2, padding=1)
        self.bottom = nn.Conv2d(token_channels, 8 * width, 1)
        sizes = ((8 * width, 4 * width, 4 * width), (4 * width, fine, fine))
        self.steps = nn.ModuleList(RefineStep(*size, nn.Conv2d) for size in sizes)
        self.refine = nn.Conv2d(fine, fine, 3, padding=1)
        self.out = _last(nn.Conv2d(fine, _BLOCK * out_channels, 3, padding=1), start)

    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        """Decode slices (B, image_channels, 8S, 8S) and their tokens (B, token_channels, S, S) to (B, out, 8S, 8S)."""
        full = F.gelu(self.image_full(fold_blocks(image)))  # (B, fine, 4S, 4S)
        half = F.gelu(self.image_half(full))  # (B, 4 width, 2S, 2S)
        x = F.gelu(self.bottom(grid))
        for step, skip in zip(self.steps, (half, full), strict=True):
            x = step(x, skip)
        return unfold_blocks(self.out(x + F.gelu(self.refine(x))))


class SliceUpsamplingHead(nn.Module):
    """Decoder over a slice and its tokens, up to sixteen times the tokens' grid: twice the matrix that it sees.

    What a scanned pixel becomes, four of half its width, are channels until the end (ESPCN, arXiv 1609.05158).
    Skips are added (LinkNet, arXiv 1707.03718): joined as channels they would double the costliest convolutions.
    The start is as above.

    Args:
        image_channels, token_channels, out_channels, start: As above.
        width: Half of the channels of the finest level; the coarser ones have 4, 4 and 8 times as many.
    """

    def __init__(
        self, image_channels: int, token_channels: int, width: int, out_channels: int, start: float = 0.0
    ) -> None:
        super().__init__()
        levels = (2 * width, 4 * width, 4 * width)  # channels at 8S, 4S and 2S
        strides, sources = (1, 2, 2), (image_channels, *levels)
        self.down = nn.ModuleList(
            nn.Conv2d(source, channels, 3, stride, padding=1)
            for source, channels, stride in zip(sources, levels, strides, strict=False)
        )
        self.bottom = nn.Conv2d(token_channels, 8 * width, 1)
        coarser = (*levels[1:], 8 * width)
        self.narrow = nn.ModuleList(nn.Conv2d(c, channels, 1) for c, channels in zip(coarser, levels, strict=True))
        self.refine = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for channels in (levels[0], *levels))
        self.out = _last(nn.Conv2d(levels[0], _BLOCK * out_channels, 3, padding=1), start)

    def forward(self, image: Tensor, grid: Tensor) -> Tensor:
        """Slices (B, image_channels, 8S, 8S) and their tokens (B, token_channels, S, S) to (B, out, 16S, 16S)."""
        skips = [image]
        for down in self.down:
            skips.append(F.gelu(down(skips[-1])))
        x = F.gelu(self.bottom(grid))
        last, *refine = self.refine
        for skip, narrow, convolution in reversed(list(zip(skips[1:], self.narrow, refine, strict=True))):
            x = resize(narrow(x), skip.shape[2:]) + skip
            x = x + F.gelu(convolution(x))
        return unfold_blocks(self.out(x + F.gelu(last(x))))


def fold_blocks(x: Tensor) -> Tensor:
    """Blocks of 2 x 2 pixels in plane as channels: (B, C, ..., H, W) → (B, 4 C, ..., H / 2, W / 2).

    An odd row or column is filled up with zeros.
    """
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    *outer, height, width = x.shape
    x = x.reshape(*outer, height // 2, 2, width // 2, 2)
    # Not movedim: the ONNX exporter writes negative axes as they stand, which ONNX forbids.
    last = x.ndim - 1
    x = x.permute(0, 1, last - 2, last, *range(2, last - 3), last - 3, last - 1)  # (B, C, 2, 2, ..., H / 2, W / 2)
    return x.flatten(1, 3)


def unfold_blocks(x: Tensor) -> Tensor:
    """The inverse: (B, 4 C, ..., H, W) → (B, C, ..., 2 H, 2 W)."""
    x = x.unflatten(1, (-1, 2, 2))  # (B, C, 2, 2, ..., H, W)
    last = x.ndim - 1
    x = x.permute(0, 1, *range(4, last - 1), last - 1, 2, last, 3)  # (B, C, ..., H, 2, W, 2)
    return x.flatten(last - 3, last - 2).flatten(last - 2, last - 1)


def _last(convolution: nn.Conv2d | nn.Conv3d, start: float) -> nn.Conv2d | nn.Conv3d:
    """A convolution that gives `start` until it is trained."""
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.constant_(convolution.bias, start)
    return convolution


REACH_MM = 7.0
_KERNEL = 3
_EVIDENCE = 4  # similarity at a displacement and at both neighbors, and how long it is
_NO_SIGNAL = 1e-6
_CERTAINTY = 10.0  # by which similarities, which lie in -1..1, become logits before training


class CostVolumeHead(nn.Module):
    """Displacement along x, the phase axis that the study's cases have, in mm, by matching diffusion to T2w.

    A network of plain convolutions has to invent the comparison of two images at a distance before it can learn
    anything of it, and hundreds of steps do not suffice. Here the comparison is built in, as in networks for optical
    flow (Dosovitskiy et al., FlowNet, ICCV 2015) and stereo (Kendall et al., GC-Net, ICCV 2017): learned features of
    both images are correlated at each displacement in question, the encoder's maps weigh what was found, and the output
    is the expected displacement. Off-resonance is smooth, so the answer is given on a coarse grid and blended.

    Each displacement in question is judged by the same weights, from how similar the images are at it and at its two
    neighbors, from how large it is, and from what the encoder sees. So the head cannot give "to the left" unless the
    images do; with weights of its own for each displacement, the mean displacement of the last few samples drowned
    what was to be learned.

    Args:
        map_channels: Channels of the encoder's maps, coarsest grid and all.
        diffusion_channels: Channels of the diffusion images.
        width: Features that are compared.
        step_mm: Voxel along x.
        is_flat: Whether images are slices (H, W) and not volumes (D, H, W).
    """

    def __init__(
        self, map_channels: Sequence[int], diffusion_channels: int, width: int, step_mm: float, is_flat: bool = False
    ) -> None:
        super().__init__()
        convolution: type[nn.Module] = nn.Conv2d if is_flat else nn.Conv3d
        self.step_mm, self.reach, hidden = step_mm, round(REACH_MM / step_mm), 2 * width
        self.is_flat = is_flat
        self.stride = (4, 8) if is_flat else (2, 4, 8)  # of the answer's grid in that of the features
        self.anatomy = _features(1, width, is_flat)
        self.diffusion = _features(diffusion_channels, width, is_flat)
        self.narrow = nn.ModuleList(convolution(channels, hidden, 1) for channels in map_channels)
        self.join = convolution(_EVIDENCE, hidden, _KERNEL, padding=1)
        self.refine = convolution(hidden, hidden, _KERNEL, padding=1)
        # No bias: what all shifts share does not distinguish them.
        self.out: nn.Module = convolution(hidden, 1, _KERNEL, padding=1, bias=False)
        self.certainty = nn.Parameter(torch.tensor(_CERTAINTY))
        nn.init.zeros_(self.out.get_parameter("weight"))

    def forward(self, t2w: Tensor, diffusion: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Displacement (B, 1, [D,] H, W) in mm: place p of the T2w is shown at p + d(p) of the diffusion images.

        Args:
            t2w: (B, 1, [D,] H, W).
            diffusion: (B, diffusion_channels, [D,] H, W).
            maps: The encoder's maps, any sizes.
        """
        similar = self.similarity(self.anatomy(t2w).float(), self.diffusion(diffusion).float())  # (B, K, ...)
        steps = torch.arange(-self.reach, self.reach + 1, dtype=similar.dtype, device=similar.device)
        steps = steps.view(-1, *[1] * len(self.stride))
        likely = (self.certainty * similar + self._judged(similar, steps, maps)).softmax(dim=1)
        coarse = (likely * (self.step_mm * steps)).sum(dim=1, keepdim=True)
        # Means over as much as a coarse step, so that the derivative, which scales intensities, has no jumps.
        pool, size = (F.avg_pool2d, (9, 9)) if self.is_flat else (F.avg_pool3d, (5, 9, 9))
        return pool(resize(coarse, t2w.shape[2:]), size, 1, [s // 2 for s in size], count_include_pad=False)

    def _judged(self, similar: Tensor, steps: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """What speaks for each displacement (B, K, ...) beside the similarity at the place itself."""
        count, size = similar.shape[1], similar.shape[2:]
        around = F.pad(similar, [0] * (2 * len(size)) + [1, 1])
        length = (steps / self.reach).square().expand_as(similar)
        evidence = torch.stack([around[:, :count], similar, around[:, 2:], length], dim=2).flatten(
            0, 1
        )  # (B K, 4, ...)
        seen = torch.stack([resize(narrow(x).float(), size) for narrow, x in zip(self.narrow, maps, strict=True)])
        # Evidence (B K, 4, ...), what the encoder sees (maps, B, hidden, ...).
        x = self.join(evidence).unflatten(0, (-1, count)) + seen.sum(dim=0)[:, None]  # (B, K, hidden, ...)
        x = F.gelu(x.flatten(0, 1))
        x = x + F.gelu(self.refine(x))
        return self.out(x).float().unflatten(0, (-1, count)).squeeze(2)

    def similarity(self, anatomy: Tensor, diffusion: Tensor) -> Tensor:
        """Correlation of features (B, C, ...) around each place of the coarse grid at each displacement, -1..1."""
        anatomy, diffusion = (x - resize(self._pooled(x), x.shape[2:]) for x in (anatomy, diffusion))
        length, reach = anatomy.shape[-1], (self.reach, self.reach)
        moved, energy = F.pad(diffusion, reach), F.pad(_energy(diffusion), reach)
        fixed = self._pooled(_energy(anatomy))
        found = []
        for shift in range(2 * self.reach + 1):
            common = self._pooled((anatomy * moved[..., shift : shift + length]).sum(dim=1, keepdim=True))
            there = self._pooled(energy[..., shift : shift + length])
            found.append(common / torch.sqrt(fixed * there + _NO_SIGNAL))
        return torch.cat(found, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        """Means over windows twice the coarse grid's step, around its places."""
        pool = F.avg_pool2d if self.is_flat else F.avg_pool3d
        return pool(x, [2 * s for s in self.stride], self.stride, [s // 2 for s in self.stride])


def _energy(x: Tensor) -> Tensor:
    return x.square().sum(dim=1, keepdim=True)


def _features(channels: int, width: int, is_flat: bool) -> nn.Sequential:
    """What is compared: at full resolution along x, and half of it along the other axes."""
    if is_flat:
        convolution: Any = nn.Conv2d
        first: dict[str, Any] = {"kernel_size": 5, "stride": (2, 1), "padding": 2}
        other: dict[str, Any] = {"kernel_size": 3, "padding": 1}
    else:
        convolution = nn.Conv3d
        first = {"kernel_size": (2, 5, 5), "stride": (2, 2, 1), "padding": (0, 2, 2)}
        other = {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}
    return nn.Sequential(
        convolution(channels, width, **first),
        nn.GELU(),
        convolution(width, width, **other),
        nn.GELU(),
        convolution(width, width, **other),
    )
