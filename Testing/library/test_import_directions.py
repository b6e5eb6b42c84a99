"""Who may import whom, as pyproject.toml writes it down, and what prediction really loads."""

import ast
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


def test_listing_bundles_loads_no_task_but_those_that_check_what_was_fitted():
    code = (
        "from VFMTransferLib.bundles.catalog import list_bundles; assert list_bundles(); import sys; "
        "print(*(name for name in sys.modules if name.endswith('.task')))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    fitted = ("classification", "lesion_segmentation")  # calibration, operating point
    assert run.stdout.split() == [f"VFMTransferLib.tasks.{task}.task" for task in fitted]


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


def imported_files(path: Path) -> set[Path]:
    """Files of the library that a file imports when it is imported, not in functions or for types alone."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = ROOT.joinpath(*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            for name in (alias.name for alias in node.names):
                places = (folder / f"{name}.py", folder / name / "__init__.py", folder.with_suffix(".py"))
                found |= set(next(([place] for place in places if place.is_file()), [folder / "__init__.py"]))
    return found


def test_no_files_import_each_other_in_a_circle():
    rest = {path: imported_files(path) for path in (ROOT / "VFMTransferLib").rglob("*.py")}
    while leaves := [path for path, imports in rest.items() if not imports & rest.keys()]:
        for path in leaves:
            del rest[path]
    assert sorted(str(path.relative_to(ROOT)) for path in rest) == []


@pytest.mark.parametrize("room", sorted(path.parent.name for path in (ROOT / "VFMTransferLib").glob("*/__init__.py")))
def test_a_room_is_one_screen_of_files(room):
    """Folders within a room count apart, as one task or one encoder each."""
    assert len(list((ROOT / "VFMTransferLib" / room).glob("*.py"))) <= 16
