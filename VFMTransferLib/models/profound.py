"""ProFound: a 3D ConvNeXt V2 encoder with one of several heads.

Paper: arXiv 2603.03961. Tensor names are those of the authors' files (pipiwang/ProFound, Apache-2.0).
Input of each network: x (B, 3, D, H, W), channels T2w, high-b DWI, ADC (or T2w and two of zeros).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..heads.classification import ClassifierHead
from ..heads.matching import MatchingHead
from ..heads.restoration import RestorationHead, start_of
from ..heads.segmentation import AuxiliaryHead, UPerNetHead
from ..heads.unetr import UNETRDecoder
from ..layers import LayerNorm, channels_first, channels_last, resize
from ..registry import ModelSpec
from .convnextv2 import ConvNeXtV2

_AUXILIARY_MAP = 2
_STRIDE = 16


class ProFoundEncoder(ConvNeXtV2):
    """The encoder alone: one normalized feature vector a sample, and no head.

    Args:
        spec: Sizes of the encoder.
        drop_path: Stochastic depth of the encoder, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__(spec.encoder, drop_path)


class ProFoundClassifier(nn.Module):
    """Encoder and perceptron: logits of one class a study.

    Args:
        spec: Sizes of encoder and head.
        drop_path: Stochastic depth of the encoder, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder = ConvNeXtV2(spec.encoder, drop_path)
        self.head = ClassifierHead(spec.encoder.dims[-1], spec.head.width, spec.head.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Classify x: logits (B, out)."""
        return self.head(self.encoder(x))


class ProFoundUPerNet(nn.Module):
    """Encoder and UPerNet: logits at the input's size.

    Args:
        spec: Sizes of encoder and head.
        drop_path: Stochastic depth of the encoder, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        dims, head = spec.encoder.dims, spec.head
        self.encoder = ConvNeXtV2(spec.encoder, drop_path)
        self.decode_head = UPerNetHead(dims, head.width, head.out_channels)
        self.auxiliary_head = AuxiliaryHead(dims[_AUXILIARY_MAP], head.auxiliary_width, head.out_channels)
        self.hidden_norm = nn.ModuleList(LayerNorm(dim) for dim in dims)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """Segment x.

        Args:
            x: Images (B, C, D, H, W).
            size: Size of the logits, if not the input's; training saves most of its time at a smaller one.

        Returns:
            Logits (B, out, D, H, W); in training mode a list of these and the auxiliary head's.
        """
        size = x.shape[2:] if size is None else size
        maps = [norm(feature) for norm, feature in zip(self.hidden_norm, self.encoder.forward_features(x), strict=True)]
        logits = resize(self.decode_head(maps), size)
        if not self.training:
            return logits
        return [logits, resize(self.auxiliary_head(maps[_AUXILIARY_MAP]), size)]


class ProFoundUNETR(nn.Module):
    """Encoder and UNETR-like decoder: logits at the input's size.

    Args:
        spec: Sizes of encoder and head.
        drop_path: Stochastic depth of the encoder, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        encoder, head = spec.encoder, spec.head
        self.encoder = ConvNeXtV2(encoder, drop_path)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(dim) for dim in encoder.dims[:-1])
        self.decoder = UNETRDecoder(encoder.in_channels, encoder.dims, head.width, head.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Segment x: logits (B, out, D, H, W).

        Raises:
            ValueError: A size is no multiple of 16, so that the skips do not meet.
        """
        if not torch.jit.is_tracing() and any(n % _STRIDE for n in x.shape[2:]):
            raise ValueError(
                f"The input's size must be a multiple of {_STRIDE} in each axis, got {tuple(x.shape[2:])}."
            )
        first, second, third, last = self.encoder.forward_features(x)
        # The last map's norm is the encoder's own, as in the authors' files.
        last = channels_first(self.encoder.norm(channels_last(last)))
        return self.decoder(x, [self.norm1(first), self.norm2(second), self.norm3(third), last])


class ProFoundRestoration(nn.Module):
    """Encoder and restoration head: an image at the input's size.

    Args:
        spec: Sizes of encoder and head.
        drop_path: Stochastic depth of the encoder, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        encoder, head = spec.encoder, spec.head
        self.encoder = ConvNeXtV2(encoder, drop_path)
        self.hidden_norm = nn.ModuleList(LayerNorm(dim) for dim in encoder.dims)
        self.head = RestorationHead(encoder.in_channels, encoder.dims, head.width, head.out_channels, start_of(spec))

    def forward(self, x: Tensor) -> Tensor:
        """Restore x: (B, out, D, H, W), in the unit that the model's registry row states."""
        maps = [norm(feature) for norm, feature in zip(self.hidden_norm, self.encoder.forward_features(x), strict=True)]
        return self.head(x, maps)


class ProFoundMatching(nn.Module):
    """Encoder and matching head: the displacement of diffusion against T2w, at the input's size.

    Args:
        spec: Sizes of encoder and head; its first sequence is T2w.
        drop_path: Stochastic depth of the encoder, in training.
    """

    def __init__(self, spec: ModelSpec, drop_path: float = 0.0) -> None:
        super().__init__()
        encoder, (step_mm, _, _) = spec.encoder, spec.preprocess.spacing_mm
        self.encoder = ConvNeXtV2(encoder, drop_path)
        self.hidden_norm = nn.ModuleList(LayerNorm(dim) for dim in encoder.dims)
        self.head = MatchingHead(encoder.dims, encoder.in_channels - 1, spec.head.width, step_mm)

    def forward(self, x: Tensor) -> Tensor:
        """Displacement (B, 1, D, H, W) in mm along x, see `MatchingHead`."""
        maps = [norm(feature) for norm, feature in zip(self.hidden_norm, self.encoder.forward_features(x), strict=True)]
        return self.head(x[:, :1], x[:, 1:], maps)
