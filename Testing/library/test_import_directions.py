"""Who may import whom, as pyproject.toml writes it down, and what prediction really loads."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "monai", "onnx", "safetensors")
PREDICTION_PATH = (
    "VFMTransferLib.io",
    "VFMTransferLib.bundles.catalog",
    "VFMTransferLib.inference.runtimes",
    "VFMTransferLib.inference.predict",
    "VFMTransferLib.evaluation.comparison",
    "VFMTransferLib.report",
    "VFMTransferLib.inference.doctor",
    "VFMTransferLib.cli.side_by_side",
    "VFMTransferLib.worker.jobs",
)


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_imports_keep_their_directions():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    if not lint_imports.exists():
        pytest.skip("import-linter is not installed; the dev extra brings it.")
    run = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("module", PREDICTION_PATH)
def test_the_prediction_path_imports_no_torch(module):
    assert loaded_by(f"import {module}").isdisjoint(HEAVY)


def test_the_package_itself_imports_nothing_heavy():
    assert loaded_by("import VFMTransferLib").isdisjoint({*HEAVY, "numpy", "scipy", "SimpleITK", "onnxruntime"})


def test_public_names_come_from_the_package_whatever_was_imported_before():
    code = (
        "import VFMTransferLib.inference.predict\n"
        "from VFMTransferLib import read_case, predict, compare, write_report\n"
        "assert all(map(callable, (read_case, predict, compare, write_report)))"
    )
    assert "VFMTransferLib" in loaded_by(code)


def test_an_unknown_name_is_an_attribute_error():
    import VFMTransferLib

    with pytest.raises(AttributeError, match="no attribute 'predictions'"):
        _ = VFMTransferLib.predictions
