"""From the command line to a bundle that predicts: pretraining, both arms, going on after a stop."""

from __future__ import annotations

import pytest
import torch
from prediction_cases import predict
from specs import demonstration, demonstration_encoder, published
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


@pytest.mark.parametrize("family", FAMILIES)
def test_all_tasks_of_a_family_share_one_encoder_and_are_small(family):
    specs = [demonstration(family, task) for task in TASKS]
    assert len({spec.encoder for spec in specs}) == 1
    for spec in specs:
        assert sum(p.numel() for p in build_network(spec).parameters()) < 3e6
        assert published(family, spec.task).labels == spec.labels
    assert demonstration("profound", "classification").encoder == demonstration_encoder().encoder


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


@pytest.mark.parametrize("pretext", ["mae", "contrastive"])
def test_pretraining_reads_a_folder_of_cases(tmp_path, pretext):
    for seed in range(2):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland", "lesion")
    start = tmp_path / "start"
    assert main(["pretrain", str(tmp_path / "cases"), "--pretext", pretext, "--steps", "1", "-o", str(start)]) == 0
    bundle = read_bundle(start)
    assert (bundle.training["data"], bundle.license) == ("cases", "unknown")


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


def test_cases_that_lack_the_mask_that_others_have_are_counted(tmp_path, capsys):
    for seed, stems in enumerate((("gland",), ("gland",), ())):
        write_case(tmp_path / f"p{seed}", seed, *stems)
    words = ["finetune", "super-resolution", "--data", str(tmp_path), "-o", "x"]
    with pytest.raises(SystemExit):
        main(words)  # gets as far as the encoder, which is missing
    assert "Note: 1 of 3 cases have no mask 'gland'. Where the task can do without" in capsys.readouterr().err
    for number in (0, 1):
        (tmp_path / f"p{number}" / "gland.nii.gz").unlink()
    with pytest.raises(SystemExit):
        main(words)
    assert "no mask" not in capsys.readouterr().err  # all are alike


def test_a_name_of_masks_that_no_case_has_is_refused(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    write_case(tmp_path / "elsewhere" / "p0", 0, "gland")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p0").symlink_to(tmp_path / "elsewhere" / "p0")
    words = ["finetune", "adc-translation", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "x"), "--gland"]
    assert main([*words, "typo"]) == 1
    assert "but no case has 'typo'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "gland"])  # gets as far as the encoder, which is missing
    assert "--encoder must be profound or" in capsys.readouterr().err


def test_an_encoder_of_another_family_starts_no_training(tmp_path, capsys, monkeypatch):
    start = tmp_path / "start"
    assert main(["pretrain", "--pretext", "mae", "--phantoms", "1", "--steps", "1", "-o", str(start)]) == 0
    monkeypatch.setattr("VFMTransferLib.training.cases.make_phantom", None)  # a call would be another error
    few = ["--phantoms", "2", "--validation", "1", "--steps", "1", "-o", str(tmp_path / "out")]
    assert main(["finetune", "classification", "--encoder", "provicnet", "--init", str(start), *few]) == 1
    assert "cannot initialize provicnet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_said(capsys):
    for arguments, message in (
        (["finetune", "cooking", "-o", "x"], "TASK must be one of anatomy-segmentation"),
        (["finetune", "classification", "--encoder", "resnet", "--init", "scratch", "-o", "x"], "must be profound or"),
        (["finetune", "classification", "--encoder", "profound", "-o", "x"], "--init a bundle or scratch"),
        (["finetune", "data", "--recipe", "r.json", "-o", "x"], "--recipe needs --arm"),
        (["pretrain", "-o", "x"], "name a --pretext task"),
        (["pretrain", "--pretext", "mae", "--phantoms", "0", "-o", "x"], "must be a whole number of 1 or more"),
        (["pretrain", "--pretext", "mae", "--encoder", "dynunet", "-o", "x"], "--encoder must be one of profound"),
        (["pretrain", "images", "--pretext", "synthetic", "-o", "x"], "is learned from phantoms"),
        (["pretrain", "images", "--pretext", "mae", "--phantoms", "3", "-o", "x"], "--phantoms has no effect beside"),
        (["finetune", "classification", "--data", "d", "--validation", "6", "-o", "x"], "--validation has no effect"),
        (["finetune", "classification", "--gland", "gland", "-o", "x"], "--gland has no effect beside --data phantoms"),
        (["finetune", "classification", "--learning-rate", "0", "-o", "x"], "rate: must be a finite number above 0"),
        (
            ["finetune", "classification", "--encoder-learning-rate", "inf", "-o", "x"],
            "must be a finite number above 0",
        ),
        (["finetune", "classification", "--patience", "abc", "-o", "x"], "must be a number above 0 and at most 1"),
        (["finetune", "classification", "--ahead", "-3", "-o", "x"], "--ahead: must be a whole number of 0 or more"),
        (["finetune", "classification", "--steps", "0", "-o", "x"], "--steps: must be a whole number of 1 or more"),
        (["pretrain", "--pretext", "mae", "--steps", "0", "-o", "x"], "--steps: must be a whole number of 1 or more"),
        (
            ["finetune", "d", "--recipe", "r.json", "--arm", "scratch", "--encoder-learning-rate", "1e-4", "-o", "x"],
            "no --encoder-learning-rate",
        ),
        (["pretrain", "--pretext", "mae", "--learning-rate", "-1", "-o", "x"], "must be a finite number above 0"),
        (["pretrain", "d", "--recipe", "r.json", "--learning-rate", "1e-4", "-o", "x"], "no --learning-rate"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
        assert message in capsys.readouterr().err
