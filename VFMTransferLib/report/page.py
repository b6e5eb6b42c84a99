"""One self-contained page: the templates filled with a scene, tables and cards."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import date
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from ..bundles.bundle import Bundle
from ..core.files import atomic_file, writing
from ..core.terms import RESEARCH_USE
from ..core.version import __version__
from ..evaluation.comparison import Comparison, save_comparison
from ..evaluation.titles import arm_title, label_title
from .case_page import disagreement_table, facts, lesion_table, measure_tables, model_card, probability_bars
from .colors import ARM_A, ARM_B, OTHER_LABEL, REFERENCE, Color, label_color
from .figure import figure_png
from .scene import Scene, build_scene, scene_document

SCRIPTS = ("decode.js", "paint.js", "scales.js", "view.js", "app.js", "pointer.js", "controls.js", "main.js")


def page_html(scene: Scene, figure_png: bytes, bundles: tuple[Bundle, Bundle] | None = None) -> str:
    """The page as text.

    Args:
        scene: What is shown.
        figure_png: The still figure, for paper and for readers without scripts.
        bundles: Bundles of A and B, whose licence and training the cards then show.
    """
    comparison = scene.comparison
    style = template("page.css")
    script = "\n".join(template(name) for name in SCRIPTS)
    heading = f"{comparison.task.title}: {_arms(comparison)}"
    both = bundles or (None, None)
    return Template(template("page.html")).substitute(
        title=escape(f"{comparison.case.id}, {heading}"),
        heading=escape(heading),
        subheading=escape(
            f"Case {comparison.case.id} · A is {comparison.a.provenance.title} · B is {comparison.b.provenance.title}"
        ),
        research_use=escape(RESEARCH_USE),
        version=escape(__version__),
        date=date.today().isoformat(),
        style=style,
        style_hash=csp_hash(style),
        script=script,
        script_hash=csp_hash(script),
        facts=facts(comparison),
        legend=_legend(scene),
        orientation=escape(_orientation(scene)),
        figure=base64.b64encode(figure_png).decode("ascii"),
        figure_alt=escape(figure_text(scene)),
        tables=_tables(scene),
        cards="".join(
            model_card(who, result.provenance, bundle)
            for who, result, bundle in zip("ab", (comparison.a, comparison.b), both, strict=True)
        ),
        notes=_notes(comparison),
        scene=_json_for_script(scene_document(scene)),
    )


def figure_text(scene: Scene) -> str:
    """What the still figure shows."""
    names = {"segmentation": "T2w, A, B and their difference", "image": "T2w, A, B and A − B"}
    return f"{names.get(scene.kind, 'The images')} in slice {scene.focus_slice + 1} of {scene.display.geometry.size[2]}"


def _arms(comparison: Comparison) -> str:
    a, b = arm_title(comparison.a), arm_title(comparison.b)
    return f"{a[0].lower()}{a[1:]} beside {b[0].lower()}{b[1:]}" if a != b else f"two networks, {a}"


def template(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """What lets a browser run this very text and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json_for_script(document: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _tables(scene: Scene) -> str:
    comparison = scene.comparison
    sections = [f"<h2>Measures</h2>{measure_tables(comparison)}", probability_bars(comparison)]
    sections += [disagreement_table(comparison, scene.display), lesion_table(comparison)]
    shown = "".join(f"<section>{section}</section>" for section in sections if section)
    return f'<div class="tables {scene.kind}">{shown}</div>'


def _legend(scene: Scene) -> str:
    items: list[tuple[Color, str]] = []
    if scene.kind == "segmentation":
        items = [(label_color(name, i), label_title(name)) for i, name in enumerate(scene.label_names)]
        items += [(ARM_A, "marked by A only"), (ARM_B, "marked by B only")]
        if len(scene.label_names) > 1:
            items.append((OTHER_LABEL, "marked differently"))
    elif scene.kind == "image":
        items = [(ARM_A, "first higher"), (ARM_B, "second higher")]
    if scene.comparison.reference and scene.kind == "segmentation":
        items.append((REFERENCE, "reference"))
    swatch = '<svg width="11" height="11" aria-hidden="true"><rect width="11" height="11" rx="2" fill="rgb{}"/></svg>'
    return (
        '<ul class="legend">'
        + "".join(f"<li>{swatch.format(color)}{escape(text)}</li>" for color, text in items)
        + "</ul>"
    )


def _orientation(scene: Scene) -> str:
    geometry = scene.display.geometry
    text = f"Radiological view: the patient's right is on the left. Shown on {geometry}."
    if scene.display.is_cropped:
        x, y, _ = geometry.extent_mm
        text += f" Cropped to {x:.0f} x {y:.0f} mm for display; the measures are of the whole images."
    return text + " Images on other grids are interpolated linearly for display, labels are not interpolated."


def _notes(comparison: Comparison) -> str:
    notes = (*comparison.case.notes, *comparison.notes)
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section class="notes"><h2>Notes</h2><ul>{items}</ul></section>'


# A comparison as files that a person opens.

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
