"""The command line with networks and phantoms that take seconds; run as a program, it may start its own processes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

from study_examples import SPACING_MM, TINY_CONVNEXT, tiny_study_spec

from VFMTransferLib.cli import main
from VFMTransferLib.core.terms import TaskId
from VFMTransferLib.encoders import demonstration as sizes
from VFMTransferLib.encoders.base import HeadSpec, ModelSpec
from VFMTransferLib.encoders.demonstration import demonstration_encoder
from VFMTransferLib.training import cases, finetune


def tiny_encoder() -> ModelSpec:
    """ProFound's encoder on a coarse grid."""
    spec = demonstration_encoder()
    grid = replace(spec.preprocess, spacing_mm=(3.0, 3.0, 4.0), patch=(16, 32, 48))
    return replace(spec, encoder=TINY_CONVNEXT, head=HeadSpec("none", 10, 10), preprocess=grid)


def use_small_networks(put: Callable[[object, str, object], None] = setattr) -> None:
    """Put small things in the place of what the commands take; `put` may be a monkeypatch's."""
    plain = cases.make_phantom
    encoder = tiny_encoder()
    put(finetune, "demonstration", tiny_study_spec)
    put(sizes, "demonstration_encoder", lambda: encoder)
    put(sizes, "demonstration_fusion", lambda: tiny_study_spec("provicnet", TaskId.LESION_SEGMENTATION))
    put(
        cases,
        "make_phantom",
        lambda seed, **options: plain(seed, **{**options, "t2w_spacing_mm": SPACING_MM}),
    )


if __name__ == "__main__":
    use_small_networks()
    sys.exit(main())
