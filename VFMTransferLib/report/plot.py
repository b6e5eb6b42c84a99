"""Small charts as SVG: axes, points, lines and bars, in colors that the page's style gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MARGIN = 0.06
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Axis:
    """Values along one direction of a chart.

    Attributes:
        low, high: Values at its ends.
        start, end: Where these lie, in the chart's units.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, wanted: int = 4) -> dict[float, str]:
        """Round values between its ends, about so many, and how they are written."""
        raw = (self.high - self.low) / wanted
        power = math.floor(math.log10(raw))
        factor = next(s for s in _STEPS if s * 10.0**power >= raw * 0.999)
        step, decimals = factor * 10.0**power, max(0, int(factor % 1 > 0) - power)
        if factor == _STEPS[-1]:
            decimals = max(0, decimals - 1)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return {i * step: minus(f"{i * step:.{decimals}f}") for i in range(first, last + 1)}


@dataclass(frozen=True)
class Frame:
    """The area of a chart between its axes."""

    x: Axis
    y: Axis
    width: int
    height: int

    def axes(self, x_title: str, y_title: str, ticks: tuple[int, int] = (4, 4)) -> str:
        """Grid lines with their numbers, and what the axes are."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = []
        for value, text in self.y.ticks(ticks[1]).items():
            y = self.y.at(value)
            parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
            parts.append(f'<text class="tick" x="{left - 5:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
        for value, text in self.x.ticks(ticks[0]).items():
            x = self.x.at(value)
            parts.append(f'<path class="grid" d="M{x:.1f} {bottom:.1f}V{top:.1f}"/>')
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{text}</text>')
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        parts.append(
            f'<text class="axis" x="{middle_x:.1f}" y="{self.height - 4}" text-anchor="middle">{x_title}</text>'
        )
        turned = f'transform="rotate(-90 11 {middle_y:.1f})"'
        parts.append(f'<text class="axis" x="11" y="{middle_y:.1f}" text-anchor="middle" {turned}>{y_title}</text>')
        return "".join(parts)

    def inside(self, content: str) -> str:
        """Content that is cut at the axes."""
        x, y = self.x.start, self.y.end
        size = f'width="{self.x.end - x:.1f}" height="{self.y.start - y:.1f}"'
        view = f"{x:.1f} {y:.1f} {self.x.end - x:.1f} {self.y.start - y:.1f}"
        return f'<svg x="{x:.1f}" y="{y:.1f}" {size} viewBox="{view}">{content}</svg>'


def frame(
    xs: Iterable[float], ys: Iterable[float], width: int, height: int, *, left: int = 56, zero: bool = False
) -> Frame:
    """A chart's area for some values.

    Args:
        xs: Values that must be seen along x; those that are not finite are left out.
        ys: The same along y.
        width: Of the whole chart.
        height: Of the whole chart.
        left: Room for the numbers at the left.
        zero: Show 0 on y, whatever the values are.
    """
    x = _span(xs, False)
    y = _span(ys, zero)
    return Frame(Axis(*x, left, width - 10), Axis(*y, height - 36, 10), width, height)


def chart(content: str, width: int, height: int, label: str, css: str = "") -> str:
    """A whole chart, with what it says for those who do not see it."""
    return (
        f'<svg class="chart {css}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{content}</svg>"
    )


def line(frame: Frame, xs: Sequence[float], ys: Sequence[float], css: str) -> str:
    """A line through points; where a value is not finite it ends, and starts again behind it."""
    parts, down = [], False
    for x, y in zip(xs, ys, strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            down = False
            continue
        parts.append(f"{'L' if down else 'M'}{frame.x.at(x):.1f} {frame.y.at(y):.1f}")
        down = True
    return f'<path class="{css}" d="{"".join(parts)}"/>' if parts else ""


def free_place(wanted: Iterable[Box], taken: Sequence[Box], within: Box) -> Box:
    """The first of several places for a label that lies within a box and over nothing; the very first if none does."""
    places = list(wanted)
    return next((p for p in places if _is_inside(p, within) and not any(_overlap(p, t) for t in taken)), places[0])


def minus(text: str) -> str:
    """With a minus sign instead of a hyphen."""
    return text.replace("-", "−")


def _is_inside(box: Box, other: Box) -> bool:
    return box[0] >= other[0] and box[1] >= other[1] and box[2] <= other[2] and box[3] <= other[3]


def _overlap(box: Box, other: Box) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _span(values: Iterable[float], zero: bool) -> tuple[float, float]:
    found = np.array([value for value in values if math.isfinite(value)] + ([0.0] if zero else []), float)
    if not found.size:
        return 0.0, 1.0
    low, high = float(found.min()), float(found.max())
    margin = _MARGIN * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin
