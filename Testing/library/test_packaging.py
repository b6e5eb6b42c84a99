"""What the extension ships, and that it is whole: read from the repository, and run as it is installed."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "VFMTransfer"
PACKAGE = MODULE / "VFMTransferSlicer"
OWN = {"VFMTransferLib", "VFMTransferSlicer"}
SLICERS = {"slicer", "vtk", "qt", "ctk", "numpy"}
# Files that need Qt, which a test outside the application has not: the panel, and what is in `panel/`.
NEED_QT = {"widget.py"}
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "data", "info"}


def tracked(*folders: str) -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("This is no clone, so there is no list of tracked files.")
    run = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=True)
    names = {name for name in run.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    return {name for name in names if Path(name).name != "CMakeLists.txt"}


def listed(cmake: Path, variable: str) -> list[str]:
    """The files that a `file(GLOB_RECURSE)` of CMake collects, relative to its folder."""
    text = re.sub(r"#.*", "", cmake.read_text(encoding="utf-8"))
    places = {"PROJECT_SOURCE_DIR": ROOT, "CMAKE_CURRENT_SOURCE_DIR": cmake.parent}
    call = re.search(rf"file\(GLOB_RECURSE {variable} RELATIVE \$\{{(\w+)\}} CONFIGURE_DEPENDS\s([^)]*)\)", text)
    base, names = places[call[1]], set()
    for pattern in call[2].split():
        place, _, below = re.fullmatch(r"\$\{(\w+)\}((?:/\w+)*)/(.+)", pattern).groups()
        folder = places[place] / pattern.partition("}")[2].rpartition("/")[0].lstrip("/")
        names |= {str(path.relative_to(base)) for path in folder.rglob(below) if path.is_file()}
    return sorted(name for name in names if "__pycache__" not in name)


def imported_at_file_scope(path: Path) -> set[str]:
    """Top-level packages that importing a file brings; relative imports are its own."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


def test_the_module_ships_all_its_files():
    cmake = MODULE / "CMakeLists.txt"
    shipped = listed(cmake, "MODULE_PYTHON_SCRIPTS") + listed(cmake, "MODULE_PYTHON_RESOURCES")
    assert sorted(f"VFMTransfer/{name}" for name in shipped) == sorted(tracked("VFMTransfer"))


def test_the_library_and_its_bundles_are_shipped_with_all_their_files():
    cmake = ROOT / "VFMTransferLib" / "CMakeLists.txt"
    scripts, resources = listed(cmake, "LIBRARY_SCRIPTS"), listed(cmake, "LIBRARY_RESOURCES")
    assert sorted(scripts + resources) == sorted(tracked("VFMTransferLib", "Resources"))
    assert {Path(name).suffix for name in scripts} == {".py"}
    assert ".py" not in {Path(name).suffix for name in resources}


def test_only_the_module_lies_where_slicer_looks_for_modules():
    assert [path.name for path in MODULE.glob("*.py")] == ["VFMTransfer.py"]


def test_each_file_of_the_module_says_in_its_name_what_it_is():
    assert {path.stem for path in MODULE.rglob("*.py")}.isdisjoint(VAGUE)


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_module_imports_only_what_slicer_has(path):
    allowed = SLICERS | OWN | set(sys.stdlib_module_names)
    assert imported_at_file_scope(path) - allowed == set()


@pytest.mark.parametrize(
    "path",
    sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("panel/*")) - {PACKAGE / name for name in NEED_QT}),
    ids=lambda path: path.name,
)
def test_what_runs_without_the_application_imports_no_qt(path):
    assert imported_at_file_scope(path).isdisjoint({"qt", "ctk"})


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of Slicer's modules with the extension in it, as a package is unpacked: flat, no clone beside."""
    folder = tmp_path_factory.mktemp("qt-scripted-modules")
    sources = {MODULE: MODULE / "CMakeLists.txt", ROOT: ROOT / "VFMTransferLib" / "CMakeLists.txt"}
    prefixes = {MODULE: "MODULE_PYTHON", ROOT: "LIBRARY"}
    for source, cmake in sources.items():
        for name in listed(cmake, f"{prefixes[source]}_SCRIPTS") + listed(cmake, f"{prefixes[source]}_RESOURCES"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    return folder


def run_installed(folder: Path, code: str) -> str:
    """What code prints that runs with the installed folder first on its path, far from the clone."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    run = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_an_installed_library_is_whole(installed):
    code = (
        "import VFMTransferLib, pkgutil, importlib\n"
        "from VFMTransferLib.bundles.catalog import default_pair\n"
        "print(VFMTransferLib.__file__)\n"
        "for bundle in default_pair('anatomy-segmentation'): print(bundle.folder)"
    )
    places = [Path(line) for line in run_installed(installed, code).splitlines()]
    assert len(places) == 3
    assert all(place.is_relative_to(installed) for place in places)


def test_an_installed_module_finds_its_library(installed):
    pytest.importorskip("slicer", reason="slicer-core is not installed; the dev extra brings it.")
    code = "import VFMTransferSlicer.logic, VFMTransferLib; print(VFMTransferLib.__file__)"
    assert Path(run_installed(installed, code).strip()).is_relative_to(installed)


def test_an_installed_worker_starts_by_its_file_alone(installed):
    worker = [sys.executable, "-I", str(installed / "VFMTransferLib" / "worker" / "__main__.py")]
    run = subprocess.run(worker, input="", cwd=installed.parent, capture_output=True, text=True)
    assert (run.returncode, '"type": "bye"' in run.stdout) == (0, True), run.stderr
