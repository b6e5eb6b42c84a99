"""Two runs of a bundle on ONNX Runtime, in a process without PyTorch, as predictions are.

`benchmarks.published` starts it. It prints processor seconds of the first, and the peak of the process's memory in MiB:
the second run counts, since a window is seldom alone.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.inference.runtimes import open_session

from .measure import peak_mib


def main(bundle: str, inputs: str, device: str) -> None:
    """`inputs` is an `.npz` file of the network's inputs in their order."""
    with np.load(inputs) as stored:
        arrays = [stored[name] for name in stored.files]
    session = open_session(read_bundle(bundle), "onnx", device, "fp32")
    start = time.process_time()
    session.run(*arrays)
    seconds = time.process_time() - start
    session.run(*arrays)
    assert "torch" not in sys.modules
    print(json.dumps([seconds, peak_mib()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
