"""A fourth encoder in one file: a small residual 3D network, pretrained by removing noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Generator, Tensor, nn

from VFMTransferLib.core.terms import Sequence as ImageSequence
from VFMTransferLib.encoders.base import EncoderFamily, HeadSpec, ModelSpec, PreprocessSpec, Size, TaskInput
from VFMTransferLib.encoders.pretext import PretextTask, View
from VFMTransferLib.layers.blocks import resize

CHANNELS = 3
HEADS = {"dense": "dense", "classes": "classifier", "restoration": "restoration"}  # by what a task asks


@dataclass(frozen=True)
class ResidualSpec:
    """Sizes of the encoder: channels, and how many residual blocks follow the stem."""

    width: int = 32
    blocks: int = 4


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.second = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


class ResidualEncoder(nn.Module):
    """Images (B, 3, D, H, W) to features: `maps` (B, width, D, H / 2, W / 2), or their mean (B, width)."""

    def __init__(self, spec: ResidualSpec) -> None:
        super().__init__()
        self.stem = nn.Conv3d(CHANNELS, spec.width, 3, stride=(1, 2, 2), padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(spec.width) for _ in range(spec.blocks)))

    def maps(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean(dim=(2, 3, 4))


class ResidualNetwork(nn.Module):
    """The encoder with a head: logits of the sample, or a map at the input's size."""

    def __init__(self, spec: ModelSpec, initial_output: float = 0.0) -> None:
        super().__init__()
        self.encoder = ResidualEncoder(spec.encoder)
        self.is_vector = spec.head.is_vector
        width, out = spec.encoder.width, spec.head.out_channels
        self.head: nn.Module = nn.Linear(width, out) if self.is_vector else nn.Conv3d(width, out, 1)
        if spec.head.kind == "restoration":  # an untrained network changes nothing
            nn.init.zeros_(self.head.weight)
            nn.init.constant_(self.head.bias, initial_output)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)) if self.is_vector else resize(self.head(self.encoder.maps(x)), x.shape[2:])


@dataclass(frozen=True)
class Denoising(PretextTask):
    """Give back an image to which noise was added."""

    name = "denoising"
    batch = 2

    noise: float = 0.5

    def build(self) -> nn.Module:
        return ResidualNetwork(replace(self.spec, head=HeadSpec("dense", CHANNELS, self.spec.encoder.width)))

    def sample(self, view: View, generator: Generator) -> tuple[Tensor, ...]:
        return view.image + self.noise * torch.randn(view.image.shape, generator=generator), view.image

    def loss(self, network: nn.Module, generator: Generator, *batch: Tensor) -> Tensor:
        noisy, clean = batch
        return (network(noisy).float() - clean).square().mean()

    def pretrained(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name.removeprefix("encoder."): t for name, t in weights.items() if name.startswith("encoder.")}


class ResidualFamily(EncoderFamily):
    """What the library asks of an encoder."""

    name = "residual"
    title = "Residual network"
    paper = "none"
    spec_type = ResidualSpec
    json_kind = "residual"
    head_kinds = ("none", *HEADS.values())
    pretext_tasks = MappingProxyType({"denoising": "removing noise: from images alone"})

    def new_network(self, task: TaskInput) -> ModelSpec:
        is_image = task.head == "restoration"
        padding = [None] * (CHANNELS - len(task.sequences))
        return ModelSpec(
            name=f"residual-{task.id}",
            title=f"Residual network, {task.network_title}",
            task=task.id,
            encoder=ResidualSpec(),
            head=HeadSpec(HEADS[task.head], len(task.labels) or 1, 1),
            preprocess=PreprocessSpec(
                (*task.sequences, *padding), (2.0, 2.0, 3.0), (16, 64, 64), whole_volume=is_image
            ),
            labels=task.labels,
            activation=task.activation,
        )

    def demonstration(self, spec: ModelSpec, task: TaskInput | None) -> ModelSpec:
        small = ResidualSpec(width=8, blocks=2)
        if spec.head.kind == "none":
            return replace(spec, encoder=small, head=HeadSpec("none", small.width, small.width))
        return replace(spec, encoder=small)

    def pretraining_network(self, size: Size = "demonstration") -> ModelSpec:
        sequences = (ImageSequence.T2W, ImageSequence.HBV, ImageSequence.ADC)
        spec = ModelSpec(
            name="residual-encoder",
            title="Residual encoder",
            task=None,
            encoder=ResidualSpec(),
            head=HeadSpec("none", ResidualSpec.width, ResidualSpec.width),
            preprocess=PreprocessSpec(sequences, (2.0, 2.0, 3.0), (16, 64, 64)),
            labels=(),
            activation="none",
        )
        return self.demonstration(spec, None) if size == "demonstration" else spec

    def batch_size(self, spec: ModelSpec) -> int:
        return 2

    def build(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> nn.Module:
        return ResidualEncoder(spec.encoder) if spec.head.kind == "none" else ResidualNetwork(spec, initial_output)

    def own_name(self, name: str, spec: ModelSpec) -> str | None:
        prefix = "" if spec.head.kind == "none" else "encoder."
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    def features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        encoder = network if isinstance(network, ResidualEncoder) else network.encoder
        return {"stem": encoder.stem(*inputs).mean(dim=(2, 3, 4)), "encoder": encoder(*inputs)}

    def patch_features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> Tensor:
        encoder = network if isinstance(network, ResidualEncoder) else network.encoder
        return encoder.maps(*inputs)[0]

    def pretext_task(self, name: str, spec: ModelSpec) -> PretextTask:
        return Denoising(spec)


FAMILY = ResidualFamily()
