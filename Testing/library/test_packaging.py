"""What the extension ships, and what the index of extensions checks: read from the repository, without Slicer."""

import ast
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "VFMTransfer"
ICON = MODULE / "Resources" / "Icons" / "VFMTransfer.png"
OWN = {"VFMTransferLib", "VFMTransferSlicer"}
SLICERS = {"slicer", "vtk", "qt", "ctk", "numpy"}
HOUSE = {
    "__init__",
    "install",
    "layout",
    "logic",
    "masks",
    "parameters",
    "process",
    "runs",
    "samples",
    "scene",
    "signals",
    "structures",
    "studies",
    "widget",
}
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"  # how they begin; the index takes no WebP


def tracked(*folders: str) -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("This is no clone, so there is no list of tracked files.")
    run = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=True)
    names = {name for name in run.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    return {name for name in names if Path(name).name != "CMakeLists.txt"}


def listed(cmake: Path, variable: str) -> list[str]:
    """The words of a CMake list, with the module's name put in."""
    text = re.sub(r"#.*", "", cmake.read_text(encoding="utf-8"))
    words = re.search(rf"set\({variable}\s([^)]*)\)", text)[1]
    return words.replace("${MODULE_NAME}", "VFMTransfer").split()


def setting(name: str) -> str:
    """What the index reads of the extension's description: one quoted text, no variables."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf'^set\({name} "([^"$]+)"\)$', text, re.MULTILINE)[1]


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


def test_the_module_has_the_files_of_the_house():
    assert {path.stem for path in (MODULE / "VFMTransferSlicer").glob("*.py")} <= HOUSE


@pytest.mark.parametrize("path", sorted(MODULE.rglob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_module_imports_only_what_slicer_has(path):
    allowed = SLICERS | OWN | set(sys.stdlib_module_names)
    assert imported_at_file_scope(path) - allowed == set()


@pytest.mark.parametrize("name", ["logic", "scene", "signals", "layout"])
def test_what_runs_without_the_application_imports_no_qt(name):
    path = MODULE / "VFMTransferSlicer" / f"{name}.py"
    assert not path.exists() or imported_at_file_scope(path).isdisjoint({"qt", "ctk"})


def test_the_icon_is_a_png_of_128_pixels():
    head = ICON.read_bytes()[:24]
    assert head[:8] == PNG
    assert struct.unpack(">II", head[16:24]) == (128, 128)


def test_the_description_is_as_the_index_wants_it():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"project\(\s*(\w+)", text)[1] == "VFMTransfer"
    assert "## NEXT_MODULE" in text
    assert setting("EXTENSION_DEPENDS") == "NA"
    assert setting("EXTENSION_CONTRIBUTORS")
    assert len(setting("EXTENSION_DESCRIPTION")) < 250
    homepage = setting("EXTENSION_HOMEPAGE")
    assert homepage.rpartition("/")[2].startswith("Slicer")


@pytest.mark.parametrize("name", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_pictures_of_the_index_are_files_of_this_repository(name):
    for url in setting(name).split():
        path = ROOT / url.partition("/main/")[2]
        assert url.startswith("https://raw.githubusercontent.com/")
        assert path.read_bytes().startswith((PNG, JPEG))
