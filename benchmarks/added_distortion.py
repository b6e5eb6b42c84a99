"""How much of a known displacement is found when it is added to a scan, by registration and by networks.

`python -m benchmarks.added_distortion DATA CASE... --bundle NETWORK [--bundle MORE] [--fields N]`

A scan is distorted before anyone adds a field, by one that nobody measured. A method that undoes both is further from
the scan as it was than one that does nothing, and would be called harmful. So each method finds the displacement twice,
in the scan as it is and in the distorted one, and what is compared with the added field is the difference. This
definition is ours; it holds to first order, where both fields vary slowly. Corrections are not withheld here.

Printed are means over the gland, mm: of the absolute added displacement, which is the error of doing nothing, and of
the absolute error of each method.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.weights import load_network
from VFMTransferLib.core.measurements import PHASE_AXES
from VFMTransferLib.core.result import Result
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import LabeledCase, MaskNames, Method
from VFMTransferLib.tasks.distortion_correction.task import ADC_CORRECTED, HBV_CORRECTED
from VFMTransferLib.training.cases import read_labeled
from VFMTransferLib.training.finetune import results_of

TASK = "distortion-correction"
MASKS = MaskNames(gland=("gland", "gland_taps", "gland_nc"))


def main() -> None:
    """Print a row for each field, and one for each exam."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of exams, with a mask of the gland each")
    parser.add_argument("case", nargs="+", help="its exams")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="a network of distortion correction")
    parser.add_argument("--fields", type=int, default=6, help="known fields an exam (default: 6)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    methods = dict(TASKS[TASK].methods()) | {path.name: of_bundle(path) for path in args.bundle}
    for name in args.case:
        cases = (read_labeled(args.data / name, TASK, MASKS, seed=seed) for seed in range(args.fields))
        by_method: dict[str, list[float]] = defaultdict(list)
        for number, errors in enumerate(errors_mm(cases, methods)):
            print(f"{name}, field {number}: {_row(errors)}", flush=True)
            for method, error in errors.items():
                by_method[method].append(error)
        print(
            f"{name}, mean: {_row({method: float(np.mean(found)) for method, found in by_method.items()})}", flush=True
        )


def of_bundle(folder: Path) -> Method:
    """A network's correction of a case, whether or not a prediction would withhold it."""
    bundle = read_bundle(folder)
    network = load_network(bundle).eval()

    def method(labeled: LabeledCase) -> Result:
        ((result, _),) = results_of(network, bundle.spec, [labeled])
        return result

    return method


def errors_mm(cases: Iterable[LabeledCase], methods: dict[str, Method]) -> Iterator[dict[str, float]]:
    """Mean absolute error in the gland of each method, and of doing nothing, for one scan under several fields."""
    own: dict[str, np.ndarray] = {}
    for labeled in cases:
        grid = labeled.images[HBV_CORRECTED].geometry
        truth = labeled.along_phase_mm
        if truth is None or labeled.gland is None:
            raise ValueError("The displacement and the gland must be known.")
        own = own or {name: along_mm(method(undistorted(labeled)), labeled) for name, method in methods.items()}
        measured = (labeled.gland.resample_to(grid, "nearest").array > 0) & (labeled.images[HBV_CORRECTED].array > 0)
        added = truth.resample_to(grid).array
        found = {name: along_mm(method(labeled), labeled) - own[name] for name, method in methods.items()}
        yield {
            name: float(np.abs(change - added)[measured].mean())
            for name, change in ({"nothing": np.zeros_like(added)} | found).items()
        }


def undistorted(labeled: LabeledCase) -> LabeledCase:
    """The scan without the added field."""
    _, hbv, adc = TASKS[TASK].sequences
    volumes = {**labeled.case.volumes, hbv: labeled.images[HBV_CORRECTED], adc: labeled.images[ADC_CORRECTED]}
    return replace(labeled, case=replace(labeled.case, volumes=volumes))


def along_mm(result: Result, labeled: LabeledCase) -> np.ndarray:
    """The displacement (D, H, W) along the phase axis on the grid of the undistorted high-b image."""
    grid, images = labeled.images[HBV_CORRECTED].geometry, result.images[HBV_CORRECTED].geometry
    if result.displacement_mm is None or images != grid:
        raise ValueError("The displacement must lie on the high-b image's grid.")
    axis = np.reshape(grid.direction, (3, 3))[:, PHASE_AXES[labeled.phase_axis]]
    return np.asarray(result.displacement_mm @ axis)


def _row(errors: dict[str, float]) -> str:
    return ", ".join(f"{method} {error:.2f}" for method, error in errors.items())


if __name__ == "__main__":
    main()
