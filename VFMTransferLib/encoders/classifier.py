"""Head that turns one feature vector a sample into class logits."""

from __future__ import annotations

from torch import nn


class ClassifierHead(nn.Sequential):
    """Two-layer perceptron of ProFound's classifier: (B, channels) to logits (B, classes).

    A plain sequence, so that its tensors are `0.*`, `1.*` and `3.*` as in the authors' file
    (pipiwang/ProFound, Apache-2.0). In training mode a batch must hold two samples or more.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__(
            nn.Linear(channels, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, classes),
        )
