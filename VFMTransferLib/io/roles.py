"""Which file of a folder is which sequence, by the words of its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..terms import Sequence
from .images import image_stem

GLAND = "gland"
DWI = "dwi"
# Words of a file name, split at anything that is no letter or digit, that name its role.
_ROLE_WORDS: dict[str, frozenset[str]] = {
    Sequence.T2W: frozenset({"t2w", "t2", "t2wi"}),
    Sequence.HBV: frozenset({"hbv", "highb"}),
    Sequence.ADC: frozenset({"adc"}),
    DWI: frozenset({"dwi", "diffusion"}),
    GLAND: frozenset({"gland", "prostate"}),
}
_OTHER_PLANES = frozenset({"sag", "sagittal", "cor", "coronal"})
# Words by which results and truths, made from a scan, are told from it.
_NO_SCAN = frozenset(
    {"super", "resolved", "corrected", "synthetic", "distorted", "undistorted", "displacement", "probabilities", "true"}
)
_NO_IMAGE = frozenset({"mask", "masks", "label", "labels", "seg", "segmentation", "roi", "gland", "prostate"})
_NO_GLAND = frozenset({"lesion", "lesions", "zone", "zones", "cspca"})


def candidates_for(role: str, files: Iterable[Path]) -> list[Path]:
    """Files whose names say the role; those named by the role alone go before all others."""
    files = list(files)
    exact = [f for f in files if image_stem(f.name).lower() == role]
    if exact:
        return exact
    unwanted = _OTHER_PLANES | _NO_SCAN | _NO_GLAND | (frozenset() if role == GLAND else _NO_IMAGE)
    return [f for f in files if (words := _words(f.name)) & _ROLE_WORDS[role] and not words & unwanted]


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", image_stem(name).lower())) - {""}
