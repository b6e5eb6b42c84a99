"""What 5,000 patients cost on 1, 8 and 64 GPUs: `python -m benchmarks.scale` writes the tables of `docs/scale.md`.

With `--measure` it first measures this machine. Measured are seconds of a processor, counted are operations and
parameters; a GPU's seconds are derived from these, under assumptions that stand here as constants.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VFMTransferLib.encoders import find_family
from VFMTransferLib.encoders.base import NEIGHBORS
from VFMTransferLib.tasks import find_task

from .measure import Measurement

RECORDED = Path(__file__).with_name("scale.json")
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- tables: python -m benchmarks.scale -->\n", "<!-- end of tables -->\n"

GPUS = (1, 8, 64)
STUDIES, TRAINING_STUDIES, VOLUMES = 5_000, 3_500, 22_000  # ProFound's pretraining; its split of 7:1:2
SLICES, GLAND_SLICES = 20, 2  # of a case; those that a classifier of slices is shown in a step (`SLICES_A_CASE`)
MAE_EPOCHS, CONTRAST_EPOCHS, VIEW_EPOCHS, SLICE_EPOCHS = 800, 30, 100, 30
ARMS, SEEDS = 2, 3

# Assumptions.
PEAK_FLOPS = 312e12  # A100, bfloat16 on tensor cores, dense
UTILIZATIONS = (0.1, 0.4)
BACKWARD = 2  # times forward
GPUS_A_NODE = 8
LINK_BYTES_S = {8: 300e9, 64: 25e9}  # each way for each GPU: NVLink within a node, 200 Gbit/s between nodes
VIEWS_A_GPU, SLICES_A_GPU = 4, 32
CORES_A_GPU = 16  # two processors of 64 cores for eight GPUs
GRADIENT_BYTES = 4  # float32
# Of one real case: T2w, high-b and ADC, which training reads; and T2w alone, the largest volume.
FILE_BYTES = {"NIfTI, compressed": (3.77e6, 3.53e6), "DICOM": (6.65e6, 5.68e6)}
_HOUR = 3600


@dataclass(frozen=True)
class Training:
    """One kind of training.

    Attributes:
        name: What it is.
        network: Its row in the counted operations.
        samples: Shown in all.
        sample: `view` or `slice`.
    """

    name: str
    network: str
    samples: int
    sample: str

    def forward_flop(self, recorded: dict[str, Any]) -> float:
        return recorded["forward_flop"][self.network]

    def gpu_s(self, recorded: dict[str, Any], utilization: float) -> float:
        """Derived: seconds of one GPU for all samples."""
        return self.samples * (1 + BACKWARD) * self.forward_flop(recorded) / (PEAK_FLOPS * utilization)

    def draw_s(self, recorded: dict[str, Any]) -> float:
        """Measured for one sample: processor seconds to draw all of them."""
        return self.samples * recorded["seconds"][f"draw_{self.sample}"]

    def prepare_s(self, recorded: dict[str, Any], studies: int) -> float:
        """Measured for one case: processor seconds to read and prepare all of them, once for all processes and runs."""
        return studies * recorded["seconds"][f"prepare_{self.sample}"]

    def share_s(self, recorded: dict[str, Any], gpus: int) -> float:
        """Derived: seconds in which gradients travel, in a ring, without hiding behind the backward pass."""
        if gpus == 1:
            return 0.0
        moved = 2 * (gpus - 1) / gpus * GRADIENT_BYTES * recorded["parameters"][self.network]
        batch = gpus * (VIEWS_A_GPU if self.sample == "view" else SLICES_A_GPU)
        return self.samples / batch * moved / LINK_BYTES_S[gpus]


PRETRAININGS = (
    Training("masked autoencoder, ProFound", "mae", STUDIES * MAE_EPOCHS, "view"),
    Training("contrastive, ProViCNet", "provicnet lesion-segmentation", STUDIES * SLICES * CONTRAST_EPOCHS, "slice"),
)


def fine_tunings(recorded: dict[str, Any]) -> list[Training]:
    """One training of each task and encoder."""
    found = []
    for network in recorded["forward_flop"]:
        family, _, task = network.partition(" ")
        if not task:  # a pretext task's network
            continue
        if find_family(family).is_slice_based:
            slices = GLAND_SLICES if find_task(task).uses_gland_slices else SLICES
            found.append(Training(network, network, TRAINING_STUDIES * slices * SLICE_EPOCHS, "slice"))
        else:
            found.append(Training(network, network, TRAINING_STUDIES * VIEW_EPOCHS, "view"))
    return found


def tables(recorded: dict[str, Any]) -> str:
    """The document's tables, Markdown."""
    parts = (_measured(recorded), _trainings(recorded), _gpus(recorded), _grid(recorded), _storage(recorded))
    return "\n\n".join(parts) + "\n"


def _table(*rows: tuple[str, ...]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join(["---"] * len(rows[0])) + " |", *lines[1:]])


def _measured(recorded: dict[str, Any]) -> str:
    seconds, flop = recorded["seconds"], recorded["forward_flop"]
    rates = {
        "step_mae": (1 + BACKWARD) * flop["mae"] / seconds["step_mae"],
        "step_contrast": (1 + BACKWARD) * flop["provicnet lesion-segmentation"] / seconds["step_contrast"],
    }
    titles = {
        "prepare_view": "read a case, prepare it for views, and write that",
        "prepare_slice": "the same for slices",
        "draw_view": "make a view of 64x224x224, three sequences",
        "draw_slice": "make a slice of three sequences, 448x448",
        "step_mae": "a step of the masked autoencoder, one view",
        "step_contrast": "a step of the contrastive pretraining, one slice",
        "scheduled_task": "assign and collect a task that does nothing (dask.distributed)",
    }
    rows = [
        (title, f"{seconds[key]:.4g}", f"{rates[key] / 1e9:.0f} GFLOP/s" if key in rates else "")
        for key, title in titles.items()
    ]
    head = ("measured", "processor seconds, one thread", "derived: operations by count")
    threads = f"Two threads make views {recorded['two_threads']:.2f} times as fast as one."
    return f"{recorded['machine']}, PyTorch {recorded['torch']}:\n\n{_table(head, *rows)}\n\n{threads}"


def _trainings(recorded: dict[str, Any]) -> str:
    low, high = UTILIZATIONS
    rows = [
        (
            training.name,
            f"{training.samples / 1e6:.2f} M {training.sample}s",
            f"{training.forward_flop(recorded) / 1e9:.0f}",
            f"{recorded['parameters'][training.network] / 1e6:.1f}",
            f"{training.gpu_s(recorded, low) / _HOUR:.1f} - {training.gpu_s(recorded, high) / _HOUR:.1f}",
            f"{training.draw_s(recorded) / _HOUR:.0f}",
        )
        for training in (*PRETRAININGS, *fine_tunings(recorded))
    ]
    head = (
        "training",
        "samples",
        "GFLOP forward",
        "M parameters",
        "derived: GPU hours",
        "measured: hours of a core to make samples",
    )
    return _table(head, *rows)


def _gpus(recorded: dict[str, Any]) -> str:
    rows = []
    for training in PRETRAININGS:
        alone = _in_all_s(training, recorded, 1, STUDIES)
        for gpus in GPUS:
            prepare, draw, compute, share = _parts_s(training, recorded, gpus, STUDIES)
            total = _in_all_s(training, recorded, gpus, STUDIES)
            hours = (prepare, draw, compute, share, total, compute + share)
            shown = [f"{part / _HOUR:.2f}" for part in hours]
            rows.append((training.name, str(gpus), *shown, f"{1 - compute / total:.0%}", f"{alone / total / gpus:.0%}"))
    head = (
        "pretraining",
        "GPUs",
        "prepare cases, once",
        "make samples",
        "compute",
        "share gradients",
        "in all, as built",
    )
    return "Hours:\n\n" + _table((*head, "where samples cost nothing", "a GPU waits", "efficiency, as built"), *rows)


def _parts_s(training: Training, recorded: dict[str, Any], gpus: int, studies: int) -> tuple[float, ...]:
    """Seconds by the clock to prepare and to draw, on all cores, and to compute and to share gradients."""
    cores = gpus * CORES_A_GPU
    return (
        training.prepare_s(recorded, studies) / cores,
        training.draw_s(recorded) / cores,
        training.gpu_s(recorded, UTILIZATIONS[0]) / gpus,
        training.share_s(recorded, gpus),
    )


def _in_all_s(training: Training, recorded: dict[str, Any], gpus: int, studies: int) -> float:
    """Threads prepare and draw ahead while the GPUs compute: what takes longer counts."""
    prepare, draw, compute, share = _parts_s(training, recorded, gpus, studies)
    return max(prepare + draw, compute + share)


def _grid(recorded: dict[str, Any]) -> str:
    """The 72 trainings of the transfer study, each on one GPU, the longest first."""
    low, repeats = UTILIZATIONS[0], ARMS * SEEDS
    each = [
        (_in_all_s(training, recorded, 1, TRAINING_STUDIES), training.gpu_s(recorded, low))
        for training in fine_tunings(recorded)
    ]
    rows = []
    for gpus in GPUS:
        built, compute = (_makespan_s([one[k] for one in each] * repeats, gpus) / _HOUR for k in (0, 1))
        overhead = len(each) * repeats * recorded["seconds"]["scheduled_task"] / (built * _HOUR)
        rows.append((str(gpus), f"{built:.0f}", f"{compute:.0f}", f"{overhead:.0e}"))
    head = ("GPUs", "hours, as built", "compute alone", "scheduler's part")
    return f"{len(each) * repeats} trainings of the sweep, each on one GPU:\n\n{_table(head, *rows)}"


def _makespan_s(trainings: list[float], workers: int) -> float:
    """When the last training ends, if each free worker takes the longest one left."""
    ends = [0.0] * workers
    for seconds in sorted(trainings, reverse=True):
        first = ends.index(min(ends))
        ends[first] += seconds
    return max(ends)


def _storage(recorded: dict[str, Any]) -> str:
    rows = []
    for kind, (size, largest) in FILE_BYTES.items():
        rows.append((f"files of {STUDIES:,} cases ({kind})", f"{STUDIES * size / 1e9:.0f} GB"))
        rows.append((f"{VOLUMES:,} volumes, each as large as a T2w ({kind})", f"{VOLUMES * largest / 1e9:.0f} GB"))
    for sample, size in recorded["prepared_bytes"].items():
        rows.append(
            (f"prepared cases for {sample}s, on disk, shared by all processes", f"{STUDIES * size / 1e9:.0f} GB")
        )
    for training in PRETRAININGS:
        touched = recorded["prepared_bytes"][training.sample] * (1 if training.sample == "view" else NEIGHBORS / SLICES)
        rate = training.samples / _in_all_s(training, recorded, GPUS_A_NODE, STUDIES) * touched
        rows.append((f"read by a node that caches nothing: {training.name}", f"{rate / 1e9:.1f} GB/s"))
    for training in PRETRAININGS:
        size = GRADIENT_BYTES * recorded["parameters"][training.network] / 1e6
        rows.append((f"gradient of a step: {training.name}", f"{size:.0f} MB"))
    return _table(("derived", "how much"), *rows)


def rewritten(text: str, recorded: dict[str, Any]) -> str:
    """The document with its tables made again."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(recorded)}\n{END}{after}"


def measure() -> Iterator[Measurement]:
    """Drawing against computing, at published size."""
    from .scale_measurements import samples_and_steps

    found = samples_and_steps()["seconds"]
    for sample, step in (("view", "mae"), ("slice", "contrast")):
        against = found[f"step_{step}"]
        yield Measurement(f"make a {sample} at published size", found[f"draw_{sample}"], f"a step of {step}", against)


def main() -> None:
    """Write the document's tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--measure", action="store_true", help=f"measure this machine first, into {RECORDED.name}")
    if parser.parse_args().measure:
        from .scale_measurements import measured

        RECORDED.write_text(json.dumps(measured(), indent=2) + "\n", encoding="utf-8")
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(encoding="utf-8"), recorded), encoding="utf-8")
    print(tables(recorded))


if __name__ == "__main__":
    main()
