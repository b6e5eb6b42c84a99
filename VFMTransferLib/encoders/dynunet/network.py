"""The task-specific baselines' networks, MONAI's own: DynUNet for maps, a ResNet for classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..base import ModelSpec
from ..weights import empty_network, parameter_count

_LEVELS = 4
_MIN_WIDTH, _MAX_WIDTH = 4, 128


def build(spec: ModelSpec) -> nn.Module:
    """See `EncoderFamily.build`."""
    from monai.networks.nets import DynUNet, ResNet  # their import takes seconds

    widths = [spec.encoder.width * 2**level for level in range(_LEVELS)]
    if spec.head.is_vector:
        return ResNet(
            block="basic",
            layers=[1] * _LEVELS,
            block_inplanes=widths,
            spatial_dims=3,
            n_input_channels=spec.encoder.in_channels,
            num_classes=spec.head.out_channels,
        )
    strides = [1] + [2] * (_LEVELS - 1)
    return DynUNet(
        spatial_dims=3,
        in_channels=spec.encoder.in_channels,
        out_channels=spec.head.out_channels,
        kernel_size=[3] * _LEVELS,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=widths,
    )


def matched_width(spec: ModelSpec, of_width: Callable[[int], ModelSpec]) -> ModelSpec:
    """The network of a width, as `of_width` gives it, whose number of parameters is nearest to that of another."""

    def count(width: int) -> int:
        with torch.device("meta"):
            return parameter_count(build(of_width(width)))

    wanted = parameter_count(empty_network(spec))
    low, high = _MIN_WIDTH, _MAX_WIDTH
    while high - low > 1:  # the number of parameters rises with the width
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= wanted else (low, middle)
    return of_width(min((low, high), key=lambda width: abs(count(width) - wanted)))
