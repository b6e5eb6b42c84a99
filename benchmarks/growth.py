"""How time and memory grow with the case: slices and matrix twice and four times; each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from .measure import Measurement, forget_peak, peak_mib

TASKS = ("anatomy-segmentation", "lesion-segmentation", "super-resolution")
GROWTH = {"slices x2": (1, 2), "slices x4": (1, 4), "matrix x2": (2, 1), "matrix x4": (4, 1)}
_SEED = 5
_MATRIX, _SLICES = 192, 12  # of the smallest case, at 1 x 1 x 3 mm


def measure() -> Iterator[Measurement]:
    """Processor seconds and peak memory of one prediction against those of the smallest case."""
    for task in TASKS:
        base_s, base_mib = _alone(task, 1, 1)
        for name, (matrix, slices) in GROWTH.items():
            seconds, mib = _alone(task, matrix, slices)
            yield Measurement(f"{task}, {name}", seconds, f"{_MATRIX}x{_MATRIX}x{_SLICES}", base_s)
            yield Measurement(f"{task}, {name}, peak memory", mib, f"{_MATRIX}x{_MATRIX}x{_SLICES}", base_mib, "MiB")


def _alone(task: str, matrix: int, slices: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.growth", task, str(matrix), str(slices)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, mib = json.loads(done.stdout.splitlines()[-1])
    return seconds, mib


def main() -> None:
    """One prediction: task, and by how much matrix and slices are refined, over the same field of view."""
    import time
    from dataclasses import replace

    from VFMTransferLib.bundles.catalog import default_pair
    from VFMTransferLib.core.options import Options
    from VFMTransferLib.inference.predict import predict
    from VFMTransferLib.phantom import make_phantom

    task, matrix, slices = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    case = make_phantom(_SEED).case
    volumes = {}
    for sequence, volume in case.volumes.items():
        whole, (x, y, z) = volume.geometry.extent_mm, (_MATRIX * matrix, _MATRIX * matrix, _SLICES * slices)
        grid = replace(volume.geometry, size=(x, y, z), spacing_mm=(whole[0] / x, whole[1] / y, whole[2] / z))
        volumes[sequence] = volume.resample_to(grid)
    case = replace(case, volumes=volumes)
    forget_peak()  # of the phantom
    start = time.process_time()
    predict(case, default_pair(task)[0], Options("onnx", "cpu"))
    print(json.dumps([time.process_time() - start, peak_mib()]))


if __name__ == "__main__":
    main()
