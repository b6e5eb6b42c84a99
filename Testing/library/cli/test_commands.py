"""Commands that work, run in this process: what they print and what they leave."""

import csv
import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from comparison_cases import a_case, image_pair, translation_pair
from dicom_series import DicomSeries
from images import a_t2w

from VFMTransferLib.cli import main
from VFMTransferLib.cli.predict import summary
from VFMTransferLib.cli.side_by_side import measure_lines, row_text
from VFMTransferLib.core.measurements import DiceEstimate
from VFMTransferLib.core.result import Lesion, Provenance, Result
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.evaluation.comparison import CohortRow, compare, compare_cohort, comparison_document
from VFMTransferLib.io import read_volume, write_volume
from VFMTransferLib.phantom import make_phantom, write_phantom
from VFMTransferLib.tasks import find_task


@pytest.fixture(autouse=True)
def _own_models(tiny_models, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tiny_models))


def answer(capsys, *words: object) -> dict:
    """What a command prints with `--json`, which must be all that it prints."""
    assert main([*map(str, words), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return json.loads(said.out)


def test_predict_prints_the_result_as_json(a_study, tmp_path, capsys):
    said = answer(capsys, "predict", a_study, "--bundle", "tiny-scratch", "-o", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert said["output"] == str(tmp_path / "out")
    assert said["volumes_ml"] == written["volumes_ml"]
    assert said["model"]["bundle"] == "tiny-scratch"


def test_predict_takes_files_instead_of_a_folder(a_study, tmp_path, capsys):
    words = ["predict", "--t2w", a_study / "t2w.nii.gz", "--bundle", "tiny-scratch", "-o", tmp_path / "out"]
    assert answer(capsys, *words)["task"] == "anatomy-segmentation"


def test_predict_shows_people_the_volumes_and_the_folder(a_study, tmp_path, capsys):
    assert main(["predict", str(a_study), "--bundle", "tiny-scratch", "-o", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("prostate: ") and line.endswith(" ml") for line in lines)
    assert lines[-1] == str(tmp_path / "out")


def test_compare_writes_one_report_and_both_results(a_study, tmp_path, capsys):
    pair = ["--bundle", "tiny-pretrained", "--bundle", "tiny-scratch"]
    said = answer(capsys, "compare", a_study, *pair, "-o", tmp_path / "out")
    assert (said["a"]["bundle"], said["b"]["bundle"]) == ("tiny-pretrained", "tiny-scratch")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a", "b", "comparison.csv", "comparison.json", "comparison.png", "report.html"}


def test_compare_of_several_cases_adds_a_cohort(a_study, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_CACHE", str(tmp_path / "cache"))
    other = shutil.copytree(a_study, tmp_path / "other")
    pair = ["--bundle", "tiny-pretrained", "--bundle", "tiny-scratch"]
    main(["predict", str(a_study), "--bundle", "tiny-scratch", "-o", str(tmp_path / "truth")])
    capsys.readouterr()
    truth = ["--reference", tmp_path / "truth" / "labels.nii.gz"] * 2
    said = answer(capsys, "compare", a_study, other, *pair, *truth, "-o", tmp_path / "out")
    assert said["cases"] == ["study", "other"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"study", "other", "cohort.csv", "cohort.json"}
    against_itself = [row for row in said["rows"] if row["measure"] == "dice" and "reference" in row["between"]]
    assert all(row["mean_b"] == 1 for row in against_itself)


def test_models_are_listed_and_shown(capsys):
    names = [bundle["name"] for bundle in answer(capsys, "models", "list")["bundles"]]
    assert {"tiny-pretrained", "tiny-scratch"} <= set(names)
    assert answer(capsys, "models", "show", "tiny-scratch")["arm"] == "scratch"


def test_a_bundle_is_imported_and_removed(tiny_models, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tmp_path))
    assert main(["models", "import", str(tiny_models / "tiny-scratch"), "--name", "mine"]) == 0
    capsys.readouterr()
    assert answer(capsys, "models", "show", "mine")["name"] == "mine"
    assert main(["models", "remove", "mine"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_came_with_the_product_is_not_changed(tiny_models, tmp_path, monkeypatch, capsys):
    shipped = tmp_path / "shipped"
    shutil.copytree(tiny_models, shipped)
    monkeypatch.setattr("VFMTransferLib.bundles.catalog._SHIPPED", (shipped,))
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tmp_path / "own"))
    before = {path: path.read_bytes() for path in shipped.rglob("*.*")}
    assert main(["models", "export-onnx", "tiny-scratch"]) == 1
    assert "models import" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in shipped.rglob("*.*")} == before
    assert main(["models", "import", str(shipped / "tiny-scratch"), "--name", "mine"]) == 0
    assert main(["models", "export-onnx", "mine"]) == 0


def test_phantoms_are_written_one_folder_each(tmp_path, capsys, monkeypatch):
    coarse = partial(make_phantom, t2w_spacing_mm=(1.5, 1.5, 3.0))
    monkeypatch.setattr("VFMTransferLib.phantom.phantom.make_phantom", coarse)
    said = answer(capsys, "phantom", "-n", "1", "--seed", "5", "-o", tmp_path / "phantoms")
    (folder,) = said["phantoms"]
    assert {"t2w.nii.gz", "hbv.nii.gz", "adc.nii.gz", "zones.nii.gz", "t2w-full-resolution.nii.gz"} <= {
        path.name for path in (tmp_path / "phantoms").glob("*/*")
    }
    assert folder.startswith(str(tmp_path / "phantoms"))


def test_doctor_says_what_runs_where(capsys):
    said = answer(capsys, "doctor")
    assert said["runtimes"]["onnx"]["devices"]["cpu"] == ""
    assert "tiny-scratch" in said["models"]["own"]


def test_a_row_of_a_cohort_says_each_arm_and_their_difference():
    pair = CohortRow("dice", "prostate", "a-reference minus b-reference", 9, 0, 0.9, 0.875, 0.025, 0.01, 0.04)
    assert row_text(pair) == (
        "Dice, prostate against the reference: A 0.900, B 0.875, A minus B 0.025 [0.010, 0.040] (cases: 9)"
    )


@pytest.fixture
def doubtful(monkeypatch) -> DiceEstimate:
    """An estimate that each outline of the prostate gets, which carries a warning."""
    low = DiceEstimate(0.5, 0.3, 0.7, 0.9, 0.83)

    def checked(self, result: Result, *_) -> Result:
        return replace(result, estimate=low)

    monkeypatch.setattr(type(find_task("anatomy-segmentation")), "checked", checked)
    monkeypatch.setattr("VFMTransferLib.evaluation.comparison.with_agreement", lambda a, b: (a, b))
    return low


TINY_PAIR = ("--bundle", "tiny-pretrained", "--bundle", "tiny-scratch")


def test_compare_warns_of_a_low_estimate_before_its_numbers_and_shows_its_notes(a_study, tmp_path, capsys, doubtful):
    assert main(["compare", str(a_study), *TINY_PAIR, "-o", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"WARNING, {who}: {doubtful.warning}" for who in "AB"]
    document = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert {note["text"] for note in document["notes"]} <= set(lines)


def test_compare_of_several_cases_warns_by_case(a_study, tmp_path, capsys, doubtful, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_CACHE", str(tmp_path / "cache"))
    other = shutil.copytree(a_study, tmp_path / "other")
    assert main(["compare", str(a_study), str(other), *TINY_PAIR, "-o", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [f"WARNING, {case}, {who}: {doubtful.warning}" for case in ("study", "other") for who in "AB"]


@pytest.mark.parametrize("is_withheld", [True, False])
def test_a_withheld_correction_is_a_warning(is_withheld):
    field_mm = np.full((2, 2, 2, 3), 0.0 if is_withheld else 1.0)
    source = Provenance("b", "B", "", "", "onnx", "cpu")
    lines = summary(Result("p001", "distortion-correction", source, displacement_mm=field_mm))
    assert any(line.startswith("WARNING: The correction was withheld") for line in lines) == is_withheld


@pytest.mark.parametrize(("moved_mm", "is_shown"), [((0, 0), False), ((0, 2), True)])
def test_where_both_corrections_are_withheld_compare_prints_no_agreement(moved_mm, is_shown):
    grid = a_case()["hbv"].geometry
    pair = image_pair("distortion-correction", "hbv-corrected", grid, 90.0)
    a, b = (
        replace(result, displacement_mm=np.full((*grid.shape, 3), moved, np.float32))
        for result, moved in zip(pair, moved_mm, strict=True)
    )
    comparison = compare(a_case(), a, b)
    assert any(", a-b: " in line for line in measure_lines(comparison)) == is_shown
    assert any(one["between"] == "a-b" for one in comparison_document(comparison)["measures"]) == is_shown


def test_withheld_corrections_are_left_out_of_the_mean_over_cases():
    grid = a_case()["hbv"].geometry
    moved, withheld = (
        [
            replace(one, displacement_mm=np.full((*grid.shape, 3), mm, np.float32))
            for one in image_pair("distortion-correction", "hbv-corrected", grid, 90.0)
        ]
        for mm in (2, 0)
    )
    others = replace(a_case(), id="case-2"), *(replace(one, case_id="case-2") for one in withheld)
    cohort = compare_cohort([compare(a_case(), *moved), compare(*others)])
    (mae,) = [row for row in cohort.rows if (row.measure, row.between) == ("mae", "a-b")]
    assert (mae.cases, mae.left_out) == (1, 1)
    assert mae.mean == compare(a_case(), *moved).value("mae", "hbv-corrected", "a-b") > 0


def test_a_mean_of_no_case_is_not_available():
    rows = compare_cohort([compare(a_case(), *translation_pair())]).rows
    row = next(row for row in rows if (row.measure, row.between) == ("ssim", "a-b"))
    assert row_text(replace(row, mean=math.nan, cases=0, left_out=1)).endswith("A with B: n/a (cases: 0, left out: 1)")


def test_predict_of_a_cohort_warns_by_case_and_network(a_study, tmp_path, capsys, doubtful, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_CACHE", str(tmp_path / "cache"))
    shutil.copytree(a_study, tmp_path / "cases" / "p001")
    words = ["--cohort", tmp_path / "cases", "--bundle", "tiny-scratch", "-o", tmp_path / "out"]
    assert main(["predict", *map(str, words)]) == 0
    assert f"WARNING, p001 tiny-scratch: {doubtful.warning}" in capsys.readouterr().out.splitlines()
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["warning"] for row in csv.DictReader(stream)] == [doubtful.warning]


def usage_error(capsys, *words: object) -> str:
    """What a command prints that leaves with wrong usage."""
    with pytest.raises(SystemExit) as left:
        main([*map(str, words)])
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["compare", "CASE", "tiny-scratch", "-o", "out"], "--bundle tiny-scratch"),
        (["predict", "tiny-scratch", "--bundle", "tiny-scratch", "-o", "out"], "name of a network"),
        (["predict", "CASE", "-o", "out"], "models list"),
        (["predict", "CASE", "--bundle", "b", "--psa", "0", "-o", "out"], "psa"),
        (["predict", "CASE", "--bundle", "b", "--threshold", "0,5", "-o", "out"], "threshold"),
        (["predict", "CASE", "--bundle", "b", "--workers", "2", "-o", "out"], "--cohort"),
        (["predict", "--cohort", "x", "--bundle", "b", "--psa", "6.5", "-o", "out"], "one case"),
        (["compare", "p001", "p002", "--psa", "6.5", "-o", "out"], "one case"),
    ],
)
def test_wrong_usage_names_the_option(words, key, a_study, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert key in usage_error(capsys, *(a_study if word == "CASE" else word for word in words))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def far_mask(a_study, tmp_path):
    image = read_volume(a_study / "t2w.nii.gz", "reference")
    far = replace(image.geometry, origin_mm=tuple(x + 500.0 for x in image.geometry.origin_mm))
    write_volume(Volume(np.ones(image.array.shape, np.uint8), far), tmp_path / "far.nii.gz")
    return tmp_path / "far.nii.gz"


def test_what_cannot_be_compared_is_refused_before_any_network_runs(a_study, far_mask, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("VFMTransferLib.inference.predict.CasePredictor.predict", lambda *_, **__: pytest.fail("ran"))
    damaged, same = shutil.copytree(a_study, tmp_path / "damaged"), shutil.copytree(a_study, tmp_path / "Study")
    (damaged / "t2w.nii.gz").write_bytes(b"damaged")
    inside, replaced = tmp_path / "inside" / "out", shutil.copytree(a_study, tmp_path / "replaced" / "p001")
    shutil.copytree(a_study, tmp_path / "inside", dirs_exist_ok=True)
    for words, key, out in (
        ([a_study, damaged], "'damaged'", tmp_path / "out"),
        ([a_study, same], "name of its own", tmp_path / "out"),
        ([a_study, "--reference", far_mask], "reference", tmp_path / "out"),
        ([tmp_path / "inside"], "inside", inside),
        ([replaced], "replaced", tmp_path / "replaced"),
    ):
        assert main(["compare", *map(str, words), *TINY_PAIR, "-o", str(out)]) == 1
        assert key in capsys.readouterr().err
        assert not (out / "report.html").exists()
    assert (replaced / "t2w.nii.gz").is_file()


def test_a_cohort_goes_on_after_a_damaged_case(a_study, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_CACHE", str(tmp_path / "cache"))
    for name in ("p001", "p002", "=p003"):
        shutil.copytree(a_study, tmp_path / "cases" / name)
    (tmp_path / "cases" / "p002" / "t2w.nii.gz").write_bytes(b"\x1f\x8b\x08" + bytes(300))
    words = ["--cohort", tmp_path / "cases", "--bundle", "tiny-scratch", "-o", tmp_path / "out"]
    assert main(["predict", *map(str, words)]) == 1
    assert "1 of 3 cases failed" in capsys.readouterr().err
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        rows = {row["case"].lstrip("'"): row["status"] for row in csv.DictReader(file)}
    assert rows == {"=p003": "done", "p001": "done", "p002": "failed"}


def test_names_of_files_and_series_enter_no_result_or_report(a_study, tmp_path):
    named, dicom = shutil.copytree(a_study, tmp_path / "p001"), tmp_path / "dicom"
    for role in ("t2w", "hbv", "adc"):
        (named / f"{role}.nii.gz").rename(named / f"PETERSEN_{role}.nii.gz")
    DicomSeries(a_t2w().array, "t2_tse_tra PETERSEN", 4).write(dicom)
    for case in (named, dicom):
        out = tmp_path / f"out-{case.name}"
        assert main(["compare", str(case), *TINY_PAIR, "-o", str(out)]) == 0
        for file in filter(Path.is_file, out.rglob("*")):
            assert b"PETERSEN" not in str(file.relative_to(out)).encode() + file.read_bytes()


def test_the_largest_lesions_are_printed_and_the_others_counted():
    lesions = tuple(Lesion(i, "csPCa", (0.0, 0.0, 0.0), 1 / i, 0.5) for i in range(1, 14))
    source = Provenance("b", "B", "", "", "onnx", "cpu")
    lines = summary(Result("p001", "lesion-segmentation", source, lesions=lesions))
    assert lines[0] == "lesion 1: csPCa, 1.00 ml, confidence 0.50"
    assert lines[9:] == [
        "lesion 10: csPCa, 0.10 ml, confidence 0.50",
        "and 3 smaller lesions, listed in result.json",
    ]


def test_dicom_of_image_files_is_refused_before_the_work(tmp_path, capsys):
    pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'vfm-transfer[dicom]'.")
    phantom = make_phantom(3, sequences=["t2w"], t2w_spacing_mm=(1.0, 1.0, 3.0))
    write_phantom(phantom, tmp_path / "case")
    command = ["predict", str(tmp_path / "case"), "--bundle", "profound-prostate-demo-pretrained", "--dicom"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    assert "DICOM exam" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_quality_is_listed_criterion_by_criterion(tmp_path, capsys):
    phantom = make_phantom(3, t2w_spacing_mm=(1.0, 1.0, 3.0))
    write_phantom(phantom, tmp_path / "case")
    assert main(["quality", str(tmp_path / "case")]) == 0
    shown = capsys.readouterr().out
    assert "met: T2w, field of view: 192 mm (120 to 200 mm; PI-RADS v2.1" in shown
    assert "not known: Diffusion, highest b value: not known" in shown
    assert "not for clinical decisions" in shown
    assert main(["quality", str(tmp_path / "case"), "--json"]) == 0
    criteria = {found["name"]: found for found in json.loads(capsys.readouterr().out)["quality"]}
    assert criteria["t2w-covers-gland"]["value"] is not None  # a phantom comes with its gland
    assert criteria["t2w-field-of-view"]["value"] == pytest.approx(192)


def test_quality_states_what_is_odd_about_the_images_and_the_mask(tmp_path, capsys):
    phantom = make_phantom(3, t2w_spacing_mm=(1.0, 1.0, 3.0))
    array = phantom.case[Sequence.T2W].array.copy()
    array[3] = array[5]
    shifted = np.roll(phantom.gland.array, 60, axis=2)
    case = replace(
        phantom.case, volumes={**phantom.case.volumes, Sequence.T2W: replace(phantom.case[Sequence.T2W], array=array)}
    )
    write_phantom(replace(phantom, case=case), tmp_path / "case")
    write_volume(phantom.gland.with_array(shifted), tmp_path / "beside.nii.gz")
    words = ["quality", str(tmp_path / "case"), "--gland", str(tmp_path / "beside.nii.gz")]
    assert main(words) == 0
    first, *others, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("WARNING: the middle of the prostate's mask lies")
    repeated = "t2w has slices that repeat another one"
    assert others[-1].startswith(repeated)
    assert main([*words, "--json"]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any(note["severity"] == "warning" for note in notes)
    assert any(note["text"].startswith(repeated) for note in notes)
