from dataclasses import replace

import numpy as np
import pytest
from ellipsoids import Ellipsoid, a_scan
from scipy import ndimage

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.measurements import Acquisition
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.phantom import Conditions, make_phantom
from VFMTransferLib.radiology.quality import (
    SHIFT_MM,
    _squares,
    body_of,
    diffusion_shift_mm,
    ghost_ratio,
    measure_quality,
    measure_t2w,
    noise_level,
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


def test_a_ratio_below_its_limit_does_not_read_as_if_it_met_it():
    rng = np.random.default_rng(0)
    grid = Geometry((64, 64, 9), (1.0, 1.0, 3.0))
    scan = Volume((100 + 21 * rng.standard_normal(grid.shape)).astype(np.float32), grid)
    criterion = found(Case("p001", {Sequence.T2W: scan}))["t2w-signal-to-noise"]
    assert criterion.is_met is False
    assert 4.5 < criterion.value < 5
    assert float(criterion.text) < 5


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


@pytest.mark.parametrize("sigma", [2.0, 8.0])
def test_noise_is_found_under_a_smooth_image(sigma):
    y, x = np.mgrid[:101, :120]
    smooth = (200 + 80 * np.sin(x / 15) * np.cos(y / 20))[None].repeat(4, axis=0)
    noisy = smooth + np.random.default_rng(1).normal(0, sigma, smooth.shape)
    assert noise_level(noisy) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("width", [1, 5, 7])
def test_squares_erode_and_dilate_as_scipy_does(width):
    mask = ndimage.gaussian_filter(np.random.default_rng(0).random((3, 40, 33)), 2) > 0.5
    square = np.ones((1, width, width), bool)
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(_squares(np.logical_and, mask, width), ndimage.binary_erosion(mask, square))
    np.testing.assert_array_equal(_squares(np.logical_or, mask, width), ndimage.binary_dilation(mask, square))


@pytest.mark.parametrize(("strength", "met"), [(0.0, True), (0.08, False)])
def test_ghosts_are_the_signal_beside_the_body_along_phase(strength, met):
    y, x = np.mgrid[:160, :160]
    body = (((y - 80) / 30) ** 2 + ((x - 80) / 45) ** 2 < 1).astype(float) * 500
    ghosted = body + strength * np.roll(body, 80, axis=0) + np.random.default_rng(2).uniform(0, 4, body.shape)
    array = ghosted[None].repeat(3, axis=0)
    outline = body_of(body[None].repeat(3, axis=0))
    ratio = ghost_ratio(array, outline, axis=1)
    assert (ratio < 0.025) == met
    # The copy of an ellipse of 60 rows fills 60 of the 100 rows of air at its widest, fewer elsewhere.
    assert ratio == pytest.approx(strength * 0.45, abs=0.02)


def test_signal_as_strong_as_the_body_is_no_ghost():
    body = np.zeros((3, 40, 60), bool)
    body[:, 10:30, 20:40] = True
    array = np.where(body, 100.0, 0.0)
    array[:, 10:30, :12] = 400.0
    assert ghost_ratio(array, body, 2) is None
    assert ghost_ratio(np.where(array > 100, 20.0, array), body, 2) == pytest.approx(0.1, abs=0.05)


def test_no_ghosts_are_measured_where_the_body_fills_the_view():
    body = np.ones((2, 50, 50), bool)
    assert ghost_ratio(np.full(body.shape, 100.0), body, 1) is None
    assert found(a_case(t2w=T2W))["t2w-ghosts"].is_met is None


@pytest.mark.parametrize(
    ("seed", "spacing_mm"), [(1, (1.0, 1.0, 3.0)), (5, (1.0, 1.0, 3.0)), (1, (1.7, 1.3, 3.0)), (5, (2.2, 2.2, 4.0))]
)
def test_the_shift_of_diffusion_is_the_mean_displacement_of_the_glands_outline(seed, spacing_mm):
    phantom = make_phantom(seed, t2w_spacing_mm=spacing_mm)
    grid = phantom.diffusion.hbv.geometry
    gland = phantom.gland.resample_to(grid, "nearest").array > 0
    true_mm = float(phantom.diffusion.displacement_mm.array[gland].mean())
    axis = phantom.acquisition["diffusion"]["phase_axis"]
    shift = diffusion_shift_mm(phantom.case["t2w"].to_nearest_lps(), phantom.case["adc"], phantom.gland)
    assert abs(true_mm) > 1
    assert shift[axis] == pytest.approx(true_mm, abs=1.0)  # half a voxel of diffusion
    assert shift[1 - axis] == pytest.approx(0, abs=1.0)


def test_diffusion_that_lies_elsewhere_is_severe_and_its_way_is_stated():
    phantom = make_phantom(2, t2w_spacing_mm=(1.0, 1.0, 3.0), field_strength=0.0)
    case = phantom.case
    for name in (Sequence.ADC, Sequence.HBV):
        grid = case[name].geometry
        columns = np.reshape(grid.direction, (3, 3))
        moved = replace(grid, origin_mm=tuple(np.asarray(grid.origin_mm) + 7.0 * columns[:, 0]))
        case.volumes[name] = Volume(case[name].array, moved)
    criterion = found(case, phantom.gland)["dwi-shift"]
    assert criterion.value == pytest.approx(7.0, abs=1.0)
    assert criterion.value > SHIFT_MM[1]
    assert "to the left" in criterion.sentence
    assert "severe" in criterion.sentence


@pytest.mark.parametrize("seed", [2, 3])
def test_a_shift_is_stated_as_far_as_it_is_looked_for_and_no_further(seed):
    about = Conditions(surroundings=True)
    phantom = make_phantom(seed, t2w_spacing_mm=(1.0, 1.0, 3.0), field_strength=0.0, conditions=about)
    t2w, adc = phantom.case["t2w"].to_nearest_lps(), phantom.case["adc"]
    columns = np.reshape(adc.geometry.direction, (3, 3))

    def moved(mm: float) -> Volume:
        grid = adc.geometry
        return Volume(adc.array, replace(grid, origin_mm=tuple(np.asarray(grid.origin_mm) + mm * columns[:, 0])))

    assert diffusion_shift_mm(t2w, moved(12.0), phantom.gland)[0] == pytest.approx(12.0, abs=1.0)
    phantom.case.volumes[Sequence.ADC] = moved(24.0)
    criterion = found(phantom.case, phantom.gland)["dwi-shift"]
    assert criterion.value is criterion.is_met is None
    assert criterion.sentence.startswith("No shift within 15 mm makes both images of the prostate alike.")
    noise = np.random.default_rng(0).normal(1000, 100, adc.array.shape).astype(np.float32)
    assert diffusion_shift_mm(t2w, adc.with_array(noise), phantom.gland) is None


def test_an_undistorted_phantom_has_no_shift():
    phantom = make_phantom(2, t2w_spacing_mm=(1.0, 1.0, 3.0), field_strength=0.0)
    assert found(phantom.case, phantom.gland)["dwi-shift"].is_met


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
