"""A study from its configuration to its tables: done runs are kept, stopped ones resume, changed ones are repeated."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from small_sweeps import PROFOUND, a_document, halve_mask, prepared_sweep, write_config, write_real_cases

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.weights import bundle_encoder_weights
from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    DivergedError,
    OutputError,
    RuntimeUnavailableError,
)
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.encoders.weights import encoder_weights
from VFMTransferLib.inference import doctor
from VFMTransferLib.metrics.detection import Candidate, average_precision
from VFMTransferLib.report.study_page import write_study_report
from VFMTransferLib.study import run as study_run
from VFMTransferLib.study import sweep as sweep_module
from VFMTransferLib.study.config import RunKey, pretraining, read_config
from VFMTransferLib.study.run import TrainedStudy, run_one, trained_run, training_config
from VFMTransferLib.study.summary import summarize
from VFMTransferLib.study.sweep import Sweep
from VFMTransferLib.study.tables import (
    CandidateRow,
    collect_tables,
    read_result,
    read_tables,
    results_in,
    write_result,
)
from VFMTransferLib.study.workspace import Workspace, shared_test_cases
from VFMTransferLib.tasks import score_results
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.training.finetune import Initialization, initial_network
from VFMTransferLib.training.loop import CHECKPOINT

SHIPPED = Path(__file__).parents[3] / "Resources" / "Study"
FIRST = {"seed": ["0"]}
PRETRAINED = RunKey("profound", "anatomy-segmentation", "pretrained", 0)
SCRATCH = RunKey("profound", "anatomy-segmentation", "scratch", 0)


def finish(sweep: Sweep) -> None:
    for run in sweep.pending():
        run_one(run, sweep.config, sweep.workspace)
    sweep.collect()


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder of a study whose first seed is done."""
    folder = tmp_path_factory.mktemp("studies")
    finish(prepared_sweep(folder / "study", write_config(folder, a_document()), only=FIRST))
    return folder / "study"


@pytest.fixture
def a_copy(done, tmp_path) -> Path:
    return shutil.copytree(done, tmp_path / "study")


def test_distances_of_super_resolution_have_twins_where_its_own_phantoms_alone_have_them(tmp_path):
    groups = {"train": (0, 2), "validation": (1000, 1), "test": (2000, 3)}
    own = {name: {"first_seed": first, "count": count} for name, (first, count) in groups.items()}
    document = a_document(
        phantoms={"spacing_mm": [3.0, 3.0, 4.0], **own, "full_resolution": False},
        tasks={
            "super-resolution": {"profound": {"steps": 2}, "phantoms": {**own, "full_resolution": True}},
            "anatomy-segmentation": {"profound": {"steps": 2}},
        },
    )
    config = read_config(write_config(tmp_path, {**document, "real": None}))
    assert len(shared_test_cases(config, "super-resolution", Workspace(tmp_path / "study"))) == 3


def without_time(result):
    return replace(result, seconds=0, row=replace(result.row, device_seconds=0))


def test_the_tables_hold_every_run(done):
    tables = read_tables(done)
    rows = {(run.encoder, run.task, run.arm) for run in tables.runs}
    assert rows == {
        ("mean-shape", "anatomy-segmentation", "trivial"),
        ("adc-hbv-rule", "classification", "trivial"),
        ("uncorrected", "distortion-correction", "trivial"),
        ("registration", "distortion-correction", "specialised"),
        ("resnet", "classification", "specialised"),
        *(("provicnet", "anatomy-segmentation", arm) for arm in Arm),
        *(
            ("profound", task, arm)
            for task in ("anatomy-segmentation", "classification", "distortion-correction")
            for arm in Arm
        ),
    }
    for run in tables.runs:
        assert run.n_test_cases == 3
        assert len(run.config_sha256) == 64
        assert (run.steps > 0) == (run.device_seconds > 0) == (run.arm != "trivial" and run.encoder != "registration")
        steps = [row.step for row in tables.curves if (row.encoder, row.task, row.arm) == _key(run)]
        assert run.steps_to_best in (steps or [run.steps])
    assert len({run.config_sha256 for run in tables.runs}) == len(tables.runs)


def _key(run):
    return run.encoder, run.task, run.arm


def test_metrics_give_each_case_and_what_belongs_to_all(done):
    rows = [row for row in read_tables(done).metrics if row.encoder == "profound" and row.arm == "scratch"]
    dice = {row.case: row.value for row in rows if (row.task, row.metric) == ("anatomy-segmentation", "dice")}
    assert sorted(dice) == ["phantom-2000", "phantom-2001", "phantom-2002"]
    run = next(run for run in read_tables(done).runs if _key(run) == ("profound", "anatomy-segmentation", "scratch"))
    assert run.value == pytest.approx(sum(dice.values()) / 3)
    classes = [row for row in rows if row.task == "classification"]
    assert {row.metric for row in classes if row.case} == {"brier", "log_loss", "p_cspca", "is_cspca"}
    assert "quadratic_weighted_kappa" in {row.metric for row in classes if not row.case}
    assert {row.data for row in rows} == {"phantom"}


def test_distances_are_of_pretrained_arms_layer_by_layer(done):
    rows = read_tables(done).distances
    assert {(row.encoder, row.task) for row in rows} == {
        ("profound", "anatomy-segmentation"),
        ("profound", "classification"),
        ("profound", "distortion-correction"),
        ("provicnet", "anatomy-segmentation"),
    }
    layers = [row.layer for row in rows if (row.encoder, row.task) == ("profound", "classification")]
    assert layers == ["stage-1", "stage-2", "stage-3", "stage-4", "encoder"]


def test_a_resumed_study_keeps_no_picture_of_a_real_case_that_is_shown_no_longer(a_copy, tmp_path):
    phantoms = a_copy / "examples" / "anatomy-segmentation" / "phantom"
    real = shutil.copytree(phantoms, phantoms.parent / "real")
    for path in real.glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "data": "real", "case": "one"}))
    for shown in (["one"], []):
        document = a_document(real={"cases": {"one": ["anatomy-segmentation"]}, "shown": shown})
        prepared_sweep(a_copy, write_config(tmp_path, document), resume=True)
        assert any(real.iterdir()) == bool(shown)
        assert any(phantoms.iterdir())


def test_the_split_and_what_is_left_out_are_written_down(done):
    split = json.loads((done / "split.json").read_text())
    assert split["train"] == ["phantom-0000", "phantom-0001"]
    assert split["test"][0] == "phantom-2000"
    assert split["real"] == {"one": ["anatomy-segmentation"]}
    assert split["notes"] == ["Real cases are not measured: --real does not name their folder."]


def test_example_slices_are_there_for_both_arms(done):
    names = {path.name for path in (done / "examples" / "anatomy-segmentation").rglob("*.png")}
    assert {"profound-pretrained.png", "profound-scratch.png"} <= names


def test_a_study_that_is_there_is_resumed_only_when_asked(a_copy):
    with pytest.raises(OutputError, match=r"holds a study already\. Continue with --resume"):
        prepared_sweep(a_copy)
    assert prepared_sweep(a_copy, resume=True, only=FIRST).pending() == []
    assert {run.seed for run in prepared_sweep(a_copy, resume=True).pending()} == {1, 2}


def test_a_real_case_that_is_named_no_more_leaves_the_tables(a_copy):
    sweep = prepared_sweep(a_copy, resume=True, only=FIRST)
    result = read_result(sweep.workspace, SCRATCH)
    of_patients = [replace(result.metrics[0], data="real", case=name, value=0.5) for name in ("one", "withdrawn", "")]
    places = [("real", "one"), ("real", "withdrawn"), ("phantom", "phantom-2000")]
    measured = replace(
        result,
        real_cases=("one", "withdrawn"),
        real_masks=sweep.config.real.masks,
        metrics=(*result.metrics, *of_patients),
        candidates=tuple(CandidateRow(*SCRATCH.columns, data, case, 0.5, True) for data, case in places),
    )
    write_result(measured, sweep.workspace)
    sweep.collect()
    tables = read_tables(a_copy)
    assert [row.case for row in tables.metrics if row.data == "real"] == ["one"]
    assert len([row for row in tables.metrics if row.data == "phantom" and row.arm == "scratch"]) > 3
    assert [row.case for row in tables.candidates] == ["one", "phantom-2000"]


def test_a_real_case_is_measured_again_where_another_mask_is_its_truth(a_copy, tmp_path):
    (tmp_path / "real" / "one").mkdir(parents=True)
    sweep = prepared_sweep(a_copy, real=tmp_path / "real", resume=True, only=FIRST)
    assert SCRATCH in sweep.pending()
    result = read_result(sweep.workspace, SCRATCH)
    of_patients = [replace(result.metrics[0], data="real", case=name, value=0.5) for name in ("one", "")]
    measured = replace(
        result, real_cases=("one",), real_masks=sweep.config.real.masks, metrics=(*result.metrics, *of_patients)
    )
    write_result(measured, sweep.workspace)
    assert SCRATCH not in sweep.pending()
    of_another_reader = a_document(real={**a_document()["real"], "gland": ["gland_second_reader"]})
    resumed = prepared_sweep(
        a_copy, write_config(tmp_path, of_another_reader), real=tmp_path / "real", resume=True, only=FIRST
    )
    assert SCRATCH in resumed.pending()
    resumed.collect()
    assert not [row for row in read_tables(a_copy).metrics if row.data == "real"]


def test_a_real_case_is_measured_again_where_its_mask_was_corrected(a_copy, tmp_path, monkeypatch, capsys):
    real, only = write_real_cases(tmp_path / "real", "one"), {**FIRST, "encoder": ["profound", "mean-shape"]}

    def opened() -> Sweep:
        return prepared_sweep(a_copy, real=real, resume=True, only=only)

    def measured() -> dict[str, float]:
        return {row.arm: row.value for row in read_tables(a_copy).metrics if (row.case, row.metric) == ("one", "dice")}

    sweep = opened()
    of_the_case = set(sweep.pending())
    assert {run.task for run in of_the_case} == {"anatomy-segmentation"}
    finish(sweep)
    first = measured()
    assert first.keys() == {"trivial", "scratch", "pretrained"}
    os.utime(real / "one" / "gland.nii.gz")  # the same content
    (real / "one" / ".DS_Store").write_bytes(b"of a file browser")
    assert (opened().pending(), opened().changed_cases()) == ([], ())

    halve_mask(real / "one" / "gland.nii.gz")
    assert prepared_sweep(a_copy, resume=True, only=only).pending() == []  # without --real nothing is known
    sweep = opened()
    assert (set(sweep.pending()), sweep.changed_cases()) == (of_the_case, ("one",))
    sweep.collect()
    assert measured() == {}
    with monkeypatch.context() as patched:
        patched.setattr(sweep_module, "run_sweep", lambda *_, **__: {})
        assert main(["study", "--resume", "--real", str(real), "--only", "seed=0", "-o", str(a_copy)]) == 0
    assert "The files of real cases have changed: one. Runs that were measured" in capsys.readouterr().err
    before = {
        run: (sweep.workspace.training(run.name) / CHECKPOINT).stat().st_mtime_ns for run in (SCRATCH, PRETRAINED)
    }
    finish(sweep)
    assert measured().keys() == first.keys()
    assert measured()["trivial"] < first["trivial"]  # networks of four steps may reach nothing either way
    for run, written in before.items():  # nothing was trained
        assert (sweep.workspace.training(run.name) / CHECKPOINT).stat().st_mtime_ns == written
    assert opened().pending() == []


def test_former_results_without_the_files_of_real_cases_are_kept(a_copy, tmp_path):
    real = write_real_cases(tmp_path / "real", "one")
    sweep = prepared_sweep(a_copy, real=real, resume=True, only=FIRST)
    result = read_result(sweep.workspace, SCRATCH)
    write_result(replace(result, real_cases=("one",), real_masks=sweep.config.real.masks), sweep.workspace)
    path = sweep.workspace.results / f"{SCRATCH.name}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["real_sha256"]
    path.write_text(json.dumps(document), encoding="utf-8")
    halve_mask(real / "one" / "gland.nii.gz")
    assert read_result(sweep.workspace, SCRATCH).real_sha256 == {}
    assert SCRATCH not in sweep.pending()


def test_files_of_a_real_case_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("VFMTransferLib.study.workspace.folder_checksum", refuse)
    with pytest.raises(DatasetError, match="files of the real case 'one' must be readable, but one is not: Permission"):
        Workspace(tmp_path, tmp_path).real_sha256("one")
    with pytest.raises(DatasetError, match="'one' needs the folder of real cases"):
        Workspace(tmp_path).real_sha256("one")


def test_another_folder_is_not_taken(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(OutputError, match="must be a new folder or that of a study"):
        prepared_sweep(tmp_path / "letters", write_config(tmp_path, a_document()), resume=True)


def test_only_runs_whose_settings_changed_are_done_again(a_copy, tmp_path):
    document = a_document()
    document["tasks"]["classification"]["profound"] |= {"learning_rate": 0.001, "encoder_learning_rate": 0.0001}
    sweep = prepared_sweep(a_copy, write_config(tmp_path, document), resume=True, only=FIRST)
    assert {(run.encoder, run.task) for run in sweep.pending()} == {
        ("profound", "classification"),
        ("resnet", "classification"),
    }
    sweep.collect()
    assert "classification" not in {run.task for run in read_tables(a_copy).runs if run.arm != "trivial"}
    run = RunKey("profound", "classification", "scratch", 0)
    before = torch.load(sweep.workspace.training(run.name) / CHECKPOINT, weights_only=True)["average"]
    after = trained_run(run, sweep.config, sweep.workspace).average  # not the finished run that lies there
    assert any(not torch.equal(after[name], before[name]) for name in before)
    again = trained_run(run, sweep.config, sweep.workspace).average  # the finished run
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_test_cases_are_measured_one_by_one_and_not_held(a_copy, monkeypatch):
    """However many there are; a case of a study may take tens of megabytes."""
    sweep = prepared_sweep(a_copy, resume=True)
    held = []

    def cases_in_memory() -> int:
        gc.collect()
        return sum(type(thing) is LabeledCase for thing in gc.get_objects())

    before = cases_in_memory()

    def scoring(task, results):
        def each():
            for pair in results:
                held.append(cases_in_memory() - before)
                yield pair

        return score_results(task, each())

    monkeypatch.setattr(study_run, "score_results", scoring)
    result = run_one(replace(SCRATCH, seed=1), sweep.config, sweep.workspace)
    assert result.row.n_test_cases == len(held) == 3
    assert max(held) <= 2


@pytest.mark.parametrize("task", ["anatomy-segmentation", "adc-translation"])  # larger is better, and smaller
def test_of_several_rates_each_run_takes_the_one_that_validates_best(tmp_path, task):
    rates = [{"learning_rate": 1e-3}, {"learning_rate": 1e-9}, {"learning_rate": 1e-3, "encoder_learning_rate": 1e-9}]
    document = a_document(real=None, tasks={task: {"profound": {"steps": 4, "rates": rates}}})
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    run = RunKey("profound", task, "scratch", 0)
    result = run_one(run, sweep.config, sweep.workspace)
    scores = []
    for number in (1, 2, 3):
        checkpoint = sweep.workspace.training(f"{run.name}.rate-{number}") / CHECKPOINT
        scores.append(torch.load(checkpoint, weights_only=True)["history"][-1]["score"])
    assert len(set(scores)) == 3
    best = scores.index(max(scores) if task == "anatomy-segmentation" else min(scores))
    chosen = rates[best]["learning_rate"], rates[best].get("encoder_learning_rate", rates[best]["learning_rate"])
    assert (result.row.learning_rate, result.row.encoder_learning_rate) == chosen
    assert result.row.diverged == 0
    assert result.curves[-1].value == scores[best]
    # Whatever their order, and from what is there.
    assert trained_run(run, sweep.config, sweep.workspace).history[-1]["score"] == scores[best]
    document["tasks"][task]["profound"]["rates"] = rates[::-1]
    again = prepared_sweep(tmp_path / "study", write_config(tmp_path, document), resume=True)
    assert run in again.pending()
    assert trained_run(run, again.config, again.workspace).history[-1]["score"] == scores[best]


def test_no_rate_is_chosen_where_no_validation_score_is_defined(tmp_path, monkeypatch):
    rates = [{"learning_rate": 1e-3}, {"learning_rate": 1e-4}]
    document = a_document(real=None, tasks={"anatomy-segmentation": {"profound": {"steps": 1, "rates": rates}}})
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    monkeypatch.setattr(study_run, "_validated", lambda *_: -np.inf)
    with pytest.raises(DatasetError, match="chosen by the validation score, but none is defined"):
        trained_run(SCRATCH, sweep.config, sweep.workspace)


def test_a_rate_that_diverges_is_left_out_and_not_trained_again(tmp_path, monkeypatch):
    task, rates = "anatomy-segmentation", [{"learning_rate": 1e30}, {"learning_rate": 1e-3}]
    document = a_document(real=None, tasks={task: {"profound": {"steps": 4, "rates": rates}}})
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    run = RunKey("profound", task, "scratch", 0)
    row = run_one(run, sweep.config, sweep.workspace).row
    assert (row.learning_rate, row.diverged) == (1e-3, 1)
    monkeypatch.setattr(study_run, "finetune", lambda *_, **__: pytest.fail("a rate was trained again"))
    chosen = trained_run(run, sweep.config, sweep.workspace)
    assert TrainedStudy(sweep.config, sweep.workspace).training(run, sweep.config).history == chosen.history


def test_rates_that_all_diverge_are_an_error_each_time(tmp_path):
    rates = [{"learning_rate": 1e30}, {"learning_rate": 1e29}]
    document = a_document(real=None, tasks={"anatomy-segmentation": {"profound": {"steps": 4, "rates": rates}}})
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"rates of which one does not diverge.* it diverged"):
            trained_run(SCRATCH, sweep.config, sweep.workspace)


def test_runs_of_one_rate_have_no_column_of_rates(done):
    header = (done / "runs.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "learning_rate" not in header
    assert "diverged" not in header


def test_a_task_may_have_phantoms_of_its_own(a_copy, tmp_path):
    document = a_document()
    groups = {"train": (20, 3), "validation": (1000, 1), "test": (2000, 4)}
    own = {part: {"first_seed": first, "count": count} for part, (first, count) in groups.items()}
    document["tasks"]["classification"]["phantoms"] = own
    sweep = prepared_sweep(a_copy, write_config(tmp_path, document), resume=True, only=FIRST)
    assert {run.task for run in sweep.pending()} == {"classification"}
    before = [row for row in read_tables(a_copy).distances if row.task == "classification"]
    finish(sweep)
    tables = read_tables(a_copy)
    assert {run.n_test_cases for run in tables.runs if run.task == "classification"} == {4}
    assert {run.n_test_cases for run in tables.runs if run.task != "classification"} == {3}
    cases = {row.case for row in tables.metrics if row.task == "classification" and row.case}
    assert cases == {f"phantom-{seed}" for seed in range(2000, 2004)}
    split = json.loads((a_copy / "split.json").read_text())["tasks with phantoms of their own"]
    assert split["classification"]["train"] == ["phantom-0020", "phantom-0021", "phantom-0022"]
    # Distances stay those of the study's own test phantoms, or tasks could not be compared.
    after = [row for row in tables.distances if row.task == "classification"]
    assert [(row.layer, row.n_cases) for row in after] == [(row.layer, row.n_cases) for row in before]


def test_candidates_of_lesions_give_the_average_precision_of_the_run_again(tmp_path):
    document = a_document(tasks={"lesion-segmentation": {"profound": {"steps": 2}}}, real=None)
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    network = RunKey("profound", "lesion-segmentation", "scratch", 0)
    baseline = next(run for run in sweep.pending() if run.arm == "trivial")
    for run in (network, baseline):
        run_one(run, sweep.config, sweep.workspace)
    sweep.collect()
    tables = read_tables(tmp_path / "study")
    lesions = {row.case: row.value for row in tables.metrics if row.metric == "lesions" and row.arm == "scratch"}
    assert set(lesions) == {"phantom-2000", "phantom-2001", "phantom-2002"}
    found = {(row.arm, row.metric): row.value for row in tables.metrics if not row.case}
    candidates = [Candidate(row.confidence, row.is_hit) for row in tables.candidates]
    assert {(row.encoder, row.arm, row.data) for row in tables.candidates} == {("profound", "scratch", "phantom")}
    assert found["scratch", "average_precision"] == pytest.approx(average_precision(candidates, sum(lesions.values())))
    assert found["trivial", "average_precision"] == 0  # which has no candidates
    assert {(run.arm, run.metric, run.value) for run in tables.runs} == {
        (arm, "average_precision", found[arm, "average_precision"]) for arm in ("scratch", "trivial")
    }


def test_a_checksum_has_every_value_even_a_default_and_the_librarys_version(tmp_path, monkeypatch):
    config = prepared_sweep(tmp_path / "study", write_config(tmp_path, a_document())).config
    before = study_run.run_sha256(SCRATCH, config)
    monkeypatch.setattr(study_run, "__version__", "9.9.9")
    assert study_run.run_sha256(SCRATCH, config) != before
    found = []
    for default in (0, 1):  # a setting whose default changed, and which nobody stated
        kind = make_dataclass("Settings", [("a_new_setting", int, default)])
        monkeypatch.setattr(study_run, "training_configs", lambda *_, kind=kind: (kind(),))
        found.append(study_run.run_sha256(SCRATCH, config))
    assert found[0] != found[1]


@pytest.mark.parametrize(("version", "words"), [("0.0.9", "by version 0.0.9"), (None, "a version that left no mark")])
def test_runs_of_another_version_are_refused_and_kept(a_copy, version, words):
    mark, checkpoint = a_copy / "work" / "library-version.txt", Workspace(a_copy).training(SCRATCH.name) / CHECKPOINT
    sweep = prepared_sweep(a_copy, resume=True)
    mark.unlink() if version is None else mark.write_text(version)
    for use in (
        lambda: prepared_sweep(a_copy, resume=True),
        lambda: trained_run(SCRATCH, sweep.config, sweep.workspace),
    ):
        with pytest.raises(OutputError, match=words):
            use()
    assert checkpoint.is_file()
    assert read_result(Workspace(a_copy), SCRATCH) is not None


@pytest.fixture
def tables_alone(a_copy) -> Path:
    """A study as it is passed on, without the work folder."""
    shutil.rmtree(a_copy / "work")
    return a_copy


def test_a_study_continues_from_its_tables_alone(done, tables_alone):
    tables = {path.name: path.read_bytes() for path in done.glob("*.csv")}
    assert prepared_sweep(tables_alone, resume=True, only=FIRST).pending() == []  # no pretraining either
    sweep = prepared_sweep(tables_alone, resume=True)
    assert {run.seed for run in sweep.pending() if not run.is_pretraining} == {1, 2}
    assert {run.label for run in sweep.pending() if run.is_pretraining} == {"profound", "provicnet"}
    sweep.collect()
    assert {path.name: path.read_bytes() for path in tables_alone.glob("*.csv")} == tables
    for path in sorted((done / "work" / "results").glob("*.json")):
        if "pretraining" not in path.name:
            assert json.loads((tables_alone / "work" / "results" / path.name).read_text()) == json.loads(
                path.read_text()
            )


@pytest.mark.parametrize("change", ["rate", "task", "version"])
def test_tables_of_other_settings_are_not_continued_and_kept(tables_alone, tmp_path, monkeypatch, change):
    document, tables = a_document(), {path.name: path.read_bytes() for path in tables_alone.glob("*.csv")}
    if change == "rate":
        document["tasks"]["anatomy-segmentation"]["profound"]["learning_rate"] = 1e-4
    elif change == "task":
        del document["tasks"]["classification"]
    else:
        monkeypatch.setattr(study_run, "__version__", "99.0.0")
    number = {"rate": "2 of their 13", "task": "4 of their 13", "version": "13 of their 13"}[change]
    with pytest.raises(OutputError, match=f"{number} runs are of other settings or of another version"):
        prepared_sweep(tables_alone, write_config(tmp_path, document), resume=True)
    assert {path.name: path.read_bytes() for path in tables_alone.glob("*.csv")} == tables
    with pytest.raises(OutputError, match="runs are of other settings"):  # the refusal leaves no mark
        prepared_sweep(tables_alone, write_config(tmp_path, document), resume=True)


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in SHIPPED.rglob("runs.csv")), ids=lambda folder: folder.name
)
def test_the_results_in_shipped_tables_give_the_tables_again(folder):
    tables = read_tables(folder)
    results = list(results_in(tables, "gland: gland_taps"))
    assert len({found.key for found in results}) == len(tables.runs)
    again = collect_tables(results)
    for name in ("runs", "metrics", "curves", "distances", "candidates"):
        assert sorted(map(repr, getattr(again, name))) == sorted(map(repr, getattr(tables, name)))
    real = {(row.encoder, row.task, row.arm, row.seed): row.case for row in tables.metrics if row.data == "real"}
    for found in results:
        is_tested = found.key.columns in real and not found.key.labelled_cases
        assert (len(found.real_cases) > 0, found.real_masks) == (is_tested, "gland: gland_taps" if is_tested else "")


@pytest.mark.parametrize("change", [{"steps": 3}, {"precision": "bfloat16"}, {"learning_rate": 2e-4}])
def test_another_pretraining_changes_the_pretrained_arms_alone(a_copy, tmp_path, change):
    document = a_document()
    document["encoders"]["profound"]["pretraining"] |= change
    sweep = prepared_sweep(a_copy, write_config(tmp_path, document), resume=True, only=FIRST)
    assert {(run.encoder, run.arm) for run in sweep.pending()} == {
        ("profound", "pretraining"),
        ("profound", "pretrained"),
    }


def test_a_pretraining_has_the_precision_and_rate_that_are_stated(tmp_path, monkeypatch):
    class SeenError(Exception):
        pass

    def seen(config, *_, **__):
        raise SeenError(f"{config.schedule.precision} {config.schedule.learning_rate}")

    document = a_document()
    document["encoders"]["profound"]["pretraining"] |= {"precision": "bfloat16", "learning_rate": 2e-4}
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    monkeypatch.setattr(study_run, "pretrain", seen)
    for encoder, schedule in (("profound", "bfloat16 0.0002"), ("provicnet", "float32 0.001")):
        with pytest.raises(SeenError, match=f"^{schedule}$"):
            run_one(pretraining(encoder), sweep.config, sweep.workspace)


def test_arms_differ_in_the_encoders_first_weights_alone(done):
    sweep = prepared_sweep(done, resume=True)
    config = training_config(PRETRAINED, sweep.config)
    assert config == training_config(SCRATCH, sweep.config)
    given = bundle_encoder_weights(read_bundle(sweep.workspace.pretrained("profound")))
    one = initial_network(config, Initialization(given)).state_dict()
    other = initial_network(config, None).state_dict()
    encoder = encoder_weights(one, config.model)
    for name, tensor in encoder.items():
        assert torch.equal(tensor, given[name])
    heads = [name for name in one if not name.startswith("encoder.")]
    assert heads
    assert all(torch.equal(one[name], other[name]) for name in heads)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_is_stopped_resumes_from_its_checkpoint(a_copy):
    class StoppedError(Exception):
        pass

    def stop(line, part):
        if 0 < part < 1:
            raise StoppedError

    sweep = prepared_sweep(a_copy, resume=True)
    before = read_result(Workspace(a_copy), SCRATCH)
    shutil.rmtree(sweep.workspace.training(SCRATCH.name))
    with pytest.raises(StoppedError):
        run_one(SCRATCH, sweep.config, sweep.workspace, stop)
    assert (sweep.workspace.training(SCRATCH.name) / CHECKPOINT).is_file()
    assert without_time(run_one(SCRATCH, sweep.config, sweep.workspace)) == without_time(before)


def test_a_damaged_checkpoint_is_named_and_kept(a_copy):
    sweep = prepared_sweep(a_copy, resume=True)
    before = read_result(Workspace(a_copy), SCRATCH)
    checkpoint = sweep.workspace.training(SCRATCH.name) / CHECKPOINT
    checkpoint.write_bytes(b"half")
    message = rf"Checkpoint {SCRATCH.name}/checkpoint\.pt must be whole, but is damaged\. Restore it .* or remove it"
    with pytest.raises(CheckpointError, match=message):
        run_one(SCRATCH, sweep.config, sweep.workspace)
    assert checkpoint.read_bytes() == b"half"
    checkpoint.unlink()
    assert without_time(run_one(SCRATCH, sweep.config, sweep.workspace)) == without_time(before)


def test_finished_weights_are_kept_whatever_version_trained_them(a_copy):
    sweep = prepared_sweep(a_copy, resume=True)
    path = sweep.workspace.training(SCRATCH.name) / CHECKPOINT
    document = torch.load(path, weights_only=True)
    torch.save({**document, "identity": "of an older version"}, path)
    written = path.stat().st_mtime_ns
    found = trained_run(SCRATCH, sweep.config, sweep.workspace)
    assert (found.step, found.history) == (document["step"], document["history"])
    assert all(torch.equal(found.average[name], tensor) for name, tensor in document["average"].items())
    assert path.stat().st_mtime_ns == written


def test_what_a_killed_process_left_half_written_is_removed(a_copy):
    for name in ("cells/.part-00000000-1-0123abcd-checkpoint.pt", ".pretrained.00000000-1-0123abcd.part"):
        (a_copy / "work" / name).write_bytes(b"half")
        os.utime(a_copy / "work" / name, (0, 0))  # of another machine; what is of today stays
    prepared_sweep(a_copy, resume=True)
    assert not list(a_copy.rglob(".*part*"))


def test_real_cases_must_be_where_they_are_said_to_be(tmp_path):
    config = write_config(tmp_path, a_document())
    with pytest.raises(DatasetError, match="The folder of real cases must hold one"):
        prepared_sweep(tmp_path / "study", config, real=tmp_path)
    config = write_config(tmp_path, a_document(real=None))
    with pytest.raises(ConfigError, match="must name the real cases"):
        prepared_sweep(tmp_path / "study", config, real=tmp_path)


@pytest.mark.long
def test_several_pretrainings_of_an_encoder_are_arms_of_their_own_beside_one_from_scratch(tmp_path):
    phantoms, task = {"first_seed": 100_000, "count": 1}, "distortion-correction"
    starts = {name: {"objective": name, "steps": 2, "phantoms": phantoms} for name in ("mae", "synthetic")}
    document = a_document(
        encoders={"profound": {"pretrainings": starts, "size": PROFOUND}},
        tasks={task: {"profound": {"steps": 2}}},
        real=None,
    )
    folder = tmp_path / "study"
    sweep = prepared_sweep(folder, write_config(tmp_path, document), only=FIRST)
    finish(sweep)
    assert sweep.pending() == []
    tables = read_tables(folder)
    assert [run.arm for run in tables.runs if run.encoder == "profound"] == [
        "scratch",
        "pretrained-mae",
        "pretrained-synthetic",
    ]
    assert {row.encoder for row in tables.distances} == {"profound-mae", "profound-synthetic"}
    rows = summarize(tables)
    assert [row.encoder for row in rows] == ["profound-mae", "profound-synthetic"]
    own = {run.arm: run.value for run in tables.runs}
    for row in rows:
        expected = 100 * (own[row.encoder.replace("profound", "pretrained")] / own["scratch"] - 1)
        assert row.rpg_percent == pytest.approx(expected)
        assert np.isfinite(row.d2p)
    page = write_study_report(folder)[1].read_text(encoding="utf-8")
    assert "ProFound, mae" in page
    assert "ProFound, synthetic" in page
    assert (folder / "examples" / task / "phantom" / "profound-synthetic-pretrained.png").is_file()
    assert json.loads((folder / "split.json").read_text())["pretraining"].keys() == {
        "profound-mae",
        "profound-synthetic",
    }
    starting = {name: read_bundle(folder / "work" / "pretrained" / f"profound-{name}") for name in starts}
    assert {name: bundle.training["pretext"] for name, bundle in starting.items()} == {n: n for n in starts}


def test_with_patience_a_run_states_why_it_ended_and_is_read_again_as_it_is(tmp_path):
    fit = {"steps": 6, "patience": 0.2}
    document = a_document(
        encoders={"profound": a_document()["encoders"]["profound"]},
        tasks={"anatomy-segmentation": {"profound": fit}},
        measurements=6,
        real=None,
    )
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document), only={**FIRST, "arm": ["scratch"]})
    finish(sweep)
    (row,) = read_tables(tmp_path / "study").runs
    training = trained_run(SCRATCH, sweep.config, sweep.workspace)
    # Two steps without a gain, and one in which the rate falls.
    expected = ("plateau", training.plateau + 1) if training.plateau else ("budget", 6)
    assert (row.ended, row.steps) == expected
    assert (training.ended, training.step) == expected
    assert row.is_improving == (row.ended == "budget")


class ManyWorkers:
    """A cluster of two machines with two workers each, which do here what they are given."""

    machines: ClassVar = {"tcp://a:1": "a", "tcp://a:2": "a", "tcp://b:1": "b", "tcp://b:2": "b"}

    def scheduler_info(self, n_workers):
        assert n_workers == -1
        return {"workers": {address: {"host": host} for address, host in self.machines.items()}}

    def run(self, function, *args, workers):
        assert sorted(self.machines[address] for address in workers) == ["a", "b"]
        return {address: function(*args) for address in workers}


def test_bfloat16_is_tried_on_each_machine_before_a_run_needs_it(tmp_path, monkeypatch):
    document = a_document()
    document["tasks"]["classification"]["profound"] |= {"precision": "bfloat16"}
    config = read_config(write_config(tmp_path, document))
    with_it, without = (RunKey("profound", task, "scratch", 0) for task in ("classification", "anatomy-segmentation"))
    done = [subprocess.CompletedProcess([], 0), subprocess.CompletedProcess([], -4)]
    asked = []
    monkeypatch.setattr(doctor, "_ask", lambda *words: asked.append(words) or done[len(asked) - 1])
    sweep_module._require_bfloat16(ManyWorkers(), [without], config)
    assert not asked
    with pytest.raises(RuntimeUnavailableError, match=r"machine of tcp://b.*Illegal instruction.*State precision"):
        sweep_module._require_bfloat16(ManyWorkers(), [without, with_it], config)
    assert asked == 2 * [("bfloat16", "cpu")]
