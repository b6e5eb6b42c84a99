"""Both arms are one training but for where the encoder starts; a run may stop at any moment."""

from __future__ import annotations

import pytest
import torch
from training_cases import tiny_case, tiny_cases, tiny_config, tiny_spec, tiny_training_case

from VFMTransferLib import finetune as module
from VFMTransferLib.dataset import Split, TrainingCase, training_case
from VFMTransferLib.errors import CheckpointError, DatasetError
from VFMTransferLib.finetune import averaged_network, finetune, gland_dice, initial_network
from VFMTransferLib.models.network import build_network
from VFMTransferLib.optimization import CHECKPOINT, Schedule
from VFMTransferLib.terms import Arm, Label


@pytest.fixture
def an_encoder() -> dict[str, torch.Tensor]:
    torch.manual_seed(77)
    return {name: torch.randn_like(t) * 0.1 for name, t in build_network(tiny_spec()).encoder.state_dict().items()}


def seen_by(monkeypatch, arm: Arm, folder, encoder=None) -> list[tuple[str, torch.Tensor, float]]:
    """Case, image and learning rate of each step of an arm."""
    seen = []
    plain_sample, plain_rate = module.sample_view, Schedule.rate

    def sample(case: TrainingCase, *rest):
        view = plain_sample(case, *rest)
        if len(rest) == 3:  # with augmentation: a training step
            seen.append([case.id, view.image.clone(), None])
        return view

    def rate(schedule: Schedule, step: int) -> float:
        seen[-1][2] = plain_rate(schedule, step)
        return seen[-1][2]

    monkeypatch.setattr(module, "sample_view", sample)
    monkeypatch.setattr(Schedule, "rate", rate)
    finetune(tiny_config(), arm, tiny_cases(), folder, encoder=encoder)
    monkeypatch.undo()
    return [tuple(step) for step in seen]


def test_the_arms_start_from_the_same_weights_but_for_the_encoder(an_encoder):
    config = tiny_config()
    scratch = initial_network(config, Arm.SCRATCH, None).state_dict()
    pretrained = initial_network(config, Arm.PRETRAINED, an_encoder).state_dict()
    for name, tensor in scratch.items():
        if name.startswith("encoder."):
            assert torch.equal(pretrained[name], an_encoder[name.removeprefix("encoder.")]), name
        else:
            assert torch.equal(pretrained[name], tensor), name


def test_the_arms_see_the_same_views_at_the_same_rates(monkeypatch, tmp_path, an_encoder):
    scratch = seen_by(monkeypatch, Arm.SCRATCH, tmp_path / "a")
    pretrained = seen_by(monkeypatch, Arm.PRETRAINED, tmp_path / "b", an_encoder)
    assert len(scratch) == len(pretrained) == 4
    for a, b in zip(scratch, pretrained, strict=True):
        assert a[0] == b[0]
        assert a[2] == b[2]
        assert torch.equal(a[1], b[1])


def test_an_arm_and_its_start_must_belong_together(an_encoder):
    with pytest.raises(ValueError, match="must start from"):
        initial_network(tiny_config(), Arm.SCRATCH, an_encoder)
    with pytest.raises(ValueError, match="must start from"):
        initial_network(tiny_config(), Arm.PRETRAINED, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_ends_as_an_unbroken_one(monkeypatch, tmp_path, error):
    config, cases = tiny_config(steps=5), tiny_cases()
    whole = finetune(config, Arm.SCRATCH, cases, tmp_path / "whole")
    plain, shown = module.sample_view, []

    def stop_in_the_fourth_step(case, *rest):
        shown.append(case.id)
        if len(shown) == 5:  # three views, one measurement, one view
            raise error
        return plain(case, *rest)

    monkeypatch.setattr(module, "sample_view", stop_in_the_fourth_step)
    with pytest.raises(error):
        finetune(config, Arm.SCRATCH, cases, tmp_path / "stopped")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [CHECKPOINT]
    resumed = finetune(config, Arm.SCRATCH, cases, tmp_path / "stopped")
    assert resumed.history == whole.history
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, resumed.average[name]), name


def test_a_finished_run_is_not_trained_again(tmp_path):
    config, cases = tiny_config(), tiny_cases()
    first = finetune(config, Arm.SCRATCH, cases, tmp_path)
    again = finetune(config, Arm.SCRATCH, cases, tmp_path)
    assert again.step == first.step
    assert again.history == first.history


def test_a_checkpoint_of_the_other_arm_is_refused(tmp_path, an_encoder):
    finetune(tiny_config(), Arm.SCRATCH, tiny_cases(), tmp_path)
    with pytest.raises(CheckpointError, match="is of another"):
        finetune(tiny_config(), Arm.PRETRAINED, tiny_cases(), tmp_path, encoder=an_encoder)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="is damaged"):
        finetune(tiny_config(), Arm.SCRATCH, tiny_cases(), tmp_path)


def test_test_cases_are_measured_but_do_not_train(monkeypatch, tmp_path):
    seen = seen_by(monkeypatch, Arm.SCRATCH, tmp_path)
    assert {case for case, _, _ in seen} == {"case-0", "case-1"}
    run = finetune(tiny_config(), Arm.SCRATCH, tiny_cases(), tmp_path)
    assert [entry["step"] for entry in run.history] == [2, 4]
    assert all(0 <= entry["dice case-2"] <= 1 for entry in run.history)


def test_missing_cases_are_named(tmp_path):
    cases = tiny_cases()
    del cases["case-1"]
    with pytest.raises(DatasetError, match="lacks case-1"):
        finetune(tiny_config(), Arm.SCRATCH, cases, tmp_path)


def test_training_learns_a_bright_ellipsoid(tmp_path):
    config = tiny_config(steps=60, split=Split(("case-0", "case-1")), drop_path=0.0, measure_every=60)
    run = finetune(config, Arm.SCRATCH, tiny_cases(), tmp_path)
    case, mask = tiny_case(8)
    unseen = training_case(case, config.model, {Label.PROSTATE: mask})
    view = module.sample_view(unseen, config.model.preprocess, torch.Generator())
    assert gland_dice(averaged_network(run, config.model), view) > 0.6


def test_a_network_with_zones_trains_on_the_gland_alone(tmp_path):
    spec = tiny_spec(out_channels=3)
    config = tiny_config(model=spec, split=Split(("case-0",)), measure_every=4)
    run = finetune(config, Arm.SCRATCH, {"case-0": tiny_training_case(0, spec)}, tmp_path)
    assert run.history[-1]["loss"] > 0


def test_bfloat16_trains_too(tmp_path):
    config = tiny_config(schedule=Schedule(2, precision="bfloat16"))
    run = finetune(config, Arm.SCRATCH, tiny_cases(), tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in run.average.values())
