"""The whole page: one file without scripts that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from html import escape
from pathlib import Path
from string import Template

from ...study.example_files import Example
from ...study.gaps import Plan, gaps, whole_study
from ...study.grid_tables import StudyTables
from ...study.overview import encoders_of, tasks_of
from ...study.transfer_summary import SummaryRow, gain_against_distance
from ...terms import RESEARCH_USE
from ...version import __version__
from ..page import csp_hash, template
from .about import about_section, definitions_section, facts, gaps_note, subheading
from .convergence import cost_section, curves_section
from .distance import distance_section, relation_section
from .examples import examples_section
from .matrix import arms_section, matrix_section
from .published import published_section
from .real import real_section

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
    missing = gaps(tables, plan)
    rows = _by_encoder(rows, tables)
    style = template("page.css") + template("study.css")
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
    return Template(template("study.html")).substitute(
        title=escape(TITLE),
        subheading=escape(subheading(tables)),
        research_use=escape(RESEARCH_USE),
        version=escape(__version__),
        date=date.today().isoformat(),
        style=style,
        style_hash=csp_hash(style),
        facts=facts(rows, tables, correlation, plan, missing),
        gaps=gaps_note(missing, planned is not None),
        sections="".join(sections),
    )


def _by_encoder(rows: Sequence[SummaryRow], tables: StudyTables) -> list[SummaryRow]:
    """The rows encoder by encoder, since distances are comparable within one only."""
    cells = [(encoder, task) for encoder in encoders_of(tables.runs) for task in tasks_of(tables.runs)]
    return sorted(rows, key=lambda row: cells.index((row.encoder, row.task)))
