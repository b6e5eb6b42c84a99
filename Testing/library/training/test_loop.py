"""Schedule, weight decay, averaging, checkpoints, and the order of cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from VFMTransferLib.core.errors import CheckpointError, DivergedError
from VFMTransferLib.training.config import TrainConfig
from VFMTransferLib.training.distributed import DistributedContext
from VFMTransferLib.training.loop import Run, build_optimizer, choose_case, draw_samples, part_seed, read_checkpoint


def a_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))


def a_run(network: nn.Module, encoder=frozenset(), **config) -> Run:
    loss = lambda network, x: network(x).square()[:, 0].mean()  # noqa: E731
    return Run.start(network, TrainConfig(**config), loss, encoder=encoder)


def test_the_rate_rises_then_falls_to_zero():
    config = TrainConfig(steps=100, learning_rate=1.0, warm_up=0.1)
    assert [config.rate(step) for step in (0, 4, 9, 10, 55)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5])
    assert 0 < config.rate(99) < 0.001


def test_with_patience_the_rate_stays_until_the_score_does_and_then_falls():
    config = TrainConfig(steps=100, learning_rate=1.0, warm_up=0.1, patience=0.2)
    assert [config.rate(step) for step in (9, 50, 80)] == [1.0] * 3
    assert config.rate(90) == pytest.approx(0.5)
    assert (config.end(None), config.end(40)) == (100, 60)
    assert [config.rate(step, 40) for step in (40, 50)] == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.1, 0.1], None),  # the last fifth decides nothing
        ([0.1, 0.5, 0.4, 0.4, 0.6], 40),
        ([float("nan"), 0.5, float("nan"), 0.2], 40),
        ([float("nan")] * 8, None),
    ],
)
def test_a_plateau_is_where_the_best_score_is_older_than_the_patience(scores, expected):
    points = [(10 * (place + 1), score) for place, score in enumerate(scores)]
    assert TrainConfig(steps=100, patience=0.2).plateau(points) == expected
    assert TrainConfig(steps=100).plateau(points) is None


def converging(folder, scores, stop_at=None) -> Run:
    """A training that is measured in every step."""
    run = a_run(a_network(), steps=20, checkpoint_every=3, patience=0.2)
    left = iter(scores)

    def batches(step):
        if step == stop_at:
            raise KeyboardInterrupt
        return [(torch.full((1, 3), float(step)),)]

    run.train(
        folder / "c.pt",
        "me",
        batches,
        measure=lambda _losses: {"score": next(left)},
        measure_every=1,
        score=lambda entry: entry["score"],
    )
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


def test_a_training_that_improves_to_the_end_takes_its_budget(tmp_path):
    run = converging(tmp_path, [0.01 * step for step in range(20)])
    assert (run.step, run.plateau, run.record["ended"]) == (20, None, "budget")
    assert "ended" not in a_run(a_network(), steps=3).record


def test_only_matrices_decay():
    decayed, others = build_optimizer(a_network(), TrainConfig(steps=1)).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 3)]
    assert (decayed["weight_decay"], others["weight_decay"], len(others["params"])) == (0.05, 0, 3)


def test_the_encoder_goes_at_its_own_rate():
    before, encoder = a_network(), {"0.weight", "0.bias"}
    run = a_run(a_network(), encoder, steps=10, learning_rate=1e-2, encoder_learning_rate=1e-4)
    for _ in range(3):
        rate = run.config.rate(run.step)
        run.learn([(torch.ones(1, 3),)])
        rates = [(len(group["params"]), group["lr"]) for group in run.optimizer.param_groups]
        assert rates == [(0, rate), (2, rate), (1, pytest.approx(rate / 100)), (1, pytest.approx(rate / 100))]
    moved = {name: (p - before.get_parameter(name)).abs().max() for name, p in run.network.named_parameters()}
    assert 0 < moved["0.weight"] < 1e-3 < moved["1.bias"]  # Adam's first steps are as long as the rate


def test_the_average_by_hand():
    network = a_network()
    run = a_run(network, steps=2, averaging=0.5)
    first = network[0].weight.detach().clone()
    run.learn([(torch.ones(1, 3),)])
    decay = min(0.5, 1 / 11)
    torch.testing.assert_close(run.average["0.weight"], decay * first + (1 - decay) * network[0].weight)


def test_a_step_that_is_no_number_stops_the_run_before_it_changes_a_weight():
    network = a_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(DivergedError, match="step 0"):
        a_run(network, steps=2, precision="bfloat16").learn([(torch.full((1, 3), torch.nan),)])
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("content", [b"half", {"identity": "me", "step": 1, "history": []}])
def test_a_damaged_checkpoint_is_named_and_kept(tmp_path, content):
    path = tmp_path / "a-training" / "checkpoint.pt"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)  # weights are lacking
    with pytest.raises(CheckpointError, match=r"a-training/checkpoint\.pt is damaged"):
        a_run(a_network(), steps=3).resume(path, "me")
    assert path.is_file()


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


def test_phantoms_take_their_share_of_the_steps():
    shown = [choose_case(step, 0, ["case"], ["phantom"], 0.25) for step in range(400)]
    assert 70 < shown.count("phantom") < 130
