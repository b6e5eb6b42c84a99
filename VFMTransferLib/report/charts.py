"""Charts of a study's page as SVG: axes, points, lines and columns, in colors that the page's style gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from markupsafe import Markup

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MARGIN = 0.06
_SYMLOG_FROM_PERCENT = 30.0
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along one direction of a chart, whose units `start` and `end` are in."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
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


class SymlogAxis(Axis):
    """Linear near 0 and logarithmic beyond 1 in both directions, so that a large value leaves small ones apart."""

    def at(self, value: float) -> float:
        low, high = math.asinh(self.low), math.asinh(self.high)
        return self.start + (math.asinh(value) - low) / (high - low) * (self.end - self.start)

    def ticks(self, wanted: int = 4) -> dict[float, str]:
        """0 and the powers of ten between its ends, whatever the number."""
        powers = [10.0**i for i in range(math.ceil(math.log10(max(-self.low, self.high, 1.0))) + 1)]
        values = (*(-power for power in reversed(powers)), 0.0, *powers)
        return {value: minus(f"{value:.0f}") for value in values if self.low <= value <= self.high}


@dataclass(frozen=True)
class Frame:
    """The area of a chart between its axes."""

    x: Axis
    y: Axis
    width: int
    height: int

    def axes(
        self, x_title: str, y_title: str, ticks: tuple[int, int] = (4, 4), x_ticks: Mapping[float, str] | None = None
    ) -> str:
        """Grid lines with their numbers, and what the axes are; `x_ticks` are value → text."""
        left, right, bottom, top = self.x.start, self.x.end, self.y.start, self.y.end
        parts = []
        for value, text in self.y.ticks(ticks[1]).items():
            y = self.y.at(value)
            parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
            parts.append(f'<text class="tick" x="{left - 5:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
        for value, text in (self.x.ticks(ticks[0]) if x_ticks is None else x_ticks).items():
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
    """A chart's area for all finite values, and with `zero` for 0 on y; `left` is the room for the numbers there."""
    x, y = Axis(*_span(xs, False), left, width - 10), Axis(*_span(ys, zero), height - 36, 10)
    return Frame(x, y, width, height)


def chart(content: str, width: int, height: int, label: str, css: str = "") -> str:
    """A whole chart, with its content in words for those who do not see it."""
    view = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}"'
    return Markup(f'<svg class="chart {css}" {view}>{content}</svg>')


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

    def is_free(box: Box) -> bool:
        left, top, right, bottom = box
        inside = left >= within[0] and top >= within[1] and right <= within[2] and bottom <= within[3]
        return inside and not any(left < t[2] and t[0] < right and top < t[3] and t[1] < bottom for t in taken)

    places = list(wanted)
    return next((place for place in places if is_free(place)), places[0])


def minus(text: str) -> str:
    """With a minus sign instead of a hyphen."""
    return text.replace("-", "−")


def _span(values: Iterable[float], zero: bool) -> tuple[float, float]:
    found = np.array([value for value in values if math.isfinite(value)] + ([0.0] if zero else []), float)
    if not found.size:
        return 0.0, 1.0
    low, high = float(found.min()), float(found.max())
    margin = _MARGIN * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin


_STRIP = (120, 16)
_CURVES = (360, 230)
_SCATTER = (560, 340)
_LAYERS = (300, 150)
_LABEL_PX, _LABEL_GAP, _CHARACTER_PX, _POINT_PX = 15.0, 9.0, 7.2, 6.0
_MAX_STEPS = 8
_MAX_COLUMN, _FILLED = 48.0, 0.7
Curve = dict[int, float]  # step → validation value


def strip(
    values: Iterable[float], shown: Sequence[float], naive: float | None, higher_is_better: bool, css: str
) -> str:
    """The seeds' values as dots and the naive baseline's as a dashed line; better lies to the right.

    All values `shown` of the task give the ends.
    """
    width, height = _STRIP
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    ends = (6.0, width - 6.0) if higher_is_better else (width - 6.0, 6.0)
    axis = Axis(low, high if high > low else low + 1, *ends)
    parts = [f'<path class="grid" d="M2 {height / 2}H{width - 2}"/>']
    if naive is not None:
        parts.append(f'<path class="reference" d="M{axis.at(naive):.1f} 1V{height - 1}"/>')
    parts += [f'<circle class="{css}" cx="{axis.at(value):.1f}" cy="{height / 2}" r="4"/>' for value in values]
    return Markup(f'<svg class="dots" width="{width}" height="{height}" aria-hidden="true">{"".join(parts)}</svg>')


def curves(seeds: Mapping[str, Sequence[Curve]], heading: str, label: str) -> str:
    """Learning curves, of each arm one a seed: thin; their mean, at the steps that all have, thick.

    The scale is of steps above 0. The arm is the lines' style.
    """
    points = [point for found in seeds.values() for curve in found for point in curve.items()]
    started = [point for point in points if point[0] > 0] or points
    area = frame([step for step, _ in points], [value for _, value in started], *_CURVES)
    lines = []
    for arm, found in seeds.items():
        steps = set.intersection(*(set(curve) for curve in found))
        mean_curve = {step: sum(curve[step] for curve in found) / len(found) for step in steps}
        for curve, css in (*((one, f"curve thin {arm}") for one in found), (mean_curve, f"curve {arm}")):
            lines.append(line(area, sorted(curve), [curve[step] for step in sorted(curve)], css))
    return chart(area.axes("Step", escape(heading)) + area.inside("".join(lines)), *_CURVES, label)


Measured = tuple[float, float, float]  # value, and both ends of its interval


def efficiency(arms: Mapping[str, Mapping[int, Measured]], heading: str, label: str) -> str:
    """What each arm reaches with so many labeled cases, on a logarithmic scale, each with its interval."""
    sizes = sorted({size for found in arms.values() for size in found})
    ends = [end for found in arms.values() for one in found.values() for end in one]
    area = frame([math.log2(size) for size in sizes], ends, *_CURVES)
    parts = []
    for place, (arm, found) in enumerate(arms.items()):
        xs = [math.log2(size) for size in sorted(found)]
        parts.append(line(area, xs, [found[size][0] for size in sorted(found)], f"curve {arm}"))
        for size, (value, low, high) in found.items():
            x = area.x.at(math.log2(size)) + 4 * place - 2  # beside each other
            if math.isfinite(value):  # a curve of one size has no line
                parts.append(f'<circle class="mark {arm}" cx="{x:.1f}" cy="{area.y.at(value):.1f}" r="3"/>')
            if math.isfinite(low) and math.isfinite(high):
                parts.append(
                    f'<path class="curve thin {arm}" d="M{x:.1f} {area.y.at(low):.1f}V{area.y.at(high):.1f}"/>'
                )
    axes = area.axes("Labeled cases", escape(heading), x_ticks={math.log2(size): str(size) for size in sizes})
    return chart(axes + area.inside("".join(parts)), *_CURVES, label)


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
    width, height = _SCATTER
    ends = [end for point in points for end in (point.low, point.high, point.gain) if math.isfinite(end)]
    area = frame([point.distance for point in points], ends, width, height, zero=True)
    if max(map(abs, ends), default=0.0) > _SYMLOG_FROM_PERCENT:
        area = replace(area, y=SymlogAxis(area.y.low, area.y.high, area.y.start, area.y.end))
    parts = [
        area.axes("D2P (unbiased MMD²)", "Relative performance gain, %", (5, 5)),
        f'<path class="zero" d="M{area.x.start:.1f} {area.y.at(0):.1f}H{area.x.end:.1f}"/>',
    ]
    for point in points:
        x, y = area.x.at(point.distance), area.y.at(point.gain)
        if math.isfinite(point.low) and math.isfinite(point.high):
            parts.append(f'<path class="bar" d="M{x:.1f} {area.y.at(point.low):.1f}V{area.y.at(point.high):.1f}"/>')
        title = escape(f"{point.title}: gain {point.gain:.1f} %, D2P {point.distance:.3g}")
        parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{title}</title></circle>')
    parts += _names(area, points)
    if not points:
        place = f'x="{width / 2}" y="{height / 2}"'
        parts.append(f'<text class="axis" {place} text-anchor="middle">no task has both</text>')
    content = "; ".join(f"{point.title} at D2P {point.distance:.3g}, gain {point.gain:.1f} %" for point in points)
    return chart("".join(parts), width, height, f"Gain against distance of {who}: {content}")


def _names(area: Frame, points: Sequence[Point]) -> list[str]:
    """Names beside the points, or as near as there is room, with a line to the point where they are not."""
    placed = sorted(((area.x.at(p.distance), area.y.at(p.gain), p.short_title) for p in points), key=lambda p: p[:2])
    taken: list[Box] = [(x - _POINT_PX, y - _POINT_PX, x + _POINT_PX, y + _POINT_PX) for x, y, _ in placed]
    within = (area.x.start, area.y.end, area.x.end, area.y.start)
    parts = []
    for x, y, name in placed:
        wanted = []  # at the right or left, ever further above or below
        for step in range(2 * _MAX_STEPS + 1):
            middle = y + (step + 1) // 2 * (1 if step % 2 else -1) * _LABEL_PX
            for start in (x + _LABEL_GAP, x - _LABEL_GAP - _CHARACTER_PX * len(name)):
                end = start + _CHARACTER_PX * len(name)
                wanted.append((start, middle - _LABEL_PX / 2, end, middle + _LABEL_PX / 2))
        left, top, right, bottom = free_place(wanted, taken, within)
        taken.append((left, top, right, bottom))
        near = min((left, right), key=lambda end: abs(end - x))
        if abs((top + bottom) / 2 - y) > _LABEL_PX / 2:
            parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{near:.1f} {(top + bottom) / 2:.1f}"/>')
        anchor = f'x="{right:.1f}" text-anchor="end"' if right < x else f'x="{left:.1f}"'
        parts.append(f'<text class="name" {anchor} y="{bottom - 4:.1f}">{escape(name)}</text>')
    return parts


def columns(layers: Mapping[str, float], low: float, high: float, who: str) -> str:
    """The distance of each layer as a column, from the encoder's input to its output."""
    width, height = _LAYERS
    left, right, bottom = 48, width - 8, height - 26
    axis = Axis(low, high, bottom, 10)
    step = (right - left) / max(len(layers), 1)
    filled, zero = min(_FILLED * step, _MAX_COLUMN), axis.at(0)
    parts = [f'<path class="zero" d="M{left} {zero:.1f}H{right}"/>']
    for value in (0.0, high):
        y = axis.at(value) + 3.5
        parts.append(f'<text class="tick" x="{left - 5}" y="{y:.1f}" text-anchor="end">{minus(f"{value:.2g}")}</text>')
    for i, (layer, value) in enumerate(layers.items()):
        middle, end = left + (i + 0.5) * step, axis.at(value)
        place = f'x="{middle - filled / 2:.1f}" y="{min(end, zero):.1f}"'
        size = f'width="{filled:.1f}" height="{max(abs(end - zero), 0.5):.1f}"'
        parts.append(f'<rect class="column" {place} {size}><title>{escape(layer)}: {value:.4g}</title></rect>')
        name = escape(layer.rpartition("-")[2])
        parts.append(f'<text class="tick" x="{middle:.1f}" y="{bottom + 15}" text-anchor="middle">{name}</text>')
    content = ", ".join(f"{layer} {value:.3g}" for layer, value in layers.items())
    return chart("".join(parts), width, height, f"D2P by layer of {who}: {content}", "small")
