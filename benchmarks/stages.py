"""Where the time of one prediction goes: each stage against the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from VFMTransferLib.bundles.catalog import default_pair
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.inference.predict import predict
from VFMTransferLib.io import read_case
from VFMTransferLib.io.results import save_result
from VFMTransferLib.phantom import make_phantom, write_phantom

from .measure import Measurement

PHANTOM_SEED = 7


def measure() -> Iterator[Measurement]:
    """The shipped anatomy network on a phantom's files, through ONNX Runtime."""
    bundle, _ = default_pair("anatomy-segmentation")
    with TemporaryDirectory() as name:
        folder = Path(name)
        study = write_phantom(make_phantom(PHANTOM_SEED, sequences=[Sequence.T2W]), folder / "study")
        predict(read_case(study), bundle)  # fills the caches
        start = time.perf_counter()
        case = read_case(study)
        seconds = {"read the study": time.perf_counter() - start}
        result = predict(case, bundle)
        seconds |= result.provenance.seconds
        start = time.perf_counter()
        save_result(result, folder / "out")
        seconds["write the files"] = time.perf_counter() - start
    total_s = sum(seconds.values())
    for stage, taken_s in seconds.items():
        yield Measurement(f"predict: {stage}", taken_s, "all stages", total_s)
