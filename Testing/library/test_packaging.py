"""What the extension ships, and that it is whole: read from the repository, and run as it is installed."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaged_files import MODULE, ROOT, Packaged, packaged, tracked

PACKAGE = MODULE / "VFMTransferSlicer"
OWN = {"VFMTransferLib", "VFMTransferSlicer"}
SLICERS = {"slicer", "vtk", "qt", "ctk", "numpy"}
# Files that need Qt, which a test outside the application has not: the panel, and what is in `panel/`.
NEED_QT = {"widget.py"}
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "misc", "data", "info"}


def imported_at_file_scope(path: Path) -> set[str]:
    """Top-level packages that importing a file brings; relative imports are its own."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Packaged, Packaged]:
    return packaged(ROOT, tmp_path_factory.mktemp("cmake"))


def test_the_module_ships_all_its_files(files):
    module, _ = files
    shipped = [f"VFMTransfer/{name}" for name in module.scripts + module.resources]
    assert sorted(shipped) == sorted(tracked("VFMTransfer"))


def test_the_library_and_its_bundles_are_shipped_with_all_their_files(files):
    _, library = files
    assert sorted(library.scripts + library.resources) == sorted(tracked("VFMTransferLib", "Resources"))
    assert {Path(name).suffix for name in library.scripts} == {".py"}
    assert ".py" not in {Path(name).suffix for name in library.resources}


def test_neither_caches_nor_leftovers_are_shipped(tmp_path):
    root = tmp_path / "repository"
    wanted = ["VFMTransfer/VFMTransfer.py", "VFMTransfer/Resources/UI/a.ui", "VFMTransferLib/report/page.html.jinja"]
    litter = (".DS_Store", "a.ui~", ".hidden/a.json", "__pycache__/a.cpython-312.pyc")
    unwanted = [
        f"{folder}/{name}" for folder in ("VFMTransfer/Resources", "VFMTransferLib", "Resources") for name in litter
    ]
    for name in (*wanted, *unwanted):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for folder in ("VFMTransfer", "VFMTransferLib"):
        shutil.copyfile(ROOT / folder / "CMakeLists.txt", root / folder / "CMakeLists.txt")
    (tmp_path / "cmake").mkdir()
    module, library = packaged(root, tmp_path / "cmake")
    assert (module.scripts, module.resources) == (["VFMTransfer.py"], ["Resources/UI/a.ui"])
    assert (library.scripts, library.resources) == ([], ["VFMTransferLib/report/page.html.jinja"])


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
def installed(files, tmp_path_factory) -> Path:
    """The folder of Slicer's modules with the extension in it, as a package is unpacked: flat, no clone beside."""
    folder = tmp_path_factory.mktemp("qt-scripted-modules")
    for part in files:
        for name in part.scripts + part.resources:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part.folder / name, folder / name)
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
