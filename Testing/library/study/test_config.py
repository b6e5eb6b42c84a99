"""A study's configuration: what it may state, what is refused, which runs it makes and in which order."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from small_sweeps import a_document, write_config

from VFMTransferLib.core.errors import ConfigError
from VFMTransferLib.study.config import RunKey, planned_runs, read_config, selected_runs
from VFMTransferLib.tasks import TASKS

ROOT = Path(__file__).resolve().parents[3]


START = {"objective": "mae", "steps": 2, "phantoms": {"first_seed": 100_000, "count": 2}}
OWN = {
    "train": {"first_seed": 4, "count": 6},
    "validation": {"first_seed": 1000, "count": 1},
    "test": {"first_seed": 2000, "count": 4},
}


@pytest.fixture
def config(tmp_path):
    return read_config(write_config(tmp_path, a_document()))


def changed(path: str, value) -> dict:
    document = a_document()
    *way, last = path.split("/")
    part = document
    for key in way:
        part = part[key]
    part[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 2, "format"),
        ("color", "red", "study.yaml"),
        ("tasks/cooking", {}, "study.yaml.tasks"),
        ("tasks/classification/profound/steps", "many", "classification.profound.steps"),
        ("tasks/classification/profound", {"steps": 1, "rates": [{"learning_rate": 1e-3}]}, "profound.rates"),
        ("tasks/classification/specialised", ["dynunet"], "tasks.classification.specialised"),
        ("tasks/classification", {"specialised": ["resnet"]}, "tasks.classification.profound"),
        ("seeds", [0, 1, 1], "seeds"),
        ("phantoms/test", {"first_seed": 1, "count": 3}, "train and test"),
        ("phantoms/test", {"first_seed": 99_999, "count": 3}, "test and encoders.profound.pretraining"),
        ("phantoms/test/count", 2, "phantoms.test.count"),
        ("tasks/classification/phantoms", {**OWN, "test": {"first_seed": 5, "count": 3}}, "classification.train and"),
        ("tasks/super-resolution", {"phantoms": OWN}, "full_resolution"),
        ("encoders/profound/pretraining/objective", "jigsaw", "jigsaw"),
        ("encoders/profound/pretraining", None, "pretrainings"),
        ("real/shown", ["two"], "real.shown"),
    ],
)
def test_what_cannot_be_is_refused_by_file_and_key(tmp_path, path, value, message):
    with pytest.raises(ConfigError) as error:
        read_config(write_config(tmp_path, changed(path, value)))
    assert message in str(error.value)


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_text("seeds: [0, 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        read_config(tmp_path / "study.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_config(tmp_path / "none.yaml")


def test_the_shipped_study_has_both_encoders_all_tasks_and_three_seeds():
    shipped = read_config(ROOT / "Resources" / "Study" / "config.yaml")
    assert set(shipped.tasks) == set(TASKS)
    assert set(shipped.encoders) == {"profound", "provicnet"}
    runs = planned_runs(shipped)
    arms = [(run.encoder, run.task, run.arm, run.seed) for run in runs]
    assert len(set(arms)) == len(arms)
    for encoder, arm in product(shipped.encoders, ("pretrained-mae", "pretrained-contrastive", "pretrained-synthetic")):
        assert sum(run.encoder == encoder and run.arm == arm for run in runs) == 6 * 3
    assert sum(run.arm == "specialised" for run in runs) == 6 * 3 + 1
    assert sum(run.arm == "trivial" for run in runs) == 6


def test_pretrainings_are_named_and_each_has_an_arm(tmp_path):
    document = a_document()
    own = document["encoders"]["profound"]
    del own["pretraining"]
    own["pretrainings"] = {"mae": START, "more-steps": {**START, "steps": 3}}
    runs = planned_runs(read_config(write_config(tmp_path, document)))
    task = [run for run in runs if (run.task, run.encoder, run.seed) == ("anatomy-segmentation", "profound", 0)]
    assert [run.arm for run in task] == ["scratch", "pretrained-mae", "pretrained-more-steps"]
    assert [run.label for run in task] == ["profound", "profound-mae", "profound-more-steps"]
    assert [run.needs for run in task] == [
        None,
        RunKey("profound", "", "pretraining-mae", 0),
        RunKey("profound", "", "pretraining-more-steps", 0),
    ]
    own["pretrainings"] = {"No Name": START}
    with pytest.raises(ConfigError, match="must have names of small letters"):
        read_config(write_config(tmp_path, document))


def test_a_study_that_is_stopped_has_all_arms_of_one_seed_first(config):
    runs = planned_runs(config)
    measured = [run for run in runs if run.is_trained and run.task]
    assert [run.seed for run in measured] == sorted(run.seed for run in measured)
    untrained = [run for run in runs if not run.is_trained]
    assert runs[: len(untrained)] == tuple(untrained)
    for place, run in enumerate(runs):
        assert run.needs is None or run.needs in runs[:place]


def test_a_part_of_the_runs_brings_the_pretraining_that_it_needs(config):
    runs = planned_runs(config)
    chosen = selected_runs(runs, {"encoder": ["provicnet"], "seed": ["1"]})
    task = "anatomy-segmentation"
    assert set(chosen) == {
        RunKey("provicnet", "", "pretraining", 0),
        RunKey("provicnet", task, "pretrained", 1),
        RunKey("provicnet", task, "scratch", 1),
    }
    with pytest.raises(ConfigError, match="must have a run of seed=9, but has 0, 1, 2 only"):
        selected_runs(runs, {"seed": ["9"]})
    with pytest.raises(ConfigError, match="must have a run of arm=pretained, but has"):
        selected_runs(runs, {"arm": ["scratch", "pretained"]})
