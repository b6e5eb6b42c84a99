"""ProFound: a 3D ConvNeXt V2 encoder with one of several heads.

Paper: arXiv 2603.03961. Tensor names are those of the authors' files (pipiwang/ProFound, Apache-2.0).
Input of each network: x (B, 3, D, H, W), channels T2w, high-b DWI, ADC (or T2w and two of zeros).
"""

from __future__ import annotations

from torch import Tensor, nn

from ..heads.segmentation import AuxiliaryHead, UPerNetHead
from ..layers import LayerNorm, resize
from ..registry import ModelSpec
from .convnextv2 import ConvNeXtV2

_AUXILIARY_MAP = 2


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

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment x.

        Returns:
            Logits (B, out, D, H, W); in training mode a list of these and the auxiliary head's.
        """
        size = x.shape[2:]
        maps = [norm(feature) for norm, feature in zip(self.hidden_norm, self.encoder.forward_features(x), strict=True)]
        logits = resize(self.decode_head(maps), size)
        if not self.training:
            return logits
        return [logits, resize(self.auxiliary_head(maps[_AUXILIARY_MAP]), size)]
