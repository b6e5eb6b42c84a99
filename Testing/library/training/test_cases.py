"""Where study cases come from: phantoms made on the spot, or folders with masks and tables."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_examples import SPACING_MM, a_phantom, write_case

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.io import read_mask, write_volume
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.tasks.base import MaskNames
from VFMTransferLib.tasks.super_resolution.task import SUPER_RESOLVED
from VFMTransferLib.training.cases import (
    Split,
    file_facts,
    folder_cases,
    folder_dataset,
    folder_lesions,
    phantom_dataset,
    read_labeled,
)


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for seed in range(2):
        write_case(folder / f"p{seed}", seed, "gland", "zones", "lesion")
    (folder / "labels.csv").write_text("case,pirads\np0,4\np1,2\n")
    return folder


def test_phantoms_train_and_validate_and_are_phase_encoded_from_left_to_right():
    found = phantom_dataset("distortion-correction", 3, 1, seed=7, spacing_mm=SPACING_MM)
    assert found.split.train == ("phantom-0007", "phantom-0008")
    assert found.split.validation == ("phantom-0009",)
    assert {study.phase_axis for study in found.cases.values()} == {"left-right"}


def test_phantoms_of_each_task_have_its_truth():
    super_resolution = phantom_dataset("super-resolution", 2, 1, spacing_mm=(3.0, 3.0, 6.0))
    assert all(SUPER_RESOLVED in study.images for study in super_resolution.cases.values())
    adc = phantom_dataset("adc-translation", 2, 1, spacing_mm=SPACING_MM)
    assert all(study.case.sequences == (Sequence.T2W,) for study in adc.cases.values())


def test_all_phantoms_cannot_validate():
    with pytest.raises(DatasetError, match="got 2 of 2"):
        phantom_dataset("classification", 2, 2)


def test_a_folders_masks_are_the_truth_of_segmentation(a_folder):
    anatomy = folder_dataset(a_folder, "anatomy-segmentation").cases["p0"]
    phantom = a_phantom(0)
    np.testing.assert_array_equal(anatomy.masks[Label.PROSTATE].array, phantom.gland.array)
    np.testing.assert_array_equal(anatomy.masks[Label.TRANSITION_ZONE].array, phantom.zones.array == 2)
    assert anatomy.case.gland is None  # no mask may help the network
    lesions = folder_dataset(a_folder, "lesion-segmentation").cases["p0"]
    np.testing.assert_array_equal(lesions.masks[Label.CSPCA].array, phantom.lesion.array >= 2)
    assert not lesions.is_phantom


def test_a_folders_table_tells_the_classes_and_its_scans_are_the_truth_of_images(a_folder):
    classes = folder_dataset(a_folder, "classification").cases
    assert {name: study.category for name, study in classes.items()} == {"p0": "PI-RADS 4", "p1": "PI-RADS 2"}
    adc = folder_dataset(a_folder, "adc-translation").cases["p1"]
    np.testing.assert_allclose(adc.images[ADC_SYNTHETIC].array, a_phantom(1).case[Sequence.ADC].array)


def test_a_split_is_drawn_by_its_seed_and_leaves_cases_on_both_sides(a_folder):
    splits = {folder_dataset(a_folder, "anatomy-segmentation", seed=seed).split for seed in range(6)}
    assert len(splits) == 2
    assert all(len(split.train) == len(split.validation) == 1 for split in splits)


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "testing")])
def test_a_folder_may_state_its_splits(tmp_path, names):
    for seed, split in enumerate(names):
        write_case(tmp_path / split / f"p{seed}", seed, "gland")
    split = folder_dataset(tmp_path, "anatomy-segmentation").split
    assert (split.train, split.validation, split.test) == (("p0",), (), ("p1",))


@pytest.mark.parametrize("read", [folder_cases, folder_lesions])
def test_pretraining_shows_no_case_that_validates_or_tests(tmp_path, read):
    for place in ("Train/p0", "val/p1", "test/p2"):
        (tmp_path / "split" / place).mkdir(parents=True)
        (tmp_path / "flat" / Path(place).name).mkdir(parents=True)
    assert [case.id for case in read(tmp_path / "split")] == ["p0"]
    assert [case.id for case in read(tmp_path / "flat")] == ["p0", "p1", "p2"]
    (tmp_path / "split" / "Train" / "p0").rmdir()
    with pytest.raises(DatasetError, match="must have cases in 'train'"):
        read(tmp_path / "split")


def test_what_lacks_is_named(a_folder, tmp_path):
    with pytest.raises(DatasetError, match="must have a mask gland_other"):
        folder_dataset(a_folder, "anatomy-segmentation", gland="gland_other")
    for seed in range(2):
        write_case(tmp_path / f"p{seed}", seed)
    with pytest.raises(DatasetError, match="must have a mask lesion"):
        folder_dataset(tmp_path, "lesion-segmentation")
    with pytest.raises(DatasetError, match=r"must hold labels\.csv"):
        folder_dataset(tmp_path, "classification")
    (tmp_path / "labels.csv").write_text("case,pirads\np0,6\n")
    with pytest.raises(DatasetError, match="line 2: pirads must be 2, 3, 4 or 5, got '6'"):
        folder_dataset(tmp_path, "classification")
    (tmp_path / "labels.csv").write_text("case,pirads\np0,3\n")
    with pytest.raises(DatasetError, match="must have a row for case 'p1'"):
        folder_dataset(tmp_path, "classification")
    with pytest.raises(DatasetError, match="2 or more cases"):
        folder_dataset(tmp_path / "p0", "classification")


@pytest.mark.parametrize("text", ["\ufeffcase,pirads\np0,4\np1,2\n", "case , pirads\n p0 , 4\np1,2\n,\np1,2\n"])
def test_a_table_of_classes_may_come_from_a_spreadsheet(a_folder, tmp_path, text):
    shutil.copytree(a_folder, tmp_path / "cases")
    (tmp_path / "cases" / "labels.csv").write_text(text, encoding="utf-8")
    found = folder_dataset(tmp_path / "cases", "classification").cases
    expected = folder_dataset(a_folder, "classification").cases
    assert {n: c.category for n, c in found.items()} == {n: c.category for n, c in expected.items()}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"case;pirads\np0;4\n", "must have the columns case,pirads, separated by commas, but lacks case, pirads: its"),
        (b"id,pirads\np0,4\n", "but lacks case: its first line is 'id,pirads'"),
        (b"", "but lacks case, pirads"),
        (b"case,pirads\np0,4\np1,2\np0,2\n", "line 4: case 'p0' must have one pirads, but has another above"),
        ("case,pirads\nMüller,4\n".encode("latin-1"), r"labels.csv must be text \(UTF-8\), but is not"),
    ],
)
def test_a_table_of_classes_that_cannot_be_read_is_an_error(a_folder, tmp_path, table, message):
    shutil.copytree(a_folder, tmp_path / "cases")
    (tmp_path / "cases" / "labels.csv").write_bytes(table)
    with pytest.raises(DatasetError, match=message):
        folder_dataset(tmp_path / "cases", "classification")


def test_cases_beside_folders_of_splits_are_not_lost_without_a_word(a_folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(a_folder / "p0", tmp_path / split / f"of-{split}")
    assert len(folder_dataset(tmp_path, "anatomy-segmentation").cases) == 2
    shutil.copytree(a_folder / "p1", tmp_path / "p1")
    with pytest.raises(DatasetError, match="Cases beside train, val must lie within them, but p1 lies beside"):
        folder_dataset(tmp_path, "anatomy-segmentation")


def test_two_patients_of_equal_sizes_and_times_are_two(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t2w.nii").write_bytes(name.encode())
        os.utime(tmp_path / name / "t2w.nii", (0, 0))
    assert file_facts(tmp_path / "one") != file_facts(tmp_path / "two")
    assert file_facts(tmp_path / "one") == file_facts(tmp_path / "one")


def test_a_case_without_pi_rads_tells_by_its_lesions_whether_there_is_cancer(a_folder):
    study = read_labeled(a_folder / "p0", "classification")
    assert study.category is None
    assert study.is_significant == bool((a_phantom(0).lesion.array >= 2).any())


def test_masks_may_have_names_of_their_own(a_folder):
    with pytest.raises(DatasetError, match="mask lesion_nc"):
        read_labeled(a_folder / "p0", "lesion-segmentation", MaskNames(lesion="lesion_nc"))


@pytest.mark.parametrize(
    ("stem", "task", "largest"),
    [
        ("lesion", "lesion-segmentation", 5),
        ("lesion", "classification", 5),
        ("zones", "anatomy-segmentation", 2),
        ("zones", "adc-translation", 2),
    ],
)
def test_masks_of_unknown_values_are_refused(a_folder, tmp_path, stem, task, largest):
    path = tmp_path / "p0"
    shutil.copytree(a_folder / "p0", path)
    mask = read_mask(path / f"{stem}.nii.gz", stem)
    write_volume(mask.with_array(np.where(mask.array > 0, 255, 0).astype(np.uint8)), path / f"{stem}.nii.gz")
    expected = rf"Values of mask {stem} of case 'p0' must be 0 to {largest} .*, but are 0 to 255\. Correct them\."
    with pytest.raises(DatasetError, match=expected):
        read_labeled(path, task)


@pytest.mark.parametrize(
    ("stem", "task"),
    [
        ("lesion", "lesion-segmentation"),
        ("zones", "anatomy-segmentation"),
        ("outline", "anatomy-segmentation"),
        ("outline", "super-resolution"),
    ],
)
def test_a_mask_outside_of_the_images_is_refused(a_folder, tmp_path, stem, task):
    path = tmp_path / "p0"
    shutil.copytree(a_folder / "p0", path)
    names = MaskNames(gland=("outline",))
    (path / "gland.nii.gz").rename(path / "outline.nii.gz")
    mask = read_mask(path / f"{stem}.nii.gz", stem)
    assert mask.array.any()
    x, y, z = mask.geometry.origin_mm
    far = replace(mask, geometry=replace(mask.geometry, origin_mm=(x + 500.0, y, z)))
    write_volume(far, path / f"{stem}.nii.gz")
    with pytest.raises(
        DatasetError, match=f"Mask {stem} of case 'p0' must mark voxels of its images, but lies outside"
    ):
        read_labeled(path, task, names)
    write_volume(far.with_array(np.zeros_like(far.array)), path / f"{stem}.nii.gz")
    read_labeled(path, task, names)  # one that marks nothing lies nowhere


def several_exams(a_folder: Path, folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        shutil.copytree(a_folder / f"p{number % 2}", folder / name)
    return folder


def test_all_exams_of_a_patient_train_or_validate_together(a_folder, tmp_path):
    names = ("1001_a", "1001_b", "1002_c", "1003_d", "1003_e", "1003_f")
    folder = several_exams(a_folder, tmp_path, *names)
    drawn = set()
    for seed in range(12):
        split = folder_dataset(folder, "super-resolution", seed=seed, validation_share=0.3, lazy=True).split
        assert sorted((*split.train, *split.validation)) == list(names)
        assert {name[:4] for name in split.train}.isdisjoint(name[:4] for name in split.validation)
        assert split.train
        assert split.validation
        drawn.add(split.validation)
    assert len(drawn) > 1


def test_exams_of_one_patient_alone_cannot_validate(a_folder, tmp_path):
    with pytest.raises(DatasetError, match="all cases, as 1001_a, 1001_b, are one patient's"):
        folder_dataset(several_exams(a_folder, tmp_path, "1001_a", "1001_b"), "super-resolution", lazy=True)


def test_a_patient_whose_exams_train_and_test_is_refused(a_folder, tmp_path):
    several_exams(a_folder, tmp_path, "train/1001_a", "train/1002_b", "test/1001_c")
    with pytest.raises(DatasetError, match="but 1001_a, 1001_c, by their names one patient's, lie in train and test"):
        folder_dataset(tmp_path, "super-resolution", lazy=True)


def test_a_patient_may_stand_in_one_list_only():
    with pytest.raises(DatasetError, match="b stands more often"):
        Split(("a", "b"), (), ("b",))


def test_the_gland_is_one_wherever_its_file_is_not_zero(a_folder, tmp_path):
    path = tmp_path / "p0"
    shutil.copytree(a_folder / "p0", path)
    mask = read_mask(path / "gland.nii.gz", "gland")
    write_volume(mask.with_array(mask.array * 2), path / "gland.nii.gz")
    gland = read_labeled(path, "super-resolution").gland
    assert np.array_equal(gland.array, mask.array > 0)
    assert set(np.unique(gland.array)) == {0, 1}
