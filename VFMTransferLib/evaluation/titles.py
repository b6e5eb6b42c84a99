"""Names of things as a radiologist reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..core.terms import LABEL_TERMS, Arm, Label, Sequence
from .measures import ALL_CLASSES

if TYPE_CHECKING:  # Slicer's window reads these names, and must not wait for SimpleITK
    from ..core.result import Result

SEQUENCE_TITLES = {Sequence.T2W: "T2w", Sequence.HBV: "High-b DWI", Sequence.ADC: "ADC"}
ARM_TITLES = {str(Arm.PRETRAINED): "Pretrained", str(Arm.SCRATCH): "From scratch"}
_OTHER_TITLES = {ALL_CLASSES: "All classes", "displacement": "Displacement"}
_LABEL_TITLES = {
    str(Label.BACKGROUND): "Background",
    **{str(label): term.title for label, term in LABEL_TERMS.items()},
}


def label_title(name: str) -> str:
    """Title of a label or class; a name that is not ours stays as it is."""
    return _LABEL_TITLES.get(name, name.replace("structure-", "Structure "))


def subject_title(name: str) -> str:
    """Title of what a measure is about: a label, a class, or an output image."""
    for sequence, title in SEQUENCE_TITLES.items():
        if name.startswith(f"{sequence}-"):
            return f"{title} {name.removeprefix(f'{sequence}-').replace('-', ' ')}"
    return _OTHER_TITLES.get(name) or label_title(name)


def arm_title(result: Result) -> str:
    """How an arm is called in views: where its weights started, or the bundle's title."""
    return ARM_TITLES.get(result.provenance.arm, result.provenance.title)


def unit_title(unit: str) -> str:
    """A unit as it is printed."""
    return unit.replace("1e-6", "10⁻⁶")


def quantity_title(value: str, unit: str) -> str:
    """A number with its unit, a power of ten as a factor; `n/a` has no unit."""
    if not unit or value == "n/a":
        return value
    return f"{value} {'× ' if unit.startswith('1e') else ''}{unit_title(unit)}"


def place_title(point_mm: Iterable[float]) -> str:
    """A point in LPS millimeters by anatomical directions."""
    sides = zip(point_mm, ("LR", "PA", "SI"), strict=True)
    return " ".join(f"{side[int(v < 0)]}\u00a0{abs(v):.1f}" for v, side in sides)
