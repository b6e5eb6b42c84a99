"""From the command line to a bundle that predicts: pretraining, both arms, going on after a stop."""

from __future__ import annotations

import pytest
import torch
from prediction_cases import predict
from study_examples import FAMILIES, a_study, tiny_study_spec, write_case
from tiny_commands import use_small_networks

from VFMTransferLib.bundles.bundle import read_bundle, verify
from VFMTransferLib.bundles.weights import bundle_encoder_weights
from VFMTransferLib.cli import main
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.pretext import pretext_task
from VFMTransferLib.encoders.weights import encoder_weights, load_encoder
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.training.cases import LabeledDataset, Split
from VFMTransferLib.training.config import TrainConfig
from VFMTransferLib.training.finetune import FinetuneConfig, finetune, network_to_train, write_arm
from VFMTransferLib.training.loop import CHECKPOINT, checkpoint_folder
from VFMTransferLib.training.pretrain import PretrainConfig, pretrain, write_pretrained


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    """The same commands with networks and phantoms that take seconds."""
    use_small_networks(monkeypatch.setattr)


def studies(task: str) -> LabeledDataset:
    cases = {study.case.id: study for study in (a_study(task, 0), a_study(task, 1))}
    train, validation = cases
    return LabeledDataset(Split((train,), (validation,)), cases)


@pytest.mark.parametrize(
    ("family", "task", "pretext"),
    [
        ("profound", "classification", "mae"),
        ("provicnet", "adc-translation", "contrastive"),
    ],
)
def test_pretraining_fine_tuning_and_prediction_by_command(tmp_path, capsys, family, task, pretext):
    start, out = tmp_path / "start", tmp_path / "tuned"
    options = ["--phantoms", "2", "--steps", "2", "--learning-rate", "0.0003"]
    assert main(["pretrain", "--pretext", pretext, *options, "-o", str(start)]) == 0
    verify(read_bundle(start))
    assert read_bundle(start).training["config"]["learning_rate"] == 0.0003
    options = ["--encoder", family, "--phantoms", "3", "--validation", "1", "--steps", "2"]
    rates = ["--learning-rate", "0.001", "--encoder-learning-rate", "0.0001"]
    assert main(["finetune", task, "--init", str(start), *options, *rates, "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["tuned", str(out)]
    bundle = read_bundle(out)
    verify(bundle)
    assert bundle.onnx_path.is_file()
    assert (bundle.arm, bundle.license) == (Arm.PRETRAINED, "Apache-2.0")
    assert bundle.training["start"]["bundle"] == "start"
    assert bundle.training["data"] == "3 phantoms"
    assert bundle.training["config"]["split"]["validation"] == ["phantom-0002"]
    schedule = bundle.training["config"]
    assert (schedule["learning_rate"], schedule["encoder_learning_rate"]) == (0.001, 0.0001)
    assert bundle.metrics["validation"]["cohort"]
    study = a_study(task)
    result = predict(study.case, bundle, gland=study.gland)
    assert result.class_probabilities if task == "classification" else result.images


@pytest.mark.parametrize(("options", "family"), [([], "profound"), (["--encoder", "provicnet"], "provicnet")])
def test_either_encoder_is_pretrained_on_tissue(tmp_path, options, family):
    start = tmp_path / "start"
    arguments = ["pretrain", "--pretext", "synthetic", *options, "--phantoms", "1", "--steps", "1", "-o", str(start)]
    assert main(arguments) == 0
    bundle = read_bundle(start)
    verify(bundle)
    assert (bundle.spec.family, bundle.spec.task, bundle.spec.head.kind) == (family, None, "none")
    assert (bundle.training["pretext"], bundle.license) == ("synthetic", "Apache-2.0")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_task_starts_from_its_familys_pretraining(tmp_path, family):
    cases = [a_study("lesion-segmentation", seed) for seed in (0, 1)]
    pretext = pretext_task("mae" if family == "profound" else "contrastive")
    config = PretrainConfig(pretext, TrainConfig(steps=1, learning_rate=1e-3))
    run = pretrain(config, cases, tmp_path / "work")
    weights = bundle_encoder_weights(write_pretrained(config, run, tmp_path / "start", data="two", cases=cases))
    for task in TASKS:
        spec = tiny_study_spec(family, task)
        network = build_network(spec)
        load_encoder(network, spec, weights)
        for name, tensor in encoder_weights(network.state_dict(), spec).items():
            assert torch.equal(tensor, weights[name]), name


def test_a_stopped_arm_goes_on_and_becomes_the_same_bundle(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(line, part):
        if part == 0.5:
            raise StoppedError

    task = "anatomy-segmentation"
    cases = studies(task)
    train = TrainConfig(steps=4, checkpoint_every=2)
    config = FinetuneConfig(network_to_train("provicnet", task), cases.split, train)
    with pytest.raises(StoppedError):
        finetune(config, cases, checkpoint_folder(tmp_path / "one"), on_progress=stop)
    assert [path.name for path in checkpoint_folder(tmp_path / "one").iterdir()] == [CHECKPOINT]
    written = []
    for name in ("one", "other"):
        run = finetune(config, cases, checkpoint_folder(tmp_path / name))
        written.append(write_arm(config, run, cases, tmp_path / name, data="two", init=None, license="CC0-1.0"))
    assert written[0].weights_sha256 == written[1].weights_sha256
    assert written[0].arm is Arm.SCRATCH
    assert [point["step"] for point in run.history] == [1, 2, 3, 4]
    assert all("score" in point for point in run.history)


def test_a_name_of_masks_that_no_case_has_is_refused(tmp_path, capsys):
    write_case(tmp_path / "data" / "p0", 0, "gland")
    words = ["finetune", "adc-translation", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "x"), "--gland"]
    assert main([*words, "typo"]) == 1
    assert "'typo'" in capsys.readouterr().err


def test_an_encoder_of_another_family_starts_no_training(tmp_path, capsys, monkeypatch):
    start = tmp_path / "start"
    assert main(["pretrain", "--pretext", "mae", "--phantoms", "1", "--steps", "1", "-o", str(start)]) == 0
    monkeypatch.setattr("VFMTransferLib.training.cases.make_phantom", None)  # a call would be another error
    few = ["--phantoms", "2", "--validation", "1", "--steps", "1", "-o", str(tmp_path / "out")]
    assert main(["finetune", "classification", "--encoder", "provicnet", "--init", str(start), *few]) == 1
    assert "provicnet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["finetune", "cooking"], "TASK"),
        (["finetune", "classification", "--encoder", "resnet", "--init", "scratch"], "--encoder"),
        (["finetune", "classification", "--encoder", "profound"], "--init"),
        (["finetune", "data", "--recipe", "r.json"], "--arm"),
        (["pretrain"], "--pretext"),
        (["pretrain", "--pretext", "jigsaw"], "--pretext"),
        (["pretrain", "--pretext", "mae", "--seed", "-1"], "--seed"),
        (["pretrain", "--pretext", "mae", "--phantoms", "0"], "--phantoms"),
        (["pretrain", "--pretext", "mae", "--encoder", "dynunet"], "--encoder"),
        (["pretrain", "images", "--pretext", "synthetic"], "phantoms"),
        (["pretrain", "images", "--pretext", "mae", "--phantoms", "3"], "--phantoms"),
        (["finetune", "classification", "--data", "d", "--validation", "6"], "--validation"),
        (["finetune", "classification", "--gland", "gland"], "--gland"),
        (["finetune", "classification", "--learning-rate", "0"], "--learning-rate"),
        (["finetune", "classification", "--encoder-learning-rate", "inf"], "--encoder-learning-rate"),
        (["finetune", "classification", "--patience", "abc"], "--patience"),
        (["finetune", "d", "--recipe", "r.json", "--arm", "scratch", "--learning-rate", "1e-4"], "--learning-rate"),
    ],
)
def test_wrong_usage_names_the_option(words, key, capsys):
    with pytest.raises(SystemExit) as left:
        main([*words, "-o", "x"])
    assert left.value.code == 2
    assert key in capsys.readouterr().err
