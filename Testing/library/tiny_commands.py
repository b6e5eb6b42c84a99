"""The command line with networks and phantoms that take seconds; run as a program, it may start its own processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from specs import PROFOUND_ENCODER
from study_examples import SPACING_MM, TINY_CONVNEXT, tiny_study_spec

from VFMTransferLib.cli import main
from VFMTransferLib.encoders import FAMILIES, EncoderFamily, TaskInput
from VFMTransferLib.encoders.base import HeadSpec, ModelSpec
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.training import cases


def tiny_encoder() -> ModelSpec:
    """ProFound's encoder on a coarse grid."""
    grid = replace(PROFOUND_ENCODER.preprocess, spacing_mm=(3.0, 3.0, 4.0), patch=(16, 32, 48))
    return replace(PROFOUND_ENCODER, encoder=TINY_CONVNEXT, head=HeadSpec("none", 10, 10), preprocess=grid)


def tiny_demonstration(family: EncoderFamily, spec: ModelSpec, task: TaskInput | None) -> ModelSpec:
    """What takes the place of `EncoderFamily.demonstration`."""
    if spec.task is None:
        return tiny_encoder()
    if spec.task not in TASKS:  # a pretext task's network, whose encoder and grid are replaced
        return replace(spec, head=replace(spec.head, width=4, auxiliary_width=4))
    return tiny_study_spec(family.name, spec.task)


def use_small_networks(put: Callable[[object, str, object], None] = setattr) -> None:
    """Put small things in the place of what the commands take; `put` may be a monkeypatch's."""
    plain = cases.make_phantom
    for family in ("profound", "provicnet"):
        put(type(FAMILIES[family]), "demonstration", tiny_demonstration)
    put(
        cases,
        "make_phantom",
        lambda seed, **options: plain(seed, **{**options, "t2w_spacing_mm": SPACING_MM}),
    )


if __name__ == "__main__":
    use_small_networks()
    sys.exit(main())
