"""A seventh task and a fourth encoder, each defined in one file beside this one, go the whole way.

From phantom over pretraining, fine-tuning of both arms, bundle, ONNX, prediction, comparison and report to data check
and transfer study: nothing in the library names either.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from VFMTransferLib import compare, predict, save_result, write_report
from VFMTransferLib.bundles.bundle import Bundle, read_bundle
from VFMTransferLib.bundles.weights import load_network
from VFMTransferLib.core.options import Options
from VFMTransferLib.encoders import FAMILIES, find_family
from VFMTransferLib.encoders import register as register_family
from VFMTransferLib.encoders.pretext import pretext_task
from VFMTransferLib.io import read_volume
from VFMTransferLib.phantom import make_phantom, write_phantom
from VFMTransferLib.report.study_page import write_study_report
from VFMTransferLib.study.run import run_one
from VFMTransferLib.study.sweep import open_sweep
from VFMTransferLib.study.tables import read_tables
from VFMTransferLib.tasks import TASKS, score_results, unregister
from VFMTransferLib.tasks import register as register_task
from VFMTransferLib.training.cases import LabeledDataset, phantom_dataset, pretraining_phantoms
from VFMTransferLib.training.check import check_data
from VFMTransferLib.training.config import TrainConfig
from VFMTransferLib.training.finetune import FinetuneConfig, Initialization, finetune, network_to_train, write_arm
from VFMTransferLib.training.pretrain import PretrainConfig, pretrain, write_pretrained

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TASK, FAMILY = "bias-field-correction", "residual"
SPACING_MM = (2.0, 2.0, 4.0)
STEPS = 30


def plugin(name: str):
    """The module of a file beside this one."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_task(plugin("bias_field_task").TASK)
    register_family(plugin("residual_encoder").FAMILY)
    yield
    unregister(TASK)
    del FAMILIES[FAMILY]


@dataclass(frozen=True)
class Trained:
    """What one pretraining and two fine-tunings left."""

    cases: LabeledDataset
    start: Bundle
    pretrained: Bundle
    scratch: Bundle


@pytest.fixture(scope="module")
def trained(registered, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("plugins")
    phantoms = pretraining_phantoms(2)
    pretraining = PretrainConfig(pretext_task("denoising"), TrainConfig(steps=4))
    cases = [phantom.read().case for phantom in phantoms]
    run = pretrain(pretraining, cases, folder / "pretraining")
    start = write_pretrained(pretraining, run, folder / "start", data="2 phantoms", cases=cases)
    dataset = phantom_dataset(TASK, 4, 1, spacing_mm=SPACING_MM)
    bundles = {}
    for arm, init in (("pretrained", Initialization.from_bundle(start)), ("scratch", None)):
        train = TrainConfig(steps=STEPS, measure_every=STEPS // 2)
        config = FinetuneConfig(network_to_train(FAMILY, TASK), dataset.split, train)
        done = finetune(config, dataset, folder / f"work-{arm}", init=init)
        bundles[arm] = write_arm(
            config, done, dataset, folder / f"bias-{arm}", data="phantoms", init=init, license="Apache-2.0"
        )
    return Trained(dataset, start, **bundles)


def validated(trained: Trained):
    return trained.cases.select(trained.cases.split.validation)[0]


def test_a_phantom_gives_the_tasks_truth():
    labeled = TASKS[TASK].from_phantom(make_phantom(0, t2w_spacing_mm=SPACING_MM, sequences=("t2w",)))
    shaded, truth = labeled.case["t2w"].array, labeled.images["t2w-bias-corrected"].array
    inside = truth > truth.mean()
    assert 0.1 < np.std(np.log(shaded[inside] / truth[inside])) < 0.6


def test_pretraining_writes_an_encoder_that_fine_tuning_starts_from(trained):
    assert trained.start.spec.task is None
    assert read_bundle(trained.start.folder).training["pretext"] == "denoising"
    assert trained.pretrained.training["start"]["sha256"] == trained.start.weights_sha256
    assert trained.scratch.training["start"] == "scratch"


def test_both_arms_differ_in_the_initial_weights_only(trained):
    first, second = (bundle.training["config"] for bundle in (trained.pretrained, trained.scratch))
    assert first == second
    weights = [load_network(bundle).state_dict() for bundle in (trained.pretrained, trained.scratch)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_bundle_reads_back_as_the_network_it_was_written_of(trained):
    assert read_bundle(trained.scratch.folder).spec == trained.scratch.spec
    assert trained.scratch.spec.family == FAMILY
    document = json.loads((trained.scratch.folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert document["vfm_transfer"]["model"]["encoder"]["kind"] == "residual"


def test_both_runtimes_give_the_same_image(trained):
    case = validated(trained).case
    onnx = predict(case, trained.scratch, Options("onnx", "cpu"))
    eager = predict(case, trained.scratch, Options("torch", "cpu"))
    images = [result.images["t2w-bias-corrected"].array for result in (onnx, eager)]
    np.testing.assert_allclose(images[0], images[1], atol=1e-3 * float(images[1].max()))


def test_training_removes_some_of_the_shading(trained):
    labeled = validated(trained)
    task = TASKS[TASK]
    own = score_results(TASK, [(predict(labeled.case, trained.scratch), labeled)])
    naive = score_results(TASK, [(task.naive_baseline([])(labeled), labeled)])
    assert own.primary > naive.primary + 0.5


def test_a_result_is_written_in_the_names_of_the_task(trained, tmp_path):
    result = predict(validated(trained).case, trained.scratch)
    save_result(result, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert document["task"] == TASK
    written = read_volume(tmp_path / "out" / "t2w-bias-corrected.nii.gz")
    assert written.geometry.equals(validated(trained).case["t2w"].geometry)


def test_comparison_and_report_show_both_arms_beside_the_truth(trained, tmp_path):
    labeled = validated(trained)
    a, b = (predict(labeled.case, bundle) for bundle in (trained.pretrained, trained.scratch))
    comparison = compare(labeled.case, a, b, labeled.images["t2w-bias-corrected"])
    own = score_results(TASK, [(a, labeled)]).cases[0].values["psnr_db"]
    shown = [m.value for m in comparison.measures if (m.kind, str(m.between)) == ("psnr_db", "a-reference")]
    assert shown == [pytest.approx(own)]
    page = write_report(comparison, tmp_path, (trained.pretrained, trained.scratch)).read_text(encoding="utf-8")
    assert "Bias-field correction: pretrained beside from scratch" in page
    assert "denoising" in page or "Residual network" in page


def test_every_encoder_has_a_network_for_the_new_task():
    for name, family in FAMILIES.items():
        spec = family.network_for(TASKS[TASK])
        assert (spec.task, spec.family, spec.labels) == (TASK, name, ())


@pytest.mark.parametrize("task", [name for name in TASKS if name != "distortion-correction"])
def test_the_new_encoder_has_a_network_for_each_task_whose_head_it_has(task):
    spec = find_family(FAMILY).network_for(TASKS[task])
    assert find_family(FAMILY).build(spec)(torch.zeros(1, 3, 4, 16, 16)).shape[:2] == (1, max(len(spec.labels), 1))


def test_data_are_checked_for_the_new_task(tmp_path):
    for seed in range(2):
        write_phantom(make_phantom(seed, t2w_spacing_mm=SPACING_MM), tmp_path / f"case-{seed}")
    assert [f for f in check_data(tmp_path, TASK).findings if f.severity == "error"] == []
    (tmp_path / "case-1" / "t2w.nii.gz").unlink()
    assert any("t2w" in f.sentence for f in check_data(tmp_path, TASK).findings if f.severity == "error")


def test_a_study_sweeps_over_the_new_task_and_encoder(tmp_path):
    group = {"first_seed": 0, "count": 2}
    document = {
        "format": 1,
        "seeds": [0, 1, 2],
        "measurements": 1,
        "phantoms": {
            "spacing_mm": [3.0, 3.0, 4.0],
            "train": group,
            "validation": {"first_seed": 1000, "count": 1},
            "test": {"first_seed": 2000, "count": 3},
        },
        "encoders": {
            FAMILY: {
                "pretraining": {"objective": "denoising", "steps": 2, "phantoms": {"first_seed": 100_000, "count": 2}},
                "size": {"width": 6, "blocks": 1, "spacing_mm": [3.0, 3.0, 4.0], "patch": [12, 32, 32]},
            }
        },
        "tasks": {TASK: {FAMILY: {"steps": 4}}},
    }
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    with open_sweep(tmp_path / "study", config) as sweep:
        for run in sweep.pending():
            run_one(run, sweep.config, sweep.workspace)
        sweep.collect()
    tables = read_tables(tmp_path / "study")
    assert {(row.encoder, row.arm) for row in tables.runs} >= {(FAMILY, "pretrained"), (FAMILY, "scratch")}
    assert {row.task for row in tables.runs} == {TASK}
    _, page = write_study_report(tmp_path / "study")
    text = page.read_text(encoding="utf-8")
    assert "residual" in text.lower()
    assert "Bias-field correction" in text


def test_no_file_of_the_library_names_either():
    words = "bias-field|bias_field|BiasField|residual_encoder|ResidualFamily"
    found = subprocess.run(
        ["git", "grep", "-lE", words, "--", "VFMTransferLib", "VFMTransfer"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout == ""
