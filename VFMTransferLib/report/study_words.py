"""Words and numbers that several parts of a study's page share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ..evaluation.titles import ARM_TITLES, unit_title
from ..study.overview import ArmValue, MetricName, metric_name
from ..tasks import TASKS
from .plot import minus

ENCODER_TITLES = {
    "profound": "ProFound",
    "provicnet": "ProViCNet",
    "dynunet": "DynUNet",
    "resnet": "ResNet",
    "registration": "Registration",
}
_ARM_TITLES = {**ARM_TITLES, "specialised": "Specialised", "trivial": "Trivial"}
_LEFT = ' class="left"'


def encoder_title(name: str) -> str:
    """An encoder, or what stands in its column of other arms."""
    return ENCODER_TITLES.get(name, name.replace("-", " ").replace("adc", "ADC"))


def arm_title(arm: str) -> str:
    return _ARM_TITLES.get(arm, arm)


def arm_class(arm: str) -> str:
    """The style of an arm in charts and tables."""
    return arm if arm in _ARM_TITLES else "trivial"


def arm_text(value: ArmValue) -> str:
    """An arm of a task in full."""
    return f"{encoder_title(value.encoder)}, {arm_title(value.arm).lower()}"


def task_title(task: str) -> str:
    return TASKS[task].title if task in TASKS else task


def short_task(task: str) -> str:
    """A task in a word, for charts."""
    return TASKS[task].short_title if task in TASKS else task


def metric_head(name: MetricName) -> str:
    """A measure with its unit and direction."""
    unit = f", {unit_title(name.unit)}" if name.unit else ""
    direction = {True: " ↑", False: " ↓", None: ""}[name.higher_is_better]
    return f"{name.title}{unit}{direction}"


def number(value: float, decimals: int = 2, suffix: str = "", sign: bool = False) -> str:
    """A number as HTML that keeps all its digits for programs."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        text = "-∞" if value < 0 else "∞"
    elif round(value, decimals) == 0:
        text = f"{0:.{decimals}f}"
    else:
        text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return f'<data value="{value!r}">{minus(text)}{suffix}</data>'


def measured(value: float, metric: str, task: str) -> str:
    """The value of a measure as HTML, without its unit."""
    text = minus(metric_name(metric, task).text(value))
    return text if math.isnan(value) else f'<data value="{value!r}">{text}</data>'


def duration(seconds: float) -> str:
    """A time on the device in the unit that suits it."""
    if math.isnan(seconds):
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def listed(words: list[str] | tuple[str, ...]) -> str:
    """Words as a list within a sentence, escaped."""
    found = [escape(word) for word in words]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else "none"


def section(anchor: str, title: str, *parts: str) -> str:
    """A part of the page with its heading."""
    return f'<section id="{anchor}" class="part"><h2>{title}</h2>{"".join(parts)}</section>'


def table(caption: str, heads: Sequence[str], body: str, *, left: int = 1, css: str = "") -> str:
    """A table that scrolls by itself where the page is too narrow.

    Args:
        caption: What it shows.
        heads: Titles of the columns; may hold HTML, as all of these.
        body: Its rows, or its `tbody` elements.
        left: How many columns are words, and so begin at the left.
        css: Its style.
    """
    shown = "".join(f'<th scope="col"{_LEFT if i < left else ""}>{head}</th>' for i, head in enumerate(heads))
    rows = body if body.startswith("<tbody") else f"<tbody>{body}</tbody>"
    told = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="wide"><table class="{css}">{told}<thead><tr>{shown}</tr></thead>{rows}</table></div>'


def table_row(heads: Sequence[str], cells: Sequence[str], css: str = "") -> str:
    """A row: words that say what it is of, then its cells; all may hold HTML."""
    first, *others = heads
    words = f'<th scope="row">{first}</th>' + "".join(f"<td{_LEFT}>{word}</td>" for word in others)
    style = f' class="{css}"' if css else ""
    return f"<tr{style}>{words}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def interval(low: float, high: float, decimals: int = 1) -> str:
    """Both ends of an interval as HTML."""
    if math.isnan(low):
        return "no interval"
    return f"{number(low, decimals, sign=True)} to {number(high, decimals, sign=True)}"


def figure(picture: str, caption: str, css: str = "") -> str:
    """A chart with what it is; both may hold HTML."""
    return f'<figure class="plot {css}">{picture}<figcaption>{caption}</figcaption></figure>'
