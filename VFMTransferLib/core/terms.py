"""The words that every other file shares: sequences, arms, labels and their codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

RESEARCH_USE = "For research use only. Not a medical device; not for clinical decisions."

OnProgress = Callable[[str, float], None]
"""Called with what is being done, and the part of the whole that is done (0 to 1); what it raises stops the work."""


_PHANTOM = "phantom-"


def phantom_name(seed: int) -> str:
    """Identifier of the phantom of a seed; each range has one of that name."""
    return f"{_PHANTOM}{seed:04d}"


def is_phantom_name(case_id: str) -> bool:
    """Whether a case is called as a phantom is."""
    return case_id.startswith(_PHANTOM) and case_id.removeprefix(_PHANTOM).isdecimal()


class Sequence(StrEnum):
    """One kind of image of a multiparametric prostate exam."""

    T2W = "t2w"
    HBV = "hbv"
    ADC = "adc"


class Arm(StrEnum):
    """Where a fine-tuned network's encoder started from; nothing else differs."""

    PRETRAINED = "pretrained"
    SCRATCH = "scratch"


class Label(StrEnum):
    """What a channel of a network's output, or a segment, stands for."""

    BACKGROUND = "background"
    PROSTATE = "prostate"
    PERIPHERAL_ZONE = "peripheral-zone"
    TRANSITION_ZONE = "transition-zone"
    INDOLENT_CANCER = "indolent-cancer"
    CSPCA = "csPCa"


SIGNIFICANT_GRADE = 2
"""ISUP grade group from which a cancer is clinically significant."""


@dataclass(frozen=True)
class Code:
    """A coded concept: scheme, value and meaning, as DICOM and Slicer's terminologies write it."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class LabelTerm:
    """How a label is shown (color: red, green, blue, 0..255) and coded (SNOMED CT; `region` for findings in one)."""

    title: str
    color: tuple[int, int, int]
    category: Code
    type: Code
    region: Code | None = None


_ANATOMY = Code("SCT", "123037004", "Anatomical Structure")
_ABNORMAL = Code("SCT", "49755003", "Morphologically Altered Structure")
_PROSTATE = Code("SCT", "41216001", "Prostate")

LABEL_TERMS: dict[str, LabelTerm] = {
    Label.PROSTATE: LabelTerm("Prostate", (230, 158, 140), _ANATOMY, _PROSTATE),
    Label.PERIPHERAL_ZONE: LabelTerm(
        "Peripheral zone", (180, 140, 190), _ANATOMY, Code("SCT", "279706003", "Peripheral zone of prostate")
    ),
    Label.TRANSITION_ZONE: LabelTerm(
        "Transition zone", (190, 190, 110), _ANATOMY, Code("SCT", "399384005", "Transition zone of prostate")
    ),
    Label.INDOLENT_CANCER: LabelTerm(
        "Indolent cancer", (240, 200, 60), _ABNORMAL, Code("SCT", "4147007", "Mass"), _PROSTATE
    ),
    Label.CSPCA: LabelTerm(
        "Clinically significant cancer", (220, 60, 50), _ABNORMAL, Code("SCT", "4147007", "Mass"), _PROSTATE
    ),
}
