import logging
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from images import DWI_GRID, T2W_GRID, a_gland, a_t2w, an_adc, an_hbv

from VFMTransferLib.core.errors import AmbiguousInputError, GeometryError, ImageError, MissingSequenceError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.io import read_case, read_case_for, write_volume

B_VALUES = (50, 400, 800)


@pytest.fixture
def a_folder(tmp_path):
    """A case named as the documentation states."""
    folder = tmp_path / "p001"
    folder.mkdir()
    for volume in (a_t2w(), an_hbv(), an_adc()):
        write_volume(volume, folder / f"{volume.name}.nii.gz")
    return folder


@pytest.fixture
def a_series_file(tmp_path):
    """A 4D diffusion file of b 50, 400, 800 with ADC 1e-3 mm²/s everywhere, and its .bval."""
    start = an_hbv().array.astype(np.float32) * 4 + 100
    parts = [Volume(start * np.float32(np.exp(-b * 1e-3)), DWI_GRID).to_sitk() for b in B_VALUES]

    def write(folder):
        sitk.WriteImage(sitk.JoinSeries(parts), str(folder / "dwi.nii.gz"))
        (folder / "dwi.bval").write_text(" ".join(map(str, B_VALUES)), encoding="utf-8")
        return start

    return write


def test_a_folder_of_files_by_role_is_a_case(a_folder):
    case = read_case(a_folder)
    assert case.id == "p001"
    assert case.sequences == tuple(Sequence)
    assert case[Sequence.T2W].geometry.equals(T2W_GRID)
    assert case[Sequence.ADC].geometry.equals(DWI_GRID)
    np.testing.assert_array_equal(case[Sequence.HBV].array, an_hbv().array)


@pytest.mark.parametrize(
    "names",
    [
        ("10000_1000000_t2w.mha", "10000_1000000_hbv.mha", "10000_1000000_adc.mha"),
        ("T2W.nrrd", "HBV.nrrd", "ADC.nrrd"),
        ("patient-7_T2.nii", "patient-7_high_b_hbv.nii", "patient-7.ADC.nii"),
        ("t2_tse_tra.nii", "ep2d_diff_BVAL1400.nii", "ep2d_diff_ADC.nii"),
        ("T2 axial.nii", "DWI b2000.nii", "ADC map.nii"),
        ("prostate_t2w.mha", "prostate_hbv.mha", "prostate_adc.mha"),
    ],
)
def test_roles_are_words_of_the_file_names(tmp_path, names):
    for name, volume in zip(names, (a_t2w(), an_hbv(), an_adc()), strict=True):
        write_volume(volume, tmp_path / name)
    case = read_case(tmp_path)
    assert case.sequences == tuple(Sequence)
    assert case.gland is None
    np.testing.assert_array_equal(case[Sequence.ADC].array, an_adc().array)


@pytest.mark.parametrize("name", ["prostate", "t2w_prostate_mask", "p001_gland", "t2w_gland"])
def test_a_mask_is_told_from_the_scan_it_was_drawn_on(a_folder, name):
    write_volume(a_gland(), a_folder / f"{name}.nii.gz")
    (a_folder / "t2w.nii.gz").rename(a_folder / "scan_t2w.nii.gz")
    case = read_case(a_folder)
    np.testing.assert_array_equal(case.gland.array, a_gland().array)
    np.testing.assert_array_equal(case[Sequence.T2W].array, a_t2w().array)


@pytest.mark.parametrize(
    "name",
    [
        *("prostate_pz", "prostate_tz_mask", "prostate_central_gland", "prostate_transition", "prostate_tumor_mask"),
        *("prostate_lesion2", "prostate_PeripheralZone", "p001_prostate_cancer_roi", "prostate_urethra"),
    ],
)
def test_a_mask_of_a_zone_or_a_tumor_is_not_taken_for_that_of_the_prostate(a_folder, name):
    write_volume(a_gland(), a_folder / f"{name}.nii.gz")
    case = read_case(a_folder)
    assert case.gland is None
    assert case.sequences == tuple(Sequence)


def test_a_map_of_t2_is_not_taken_for_a_t2_weighted_image(a_folder):
    (a_folder / "t2w.nii.gz").rename(a_folder / "T2_map.nii.gz")
    assert read_case(a_folder).sequences == (Sequence.HBV, Sequence.ADC)


def test_other_planes_masks_and_earlier_results_are_not_taken_for_scans(a_folder):
    for name in ("t2w_sag", "t2w_cor", "t2w-super-resolved", "adc-synthetic"):
        write_volume(a_t2w(5), a_folder / f"{name}.nii.gz")
    write_volume(a_gland(), a_folder / "t2w_gland_mask.nii.gz")
    (a_folder / "t2w.nii.gz").rename(a_folder / "scan_t2w.nii.gz")
    np.testing.assert_array_equal(read_case(a_folder)[Sequence.T2W].array, a_t2w().array)


def test_a_file_named_by_its_role_alone_goes_before_others(a_folder):
    write_volume(a_t2w(5), a_folder / "old_t2w.nii.gz")
    np.testing.assert_array_equal(read_case(a_folder)[Sequence.T2W].array, a_t2w().array)


def test_two_files_for_one_role_are_listed(a_folder):
    (a_folder / "t2w.nii.gz").rename(a_folder / "a_t2w.nii.gz")
    write_volume(a_t2w(5), a_folder / "b_t2w.nii.gz")
    with pytest.raises(
        AmbiguousInputError, match=r"a_t2w.nii.gz, b_t2w.nii.gz\. Keep one of them in the folder, or select it as t2w"
    ):
        read_case(a_folder)


def test_an_option_overrules_what_the_folder_holds(a_folder):
    (a_folder / "t2w.nii.gz").rename(a_folder / "a_t2w.nii.gz")
    write_volume(a_t2w(5), a_folder / "b_t2w.nii.gz")
    case = read_case(a_folder, t2w=a_folder / "b_t2w.nii.gz")
    np.testing.assert_array_equal(case[Sequence.T2W].array, a_t2w(5).array)
    assert case.sequences == tuple(Sequence)


def test_only_what_is_looked_for_has_to_be_unambiguous(a_folder):
    (a_folder / "adc.nii.gz").rename(a_folder / "a_adc.nii.gz")
    write_volume(an_adc(5), a_folder / "b_adc.nii.gz")
    assert read_case(a_folder, sequences=[Sequence.T2W]).sequences == (Sequence.T2W,)


def test_what_is_not_needed_and_cannot_be_read_is_left_out_with_a_note(a_folder):
    whole = read_case_for([Sequence.T2W], a_folder)
    assert (whole.sequences, whole.notes) == (tuple(Sequence), read_case(a_folder).notes)
    (a_folder / "adc.nii.gz").write_bytes(b"no image")
    case = read_case_for([Sequence.T2W], a_folder)
    assert case.sequences == (Sequence.T2W, Sequence.HBV)
    assert case.notes[-1].text == "Left out, since it could not be read whole and is not needed: adc."
    named = read_case_for([Sequence.T2W], a_folder, hbv=a_folder / "hbv.nii.gz")
    assert (named.sequences, named.notes[-1].text) == (case.sequences, case.notes[-1].text)
    with pytest.raises(ImageError, match="adc"):
        read_case_for([Sequence.ADC], a_folder)
    with pytest.raises(ImageError, match="adc"):
        read_case_for([Sequence.T2W], a_folder, adc=a_folder / "adc.nii.gz")


def test_of_two_images_that_are_not_needed_only_those_that_cannot_be_read_are_left_out(a_folder):
    (a_folder / "hbv.nii.gz").rename(a_folder / "a_hbv.nii.gz")
    write_volume(an_hbv(5), a_folder / "b_hbv.nii.gz")
    case = read_case_for([Sequence.T2W], a_folder)
    assert case.sequences == (Sequence.T2W, Sequence.ADC)
    assert case.notes[-1].text.endswith("is not needed: hbv.")
    (a_folder / "adc.nii.gz").write_bytes(b"no image")
    case = read_case_for([Sequence.T2W], a_folder)
    assert case.sequences == (Sequence.T2W,)
    assert case.notes[-1].text.endswith("is not needed: hbv, adc.")


def test_b_values_in_the_name_of_an_adc_map_do_not_make_it_a_high_b_image(a_folder):
    (a_folder / "adc.nii.gz").rename(a_folder / "p2_adc_b50_b1400.nii.gz")
    (a_folder / "hbv.nii.gz").rename(a_folder / "p2_dwi_b1400.nii.gz")
    assert read_case(a_folder).sequences == tuple(Sequence)
    (a_folder / "p2_dwi_b1400.nii.gz").unlink()
    assert read_case(a_folder).sequences == (Sequence.T2W, Sequence.ADC)


def test_an_image_that_lies_elsewhere_is_refused_though_it_is_not_needed(a_folder):
    adc = an_adc()
    away = replace(adc.geometry, origin_mm=tuple(x + 500 for x in adc.geometry.origin_mm))
    write_volume(Volume(adc.array, away, "adc"), a_folder / "adc.nii.gz")
    with pytest.raises(GeometryError, match="must show the same region"):
        read_case_for([Sequence.T2W], a_folder)


def test_options_alone_make_a_case(a_folder):
    case = read_case(t2w=a_folder / "t2w.nii.gz", adc=str(a_folder / "adc.nii.gz"))
    assert (case.id, case.sequences) == ("p001", (Sequence.T2W, Sequence.ADC))


def test_a_single_file_is_the_t2w(a_folder):
    case = read_case(a_folder / "t2w.nii.gz")
    assert (case.id, case.sequences) == ("t2w", (Sequence.T2W,))


def test_nothing_given_is_the_callers_mistake():
    with pytest.raises(ValueError, match="Give a path"):
        read_case()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match="Case 'nowhere' must be a folder or an image file"):
        read_case(tmp_path / "nowhere")


def test_a_file_that_is_no_image_is_told_from_one_that_is_missing(tmp_path):
    (tmp_path / "IM0001.dcm").write_bytes(b"a slice")
    with pytest.raises(
        ImageError, match=r"'IM0001.dcm' must be a folder .*, but is neither; for DICOM give the folder"
    ):
        read_case(tmp_path / "IM0001.dcm")


def test_a_case_has_its_folders_own_name_however_it_is_reached(a_folder, monkeypatch):
    (a_folder / "below").mkdir()
    monkeypatch.chdir(a_folder / "below")
    assert read_case("..").id == "p001"
    monkeypatch.chdir(a_folder)
    assert read_case(".").id == "p001"


def test_a_folder_without_images_is_refused_with_the_names_it_needs(tmp_path):
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    with pytest.raises(MissingSequenceError, match=r"must contain t2w, hbv or adc by name \(t2w.nii.gz"):
        read_case(tmp_path)


def test_an_adc_map_in_another_unit_is_converted_with_a_note(a_folder, caplog):
    caplog.set_level(logging.INFO)
    scaled = an_adc().with_array(an_adc().array * np.float32(1e-6))
    write_volume(scaled, a_folder / "adc.nii.gz")
    case = read_case(a_folder)
    np.testing.assert_allclose(case[Sequence.ADC].array, an_adc().array, rtol=1e-5)
    assert case.notes[0].text == "adc was in mm²/s by its range; converted to 1e-6 mm²/s."
    assert "adc was in mm²/s" in caplog.text
    assert "p001" not in caplog.text


def test_adc_and_high_b_in_each_others_place_are_recognized(a_folder):
    with pytest.raises(ImageError, match=r"'hbv.nii.gz' must be the ADC map .* the other way round. Swap them"):
        read_case(a_folder, adc=a_folder / "hbv.nii.gz", hbv=a_folder / "adc.nii.gz")


def test_one_image_cannot_be_two_sequences(a_folder):
    with pytest.raises(ImageError, match="t2w and hbv must be two images, but are the same"):
        read_case(a_folder, hbv=a_folder / "t2w.nii.gz")


def test_a_diffusion_file_gives_the_high_b_image_and_a_note_on_how(a_folder, a_series_file):
    (a_folder / "hbv.nii.gz").unlink()
    start = a_series_file(a_folder)
    case = read_case(a_folder)
    np.testing.assert_allclose(case[Sequence.HBV].array, start * np.exp(-1.4), rtol=1e-4)
    assert "b 1400 computed by a mono-exponential fit to b 50, 400, 800 (the file)" in case.notes[0].text


def test_a_high_b_file_goes_before_the_diffusion_file(a_folder, a_series_file):
    a_series_file(a_folder)
    np.testing.assert_array_equal(read_case(a_folder)[Sequence.HBV].array, an_hbv().array)


def test_a_diffusion_file_named_by_option_gives_the_high_b_image(a_folder, a_series_file):
    a_series_file(a_folder)
    case = read_case(a_folder, hbv=a_folder / "dwi.nii.gz")
    assert "b 1400 computed" in case.notes[0].text


@pytest.mark.parametrize(
    ("b_values", "problem"),
    [
        (None, "must have its b values in 'dwi.bval'"),
        ("50 400 nonsense", "must have its b values in 'dwi.bval'"),
        ("50 800", "one b value for each of its 3 images, but its .bval has 2"),
        ("50 800 800", "one trace-weighted image for each b value, but holds several of b 800"),
    ],
)
def test_a_diffusion_file_needs_one_b_value_for_each_image(a_folder, a_series_file, b_values, problem):
    a_series_file(a_folder)
    (a_folder / "hbv.nii.gz").unlink()
    (a_folder / "dwi.bval").unlink()
    if b_values:
        (a_folder / "dwi.bval").write_text(b_values, encoding="utf-8")
    with pytest.raises(ImageError, match=problem):
        read_case(a_folder)


def test_a_3d_diffusion_file_without_b_value_is_not_guessed_at(a_folder):
    (a_folder / "hbv.nii.gz").rename(a_folder / "dwi.nii.gz")
    case = read_case(a_folder)
    assert Sequence.HBV not in case
    assert case.notes[0].text == (
        "The diffusion file has no b values and was not used; if it is the high-b image, select it as such."
    )


def test_a_gland_mask_is_found_by_its_name(a_folder):
    write_volume(a_gland(), a_folder / "gland_reader.nii.gz")
    case = read_case(a_folder)
    np.testing.assert_array_equal(case.gland.array, a_gland().array)
    assert case.notes[0].text == "Gland mask: the file that is named so in the case's folder."


def test_of_two_gland_masks_none_is_taken(a_folder):
    write_volume(a_gland(), a_folder / "gland_a.nii.gz")
    write_volume(a_gland(), a_folder / "gland_b.nii.gz")
    case = read_case(a_folder)
    assert case.gland is None
    assert case.notes[0].text.startswith("2 files could be the gland mask; none was used")
    assert read_case(a_folder, gland=a_folder / "gland_b.nii.gz").gland is not None


def test_an_empty_gland_mask_is_refused(a_folder):
    write_volume(a_gland().with_array(np.zeros_like(a_gland().array)), a_folder / "gland.nii.gz")
    with pytest.raises(ImageError, match=r"'gland.nii.gz' must mark the prostate, but is empty"):
        read_case(a_folder)


def moved(volume: Volume, shift_mm: float) -> Volume:
    x, y, z = volume.geometry.origin_mm
    image = volume.to_sitk()
    image.SetOrigin((x + shift_mm, y, z))
    return Volume.from_sitk(image, volume.name)


def test_images_of_two_places_are_refused(a_folder):
    write_volume(moved(an_adc(), 300), a_folder / "adc.nii.gz")
    with pytest.raises(
        GeometryError, match=r"adc must show the same region as t2w, .* share 0 % \(centers 30\d mm apart"
    ):
        read_case(a_folder)


def test_a_gland_mask_of_another_place_is_refused(a_folder):
    write_volume(moved(a_gland(), 300), a_folder / "gland.nii.gz")
    with pytest.raises(GeometryError, match="gland mask must lie within t2w"):
        read_case(a_folder)


@pytest.mark.parametrize("name", ["ProstateX-0000", "ProstateX-0001", "ProstateX-0214"])
def test_a_real_case_reads_sensibly(shared_data, name):
    case = read_case(shared_data / "cases" / name)
    assert case.sequences == tuple(Sequence)
    adc = case[Sequence.ADC].array
    assert 900 < np.median(adc[adc > 300]) < 1700
