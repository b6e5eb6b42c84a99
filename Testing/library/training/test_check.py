"""Is a data set fit? Each fault is put into a small data set on disk, and must be found."""

import json
from dataclasses import replace

import numpy as np
import pytest
from images import T2W_GRID, a_gland, a_t2w, an_adc, an_hbv

from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io import write_volume
from VFMTransferLib.training.check import BINARY_LESIONS, DataReport, check_data

ANATOMY, LESIONS = "anatomy-segmentation", "lesion-segmentation"


def write_case(folder, seed=0, **files: Volume):
    folder.mkdir(parents=True)
    files = {"t2w": a_t2w(seed), "gland": big_gland(), **files}
    for stem, volume in files.items():
        if volume is not None:
            write_volume(volume, folder / f"{stem}.nii.gz")
    return folder


def big_gland() -> Volume:
    """About 25 ml on the T2w's grid."""
    mask = a_gland()
    array = np.zeros_like(mask.array)
    array[1:6, 3:15, 4:17] = 1
    return mask.with_array(array)


def sentences(report: DataReport, severity: str) -> list[str]:
    return [f"{finding.case}: {finding.sentence}" for finding in report.findings if finding.severity == severity]


def test_a_sound_data_set_is_fit(tmp_path):
    for seed in range(3):
        write_case(tmp_path / f"case{seed}", seed)
    report = check_data(tmp_path, ANATOMY)
    assert report.is_fit
    assert [case.labels for case in report.cases] == [{"gland": (0, 1)}] * 3
    assert [line for line in sentences(report, "warning") if "slices" not in line] == []


def test_a_case_that_lacks_a_sequence_of_the_task_is_named(tmp_path):
    write_case(tmp_path / "whole", hbv=an_hbv(), adc=an_adc())
    write_case(tmp_path / "part", 1, adc=an_adc(7))
    report = check_data(tmp_path, LESIONS)
    assert not report.is_fit
    assert sentences(report, "error") == ["part: Lesion segmentation needs t2w, hbv, adc, but hbv is missing."]


def test_what_is_learned_from_and_missing_is_named(tmp_path):
    write_case(tmp_path / "one", hbv=an_hbv(), adc=an_adc())
    write_case(tmp_path / "two", 1, hbv=an_hbv(7), adc=an_adc(7), lesion=big_gland())
    expected = "one: Lesion segmentation is learned from a mask lesion, empty without a lesion, which is missing."
    assert expected in sentences(check_data(tmp_path, LESIONS), "warning")
    expected = f": Folder '{tmp_path.name}' has no labels.csv. Add one with the columns case,pirads."
    assert expected in sentences(check_data(tmp_path, "classification"), "warning")
    (tmp_path / "labels.csv").write_text("case,pirads\ntwo,4\n", encoding="utf-8")
    expected = "one: Classification is learned from labels.csv, which has no row for this case."
    assert expected in sentences(check_data(tmp_path, "classification"), "warning")
    write_case(tmp_path / "three", 2)
    expected = "three: T2w→ADC translation needs t2w, adc, but adc is missing."
    assert sentences(check_data(tmp_path, "adc-translation"), "error") == [expected]


def test_a_mask_of_something_else_is_none_of_the_prostate(tmp_path):
    write_case(tmp_path / "one")
    write_case(tmp_path / "two", 1, gland=None, lesion=big_gland())
    write_case(tmp_path / "three", 2, gland=None)
    expected = [
        "three: There is no mask, so this case can be neither trained nor measured on.",
        "two: Anatomy segmentation is learned from a mask of the prostate, which is missing.",
    ]
    assert [found for found in sentences(check_data(tmp_path, ANATOMY), "warning") if "mask" in found] == expected


@pytest.mark.parametrize("name", ["ProstateX-0001", "prostate_7", "Segovia-label1x", "UKE prostate"])
def test_a_scan_whose_name_holds_that_of_its_case_is_no_mask(tmp_path, name):
    folder = tmp_path / name
    write_case(folder, adc=an_adc(), hbv=an_hbv(), lesion=big_gland())
    for file in folder.glob("*.nii.gz"):
        if file.name.split(".")[0] in ("t2w", "adc", "hbv"):
            file.rename(folder / f"{name}_{file.name}")
    report = check_data(tmp_path, LESIONS)
    assert report.is_fit
    assert [sorted(case.labels) for case in report.cases] == [["gland", "lesion"]]
    assert len(report.cases[0].sequences) == 3


@pytest.mark.parametrize(
    ("stem", "is_of_gland"),
    [
        ("gland_taps", True),
        ("wholegland", True),
        ("prostate", True),
        ("ProstateX-0001_lesion", False),
        ("prostate_zones", False),
        ("T2Wseg", False),
        ("lesion2", False),
        ("peripheral_mask", False),
    ],
)
def test_a_mask_is_recognized_by_words_of_its_name(tmp_path, stem, is_of_gland):
    write_case(tmp_path / "one", gland=None, adc=an_adc(), hbv=an_hbv(), **{stem: a_gland()})
    report = check_data(tmp_path, LESIONS)
    assert [list(case.labels) for case in report.cases] == [[stem]]
    is_measured = f"one: Mask {stem} marks 2.5 ml, which is no usual prostate." in sentences(report, "warning")
    assert is_measured == is_of_gland


def test_a_file_that_cannot_be_read_does_not_stop_the_others(tmp_path):
    write_case(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "t2w.nii.gz").write_bytes(b"no image")
    report = check_data(tmp_path, ANATOMY)
    assert [case.name for case in report.cases] == ["good"]
    assert [finding.case for finding in report.findings if finding.severity == "error"] == ["bad"]


def test_the_same_voxels_under_another_header_are_found(tmp_path):
    moved = Geometry(T2W_GRID.size, (1.0, 1.0, 3.0), (5.0, 5.0, 5.0))
    write_case(tmp_path / "a")
    write_case(tmp_path / "b", t2w=Volume(a_t2w().array, moved, "t2w"), gland=None)
    write_case(tmp_path / "c", 1)
    assert sentences(check_data(tmp_path, ANATOMY), "error") == [
        "a, b: The t2w images have the same voxels. Keep one, or keep both in one split."
    ]


def test_cases_of_one_image_are_named_together_and_each_once(tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 1), ("c", 1), ("d", 2), ("e", 2), ("f", 3)):
        write_case(tmp_path / name, seed)
    same = "The t2w images have the same voxels. Keep one, or keep"
    expected = [f"a, b, c: {same} all in one split.", f"d, e: {same} both in one split."]
    assert sentences(check_data(tmp_path, ANATOMY), "error") == expected
    write_case(tmp_path / "g", 3)
    assert main(["data", "check", str(tmp_path), "--task", ANATOMY]) == 1
    assert f"ERROR: d, e; f, g: {same} both in one split." in capsys.readouterr().out


def test_an_image_that_was_scaled_and_lies_in_another_split_is_leakage(tmp_path):
    write_case(tmp_path / "train" / "a")
    write_case(tmp_path / "test" / "b", t2w=a_t2w().with_array((2 * a_t2w().array + 10).astype(np.int16)))
    report = check_data(tmp_path, ANATOMY)
    assert {case.name: case.split for case in report.cases} == {"a": "train", "b": "test"}
    assert any("nearly the same image" in line and "leakage" in line for line in sentences(report, "error"))


def test_one_patient_by_name_must_not_be_in_two_splits(tmp_path):
    write_case(tmp_path / "train" / "10001_1")
    write_case(tmp_path / "train" / "10002_2", 1)
    write_case(tmp_path / "test" / "10001_3", 2)
    found = sentences(check_data(tmp_path, ANATOMY), "error")
    assert len(found) == 1
    assert "one patient's, by their names, but lie in test and train" in found[0]


def test_a_name_of_another_form_leaves_the_others_checked(tmp_path):
    write_case(tmp_path / "train" / "P1_a")
    write_case(tmp_path / "train" / "control", 1)
    write_case(tmp_path / "test" / "P1_b", 2)
    report = check_data(tmp_path, ANATOMY)
    assert [line.split(":")[0] for line in sentences(report, "error")] == ["P1_b, P1_a"]
    assert ": Names that are not PATIENT_STUDY: 1. Whose cases they are was not checked." in sentences(report, "note")


def test_exams_of_one_patient_without_splits_are_noted(tmp_path):
    for seed, name in enumerate(("7_a", "7_b", "8_a")):
        write_case(tmp_path / name, seed)
    report = check_data(tmp_path, ANATOMY)
    expected = "7_a, 7_b: These look like one patient's, by their names: they train, or validate, together."
    assert [line for line in sentences(report, "note") if "patient" in line] == [expected]


def test_names_without_a_patients_number_are_no_patients(tmp_path):
    write_case(tmp_path / "train" / "case_a")
    write_case(tmp_path / "test" / "case_b", 1)
    assert check_data(tmp_path, ANATOMY).is_fit


def test_a_mask_beside_the_images_is_an_error(tmp_path):
    gland = big_gland()
    far = replace(gland.geometry, origin_mm=tuple(x + 500.0 for x in gland.geometry.origin_mm))
    write_case(tmp_path / "a", adc=an_adc(), hbv=an_hbv(), lesion=Volume(gland.array, far))
    report = check_data(tmp_path, LESIONS)
    assert sentences(report, "error") == ["a: Mask lesion must mark voxels of the T2w, but lies outside of it."]


@pytest.mark.parametrize(("values", "is_told"), [((1, 1), True), ((1, 3), False), ((0, 2), False)])
def test_lesion_masks_without_a_significant_grade_are_told(tmp_path, values, is_told):
    for name, value in zip(("a", "b"), values, strict=True):
        lesion = big_gland()
        lesion = lesion.with_array(lesion.array * np.uint8(value))
        write_case(tmp_path / name, ord(name), adc=an_adc(), hbv=an_hbv(), lesion=lesion)
    assert (f": {BINARY_LESIONS}" in sentences(check_data(tmp_path, LESIONS), "warning")) == is_told


def test_values_that_are_no_grades_are_an_error(tmp_path):
    gland = big_gland()
    lesion, zones = (gland.with_array(gland.array * value) for value in (100, 3))
    write_case(tmp_path / "a", adc=an_adc(), hbv=an_hbv(), lesion=lesion, zones=zones)
    found = sentences(check_data(tmp_path, LESIONS), "error")
    assert "a: Values of mask lesion must be 0 to 5 (ISUP grade groups), but are 0 to 100." in found
    assert "a: Values of mask zones must be 0 to 2 (1 for peripheral, 2 for transition), but are 0 to 3." in found


def test_masks_and_grids_that_look_wrong_are_pointed_out(tmp_path):
    nothing = a_gland().with_array(np.zeros_like(a_gland().array))
    write_case(tmp_path / "a", adc=an_adc(), hbv=an_hbv(), gland=a_gland(), zones=nothing, lesion=nothing)
    found = sentences(check_data(tmp_path, LESIONS), "warning")
    assert "a: Mask gland marks 2.5 ml, which is no usual prostate." in found
    assert "a: Mask zones marks nothing." in found
    assert not any("Mask lesion" in line for line in found)
    assert any("t2w has 7 slices" in line for line in found)


def test_exchanged_zones_are_pointed_out(tmp_path):
    gland = big_gland()
    back = np.arange(gland.array.shape[1])[None, :, None] >= gland.array.shape[1] / 2  # rows run to the back
    zones = np.where(gland.array > 0, np.where(back, 1, 2), 0).astype(np.uint8)
    write_case(tmp_path / "a", gland=gland, zones=gland.with_array(zones))
    write_case(tmp_path / "b", 1, gland=gland, zones=gland.with_array(np.where(zones, 3 - zones, 0).astype(np.uint8)))
    found = [line for line in sentences(check_data(tmp_path, ANATOMY), "warning") if "exchanged" in line]
    assert [line[:2] for line in found] == ["b:"]


def test_a_mask_of_the_t2ws_matrix_elsewhere_is_a_warning(tmp_path):
    gland = big_gland()
    x, y, z = gland.geometry.origin_mm
    moved = replace(gland, geometry=replace(gland.geometry, origin_mm=(x + 3.0, y, z)))
    write_case(tmp_path / "a", gland=moved)
    found = sentences(check_data(tmp_path, ANATOMY), "warning")
    assert "a: Mask gland has the T2w's matrix, but lies 3 mm beside it. Was its position lost?" in found


def test_units_are_held_to_what_prediction_asks_for(tmp_path):
    write_case(tmp_path / "a", adc=an_adc().with_array((an_adc().array * 2 + 1500).astype(np.int16)), hbv=an_hbv())
    write_case(tmp_path / "b", t2w=a_t2w().with_array(np.full(T2W_GRID.shape, 7, np.int16)))
    found = sentences(check_data(tmp_path, LESIONS), "error")
    assert [line[:2] for line in found] == ["a:", "b:"]
    assert "must be an ADC map" in found[0]


def test_what_is_wrong_with_images_that_the_task_does_not_need_is_a_warning(tmp_path):
    write_case(tmp_path / "a", hbv=an_hbv())
    (tmp_path / "a" / "adc.nii.gz").write_bytes(b"no image")
    write_case(tmp_path / "b", 1, p_adc=an_adc(7), q_adc=an_adc(8))
    report = check_data(tmp_path, ANATOMY)
    assert report.is_fit
    assert [case.sequences for case in report.cases] == [("t2w",), ("t2w",)]
    found = [line for line in sentences(report, "warning") if line.endswith("Anatomy segmentation does not need it.")]
    assert [line[:2] for line in found] == ["a:", "b:"]
    assert len(sentences(check_data(tmp_path, "adc-translation"), "error")) == 2


def test_a_case_that_an_encoder_cannot_be_trained_on_is_named(tmp_path):
    write_case(tmp_path / "a", hbv=an_hbv(), adc=an_adc(), lesion=big_gland())
    write_case(tmp_path / "b", 1, hbv=an_hbv(7), adc=an_adc(7), lesion=big_gland(), gland=None)
    expected = "b: ProViCNet cannot be trained without a mask of the prostate, which is missing."
    found = [line for line in sentences(check_data(tmp_path, LESIONS), "warning") if "cannot be trained" in line]
    assert found == [expected]
    assert not any("ProViCNet" in line for line in sentences(check_data(tmp_path, ANATOMY), "warning"))


def test_several_voxel_sizes_and_splits_are_told(tmp_path):
    other = Volume(a_t2w(5).array, Geometry(T2W_GRID.size, (0.5, 0.5, 3.0), (0.0, 0.0, 0.0)), "t2w")
    write_case(tmp_path / "train" / "a")
    write_case(tmp_path / "val" / "b", t2w=other, gland=None)
    notes = sentences(check_data(tmp_path, ANATOMY), "note")
    assert ": t2w comes in 2 voxel sizes, in mm: 2x2.5x4 (1), 0.5x0.5x3 (1)." in notes
    assert ": Splits: train 1, val 1." in notes


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_cases_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="a folder for each case"):
        check_data(tmp_path / name, ANATOMY)


def test_the_command_ends_with_1_where_data_are_not_fit(tmp_path, capsys):
    write_case(tmp_path / "a")
    write_case(tmp_path / "b")
    assert main(["data", "check", str(tmp_path)]) == 1
    output = capsys.readouterr()
    assert "ERROR: a, b: The t2w images have the same voxels." in output.out
    assert "not fit yet" in output.err


def test_the_command_says_what_it_found_as_json(tmp_path, capsys):
    write_case(tmp_path / "a")
    assert main(["data", "check", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["fit"] is True
    assert answer["cases"][0]["labels"] == {"gland": [0, 1]}
