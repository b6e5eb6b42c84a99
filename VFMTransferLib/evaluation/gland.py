"""How good a network's prostate is on cases with masks, by the same way that a user predicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bundles.bundle import Bundle
from ..core.terms import Sequence as MRSequence
from ..core.volume import Volume
from ..inference.predict import predict
from ..io import read_case, read_mask
from ..metrics.arrays import dice, hausdorff95_mm

_MASK_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


def evaluate_gland(bundle: Bundle, data: Path, names: Iterable[str], references: Sequence[str]) -> dict[str, Any]:
    """Predict cases and compare the prostate with each mask that is there.

    Args:
        bundle: A network for anatomy.
        data: Folder with a folder for each case.
        names: The cases.
        references: File stems of masks of the prostate; a case may lack some.

    Returns:
        Case → `volume_ml`, and mask → `dice` and `hd95_mm`.

    Raises:
        ImageError: A case cannot be read.
    """
    found: dict[str, Any] = {}
    for name in names:
        case = read_case(data / name, sequences=[MRSequence.T2W])
        # In the middle of the image, as in a clinic, though a mask that would center the crop is at hand.
        marked = predict(case, bundle, crop="center").labels
        if marked is None:
            raise ValueError(f"Bundle '{bundle.name}' must be for anatomy, but marks no labels.")
        gland = marked.with_array(marked.array > 0)
        found[name] = {"volume_ml": round(gland.volume_ml, 1)}
        for stem in references:
            mask = read_gland_mask(data / name, stem)
            if mask is not None:
                found[name][stem] = agreement(gland, mask.resample_to(gland.geometry, "nearest"))
    return found


def agreement(a: Volume, b: Volume) -> dict[str, float | None]:
    """Dice and 95 % Hausdorff distance of two masks on one grid, rounded for a table; None for no distance."""
    a.require_same_grid(b)
    distance = hausdorff95_mm(a.array > 0, b.array > 0, a.geometry.spacing_mm)
    return {
        "dice": round(dice(a.array > 0, b.array > 0), 3),
        "hd95_mm": round(distance, 1) if math.isfinite(distance) else None,
    }


def read_gland_mask(folder: Path, stem: str) -> Volume | None:
    """The mask of the prostate in a case's folder, 1 where its file is not 0; None if there is no such file.

    Raises:
        ImageError: The file cannot be read as a mask.
    """
    for suffix in _MASK_SUFFIXES:
        if (folder / f"{stem}{suffix}").is_file():
            mask = read_mask(folder / f"{stem}{suffix}", stem)
            return mask.with_array((mask.array > 0).astype(np.uint8))
    return None
