"""JSON into dataclasses: what is taken, and the sentence about what is not."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest

from VFMTransferLib.core.decoding import Limits, from_json, parse_json, to_json


class Plane(StrEnum):
    AXIAL = "axial"
    SAGITTAL = "sagittal"


@dataclass(frozen=True)
class Grid:
    spacing_mm: tuple[float, float, float]
    size: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scan:
    name: Annotated[str, Limits(pattern="[a-z]+", words="lower-case letters")]
    grid: Grid
    plane: Plane = Plane.AXIAL
    echo_ms: Annotated[float, Limits(above=0, maximum=500)] | None = None
    format: Literal[1] = 1
    tags: dict[str, int] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    fat_saturated: bool = False
    option: str | float | bool | None = None
    slices: Annotated[tuple[int, ...], Limits(min_length=1)] = (1,)


WHOLE = {
    "name": "tse",
    "grid": {"spacing_mm": [0.5, 0.5, 3], "size": [384, 384, 19]},
    "plane": "sagittal",
    "echo_ms": 100,
    "format": 1,
    "tags": {"a": 1},
    "free": {"anything": [None, {"b": 2}]},
    "fat_saturated": True,
    "option": 0.5,
    "slices": [3],
}


def test_a_document_becomes_a_dataclass_and_back():
    scan = from_json(Scan, WHOLE, "scan")
    assert scan.grid == Grid((0.5, 0.5, 3.0), (384, 384, 19))
    assert (scan.plane, scan.echo_ms, scan.option) == (Plane.SAGITTAL, 100.0, 0.5)
    assert to_json(scan) == WHOLE


def test_fields_with_a_default_may_be_left_out_unless_every_key_is_wanted():
    least = {"name": "tse", "grid": {"spacing_mm": [1, 1, 1]}}
    assert from_json(Scan, least, "scan") == Scan("tse", Grid((1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match=r"^'scan' must hold name, grid, plane, .*, but lacks plane, "):
        from_json(Scan, least, "scan", every_key=True)


def test_a_part_that_was_decoded_before_stays():
    grid = Grid((1.0, 1.0, 1.0))
    assert from_json(Scan, {"name": "tse", "grid": grid}, "scan").grid is grid


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"nam": "x"}, "'scan' must hold only name, grid, .*, but also holds 'nam'."),
        ({"name": 3}, "'scan.name' must be text, got 3."),
        ({"name": "T2"}, "'scan.name' must be lower-case letters, got 'T2'."),
        ({"grid": []}, r"'scan.grid' must be an object, got \[\]."),
        ({"grid": {}}, "'scan.grid' must hold spacing_mm, but lacks spacing_mm."),
        ({"grid": {"spacing_mm": [1, 2]}}, r"'scan.grid.spacing_mm' must be a list of 3, got \[1, 2\]."),
        ({"grid": {"spacing_mm": [1, 2, "3"]}}, r"'scan.grid.spacing_mm\[2\]' must be a finite number, got '3'."),
        ({"grid": {"spacing_mm": [1, 2, True]}}, r"'scan.grid.spacing_mm\[2\]' must be a finite number, got True."),
        ({"grid": {"spacing_mm": [1, 2, 10**400]}}, r"'scan.grid.spacing_mm\[2\]' must be a finite number"),
        ({"plane": "coronal"}, "'scan.plane' must be one of axial, sagittal, got 'coronal'."),
        ({"plane": ["axial"]}, r"'scan.plane' must be one of axial, sagittal, got \['axial'\]."),
        ({"echo_ms": 0}, "'scan.echo_ms' must be more than 0, got 0."),
        ({"echo_ms": 501}, "'scan.echo_ms' must be 500 or less, got 501."),
        ({"format": 2}, "'scan.format' must be 1, got 2."),
        ({"format": True}, "'scan.format' must be 1, got True."),
        ({"tags": {"a": 1.5}}, "'scan.tags.a' must be a whole number, got 1.5."),
        ({"fat_saturated": 1}, "'scan.fat_saturated' must be true or false, got 1."),
        ({"option": []}, r"'scan.option' must be text or a finite number or true or false, got \[\]."),
        ({"slices": []}, r"'scan.slices' must be not empty, got \[\]."),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_the_key(change, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        from_json(Scan, {**WHOLE, **change}, "scan")


@pytest.mark.parametrize("text", ['{"a": NaN}', "[Infinity]", "-Infinity", "{", ""])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match=r"holds|Expecting"):
        parse_json(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_too_deeply_is_none(text):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text)
