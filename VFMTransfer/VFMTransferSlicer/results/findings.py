"""Where to look: regions in which A and B differ, and the lesions that each marks, largest first. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from VFMTransferLib.core.terms import Label
from VFMTransferLib.evaluation.titles import label_title, place_title

from ..runs import RunInScene

DIFFERENCE = "Difference"
LESION_OF = ("Lesion of A", "Lesion of B")
MAX_FINDINGS = 40  # a network may mark a hundred specks, which nobody visits one by one
_NOTHING = "nothing"
# As radiologists write them where space is short.
_SHORT = {
    Label.PERIPHERAL_ZONE: "PZ",
    Label.TRANSITION_ZONE: "TZ",
    Label.CSPCA: "csPCa",
    Label.INDOLENT_CANCER: "indolent",
}

Ras = tuple[float, float, float]


@dataclass(frozen=True)
class Finding:
    """One place.

    Attributes:
        kind: `DIFFERENCE`, or one of `LESION_OF`.
        a: What A says there; empty where it was not asked, as at a lesion of B.
        b: What B says there.
        volumeMl: Its size.
        positionRas: Where it is, RAS millimeters in the world.
        zone: Zone of the prostate that holds most of it; empty where it is not known.
        meanAdc: Mean ADC inside, 1e-6 mm²/s; None where it is not known.
        confidence: Highest probability inside; None for a difference.
    """

    kind: str
    a: str
    b: str
    volumeMl: float
    positionRas: Ras
    zone: str = ""
    meanAdc: float | None = None
    confidence: float | None = None

    @property
    def place(self) -> str:
        """The position by anatomical directions, in whole millimeters' tenths."""
        x, y, z = self.positionRas
        return place_title((-x, -y, z))


@dataclass(frozen=True)
class Findings:
    """The largest places.

    Attributes:
        shown: Largest first, at most `MAX_FINDINGS`.
        left: How many smaller ones were left out.
    """

    shown: tuple[Finding, ...] = ()
    left: int = 0

    @property
    def note(self) -> str:
        """What is left out, in a sentence; empty if nothing."""
        return f"{self.left} smaller ones are not listed." if self.left else ""


def findingsOf(run: RunInScene) -> Findings:
    """All places of a run as far as it has come."""
    found = [_lesion(lesion, side) for side, arm in enumerate(run.arms[:2]) for lesion in arm.numbers["lesions"]] + [
        _difference(region) for region in (run.comparison["disagreements"] if run.comparison is not None else ())
    ]
    found.sort(key=lambda finding: -finding.volumeMl)
    return Findings(tuple(found[:MAX_FINDINGS]), max(len(found) - MAX_FINDINGS, 0))


def _difference(region: Mapping[str, Any]) -> Finding:
    a, b = (_said(region[side]) for side in ("a_label", "b_label"))
    return Finding(DIFFERENCE, a, b, region["volume_ml"], _toRas(region["center_mm"]))


def _lesion(lesion: Mapping[str, Any], side: int) -> Finding:
    said = _said(lesion["label"])
    return Finding(
        LESION_OF[side],
        said if side == 0 else "",
        said if side == 1 else "",
        lesion["volume_ml"],
        _toRas(lesion["center_mm"]),
        _said(lesion["zone"]) if lesion["zone"] else "",
        lesion["mean_adc"],
        lesion["confidence"],
    )


def _said(label: str) -> str:
    return _NOTHING if label == Label.BACKGROUND else _SHORT.get(label, label_title(label))


def _toRas(lps: list[float]) -> Ras:
    return -lps[0], -lps[1], lps[2]
