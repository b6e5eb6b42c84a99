"""Compare what two Pythons predict: python Testing/oldest.py OTHER_PYTHON; `make test-oldest` brings the oldest one.

One arm of each shipped pair, whose graphs are equal, predicts a phantom with this Python and with the other one, whose
packages are the oldest that `pyproject.toml` allows. Labels must agree but for single voxels, images and probabilities
but for rounding.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
MAX_OTHER_LABELS = 1e-3  # of the marked voxels
MAX_DIFFERENCE = 1e-3  # of an image's range


def predict(python: str, case: Path, bundle: str, out: Path) -> dict:
    words = [
        python,
        "-m",
        "VFMTransferLib",
        "predict",
        case,
        "--bundle",
        bundle,
        "--runtime",
        "onnx",
        "-o",
        out,
        "--json",
    ]
    run = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{bundle}: {run.stderr}")
    return json.loads(run.stdout)


def difference(a: Path, b: Path) -> float:
    """Of the marked voxels, those that differ; of an image, the largest difference through its range."""
    one, other = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (a, b))
    if "label" in a.name or a.name.endswith(".seg.nrrd"):
        return float((one != other).sum() / max((one > 0).sum(), 1))
    return float(np.abs(one.astype(np.float64) - other).max() / max(float(np.ptp(one)), 1e-9))


def main() -> int:
    other, failed = sys.argv[1], False
    shipped = ROOT / "Resources" / "Bundles"
    bundles = sorted(path.parents[1].name for path in shipped.glob("*-pretrained/configs/metadata.json"))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        make = [sys.executable, "-m", "VFMTransferLib", "phantom", "--no-full-resolution", "-o", str(folder / "cases")]
        subprocess.run(make, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (case,) = (folder / "cases").iterdir()
        for bundle in bundles:
            results = [
                predict(python, case, bundle, folder / bundle / name)
                for python, name in ((sys.executable, "new"), (other, "old"))
            ]
            versions = [result["versions"]["onnxruntime"] for result in results]
            worst = 0.0
            for file in results[0]["files"]:
                differs = difference(*(folder / bundle / name / file for name in ("new", "old")))
                limit = MAX_OTHER_LABELS if "label" in file or file.endswith(".seg.nrrd") else MAX_DIFFERENCE
                worst, failed = max(worst, differs), failed or differs > limit
            print(f"{bundle}: ONNX Runtime {' and '.join(versions)} differ by {worst:.1e}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
