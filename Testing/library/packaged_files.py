"""The files that the extension ships, as CMake itself collects them, and those that git tracks."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "VFMTransfer"
# What Slicer's build gives to both files: here each writes down what it was given.
_PROJECT = """
cmake_minimum_required(VERSION 3.16.3...3.28)
project(packaged NONE)
set(PROJECT_SOURCE_DIR "{root}")
function(write_down name scripts resources)
  file(WRITE "${{CMAKE_BINARY_DIR}}/${{name}}-scripts.txt" "${{scripts}}")
  file(WRITE "${{CMAKE_BINARY_DIR}}/${{name}}-resources.txt" "${{resources}}")
endfunction()
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(ARG "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${{ARGN}})
  write_down(module "${{ARG_SCRIPTS}}" "${{ARG_RESOURCES}}")
endfunction()
function(ctkMacroCompilePythonScript)
  set(single TARGET_NAME SOURCE_DIR DESTINATION_DIR INSTALL_DIR)
  cmake_parse_arguments(ARG "NO_INSTALL_SUBDIR" "${{single}}" "SCRIPTS;RESOURCES" ${{ARGN}})
  write_down(library "${{ARG_SCRIPTS}}" "${{ARG_RESOURCES}}")
endfunction()
add_subdirectory("{root}/VFMTransfer" module)
add_subdirectory("{root}/VFMTransferLib" library)
"""


@dataclass(frozen=True)
class Packaged:
    """Files, relative to `folder`: the module's to its own folder, the library's to the repository."""

    folder: Path
    scripts: list[str]
    resources: list[str]


def tracked(*folders: str) -> set[str]:
    """The files below some folders that git tracks, without those for CMake."""
    if not (ROOT / ".git").exists():
        pytest.skip("This is no clone, so there is no list of tracked files.")
    run = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=True)
    names = {name for name in run.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    return {name for name in names if Path(name).name != "CMakeLists.txt"}


def packaged(root: Path, work: Path) -> tuple[Packaged, Packaged]:
    """The module's and the library's files as CMake collects them from a repository, in an empty folder of its own."""
    here = Path(sys.executable).with_name("cmake")
    cmake = str(here) if here.is_file() else shutil.which("cmake")
    if cmake is None:
        pytest.skip("CMake is not installed; the dev extra brings it.")
    (work / "CMakeLists.txt").write_text(_PROJECT.format(root=root.as_posix()), encoding="utf-8")
    # Nothing is built, so that any program may stand for make.
    command = [cmake, "-G", "Unix Makefiles", f"-DCMAKE_MAKE_PROGRAM={cmake}", "-S", str(work), "-B", str(work / "out")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

    def written(name: str) -> list[str]:
        return sorted(filter(None, (work / "out" / f"{name}.txt").read_text(encoding="utf-8").split(";")))

    return (
        Packaged(root / "VFMTransfer", written("module-scripts"), written("module-resources")),
        Packaged(root, written("library-scripts"), written("library-resources")),
    )
