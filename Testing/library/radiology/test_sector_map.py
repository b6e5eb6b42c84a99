"""The drawing of the PI-RADS map: every sector, lesions where they lie, and clicks that find them."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from VFMTransferLib.core.result import Lesion
from VFMTransferLib.radiology.sector_map import draw_sectors
from VFMTransferLib.radiology.sectors import PIRADS_SCHEME, SECTORS

LESION = Lesion(
    1,
    "csPCa",
    (0.0, 0.0, 0.0),
    1.0,
    0.9,
    position="right, mid, posterior",
    place=(-0.6, 0.75, 0.5),
    sectors=("Mid R PZpl",),
    sector_scheme=PIRADS_SCHEME,
    diameter_mm=10.0,
)
SVG = "{http://www.w3.org/2000/svg}"


def area(corners: np.ndarray) -> float:
    x, y = corners.T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def test_a_click_into_a_circle_finds_its_lesion_and_the_nearer_of_two():
    other = replace(LESION, place=(-0.5, 0.75, 0.5))
    drawing = draw_sectors([("a", LESION), ("b", other)], {"a": 50.0, "b": 50.0})
    a, b = drawing.lesions
    assert a.radius == pytest.approx(184 * 10 / 50 / 2)
    assert drawing.lesion_at(a.x, a.y) == "a1"
    assert drawing.lesion_at(b.x - 1, b.y) == "b1"
    assert drawing.lesion_at(a.x - a.radius - 5, a.y) is None


def test_names_of_lesions_at_one_place_do_not_cover_each_other():
    near = [(-0.6, 0.75), (-0.55, 0.76), (-0.62, 0.8), (-0.5, 0.7)]
    lesions = [
        (who, replace(LESION, index=i, place=(*place, 0.5))) for i, place in enumerate(near, start=1) for who in "ab"
    ]
    drawing = draw_sectors(lesions, {"a": 50.0, "b": 50.0})
    places = [(*drawn.name_x, drawn.name_y) for drawn in drawing.lesions]
    for i, (start, end, y) in enumerate(places):
        for other_start, other_end, other_y in places[:i]:
            assert end <= other_start or other_end <= start or abs(y - other_y) >= 11 - 1e-9
    ys = {text.text: float(text.get("y")) for text in ElementTree.fromstring(drawing.svg()).iter(f"{SVG}text")}
    assert ys["A1"] == pytest.approx(drawing.lesions[0].y + 4, abs=0.06)  # the first stays as high as its circle
    assert len({ys[name] for name in ("A1", "A2", "A3", "A4")}) == 4


def test_names_stand_in_a_large_circle_and_beside_a_small_one():
    large, small = draw_sectors(
        [("a", LESION), ("a", replace(LESION, index=2, place=(0.6, 0.5, 0.5), diameter_mm=3.0))], {"a": 50.0}
    ).lesions
    assert large.x - large.radius < large.name_x[0] < large.name_x[1] < large.x
    assert small.name_x[1] < small.x - small.radius


def test_the_svg_has_each_sector_with_its_code_and_marks_those_of_lesions():
    drawing = draw_sectors([("a", LESION), ("b", LESION)], {})
    root = ElementTree.fromstring(drawing.svg(scale=2.0))
    assert float(root.get("width")) == 2 * drawing.width
    shapes = {shape.get("data-sector"): shape for shape in root.iter(f"{SVG}polygon")}
    assert shapes.keys() == {sector.name for sector in SECTORS}
    assert shapes["Mid R PZpl"].get("class") == "sector marked-ab"
    assert shapes["Mid L PZpl"].get("class") == "sector"
    for sector in SECTORS:
        assert sector.code.value in shapes[sector.name].find(f"{SVG}title").text
    assert "clip" not in drawing.svg()  # which Qt does not draw


def test_right_and_left_are_mirrored_and_the_peripheral_zone_fills_the_gland():
    drawing = draw_sectors([("a", LESION)], {})
    for right in (shape for shape in drawing.sectors if shape.name.split()[1] == "R"):
        (left,) = (shape for shape in drawing.sectors if shape.name == right.name.replace(" R ", " L "))
        assert area(left.corners) == pytest.approx(area(right.corners))
        assert right.corners[:, 0].max() <= left.corners[:, 0].min() + 1e-6
    peripheral = sum(area(shape.corners) for shape in drawing.sectors if shape.name[:3] == "Mid" and "PZ" in shape.name)
    assert peripheral == pytest.approx(np.pi / 4 * 184 * 140, rel=0.01)  # the other sectors lie on top


def test_without_zones_the_sectors_of_a_half_are_marked_and_the_scheme_says_so():
    scheme = "level, side and anterior or posterior half, since the zones are not known"
    plain = replace(LESION, sectors=("Mid R posterior",), sector_scheme=scheme)
    drawing = draw_sectors([("a", plain)], {})
    assert {shape.name for shape in drawing.sectors if shape.arms} == {"Mid R TZp", "Mid R PZpl", "Mid R PZpm"}
    assert drawing.schemes == (scheme,)


def test_a_lesion_is_drawn_in_the_level_that_its_position_states():
    """Most of it lies there; a long tail may lift its mean height into the next."""
    long = replace(LESION, place=(-0.6, 0.75, 0.68))
    (usual,), (drawn,) = (draw_sectors([("a", lesion)], {"a": 50.0}).lesions for lesion in (LESION, long))
    assert drawn.x == usual.x


def test_lesions_outside_of_the_gland_are_not_drawn():
    assert draw_sectors([("a", replace(LESION, place=None))], {}) is None


def test_names_that_a_bundle_states_cannot_break_the_svg():
    drawing = draw_sectors([("a", replace(LESION, position='<script>"&'))], {})
    ElementTree.fromstring(drawing.svg())
