import numpy as np
import pytest
from ellipsoids import Ellipsoid, a_scan

from VFMTransferLib.core.errors import ImageError, PsaError
from VFMTransferLib.core.measurements import read_psa
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.radiology.gland import GlandFrame, measure_gland

IN_PLANE_MM = 1.0  # a voxel on either side
BETWEEN_SLICES_MM = 3.0  # half a slice on either side


def a_box(*sides: slice) -> Volume:
    """A mask on a grid of 1 x 0.5 x 3 mm that is 1 in a box (z, y, x)."""
    array = np.zeros((12, 60, 50), np.uint8)
    array[sides] = 1
    return Volume(array, Geometry((50, 60, 12), (1.0, 0.5, 3.0)))


def test_diameters_of_a_box_are_its_sides():
    found = measure_gland(a_box(slice(2, 10), slice(10, 50), slice(5, 35)), "as given")
    assert (found.transverse_mm, found.anteroposterior_mm, found.longitudinal_mm) == (30.0, 20.0, 24.0)
    assert found.ellipsoid_ml == pytest.approx(30 * 20 * 24 * np.pi / 6 / 1000)
    assert found.segmented_ml == pytest.approx(30 * 20 * 24 / 1000)


def test_diameters_of_fifty_leaning_ellipsoids_on_oblique_scans():
    rng = np.random.default_rng(3)
    for _ in range(50):
        half = (rng.uniform(20, 30), rng.uniform(14, 22), rng.uniform(16, 26))
        lean = rng.uniform(0, 25)
        scan = a_scan(tuple(rng.normal(0, 10, 3)))
        found = measure_gland(Ellipsoid(half, lean).gland(scan), "as given")
        c, s = np.cos(np.radians(lean)), np.sin(np.radians(lean))
        height = 2 * np.hypot(half[2] * c, half[1] * s)
        chord = 4 * half[1] * half[2] / height
        assert found.transverse_mm == pytest.approx(2 * half[0], abs=IN_PLANE_MM)
        assert found.anteroposterior_mm == pytest.approx(chord, abs=IN_PLANE_MM)
        assert found.longitudinal_mm == pytest.approx(height, abs=BETWEEN_SLICES_MM)
        volume_ml = 4 / 3 * np.pi * np.prod(half) / 1000
        assert found.ellipsoid_ml == pytest.approx(volume_ml, rel=0.1)
        assert found.segmented_ml == pytest.approx(volume_ml, rel=0.01)


@pytest.mark.parametrize("seed", [2, 7, 11])
def test_a_phantoms_gland_has_its_volume_and_near_its_diameters(seed):
    phantom = make_phantom(seed, sequences=["t2w"], t2w_spacing_mm=(1.0, 1.0, 3.0))
    found = measure_gland(phantom.gland, "phantom")
    half = phantom.acquisition["gland"]["half_mm"]
    assert found.segmented_ml == pytest.approx(phantom.volume_ml)
    # The phantom bends its gland by up to a few millimeters, and hollows its back at the midline.
    assert found.transverse_mm == pytest.approx(2 * half[0], abs=6)
    assert found.longitudinal_mm == pytest.approx(2 * half[2], abs=6)
    assert found.anteroposterior_mm == pytest.approx(2 * half[1], abs=6)
    assert 0.8 < found.ellipsoid_ml / found.segmented_ml < 1.25


def test_the_midline_follows_a_gland_that_leans_to_the_side():
    array = np.zeros((10, 40, 60), np.uint8)
    for z in range(10):
        array[z, 10:30, 10 + 2 * z : 31 + 2 * z] = 1
    frame = GlandFrame.from_mask(Volume(array, Geometry((60, 40, 10), (1.0, 1.0, 3.0))))
    np.testing.assert_allclose(frame.midline, 20 + 2 * np.arange(10))
    assert frame.height(np.array([0, 9])) == pytest.approx([0.05, 0.95])
    assert frame.lateral(np.array([3]), np.array([26 + 10.5])) == pytest.approx([1.0])
    assert frame.depth(np.array([3]), np.array([10, 29])) == pytest.approx([0.025, 0.975])


def test_each_side_is_as_wide_as_it_is():
    """Where the midline lies off the middle of a slice, either side still has an inner and an outer half."""
    array = np.zeros((9, 40, 60), np.uint8)
    array[:, 10:30, 10:50] = 1
    array[4, 10:30, 10:20] = 0  # of one slice most of the right side
    frame = GlandFrame.from_mask(Volume(array, Geometry((60, 40, 9), (1.0, 1.0, 3.0))))
    middle, at = frame.midline[4], np.array([4, 4])
    assert frame.lateral(at, np.array([19.5, 49.5])) == pytest.approx([-1.0, 1.0])
    assert frame.lateral(at, np.array([(19.5 + middle) / 2, (49.5 + middle) / 2])) == pytest.approx([-0.5, 0.5])


def test_a_mask_of_any_axis_order_gives_the_same_numbers():
    mask = Ellipsoid(lean_deg=15).gland(a_scan((8, -5, 6)))
    turned = Volume.from_sitk(mask.to_sitk()[:, ::-1, :])
    assert turned.geometry.orientation != mask.geometry.orientation
    assert measure_gland(turned, "x") == measure_gland(mask, "x")


def test_psa_density_is_psa_through_each_volume():
    found = measure_gland(a_box(slice(2, 10), slice(10, 50), slice(5, 35)), "as given", psa_ng_ml=7.2)
    assert found.psa_density_segmented == pytest.approx(7.2 / 14.4)
    assert found.psa_density_ellipsoid == pytest.approx(7.2 / (14.4 * np.pi / 6))


def test_nothing_is_stated_of_a_psa_that_nobody_gave():
    found = measure_gland(Ellipsoid().gland(a_scan()), "as given")
    assert (found.psa_ng_ml, found.psa_density_ellipsoid, found.psa_density_segmented) == (None, None, None)


@pytest.mark.parametrize(("text", "value"), [("6.5", 6.5), (" 12 ", 12.0), ("0.02 ng/ml", 0.02), ("7 NG/mL", 7.0)])
def test_a_psa_is_read_in_nanograms_a_milliliter(text, value):
    assert read_psa(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "above 0"),
        ("-3", "above 0"),
        ("6,5", "with a point, e.g. 6.5"),
        ("6500 pg/ml", "got the unit 'pg/ml'"),
        ("6.5 ug/l", "1 µg/l is 1 ng/ml"),
        ("650000", "1000 times larger"),
        ("high", "a number in ng/ml"),
        ("", "a number in ng/ml"),
        ("nan", "a number in ng/ml"),
    ],
)
def test_a_psa_that_cannot_be_one_is_named_in_a_sentence(text, words):
    with pytest.raises(PsaError, match="must be") as error:
        read_psa(text)
    assert words in str(error.value)


def test_a_mask_of_something_else_than_a_prostate_is_refused():
    with pytest.raises(ImageError, match=r"of a prostate, of 5 to 500 ml, but measures 0\.2 ml"):
        measure_gland(a_box(slice(2, 4), slice(10, 20), slice(5, 11)), "as given")
    with pytest.raises(ImageError, match="is empty"):
        measure_gland(a_box(slice(0, 0)), "as given")


@pytest.mark.parametrize("stray", [(10, 115, 70), (20, 60, 70), (0, 60, 70), (10, 60, 135)])
def test_a_stray_voxel_changes_no_diameter_and_is_noted(stray):
    clean = Ellipsoid().gland(a_scan())
    array = clean.array.copy()
    array[stray] = 1
    mask = clean.with_array(array)
    found, expected = measure_gland(mask, "as given"), measure_gland(clean, "as given")
    assert (found.transverse_mm, found.anteroposterior_mm, found.longitudinal_mm, found.ellipsoid_ml) == (
        expected.transverse_mm,
        expected.anteroposterior_mm,
        expected.longitudinal_mm,
        expected.ellipsoid_ml,
    )
    assert found.segmented_ml == pytest.approx(mask.volume_ml)
    (note,) = GlandFrame.from_mask(mask).notes
    assert "0.00075 ml apart from it were left out" in note.text
    assert not GlandFrame.from_mask(clean).notes


def test_of_a_mask_in_large_parts_all_are_measured_and_that_is_noted():
    """As of one that was drawn on every other slice."""
    whole = a_box(slice(2, 11), slice(10, 50), slice(5, 35))
    array = whole.array.copy()
    array[3:10:2] = 0
    found = measure_gland(whole.with_array(array), "as given")
    assert (found.transverse_mm, found.anteroposterior_mm, found.longitudinal_mm) == (30.0, 20.0, 27.0)
    (note,) = GlandFrame.from_mask(whole.with_array(array)).notes
    assert "the largest holds 20%" in note.text


def test_of_two_lobes_what_lies_between_them_is_not_measured_and_that_is_noted():
    lobes = (
        a_box(slice(2, 10), slice(10, 50), slice(5, 15)).array + a_box(slice(2, 10), slice(10, 50), slice(25, 35)).array
    )
    mask = a_box(slice(0, 0)).with_array(lobes)
    found = measure_gland(mask, "as given", psa_ng_ml=4.8)
    assert (found.transverse_mm, found.anteroposterior_mm, found.longitudinal_mm) == (30.0, None, None)
    assert (found.ellipsoid_ml, found.psa_density_ellipsoid) == (None, None)
    assert found.psa_density_segmented == pytest.approx(4.8 / mask.volume_ml)
    assert any("were not measured" in note.text for note in GlandFrame.from_mask(mask).notes)
    assert [value for value, _ in found.lines] == ["30 x n/a x n/a mm", "9.6 ml", "0.50 ng/ml²"]
