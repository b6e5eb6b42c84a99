"""A study of pretrainings, tasks and arms: which cells are left to do, and the tables of those that are done.

<folder>/config.yaml, split.json, runs.csv, metrics.csv, curves.csv, distances.csv, examples/     what it came to
<folder>/work/phantoms, pretrained, cells, results                                                what it works with
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from .atomic import atomic_file, writing
from .errors import ConfigError, DatasetError, OutputError
from .grid_cases import Place, split_of
from .grid_cell import bundle_folder
from .grid_settings import cell_sha256
from .study.grid_cells import PRETRAINING, Cell, chosen_cells, study_cells
from .study.grid_config import CONFIG, StudyConfig, read_config
from .study.grid_results import CellResult, read_result, write_collected
from .study.grid_tables import RUNS
from .terms import TaskId

SPLIT = "split.json"
_PACKAGE = Path(__file__).parent
_SHIPPED = (_PACKAGE.parent / "Resources" / "Study", _PACKAGE / "resources" / "Study")
_LEFTOVERS = (".part-*", ".*.part", ".*.old")


@dataclass(frozen=True)
class Study:
    """A study in its folder.

    Attributes:
        config: What it consists of.
        place: Where it lies.
        cells: Those that are wanted, in their order.
    """

    config: StudyConfig
    place: Place
    cells: tuple[Cell, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, in sentences."""
        if self.config.real is not None and self.place.real is None:
            return ("Real cases are not measured: --real does not say where they lie.",)
        return ()

    def pending(self) -> list[Cell]:
        """The wanted cells that are not done, in their order."""
        return [cell for cell in self.cells if not self.is_done(cell)]

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell has a result of its present settings and of all real cases at hand."""
        return self._is_valid(read_result(self.place.folder, cell), cell)

    def collect(self) -> None:
        """Write the tables of all cells that are done, wanted now or before.

        Raises:
            OutputError: The folder cannot be written.
        """
        every = study_cells(self.config)
        results = [(cell, read_result(self.place.folder, cell)) for cell in every]
        write_collected((r for cell, r in results if r is not None and self._is_current(r, cell)), self.place.folder)

    def _is_current(self, result: CellResult, cell: Cell) -> bool:
        return result.config_sha256 == self._sha256s[cell]

    @cached_property
    def _sha256s(self) -> dict[Cell, str]:
        return {cell: cell_sha256(cell, self.config) for cell in study_cells(self.config)}

    def _is_valid(self, result: CellResult | None, cell: Cell) -> bool:
        if result is None or not self._is_current(result, cell):
            return False
        if cell.arm == PRETRAINING:
            return bundle_folder(cell.encoder, self.place).is_dir()
        wanted = self.config.real_of(TaskId(cell.task)) if self.place.real is not None else ()
        return set(wanted) <= set(result.real_cases)


def open_study(
    folder: Path,
    config_path: Path | None = None,
    *,
    real: Path | None = None,
    resume: bool = False,
    only: Mapping[str, Iterable[str]] | None = None,
) -> Study:
    """Begin a study, or open one that was stopped.

    Args:
        folder: New or empty; with `resume` that of the study.
        config_path: Its configuration; by default that in the folder, or else the shipped one.
        real: Folder of the real cases that the configuration names.
        resume: Go on in a folder that has results. A cell whose settings are others than before is run anew.
        only: Column → values: the cells that are wanted; all by default.

    Raises:
        ConfigError: The configuration is missing or wrong, or no cell is wanted.
        DatasetError: A real case is not there.
        OutputError: The folder holds a study already, or something else, or cannot be written.
    """
    path = _config_path(folder) if config_path is None else config_path
    config = read_config(path)
    cells = study_cells(config) if only is None else chosen_cells(study_cells(config), only)
    _require_real(config, real)
    _require_folder(folder, resume)
    place = Place(folder.absolute(), None if real is None else real.absolute())
    with writing(folder):
        place.work.mkdir(parents=True, exist_ok=True)
        _clear_away(folder)
    _write_text(folder / CONFIG, path.read_text(encoding="utf-8"))
    study = Study(config, place, cells)
    _write_text(folder / SPLIT, json.dumps(_split_document(study), indent=2) + "\n")
    return study


def _config_path(folder: Path) -> Path:
    for place in (folder, *_SHIPPED):
        if (place / CONFIG).is_file():
            return place / CONFIG
    raise ConfigError(f"A study needs a configuration, but there is no {CONFIG}. Name one with --config.")


def _require_real(config: StudyConfig, real: Path | None) -> None:
    if real is None:
        return
    if config.real is None:
        raise ConfigError("The configuration must name the real cases for --real, but names none. Add a part 'real'.")
    lacking = sorted(name for name in config.real.cases if not (real / name).is_dir())
    if lacking:
        raise DatasetError(
            f"The folder of real cases must hold {', '.join(lacking)}, but does not. "
            "Add what is missing, or take it out of the configuration."
        )


def _require_folder(folder: Path, resume: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "work").is_dir() and not (folder / RUNS).is_file():
        raise OutputError(f"'{folder.name}' must be a new folder or that of a study, but is neither. Choose another.")
    if not resume:
        raise OutputError(f"'{folder.name}' holds a study already. Go on with --resume, or choose another folder.")


def _clear_away(folder: Path) -> None:
    """Remove what a process that was killed left half-written."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            if any(path.match(pattern) for pattern in _LEFTOVERS):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _split_document(study: Study) -> dict[str, object]:
    split = split_of(study.config.phantoms.groups)
    own = {task: split_of(groups.phantoms) for task, groups in study.config.tasks.items() if groups.phantoms}
    pretraining = {
        name: [f"phantom-{seed:04d}" for seed in encoder.pretraining.phantoms.seeds]
        for name, encoder in study.config.encoders.items()
    }
    real = {} if study.config.real is None else study.config.real.cases
    return {
        "a patient is": "a phantom, or a real case; nobody stands in two lists, and real cases train nothing",
        "pretraining": pretraining,
        "train": split.train,
        "validation": split.validation,
        "test": split.test,
        "tasks with phantoms of their own": {task: asdict(groups) for task, groups in own.items()},
        "real": {name: list(tasks) for name, tasks in real.items()},
        "notes": list(study.notes),
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")
