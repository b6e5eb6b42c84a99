"""Phantoms on disk: the case under its roles' names, so that it reads like any study, and its truths beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..io import output_folder, write_volume
from .study import Phantom, make_phantom

RECORD = "phantom.json"


def write_phantom(phantom: Phantom, folder: str | Path) -> Path:
    """Write `t2w`, `hbv`, `adc`, every truth under its own name (`zones.nii.gz`, `adc-true.nii.gz`), `phantom.json`.

    Args:
        phantom: What to write.
        folder: Appears whole or not at all; an earlier phantom there is replaced.

    Raises:
        OutputError: `folder` is something else, or cannot be written.
    """
    target = Path(folder)
    images = {str(sequence): volume for sequence, volume in phantom.case.volumes.items()} | phantom.truths
    with output_folder(target, marks=(RECORD,)) as work:
        for name, volume in images.items():
            write_volume(volume, work / f"{name.replace('_', '-')}.nii.gz")
        (work / RECORD).write_text(json.dumps(describe(phantom), indent=2) + "\n", encoding="utf-8")
    return target


def describe(phantom: Phantom) -> dict[str, Any]:
    """What a program may want to know of a phantom, ready for JSON."""
    return {
        "case": phantom.case.id,
        "seed": phantom.seed,
        "volume_ml": round(phantom.volume_ml, 2),
        "pirads": phantom.pirads,
        "clinically_significant": phantom.clinically_significant,
        "lesions": [asdict(lesion) | {"pirads": lesion.pirads} for lesion in phantom.lesions],
        "labels": {"zones": {"1": "peripheral-zone", "2": "transition-zone"}, "lesion": "ISUP grade group"},
        "units": {
            "adc": "1e-6 mm2/s",
            "field-map-hz": "Hz",
            "displacement-mm": "mm along the positive phase axis",
        },
        "acquisition": phantom.acquisition,
    }


def make_phantoms(
    count: int,
    seed: int,
    folder: str | Path,
    on_progress: Callable[[str, float], None] | None = None,
    **options: Any,
) -> list[Path]:
    """Make and write `count` phantoms of consecutive seeds, each in a folder of its own.

    Args:
        count: How many.
        seed: The first one's seed.
        folder: Where their folders go.
        on_progress: Told what was done and which share of all.
        **options: As for `make_phantom`.

    Raises:
        OutputError: A folder cannot be written.
    """
    written = []
    for index in range(count):
        phantom = make_phantom(seed + index, **options)
        written.append(write_phantom(phantom, Path(folder) / phantom.case.id))
        if on_progress is not None:
            on_progress(f"phantom {index + 1} of {count}", (index + 1) / count)
    return written
