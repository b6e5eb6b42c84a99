"""Both arms are one training but for the encoders' initialization; a run may stop at any moment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from study_examples import CELLS, FAMILIES, a_study, tiny_study_config, tiny_study_spec, unvaried
from torch import Generator
from training_cases import changed, tiny_config, tiny_dataset, tiny_labeled_case, tiny_spec

from VFMTransferLib.core.errors import CheckpointError, DatasetError
from VFMTransferLib.core.terms import Arm, Sequence
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.weights import encoder_parameters, encoder_weights
from VFMTransferLib.tasks import Scores, score_case, score_results
from VFMTransferLib.tasks.training import Objective, collate
from VFMTransferLib.training.cases import LabeledDataset, LazyCases, Split
from VFMTransferLib.training.config import NO_AUGMENTATION
from VFMTransferLib.training.finetune import Initialization, averaged_network, finetune, initial_network, results_of
from VFMTransferLib.training.loop import CHECKPOINT
from VFMTransferLib.training.samples import CropSamples, samples_of

VALIDATED = Split(("case-0", "case-1"), ("case-2",))


def a_random_encoder(family: str) -> Initialization:
    """As pretraining leaves it: of ProFound one, of ProViCNet one a sequence."""
    spec = tiny_study_spec(family, "lesion-segmentation")
    torch.manual_seed(99)
    weights = encoder_weights(build_network(spec).state_dict(), spec)
    return Initialization({name: torch.randn_like(tensor) * 0.1 for name, tensor in weights.items()})


@pytest.fixture
def an_encoder() -> Initialization:
    return a_random_encoder("profound")


def a_dataset(task: str) -> LabeledDataset:
    cases = {study.case.id: study for study in (a_study(task, 0), a_study(task, 1))}
    return LabeledDataset(Split(tuple(cases)), cases)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_all_of_the_encoder_and_nothing_else_has_the_encoders_rate(tmp_path, family):
    config = tiny_study_config(family, "distortion-correction", steps=2, encoder_learning_rate=1e-12)
    start = initial_network(config, None)
    run = finetune(config, a_dataset("distortion-correction"), tmp_path)
    encoder = encoder_parameters(start, config.model)
    assert 0 < len(encoder) < len(list(start.parameters()))
    for name, parameter in start.named_parameters():
        far = (run.network.get_parameter(name) - parameter).abs().max()
        assert (far < 1e-6) if name in encoder else (far > 0), name


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_stopped_run_ends_as_an_unbroken_one(monkeypatch, tmp_path, error, prefetch):
    config = tiny_config(steps=5, split=VALIDATED)
    whole = finetune(config, tiny_dataset(), tmp_path / "whole")
    plain, shown = CropSamples.sample, []

    def stop_in_the_fourth_step(samples, *rest):
        shown.append(samples.id)
        if len(shown) == 4:
            raise error
        return plain(samples, *rest)

    monkeypatch.setattr(CropSamples, "sample", stop_in_the_fourth_step)
    with pytest.raises(error):
        finetune(config, tiny_dataset(), tmp_path / "stopped", prefetch=prefetch)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [CHECKPOINT]
    resumed = finetune(config, tiny_dataset(), tmp_path / "stopped", prefetch=prefetch)
    assert resumed.history == whole.history
    assert resumed.seconds > 0
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, resumed.average[name]), name
    again = finetune(config, tiny_dataset(), tmp_path / "stopped")
    assert (again.step, again.history) == (whole.step, whole.history)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    dataset = tiny_dataset()
    finetune(tiny_config(), dataset, tmp_path)

    def with_other(name):
        case = dataset.cases[name]
        t2w = case.case[Sequence.T2W]
        other = replace(case, case=replace(case.case, volumes={Sequence.T2W: t2w.with_array(t2w.array + 1)}))
        return replace(dataset, cases={**dataset.cases, name: other})

    finetune(tiny_config(), with_other("case-2"), tmp_path)  # what tests decides nothing
    encoder = {name: torch.zeros_like(t) for name, t in build_network(tiny_spec()).encoder.state_dict().items()}
    for cases, config, init in (
        (with_other("case-1"), tiny_config(), None),
        (dataset, tiny_config(seed=4), None),
        (dataset, tiny_config(), Initialization(encoder)),
    ):
        with pytest.raises(CheckpointError, match="another configuration or of other cases"):
            finetune(config, cases, tmp_path, init=init)


def test_with_patience_validation_ends_a_run(tmp_path, monkeypatch):
    config = tiny_config(steps=20, measure_every=1, split=VALIDATED, patience=0.1)
    told = iter([0.5, 0.4, 0.4, *[0.6] * 20])
    scores = lambda *_: Scores("anatomy-segmentation", (), {"dice": next(told)})  # noqa: E731
    monkeypatch.setattr("VFMTransferLib.training.finetune.score_results", scores)
    run = finetune(config, tiny_dataset(), tmp_path)
    assert (run.plateau, run.step, run.ended) == (3, 7, "plateau")


def test_validation_cases_are_measured_on_the_way_but_do_not_train(tmp_path):
    run = finetune(tiny_config(split=VALIDATED), tiny_dataset(), tmp_path / "measured")
    assert [entry["step"] for entry in run.history] == [2, 4]
    assert all(0 <= entry["score"] == entry["dice"] <= 1 for entry in run.history)
    plain = finetune(tiny_config(), tiny_dataset(), tmp_path / "plain")
    assert all(torch.equal(tensor, plain.average[name]) for name, tensor in run.average.items())


def test_a_training_that_cannot_be_is_refused_before_its_first_step(tmp_path, an_encoder):
    def unfit():
        raise DatasetError("unfit")

    config, known = tiny_config(), replace(an_encoder, cases=frozenset({"case-2"}))
    lacking = LabeledDataset(config.split, {"case-0": tiny_labeled_case(0)})
    broken = LazyCases({"case-0": ("0", lambda: tiny_labeled_case(0)), "case-1": ("1", unfit)})
    for dataset, how, init, word in (
        (lacking, config, None, "case-1"),
        (tiny_dataset(), config, known, "case-2"),
        (tiny_dataset(), changed(config, patience=0.5), None, "patience"),
        (LabeledDataset(config.split, broken), config, None, "unfit"),
        (a_dataset("classification"), tiny_study_config("profound", "classification", batch=1), None, "batch of 1"),
    ):
        with pytest.raises(DatasetError, match=word):
            finetune(how, dataset, tmp_path / "none", init=init)
    assert not (tmp_path / "none").exists()


def test_bfloat16_trains_too(tmp_path):
    run = finetune(tiny_config(steps=2, precision="bfloat16"), tiny_dataset(), tmp_path)
    assert all(tensor.dtype == torch.float32 for tensor in run.average.values())


@pytest.mark.long
def test_training_learns_a_bright_ellipsoid(tmp_path):
    config = tiny_config(steps=60, split=Split(("case-0", "case-1")), drop_path=0.0, measure_every=60)
    run = finetune(config, tiny_dataset(), tmp_path)
    results = results_of(averaged_network(run, config.model), config.model, [tiny_labeled_case(8)])
    assert score_results("anatomy-segmentation", results).cohort["dice"] > 0.6


@pytest.mark.long
@pytest.mark.parametrize(("family", "task"), CELLS)
def test_each_network_learns(tmp_path, family, task):
    # Little of the detail that super-resolution is asked for can be foretold, and it takes longer to be found.
    steps, bound = {"super-resolution": (150, 0.95), "distortion-correction": (24, 0.995)}.get(task, (24, 0.9))
    config = unvaried(tiny_study_config(family, task, steps=steps, checkpoint_every=steps))
    dataset = a_dataset(task)
    drawn_of = [samples_of(case, config.model) for case in dataset.cases.values()]
    batch = collate([samples.sample(Generator().manual_seed(7), NO_AUGMENTATION) for samples in drawn_of])
    run = finetune(config, dataset, tmp_path)
    networks = (initial_network(config, None), run.network.train())
    objective = Objective(config.model, (0.5, 0.5, 1.0, 1.0))
    with torch.no_grad():
        before, after = (float(objective.loss(network, batch)) for network in networks)
    assert after < bound * before


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_a_network_is_validated_as_a_user_predicts(family, task):
    config = tiny_study_config(family, task)
    network = initial_network(config, None).eval()
    ((result, labeled),) = results_of(network, config.model, [a_study(task)])
    assert result.task == task
    assert score_case(result, labeled).values
