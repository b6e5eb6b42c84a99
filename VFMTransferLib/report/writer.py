"""A comparison as files that a person opens."""

from __future__ import annotations

from pathlib import Path

from ..atomic import atomic_file, writing
from ..bundle import Bundle
from ..study.comparison import Comparison
from ..study.comparison_files import save_comparison
from .figure import figure_png
from .page import page_html
from .scene import build_scene

PAGE = "report.html"
FIGURE = "comparison.png"


def write_report(comparison: Comparison, folder: Path, bundles: tuple[Bundle, Bundle] | None = None) -> Path:
    """Write `report.html`, `comparison.png`, `comparison.csv` and `comparison.json`.

    The page is one file that loads nothing from elsewhere. It holds the case's name and voxels, and
    no path and no patient data beyond them.

    Args:
        comparison: What to show.
        folder: Where to; made if it does not exist.
        bundles: Bundles of A and B, whose licence, training and metrics the page then shows.

    Returns:
        Path of `report.html`.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    scene = build_scene(comparison)
    figure = figure_png(scene)
    text = page_html(scene, figure, bundles)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_comparison(comparison, folder)
    with atomic_file(folder / FIGURE) as part:
        part.write_bytes(figure)
    with atomic_file(folder / PAGE) as part:
        part.write_text(text, encoding="utf-8")
    return folder / PAGE
