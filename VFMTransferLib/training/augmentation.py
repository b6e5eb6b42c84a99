"""Random views of a training case: where it is sampled, and how it appears.

A case is sampled once, from the grid it was scanned on straight to the network's input, so that a random view is
interpolated no more often than a case to predict. Every random number comes from the generator that is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core.terms import Sequence
from ..encoders.synthetic import near_coil_gain
from .config import Augmentation

# Knots of the coarse grid on which positions are computed; between them they are linear.
_KNOTS = (16, 28, 28)
_ELASTIC_KNOTS = (6, 8, 8)
_CONTRAST_KNOTS = 7
# Of piled up signal, ours: how many places at most, the part of each axis where they lie, about the prostate, their
# deviation along an axis in millimeters, and the logarithm of their gain.
_PILES = 4
_PILE_PLACES = (0.2, 0.8)
_PILE_MM = (3.0, 10.0)
_LOG_PILE = (-0.4, 0.9)


def uniform(generator: Generator, low: float, high: float, count: int = 1) -> Tensor:
    """`count` random numbers between `low` and `high`."""
    return torch.rand(count, generator=generator) * (high - low) + low


def happens(generator: Generator, probability: float) -> bool:
    """True with the given probability; takes one random number in any case."""
    return bool(torch.rand(1, generator=generator) < probability)


def random_affine(generator: Generator, how: Augmentation) -> tuple[Tensor, Tensor]:
    """A random rotation, scale, mirroring and shift: matrix (3, 3) and shift (3,) in millimeters, axes (x, y, z)."""
    rotation = torch.eye(3)
    for axis, largest in enumerate(how.rotation_deg):
        angle = math.radians(float(uniform(generator, -largest, largest)))
        a, b = (k for k in range(3) if k != axis)
        about_axis = torch.eye(3)
        about_axis[a, a] = about_axis[b, b] = math.cos(angle)
        about_axis[a, b], about_axis[b, a] = -math.sin(angle), math.sin(angle)
        rotation = rotation @ about_axis
    common = uniform(generator, -how.log_scale, how.log_scale)
    own = uniform(generator, -how.log_axis_scale, how.log_axis_scale, 3)
    scales = torch.exp(common + own)
    if happens(generator, how.flip):
        scales[0] = -scales[0]
    shift = uniform(generator, -1, 1, 3) * torch.tensor(how.shift_mm)
    return rotation * scales, shift


def random_knots(
    patch: tuple[int, int, int], spacing_mm: tuple[float, float, float], generator: Generator, how: Augmentation
) -> Tensor:
    """Where a random view of voxels (D, H, W) and spacing (x, y, z) lies in the case, on a coarse grid of knots.

    Millimeters from the center of the case's crop, (3, d, h, w), components (x, y, z), linear between knots; the first
    and last knot of an axis are the centers of the view's first and last voxel.
    """
    matrix, shift = random_affine(generator, how)
    knots = [min(most, size) for most, size in zip(_KNOTS, patch, strict=True)]
    edges = [(n - 1) / 2 * s for n, s in zip(patch, spacing_mm[::-1], strict=True)]
    axes = [torch.linspace(-edge, edge, k) if k > 1 else torch.zeros(1) for edge, k in zip(edges, knots, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    positions = torch.einsum("ij,jdhw->idhw", matrix, torch.stack([x, y, z])) + shift[:, None, None, None]
    coarse = uniform(generator, -1, 1, 3 * math.prod(_ELASTIC_KNOTS)).reshape(1, 3, *_ELASTIC_KNOTS)
    strength_mm = float(uniform(generator, 0, how.elastic_mm))
    if not happens(generator, how.elastic):
        return positions
    fine = F.interpolate(coarse, size=knots, mode="trilinear", align_corners=True)
    return positions + strength_mm * F.avg_pool3d(fine, 3, stride=1, padding=1, count_include_pad=False)[0]


def random_misregistration(sequences: Iterable[Sequence | None], generator: Generator, how: Augmentation) -> Tensor:
    """Shift (x, y, z) of each sequence against T2w in millimeters, (S, 3): one in plane for diffusion, 0 for T2w."""
    moves = torch.tensor([[float(s is not None and s is not Sequence.T2W)] for s in sequences])
    if how.misregistration_mm == 0:
        return 0 * moves.expand(-1, 3)
    in_plane = uniform(generator, -how.misregistration_mm, how.misregistration_mm, 2)
    return moves * torch.cat([in_plane, torch.zeros(1)])


def random_pile_up(
    image: Tensor,
    sequence: Sequence | None,
    spacing_mm: tuple[float, float, float],
    generator: Generator,
    how: Augmentation,
) -> Tensor:
    """A normalized image (D, H, W) of spacing (x, y, z) with signal piled up, or lacking, where it is of a high b."""
    if how.pile_up == 0 or sequence is not Sequence.HBV or not happens(generator, how.pile_up):
        return image
    log_gain = torch.zeros(image.shape)
    for _ in range(int(torch.randint(1, _PILES + 1, (1,), generator=generator))):
        centers, widths_mm = uniform(generator, *_PILE_PLACES, 3), uniform(generator, *_PILE_MM, 3)
        parts = [
            torch.exp(-0.5 * ((torch.arange(n) - float(center) * (n - 1)) * step / float(width)) ** 2)
            for n, step, center, width in zip(image.shape, spacing_mm[::-1], centers, widths_mm, strict=True)
        ]
        log_gain += float(uniform(generator, *_LOG_PILE)) * torch.einsum("i,j,k->ijk", *parts)
    nothing = image.min()  # air, whose signal is next to 0
    return nothing + (image - nothing) * torch.exp(log_gain)


def view_scale(knots_mm: Tensor, patch: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> float:
    """Millimeters of the case for each one of a view, from what `random_knots` returns; geometric mean of the axes."""
    ratios = []
    for axis, (size, spacing) in enumerate(zip(patch, spacing_mm[::-1], strict=True), start=1):
        if size > 1:
            across = knots_mm.select(axis, -1) - knots_mm.select(axis, 0)
            ratios.append(float(across.mean(dim=(1, 2)).norm()) / ((size - 1) * spacing))
    return math.prod(ratios) ** (1 / max(len(ratios), 1))


def between_knots(knots: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Values (K, D, H, W) at every voxel of a view from those at its knots (K, d, h, w)."""
    return F.interpolate(knots[None], size=patch, mode="trilinear", align_corners=True)[0]


def random_field_of_view(generator: Generator, how: Augmentation) -> Tensor:
    """(3, 2): first and last part, 0..1 along (x, y, z), that a scan with a narrower field of view would show."""
    widths = uniform(generator, how.narrowest, 1, 3)
    places = uniform(generator, 0.3, 0.7, 3)
    if not happens(generator, how.narrow):
        return torch.tensor([[0.0, 1.0]] * 3)
    first = (1 - widths) * places
    return torch.stack([first, first + widths], dim=1)


def vary_intensity(image: Tensor, inside: Tensor, generator: Generator, how: Augmentation) -> Tensor:
    """Make a normalized image (D, H, W) look as if another scanner had made it, still about mean 0 and deviation 1.

    `inside` (D, H, W) states where the scan has voxels; elsewhere the result is 0.
    """
    mean, std = image.mean(), image.std() + 1e-6
    image = _random_resolution(image, generator, how)
    low, high = image.min(), image.max()
    tone = ((image - low) / (high - low + 1e-6)).clamp_(0, 1)
    if happens(generator, how.gamma):
        tone = (tone + 1e-4) ** float(torch.exp(uniform(generator, -how.log_gamma, how.log_gamma)))
    if happens(generator, how.contrast):
        tone = _tone_curve(tone, generator)
    if happens(generator, how.bias):
        strength = float(uniform(generator, 0, how.log_bias))
        coarse = torch.exp(strength * (torch.rand((1, 1, 3, 4, 4), generator=generator) * 2 - 1))
        # A smooth positive field, like the sensitivity of a surface coil.
        tone = tone * F.interpolate(coarse, size=image.shape, mode="trilinear", align_corners=True)[0, 0]
    if how.near_coil and happens(generator, how.near_coil):
        tone = tone * near_coil_gain(image.shape, generator)
    image = (tone - tone.mean()) * (std / (tone.std() + 1e-6)) + mean
    if happens(generator, how.noise):
        strength = float(uniform(generator, 0, how.noise_std))
        image = image + strength * torch.randn(image.shape, generator=generator)
    scale = torch.exp(uniform(generator, -how.level, how.level))
    return (image * scale + uniform(generator, -how.level, how.level)) * inside


def _random_resolution(image: Tensor, generator: Generator, how: Augmentation) -> Tensor:
    """Lower the resolution along z (thick slices) or in the plane, and come back."""
    depth, height, width = image.shape
    thickness = float(uniform(generator, 2, how.thickest_mm))
    factor = float(uniform(generator, 1, how.coarsest))
    size = [depth, height, width]
    if happens(generator, how.thick):
        size[0] = max(round(depth / thickness), 1)
    if happens(generator, how.coarse):
        size[1:] = max(round(height / factor), 1), max(round(width / factor), 1)
    if size == [depth, height, width]:
        return image
    low = F.interpolate(image[None, None], size=size, mode="area")
    return F.interpolate(low, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def _tone_curve(tone: Tensor, generator: Generator) -> Tensor:
    """Send tones 0..1 through a random curve, piecewise linear, mostly rising."""
    steps = torch.rand(_CONTRAST_KNOTS - 1, generator=generator) - 0.15
    knots = torch.cat([torch.zeros(1), steps.cumsum(0)])
    place = tone * (_CONTRAST_KNOTS - 1)
    index = place.floor().clamp_(max=_CONTRAST_KNOTS - 2)
    below = index.long()
    return knots[below] + (place - index) * steps[below]
