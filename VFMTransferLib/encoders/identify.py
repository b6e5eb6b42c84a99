"""Which network a checkpoint holds, from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt

from torch import Tensor

from ..bundles.weights import describe_mismatch, empty_network
from ..core.errors import CheckpointError
from ..core.terms import Label, Sequence
from .base import MODELS, PROFOUND_ENCODER, ConvNeXtSpec, HeadSpec, ModelSpec, ViTSpec

State = Mapping[str, Tensor]

# DINOv2's attention heads all have this width, at each published size; shapes do not tell it.
_ATTENTION_HEAD_WIDTH = 64
# ProViCNet's head scales the grid of patches by eight to 256 pixels.
_PATCHES_PER_SIDE = 32
_CLASSIFIER = "head.0.weight"
_UPERNET = "decode_head.classifier.weight"
_UNETR = "decoder.encoder1.layer.conv1.conv.weight"
_STEM = "downsample_layers.0.0.weight"
_PATCH_EMBEDDING = "backbone.patch_embed.proj.weight"
_FUSION = "Stream_T2W.UpsampleModule.1.weight"
_ULTRASOUND = "ChannelReducer."
_LISTED = 8


def identify(state: State, sequence: Sequence | None = None) -> ModelSpec:
    """Find the network whose tensors a state dict holds; depths and widths follow from the shapes.

    Args:
        state: From `checkpoint.read_checkpoint`, or of the four ProViCNet files together.
        sequence: For ProViCNet of one sequence, whose tensors do not tell which.

    Returns:
        A row of the registry, with the sizes found; output channels whose meaning is not known get
        neutral labels.

    Raises:
        CheckpointError: No network that is known here, or its tensors are not complete.
    """
    spec = _candidate(state, sequence)
    mismatch = describe_mismatch(empty_network(spec), state)
    if mismatch:
        raise CheckpointError(
            f"The tensors must be those of {spec.title}, but {mismatch}. Get the file again from its source."
        )
    return spec


def is_fusion_head(state: State) -> bool:
    """Whether a state dict is ProViCNet's fusion file."""
    return _FUSION in state


def is_sequence_network(state: State) -> bool:
    """Whether a state dict is ProViCNet of one sequence of MRI."""
    return _PATCH_EMBEDDING in state and not _is_ultrasound(state)


def _candidate(state: State, sequence: Sequence | None) -> ModelSpec:
    if _is_ultrasound(state):
        raise CheckpointError(
            "The file must hold a network for MRI, but holds ProViCNet's ultrasound network. "
            "Choose T2_best.pth, ADC_best.pth or DWI_best.pth."
        )
    if is_fusion_head(state):
        raise CheckpointError(
            "The file holds ProViCNet's fusion head alone. Give T2_best.pth, ADC_best.pth and DWI_best.pth with it."
        )
    if f"t2w.{_PATCH_EMBEDDING}" in state:
        return _provicnet(state, MODELS["provicnet-fusion"], "t2w.", f"fusion.{_FUSION}", "fusion.FusionSegmentation.5")
    if is_sequence_network(state):
        return _sequence_network(state, sequence)
    if f"encoder.{_STEM}" in state:
        return _profound(state)
    if _STEM in state:
        encoder = _convnext(state, "")
        channels = encoder.dims[-1]
        return replace(PROFOUND_ENCODER, encoder=encoder, head=HeadSpec("none", channels, channels))
    raise CheckpointError(f"The file must hold a network of ProFound or ProViCNet, but holds {_contents(state)}.")


def _is_ultrasound(state: State) -> bool:
    return any(name.startswith(_ULTRASOUND) for name in state)


def _profound(state: State) -> ModelSpec:
    encoder = _convnext(state, "encoder.")
    if _CLASSIFIER in state:
        head = HeadSpec("classifier", _shape(state, "head.3.weight")[0], _shape(state, _CLASSIFIER)[0])
    elif _UPERNET in state:
        auxiliary = _shape(state, "auxiliary_head.classifier.weight")[1]
        out_channels, width, *_ = _shape(state, _UPERNET)
        head = HeadSpec("upernet", out_channels, width, auxiliary)
    elif _UNETR in state:
        head = HeadSpec("unetr", _shape(state, "decoder.out.conv.conv.weight")[0], _shape(state, _UNETR)[0])
    else:
        raise CheckpointError(
            "The file must hold ProFound with a classifier, UPerNet or UNETR, but beside the encoder it holds "
            f"{_contents({name: tensor for name, tensor in state.items() if not name.startswith('encoder.')})}."
        )
    return _with_labels(_row(head), encoder, head)


def _row(head: HeadSpec) -> ModelSpec:
    """The registry's row with this head; one output channel is lesions, more are anatomy."""
    rows = [spec for spec in MODELS.values() if spec.family == "profound" and spec.head.kind == head.kind]
    return next((spec for spec in rows if spec.head.out_channels == head.out_channels), rows[-1])


def _with_labels(row: ModelSpec, encoder: ConvNeXtSpec | ViTSpec, head: HeadSpec) -> ModelSpec:
    """A row with other sizes, and neutral labels where it has another number of output channels."""
    spec = replace(row, encoder=encoder, head=head)
    count = head.out_channels
    if count == row.head.out_channels:
        return spec
    if head.kind == "classifier":
        return replace(spec, labels=tuple(f"class-{i}" for i in range(1, count + 1)))
    return replace(spec, labels=(Label.BACKGROUND, *(f"structure-{i}" for i in range(1, count))))


def _convnext(state: State, prefix: str) -> ConvNeXtSpec:
    stem = _shape(state, prefix + _STEM)
    entries = [_shape(state, f"{prefix}downsample_layers.{stage}.1.weight") for stage in (1, 2, 3)]
    depths = tuple(_count(state, rf"{prefix}stages\.{stage}\.(\d+)\.") for stage in range(4))
    return ConvNeXtSpec(depths=depths, dims=(stem[0], *(shape[0] for shape in entries)), in_channels=stem[1])


def _sequence_network(state: State, sequence: Sequence | None) -> ModelSpec:
    if sequence is None:
        raise CheckpointError(
            "ProViCNet's tensors do not tell their sequence, and the file's name names none or several. "
            f"State the sequence: {', '.join(Sequence)}."
        )
    row = MODELS[f"provicnet-{sequence}"]
    first = "head.segmentation_conv.1.weight"
    return _provicnet(state, row, "", first, "head.segmentation_conv.9")


def _provicnet(state: State, row: ModelSpec, prefix: str, first: str, last: str) -> ModelSpec:
    """A row with the sizes found: `first` and `last` are the head's outer convolutions."""
    head = replace(row.head, out_channels=_shape(state, f"{last}.weight")[0], width=_shape(state, first)[0])
    return _with_labels(row, _vit(state, f"{prefix}backbone."), head)


def _vit(state: State, prefix: str) -> ViTSpec:
    dim, in_channels, patch_px, _ = _shape(state, f"{prefix}patch_embed.proj.weight")
    side = isqrt(_shape(state, f"{prefix}pos_embed")[1] - 1)
    if dim % _ATTENTION_HEAD_WIDTH:
        raise CheckpointError(
            f"The backbone's width must be a multiple of {_ATTENTION_HEAD_WIDTH}, as DINOv2's are, but is {dim}."
        )
    return ViTSpec(
        depth=_count(state, rf"{prefix}blocks\.(\d+)\."),
        dim=dim,
        heads=dim // _ATTENTION_HEAD_WIDTH,
        patch_px=patch_px,
        registers=_shape(state, f"{prefix}register_tokens")[1],
        image_px=_PATCHES_PER_SIDE * patch_px,
        pretrained_image_px=side * patch_px,
        in_channels=in_channels,
    )


def _shape(state: State, name: str) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(
            f"The file must hold the tensor {name}, but lacks it: it is no complete network. Get it again."
        )
    return tuple(state[name].shape)


def _count(state: State, pattern: str) -> int:
    """How many different numbers the pattern's group takes among the names."""
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})


def _contents(state: State) -> str:
    """What a state dict holds, in few words, for messages."""
    parts = sorted({name.split(".")[0] for name in state})
    listed = ", ".join(parts[:_LISTED]) + (", ..." if len(parts) > _LISTED else "")
    return f"{len(state)} tensors named {listed}" if parts else "no tensors"
