from dataclasses import replace

import numpy as np
import pytest
from ellipsoids import Ellipsoid, a_scan

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.measurements import Acquisition
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.radiology.quality import (
    measure_quality,
    measure_t2w,
)

T2W = Acquisition(0.6, 0.4, 3.0, "left-right", other_planes=("sagittal",), is_study=True)
DIFFUSION = Acquisition(2.0, 2.0, 3.0, "left-right", b_values=(50.0, 400.0, 800.0), highest_b=1400.0)


def a_case(**acquisitions: Acquisition) -> Case:
    """T2w of 192 x 192 mm and diffusion of 180 x 200 mm; what they show does not matter."""
    rng = np.random.default_rng(0)
    t2w, diffusion = Geometry((320, 320, 21), (0.6, 0.6, 3.0)), Geometry((90, 100, 21), (2.0, 2.0, 3.0))
    volumes = {
        s: Volume(rng.uniform(50, 150, grid.shape).astype(np.float32), grid)
        for s, grid in ((Sequence.T2W, t2w), (Sequence.HBV, diffusion), (Sequence.ADC, diffusion))
    }
    return Case("p001", volumes, acquisitions={Sequence(name): about for name, about in acquisitions.items()})


def found(case: Case, gland: Volume | None = None) -> dict:
    return {criterion.name: criterion for criterion in measure_quality(case, gland)}


def test_a_protocol_that_meets_the_requirements_meets_each_of_them():
    criteria = found(a_case(t2w=T2W, hbv=DIFFUSION))
    technical = [c for c in criteria.values() if "PI-RADS" in c.source]
    assert {c.name for c in technical} == {
        "t2w-field-of-view", "t2w-in-plane", "t2w-slices", "t2w-other-planes",
        "dwi-field-of-view", "dwi-in-plane", "dwi-slices", "dwi-low-b", "dwi-middle-b", "dwi-high-b",
    }  # fmt: skip
    assert all(c.is_met for c in technical), [c for c in technical if not c.is_met]


def test_each_criterion_has_value_threshold_source_and_sentence():
    for criterion in measure_quality(a_case(t2w=T2W, hbv=DIFFUSION)):
        assert criterion.threshold
        assert criterion.source
        assert criterion.sentence.endswith(".")
        assert (criterion.value is None) == (criterion.text in ("not known", "none")) or criterion.name.endswith(
            "planes"
        )


@pytest.mark.parametrize(
    ("name", "t2w", "hbv"),
    [
        ("t2w-in-plane", {"phase_mm": 0.9}, {}),
        ("t2w-in-plane", {"frequency_mm": 0.5}, {}),
        ("t2w-slices", {"thickness_mm": 2.5}, {}),  # with a gap of 0.5 mm
        ("t2w-other-planes", {"other_planes": ()}, {}),
        ("dwi-in-plane", {}, {"phase_mm": 2.8}),
        ("dwi-low-b", {}, {"b_values": (400.0, 800.0)}),
        ("dwi-middle-b", {}, {"b_values": (50.0, 400.0)}),
        ("dwi-high-b", {}, {"highest_b": 1000.0}),
    ],
)
def test_what_falls_short_is_not_met_and_only_that(name, t2w, hbv):
    criteria = found(a_case(t2w=replace(T2W, **t2w), hbv=replace(DIFFUSION, **hbv)))
    assert [c.name for c in criteria.values() if "PI-RADS" in c.source and c.is_met is False] == [name]


def test_what_no_header_states_is_not_known():
    criteria = found(a_case())
    for name in ("t2w-in-plane", "t2w-other-planes", "dwi-in-plane", "dwi-low-b", "dwi-middle-b", "dwi-high-b"):
        assert criteria[name].is_met is None, name
    assert "not stated" in criteria["t2w-in-plane"].sentence


@pytest.mark.parametrize(
    ("name", "t2w", "is_met", "text", "is_tolerated"),
    [
        ("t2w-slices", {"thickness_mm": 3.04}, True, "3.04 mm", True),
        ("t2w-slices", {"thickness_mm": 3.06}, False, "3.1 mm", False),
        ("t2w-slices", {"thickness_mm": 3.0000002}, True, "3.0 mm", False),
        ("t2w-in-plane", {"phase_mm": 0.75}, True, "0.75 x 0.40 mm (phase x frequency)", True),
    ],
)
def test_a_size_that_only_rounding_allows_is_met_and_says_so(name, t2w, is_met, text, is_tolerated):
    criterion = found(a_case(t2w=replace(T2W, **t2w)))[name]
    assert (criterion.is_met, criterion.text) == (is_met, text)
    assert ("but for the rounding of sizes (0.05 mm)" in criterion.sentence) == is_tolerated


@pytest.mark.parametrize(
    ("spacing_mm", "text"), [(0.6, "192 mm"), (0.628, "201 mm"), (0.6255, "200.2 mm"), (0.635, "203 mm")]
)
def test_a_field_of_view_never_reads_like_its_limit(spacing_mm, text):
    case = a_case(t2w=T2W)
    grid = Geometry((320, 320, 21), (spacing_mm, spacing_mm, 3.0))
    case = replace(case, volumes={**case.volumes, Sequence.T2W: Volume(case[Sequence.T2W].array, grid)})
    criterion = found(case)["t2w-field-of-view"]
    assert (criterion.text, criterion.is_met) == (text, spacing_mm < 0.63)
    assert ("but for the rounding of sizes (1 mm)" in criterion.sentence) == (0.625 < spacing_mm < 0.63)


def test_coverage_counts_slices_above_and_below_the_gland():
    case = a_case(t2w=T2W)
    mask = np.zeros(case["t2w"].geometry.shape, np.uint8)
    mask[2:17, 100:200, 90:210] = 1
    criteria = found(case, case["t2w"].with_array(mask))
    assert (criteria["t2w-covers-gland"].value, criteria["t2w-covers-vesicles"].value) == (6.0, 12.0)
    mask[0, 20, 20] = 1  # stray
    assert found(case, case["t2w"].with_array(mask))["t2w-covers-gland"].value == 6.0
    mask[0:2, 150, 150] = 1
    criteria = found(case, case["t2w"].with_array(mask))
    assert criteria["t2w-covers-gland"].is_met is False


def test_tilt_is_that_of_the_slices():
    scan = a_scan((20.0, 0, 0))
    volume = Volume(np.random.default_rng(0).uniform(50, 150, scan.shape).astype(np.float32), scan)
    assert found(Case("p", {Sequence.T2W: volume}))["t2w-axial-alignment"].value == pytest.approx(20, abs=0.1)


def test_a_coronal_scan_is_tilted_by_90_degrees_and_measured_across_its_slices():
    grid = Geometry((160, 40, 150), (0.5, 4.0, 0.5), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    volume = Volume(np.random.default_rng(0).uniform(50, 150, grid.shape).astype(np.float32), grid)
    criteria = found(Case("p", {Sequence.T2W: volume}))
    assert (criteria["t2w-axial-alignment"].value, criteria["t2w-axial-alignment"].is_met) == (90, False)
    assert (criteria["t2w-slices"].value, criteria["t2w-slices"].is_met) == (4.0, False)
    assert criteria["t2w-in-plane"].value == 0.5
    assert criteria["t2w-field-of-view"].value == 80


def test_a_gland_on_any_grid_will_do():
    case = a_case(t2w=T2W)
    gland = Ellipsoid().gland(replace(a_scan(), origin_mm=(60.0, 60.0, 0.0)))
    assert found(case, gland)["t2w-covers-gland"].value is not None


@pytest.mark.parametrize(
    ("pixels", "words"), [(201, "It is within the range, but for the rounding"), (210, "A larger view is coarser")]
)
def test_the_sentence_on_the_field_of_view_is_that_of_its_verdict(pixels, words):
    grid = Geometry((pixels, pixels, 8), (1.0, 1.0, 3.0))
    case = Case("p", {Sequence.T2W: Volume(np.ones(grid.shape, np.float32), grid)})
    view = next(criterion for criterion in measure_t2w(case) if criterion.name == "t2w-field-of-view")
    assert view.is_met == (pixels == 201)
    assert view.sentence.startswith(words)
