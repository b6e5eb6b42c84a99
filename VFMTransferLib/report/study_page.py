"""What the page is, what is missing from the study, what to know first, and how things are defined."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path

from ..core.files import atomic_file, writing
from ..study.config import CONFIG, read_config
from ..study.examples import Example, read_examples
from ..study.overview import (
    BOTH,
    MissingRuns,
    Plan,
    encoders_of,
    missing_runs,
    plan_of,
    tasks_of,
    total_device_hours,
    whole_study,
)
from ..study.summary import DEFINITIONS, Correlation, SummaryRow, gain_against_distance, summarize, write_summary
from ..study.tables import StudyTables, read_tables
from .pages import render
from .plot import minus
from .published import published_section
from .study_examples import examples_section
from .study_sections import (
    arms_section,
    cost_section,
    curves_section,
    distance_section,
    matrix_section,
    real_section,
    relation_section,
)
from .study_words import arm_title, encoder_title, listed, section, task_title

_DEFINED = {
    "rpg_percent": "RPG, relative performance gain",
    "d2p": "D2P, distance to pretraining",
    "convergence_efficiency": "Convergence efficiency",
    "savings": "Savings",
}
_MORE = {
    "Intervals": (
        "percentile bootstrap, 9999 resamples of cases and seeds together, 95 %; with few cases and three seeds they "
        "are rather too narrow (ours)"
    ),
    "D2P in detail": (
        "Gaussian kernel, bandwidth by the median heuristic over the pooled sample, and at half and twice that; p by "
        "exchanging before and after within cases (ours)"
    ),
    "Correlation": (
        "Spearman's ρ of gain and D2P, both ranked within their encoder first; percentile bootstrap over cells (ours)"
    ),
}


def about_section() -> str:
    """What this is, and what it is not."""
    return section(
        "about",
        "What this is",
        "<p>A re-run of the transfer study at <b>demonstration size</b>: small networks, pretrained and fine-tuned on "
        "synthetic prostate studies (phantoms), each once from pretrained weights and once from scratch with "
        "everything else equal. <b>These are our own numbers, not those of the authors of the original study</b>, and "
        "our own definitions where theirs could not be read. They show how such a study is run and read; they say "
        "little about the published networks at full size. What was measured on real cases is listed apart.</p>"
        "<p><b>Not for clinical use.</b> Negative gains and failed expectations stay in.</p>",
    )


def definitions_section() -> str:
    """The formulas, each labeled ours."""
    known = {_DEFINED[key]: text for key, text in DEFINITIONS.items() if key in _DEFINED}
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in {**known, **_MORE}.items())
    return section(
        "definitions",
        "Definitions",
        '<p class="muted">The published formulas could not be read; each of these is this project\'s own.</p>',
        f"<dl>{items}</dl>",
    )


def facts(
    rows: Sequence[SummaryRow], tables: StudyTables, correlation: Correlation, plan: Plan, missing: MissingRuns
) -> tuple[tuple[str, str], ...]:
    """What to know first: four values, each with what it is."""
    planned = len(plan.trainings)
    gained = sum(row.rpg_low > 0 for row in rows)
    lost = sum(row.rpg_high < 0 for row in rows)
    rho = "n/a" if math.isnan(correlation.rho) else minus(f"{correlation.rho:+.2f}")
    interval = "" if math.isnan(correlation.low) else minus(f" ({correlation.low:+.2f} to {correlation.high:+.2f})")
    return (
        (f"{planned - len(missing.trainings)} of {planned}", "trainings of both arms are in the tables"),
        (f"{gained} up, {lost} down", f"of {len(rows)} cells have a gain whose interval leaves out 0"),
        (f"ρ {rho}", f"rank correlation of gain and distance{interval}"),
        (f"{total_device_hours(tables.runs):.2f} h", "of device time for all trainings, without pretraining"),
    )


def missing_note(missing: MissingRuns, is_planned: bool) -> str:
    """What is missing, in sentences; nothing where nothing is.

    Args:
        missing: What is missing.
        is_planned: Whether from the study's own configuration, or from the study as a whole.
    """
    if not missing.any:
        return ""
    items = "".join(f"<li>{sentence}</li>" for sentence in _sentences(missing))
    plan = "what its configuration plans" if is_planned else "the whole study of two encoders and six tasks"
    told = (
        f"<h2>This study is incomplete</h2><p>Of {plan} something is missing; it is left out below, not filled in.</p>"
    )
    return f'<section id="gaps" class="gaps" role="note">{told}<ul>{items}</ul></section>'


def subheading(tables: StudyTables) -> str:
    """How large the study is, in a line."""
    seeds = len({run.seed for run in tables.runs if run.arm in BOTH})
    real = len({row.case for row in tables.metrics if row.data == "real" and row.case})
    cases = sorted({run.n_test_cases for run in tables.runs})
    tested = f"{cases[0]} to {cases[-1]}" if len(cases) > 1 else f"{cases[0]}" if cases else "no"
    return (
        f"{len(encoders_of(tables.runs))} encoders · {len(tasks_of(tables.runs))} tasks · 2 arms · {seeds} seeds · "
        f"{tested} test phantoms a task · {real} real cases apart"
    )


def _sentences(missing: MissingRuns) -> list[str]:
    found = [
        f"Not trained: {escape(encoder_title(encoder))} ({arms}) on {listed(tasks)}."
        for (encoder, arms), tasks in _untrained(missing).items()
    ]
    lacking = {
        "specialised": missing.task_specific,
        "trivial baseline": missing.naive,
        "number of a real case": missing.real,
    }
    found += [f"No {what}: {listed([task_title(task) for task in names])}." for what, names in lacking.items() if names]
    for what, pairs in {"distance": missing.distances, "learning curve": missing.curves}.items():
        if pairs:
            of = [f"{encoder_title(encoder)} on {task_title(task)}" for encoder, task in pairs]
            found.append(f"No {what}: {listed(of)}.")
    return found


def _untrained(missing: MissingRuns) -> dict[tuple[str, str], list[str]]:
    """Encoder, and arms with their seeds → the tasks that lack these."""
    cells: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for encoder, task, arm, seed in missing.trainings:
        cells[encoder, task][arm].append(str(seed))
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (encoder, task), seeds in cells.items():
        arms = "; ".join(f"{arm_title(arm).lower()}, seed {listed(seeds[arm])}" for arm in BOTH if arm in seeds)
        found[encoder, arms].append(task_title(task))
    return found


# The whole page: one file without scripts that loads nothing from elsewhere.

TITLE = "Which pretraining helps which prostate MRI task?"


def study_html(
    tables: StudyTables, rows: Sequence[SummaryRow], examples: Sequence[Example], study: Path, planned: Plan | None
) -> str:
    """The page as text.

    Args:
        tables: The study's tables.
        rows: What follows from them.
        examples: Its example slices.
        study: Its folder, where their pictures lie.
        planned: What its configuration plans; None to hold it against the whole study.
    """
    plan, correlation = planned or whole_study(tables.runs), gain_against_distance(rows)
    missing = missing_runs(tables, plan)
    rows = _by_encoder(rows, tables)
    sections = (
        about_section(),
        matrix_section(rows, tables),
        arms_section(tables),
        relation_section(rows, correlation),
        distance_section(rows, tables),
        curves_section(rows, tables),
        cost_section(rows, tables),
        examples_section(examples, study),
        real_section(tables),
        published_section(rows),
        definitions_section(),
    )
    return render(
        "study.html",
        ("page.css", "study.css"),
        title=TITLE,
        heading=TITLE,
        subheading=subheading(tables),
        facts=facts(rows, tables, correlation, plan, missing),
        missing=missing_note(missing, planned is not None),
        sections=sections,
    )


def _by_encoder(rows: Sequence[SummaryRow], tables: StudyTables) -> list[SummaryRow]:
    """The rows encoder by encoder, since distances are comparable within one only."""
    cells = [(encoder, task) for encoder in encoders_of(tables.runs) for task in tasks_of(tables.runs)]
    return sorted(rows, key=lambda row: cells.index((row.encoder, row.task)))


# A study's report as files: the summary as a table, and the page.

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
