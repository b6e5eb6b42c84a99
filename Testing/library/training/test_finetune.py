"""Both arms are one training but for the encoders' initialization; a run may stop at any moment."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial

import pytest
import torch
from study_examples import CELLS, FAMILIES, a_study, tiny_study_config, tiny_study_spec, unvaried
from torch import Generator
from training_cases import tiny_config, tiny_dataset, tiny_labeled_case, tiny_spec

from VFMTransferLib.core.errors import CheckpointError, DatasetError
from VFMTransferLib.core.terms import Arm, Sequence
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.weights import encoder_parameters, encoder_weights
from VFMTransferLib.tasks import Scores, score_case, score_results
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.training import Objective, collate
from VFMTransferLib.training.augmentation import NO_AUGMENTATION
from VFMTransferLib.training.cases import LabeledDataset, LazyCases, Split
from VFMTransferLib.training.finetune import (
    Initialization,
    averaged_network,
    finetune,
    initial_network,
    results_of,
)
from VFMTransferLib.training.loop import CHECKPOINT, Schedule
from VFMTransferLib.training.samples import CropSamples, samples_of


@pytest.fixture
def an_encoder() -> Initialization:
    torch.manual_seed(77)
    encoder = build_network(tiny_spec()).encoder
    return Initialization({name: torch.randn_like(t) * 0.1 for name, t in encoder.state_dict().items()})


def seen_by(monkeypatch, folder, init=None) -> list[tuple[str, torch.Tensor, float]]:
    """Case, image and learning rate of each step of an arm."""
    seen = []
    plain_sample, plain_rate = CropSamples.sample, Schedule.rate

    def sample(samples: CropSamples, *rest):
        shown = plain_sample(samples, *rest)
        seen.append([samples.id, shown.inputs[0].clone(), None])
        return shown

    def rate(schedule: Schedule, step: int, _plateau: int | None) -> float:
        seen[-1][2] = plain_rate(schedule, step)
        return seen[-1][2]

    monkeypatch.setattr(CropSamples, "sample", sample)
    monkeypatch.setattr(Schedule, "rate", rate)
    finetune(tiny_config(), tiny_dataset(), folder, init=init)
    monkeypatch.undo()
    return [tuple(step) for step in seen]


def a_random_encoder(family: str) -> Initialization:
    """As pretraining leaves it: of ProFound one, of ProViCNet one a sequence."""
    spec = tiny_study_spec(family, "lesion-segmentation")
    torch.manual_seed(99)
    weights = encoder_weights(build_network(spec).state_dict(), spec)
    return Initialization({name: torch.randn_like(tensor) * 0.1 for name, tensor in weights.items()})


def a_dataset(task: str) -> LabeledDataset:
    cases = {study.case.id: study for study in (a_study(task, 0), a_study(task, 1))}
    return LabeledDataset(Split(tuple(cases)), cases)


def test_the_arms_have_the_same_initial_weights_but_for_the_encoder(an_encoder):
    config = tiny_config()
    scratch = initial_network(config, None).state_dict()
    pretrained = initial_network(config, an_encoder).state_dict()
    for name, tensor in scratch.items():
        if name.startswith("encoder."):
            assert torch.equal(pretrained[name], an_encoder.weights[name.removeprefix("encoder.")]), name
        else:
            assert torch.equal(pretrained[name], tensor), name


def test_the_arms_see_the_same_views_at_the_same_rates(monkeypatch, tmp_path, an_encoder):
    scratch = seen_by(monkeypatch, tmp_path / "a")
    pretrained = seen_by(monkeypatch, tmp_path / "b", an_encoder)
    assert len(scratch) == len(pretrained) == 4
    for a, b in zip(scratch, pretrained, strict=True):
        assert a[0] == b[0]
        assert a[2] == b[2]
        assert torch.equal(a[1], b[1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_ends_as_an_unbroken_one(monkeypatch, tmp_path, error):
    config = tiny_config(steps=5, split=Split(("case-0", "case-1"), ("case-2",)))
    whole = finetune(config, tiny_dataset(), tmp_path / "whole")
    plain, shown = CropSamples.sample, []

    def stop_in_the_fourth_step(samples, *rest):
        shown.append(samples.id)
        if len(shown) == 4:
            raise error
        return plain(samples, *rest)

    monkeypatch.setattr(CropSamples, "sample", stop_in_the_fourth_step)
    with pytest.raises(error):
        finetune(config, tiny_dataset(), tmp_path / "stopped")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [CHECKPOINT]
    resumed = finetune(config, tiny_dataset(), tmp_path / "stopped")
    assert resumed.history == whole.history
    assert resumed.seconds > 0
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, resumed.average[name]), name


def test_patience_needs_cases_that_validate(tmp_path):
    config = tiny_config()
    config = replace(config, schedule=replace(config.schedule, patience=0.5))
    with pytest.raises(DatasetError, match="with patience must have cases that validate"):
        finetune(config, tiny_dataset(), tmp_path)


def test_a_part_of_a_classifiers_batch_holds_two_samples_or_more(tmp_path):
    config = tiny_study_config("profound", "classification", batch=1)
    with pytest.raises(DatasetError, match=r"must see 2 or more samples at a time.*sees 1 \(a batch of 1 in 1\)"):
        finetune(config, a_dataset("classification"), tmp_path)


def test_with_patience_validation_ends_a_run(tmp_path, monkeypatch):
    config = tiny_config(steps=20, measure_every=1, split=Split(("case-0", "case-1"), ("case-2",)))
    config = replace(config, schedule=replace(config.schedule, patience=0.1))
    told = iter([0.5, 0.4, 0.4, *[0.6] * 20])
    scores = lambda *_: Scores("anatomy-segmentation", (), {"dice": next(told)})  # noqa: E731
    monkeypatch.setattr("VFMTransferLib.training.finetune.score_results", scores)
    run = finetune(config, tiny_dataset(), tmp_path)
    assert (run.plateau, run.step, run.ended) == (3, 7, "plateau")


def test_cases_that_validate_are_read_in_their_turn_and_not_held(tmp_path):
    """However many there are; and one that is unfit is an error before the first step."""
    held = []

    def read(seed: int) -> LabeledCase:
        gc.collect()
        held.append(sum(type(thing) is LabeledCase for thing in gc.get_objects()) - before)
        return tiny_labeled_case(seed)

    names = tuple(f"case-{seed}" for seed in range(6))
    cases = LazyCases({name: (name, partial(read, seed)) for seed, name in enumerate(names)})
    config = tiny_config(split=Split(names[:1], names[1:]))
    gc.collect()
    before = sum(type(thing) is LabeledCase for thing in gc.get_objects())
    run = finetune(config, LabeledDataset(config.split, cases), tmp_path / "run")
    assert [entry["step"] for entry in run.history] == [2, 4]
    assert len(held) >= 1 + 3 * 5  # once before the first step, and at each measurement
    assert max(held) <= 2

    def unfit(_line, _share):
        pytest.fail("A step was made.")

    broken = LazyCases({name: (name, partial(read, 0)) for name in names[:5]} | {names[5]: (names[5], _raise)})
    with pytest.raises(DatasetError, match="unfit"):
        finetune(config, LabeledDataset(config.split, broken), tmp_path / "broken", on_progress=unfit)


def _raise() -> LabeledCase:
    raise DatasetError("unfit")


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = finetune(tiny_config(), tiny_dataset(), tmp_path)
    again = finetune(tiny_config(), tiny_dataset(), tmp_path)
    assert again.step == first.step
    assert again.history == first.history


def test_a_checkpoint_of_the_other_arm_is_refused(tmp_path, an_encoder):
    finetune(tiny_config(), tiny_dataset(), tmp_path)
    with pytest.raises(CheckpointError, match="is of another"):
        finetune(tiny_config(), tiny_dataset(), tmp_path, init=an_encoder)


@pytest.mark.parametrize("name", ["case-1", "case-2"])
def test_a_training_does_not_go_on_with_other_cases_of_the_same_names(tmp_path, name):
    dataset = tiny_dataset()
    finetune(tiny_config(), dataset, tmp_path)
    case = dataset.cases[name]
    t2w = case.case[Sequence.T2W]
    other = replace(case, case=replace(case.case, volumes={Sequence.T2W: t2w.with_array(t2w.array + 1)}))
    changed = replace(dataset, cases={**dataset.cases, name: other})
    if name in tiny_config().split.test:
        finetune(tiny_config(), changed, tmp_path)  # what tests decides nothing
        return
    with pytest.raises(CheckpointError, match="with these data, but is of one with other cases"):
        finetune(tiny_config(), changed, tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt must be whole, but is damaged\. Restore it"):
        finetune(tiny_config(), tiny_dataset(), tmp_path)


def test_test_cases_do_not_train(monkeypatch, tmp_path):
    seen = seen_by(monkeypatch, tmp_path / "seen")
    assert {case for case, _, _ in seen} == {"case-0", "case-1"}


def test_validation_cases_are_measured_on_the_way_but_do_not_train(monkeypatch, tmp_path):
    config = tiny_config(split=Split(("case-0", "case-1"), ("case-2",)))
    run = finetune(config, tiny_dataset(), tmp_path / "measured")
    assert [entry["step"] for entry in run.history] == [2, 4]
    assert all(0 <= entry["score"] == entry["dice"] <= 1 for entry in run.history)
    plain = finetune(tiny_config(), tiny_dataset(), tmp_path / "plain")
    assert all(torch.equal(tensor, plain.average[name]) for name, tensor in run.average.items())


def test_missing_cases_are_named(tmp_path):
    dataset = tiny_dataset()
    del dataset.cases["case-1"]
    with pytest.raises(DatasetError, match="lacks case-1"):
        finetune(tiny_config(), dataset, tmp_path)


def test_cases_that_the_start_was_learned_from_cannot_test(tmp_path, an_encoder):
    config = tiny_config()
    assert config.split.test == ("case-2",)
    known = replace(an_encoder, cases=frozenset({"case-2", "another"}))
    with pytest.raises(DatasetError, match=r"Cases that test must be new .* cases named case-2\. Start from"):
        finetune(config, tiny_dataset(), tmp_path / "known", init=known)
    assert not (tmp_path / "known").exists()
    new = replace(an_encoder, cases=frozenset(config.split.train))
    assert finetune(config, tiny_dataset(), tmp_path / "new", init=new).step == config.schedule.steps


@pytest.mark.long
def test_training_learns_a_bright_ellipsoid(tmp_path):
    config = tiny_config(steps=60, split=Split(("case-0", "case-1")), drop_path=0.0, measure_every=60)
    run = finetune(config, tiny_dataset(), tmp_path)
    results = results_of(averaged_network(run, config.model), config.model, [tiny_labeled_case(8)])
    assert score_results("anatomy-segmentation", results).cohort["dice"] > 0.6


def test_a_network_with_zones_trains_on_the_gland_alone(tmp_path):
    spec = tiny_spec(out_channels=3)
    config = tiny_config(model=spec, split=Split(("case-0",)), measure_every=4)
    run = finetune(config, tiny_dataset(), tmp_path)
    assert run.history[-1]["loss"] > 0


def test_bfloat16_trains_too(tmp_path):
    config = tiny_config(schedule=Schedule(2, precision="bfloat16"))
    run = finetune(config, tiny_dataset(), tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in run.average.values())


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_the_arms_differ_in_the_encoders_initial_weights_alone(family, task):
    config, encoder = tiny_study_config(family, task), a_random_encoder(family)
    arms = {arm: initial_network(config, encoder if arm is Arm.PRETRAINED else None).state_dict() for arm in Arm}
    own = encoder_weights(arms[Arm.PRETRAINED], config.model)
    of_encoder = {id(tensor) for tensor in own.values()}
    for name, tensor in own.items():
        assert torch.equal(tensor, encoder.weights[name]), name
    for name, tensor in arms[Arm.SCRATCH].items():
        if id(arms[Arm.PRETRAINED][name]) not in of_encoder:
            assert torch.equal(tensor, arms[Arm.PRETRAINED][name]), name  # batch norm's state too


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_the_encoder_and_nothing_else_has_the_encoders_rate(tmp_path, family):
    config = tiny_study_config(family, "distortion-correction", steps=2)
    config = replace(config, schedule=replace(config.schedule, encoder_learning_rate=1e-12))
    start = initial_network(config, None)
    run = finetune(config, a_dataset("distortion-correction"), tmp_path)
    encoder = encoder_parameters(start, config.model)
    assert 0 < len(encoder) < len(list(start.parameters()))
    for name, parameter in start.named_parameters():
        far = (run.network.get_parameter(name) - parameter).abs().max()
        assert (far < 1e-6) if name in encoder else (far > 0), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_arms_are_shown_the_same_at_the_same_rates(monkeypatch, tmp_path, family):
    task = "distortion-correction"
    config, shown = tiny_study_config(family, task), {}
    plain = Objective.loss
    for arm, init in ((Arm.SCRATCH, None), (Arm.PRETRAINED, a_random_encoder(family))):
        batches = shown[arm] = []
        monkeypatch.setattr(
            Objective, "loss", lambda self, n, batch, to=batches: (to.append(batch), plain(self, n, batch))[1]
        )
        run = finetune(config, a_dataset(task), tmp_path / arm, init=init)
        shown[arm] = [*batches, run.optimizer.param_groups[0]["lr"]]
    *first, first_rate = shown[Arm.SCRATCH]
    *second, second_rate = shown[Arm.PRETRAINED]
    assert len(first) == len(second) == 4
    assert first_rate == second_rate
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
        assert torch.equal(a.target, b.target)


@pytest.mark.long
@pytest.mark.parametrize(("family", "task"), CELLS)
def test_each_network_learns(tmp_path, family, task):
    # Little of the detail that super-resolution is asked for can be foretold, and it takes longer to be found.
    steps, bound = {"super-resolution": (150, 0.95), "distortion-correction": (24, 0.995)}.get(task, (24, 0.9))
    schedule = Schedule(steps, checkpoint_every=steps, learning_rate=6e-3)
    config, dataset = unvaried(tiny_study_config(family, task, steps=steps, schedule=schedule)), a_dataset(task)
    drawn_of = [samples_of(case, config.model) for case in dataset.cases.values()]
    batch = collate([samples.sample(Generator().manual_seed(7), NO_AUGMENTATION) for samples in drawn_of])
    run = finetune(config, dataset, tmp_path)
    networks = (initial_network(config, None), run.network.train())
    objective = Objective(config.model, (0.5, 0.5, 1.0, 1.0))
    with torch.no_grad():
        before, after = (float(objective.loss(network, batch)) for network in networks)
    assert after < bound * before
    assert run.seconds > 0


def test_a_stopped_run_of_slices_ends_as_an_unbroken_one(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(line, part):
        if part == 0.5:
            raise StoppedError

    task = "classification"
    config, dataset = tiny_study_config("provicnet", task), a_dataset(task)
    with pytest.raises(StoppedError):
        finetune(config, dataset, tmp_path / "stopped", on_progress=stop)
    resumed = finetune(config, dataset, tmp_path / "stopped")
    whole = finetune(config, dataset, tmp_path / "whole")
    for name, tensor in averaged_network(whole, config.model).state_dict().items():
        assert torch.equal(tensor, resumed.average[name]), name


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_a_network_is_validated_as_a_user_predicts(family, task):
    config = tiny_study_config(family, task)
    network = initial_network(config, None).eval()
    ((result, labeled),) = results_of(network, config.model, [a_study(task)])
    assert result.task == task
    assert score_case(result, labeled).values
