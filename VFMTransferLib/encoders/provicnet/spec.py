"""ProViCNet's networks as tables: sizes, published networks, the demonstration's size. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.terms import Label
from ...core.terms import Sequence as ImageSequence
from ..base import (
    IMAGE_HEADS,
    PIRADS_LABELS,
    T2W_HBV_ADC,
    EncoderFamily,
    HeadSpec,
    ModelSpec,
    PreprocessSpec,
    Size,
    TaskInput,
)
from ..pretext import SYNTHETIC_TASKS, TISSUES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..pretext import PretextTask

PAPER = "https://arxiv.org/abs/2502.00366"
_GRID: dict[str, Any] = {"spacing_mm": (0.5, 0.5, 3.0), "patch": (1, 256, 256), "normalization": "zscore-gland"}
# Of a network of one sequence or of several, what is no head.
_SLICE_ENCODER = re.compile(r"(backbone|axis_pos|axis_max)\.")
# The fused network's parts bear the authors' names.
FUSION_STREAMS = {ImageSequence.T2W: "t2w", ImageSequence.ADC: "adc", ImageSequence.HBV: "dwi"}


@dataclass(frozen=True)
class ViTSpec:
    """DINOv2 vision transformer of ProViCNet, with registers and two position tokens."""

    depth: int = 12
    dim: int = 384
    heads: int = 6
    patch_px: int = 14
    registers: int = 4
    image_px: int = 448
    pretrained_image_px: int = 518
    in_channels: int = 3


# 16 x 16 patches of 8 px; the slice comes in as fine as it goes out.
_DEMONSTRATION = ViTSpec(depth=6, dim=64, heads=2, patch_px=8, registers=4, image_px=128, pretrained_image_px=128)
# Channels within each head: 128 after the first doubling (convolution, fusion), 256 hidden (classifier), 16 at the
# input's size (restoration) or compared (matching).
_HEADS = {
    "dense": HeadSpec("convolution", 1, 128),
    "classes": HeadSpec("classifier", 1, 128),
    "restoration": HeadSpec("restoration", 1, 16),
    "matching": HeadSpec("matching", 1, 16),
}
_DEMONSTRATION_WIDTHS = {"classifier": 48, "restoration": 8, "matching": 8, "convolution": 48, "fusion": 48}


def _network(
    name: str, title: str, task: str, head: HeadSpec, labels: tuple[str, ...], activation: str, **grid: Any
) -> ModelSpec:
    """A network at published size; it takes all three sequences unless the grid names others."""
    preprocess = PreprocessSpec(**{"sequences": T2W_HBV_ADC, **_GRID, **grid})
    spec = ModelSpec(f"provicnet-{name}", title, task, ViTSpec(), head, preprocess, labels, activation, paper=PAPER)
    return replace(spec, license="MIT")


def _lesions(name: str, title: str, head: str, *sequences: ImageSequence) -> ModelSpec:
    head_spec, task = HeadSpec(head, len(TISSUES), 128), "lesion-segmentation"
    spec = _network(name, f"ProViCNet, {title}", task, head_spec, TISSUES, "softmax", sequences=sequences)
    return replace(spec, threshold=0.4)


class ProViCNetFamily(EncoderFamily):
    """A DINOv2 vision transformer on slices with their neighbors, one encoder for each sequence."""

    name = "provicnet"
    title = "ProViCNet"
    paper = PAPER
    license = "MIT"
    spec_type = ViTSpec
    json_kind = "vit"
    head_kinds = ("none", "classifier", "convolution", "fusion", "restoration", "matching")
    pretext_tasks = MappingProxyType(
        {
            "contrastive": "contrast of tissues: from images with masks gland and lesion",
            "mae": "a masked autoencoder: from images alone",
            **SYNTHETIC_TASKS,
        }
    )
    is_slice_based = True
    weights_license = "MIT"
    weights_note = (
        "They are already supervised on gland and cancer labels, so they are no neutral start for segmentation."
    )

    def published(self) -> tuple[ModelSpec, ...]:
        return _PUBLISHED

    def new_network(self, task: TaskInput) -> ModelSpec:
        """ValueError for logits of each pixel from two sequences: there is a head for one, and one for all three."""
        is_image = task.head in IMAGE_HEADS
        head = _HEADS[task.head]
        if task.head == "dense" and len(task.sequences) > 1:
            if set(task.sequences) != set(FUSION_STREAMS):
                raise ValueError(
                    f"ProViCNet's network of {task.id} must take one sequence or {', '.join(FUSION_STREAMS)}, got "
                    f"{', '.join(task.sequences)}."
                )
            head = _FUSION.head
        return _network(
            f"restoration-{task.id}" if is_image else task.id,
            f"ProViCNet{' restoration' if is_image else ''}, {task.network_title}",
            task.id,
            replace(head, out_channels=len(task.labels) or 1),
            task.labels,
            task.activation,
            sequences=_FUSION.preprocess.sequences if head.kind == "fusion" else task.sequences,
            normalization="zscore-nonzero" if task.finds_gland else "zscore-gland",
            whole_volume=is_image,
        )

    def demonstration(self, spec: ModelSpec, task: TaskInput | None) -> ModelSpec:
        head = replace(spec.head, width=_DEMONSTRATION_WIDTHS[spec.head.kind], auxiliary_width=24)
        overlap = 0.25 if head.kind in IMAGE_HEADS else spec.preprocess.overlap
        grid = replace(spec.preprocess, spacing_mm=(1.0, 1.0, 3.0), patch=(1, 128, 128), overlap=overlap)
        return replace(spec, encoder=_DEMONSTRATION, head=head, preprocess=grid)

    def pretraining_network(self, size: Size = "demonstration") -> ModelSpec:
        """The fused network, which has the encoders of all sequences."""
        return self.demonstration(_FUSION, None) if size == "demonstration" else _FUSION

    def pretext_task(self, name: str, spec: ModelSpec) -> PretextTask:
        """The contrast of tissues trains the fused network whole, the others encoders without a head."""
        from .pretraining import PRETEXT_TASKS, TissueContrast

        task = PRETEXT_TASKS[name]
        return task(spec if task is TissueContrast else _without_head(spec))

    def resized(self, spec: ModelSpec, size: Mapping[str, Any]) -> ModelSpec:
        # The stored position embedding is of the image's own size, where nothing is loaded into it.
        stored = {"pretrained_image_px": size["image_px"]} if "image_px" in size else {}
        return super().resized(spec, {**stored, **size})

    def problems(self, encoder: ViTSpec) -> Iterable[tuple[str, str]]:
        if encoder.depth <= 0:
            yield "depth", "positive"
        if encoder.heads <= 0 or encoder.dim % encoder.heads:
            yield "dim", "a multiple of heads"
        if encoder.in_channels <= 0:
            yield "in_channels", "positive"
        if encoder.patch_px <= 0:
            yield "patch_px", "positive"
        elif encoder.image_px % encoder.patch_px:
            yield "image_px", "a multiple of patch_px"

    def batch_size(self, spec: ModelSpec) -> int:
        """Several slices, or some cases of several slices each."""
        return 6 if spec.head.kind == "classifier" else 8

    def input_names(self, spec: ModelSpec) -> tuple[str, ...]:
        """A network of one sequence takes `x`, and the fused one's streams bear the authors' names."""
        if spec.head.kind == "convolution":
            return ("x", "positions")
        if spec.head.kind == "fusion":
            return (*FUSION_STREAMS.values(), "positions")
        return super().input_names(spec)

    def build(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> nn.Module:
        from .network import build

        return build(spec, drop_path, initial_output)

    def own_name(self, name: str, spec: ModelSpec) -> str | None:
        for sequence, prefix in encoder_prefixes(spec).items():
            rest = name.removeprefix(prefix)
            if name.startswith(prefix) and _SLICE_ENCODER.match(rest):
                return f"{sequence}.{rest}"
        return None

    def encoder_of(self, own_name: str) -> str:
        """The sequence."""
        return own_name.split(".")[0]

    def features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of `block-1` .. the mean of the patch tokens after the block, of `encoder` of the normalized patch tokens.

        Of several sequences all encoders' channels one after another, in the order in which the network takes them.
        """
        from .network import block_features

        return block_features(network, spec, inputs)

    def patch_features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> Tensor:
        """The normalized tokens of a slice's patches, all sequences' channels one after another."""
        from .network import patch_tokens

        side = spec.encoder.image_px // spec.encoder.patch_px
        return patch_tokens(network, spec, inputs)[0].T.unflatten(1, (1, side, side))

    def features_for(self, features: np.ndarray, own: ModelSpec, spec: ModelSpec) -> np.ndarray:
        """Those of the sequences that the network takes, in its order."""
        sequences = own.preprocess.images
        parts = dict(zip(sequences, np.split(features, len(sequences), axis=1), strict=True))
        return np.concatenate([parts[sequence] for sequence in spec.preprocess.images], axis=1)

    def convert(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        from .checkpoint import without_training_parts

        return without_training_parts(state)

    def join(self, states: Mapping[Path, Mapping[str, Tensor]], own_streams: bool) -> dict[str, Tensor] | None:
        from .checkpoint import join

        return join(states, own_streams)

    def identify(self, state: Mapping[str, Tensor], sequence: ImageSequence | None = None) -> ModelSpec | None:
        from .checkpoint import identify

        return identify(state, sequence)

    def import_record(self, spec: ModelSpec, own_streams: bool) -> dict[str, str]:
        if spec.head.kind != "fusion":
            return {}
        own = "the fusion file" if own_streams else "the sequence networks' heads, as upstream does"
        return {"fusion_streams_from": own}


def encoder_prefixes(spec: ModelSpec) -> dict[ImageSequence, str]:
    """Where a network holds the encoder of each sequence, in the order in which it takes them."""
    sequences = spec.preprocess.images
    if spec.head.kind == "convolution":
        return {sequences[0]: ""}
    if spec.head.kind == "fusion":
        return {sequence: f"{FUSION_STREAMS[sequence]}." for sequence in sequences}
    return {sequence: f"encoders.{sequence}." for sequence in sequences}


def _without_head(spec: ModelSpec) -> ModelSpec:
    """The encoders of a network alone, from images whose gland need not be known."""
    channels = len(spec.preprocess.sequences) * spec.encoder.dim
    return replace(
        spec,
        name="provicnet-encoders",
        title="ProViCNet encoders, pre-trained",
        task=None,
        head=HeadSpec("none", channels, channels),
        preprocess=replace(spec.preprocess, normalization="zscore-nonzero"),
        labels=(),
        activation="none",
        threshold=0.5,
    )


_FUSION = _lesions("fusion", "fusion of T2w, ADC and high-b DWI", "fusion", *FUSION_STREAMS)
_PUBLISHED = (
    # Not normalized by the gland, which it has to find.
    _network(
        "anatomy",
        "ProViCNet, anatomy",
        "anatomy-segmentation",
        HeadSpec("convolution", 3, 128),
        (Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE),
        "softmax",
        sequences=(ImageSequence.T2W,),
        normalization="zscore-nonzero",
    ),
    # A case has the logits of its worst slice that holds gland.
    _network(
        "classifier",
        "ProViCNet classifier",
        "classification",
        HeadSpec("classifier", 4, 256),
        PIRADS_LABELS,
        "softmax",
    ),
    _lesions("t2w", "T2w", "convolution", ImageSequence.T2W),
    _lesions("adc", "ADC", "convolution", ImageSequence.ADC),
    _lesions("hbv", "high-b DWI", "convolution", ImageSequence.HBV),
    _FUSION,
)
