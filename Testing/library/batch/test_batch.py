"""A folder of cases through networks: what is left, what is skipped, tried again, and gone on with after a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import a_t2w, an_adc, an_hbv
from networks import SMALL_SPECS

from VFMTransferLib.batch import cases as batch_case
from VFMTransferLib.batch.batch import BatchProgress, plan_cases, require_all_done, run_batch
from VFMTransferLib.batch.cases import without_names, write_summary
from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.bundles.catalog import default_pair, find_bundle
from VFMTransferLib.bundles.metadata import WEIGHTS
from VFMTransferLib.cli import main
from VFMTransferLib.cli.side_by_side import run_side_by_side
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import BatchError, BundleError, DatasetError, OutOfMemoryError, OutputError
from VFMTransferLib.core.measurements import Acquisition
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.evaluation.comparison import comparison_document
from VFMTransferLib.evaluation.outputs import GLAND
from VFMTransferLib.inference.predict import CasePredictor
from VFMTransferLib.inference.runtimes import LoadedNetworks
from VFMTransferLib.io import read_case, write_volume
from VFMTransferLib.io.results import save_result
from VFMTransferLib.phantom import make_phantom, write_phantom

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 60


def make_case(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    for volume in (a_t2w(seed), an_hbv(seed + 10), an_adc(seed + 20)):
        write_volume(volume, folder / f"{volume.name}.nii.gz")
    return folder


@pytest.fixture
def cohort(tmp_path) -> Path:
    """Three cases, one of which has no T2w."""
    folder = tmp_path / "Fälle und mehr"
    for seed, name in enumerate(("p001", "p002", "p003")):
        make_case(folder / name, seed)
    (folder / "p002" / "t2w.nii.gz").unlink()
    (folder / ".hidden").mkdir()
    return folder


@pytest.fixture
def good_cohort(cohort) -> Path:
    shutil.rmtree(cohort / "p002")
    return cohort


@pytest.fixture
def pair(tiny_models) -> list[Path]:
    return [tiny_models / "tiny-pretrained", tiny_models / "tiny-scratch"]


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def written_s(output: Path) -> dict[str, float]:
    """Result that is in its place → when it was written; a folder that is being written is not opened."""
    whole = (f for f in sorted(output.glob("*/*/result.json")) if not f.parent.name.endswith(".part"))
    return {str(f.relative_to(output)): f.stat().st_mtime_ns for f in whole}


def outcomes(cohort: Path, output: Path, bundles, **options) -> list[tuple[str, str]]:
    told = []
    run_batch(cohort, output, bundles, options=Options(**options), on_case=told.append)
    return [(report.name, report.outcome) for report in told]


def test_images_are_compared_in_the_gland_that_the_shipped_network_marks(tmp_path):
    case = write_phantom(make_phantom(3, t2w_spacing_mm=(1.5, 1.5, 5.0)), tmp_path / "cohort" / "p001")
    for mask in ("gland", "zones", "lesion"):
        (case / f"{mask}.nii.gz").unlink()
    pair = default_pair("adc-translation")
    run_batch(case.parent, tmp_path / "batch", pair)
    measured = json.loads((tmp_path / "batch" / "p001" / "comparison.json").read_text(encoding="utf-8"))["measures"]
    assert f"adc-synthetic, {GLAND}" in {found["subject"] for found in measured}
    (tmp_path / "alone").mkdir()
    alone, _ = run_side_by_side(read_case(case), pair, tmp_path / "alone")
    assert measured == comparison_document(alone)["measures"]


def test_each_case_and_bundle_leaves_its_results_and_a_row(cohort, pair, tmp_path):
    told = []
    rows = run_batch(cohort, tmp_path / "out", pair, on_case=told.append)
    assert [(r.name, r.case, r.cases, r.outcome) for r in told] == [
        ("p001", 0, 3, "done"),
        ("p002", 1, 3, "failed"),
        ("p003", 2, 3, "done"),
    ]
    assert "must contain t2w, but lacks t2w" in told[1].message
    assert sorted(p.name for p in (tmp_path / "out" / "p003").iterdir()) == [
        "comparison.csv",
        "comparison.json",
        "tiny-pretrained",
        "tiny-scratch",
    ]
    table = rows_of(tmp_path / "out")
    assert [(r["case"], r["bundle"], r["status"]) for r in table] == [(r.case, r.bundle, r.status) for r in rows]
    assert [(r["case"], r["arm"], r["status"]) for r in table[:3]] == [
        ("p001", "pretrained", "done"),
        ("p001", "scratch", "done"),
        ("p002", "pretrained", "failed"),
    ]
    assert table[2]["message"] == told[1].message
    assert table[0]["sha256"] == find_bundle(pair[0]).weights_sha256[:12]


def test_the_numbers_of_a_row_are_those_of_the_files(good_cohort, pair, tmp_path):
    run_batch(good_cohort, tmp_path / "out", pair)
    row = rows_of(tmp_path / "out")[1]
    result = json.loads((tmp_path / "out" / "p001" / "tiny-scratch" / "result.json").read_text(encoding="utf-8"))
    assert float(row["volume_ml prostate"]) == pytest.approx(result["volumes_ml"]["prostate"], abs=1e-6)
    assert float(row["seconds"]) == pytest.approx(sum(result["seconds"].values()), abs=0.01)
    comparison = json.loads((tmp_path / "out" / "p001" / "comparison.json").read_text(encoding="utf-8"))
    dice = {m["subject"]: m["value"] for m in comparison["measures"] if (m["measure"], m["between"]) == ("dice", "a-b")}
    assert dice
    for subject, value in dice.items():
        assert float(row[f"a-b dice {subject}"]) == pytest.approx(value)


def test_a_row_states_that_a_case_of_its_name_trained_the_network(good_cohort, tiny_models, tmp_path):
    trained = tmp_path / "tiny-scratch"
    shutil.copytree(tiny_models / "tiny-scratch", trained)
    metadata = trained / "configs" / "metadata.json"
    document = json.loads(metadata.read_text(encoding="utf-8"))
    document["vfm_transfer"]["training"] = {"config": {"split": {"train": ["p003"]}}}
    metadata.write_text(json.dumps(document), encoding="utf-8")
    run_batch(good_cohort, tmp_path / "out", [trained])
    assert [(row["case"], row["trained_on"]) for row in rows_of(tmp_path / "out")] == [("p001", ""), ("p003", "yes")]


def test_what_is_done_is_skipped_and_what_failed_is_tried_again(cohort, pair, tmp_path):
    run_batch(cohort, tmp_path / "out", pair)
    before = written_s(tmp_path / "out")
    assert outcomes(cohort, tmp_path / "out", pair) == [("p001", "skipped"), ("p002", "failed"), ("p003", "skipped")]
    write_volume(a_t2w(1), cohort / "p002" / "t2w.nii.gz")
    assert outcomes(cohort, tmp_path / "out", pair) == [("p001", "skipped"), ("p002", "done"), ("p003", "skipped")]
    assert before.items() < written_s(tmp_path / "out").items()


def test_other_options_weights_images_or_missing_files_are_done_anew(good_cohort, tiny_models, tmp_path):
    out, bundles = tmp_path / "out", [tiny_models / "tiny-scratch"]
    run_batch(good_cohort, out, bundles)
    again = [("p001", "done"), ("p003", "done")]
    assert outcomes(good_cohort, out, bundles, threshold=0.4) == again
    assert outcomes(good_cohort, out, bundles, threshold=0.4, device="cpu") == [
        ("p001", "skipped"),
        ("p003", "skipped"),
    ]
    (out / "p001" / "tiny-scratch" / "labels.nii.gz").unlink()
    assert outcomes(good_cohort, out, bundles, threshold=0.4) == [("p001", "done"), ("p003", "skipped")]
    later = time.time() + 5
    os.utime(good_cohort / "p003" / "t2w.nii.gz", (later, later))
    assert outcomes(good_cohort, out, bundles, threshold=0.4) == [("p001", "skipped"), ("p003", "done")]
    other = tmp_path / "tiny-scratch"
    shutil.copytree(tiny_models / "tiny-pretrained", other)
    metadata = other / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("tiny-pretrained", "tiny-scratch"), "utf-8")
    assert ("p001", "done") in outcomes(good_cohort, out, [other], threshold=0.4)


@pytest.mark.parametrize("is_withheld", [True, False])
def test_a_withheld_correction_is_a_warning_of_its_row(tmp_path, is_withheld):
    bundle = default_pair("distortion-correction")[0]
    (tmp_path / "p001").mkdir()
    case = batch_case.BatchCase(tmp_path / "p001", tmp_path / "out" / "p001", (bundle,), Options())
    how = {"precision": "fp32", "caveats": bundle.caveat_notes, "options": case.options.recorded}
    source = Provenance(bundle.name, bundle.title, "", bundle.weights_sha256, "onnx", "cpu", **how)
    field_mm = np.full((*an_hbv().geometry.shape, 3), 0.0 if is_withheld else 1.0, np.float32)
    images = {"hbv-corrected": an_hbv(), "adc-corrected": an_adc()}
    result = Result(
        "p001", str(bundle.spec.task), source, images=images, displacement_mm=field_mm, case_sha256=case.sha256
    )
    save_result(result, case.folder / bundle.name)
    (row,) = case.rows()
    assert row.values.get("warning", "").startswith("The correction was withheld" if is_withheld else "")
    assert bool(row.values.get("warning")) == is_withheld


@pytest.fixture
def keeps(tmp_path):
    """Whether the plain command keeps a result of a bundle, of other options, precision, notes, caveats."""

    def keeps(bundle: Bundle, options: Options, **about) -> bool:
        case = batch_case.BatchCase(tmp_path / "p001", tmp_path / "out" / "p001", (bundle,), Options())
        how = {"precision": "fp32", "caveats": bundle.caveat_notes, **about}
        source = Provenance(
            bundle.name, bundle.title, "", bundle.weights_sha256, "onnx", "cpu", options=options.recorded, **how
        )
        result = Result("p001", str(bundle.spec.task), source, case_sha256=case.sha256)
        save_result(result, case.folder / bundle.name)
        return not case.missing

    (tmp_path / "p001").mkdir()
    return keeps


def a_network(name: str, **about) -> Bundle:
    return Bundle(Path(name), name, name, "1.0.0", SMALL_SPECS[name], sha256={WEIGHTS: "0" * 64}, **about)


CORRECTION, LESIONS = "provicnet-restoration-distortion-correction", "provicnet-fusion"
ANTERIOR_POSTERIOR = Options(phase_axis="anterior-posterior")


def test_a_result_of_a_chosen_phase_axis_is_none_of_the_default(keeps):
    about = {Sequence.HBV: Acquisition(phase_axis="anterior-posterior")}
    found = CasePredictor(Case("p001", {Sequence.HBV: an_hbv()}, acquisitions=about))
    assert not keeps(a_network(CORRECTION), ANTERIOR_POSTERIOR)
    assert keeps(a_network(CORRECTION), found.options, notes=(found._phase_note,))
    assert keeps(a_network(CORRECTION), Options(phase_axis="left-right"))
    assert keeps(a_network(LESIONS), ANTERIOR_POSTERIOR)  # on which it does not depend


def test_a_result_of_another_precision_is_none_of_the_default(keeps):
    assert keeps(a_network(LESIONS), Options(phase_axis="left-right"))
    assert not keeps(a_network(LESIONS), Options(phase_axis="left-right"), precision="fp16")


def swap(a: Path, b: Path) -> None:
    aside = a.with_name("aside")
    a.rename(aside), b.rename(a), aside.rename(b)


def test_cases_that_change_their_names_are_done_anew(good_cohort, tiny_models, tmp_path):
    out, bundles = tmp_path / "out", [tiny_models / "tiny-scratch"]
    run_batch(good_cohort, out, bundles)
    swap(good_cohort / "p001", good_cohort / "p003")
    assert outcomes(good_cohort, out, bundles) == [("p001", "done"), ("p003", "done")]
    assert outcomes(good_cohort, out, bundles) == [("p001", "skipped"), ("p003", "skipped")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"options": [1]},
        {"options": {"phase_axis": []}},
        {"model": "tiny-scratch"},
        {"files": [["labels.nii.gz"]]},
        {"files": ["../summary.csv"]},
        {"seconds": {"infer": "long"}},
        {"lesions": 1},
    ],
    ids=str,
)
def test_an_earlier_result_that_cannot_be_one_fails_its_case_alone(good_cohort, tiny_models, tmp_path, wrong):
    out, bundles = tmp_path / "out", [tiny_models / "tiny-scratch"]
    run_batch(good_cohort, out, bundles)
    path = out / "p001" / "tiny-scratch" / "result.json"
    changed = json.dumps({**json.loads(path.read_text(encoding="utf-8")), **wrong})
    path.write_text(changed, encoding="utf-8")
    assert [case.is_done for case in plan_cases(good_cohort, out, bundles, None, Options())] == [False, True]
    rows = run_batch(good_cohort, out, bundles)
    assert [row.status for row in rows] == ["failed", "done"]
    assert "must be a new folder or an earlier output, but is neither" in rows[0].message
    assert path.read_text(encoding="utf-8") == changed


def test_a_second_bundle_leaves_the_first_ones_results_and_is_compared(good_cohort, pair, tmp_path):
    run_batch(good_cohort, tmp_path / "out", pair[:1])
    before = written_s(tmp_path / "out")
    assert not (tmp_path / "out" / "p001" / "comparison.json").exists()
    run_batch(good_cohort, tmp_path / "out", pair)
    assert before.items() < written_s(tmp_path / "out").items()
    assert (tmp_path / "out" / "p001" / "comparison.json").is_file()


def test_a_comparison_is_of_the_two_networks_of_its_rows_and_stays_while_others_run(good_cohort, pair, tmp_path):
    third, out = tmp_path / "tiny-third", tmp_path / "out"
    shutil.copytree(pair[1], third)
    metadata = third / "configs" / "metadata.json"
    document = json.loads(metadata.read_text(encoding="utf-8"))
    document["vfm_transfer"]["name"] = "tiny-third"
    metadata.write_text(json.dumps(document), encoding="utf-8")
    column, comparison = "a-b dice prostate", out / "p001" / "comparison.json"
    first = run_batch(good_cohort, out, pair)[0].values[column]
    kept = comparison.read_bytes()
    alone = run_batch(good_cohort, out, [third])
    assert comparison.read_bytes() == kept
    assert column not in alone[0].values
    assert outcomes(good_cohort, out, pair) == [("p001", "skipped"), ("p003", "skipped")]
    run_batch(good_cohort, out, [pair[1], third])  # the same weights
    comparing = json.loads(comparison.read_text(encoding="utf-8"))
    assert [comparing[side]["bundle"] for side in "ab"] == ["tiny-scratch", "tiny-third"]
    again = run_batch(good_cohort, out, pair)
    assert {row.values[column] for row in again if row.case == "p001"} == {first}
    assert [json.loads(comparison.read_text(encoding="utf-8"))[side]["bundle"] for side in "ab"] == [
        "tiny-pretrained",
        "tiny-scratch",
    ]


def test_the_summary_keeps_the_rows_of_other_networks(cohort, pair, tmp_path):
    out = tmp_path / "out"
    run_batch(cohort, out, pair[:1])
    first = {row["case"]: row for row in rows_of(out)}
    rows = run_batch(cohort, out, pair[1:])
    assert [row.bundle for row in rows] == ["tiny-scratch"] * 3
    found = rows_of(out)
    assert [(row["case"], row["bundle"], row["status"]) for row in found] == [
        (case, bundle, "failed" if case == "p002" else "done")
        for case in ("p001", "p002", "p003")
        for bundle in ("tiny-scratch", "tiny-pretrained")
    ]
    assert found[1]["volume_ml prostate"] == first["p001"]["volume_ml prostate"]
    assert found[3]["message"] == first["p002"]["message"]


def test_a_negative_number_stays_one_when_its_row_is_kept(tmp_path):
    column, out = "a-b volume_difference_ml prostate", tmp_path / "out"
    (out / "p001" / "=net").mkdir(parents=True)
    (out / "p001" / "=net" / "result.json").touch()
    row = batch_case.Row("p001", "=net", "", "", "task", "done", values={column: -1.5})
    write_summary({"p001": [row]}, out)
    for bundle in ("second", "third"):
        write_summary({"p001": [replace(row, bundle=bundle, values={})]}, out)
        assert [found[column] for found in rows_of(out) if found["bundle"] == "'=net"] == ["-1.5"]
    table = out / "summary.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("-1.5", "'-1.5"), encoding="utf-8")  # as it was before
    write_summary({"p001": [replace(row, bundle="second", values={})]}, out)
    assert [found[column] for found in rows_of(out) if found["bundle"] == "'=net"] == ["-1.5"]


def test_rows_of_cases_that_were_moved_away_stay_with_their_results(good_cohort, pair, tmp_path):
    out = tmp_path / "out"
    make_case(good_cohort / "p004", 4)
    run_batch(good_cohort, out, pair[:1])
    first = {row["case"]: row for row in rows_of(out)}
    (tmp_path / "elsewhere").mkdir()
    (good_cohort / "p001").rename(tmp_path / "elsewhere" / "p001")
    (good_cohort / "p004").rename(tmp_path / "elsewhere" / "p004")
    shutil.rmtree(out / "p004")
    assert [row.case for row in run_batch(good_cohort, out, pair[:1])] == ["p003"]
    assert [row["case"] for row in rows_of(out)] == ["p003", "p001"]
    assert rows_of(out)[1] == first["p001"]


def test_a_table_of_something_else_is_no_earlier_batch(good_cohort, pair, tmp_path):
    out = tmp_path / "study"
    out.mkdir()
    (out / "summary.csv").write_text("my,study\n1,2\n", encoding="utf-8")
    with pytest.raises(OutputError, match="must be a new folder or that of an earlier batch"):
        run_batch(good_cohort, out, pair)
    assert (out / "summary.csv").read_text(encoding="utf-8") == "my,study\n1,2\n"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
def test_a_link_that_leads_nowhere_is_a_case_that_fails(good_cohort, pair, tmp_path):
    out, disk = tmp_path / "out", tmp_path / "disk"
    (good_cohort / "p003").rename(disk)
    (good_cohort / "p003").symlink_to(disk)
    run_batch(good_cohort, out, pair)
    disk.rename(tmp_path / "unmounted")
    (good_cohort / "p004").symlink_to("p004")
    rows = run_batch(good_cohort, out, pair[:1])
    assert [(row.case, row.status) for row in rows] == [("p001", "done"), ("p003", "failed"), ("p004", "failed")]
    assert "Case 'p003' must be a folder or an image file, but there is none" in rows[1].message
    (tmp_path / "unmounted").rename(disk)
    (good_cohort / "p004").unlink()
    assert outcomes(good_cohort, out, pair) == [("p001", "skipped"), ("p003", "skipped")]


def test_an_image_that_no_network_needs_stops_no_case(good_cohort, pair, tmp_path):
    (good_cohort / "p001" / "adc.nii.gz").write_bytes(b"no image")
    (good_cohort / "p003" / "adc.nii.gz").rename(good_cohort / "p003" / "a_adc.nii.gz")
    write_volume(an_adc(5), good_cohort / "p003" / "b_adc.nii.gz")
    rows = run_batch(good_cohort, tmp_path / "out", pair[:1])
    assert [row.status for row in rows] == ["done", "done"]
    result = json.loads((tmp_path / "out" / "p001" / pair[0].name / "result.json").read_text(encoding="utf-8"))
    assert "Left out, since it could not be read whole and is not needed: adc." in [
        note["text"] for note in result["notes"]
    ]


def test_a_sentence_shows_no_description_of_a_series_whatever_quotes_it_holds(tmp_path):
    text = "these: series 4 't2 O'BRIEN MARY a' (7 images), series 5 't2 'O'BRIEN' MARY b' (7 images, such as x)."
    assert without_names(text, tmp_path) == "these: series 4 (7 images), series 5 (7 images, such as x)."


def test_a_sentence_keeps_names_that_are_roles_alone(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("t2w.nii.gz", "ADC.nrrd", "MARY_t2w.nii.gz"):
        (tmp_path / "deep" / name).touch()
    text = "by name (t2w.nii.gz, *_hbv.mha, ADC.nrrd), not MARY_t2w.nii.gz."
    assert without_names(text, tmp_path) == "by name (t2w.nii.gz, *_hbv.mha, ADC.nrrd), not *.nii.gz."


def test_a_case_that_breaks_in_any_way_stops_no_other(good_cohort, pair, tmp_path, monkeypatch):
    def odd(case, *options):
        if case.id == "p001":
            raise ZeroDivisionError("by accident")
        return real(case, *options)

    real = batch_case.CasePredictor
    monkeypatch.setattr(batch_case, "CasePredictor", odd)
    rows = run_batch(good_cohort, tmp_path / "out", pair)
    assert [row.status for row in rows] == ["failed", "failed", "done", "done"]
    assert "ZeroDivisionError: by accident" in rows[0].message
    with pytest.raises(BatchError, match=r"^1 of 2 cases failed; summary\.csv holds the reasons\."):
        require_all_done(rows)


def test_one_arm_that_fails_keeps_the_other(good_cohort, pair, tmp_path, monkeypatch):
    def save(result, folder):
        if result.provenance.bundle == "tiny-pretrained":
            raise OutputError("No room.")
        return real(result, folder)

    real = batch_case.save_result
    monkeypatch.setattr(batch_case, "save_result", save)
    rows = run_batch(good_cohort, tmp_path / "out", pair)
    assert [(row.status, row.message) for row in rows] == [("failed", "No room."), ("done", "")] * 2


def test_memory_that_ran_out_lets_networks_go_and_the_next_case_runs(good_cohort, pair, tmp_path, monkeypatch):
    networks = LoadedNetworks(10**12)
    loads = []

    def read(needed, folder):
        if folder.name == "p001":
            raise MemoryError
        loads.append(networks.names)
        return real(needed, folder)

    real = batch_case.read_case_for
    monkeypatch.setattr(batch_case, "read_case_for", read)
    rows = run_batch(good_cohort, tmp_path / "out", pair, networks=networks)
    assert [row.status for row in rows] == ["failed", "failed", "done", "done"]
    assert rows[0].message.startswith("The memory must hold")
    assert loads == [()]
    assert OutOfMemoryError.__name__ not in rows[0].message


def test_progress_names_the_arm_and_what_it_raises_stops_the_batch(good_cohort, pair, tmp_path):
    told: list[BatchProgress] = []

    def stop(at: BatchProgress) -> None:
        told.append(at)
        if (at.case, at.arm, at.stage) == (1, 1, "infer"):
            raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match="enough"):
        run_batch(good_cohort, tmp_path / "out", pair, stop)
    assert {(at.case, at.arm, at.bundle) for at in told} >= {(0, 0, "tiny-pretrained"), (1, 1, "tiny-scratch")}
    assert {at.cases for at in told} == {2}
    assert [r["status"] for r in rows_of(tmp_path / "out")] == ["done", "done", "waiting", "waiting"]
    assert outcomes(good_cohort, tmp_path / "out", pair) == [("p001", "skipped"), ("p003", "done")]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix's")
def test_a_batch_that_was_killed_goes_on(good_cohort, pair, tmp_path):
    for seed in (5, 6, 7):
        make_case(good_cohort / f"p00{seed}", seed)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "VFMTransferLib", "predict", "--cohort", str(good_cohort), "-o", str(out)]
    for bundle in pair:
        command += ["--bundle", str(bundle)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + WAIT_S
    while not any(name.startswith("p003") for name in written_s(out)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (out / "p005").mkdir(exist_ok=True)
    left = out / "p005" / ".tiny-scratch.00000000-1-0123abcd.part"  # as a kill in the middle of writing leaves it
    left.mkdir()
    os.utime(left, (0, 0))
    before = written_s(out)
    assert outcomes(good_cohort, out, pair)[0] == ("p001", "skipped")
    assert before.items() <= written_s(out).items()
    assert {(r["status"]) for r in rows_of(out)} == {"done"}
    assert len(rows_of(out)) == 10
    assert list(out.rglob("*.part")) == []


def test_what_cannot_be_a_batch_is_refused_at_once(good_cohort, pair, tmp_path):
    with pytest.raises(DatasetError, match="must hold a folder for each case, but holds none"):
        run_batch(good_cohort / "p001", tmp_path / "out", pair)
    with pytest.raises(DatasetError, match="'gone' must be a folder of cases"):
        run_batch(tmp_path / "gone", tmp_path / "out", pair)
    with pytest.raises(DatasetError, match="must lie outside the folder of cases"):
        run_batch(good_cohort, good_cohort / "out", pair)
    with pytest.raises(BundleError, match="different names, got tiny-scratch, tiny-scratch"):
        run_batch(good_cohort, tmp_path / "out", [pair[1], pair[1]])
    with pytest.raises(BundleError, match="must be for task classification"):
        run_batch(good_cohort, tmp_path / "out", pair, task="classification")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="'mine' must be a new folder or that of an earlier batch"):
        run_batch(good_cohort, tmp_path / "mine", pair)


def test_a_network_that_cannot_be_loaded_stops_the_batch_at_once(good_cohort, tiny_models, tmp_path):
    broken = tmp_path / "tiny-scratch"
    shutil.copytree(tiny_models / "tiny-scratch", broken)
    (broken / "models" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(BundleError):
        run_batch(good_cohort, tmp_path / "out", [broken])


def test_the_command_line_tells_of_each_case_and_fails_where_one_did(cohort, pair, tmp_path, capsys):
    names = [option for bundle in pair for option in ("--bundle", str(bundle))]
    command = ["predict", "--cohort", str(cohort), *names, "-o", str(tmp_path / "out")]
    assert main(command) == 1
    shown = capsys.readouterr()
    assert "p001 tiny-pretrained: done" in shown.out
    assert "p002 tiny-scratch: failed" in shown.out
    assert "p002 tiny-scratch: failed. Case 'p002' must contain t2w" in shown.out
    assert shown.err.startswith("1 of 3 cases failed; summary.csv holds the reasons.")
    assert main([*command, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [(row["case"], row["status"]) for row in answer["rows"]][:2] == [("p001", "done"), ("p001", "done")]
    assert np.isfinite(answer["rows"][0]["volume_ml prostate"])


def test_wrong_usage_of_a_cohort_is_said(cohort, pair, tmp_path, capsys):
    out = ["-o", str(tmp_path / "out")]
    for wrong, words in (
        (["--bundle", "b", "--cohort", str(cohort), "--t2w", "x.nii.gz"], "--cohort takes no files of one case"),
        (["p001", "--bundle", "b", "--cohort", str(cohort)], "--cohort takes no files of one case"),
        (["p001", "--bundle", "a", "--bundle", "b"], "several --bundle need --cohort"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["predict", *wrong, *out])
        assert left.value.code == 2
        assert words in capsys.readouterr().err
