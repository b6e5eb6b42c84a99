"""Where study cases come from: phantoms made on the spot, or folders with masks and tables."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from study_examples import SPACING_MM, a_phantom, write_case

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.io import read_mask, write_volume
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.tasks.super_resolution.task import SUPER_RESOLVED
from VFMTransferLib.training.cases import (
    Split,
    file_facts,
    folder_cases,
    folder_dataset,
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


@pytest.mark.parametrize("read", [folder_cases, partial(folder_cases, lesions=True)])
def test_pretraining_shows_no_case_that_validates_or_tests(tmp_path, read):
    for place in ("Train/p0", "val/p1", "test/p2"):
        (tmp_path / "split" / place).mkdir(parents=True)
        (tmp_path / "flat" / Path(place).name).mkdir(parents=True)
    assert [case.id for case in read(tmp_path / "split")] == ["p0"]
    assert [case.id for case in read(tmp_path / "flat")] == ["p0", "p1", "p2"]
    (tmp_path / "split" / "Train" / "p0").rmdir()
    with pytest.raises(DatasetError, match="no cases in 'train'"):
        read(tmp_path / "split")


def test_what_lacks_is_named(a_folder, tmp_path):
    for seed in range(2):
        write_case(tmp_path / f"p{seed}", seed)
    for folder, task, gland, word in (
        (a_folder, "anatomy-segmentation", "gland_other", "gland_other"),
        (tmp_path, "lesion-segmentation", "gland", "lesion"),
        (tmp_path, "classification", "gland", r"labels\.csv"),
        (tmp_path / "p0", "classification", "gland", "2 or more"),
    ):
        with pytest.raises(DatasetError, match=word):
            folder_dataset(folder, task, gland=gland)


@pytest.mark.parametrize("text", ["\ufeffcase,pirads\np0,4\np1,2\n", "case , pirads\n p0 , 4\np1,2\n,\np1,2\n"])
def test_a_table_of_classes_may_come_from_a_spreadsheet(a_folder, tmp_path, text):
    shutil.copytree(a_folder, tmp_path / "cases")
    (tmp_path / "cases" / "labels.csv").write_text(text, encoding="utf-8")
    found = folder_dataset(tmp_path / "cases", "classification").cases
    assert {name: case.category for name, case in found.items()} == {"p0": "PI-RADS 4", "p1": "PI-RADS 2"}


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("case;pirads\np0;4\n", "columns"),
        ("", "columns"),
        ("case,pirads\np0,6\n", "line 2"),
        ("case,pirads\np0,4\np1,2\np0,2\n", "line 4"),
        ("case,pirads\np0,4\n", "no row for case 'p1'"),
    ],
)
def test_a_table_of_classes_that_cannot_be_read_is_an_error(a_folder, tmp_path, table, word):
    shutil.copytree(a_folder, tmp_path / "cases")
    (tmp_path / "cases" / "labels.csv").write_text(table)
    with pytest.raises(DatasetError, match=word):
        folder_dataset(tmp_path / "cases", "classification")


def test_cases_next_to_folders_of_splits_are_refused(a_folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(a_folder / "p0", tmp_path / split / f"of-{split}")
    assert len(folder_dataset(tmp_path, "anatomy-segmentation").cases) == 2
    shutil.copytree(a_folder / "p1", tmp_path / "p1")
    with pytest.raises(DatasetError, match="p1"):
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


@pytest.mark.parametrize("stem", ["lesion", "zones"])
def test_masks_of_unknown_values_or_outside_of_the_images_are_refused(a_folder, tmp_path, stem):
    task, path = {"lesion": "lesion-segmentation", "zones": "anatomy-segmentation"}[stem], tmp_path / "p0"
    shutil.copytree(a_folder / "p0", path)
    mask = read_mask(path / f"{stem}.nii.gz", stem)
    x, y, z = mask.geometry.origin_mm
    far = replace(mask, geometry=replace(mask.geometry, origin_mm=(x + 500.0, y, z)))
    for wrong, word in ((mask.with_array(np.where(mask.array > 0, 255, 0).astype(np.uint8)), "255"), (far, "outside")):
        write_volume(wrong, path / f"{stem}.nii.gz")
        with pytest.raises(DatasetError, match=word):
            read_labeled(path, task)
    write_volume(far.with_array(np.zeros_like(far.array)), path / f"{stem}.nii.gz")
    read_labeled(path, task)  # one that marks nothing lies nowhere


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


def test_exams_of_one_patient_are_in_one_part_of_a_split(a_folder, tmp_path):
    alone = several_exams(a_folder, tmp_path / "alone", "1001_a", "1001_b")
    apart = several_exams(a_folder, tmp_path / "apart", "train/1001_a", "train/1002_b", "test/1001_c")
    for folder in (alone, apart):
        with pytest.raises(DatasetError, match="one patient"):
            folder_dataset(folder, "super-resolution", lazy=True)
    with pytest.raises(DatasetError, match="more than once"):
        Split(("a", "b"), (), ("b",))


def test_a_lazy_case_is_another_where_its_files_have_changed(a_folder, tmp_path):
    shutil.copytree(a_folder, tmp_path / "cases")
    before = folder_dataset(tmp_path / "cases", "anatomy-segmentation", lazy=True)
    shutil.rmtree(tmp_path / "cases" / "p1")
    write_case(tmp_path / "cases" / "p1", 7, "gland")
    after = folder_dataset(tmp_path / "cases", "anatomy-segmentation", lazy=True)
    assert {name for name in before.cases if before.lazy(name).identity != after.lazy(name).identity} == {"p1"}


def test_the_gland_is_one_wherever_its_file_is_not_zero(a_folder, tmp_path):
    path = tmp_path / "p0"
    shutil.copytree(a_folder / "p0", path)
    mask = read_mask(path / "gland.nii.gz", "gland")
    write_volume(mask.with_array(mask.array * 2), path / "gland.nii.gz")
    gland = read_labeled(path, "super-resolution").gland
    assert np.array_equal(gland.array, mask.array > 0)
    assert set(np.unique(gland.array)) == {0, 1}
