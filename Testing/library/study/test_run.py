"""A study from its configuration to its tables: done runs are kept, stopped ones resume, changed ones are repeated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sweeps import PROFOUND, a_document, prepared_sweep, write_config

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.weights import bundle_encoder_weights
from VFMTransferLib.core.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    OutputError,
)
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.encoders.weights import encoder_weights
from VFMTransferLib.metrics.detection import Candidate, average_precision
from VFMTransferLib.report.study_page import write_study_report
from VFMTransferLib.study import run as study_run
from VFMTransferLib.study.config import RunKey, pretraining
from VFMTransferLib.study.run import run_one, trained_run, training_config
from VFMTransferLib.study.summary import summarize
from VFMTransferLib.study.sweep import Sweep
from VFMTransferLib.study.tables import (
    read_result,
    read_tables,
)
from VFMTransferLib.study.workspace import Workspace
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


def without_time(result):
    return replace(result, row=replace(result.row, device_seconds=0))


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
        assert (run.steps > 0) == (run.device_seconds > 0) == (run.arm != "trivial" and run.encoder != "registration")
        steps = [row.step for row in tables.curves if (row.encoder, row.task, row.arm) == _key(run)]
        assert run.steps_to_best in (steps or [run.steps])


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


def test_the_split_and_what_is_left_out_are_written_down(done):
    split = json.loads((done / "split.json").read_text())
    assert split["train"] == ["phantom-0000", "phantom-0001"]
    assert split["test"][0] == "phantom-2000"
    assert split["real"] == {"one": ["anatomy-segmentation"]}
    assert split["notes"] == ["Real cases are not measured: --real does not name their folder."]


def test_a_study_that_is_there_is_resumed_only_when_asked(a_copy):
    with pytest.raises(OutputError, match=r"holds a study already\. Continue with --resume"):
        prepared_sweep(a_copy)
    assert prepared_sweep(a_copy, resume=True, only=FIRST).pending() == []
    assert {run.seed for run in prepared_sweep(a_copy, resume=True).pending()} == {1, 2}


def test_another_folder_is_not_taken(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(OutputError, match="neither a new folder"):
        prepared_sweep(tmp_path / "letters", write_config(tmp_path, a_document()), resume=True)


@pytest.mark.parametrize("task", ["anatomy-segmentation", "adc-translation"])  # larger is better, and smaller
def test_of_several_rates_each_run_takes_the_one_that_validates_best(tmp_path, task):
    rates = [{"learning_rate": 1e-3}, {"learning_rate": 1e-9}, {"learning_rate": 1e-3, "encoder_learning_rate": 1e-9}]
    document = a_document(real=None, tasks={task: {"profound": {"steps": 4, "rates": rates}}})
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    run = RunKey("profound", task, "scratch", 0)
    result = run_one(run, sweep.config, sweep.workspace)
    scores = []
    for number in (1, 2, 3):
        checkpoint = sweep.workspace.training(run.name) / f"rate-{number}" / CHECKPOINT
        scores.append(torch.load(checkpoint, weights_only=True)["history"][-1]["score"])
    assert len(set(scores)) == 3
    best = scores.index(max(scores) if task == "anatomy-segmentation" else min(scores))
    chosen = rates[best]["learning_rate"], rates[best].get("encoder_learning_rate", rates[best]["learning_rate"])
    assert (result.row.learning_rate, result.row.encoder_learning_rate) == chosen
    assert result.row.diverged == 0
    assert result.curves[-1].value == scores[best]
    assert trained_run(run, sweep.config, sweep.workspace).history[-1]["score"] == scores[best]


def test_a_rate_that_diverges_is_left_out_and_not_trained_again(tmp_path, monkeypatch):
    task, rates = "anatomy-segmentation", [{"learning_rate": 1e30}, {"learning_rate": 1e-3}]
    document = a_document(real=None, tasks={task: {"profound": {"steps": 4, "rates": rates}}})
    sweep = prepared_sweep(tmp_path / "study", write_config(tmp_path, document))
    run = RunKey("profound", task, "scratch", 0)
    row = run_one(run, sweep.config, sweep.workspace).row
    assert (row.learning_rate, row.diverged) == (1e-3, 1)
    trained: list[Path] = []
    finetune = study_run.finetune
    monkeypatch.setattr(study_run, "finetune", lambda *args, **rest: trained.append(args[2]) or finetune(*args, **rest))
    assert trained_run(run, sweep.config, sweep.workspace).history
    assert [folder.name for folder in trained] == ["rate-2"]


def test_a_task_may_have_phantoms_of_its_own(a_copy, tmp_path):
    document = a_document()
    groups = {"train": (20, 3), "validation": (1000, 1), "test": (2000, 4)}
    own = {part: {"first_seed": first, "count": count} for part, (first, count) in groups.items()}
    document["tasks"]["classification"]["phantoms"] = own
    for folder in (a_copy / "work" / "runs").glob("classification.*"):
        shutil.rmtree(folder)
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


def test_a_pretraining_has_the_precision_and_rate_that_are_stated(tmp_path, monkeypatch):
    class SeenError(Exception):
        pass

    def seen(config, *_, **__):
        raise SeenError(f"{config.train.precision} {config.train.learning_rate}")

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
    with pytest.raises(CheckpointError, match=rf"{SCRATCH.name}/checkpoint\.pt"):
        run_one(SCRATCH, sweep.config, sweep.workspace)
    assert checkpoint.read_bytes() == b"half"
    checkpoint.unlink()
    assert without_time(run_one(SCRATCH, sweep.config, sweep.workspace)) == without_time(before)


def test_real_cases_must_be_where_they_are_said_to_be(tmp_path):
    config = write_config(tmp_path, a_document())
    with pytest.raises(DatasetError, match="lacks one"):
        prepared_sweep(tmp_path / "study", config, real=tmp_path)
    config = write_config(tmp_path, a_document(real=None))
    with pytest.raises(ConfigError, match="names no real cases"):
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
