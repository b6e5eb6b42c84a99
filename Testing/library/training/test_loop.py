"""Schedule, weight decay, averaging, checkpoints, and the order of cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from VFMTransferLib.core.decoding import to_json
from VFMTransferLib.core.errors import CheckpointError, DivergedError
from VFMTransferLib.training.distributed import DistributedContext
from VFMTransferLib.training.loop import (
    Run,
    Schedule,
    build_optimizer,
    choose_case,
    draw_samples,
    part_seed,
    read_checkpoint,
    run_record,
)


def a_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))


def a_run(network: nn.Module, schedule: Schedule) -> Run:
    return Run.start(network, schedule, lambda network, x: network(x).square()[:, 0].mean())


def test_the_rate_rises_then_falls_to_zero():
    schedule = Schedule(100, learning_rate=1.0, warm_up=0.1)
    assert [schedule.rate(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule.rate(10) == 1.0
    assert schedule.rate(55) == pytest.approx(0.5)
    assert 0 < schedule.rate(99) < 0.001


def test_with_patience_the_rate_stays_until_the_score_does_and_then_falls():
    schedule = Schedule(100, learning_rate=1.0, warm_up=0.1, patience=0.2)
    assert [schedule.rate(step) for step in (9, 50, 79, 80)] == [1.0] * 4  # the budget's last fifth
    assert schedule.rate(90) == pytest.approx(0.5)
    assert schedule.end(None) == 100
    assert schedule.end(40) == 60
    assert schedule.rate(39, 40) == schedule.rate(40, 40) == 1.0
    assert schedule.rate(50, 40) == pytest.approx(0.5)
    assert 0 < schedule.rate(59, 40) < 0.01


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.1, 0.1], None),  # the last fifth decides nothing
        ([0.1, 0.5, 0.4, 0.4, 0.6], 40),
        ([0.1, 0.5, 0.4, 0.6, 0.5, 0.6], 60),
        ([float("nan"), 0.5, float("nan"), 0.2], 40),
        ([float("nan")] * 8, None),
    ],
)
def test_a_plateau_is_where_the_best_score_is_older_than_the_patience(scores, expected):
    points = [(10 * (place + 1), score) for place, score in enumerate(scores)]
    assert Schedule(100, patience=0.2).plateau(points) == expected
    assert Schedule(100).plateau(points) is None


@pytest.mark.parametrize("patience", [0.0, 1.5, -0.1])
def test_patience_is_a_part(patience):
    with pytest.raises(ValueError, match="Patience must be a part"):
        Schedule(10, patience=patience)


def test_the_time_of_a_training_is_of_its_steps_alone(tmp_path, monkeypatch):
    """Cases are read and prepared by whichever run shows them first."""
    now = [0.0]
    monkeypatch.setattr(DistributedContext, "clock", lambda _context: now[0])

    def loss(network, x):
        now[0] += 1
        return network(x).square()[:, 0].mean()

    def batches(_step):
        now[0] += 100
        return [(torch.ones(1, 3),)]

    run = Run.start(a_network(), Schedule(3), loss)
    run.train(tmp_path / "checkpoint.pt", "a", batches, 0, measure=lambda losses: {}, measure_every=3)
    assert run.seconds == 3


def converging(folder, scores, stop_at=None) -> Run:
    """A training that is measured in every step."""
    run = a_run(a_network(), Schedule(20, checkpoint_every=3, patience=0.2))
    told = iter(scores)

    def measure(_losses):
        return {"score": next(told)}

    def batches(step):
        if step == stop_at:
            raise KeyboardInterrupt
        return [(torch.full((1, 3), float(step)),)]

    run.train(folder / "c.pt", "me", batches, 0, measure=measure, measure_every=1, score=lambda entry: entry["score"])
    return run


def test_a_training_ends_when_its_score_has_not_improved_and_resumes_as_it_was(tmp_path):
    scores = [0.1, 0.2, 0.3] + [0.3] * 20
    whole = converging(tmp_path / "whole", scores)
    assert (whole.plateau, whole.step, whole.ended) == (7, 11, "plateau")  # 4 steps without a gain, 4 to cool down
    for stop_at, measured in ((8, 6), (10, 9), (2, 0)):
        folder = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(KeyboardInterrupt):
            converging(folder, scores, stop_at)
        resumed = converging(folder, scores[measured:])
        assert resumed.history == whole.history
        assert torch.equal(resumed.average["0.weight"], whole.average["0.weight"])
    again = converging(tmp_path / "whole", [])
    assert (again.step, again.history) == (whole.step, whole.history)
    assert read_checkpoint(tmp_path / "whole" / "c.pt")["finished"]


def test_a_training_that_improves_to_the_end_takes_its_budget_and_is_marked(tmp_path):
    run = converging(tmp_path, [0.01 * step for step in range(20)])
    assert (run.step, run.plateau, run.ended) == (20, None, "budget")
    assert run_record(run)["ended"] == "budget"
    assert "ended" not in run_record(a_run(a_network(), Schedule(3)))


@pytest.mark.parametrize(("key", "value"), [("patience", 0.5), ("encoder_learning_rate", 1e-4)])
def test_what_is_left_at_its_default_keeps_its_checksum(key, value):
    assert key not in to_json(Schedule(3))
    assert to_json(Schedule(3, **{key: value}))[key] == value


def test_only_matrices_decay():
    network = a_network()
    decayed, others = build_optimizer(network, Schedule(1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 3)]
    assert decayed["weight_decay"] == 0.05
    assert len(others["params"]) == 3
    assert others["weight_decay"] == 0


def test_the_encoder_goes_at_its_own_rate():
    schedule = Schedule(10, learning_rate=1e-2, encoder_learning_rate=1e-4)
    before = a_network()
    run = Run.start(
        a_network(), schedule, lambda network, x: network(x).square()[:, 0].mean(), encoder={"0.weight", "0.bias"}
    )
    for step in range(3):
        run.learn([(torch.ones(1, 3),)], seed=step)
        rates = [(len(group["params"]), group["lr"]) for group in run.optimizer.param_groups]
        rate = schedule.rate(step)
        assert rates == [(0, rate), (2, rate), (1, pytest.approx(rate / 100)), (1, pytest.approx(rate / 100))]
    moved = {name: (p - before.get_parameter(name)).abs().max() for name, p in run.network.named_parameters()}
    assert 0 < moved["0.weight"] < 1e-3 < moved["1.bias"]  # Adam's first steps are as long as the rate


def test_the_average_by_hand():
    network = a_network()
    run = a_run(network, Schedule(2, averaging=0.5))
    first = network[0].weight.detach().clone()
    run.learn([(torch.ones(1, 3),)], seed=0)
    second = network[0].weight.detach().clone()
    decay = min(0.5, 1 / 11)
    torch.testing.assert_close(run.average["0.weight"], decay * first + (1 - decay) * second)


@pytest.mark.parametrize(("precision", "advice"), [("float32", "rate."), ("bfloat16", "rate or precision float32.")])
def test_a_step_that_is_no_number_stops_the_run_before_it_changes_a_weight(precision, advice):
    network = a_network()
    run = a_run(network, Schedule(2, precision=precision))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(DivergedError, match="at step 0 they are not") as caught:
        run.learn([(torch.full((1, 3), torch.nan),)], seed=0)
    assert str(caught.value).endswith(f"Train again with a lower learning {advice}")
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_checkpoint_holds_tensors_only_and_brings_all_back(tmp_path):
    run = a_run(a_network(), Schedule(3))
    run.learn([(torch.ones(1, 3),)], seed=0)
    run.history.append({"step": 1, "loss": 0.5})
    run.save(tmp_path / "c.pt", "me")
    torch.load(tmp_path / "c.pt", weights_only=True)
    other = a_run(a_network(), Schedule(3))
    other.resume(tmp_path / "c.pt", "me")
    assert other.step == 1
    assert other.history == run.history
    assert torch.equal(other.network[0].weight, run.network[0].weight)
    assert torch.equal(other.average["0.weight"], run.average["0.weight"])
    moment = other.optimizer.state_dict()["state"][0]["exp_avg"]
    assert torch.equal(moment, run.optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize("content", [b"half", b""])
def test_a_damaged_checkpoint_is_named_and_kept(tmp_path, content):
    path = tmp_path / "a-training" / "checkpoint.pt"
    path.parent.mkdir()
    path.write_bytes(content)
    message = r"a-training/checkpoint\.pt must be whole, but is damaged\. Restore it .* or remove it"
    with pytest.raises(CheckpointError, match=message):
        a_run(a_network(), Schedule(3)).resume(path, "me")
    assert path.read_bytes() == content
    torch.save({"identity": "me", "step": 1, "history": []}, path)  # weights are lacking
    with pytest.raises(CheckpointError, match=message):
        a_run(a_network(), Schedule(3)).resume(path, "me")


@pytest.mark.parametrize("document", [[1.0, 2.0], {"identity": "me", "step": 1}, {"network": {}}])
def test_a_file_that_is_no_checkpoint_counts_as_damaged(tmp_path, document):
    path = tmp_path / "a-training" / "checkpoint.pt"
    path.parent.mkdir()
    torch.save(document, path)
    with pytest.raises(CheckpointError, match=r"a-training/checkpoint\.pt must be whole, but is damaged"):
        read_checkpoint(path)


def test_no_two_seeds_share_a_shuffle():
    cases = list(range(100))
    shuffles = {
        (seed, epoch): tuple(choose_case(100 * epoch + place, seed, cases, [], 0.0) for place in cases)
        for seed in range(3)
        for epoch in range(13)
    }
    assert len(set(shuffles.values())) == 39
    assert all(sorted(order) == cases for order in shuffles.values())


def test_streams_of_neighboring_seeds_and_steps_differ_and_repeat():
    def drawn(seed: int, step: int) -> list[float]:
        parts = draw_samples(DistributedContext(), 2, seed, step, lambda _, own: float(torch.rand(1, generator=own)))
        return parts[0]

    values = [value for seed in (0, 1) for step in (0, 1, 2) for value in drawn(seed, step)]
    assert len(set(values)) == 12
    assert drawn(1, 2) == values[-2:]
    assert len({part_seed(seed, step, part) for seed in (0, 1) for step in (0, 1) for part in (0, 1)}) == 8


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16, got 'half'"):
        Schedule(1, precision="half")
    with pytest.raises(ValueError, match="at least 1"):
        Schedule(0)


def test_each_epoch_shows_each_case_once():
    cases = ["a", "b", "c"]
    shown = [choose_case(step, 5, cases, [], 0.5) for step in range(9)]
    for start in (0, 3, 6):
        assert sorted(shown[start : start + 3]) == cases


def test_phantoms_take_their_share_of_the_steps():
    cases, phantoms = ["case"], ["phantom"]
    shown = [choose_case(step, 0, cases, phantoms, 0.25) for step in range(400)]
    assert 70 < shown.count("phantom") < 130
