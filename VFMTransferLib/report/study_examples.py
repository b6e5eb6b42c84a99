"""Example slices of each task: what goes in, what is true, and what every arm makes of it."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..evaluation.titles import label_title, unit_title
from ..study.examples import TOO_HIGH, TOO_LOW, TRUE_OUTLINE, Example, Picture
from ..study.overview import BOTH, metric_name
from ..tasks import TASKS
from .plot import minus
from .study_words import arm_class, arm_title, encoder_title, measured, section, task_title

_ORDER = {arm: i for i, arm in enumerate((*BOTH, "specialised", "trivial"))}


def examples_section(examples: Sequence[Example], study: Path) -> str:
    """The slices of all tasks; phantoms before real cases."""
    if not examples:
        return section("examples", "Example slices", '<p class="missing">No example slice was written.</p>')
    groups: dict[tuple[str, str, str], list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.task, example.data, example.case].append(example)
    tasks = [task for task in TASKS if any(key[0] == task for key in groups)]
    shown = "".join(
        f"<h3>{escape(task_title(task))}</h3>"
        + "".join(_group(groups[key], study) for key in sorted(groups, key=lambda k: (k[1], k[2])) if key[0] == task)
        for task in tasks
    )
    note = (
        "The first test case by name that shows what the task is about, in the slice that holds most of it: chosen by "
        "the truth alone, the same for all arms, of the first seed. Radiological view: the patient's right is on the "
        "left. The numbers below a picture are of this whole case, not of the slice."
    )
    return section("examples", "Example slices", f'<p class="muted">{note}</p>{shown}')


def _group(examples: list[Example], study: Path) -> str:
    """One case: its input and truth, then the arms."""
    first = examples[0]
    pictures = [*first.inputs, *([first.truth] if first.truth else [])]
    given = "".join(_tile(picture.title, "", _image(picture, first, study), picture) for picture in pictures)
    arms = sorted(
        examples, key=lambda e: (_ORDER[e.arm] >= len(BOTH), e.encoder if e.arm in BOTH else "", _ORDER[e.arm])
    )
    told = "".join(_arm_tile(example, study) for example in arms)
    what = "" if first.data == "phantom" else "real case "
    place = f"{what}{escape(first.case)}, slice {first.slice_number} of {first.slices}"
    lesions = "" if first.truth or not TASKS[first.task].finds_lesions else " The readers' marks are not shown."
    source = f'<p class="scale">Image: {escape(first.attribution)}</p>' if first.attribution else ""
    return (
        f'<div class="example"><p class="place">On {place}.{lesions}</p>'
        f'<div class="tiles"><div>{given}</div><div>{told}</div></div>'
        f"{_outlines(examples)}{_scale(first)}{source}</div>"
    )


def _arm_tile(example: Example, study: Path) -> str:
    title = f"{encoder_title(example.encoder)}, {arm_title(example.arm).lower()}"
    content = _classes(example) if example.classes else _image(example.picture, example, study)
    if example.difference is not None:
        content += _image(example.difference, example, study)
    names = [name for name in TASKS[example.task].example_measures if name in example.scores]
    found = [(metric_name(name, example.task), example.scores[name], name) for name in names]
    scores = " · ".join(
        f"{escape(metric.title)} {measured(value, name, example.task)}{_unit(metric.unit)}"
        for metric, value, name in found
    )
    return _tile(title, arm_class(example.arm), content, None, scores or "no score for this case")


def _tile(title: str, css: str, content: str, picture: Picture | None, below: str = "") -> str:
    if picture is not None:
        below = f"{minus(f'{picture.low:.4g} to {picture.high:.4g}')}{_unit(picture.unit)}"
    return f'<figure class="tile {css}"><figcaption>{escape(title)}</figcaption>{content}<p>{below}</p></figure>'


def _unit(unit: str) -> str:
    return f" {escape(unit_title(unit))}" if unit else ""


def _image(picture: Picture | None, example: Example, study: Path) -> str:
    if picture is None:
        return ""
    data = base64.b64encode((example.folder(study) / picture.file).read_bytes()).decode("ascii")
    who = f"{encoder_title(example.encoder)} {arm_title(example.arm).lower()}"
    shown = picture.title if picture in (*example.inputs, example.truth) else f"{who}: {picture.title}"
    return (
        f'<img alt="{escape(f"{task_title(example.task)}, {shown}", quote=True)}" src="data:image/png;base64,{data}">'
    )


def _classes(example: Example) -> str:
    """Class probabilities as bars; the true class is marked."""
    parts = []
    for i, (name, share) in enumerate(example.classes.items()):
        y = 8 + 36 * i
        is_true = name == example.true_class
        css = "true" if is_true else "name"
        parts.append(f'<text class="{css}" x="8" y="{y + 11}">{escape(name)}{" (true)" if is_true else ""}</text>')
        parts.append(f'<rect class="back" x="8" y="{y + 16}" width="108" height="10" rx="2"/>')
        parts.append(f'<rect class="share" x="8" y="{y + 16}" width="{108 * share:.1f}" height="10" rx="2"/>')
        parts.append(f'<text class="name" x="154" y="{y + 25}" text-anchor="end">{share:.2f}</text>')
    told = ", ".join(f"{name} {share:.2f}" for name, share in example.classes.items())
    known = example.true_class in example.classes
    below = "" if known else f'<text class="true" x="8" y="158">true: {escape(example.true_class or "")}</text>'
    label = escape(f"Probabilities: {told}; true: {example.true_class}", quote=True)
    return f'<svg class="classes" viewBox="0 0 160 164" role="img" aria-label="{label}">{"".join(parts)}{below}</svg>'


def _outlines(examples: Sequence[Example]) -> str:
    colors = {name: color for example in examples for name, color in example.outlines.items()}
    if not colors:
        return ""
    titles = {TRUE_OUTLINE: "truth, over which results are drawn"}
    swatch = '<svg width="11" height="11" aria-hidden="true"><rect width="11" height="11" rx="2" fill="rgb{}"/></svg>'
    items = "".join(
        f"<li>{swatch.format(color)}{escape(titles.get(name) or label_title(name))}</li>"
        for name, color in colors.items()
    )
    return f'<ul class="legend-row">{items}</ul>'


def _scale(example: Example) -> str:
    """The colors of a difference, with its limits."""
    if example.difference is None:
        return ""
    low, high, unit = example.difference.low, example.difference.high, _unit(example.difference.unit)
    name = f"scale-{example.task}-{example.data}-{example.case}"
    return (
        '<p class="scale">Below each result its difference from the truth: '
        f"{minus(f'{low:.4g}')} and lower "
        f'<svg width="120" height="11" aria-hidden="true"><defs><linearGradient id="{escape(name)}">'
        f'<stop offset="0" stop-color="rgb{TOO_LOW}"/><stop offset=".5" stop-color="#000"/>'
        f'<stop offset="1" stop-color="rgb{TOO_HIGH}"/></linearGradient></defs>'
        f'<rect width="120" height="11" rx="2" fill="url(#{escape(name)})"/></svg> {high:.4g}{unit} and higher</p>'
    )
