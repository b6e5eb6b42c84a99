"""A study's cells, run one after another in this process."""

from __future__ import annotations

from .grid import Study
from .grid_cell import run_cell


def run_study(study: Study) -> None:
    for cell in study.pending():
        run_cell(cell, study.config, study.place)
        study.collect()
