"""The report of a comparison: one self-contained page (`templates/case.html`), a still figure, the numbers as files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundles.bundle import Bundle
from ..core.files import write_file
from ..core.notes import texts
from ..core.result import TRAINED_NOTE, Provenance
from ..core.terms import Label
from ..evaluation.comparison import Comparison, save_comparison
from ..evaluation.measures import (
    ALL_CLASSES,
    ARM_TITLES,
    KINDS,
    MIN_DIFFERENCE_ML,
    Between,
    Disagreement,
    Measure,
    arm_title,
    label_title,
    place_title,
    quantity_title,
    subject_title,
    unit_title,
)
from ..evaluation.outputs import GLAND
from ..tasks.outputs import CLASSIFICATION, IMAGE, SEGMENTATION, OutputKind
from .figure import figure_png
from .pages import json_for_script, render
from .radiology import (
    SHOWN_LESIONS,
    gland_table,
    key_images,
    lesion_places,
    lesion_rows,
    quality_rows,
    sector_map,
    sector_schemes,
)
from .scene import ARM_A, ARM_B, OTHER_LABEL, REFERENCE, Color, Scene, build_scene, label_color, scene_document

PAGE = "report.html"
FIGURE = "comparison.png"
SCRIPTS = (
    "decode.js",
    "paint.js",
    "scales.js",
    "view.js",
    "app.js",
    "pointer.js",
    "controls.js",
    "lesions.js",
    "main.js",
)
_MAX_ITEMS = 12
_ARMS = (Between.A_REFERENCE, Between.B_REFERENCE)
EXPECTED = "expected_dice"
_LESIONS = ("lesions_matched", "lesions_added", "lesions_missed")
AGREEMENT = "Agreement of A with B"
ERROR = "Against the reference"
NO_REFERENCE = "No reference is known for this case: agreement of A with B does not show which of them is right."
WITHHELD = "Both corrections were withheld: A and B are the case's own images, so that they do not differ."
WITH_REFERENCE = "Agreement of A with B is no accuracy; only the columns against the reference show the error of each."
_WHO = {
    Between.A: "A",
    Between.B: "B",
    Between.REFERENCE: "Reference",
    Between.A_B: "A, B",
    Between.A_REFERENCE: "A",
    Between.B_REFERENCE: "B",
    Between.INPUT_REFERENCE: "Input",
    Between.NAIVE_REFERENCE: "Naive",
}
Column = tuple[str, str, Between]  # group, kind, between


def write_report(comparison: Comparison, folder: Path, bundles: tuple[Bundle, Bundle] | None = None) -> Path:
    """Write `report.html`, `comparison.png`, `comparison.csv` and `comparison.json`.

    The page, whose path is returned, is one file that loads nothing from elsewhere. It holds the case's name and
    voxels, and no path and no patient data beyond them; given the bundles of A and B, it shows their license, training
    and metrics.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    scene = build_scene(comparison)
    figure = figure_png(scene)
    text = _page_html(scene, figure, bundles)
    save_comparison(comparison, folder)
    write_file(folder / FIGURE, figure)
    write_file(folder / PAGE, text)
    return folder / PAGE


def _page_html(scene: Scene, figure: bytes, bundles: tuple[Bundle, Bundle] | None) -> str:
    comparison = scene.comparison
    a, b = arm_title(comparison.a), arm_title(comparison.b)
    arms = f"{a[0].lower()}{a[1:]} beside {b[0].lower()}{b[1:]}" if a != b else f"two networks, {a}"
    heading = f"{comparison.task.title}: {arms}"
    of_b = comparison.b.class_probabilities
    to_know = (*comparison.caveats, *((TRAINED_NOTE,) if comparison.was_trained_on_name else ()))
    return render(
        "case.html",
        ("page.css", "radiology.css"),
        SCRIPTS,
        title=f"{comparison.case.id}, {heading}",
        heading=heading,
        subheading=(
            f"Case {comparison.case.id} · A is {comparison.a.provenance.title} · B is {comparison.b.provenance.title}"
        ),
        kind=scene.kind.name,
        cautions=list(comparison.cautions.items()),
        caveats=to_know,
        facts=facts(comparison),
        legend=_legend(scene),
        orientation=_orientation(scene),
        figure=base64.b64encode(figure).decode("ascii"),
        figure_text=_figure_text(scene),
        reference_note=_reference_note(comparison),
        tables=measure_tables(comparison),
        footnotes=_footnotes(comparison),
        probabilities=[
            (name + (" (reference)" if name == comparison.true_class else ""), probability, of_b[name])
            for name, probability in comparison.a.class_probabilities.items()
        ],
        disagreements=_disagreements(scene),
        disagreement_count=comparison.disagreement_count,
        no_lesion=comparison.marks_no_lesion,
        smallest_ml=MIN_DIFFERENCE_ML,
        gland=gland_table(comparison),
        quality=quality_rows(comparison),
        key_images=key_images(scene),
        lesions=lesion_rows(comparison),
        sector_map=sector_map(comparison),
        schemes=sector_schemes(comparison),
        shown_lesions=SHOWN_LESIONS,
        cards=[
            _card(who, result.provenance, bundle)
            for who, result, bundle in zip("ab", (comparison.a, comparison.b), bundles or (None, None), strict=True)
        ],
        notes=texts(note for note in (*comparison.case.notes, *comparison.notes) if note not in to_know),
        scene=json_for_script({**scene_document(scene), "lesions": lesion_places(comparison, scene.display)}),
    )


def _figure_text(scene: Scene) -> str:
    names = {SEGMENTATION: "T2w, A, B and their difference", IMAGE: "T2w, A, B and A − B"}
    return f"{names.get(scene.kind, 'The images')} in slice {scene.focus_slice + 1} of {scene.display.geometry.size[2]}"


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What to know first: a few values, each with what it is."""
    tiles = {SEGMENTATION: _segmentation_facts, IMAGE: _image_facts, CLASSIFICATION: _class_facts}
    return tiles[comparison.task.output](comparison)


def _segmentation_facts(comparison: Comparison) -> list[tuple[str, str]]:
    structure = _leading([measure.subject for measure in comparison.measures])
    title = _subject(structure)
    volumes = [_find(comparison, "volume_ml", structure, who) for who in (Between.A, Between.B)]
    unmarked = ". No lesion marked; this does not rule out cancer." if comparison.marks_no_lesion else ""
    found = [
        (" / ".join(v.text for v in volumes if v) + " ml", f"{title} volume, A / B{unmarked}"),
        (_shown(comparison, "dice", structure, Between.A_B), f"Dice A vs B, {title}"),
        (_shown(comparison, "hausdorff95_mm", structure, Between.A_B), f"HD95 A vs B, {title}"),
    ]
    both = (comparison.a.estimate, comparison.b.estimate)
    estimates = [one for one in both if one is not None]
    if estimates:
        texts = " / ".join("–" if one is None else f"{one.dice:.2f}" for one in both)
        intervals = ", ".join(f"{one.low:.2f} to {one.high:.2f}" for one in estimates)
        about = f"expected Dice ({estimates[0].interval_text}): {intervals}, estimated without a reference"
        found.append((texts, about))
    if comparison.has_reference:
        known = [m.subject for m in comparison.measures if m.between is Between.A_REFERENCE]
        structure = _leading(known) if known else structure
        dices = " / ".join(_shown(comparison, "dice", structure, arm) for arm in _ARMS)
        found.append((dices, f"Dice with the reference, {_subject(structure)}, A / B"))
    elif comparison.disagreements:
        largest = comparison.disagreements[0]
        found.append((f"{largest.volume_ml:.2f} ml", "largest region where A and B differ"))
    return found


def _subject(structure: str) -> str:
    return str(Label.CSPCA) if structure == Label.CSPCA else label_title(structure).lower()


def _leading(structures: list[str]) -> str:
    """The structure that is asked about first: clinically significant cancer where it is known, else the first one."""
    return str(Label.CSPCA) if Label.CSPCA in structures else structures[0]


def _image_facts(comparison: Comparison) -> list[tuple[str, str]]:
    output = comparison.measures[0].subject
    in_gland = f"{output}, {GLAND}"
    output = in_gland if any(m.subject == in_gland for m in comparison.measures) else output
    kinds = ("mae", "psnr_db", "ssim")
    where = " in the gland" if output == in_gland else ""
    between = [(_shown(comparison, kind, output, Between.A_B), f"{KINDS[kind].title} A vs B{where}") for kind in kinds]
    against = [
        (_of_both(comparison, kind, output), f"{KINDS[kind].title} against the reference{where}, A / B")
        for kind in (("mae", "ssim") if comparison.has_reference else ())
    ]
    if comparison.is_withheld:
        return [("withheld", "A and B: the images are uncorrected, and the same"), *against]
    # The reference first, since A and B may be wrong alike.
    return [*against, between[0], between[-1]] if against else between


def _of_both(comparison: Comparison, kind: str, subject: str) -> str:
    """A's and B's value against the reference, with their unit once."""
    found = [_find(comparison, kind, subject, arm) for arm in _ARMS]
    texts = " / ".join("–" if one is None else one.text for one in found)
    return quantity_title(texts, next((one.unit for one in found if one is not None), ""))


def _class_facts(comparison: Comparison) -> list[tuple[str, str]]:
    both = (comparison.a.class_probabilities, comparison.b.class_probabilities)
    best = [max(probabilities.items(), key=lambda item: item[1]) for probabilities in both]
    found = [(f"{name} ({p:.2f})", f"most probable class by {who}") for (name, p), who in zip(best, "AB", strict=True)]
    cancers = [_find(comparison, "probability", str(Label.CSPCA), who) for who in (Between.A, Between.B)]
    if all(cancers):
        texts = " / ".join(f"{cancer.value:.2f}" for cancer in cancers if cancer)
        found.insert(0, (texts, f"probability of {label_title(Label.CSPCA).lower()}, A / B"))
    decided = [one.decided_at_mm for one in (comparison.a, comparison.b)]
    if any(decided):
        of_each = ("–" if at is None else str(comparison.geometry.nearest_voxel(at)[2] + 1) for at in decided)
        found.append(
            (
                " / ".join(of_each),
                f"most suspicious slice of {comparison.geometry.size[2]}, A / B; its classes are the case's",
            )
        )
    distance = _shown(comparison, "total_variation", ALL_CLASSES, Between.A_B)
    found.append((distance, "total variation distance, 0 to 1"))
    if comparison.true_class is not None:
        found.append((comparison.true_class, "class by the reference"))
    return found


def _find(comparison: Comparison, kind: str, subject: str, between: Between) -> Measure | None:
    return next((m for m in comparison.measures if (m.kind, m.subject, m.between) == (kind, subject, between)), None)


def _shown(comparison: Comparison, kind: str, subject: str, between: Between) -> str:
    """A measure with its unit, as text."""
    found = _find(comparison, kind, subject, between)
    return "–" if found is None else quantity_title(found.text, found.unit)


@dataclass(frozen=True)
class Table:
    """Measures as a table, one row a structure, output or class.

    Attributes:
        groups: Title and number of columns of each.
        columns: Title of each, and whether it is the first of its group.
        rows: Name, and for each column text, hint and whether it is the first of its group.
    """

    heading: str
    groups: Sequence[tuple[str, int]]
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[tuple[str, Sequence[tuple[str, str, bool]]]]


def _reference_note(comparison: Comparison) -> str:
    if comparison.is_withheld:
        return WITHHELD
    return WITH_REFERENCE if comparison.has_reference else NO_REFERENCE


def measure_tables(comparison: Comparison) -> list[Table]:
    """The tables of the task's kind of output that have rows."""
    error = [(ERROR, "log_loss", arm) for arm in _ARMS] if comparison.has_reference else []
    overlap = ("dice", "hausdorff95_mm")
    volumes: list[Column] = [("Volume", "volume_ml", who) for who in (Between.A, Between.B, Between.REFERENCE)]
    is_expected = any(m.kind == EXPECTED for m in comparison.measures)
    expected: list[Column] = [("Expected Dice", EXPECTED, who) for who in (Between.A, Between.B) if is_expected]
    structures = _columns(comparison, (*overlap, "volume_difference_ml"), overlap)
    tables: dict[OutputKind, list[tuple[str, list[Column]]]] = {
        SEGMENTATION: [
            ("Structure", volumes[: 3 if comparison.has_reference else 2] + expected + structures),
            ("Lesions", _columns(comparison, _LESIONS, _LESIONS)),
        ],
        IMAGE: [("Image", _image_columns(comparison))],
        CLASSIFICATION: [
            (
                "Class",
                [
                    ("Probability", "probability", Between.A),
                    ("Probability", "probability", Between.B),
                    (AGREEMENT, "probability_difference", Between.A_B),
                ],
            ),
            ("", [(AGREEMENT, "total_variation", Between.A_B), *error]),
        ],
    }
    made = (_table(comparison, columns, heading) for heading, columns in tables[comparison.task.output])
    return [table for table in made if table.rows]


def _columns(comparison: Comparison, agreement: Sequence[str], error: Sequence[str]) -> list[Column]:
    """Kinds between A and B, then kinds of both arms against the reference where there is one."""
    between: list[Column] = [(AGREEMENT, kind, Between.A_B) for kind in agreement]
    against: list[Column] = [(ERROR, kind, arm) for kind in error for arm in _ARMS]
    return between + (against if comparison.has_reference else [])


def _image_columns(comparison: Comparison) -> list[Column]:
    kinds = ("mean_difference", "mae", "psnr_db", "ssim")
    measured = {m.between for m in comparison.shown_measures}
    moved = any(m.kind == "displacement_difference_mm" for m in comparison.shown_measures)
    arms = [arm for arm in (*_ARMS, Between.INPUT_REFERENCE, Between.NAIVE_REFERENCE) if arm in measured]
    agreement = (*kinds, "displacement_difference_mm") if moved else kinds
    return [
        *((AGREEMENT, kind, Between.A_B) for kind in agreement if Between.A_B in measured),
        *((ERROR, kind, arm) for kind in kinds[1:] for arm in arms),
    ]


def _table(comparison: Comparison, columns: Sequence[Column], heading: str) -> Table:
    found = {(m.kind, m.subject, m.between): m for m in comparison.shown_measures}
    kinds = {kind for _, kind, _ in columns}
    subjects = list(dict.fromkeys(m.subject for m in comparison.shown_measures if m.kind in kinds))
    first = str(Label.CSPCA) if comparison.segments else ""
    subjects.sort(key=lambda subject: not (subject == first or subject.endswith(f", {GLAND}")))  # what matters first
    groups = [group for group, _, _ in columns]
    firsts = [i == 0 or groups[i - 1] != groups[i] for i in range(len(groups))]
    units = []  # that all values of a column share, or nothing
    for _, kind, between in columns:
        own = {m.unit for m in comparison.shown_measures if (m.kind, m.between) == (kind, between)}
        units.append(own.pop() if len(own) == 1 else "")

    def cell(found: Measure | None, unit: str) -> tuple[str, str]:
        if found is None:
            return "–", ""
        return found.text if unit else quantity_title(found.text, found.unit), found.note

    return Table(
        heading,
        [(group, groups.count(group)) for group in dict.fromkeys(groups)],
        [(_column_title(column, unit), first) for column, unit, first in zip(columns, units, firsts, strict=True)],
        [
            (
                subject_title(subject),
                [
                    (*cell(found.get((kind, subject, between)), unit), first)
                    for (_, kind, between), unit, first in zip(columns, units, firsts, strict=True)
                ],
            )
            for subject in subjects
        ],
    )


def _column_title(column: Column, unit: str) -> str:
    group, kind, between = column
    words = dict.fromkeys(("Volume", "Expected Dice", "Probability"), _WHO[between]) | {
        ERROR: f"{KINDS[kind].title} {_WHO[between]}"
    }
    return words.get(group, KINDS[kind].title) + (f", {unit_title(unit)}" if unit else "")


def _footnotes(comparison: Comparison) -> list[tuple[str, str]]:
    """Definitions of the measures, and why values are missing: what, and the rest of the sentence."""
    kinds = dict.fromkeys(m.kind for m in comparison.shown_measures if KINDS[m.kind].definition)
    ranges = dict.fromkeys(m.note for m in comparison.shown_measures if m.kind == "psnr_db" and m.note)
    missing = dict.fromkeys(
        (m.title, subject_title(m.subject), m.note) for m in comparison.shown_measures if m.text == "n/a"
    )
    return [
        *((KINDS[kind].title, f": {KINDS[kind].definition}") for kind in kinds),
        *(("PSNR, SSIM", f": {note}") for note in ranges),
        *((title, f" of {subject} has no value: {note}") for title, subject, note in missing),
    ]


def _disagreements(scene: Scene) -> list[dict[str, Any]] | None:
    """Regions where A and B differ; None where the task gives no labels."""
    if not scene.kind.marks_voxels:
        return None
    return [
        {
            "index": region.index,
            "what": _difference(region),
            "volume": f"{region.volume_ml:.3f} ml",
            "is_small": region.volume_ml < MIN_DIFFERENCE_ML,
            "slice": scene.display.index_of(region.center_mm)[2] + 1,
            "position": region.position,
            "place": place_title(region.center_mm),
        }
        for region in scene.comparison.disagreements
    ]


def _difference(region: Disagreement) -> list[tuple[str, str, str]]:
    """Arm, its word, and the label that it marks there."""
    a, b = label_title(region.a_label), label_title(region.b_label)
    if region.b_label == Label.BACKGROUND:
        return [("a", "A only", a)]
    if region.a_label == Label.BACKGROUND:
        return [("b", "B only", b)]
    return [("a", "A", f"{a}, "), ("b", "B", b)]


def _card(who: str, provenance: Provenance, bundle: Bundle | None) -> dict[str, Any]:
    """What an arm is: weights, runtime, versions, time, and the bundle's own words."""
    rows: dict[str, list[str]] = {"Bundle": [provenance.bundle]}
    if bundle is not None:
        rows |= {
            "Description": [bundle.description],
            "Version": [bundle.version],
            "Architecture": [f"{bundle.spec.title}, {bundle.spec.paper}"],
            "License of the weights": [bundle.license],
            "Training": _plain_entries(bundle.training),
            "Metrics": _plain_entries(bundle.metrics),
        }
    stages = ", ".join(f"{stage} {value:.2f} s" for stage, value in provenance.seconds.items())
    least = provenance.min_confidence
    rows |= {
        "Weights, SHA-256": [provenance.sha256],
        "Ran with": [f"{provenance.runtime} on {provenance.device}"],
        "Operating point": [f"Places whose largest probability is below {least:.2f} are no marks"] if least else [],
        "Time": [f"{sum(provenance.seconds.values()):.2f} s ({stages})"] if provenance.seconds else [],
        "Versions": [", ".join(f"{name} {version}" for name, version in provenance.versions.items())],
        "Notes": [note.text for note in (*provenance.caveats, *provenance.notes)],
    }
    is_demonstration = bundle is not None and bundle.demonstration
    tags = [ARM_TITLES.get(provenance.arm, ""), "Demonstration network" if is_demonstration else ""]
    shown = {name: lines for name, lines in rows.items() if any(lines)}
    return {"who": who, "title": provenance.title, "tags": [tag for tag in tags if tag], "rows": shown}


def _plain_entries(values: Mapping[str, Any]) -> list[str]:
    """Plain entries of free JSON; nested ones are left to the bundle's own files."""
    plain = {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
    shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in plain.items()}
    return [f"{key.replace('_', ' ')}: {text}" for key, text in shown.items()][:_MAX_ITEMS]


def _legend(scene: Scene) -> list[tuple[Color, str]]:
    items: list[tuple[Color, str]] = []
    if scene.kind.marks_voxels:
        items = [(label_color(name, i), label_title(name)) for i, name in enumerate(scene.label_names)]
        items += [(ARM_A, "marked by A only"), (ARM_B, "marked by B only")]
        if len(scene.label_names) > 1:
            items.append((OTHER_LABEL, "marked differently"))
        if scene.comparison.reference:
            items.append((REFERENCE, "reference"))
    elif scene.kind.gives_images:
        items = [(ARM_A, "first higher"), (ARM_B, "second higher")]
    return items


def _orientation(scene: Scene) -> str:
    geometry = scene.display.geometry
    text = f"Radiological view: the patient's right is on the left. Shown on {geometry}."
    if scene.display.is_cropped:
        x, y, _ = geometry.extent_mm
        text += f" Cropped to {x:.0f} x {y:.0f} mm for display; the measures are of the whole images."
    return text + " Images on other grids are interpolated linearly for display, labels are not interpolated."
