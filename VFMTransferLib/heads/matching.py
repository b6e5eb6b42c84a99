"""Head for distortion correction: how far along the phase axis must diffusion be moved to lie on the T2w?

A network of plain convolutions has to invent the comparison of two images at a distance before it can learn anything
of it, and hundreds of steps do not suffice. Here the comparison is built in, as in networks for optical flow
(Dosovitskiy et al., FlowNet, ICCV 2015) and stereo (Kendall et al., GC-Net, ICCV 2017): learned features of both
images are correlated at each displacement in question, the encoder's maps weigh what was found, and the output is the
expected displacement. Off-resonance is smooth, so the answer is given on a coarse grid and blended.

Nobody has published weights for this task; the head is this project's own. It searches along x, the phase axis that
the study's cases have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import resize

REACH_MM = 7.0
_KERNEL = 3
_NO_SIGNAL = 1e-6
_CERTAINTY = 10.0  # by which similarities, which lie in -1..1, become logits before training


class MatchingHead(nn.Module):
    """Displacement along x, in mm, by matching diffusion to T2w.

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
        self.step_mm, self.reach = step_mm, round(REACH_MM / step_mm)
        count, hidden = 2 * self.reach + 1, 4 * width
        self.is_flat = is_flat
        self.stride = (4, 8) if is_flat else (2, 4, 8)  # of the answer's grid in that of the features
        self.anatomy = _features(1, width, is_flat)
        self.diffusion = _features(diffusion_channels, width, is_flat)
        self.narrow = nn.ModuleList(convolution(channels, hidden, 1) for channels in map_channels)
        self.join = convolution(count + hidden, hidden, _KERNEL, padding=1)
        self.refine = convolution(hidden, hidden, _KERNEL, padding=1)
        self.out = convolution(hidden, count, _KERNEL, padding=1)
        self.certainty = nn.Parameter(torch.tensor(_CERTAINTY))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, t2w: Tensor, diffusion: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Displacement (B, 1, [D,] H, W) in mm: place p of the T2w is shown at p + d(p) of the diffusion images.

        Args:
            t2w: (B, 1, [D,] H, W).
            diffusion: (B, diffusion_channels, [D,] H, W).
            maps: The encoder's maps, any sizes.
        """
        similar = self.similarity(self.anatomy(t2w).float(), self.diffusion(diffusion).float())
        known = sum(resize(narrow(x).float(), similar.shape[2:]) for narrow, x in zip(self.narrow, maps, strict=True))
        x = F.gelu(self.join(torch.cat([similar, known], dim=1)))
        x = x + F.gelu(self.refine(x))
        likely = (self.certainty * similar + self.out(x).float()).softmax(dim=1)
        steps = torch.arange(-self.reach, self.reach + 1, dtype=likely.dtype, device=likely.device)
        coarse = (likely * (self.step_mm * steps).view(-1, *[1] * len(self.stride))).sum(dim=1, keepdim=True)
        return self._blended(resize(coarse, t2w.shape[2:]))

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

    def _blended(self, x: Tensor) -> Tensor:
        """Means over as much as a coarse step, so that the derivative, which scales intensities, has no jumps."""
        pool, size = (F.avg_pool2d, (9, 9)) if self.is_flat else (F.avg_pool3d, (5, 9, 9))
        return pool(x, size, 1, [s // 2 for s in size], count_include_pad=False)


def _energy(x: Tensor) -> Tensor:
    return x.square().sum(dim=1, keepdim=True)


def _features(channels: int, width: int, is_flat: bool) -> nn.Sequential:
    """What is compared: at full resolution along x, and half of it along the other axes."""
    if is_flat:
        return nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=(2, 1), padding=2),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
    flat, pad = (1, 3, 3), (0, 1, 1)
    return nn.Sequential(
        nn.Conv3d(channels, width, (2, 5, 5), stride=(2, 2, 1), padding=(0, 2, 2)),
        nn.GELU(),
        nn.Conv3d(width, width, flat, padding=pad),
        nn.GELU(),
        nn.Conv3d(width, width, flat, padding=pad),
    )
