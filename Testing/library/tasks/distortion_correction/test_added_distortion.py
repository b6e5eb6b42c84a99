"""What `benchmarks.added_distortion` measures of a method that finds all, half, or none of a displacement."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from VFMTransferLib.core.measurements import PHASE_AXES
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.distortion_correction.task import HBV_CORRECTED

ROOT = Path(__file__).resolve().parents[4]
OWN_MM = 2.0  # of the scan before a field is added


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import added_distortion

    return added_distortion


def under_fields(count: int):
    task = TASKS["distortion-correction"]
    phantom = make_phantom(3, t2w_spacing_mm=(1.5, 1.5, 4.0), phase_axis=0)
    for seed in range(count):
        yield replace(task.from_scan(phantom.case, seed=seed, gland=phantom.gland), is_phantom=True)


def finds(share: float):
    """A method that finds what the scan has of its own, and a share of what was added."""
    task = TASKS["distortion-correction"]

    def method(labeled):
        is_added = not np.array_equal(labeled.case[task.reference].array, labeled.images[HBV_CORRECTED].array)
        grid = labeled.images[HBV_CORRECTED].geometry
        axis = np.reshape(grid.direction, (3, 3))[:, PHASE_AXES[labeled.phase_axis]]
        found = OWN_MM + share * is_added * labeled.along_phase_mm.resample_to(grid).array
        images = {HBV_CORRECTED: labeled.images[HBV_CORRECTED]}
        return task.baseline_result(labeled, images=images, displacement_mm=found[..., None] * axis)

    return method


def test_what_a_scan_has_of_its_own_does_not_count(benchmark):
    methods = {"all": finds(1.0), "half": finds(0.5), "none": finds(0.0)}
    rows = list(benchmark.errors_mm(under_fields(2), methods))
    assert len(rows) == 2
    for row in rows:
        assert row["nothing"] > 0.2
        assert row["none"] == pytest.approx(row["nothing"])
        assert row["half"] == pytest.approx(row["nothing"] / 2)
        assert row["all"] == pytest.approx(0, abs=1e-5)


def test_a_network_is_measured_without_withholding(benchmark):
    bundle = ROOT / "Resources" / "Bundles" / "provicnet-distortion-correction-demo-scratch"
    (row,) = benchmark.errors_mm(under_fields(1), {"network": benchmark.of_bundle(bundle)})
    assert 0 < row["network"] < row["nothing"]
