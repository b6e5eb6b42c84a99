"""What a user would train instead of a foundation model: MONAI's DynUNet (nnU-Net's network), or a ResNet for classes.

They take the same input and give the same output as ProFound's network of the task, at about its number of parameters,
so that one engine trains them by the same schedule and one function scores them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..base import ModelSpec
from ..network import build_network

_LEVELS = 4
_LEAST, _MOST = 4, 128


def specialised_network(spec: ModelSpec) -> nn.Module:
    """A network from scratch for the task of a ProFound network, with as many parameters as comes nearest to its own.

    Args:
        spec: A network of the ProFound family, with a head.

    Raises:
        ValueError: It is another one.
    """
    if spec.family != "profound" or spec.task is None:
        raise ValueError(f"A specialised network must stand beside a task of ProFound, got {spec.name}.")
    build = _residual if spec.head.kind == "classifier" else _unet
    return build(spec, matched_width(spec, build))


def matched_width(spec: ModelSpec, build: Callable[[ModelSpec, int], nn.Module]) -> int:
    """The width whose number of parameters is nearest to that of the specification's own network."""
    with torch.device("meta"):
        wanted = parameter_count(build_network(spec))
        low, high = _LEAST, _MOST
        while high - low > 1:  # the number of parameters rises with the width
            middle = (low + high) // 2
            low, high = (middle, high) if parameter_count(build(spec, middle)) <= wanted else (low, middle)
        return min((low, high), key=lambda width: abs(parameter_count(build(spec, width)) - wanted))


def parameter_count(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def _unet(spec: ModelSpec, width: int) -> nn.Module:
    from monai.networks.nets import DynUNet  # its import takes seconds

    steps = [1] + [2] * (_LEVELS - 1)
    return DynUNet(
        spatial_dims=3,
        in_channels=spec.encoder.in_channels,
        out_channels=spec.head.out_channels,
        kernel_size=[3] * _LEVELS,
        strides=steps,
        upsample_kernel_size=steps[1:],
        filters=[width * 2**level for level in range(_LEVELS)],
    )


def _residual(spec: ModelSpec, width: int) -> nn.Module:
    from monai.networks.nets import ResNet

    return ResNet(
        block="basic",
        layers=[1] * _LEVELS,
        block_inplanes=[width * 2**level for level in range(_LEVELS)],
        spatial_dims=3,
        n_input_channels=spec.encoder.in_channels,
        num_classes=spec.head.out_channels,
    )
