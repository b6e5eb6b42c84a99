"""Each demonstration task on one case, as the worker runs it: first network, loaded network, second on the case.

`cold` opens the network and finds all that it needs, `warm` runs on another case with networks loaded, `second` is the
other network of the pair on the same case, when what was found is there. Seconds of the processor, one thread, by stage
as `result.json` records stages; writing the files counts as a stage of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.bundles.catalog import default_pair
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.options import Options
from VFMTransferLib.inference.predict import CasePredictor
from VFMTransferLib.inference.runtimes import LoadedNetworks, Session
from VFMTransferLib.io.results import save_result
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.tasks import TASKS

from .measure import Measurement

_SEED = 5
_HELD_BYTES = 8 << 30
STAGES = ("read", "preprocess", "infer", "postprocess", "write")


def measure() -> Iterator[Measurement]:
    """All six tasks on a phantom; `infer` of the same run is what each is compared with."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    case = make_phantom(_SEED).case
    try:
        for task in TASKS:
            networks, (first, second) = LoadedNetworks(_HELD_BYTES), default_pair(task)
            runs = {"cold": _seconds(case, first, networks)}
            networks.open(second, runtime="onnx", device="cpu")
            runs["warm"] = _seconds(_altered(case), first, networks)
            runs["second"] = _seconds(_altered(case), second, networks)
            for run, seconds in runs.items():
                stages = ", ".join(f"{stage} {seconds[stage]:.2f}" for stage in STAGES if seconds[stage] >= 0.005)
                beyond = sum(seconds.values()) - seconds["infer"]
                yield Measurement(f"{task}, {run}, beyond inference ({stages})", beyond, "inference", seconds["infer"])
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


def _altered(case: Case) -> Case:
    """A case of other intensities, which nothing was found about before the first of its two runs."""
    return replace(
        case, volumes={s: v.with_array((v.array * 1.01).astype(v.array.dtype)) for s, v in case.volumes.items()}
    )


def _seconds(case: Case, bundle: Bundle, networks: LoadedNetworks) -> dict[str, float]:
    """Processor seconds of each stage."""
    seconds = dict.fromkeys(STAGES, 0.0)
    last, at = "read", time.process_time()

    def on_progress(stage: str, _fraction: float) -> None:
        nonlocal last, at
        now = time.process_time()
        seconds[last] += now - at
        last, at = stage, now

    def open_network(wanted: Bundle) -> Session:
        return networks.open(wanted, runtime="onnx", device="cpu")

    options = Options(runtime="onnx", device="cpu")
    result = CasePredictor(case, options, open_network, networks.case_cache).predict(bundle, on_progress)
    on_progress("write", 0.0)
    with TemporaryDirectory() as folder:
        save_result(result, Path(folder) / "out")
    on_progress("write", 1.0)
    return seconds
