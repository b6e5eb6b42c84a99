"""A study's report as files: the summary as a table, and the page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...atomic import atomic_file, writing
from ...study.example_files import read_examples
from ...study.gaps import Plan, plan_of
from ...study.grid_config import CONFIG, read_config
from ...study.grid_tables import read_tables
from ...study.transfer_summary import summarize, write_summary
from .page import study_html

PAGE = "report.html"


def write_study_report(study: Path, folder: Path | None = None) -> tuple[Path, Path]:
    """Write `summary.csv` and `report.html`.

    Args:
        study: Folder of a study: its tables, and its example slices where it has some.
        folder: Where to; the study's own folder if None. Made if it does not exist.

    Returns:
        Paths of the summary and of the page.

    Raises:
        ConfigError: The study's configuration cannot be understood.
        DatasetError: A table or an example is missing or cannot be understood.
        OutputError: The folder cannot be written.
    """
    tables = read_tables(study)
    rows = summarize(tables)
    text = study_html(tables, rows, read_examples(study), study, _plan(study))
    folder = study if folder is None else folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    summary = write_summary(rows, folder)
    with atomic_file(folder / PAGE) as part:
        part.write_text(text, encoding="utf-8")
    return summary, folder / PAGE


def _plan(study: Path) -> Plan | None:
    """What the study's configuration plans; None without one, or where nothing is installed that reads YAML.

    The page says what it holds a study against.
    """
    if not (study / CONFIG).is_file() or find_spec("yaml") is None:
        return None
    return plan_of(read_config(study / CONFIG))
