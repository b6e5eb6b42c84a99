"""ProViCNet's released files: one network a sequence, and the fusion head that joins three of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path

from torch import Tensor

from ...core.errors import CheckpointError
from ...core.terms import Sequence
from ..base import ModelSpec
from ..checkpoint import count_of, sequence_of_name, shape_of, with_sizes
from .spec import ProViCNetFamily, ViTSpec

State = Mapping[str, Tensor]

# The contrastive head: half of each file, and of no use after training.
_TRAINING_ONLY = "CL_Head."
# DINOv2's attention heads all have this width, at each published size; shapes do not show it.
_ATTENTION_HEAD_WIDTH = 64
# The head scales the grid of patches by eight to 256 pixels.
_PATCHES_PER_SIDE = 32
_PATCH_EMBEDDING = "backbone.patch_embed.proj.weight"
_FUSION = "Stream_T2W.UpsampleModule.1.weight"
_ULTRASOUND = "ChannelReducer."
# The fused network's part, and upstream's name of its stream, for each sequence.
_STREAMS = {
    Sequence.T2W: ("t2w", "Stream_T2W"),
    Sequence.ADC: ("adc", "Stream_ADC"),
    Sequence.HBV: ("dwi", "Stream_DWI"),
}
_HEAD_START = "head.segmentation_conv."
_STREAM_LAYERS = (f"{_HEAD_START}1.", f"{_HEAD_START}2.")


def without_training_parts(state: State) -> State:
    """A file's tensors without those that serve training only."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(_TRAINING_ONLY)}


def identify(state: State, sequence: Sequence | None) -> ModelSpec | None:
    """See `EncoderFamily.identify`."""
    if _is_ultrasound(state):
        raise CheckpointError(
            "The file must hold a network for MRI, but holds ProViCNet's ultrasound network. "
            "Choose T2_best.pth, ADC_best.pth or DWI_best.pth."
        )
    if _FUSION in state:
        raise CheckpointError(
            "The file holds ProViCNet's fusion head alone. Give T2_best.pth, ADC_best.pth and DWI_best.pth with it."
        )
    rows = {spec.name: spec for spec in ProViCNetFamily().published()}
    if f"t2w.{_PATCH_EMBEDDING}" in state:
        return _with_sizes(state, rows["provicnet-fusion"], "t2w.", f"fusion.{_FUSION}", "fusion.FusionSegmentation.5")
    if _PATCH_EMBEDDING not in state:
        return None
    if sequence is None:
        raise CheckpointError(
            "ProViCNet's tensors do not state their sequence, and the file's name names none or several. "
            f"State the sequence: {', '.join(Sequence)}."
        )
    row = rows[f"provicnet-{sequence}"]
    return _with_sizes(state, row, "", "head.segmentation_conv.1.weight", "head.segmentation_conv.9")


def join(states: Mapping[Path, State], own_streams: bool) -> dict[str, Tensor] | None:
    """See `EncoderFamily.join`: the fused network's tensors from the four files'."""
    parts: dict[Sequence | None, State] = {}
    for path, state in states.items():
        if _FUSION in state:
            parts[None] = state
        elif _PATCH_EMBEDDING in state and not _is_ultrasound(state) and (sequence := sequence_of_name(path)):
            parts[sequence] = state
    if len(states) != 4 or set(parts) != {None, *Sequence}:
        names = ", ".join(path.name for path in states) or "no file"
        raise CheckpointError(
            "Several files must be ProViCNet's fusion file and one file each for T2, ADC and DWI, with the sequence "
            f"in its name; got {names}."
        )
    fused = {f"fusion.{name}": tensor for name, tensor in parts[None].items()}
    for sequence, (network, stream) in _STREAMS.items():
        state = parts[sequence]
        fused.update({f"{network}.{name}": tensor for name, tensor in state.items()})
        if not own_streams:
            # The first convolution and norm of the sequence network's head, under the stream's names.
            layers = {name: name.removeprefix(_HEAD_START) for name in state if name.startswith(_STREAM_LAYERS)}
            fused.update({f"fusion.{stream}.UpsampleModule.{own}": state[name].clone() for name, own in layers.items()})
    return fused


def _is_ultrasound(state: State) -> bool:
    return any(name.startswith(_ULTRASOUND) for name in state)


def _with_sizes(state: State, row: ModelSpec, prefix: str, first: str, last: str) -> ModelSpec:
    """A row with the sizes found: `first` and `last` are the head's outer convolutions."""
    head = replace(row.head, out_channels=shape_of(state, f"{last}.weight")[0], width=shape_of(state, first)[0])
    backbone = f"{prefix}backbone."
    dim, in_channels, patch_px, _ = shape_of(state, f"{backbone}patch_embed.proj.weight")
    side = isqrt(shape_of(state, f"{backbone}pos_embed")[1] - 1)
    if dim % _ATTENTION_HEAD_WIDTH:
        raise CheckpointError(
            f"The backbone's width must be a multiple of {_ATTENTION_HEAD_WIDTH}, as DINOv2's are, but is {dim}."
        )
    encoder = ViTSpec(
        depth=count_of(state, rf"{backbone}blocks\.(\d+)\."),
        dim=dim,
        heads=dim // _ATTENTION_HEAD_WIDTH,
        patch_px=patch_px,
        registers=shape_of(state, f"{backbone}register_tokens")[1],
        image_px=_PATCHES_PER_SIDE * patch_px,
        pretrained_image_px=side * patch_px,
        in_channels=in_channels,
    )
    return with_sizes(row, encoder, head)
