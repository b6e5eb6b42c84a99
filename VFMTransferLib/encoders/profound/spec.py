"""ProFound's networks as tables: sizes, published networks, the demonstration's size. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ...core.terms import Label
from ...core.terms import Sequence as ImageSequence
from ..base import (
    IMAGE_HEADS,
    PIRADS_LABELS,
    T2W_HBV_ADC,
    EncoderFamily,
    HeadSpec,
    ModelSpec,
    OnePass,
    PreprocessSpec,
    Size,
    TaskInput,
)
from ..pretext import SYNTHETIC_TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..pretext import PretextTask

PAPER = "https://arxiv.org/abs/2603.03961"
_GRID: dict[str, Any] = {"spacing_mm": (0.5, 0.5, 1.0), "patch": (64, 224, 224)}
_IN_CHANNELS = 3
_STEM, _STRIDE = 4, 16  # of the first map and of the last
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class ConvNeXtSpec:
    """3D ConvNeXt V2 of ProFound: blocks and channels of the four stages.

    The total stride is 16: stem 4, then 2, 2, 1.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    in_channels: int = _IN_CHANNELS


_DEMONSTRATION = ConvNeXtSpec(depths=(2, 2, 4, 2), dims=(16, 32, 64, 96))
# Channels within each head: 256 hidden (classifier), 512 (upernet), 16 at the input's size (restoration) or compared
# (matching).
_HEADS = {
    "dense": HeadSpec("upernet", 1, 512),
    "classes": HeadSpec("classifier", 1, 256),
    "restoration": HeadSpec("restoration", 1, 16),
    "matching": HeadSpec("matching", 1, 16),
}
_DEMONSTRATION_WIDTHS = {"classifier": 64, "upernet": 24, "unetr": 8, "restoration": 8, "matching": 8}


def _network(
    name: str, title: str, task: str | None, head: HeadSpec, labels: tuple[str, ...], activation: str, **grid: Any
) -> ModelSpec:
    """A network at published size; it takes all three sequences unless the grid names others."""
    preprocess = PreprocessSpec(**{"sequences": T2W_HBV_ADC, **_GRID, **grid})
    return ModelSpec(name, title, task, ConvNeXtSpec(), head, preprocess, labels, activation, paper=PAPER)


def _lesions(decoder: str, title: str, width: int) -> ModelSpec:
    name, head = f"profound-{decoder}-lesion", HeadSpec(decoder, 1, width)
    return _network(name, f"ProFound {title}, lesions", "lesion-segmentation", head, (Label.CSPCA,), "sigmoid")


def _anatomy(decoder: str, title: str, width: int) -> ModelSpec:
    labels = (Label.BACKGROUND, *(f"structure-{i}" for i in range(1, 9)))
    name, head = f"profound-{decoder}-anatomy", HeadSpec(decoder, len(labels), width)
    t2w: dict[str, Any] = {"sequences": (ImageSequence.T2W, None, None), "whole_volume": True}
    return _network(name, f"ProFound {title}, anatomy", "anatomy-segmentation", head, labels, "softmax", **t2w)


# What pretraining writes. It predicts nothing, so it is none of the published networks.
PROFOUND_ENCODER = _network(
    "profound-encoder", "ProFound encoder, pre-trained", None, HeadSpec("none", 768, 768), (), "none"
)
_CLASSIFIER = HeadSpec("classifier", 4, 256)
_PUBLISHED = (
    _network("profound-classifier", "ProFound classifier", "classification", _CLASSIFIER, PIRADS_LABELS, "softmax"),
    _lesions("upernet", "UPerNet", 512),
    _anatomy("upernet", "UPerNet", 512),
    _lesions("unetr", "UNETR", 32),
    _anatomy("unetr", "UNETR", 32),
)
_RUN_WHOLE = tuple(spec.name for spec in _PUBLISHED if spec.preprocess.whole_volume)


class ProFoundFamily(EncoderFamily):
    """A 3D ConvNeXt V2, pretrained as a masked autoencoder."""

    name = "profound"
    title = "ProFound"
    paper = PAPER
    spec_type = ConvNeXtSpec
    json_kind = "convnextv2"
    head_kinds = ("none", "classifier", "upernet", "unetr", "restoration", "matching")
    pretext_tasks = MappingProxyType(
        {
            "mae": "a masked autoencoder: from images alone",
            "contrastive": "contrast of tissues: from images with masks gland and lesion",
            **SYNTHETIC_TASKS,
        }
    )

    def published(self) -> tuple[ModelSpec, ...]:
        return _PUBLISHED

    def new_network(self, task: TaskInput) -> ModelSpec:
        is_image = task.head in IMAGE_HEADS
        return _network(
            f"profound-restoration-{task.id}" if is_image else f"profound-{task.id}",
            f"ProFound{' restoration' if is_image else ''}, {task.network_title}",
            task.id,
            replace(_HEADS[task.head], out_channels=len(task.labels) or 1),
            task.labels,
            task.activation,
            sequences=(*task.sequences, *[None] * (_IN_CHANNELS - len(task.sequences))),
            # Zeros in the midst of the intensities would draw rims around tissue that T2w does not show.
            normalization="zscore-tissue" if task.head == "matching" else "zscore-nonzero",
            whole_volume=is_image,
        )

    def demonstration(self, spec: ModelSpec, task: TaskInput | None) -> ModelSpec:
        if spec.head.kind == "none":
            head = replace(spec.head, out_channels=_DEMONSTRATION.dims[-1], width=_DEMONSTRATION.dims[-1])
        else:
            head = replace(spec.head, width=_DEMONSTRATION_WIDTHS[spec.head.kind], auxiliary_width=24)
        # About 10 cm around the prostate at the scale that pretraining saw; for images all of the slices, by windows.
        is_image = spec.head.kind in IMAGE_HEADS
        depth, spacing_mm = 32, (1.0, 1.0, 1.5)
        if task is not None and task.finds_gland:
            depth = 48
        elif task is not None and task.works_within_slices:
            depth, spacing_mm = 16, (1.0, 1.0, 3.0)
        grid = replace(
            spec.preprocess,
            spacing_mm=spacing_mm,
            patch=(depth, 96, 96),
            overlap=0.25 if is_image else spec.preprocess.overlap,
            whole_volume=is_image,
        )
        return replace(spec, encoder=_DEMONSTRATION, head=head, preprocess=grid)

    def pretraining_network(self, size: Size = "demonstration") -> ModelSpec:
        return self.demonstration(PROFOUND_ENCODER, None) if size == "demonstration" else PROFOUND_ENCODER

    def pretext_task(self, name: str, spec: ModelSpec) -> PretextTask:
        """Of the encoder alone, whose crops and channels are the network's."""
        from .pretraining import PRETEXT_TASKS

        width = spec.encoder.dims[-1]
        head = replace(PROFOUND_ENCODER.head, out_channels=width, width=width)
        return PRETEXT_TASKS[name](
            replace(PROFOUND_ENCODER, encoder=spec.encoder, head=head, preprocess=spec.preprocess)
        )

    def resized(self, spec: ModelSpec, size: Mapping[str, Any]) -> ModelSpec:
        found = super().resized(spec, size)
        if found.head.kind != "none":
            return found
        features = found.encoder.dims[-1]  # the output is the features themselves
        return replace(found, head=replace(found.head, width=features, out_channels=features))

    def problems(self, encoder: ConvNeXtSpec) -> Iterable[tuple[str, str]]:
        for field in ("depths", "dims"):
            values = getattr(encoder, field)
            if len(values) != 4 or min(values) <= 0:
                yield field, "four positive"
        if encoder.in_channels <= 0:
            yield "in_channels", "positive"

    def batch_size(self, spec: ModelSpec) -> int:
        """A volume, or as many cases as batch normalization needs.

        One window's mean displacement predicts little of the next one's, so that the cost-volume head sees two.
        """
        return {"classifier": 4, "matching": 2}.get(spec.head.kind, 1)

    def decodes_boxes(self, spec: ModelSpec) -> bool:
        # UNETR's decoder normalizes by what is in the whole window, so that no part of it has a meaning alone.
        return spec.head.kind == "upernet"

    def one_pass(self, spec: ModelSpec) -> OnePass | None:
        """Of published anatomy networks: GRN and pooling see all of the input; by windows it is another function."""
        if not spec.preprocess.whole_volume or spec.name not in _RUN_WHOLE:
            return None
        return OnePass(_STRIDE if spec.head.kind == "unetr" else 1, _STRIDE)

    def bytes_a_voxel(self, spec: ModelSpec) -> float:
        """From peaks of ONNX Runtime at published size, at 0.4 and 1.2 million voxels."""
        kind, head = spec.head.kind, spec.head
        outside = len(spec.preprocess.sequences) + 3 * head.out_channels  # channels of the volume's own size
        if kind == "unetr":
            return _FLOAT_BYTES * (outside + 12 * head.width)
        if kind == "upernet":
            return _FLOAT_BYTES * (outside + 12 * (head.width + spec.encoder.dims[0]) / _STEM**3)
        return super().bytes_a_voxel(spec)

    def build(self, spec: ModelSpec, drop_path: float = 0.0, initial_output: float = 0.0) -> nn.Module:
        from .network import build

        return build(spec, drop_path, initial_output)

    def training_outputs(
        self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor], size: Sequence[int]
    ) -> list[Tensor]:
        if spec.head.kind != "upernet":
            return super().training_outputs(network, spec, inputs, size)
        return network(*inputs, size)  # saves most of its time at the target's size

    def own_name(self, name: str, spec: ModelSpec) -> str | None:
        prefix = "" if spec.head.kind == "none" else "encoder."
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    def features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of `stage-1` .. `stage-4` the global average of the stage's map, of `encoder` the last one's LayerNorm."""
        from .network import stage_features

        return stage_features(network, *inputs)

    def patch_features(self, network: nn.Module, spec: ModelSpec, inputs: Sequence[Tensor]) -> Tensor:
        """Of each place of the second stage's map; the first stage's mean and the later stages' value there go along.

        All four, since the heads see all four.
        """
        from .network import patch_features

        return patch_features(network, *inputs)

    def convert(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        from .checkpoint import is_sparse, to_dense

        return to_dense(state) if is_sparse(state) else state

    def identify(self, state: Mapping[str, Tensor], sequence: ImageSequence | None = None) -> ModelSpec | None:
        from .checkpoint import identify

        return identify(state)
