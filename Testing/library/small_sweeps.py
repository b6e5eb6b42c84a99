"""Studies that take seconds: coarse phantoms, networks as small as they get, a few steps."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from VFMTransferLib.io.images import write_volume
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.study.sweep import Sweep, open_sweep

PROFOUND = {
    "depths": [1, 1, 1, 1],
    "dims": [4, 6, 8, 10],
    "spacing_mm": [3.0, 3.0, 4.0],
    "patch": [16, 32, 48],
    "head_width": 6,
}
PROVICNET = {
    "depth": 1,
    "dim": 16,
    "heads": 2,
    "patch_px": 8,
    "image_px": 64,
    "spacing_mm": [3.0, 3.0, 4.0],
    "patch": [1, 64, 64],
    "head_width": 6,
}
DOCUMENT: dict[str, Any] = {
    "format": 1,
    "seeds": [0, 1, 2],
    "measurements": 2,
    "around_gland_mm": 120.0,
    "phantoms": {
        "spacing_mm": [3.0, 3.0, 4.0],
        "train": {"first_seed": 0, "count": 2},
        "validation": {"first_seed": 1000, "count": 1},
        "test": {"first_seed": 2000, "count": 3},
    },
    "encoders": {
        "profound": {
            "pretraining": {"objective": "mae", "steps": 2, "phantoms": {"first_seed": 100_000, "count": 2}},
            "size": PROFOUND,
        },
        "provicnet": {
            "pretraining": {"objective": "contrastive", "steps": 2, "phantoms": {"first_seed": 100_000, "count": 2}},
            "size": PROVICNET,
        },
    },
    "tasks": {
        "anatomy-segmentation": {"profound": {"steps": 4}, "provicnet": {"steps": 4}},
        "classification": {"profound": {"steps": 4}, "specialised": ["resnet"]},
        "distortion-correction": {"profound": {"steps": 2}, "specialised": ["registration"]},
    },
    "real": {"cases": {"one": ["anatomy-segmentation"]}, "shown": ["one"]},
}


def a_document(**changes: Any) -> dict[str, Any]:
    """A study's configuration as YAML reads it; a change of None takes a key out."""
    document = deepcopy(DOCUMENT) | changes
    return {key: value for key, value in document.items() if value is not None}


def write_config(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def write_real_cases(folder: Path, *names: str) -> Path:
    """A folder of "real" cases with T2w and gland, which are phantoms of another spacing."""
    for seed, name in enumerate(names, start=3000):
        phantom = make_phantom(seed, t2w_spacing_mm=(2.5, 3.0, 4.0))
        (folder / name).mkdir(parents=True)
        write_volume(phantom.case["t2w"], folder / name / "t2w.nii.gz")
        write_volume(phantom.gland, folder / name / "gland.nii.gz")
    return folder


def prepared_sweep(*args: Any, **options: Any) -> Sweep:
    """As `open_sweep` leaves it, closed again: to look at, and to do single runs of."""
    with open_sweep(*args, **options) as sweep:
        return sweep
