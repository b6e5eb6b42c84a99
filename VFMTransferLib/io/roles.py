"""Which file of a folder is which sequence, by the words of its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..terms import Sequence
from .diffusion import HIGH_B
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
_B_VALUE = re.compile(r"b(?:val)?(\d{3,4})")  # b1400, BVAL1400
_OTHER_PLANES = frozenset({"sag", "sagittal", "cor", "coronal"})
# Words by which results and truths, made from a scan, are told from it.
_NO_SCAN = frozenset(
    {"super", "resolved", "corrected", "synthetic", "distorted", "undistorted", "displacement", "probabilities", "true"}
)
_MASK = frozenset({"mask", "masks", "label", "labels", "seg", "segmentation", "roi", "gland"})
_NO_GLAND = frozenset({"lesion", "lesions", "zone", "zones", "cspca"})
_SEQUENCES = frozenset().union(*(_ROLE_WORDS[role] for role in (*Sequence, DWI)))


def candidates_for(role: str, files: Iterable[Path]) -> list[Path]:
    """Files whose names say the role; those named by the role alone go before all others."""
    files = list(files)
    exact = [f for f in files if image_stem(f.name).lower() == role]
    if exact:
        return exact
    return [f for f in files if (words := _words(f.name)) & _ROLE_WORDS[role] and _may_be(role, words)]


def _may_be(role: str, words: set[str]) -> bool:
    """Whether no word speaks against the role; `prostate_t2w` is a scan, `prostate_t2w_mask` a mask."""
    if words & (_OTHER_PLANES | _NO_SCAN | _NO_GLAND):
        return False
    return bool(words & _MASK) or not words & _SEQUENCES if role == GLAND else not words & _MASK


def _words(name: str) -> set[str]:
    words = set(re.split(r"[^a-z0-9]+", image_stem(name).lower())) - {""}
    b_values = [float(match.group(1)) for word in words if (match := _B_VALUE.fullmatch(word))]
    return words | {"hbv"} if any(b >= HIGH_B for b in b_values) else words
