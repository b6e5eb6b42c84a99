"""Run by a test as a program: trains in two processes on the CPU, and writes what the first one learned.

Each process starts this file anew, as it would start any command.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from training_divisions import IMAGES, a_pretraining, tuned

from VFMTransferLib.training.distributed import DistributedContext, join_processes
from VFMTransferLib.training.loop import Run
from VFMTransferLib.training.pretrain import pretrain

STOP_AT = 2


class StoppedError(Exception):
    """A power cut in every process."""


def stopped_and_resumed(context: DistributedContext, folder: Path) -> Run:
    """A run that stops right after a checkpoint, and goes on."""
    plain = Run.save

    def save(run: Run, path: Path, identity: str) -> None:
        plain(run, path, identity)
        if run.step == STOP_AT:
            raise StoppedError

    Run.save = save
    try:
        pretrain(a_pretraining(), IMAGES, folder, context=context)
    except StoppedError:
        Run.save = plain
        context.fabric.barrier()  # the checkpoint is written by the first process
        return pretrain(a_pretraining(), IMAGES, folder, context=context)
    raise AssertionError("It was not stopped.")


def main() -> None:
    """Train and write."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    context = join_processes(devices=2, accelerator="cpu")
    found = {
        "whole": pretrain(a_pretraining(), IMAGES, folder / "whole", context=context).average,
        "resumed": stopped_and_resumed(context, folder / "resumed").average,
    }
    run = tuned(folder / "tuned", context)
    found["tuned"] = {**run.average, "losses": torch.tensor([point["loss"] for point in run.history])}
    # Only the first process validates, so that it alone decides when a training with patience ends.
    decided = context.of_first(7 if context.is_first else None)
    found["decided"] = {"mean": torch.tensor(context.mean(torch.tensor(float(decided or 0))))}
    if context.is_first:
        torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main()
