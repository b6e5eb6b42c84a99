"""Charts of a study's page: drawn by matplotlib as SVG that stands in the page, in colors that its style gives."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colors that matplotlib draws with, and what they are in the page, which has a light and a dark look.
_INK, _SOFT, _LINE, _ACCENT = "#010101", "#010102", "#010103", "#010104"
_ARMS = {"pretrained": "#010105", "scratch": "#010106"}
_IN_PAGE = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _ACCENT: "var(--accent)",
    _ARMS["pretrained"]: "var(--arm-a)",
    _ARMS["scratch"]: "var(--arm-b)",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "study",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _LINE,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_POINTS_PER_INCH = 72
_CURVES = (360, 230)
_SCATTER = (560, 340)
_LAYERS = (300, 150)
_STRIP = (120, 16)
_SYMLOG_FROM_PERCENT = 30.0
_NAME_HEIGHT = 15.0

Curve = dict[int, float]  # step → validation value
Measured = tuple[float, float, float]  # value, and both ends of its interval


@dataclass
class Drawing:
    """The figure and its axes to draw on and, once drawn, the SVG."""

    figure: Figure
    axes: Axes
    svg: str = ""


@contextmanager
def _drawing(size: tuple[int, int], label: str, css: str = "") -> Iterator[Drawing]:
    """A chart of some size in points; the label states its content in words."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] / _POINTS_PER_INCH, size[1] / _POINTS_PER_INCH), layout="constrained")
        drawing = Drawing(figure, figure.add_subplot())
        yield drawing
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    content = stream.getvalue().partition("<svg ")[2].partition(">")[2]
    # The page allows no styles but its own: matplotlib's become attributes.
    content = re.sub(r"<style.*?</style>", "", content, flags=re.DOTALL)
    content = re.sub(r' style="([^"]*)"', lambda found: _attributes(found[1]), content)
    for color, variable in _IN_PAGE.items():
        content = content.replace(color, variable)
    view = f'viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(label, quote=True)}"'
    drawing.svg = Markup(f'<svg class="chart {css}" {view}>{content}')


def _attributes(style: str) -> str:
    """A style as attributes of SVG; of a font its size."""
    found = ""
    for name, _, value in (part.strip().partition(": ") for part in style.split(";") if part.strip()):
        if name == "font":
            name, value = "font-size", value.partition("px")[0].rpartition(" ")[2]
        found += f' {name}="{value}"'
    return found


def minus(text: str) -> str:
    """With a minus sign instead of a hyphen."""
    return text.replace("-", "−")


def strip(
    values: Sequence[float], shown: Sequence[float], naive: float | None, higher_is_better: bool, css: str
) -> str:
    """The seeds' values as dots and the naive baseline's as a dashed line; better lies to the right.

    All values `shown` of the task give the ends.
    """
    width, height = _STRIP
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    ends = (6.0, width - 6.0) if higher_is_better else (width - 6.0, 6.0)

    def at(value: float) -> float:
        return float(np.interp(value, (low, high if high > low else low + 1), ends))

    parts = [f'<path class="grid" d="M2 {height / 2}H{width - 2}"/>']
    if naive is not None:
        parts.append(f'<path class="reference" d="M{at(naive):.1f} 1V{height - 1}"/>')
    parts += [f'<circle class="{css}" cx="{at(value):.1f}" cy="{height / 2}" r="4"/>' for value in values]
    return Markup(f'<svg class="dots" width="{width}" height="{height}" aria-hidden="true">{"".join(parts)}</svg>')


def curves(seeds: Mapping[str, Sequence[Curve]], heading: str, label: str) -> str:
    """Learning curves, of each arm one a seed: thin; their mean, at the steps that all have, thick.

    The scale is of steps above 0.
    """
    with _drawing(_CURVES, label) as drawing:
        axes = drawing.axes
        for arm, found in seeds.items():
            for curve in found:
                steps = sorted(curve)
                axes.plot(steps, _finite(curve[step] for step in steps), color=_ARMS[arm], lw=1, alpha=0.55)
            steps = sorted(set.intersection(*(set(curve) for curve in found)))
            means = _finite(sum(curve[step] for curve in found) / len(found) for step in steps)
            axes.plot(steps, means, color=_ARMS[arm], lw=2.5)
        points = [point for found in seeds.values() for curve in found for point in curve.items()]
        values = [value for step, value in points if step > 0 and math.isfinite(value)]
        if values and max(values) > min(values):
            margin = 0.06 * (max(values) - min(values))
            axes.set_ylim(min(values) - margin, max(values) + margin)
        axes.set(xlabel="Step", ylabel=heading)
    return drawing.svg


def efficiency(arms: Mapping[str, Mapping[int, Measured]], heading: str, label: str) -> str:
    """What each arm reaches with so many labeled cases, on a logarithmic scale, each with its interval."""
    with _drawing(_CURVES, label) as drawing:
        axes, sizes = drawing.axes, sorted({size for found in arms.values() for size in found})
        for arm, found in arms.items():
            x = np.array(sorted(found)) * (0.98 if arm == "pretrained" else 1.02)  # the intervals stand side by side
            values, low, high = (_finite(found[size][part] for size in sorted(found)) for part in range(3))
            axes.plot(x, values, "o-", color=_ARMS[arm], lw=2.5, ms=5)
            axes.vlines(x, low, high, color=_ARMS[arm], lw=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set(xlabel="Labeled cases", ylabel=heading)
    return drawing.svg


@dataclass(frozen=True)
class Point:
    """A task in a chart of gain against distance: its names, and both numbers with the gain's interval."""

    title: str
    short_title: str
    distance: float
    gain: float
    low: float
    high: float


def scatter(points: Sequence[Point], who: str) -> str:
    """Gain against distance of one encoder's tasks, each with its interval and its name beside it."""
    content = "; ".join(f"{point.title} at D2P {point.distance:.3g}, gain {point.gain:.1f} %" for point in points)
    with _drawing(_SCATTER, f"Gain against distance of {who}: {content}") as drawing:
        axes = drawing.axes
        axes.axhline(0, color=_SOFT, lw=1)
        x, gains = [point.distance for point in points], [point.gain for point in points]
        low, high = _finite(point.low for point in points), _finite(point.high for point in points)
        axes.vlines(x, low, high, color=_ACCENT, lw=1.5, alpha=0.65)
        axes.plot(x, gains, "o", color=_ACCENT, ms=9)
        if np.nanmax(np.abs([*low, *high, *gains, 0.0])) > _SYMLOG_FROM_PERCENT:
            axes.set_yscale("symlog", linthresh=1.0)
            axes.yaxis.set_major_formatter(lambda value, _: minus(f"{value:g}"))
        axes.set(xlabel="D2P (unbiased MMD²)", ylabel="Relative performance gain, %")
        axes.margins(x=0.2)
        if not points:
            axes.text(0.5, 0.5, "no task has both", transform=axes.transAxes, ha="center", color=_SOFT)
        drawing.figure.draw_without_rendering()  # which lays the chart out
        top = -math.inf
        for point in sorted(points, key=lambda point: point.gain):  # each name above the one before
            place = axes.transData.transform((point.distance, point.gain))[1] * _POINTS_PER_INCH / axes.figure.dpi
            top = max(place, top + _NAME_HEIGHT)
            axes.annotate(
                point.short_title,
                (point.distance, point.gain),
                (9, top - place),
                textcoords="offset points",
                va="center",
                arrowprops={"arrowstyle": "-", "color": _SOFT, "lw": 0.75} if top > place + _NAME_HEIGHT / 2 else None,
                gid="name",
            )
    return drawing.svg


def columns(layers: Mapping[str, float], low: float, high: float, who: str) -> str:
    """The distance of each layer as a column, from the encoder's input to its output."""
    content = ", ".join(f"{layer} {value:.3g}" for layer, value in layers.items())
    with _drawing(_LAYERS, f"D2P by layer of {who}: {content}", "small") as drawing:
        places = range(len(layers))
        drawing.axes.bar(places, list(layers.values()), 0.7, color=_ACCENT)
        drawing.axes.set_xticks(places, [layer.rpartition("-")[2] for layer in layers])
        drawing.axes.set_ylim(low, high)
        drawing.axes.grid(False, axis="x")
    return drawing.svg


def _finite(values: Iterator[float]) -> np.ndarray:
    """An array in which what is not finite is left out of lines."""
    found = np.array(list(values), float)
    return np.where(np.isfinite(found), found, np.nan)
