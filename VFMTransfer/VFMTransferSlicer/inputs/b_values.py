"""The b-value of a diffusion image: by the standard tag, the vendors' private ones, the sequence's or the image's name.

The tags and patterns are those of the library's `io.headers`, which reads files.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# DICOM instance UID, tag as "GGGG,EEEE" → value as text, empty where there is none; `slicer.dicomDatabase` in Slicer.
TagOf = Callable[[str, str], str]

HIGH_B = 1400.0  # s/mm²; from here on a measured image is taken before a calculated one
LOWEST_HIGH_B = 800.0  # below, an image is no high-b image
_B_TAGS = ("0018,9087", "0019,100C", "2001,1003", "0043,1039")  # standard, Siemens, Philips, GE
_GE_B_OFFSET = 1e9  # GE adds it to mark values of its newer software
# An anonymizer may turn private elements into plain bytes. Of those the database gives the first alone, in hexadecimal:
# 31 begins the text 1400, and 00 is the first byte of a float. Neither is a b-value.
_FIRST_BYTE = re.compile(r"3\d|00")
_B_IN_SEQUENCE_NAME = re.compile(r"_b(\d+)(?:[a-z]|#\d+)*$")  # Siemens: *ep_b800t, *ep_b50#1
# b1400, b=1400, bval_1400, dwi 1500; several where a name lists them, as b50_500_800.
_B_IN_NAME = re.compile(
    r"(?<![a-z0-9])b(?:[ _=-]?val(?:ue)?)?[ _=-]*(\d{1,4}(?:[ _,/-]+b?\d{2,4})*)(?!\d)"
    r"|(?<![a-z0-9])(?:dwi|hb|highb|hbv)[ _=-]?([1-9]\d{2,3})(?!\d)"
)


def taggedB(instances: list[str], tagOf: TagOf | None) -> set[float]:
    """All b-values that the slices of a series state, in s/mm²."""
    if tagOf is None:
        return set()
    return {b for instance in _some(instances) if (b := _taggedB(instance, tagOf)) is not None}


def namedB(text: str) -> set[float]:
    """The b-value that a name states; nothing where it lists those of a whole acquisition."""
    found = [first or second for first, second in _B_IN_NAME.findall(text)]
    values = {float(number) for group in found for number in re.findall(r"\d+", group)}
    return values if len(values) == 1 else set()


def firstNumber(text: str | None) -> float | None:
    """The first number of an element that may hold several."""
    try:
        return float((text or "").split("\\")[0].strip(" \0"))
    except ValueError:
        return None


def _some(instances: list[str]) -> list[str]:
    """Enough of a series to see whether it mixes b-values: neighbors, for they may alternate, and both ends."""
    middle = len(instances) // 2
    places = {0, 1, middle, middle + 1, len(instances) - 1}
    return [instances[place] for place in sorted(places) if 0 <= place < len(instances)]


def _taggedB(instance: str, tagOf: TagOf) -> float | None:
    for key in _B_TAGS:
        text = tagOf(instance, key)
        value = firstNumber(text)
        if value is not None and value >= 0 and not _FIRST_BYTE.fullmatch(text.strip()):
            return value % _GE_B_OFFSET
    match = _B_IN_SEQUENCE_NAME.search((tagOf(instance, "0018,0024") or "").strip().lower())
    return float(match.group(1)) if match else None
