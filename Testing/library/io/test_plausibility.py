import re
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from images import a_gland, a_t2w, an_adc, an_hbv
from scipy import ndimage
from scipy.spatial.transform import Rotation

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.notes import warning_text
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io import read_volume
from VFMTransferLib.io.plausibility import (
    MIN_PEAK,
    adc_unit,
    checked_sequence,
    likeness_peak,
    notes_on,
)
from VFMTransferLib.phantom import make_phantom


@pytest.mark.parametrize(("factor", "unit"), [(1.0, "1e-6 mm²/s"), (1e-3, "1e-3 mm²/s"), (1e-6, "mm²/s")])
def test_an_adc_map_comes_out_in_one_unit_whatever_it_was_in(factor, unit):
    given = an_adc().with_array(an_adc().array * np.float32(factor))
    volume, notes = checked_sequence(given, Sequence.ADC, "adc.nii.gz")
    np.testing.assert_allclose(volume.array, an_adc().array, rtol=1e-5)
    assert [*map(str, notes)] == ([] if factor == 1 else [f"adc was in {unit} by its range; converted to 1e-6 mm²/s."])


def test_zeros_around_the_body_do_not_disguise_the_unit():
    array = an_adc().array.copy()
    array[:, :3] = 0
    array[:, :, :4] = 0
    assert adc_unit(array) == "1e-6 mm²/s"


@pytest.mark.parametrize("factor", [1.0, 1e-3])
@pytest.mark.parametrize("below", [-4096.0, -3.0])  # padding, and noise
def test_an_adc_below_0_is_set_to_0_with_a_note(factor, below):
    array = an_adc().array.astype(np.float32)
    array[:, :3] = below
    expected = np.maximum(array, 0)
    volume, notes = checked_sequence(an_adc().with_array(array * np.float32(factor)), Sequence.ADC, "adc.nii.gz")
    np.testing.assert_allclose(volume.array, expected, rtol=1e-5)
    assert f"adc was below 0, which no tissue is, in {(array < 0).sum()} of {array.size} voxels" in notes[-1].text


@pytest.mark.parametrize("factor", [0.01, 10.0, 1e-4, 1e4])
def test_an_adc_map_in_no_known_unit_is_refused(factor):
    given = an_adc().with_array(an_adc().array * np.float32(factor))
    with pytest.raises(ImageError, match=r"must be an ADC map in mm²/s, 1e-3 mm²/s or 1e-6 mm²/s .* has median"):
        checked_sequence(given, Sequence.ADC, "adc.nii.gz")


@pytest.mark.parametrize("image", [a_t2w(), an_hbv()])
def test_another_sequence_is_no_adc_map(image):
    dim = image.with_array(image.array // 2)
    with pytest.raises(ImageError, match="Select the ADC map"):
        checked_sequence(dim, Sequence.ADC, "adc.nii.gz")


@pytest.mark.parametrize("sequence", list(Sequence))
def test_a_label_map_is_no_image(sequence):
    with pytest.raises(ImageError, match=f"must be a {sequence} image, but has only 2 different values"):
        checked_sequence(a_gland(), sequence, "gland.nii.gz")


def test_an_image_without_signal_is_refused():
    with pytest.raises(ImageError, match="must hold signal above 0"):
        checked_sequence(a_t2w().with_array(-a_t2w().array), Sequence.T2W, "t2w.nii.gz")


@pytest.mark.parametrize("sequence", [Sequence.T2W, Sequence.HBV])
def test_a_ct_is_no_mr_image(sequence):
    hounsfield = a_t2w().array - np.int16(600)
    hounsfield[:, :3] = -1000
    with pytest.raises(
        ImageError, match=f"must be a {sequence} image of MR, but [0-9]+% .* below -500, as air does in CT"
    ):
        checked_sequence(a_t2w().with_array(hounsfield), sequence, "ct.nii.gz")


def test_a_small_offset_makes_no_ct():
    shifted = a_t2w().array - np.int16(400)
    volume, notes = checked_sequence(a_t2w().with_array(shifted), Sequence.T2W, "t2w.nii.gz")
    assert (volume.array.min() < 0, notes) == (True, [])


def test_a_t2w_with_the_values_of_an_adc_map_is_taken_with_a_doubt():
    _, notes = checked_sequence(an_adc(), Sequence.T2W, "t2w.nii.gz")
    assert [*map(str, notes)] == ["What was given as t2w has values that could be those of an ADC map; check it."]


def test_the_given_volume_stays_as_it_was():
    given = an_adc().with_array(an_adc().array * np.float32(1e-6))
    before = given.array.copy()
    checked_sequence(given, Sequence.ADC, "adc.nii.gz")
    np.testing.assert_array_equal(given.array, before)


@pytest.fixture(scope="module")
def a_phantom():
    return make_phantom(3)


def notes_of(case, gland=None, shared_view=1.0, is_one_exam=False):
    return notes_on(case.volumes, gland, shared_view, is_one_exam)


def test_a_good_case_has_no_notes(a_phantom):
    assert notes_of(a_phantom.case, a_phantom.gland) == []


def test_images_of_two_patients_are_noted_unless_identifiers_prove_them_one_exam(a_phantom):
    other = make_phantom(4).case["adc"]
    moved = replace(other.geometry, origin_mm=tuple(np.add(other.geometry.origin_mm, (12.0, 10.0, 6.0))))
    mixed = Case("mixed", {Sequence.T2W: a_phantom.case["t2w"], Sequence.ADC: replace(other, geometry=moved)})
    (note,) = notes_of(mixed)
    assert "do not show the same where they overlap, as images of two patients would" in note.text
    assert notes_of(mixed, is_one_exam=True) == []


def test_a_high_b_image_that_shows_something_else_than_the_adc_map_is_noted(a_phantom):
    case = a_phantom.case
    other = case["hbv"].with_array(np.ascontiguousarray(case["hbv"].array[:, :, ::-1]))
    (note,) = notes_of(Case("mixed", {**case.volumes, Sequence.HBV: other}))
    assert note.text.startswith("hbv and adc do not show the same where they overlap")


def with_changed_t2w(case, change) -> Case:
    t2w = case["t2w"]
    array = np.ascontiguousarray(change(t2w.array.astype(np.float32)))
    return Case("changed", {**case.volumes, Sequence.T2W: t2w.with_array(array)})


def with_one_bright_voxel(array):
    array = array.copy()
    array[3, 3, 3] = 1e6
    return array


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: np.concatenate([a[::2], a[1::2]]), "t2w has slices that do not follow each other: "),
        (with_one_bright_voxel, "t2w has voxels far beyond all others: "),
        (lambda a: np.minimum(a, np.percentile(a, 60)), "t2w has its largest value, "),
        (lambda a: a.max() - np.maximum(a, np.percentile(a, 5)), "t2w has its largest value, "),
    ],
)
def test_voxels_that_no_scan_has_are_noted(a_phantom, change, words):
    notes = notes_of(with_changed_t2w(a_phantom.case, change))
    assert any(note.text.startswith(words) for note in notes), notes


def test_fields_of_view_that_share_little_are_noted(a_phantom):
    (note,) = notes_of(a_phantom.case, shared_view=0.3)
    assert note.text == "The images share only 30% of their fields of view; check that they are of one exam."


def test_blank_and_repeated_slices_are_counted():
    t2w = a_t2w()
    array = t2w.array.copy()
    array[0], array[1], array[5] = 0, 0, array[4]
    notes = notes_on({Sequence.T2W: t2w.with_array(array)}, None, 1.0, True)
    assert [*map(str, notes[:2])] == [
        "t2w has blank slices: 2 of 7.",
        "t2w has slices that repeat another one: 1 of 7.",
    ]


def test_slices_are_those_of_the_scan_whichever_axis_of_the_file_they_run_along(a_phantom):
    t2w = with_changed_t2w(a_phantom.case, lambda a: np.concatenate([a[::2], a[1::2]]))[Sequence.T2W]
    array = t2w.array.copy()
    array[1] = 0
    scan = t2w.with_array(array)
    as_scanned = notes_on({Sequence.T2W: scan}, None, 1.0, True)
    assert f"t2w has blank slices: 1 of {len(array)}." in map(str, as_scanned)
    assert any("do not follow each other" in note.text for note in as_scanned)
    permuted = Volume.from_sitk(sitk.PermuteAxes(scan.to_sitk(), [2, 0, 1]), "t2w")
    assert notes_on({Sequence.T2W: permuted}, None, 1.0, True) == as_scanned


def test_a_mask_that_cannot_be_a_prostate_is_noted():
    grid = Geometry((40, 40, 20), (2.0, 2.0, 3.0))
    mask = np.zeros(grid.shape, np.uint8)
    mask[2:6, 5:15, 5:15] = 1
    mask[10:14, 25:35, 25:35] = 1
    small = np.zeros_like(mask)
    small[2:4, 2:5, 2:5] = 1
    (two,) = notes_on({}, Volume(mask, grid), 1.0, True)
    (tiny,) = notes_on({}, Volume(small, grid), 1.0, True)
    assert "has 2 large parts, and a prostate has one" in two.text
    assert "has 0.2 ml, and prostates have 8 to 300 ml" in tiny.text


def an_outline() -> np.ndarray:
    """A gland's mask of which the inside is missing."""
    z, y, x = np.ogrid[:20, :40, :40]
    radius = ((z - 9.5) / 8) ** 2 + ((y - 20) / 12) ** 2 + ((x - 20) / 12) ** 2
    return ((radius <= 1) & (radius > 0.75)).astype(np.uint8)


def test_an_outline_and_a_mask_that_is_too_long_are_no_prostates():
    grid = Geometry((40, 40, 20), (2.0, 2.0, 3.0))
    long = np.zeros(grid.shape, np.uint8)
    long[1:19, 18:22, :] = 1
    (hollow,) = notes_on({}, Volume(an_outline(), grid), 1.0, True)
    (stretched,) = notes_on({}, Volume(long, Geometry((40, 40, 20), (4.0, 3.0, 3.0))), 1.0, True)
    assert "fills 20% of the box around it, as an outline does" in hollow.text
    assert "is 160 x 12 x 54 mm large, and prostates are 12 to 120 mm along each axis" in stretched.text


def test_a_mask_far_beside_the_middle_of_the_image_gets_a_warning(a_phantom):
    x, y, z = a_phantom.gland.geometry.origin_mm
    for shift_mm, is_far in ((-30.0, False), (60.0, True)):
        moved = replace(a_phantom.gland.geometry, origin_mm=(x + shift_mm, y, z))
        warning = warning_text(notes_of(a_phantom.case, replace(a_phantom.gland, geometry=moved)))
        assert bool(re.match("the middle of the prostate's mask lies [56][0-9] mm beside", warning)) == is_far


@pytest.mark.parametrize("end", ["lowest", "highest"])
def test_a_gland_that_the_last_slice_cuts_is_noted(a_phantom, end):
    gland, t2w = a_phantom.gland.to_nearest_lps(), a_phantom.case["t2w"].to_nearest_lps()
    assert notes_on({Sequence.T2W: t2w}, gland, 1.0, True) == []
    held = np.flatnonzero(gland.array.any(axis=(1, 2)))
    middle = int(held.mean())
    cut = slice(middle, None) if end == "lowest" else slice(0, middle)
    origin = t2w.geometry.to_world((0, 0, cut.start))
    size = (*t2w.geometry.size[:2], len(t2w.array[cut]))
    grid = replace(t2w.geometry, size=size, origin_mm=tuple(map(float, origin)))
    (note,) = notes_on({Sequence.T2W: Volume(t2w.array[cut], grid, "t2w")}, gland, 1.0, True)
    assert f"reaches the {end} slice of t2w, where slices may be missing" in note.text


def test_an_adc_map_that_ends_before_the_high_b_image_is_noted():
    adc, hbv = an_adc(), an_hbv()
    size = (*adc.geometry.size[:2], 3)
    short = Volume(adc.array[2:], replace(adc.geometry, size=size, origin_mm=tuple(adc.geometry.to_world((0, 0, 2)))))
    assert notes_on({Sequence.HBV: hbv, Sequence.ADC: adc}, None, 1.0, True) == []
    (note,) = notes_on({Sequence.HBV: hbv, Sequence.ADC: short}, None, 1.0, True)
    assert "adc ends 10 mm before hbv at its lower end" in note.text


def test_images_are_compared_whichever_axis_of_the_file_their_slices_run_along(a_phantom):
    t2w, adc = a_phantom.case["t2w"], make_phantom(4).case["adc"]
    _, height, width = t2w.array.shape
    t2w = t2w.cropped_to((slice(4, 20), slice(0, height), slice(0, width)))  # as many slices as a clinic's scan has
    thick = replace(t2w, geometry=replace(t2w.geometry, spacing_mm=(*t2w.geometry.spacing_mm[:2], 4.5)))
    for scan, is_one_exam, count in ((t2w, False, 1), (thick, True, 0)):
        as_scanned = notes_on({Sequence.T2W: scan, Sequence.ADC: adc}, None, 1.0, is_one_exam)
        assert len(as_scanned) == count
        permuted = Volume.from_sitk(sitk.PermuteAxes(scan.to_sitk(), [2, 0, 1]), "t2w")
        assert notes_on({Sequence.T2W: permuted, Sequence.ADC: adc}, None, 1.0, is_one_exam) == as_scanned


def test_t2w_and_diffusion_that_were_swapped_are_noted():
    wide = replace(an_hbv(), geometry=replace(an_hbv().geometry, spacing_mm=(5.0, 5.0, 5.0)))
    notes = notes_on({Sequence.T2W: wide, Sequence.HBV: a_t2w()}, None, 1.0, True)
    assert any(note.code == "swapped" and note.severity == "warning" for note in notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"size": (600, 600, 20)},
            "is 300 mm wide, and 60 to 250 mm are .* Crop it to 200 mm around the prostate.",
        ),
        ({"size": (100, 100, 20)}, "is 50 mm wide"),
        ({"spacing_mm": (1.5, 1.5, 3.0), "size": (128, 128, 20)}, "has pixels of 1.50 mm, and up to 1.25 mm"),
        ({"spacing_mm": (0.5, 0.5, 7.0)}, "has a slice each 7.0 mm, and up to 6 mm"),
        ({"size": (384, 384, 5)}, "has 5 slices, and 6 or more"),
        ({"direction": tuple(Rotation.from_euler("x", 44, degrees=True).as_matrix().ravel())}, "axial by 44°, and up"),
        ({"direction": tuple(Rotation.from_euler("z", -44, degrees=True).as_matrix().ravel())}, "plane by 44°, and up"),
    ],
)
def test_a_grid_beyond_what_networks_were_tried_on_is_noted(change, words):
    grid = Geometry((384, 384, 20), (0.5, 0.5, 3.0))
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(8, 8, 8)), 1)

    def t2w_on(grid: Geometry) -> dict[Sequence, Volume]:
        repeats = [-(-n // 8) for n in grid.shape]
        z, y, x = grid.shape
        return {Sequence.T2W: Volume(np.kron(smooth, np.ones(repeats))[:z, :y, :x] + np.arange(z)[:, None, None], grid)}

    assert notes_on(t2w_on(grid), None, 1.0, True) == []
    odd = t2w_on(replace(grid, **change))
    (note,) = notes_on(odd, None, 1.0, True)
    assert re.search(words, note.text)
    turned = Volume.from_sitk(sitk.DICOMOrient(odd[Sequence.T2W].to_sitk(), "SAR"), "t2w")
    assert note in notes_on({Sequence.T2W: turned}, None, 1.0, True)


@pytest.mark.parametrize(("axes", "plane"), [("SAR", "sagittal"), ("SRA", "coronal")])
def test_a_t2w_that_is_not_axial_is_noted(axes, plane):
    direction = np.eye(3)[:, [{"R": 0, "A": 1, "S": 2}[letter] for letter in axes]]
    grid = Geometry((320, 320, 20), (0.5, 0.5, 3.6), direction=tuple(direction.ravel().tolist()))
    array = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=grid.shape), (2, 8, 8))
    notes = notes_on({Sequence.T2W: Volume(array, grid)}, None, 1.0, True)
    assert any(f"t2w has {plane} slices, and must be axial" in note.text for note in notes)
    isotropic = replace(grid, spacing_mm=(1.0, 1.0, 1.0))
    assert not any(
        "must be axial" in note.text for note in notes_on({Sequence.T2W: Volume(array, isotropic)}, None, 1.0, True)
    )


def test_real_exams_fit_and_images_of_two_patients_do_not(shared_data):
    cases = shared_data / "cases"
    adc = {name: read_volume(cases / name / "adc.nii.gz", "adc") for name in ("ProstateX-0000", "ProstateX-0001")}
    for name, volume in adc.items():
        assert likeness_peak(read_volume(cases / name / "t2w.nii.gz"), volume) > MIN_PEAK
    for name, other in (("ProstateX-0000", "ProstateX-0002"), ("ProstateX-0001", "ProstateX-0002")):
        assert likeness_peak(read_volume(cases / other / "t2w.nii.gz"), adc[name]) < MIN_PEAK
