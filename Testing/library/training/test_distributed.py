"""A distributed batch is the batch: over parts, over real processes, stopped and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from slice_cases import a_tissue_case
from training_cases import changed
from training_divisions import IMAGES, a_pretext_config, a_pretraining, tuned

from VFMTransferLib.core.errors import CheckpointError, DatasetError, RuntimeUnavailableError
from VFMTransferLib.training import distributed as module
from VFMTransferLib.training.distributed import DistributedContext, join_processes
from VFMTransferLib.training.loop import Run, draw_samples, run_identity
from VFMTransferLib.training.pretrain import pretrain

LIBRARY = Path(__file__).resolve().parents[3]
ROUNDING = {"rtol": 1e-3, "atol": 2e-5}  # AdamW's first steps divide small gradients by small ones


class ProcessOf:
    """Stands for Fabric where only numbers are asked for."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.global_rank, self.world_size, self.is_global_zero = rank, world_size, rank == 0
        self.device = torch.device("cpu")


def share_of(rank: int, processes: int, accumulation: int = 1) -> DistributedContext:
    return DistributedContext(accumulation, ProcessOf(rank, processes))


def assert_equal_up_to_rounding(found: dict, expected: dict) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **ROUNDING, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict:
    """What two real processes, joined by gloo, have learned."""
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).resolve().parents[1] / "two_processes.py"
    paths = os.pathsep.join([str(LIBRARY), str(script.parent)])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, folder], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt", weights_only=True)


def test_every_sample_is_shown_by_one_part_of_one_process():
    parts = [part for rank in range(3) for part in share_of(rank, 3, accumulation=2).own_samples(12)]
    assert [list(part) for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert DistributedContext().own_samples(5) == [range(5)]
    for batch in (4, 13):
        with pytest.raises(DatasetError, match=rf"multiple of 6 \(devices times accumulation\), but are {batch}"):
            share_of(0, 3, accumulation=2).own_samples(batch)


def test_what_is_drawn_does_not_depend_on_which_process_draws_it():
    def drawn(context: DistributedContext) -> list[float]:
        parts = draw_samples(context, 4, 2, 7, lambda number, own: number + float(torch.rand(1, generator=own)))
        return [value for part in parts for value in part]

    whole = drawn(DistributedContext())
    assert len({value % 1 for value in whole}) == 4
    assert drawn(DistributedContext(2)) == whole
    assert drawn(share_of(0, 2)) + drawn(share_of(1, 2)) == whole


def test_only_own_samples_are_drawn():
    seen = []
    draw_samples(share_of(1, 2), 4, 2, 0, lambda number, _: seen.append(number))
    assert seen == [2, 3]


def test_a_batch_in_parts_is_the_batch(tmp_path):
    whole = pretrain(a_pretraining(), IMAGES, tmp_path / "whole")
    parts = pretrain(a_pretraining(), IMAGES, tmp_path / "parts", context=DistributedContext(2))
    assert_equal_up_to_rounding(parts.average, whole.average)
    assert [p["loss"] for p in parts.history] == pytest.approx([p["loss"] for p in whole.history], rel=1e-4)
    assert_equal_up_to_rounding(
        tuned(tmp_path / "b", DistributedContext(2)).average, tuned(tmp_path / "a", DistributedContext()).average
    )


def test_two_processes_learn_what_one_learns(two_processes, tmp_path):
    whole = pretrain(a_pretraining(), IMAGES, tmp_path / "whole")
    assert_equal_up_to_rounding(two_processes["whole"], whole.average)
    alone = tuned(tmp_path / "tuned", DistributedContext())
    losses = torch.tensor([point["loss"] for point in alone.history])
    torch.testing.assert_close(two_processes["tuned"].pop("losses"), losses, rtol=1e-4, atol=0)
    assert_equal_up_to_rounding(two_processes["tuned"], alone.average)


def test_the_first_of_two_processes_decides_for_both(two_processes):
    assert float(two_processes["decided"]["mean"]) == 7


def test_two_processes_that_were_stopped_end_as_unbroken_ones(two_processes):
    for name, tensor in two_processes["whole"].items():
        assert torch.equal(tensor, two_processes["resumed"][name]), name


def test_parts_of_a_contrast_go_on_where_they_stopped(tmp_path, monkeypatch):
    cases, plain = [a_tissue_case(0), a_tissue_case(1)], Run.save
    config = changed(a_pretext_config("contrastive"), batch=4)

    def stop(run: Run, path: Path, identity: str) -> None:
        plain(run, path, identity)
        if run.step == 2:
            raise KeyboardInterrupt

    whole = pretrain(config, cases, tmp_path / "whole", context=DistributedContext(2))
    monkeypatch.setattr(Run, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, cases, tmp_path / "stopped", context=DistributedContext(2))
    monkeypatch.undo()
    resumed = pretrain(config, cases, tmp_path / "stopped", context=DistributedContext(2))
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, resumed.average[name]), name


def test_which_process_computes_a_part_is_not_what_a_checkpoint_is_known_by(tmp_path):
    config = a_pretraining()
    alone, two, other = (
        run_identity(config, context, {}) for context in (DistributedContext(), DistributedContext(2), share_of(1, 2))
    )
    assert alone != two == other
    pretrain(config, IMAGES, tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        pretrain(config, IMAGES, tmp_path, context=DistributedContext(2))


def test_one_device_needs_no_fabric(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert join_processes(accumulation=3) == DistributedContext(3)
    with pytest.raises(ImportError):
        join_processes(devices=2, accelerator="cpu")


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(module, "unavailable_reason", lambda name: "this machine has 1." if name == "cuda:1" else "")
    assert module.training_device(1, "auto") == "cuda"
    with pytest.raises(RuntimeUnavailableError, match=r"2 device.*: this machine has 1"):
        join_processes(devices=2, accelerator="cuda")
    monkeypatch.setattr(module, "unavailable_reason", lambda name: "there is none.")
    assert module.training_device(2, "auto") == module.training_device(2) == "cpu"
    with pytest.raises(ValueError, match="1 or more devices"):
        join_processes(devices=0)
