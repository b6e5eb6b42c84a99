"""The map of PI-RADS v2.1 sectors, drawn by us, with lesions on it: as SVG, and where a click finds a lesion.

Borders are those of the rules in `sectors`, on a gland that is drawn as an ellipse. Shapes are plain polygons, so that
Qt draws them as browsers do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

import numpy as np

from ..core.result import Lesion
from .sectors import (
    CENTRAL_DEPTH,
    CENTRAL_LATERAL,
    LEVELS,
    POSTEROMEDIAL_LATERAL,
    REGION_TITLES,
    SECTOR_CODES,
    SIDES,
    STROMA_DEPTH,
    STROMA_LATERAL,
)

# A gland of this size in each of three panels.
_WIDTH, _HEIGHT, _GAP, _TOP, _BOTTOM = 184.0, 140.0, 46.0, 30.0, 26.0
# The transition zone as an ellipse: middle and half axis in depth, half axis to the side; smaller at the apex.
_TRANSITION = {"Base": (0.44, 0.38, 0.64), "Mid": (0.42, 0.36, 0.62), "Apex": (0.4, 0.27, 0.46)}
_DRAWN_FIRST = ("PZa", "PZpl", "PZpm", "TZa", "TZp", "CZ", "AS")  # what follows lies on top
_STEPS = 24
_MIN_RADIUS = 5.0
# Of a lesion's name: its height, the width of a character and the distance from others; and how much of its width a
# circle's radius must have so that it stands inside.
_NAME_SIZE, _NAME_ASPECT, _NAME_GAP, _ROOM = 11.0, 0.7, 2.0, 0.8
_ROUNDING = 1e-6
_INK, _SOFT, _PAGE = "#17202a", "#55606d", "#ffffff"
_COLORS = {"a": "#0a78c2", "b": "#b26a00"}
_MARKED = {"": "#f3f5f7", "a": "#bcdbf0", "b": "#eed7b9", "ab": "#c3c0af"}


@dataclass(frozen=True)
class DrawnSector:
    """A sector as a polygon: its name, the arms that mark it (`a`, `b`, `ab`), and its corners (N, 2)."""

    name: str
    arms: str
    corners: np.ndarray

    @property
    def title(self) -> str:
        return f"{self.name}: {REGION_TITLES[self.name.split()[-1]]}, SNOMED CT {SECTOR_CODES[self.name].value}"


@dataclass(frozen=True)
class DrawnLesion:
    """A lesion as a circle with the lesion's largest diameter against the gland's width.

    A's name ends at the circle's middle and B's begins there, so that both can be read where they agree; of a circle
    that has no room for it, to its left and right. `name_y` is how high it stands.
    """

    key: str
    arm: str
    text: str
    title: str
    x: float
    y: float
    radius: float
    name_y: float = 0.0

    @property
    def name_x(self) -> tuple[float, float]:
        """Where the name begins and ends."""
        width = _NAME_ASPECT * _NAME_SIZE * len(self.text)
        apart = 1.0 if self.radius > _ROOM * width else self.radius + _NAME_GAP
        return (self.x - apart - width, self.x - apart) if self.arm == "a" else (self.x + apart, self.x + apart + width)


@dataclass(frozen=True)
class SectorDrawing:
    """The map, front of the gland up, the patient's right on the left.

    Attributes:
        sectors: All 38, those on top last.
        lesions: Those whose place in the gland is known.
        scheme: What the lesions' sectors are those of, each once.
    """

    sectors: tuple[DrawnSector, ...]
    lesions: tuple[DrawnLesion, ...]
    schemes: tuple[str, ...] = ()
    width: float = field(default=len(LEVELS) * (_WIDTH + _GAP) + _GAP, init=False)
    height: float = field(default=_TOP + _HEIGHT + _BOTTOM, init=False)

    def lesion_at(self, x: float, y: float) -> str | None:
        """Key of the lesion nearest to a point of the drawing, among those whose circle holds it."""
        apart = [(float(np.hypot(drawn.x - x, drawn.y - y)), drawn) for drawn in self.lesions]
        hit = [(distance, drawn.key) for distance, drawn in apart if distance <= drawn.radius + 1]
        return min(hit)[1] if hit else None

    def svg(self, scale: float = 0.0) -> str:
        """The drawing as SVG; colors can be overridden by a page's style sheet through the classes.

        Args:
            scale: Pixels a unit, for programs that draw at the size stated; 0 states none.
        """
        size = f' width="{scale * self.width:.0f}" height="{scale * self.height:.0f}"' if scale else ""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="sectors" viewBox="0 0 {self.width:.0f} {self.height:.0f}"'
            f'{size} role="group" aria-label="Sector map with the lesions of A and B" font-family="sans-serif">'
        ]
        for number, level in enumerate(LEVELS):
            parts += _frame(_left(number), level, [s for s in self.sectors if s.name.startswith(level)])
        parts += [_circle(drawn) for drawn in self.lesions]
        parts += [_name(drawn) for drawn in self.lesions]  # over all circles
        return "\n".join([*parts, "</svg>"])


def lesion_key(who: str, lesion: Lesion) -> str:
    """How maps and lists call a lesion: `a1` is the largest of A."""
    return f"{who}{lesion.index}"


def draw_sectors(lesions: Sequence[tuple[str, Lesion]], gland_mm: Mapping[str, float]) -> SectorDrawing | None:
    """Draw the map; None without a lesion whose place in the gland is known.

    Args:
        lesions: `a` or `b`, and a lesion of that arm.
        gland_mm: Arm → transverse diameter of its gland, by which circles are scaled; without it they are small.
    """
    placed = [(who, lesion) for who, lesion in lesions if lesion.place is not None]
    if not placed:
        return None
    marked: dict[str, set[str]] = {}
    for who, lesion in placed:
        for name in (part for sector in lesion.sectors for part in _parts(sector)):
            marked.setdefault(name, set()).add(who)
    sectors = [
        DrawnSector(f"{level} {side} {region}", "".join(sorted(marked.get(f"{level} {side} {region}", ()))), corners)
        for number, level in enumerate(LEVELS)
        for side in SIDES
        for region, corners in _shapes(_left(number), level, side)
    ]
    sectors.sort(key=lambda sector: _DRAWN_FIRST.index(sector.name.split()[-1]))
    circles = _with_names_apart([_drawn(who, lesion, gland_mm.get(who)) for who, lesion in placed])
    schemes = dict.fromkeys(lesion.sector_scheme for _, lesion in placed if lesion.sector_scheme)
    return SectorDrawing(tuple(sectors), tuple(circles), tuple(schemes))


def _left(number: int) -> float:
    return _GAP + number * (_WIDTH + _GAP)


def _parts(sector: str) -> list[str]:
    """The sectors of the map that a sector covers: itself, or those of its half where the zones are not known."""
    level, side, region = sector.split()
    halves = {"anterior": ("AS", "TZa", "PZa"), "posterior": ("TZp", "CZ", "PZpl", "PZpm")}
    return [f"{level} {side} {part}" for part in halves.get(region, (region,))]


def _drawn(who: str, lesion: Lesion, gland_mm: float | None) -> DrawnLesion:
    lateral, back, _ = lesion.place or (0.0, 0.0, 0.0)
    # In the level that its position states, where most of it lies; its mean height may be in the next one.
    words = lesion.position.split(", ")
    number = next((i for i, level in enumerate(LEVELS) if level.lower() in words), 0)
    radius = (lesion.diameter_mm or 0.0) * _WIDTH / gland_mm / 2 if gland_mm else 0.0
    name = f"{who.upper()}{lesion.index}"
    return DrawnLesion(
        lesion_key(who, lesion),
        who,
        name,
        f"{name}: {lesion.position}",
        _left(number) + (1 + lateral) * _WIDTH / 2,
        _TOP + back * _HEIGHT,
        max(radius, _MIN_RADIUS),
    )


def _with_names_apart(lesions: Sequence[DrawnLesion]) -> list[DrawnLesion]:
    """Each name as high as its circle's middle, or as little above or below as lets all be read."""
    found: list[DrawnLesion] = []
    for lesion in lesions:
        start, end = lesion.name_x
        beside = ((*other.name_x, other.name_y) for other in found)
        taken = [y for first, last, y in beside if start < last + _NAME_GAP and first < end + _NAME_GAP]
        lines = sorted(
            {lesion.y, *(y + sign * _NAME_SIZE for y in taken for sign in (-1, 1))}, key=lambda y: abs(y - lesion.y)
        )
        free = (y for y in lines if all(abs(y - other) > _NAME_SIZE - _ROUNDING for other in taken))
        found.append(replace(lesion, name_y=next(free)))
    return found


def _shapes(left: float, level: str, side: str) -> Iterator[tuple[str, np.ndarray]]:
    """Region and corners of the sectors of one side of a level."""
    gland = (0.5, 0.5, 1.0)
    zone = _TRANSITION[level]
    # Region, depth from and to, distance from the midline from and to, what it is cut off by.
    shapes = [
        ("PZa", 0.0, 0.5, 0.0, 1.0, (gland,)),
        ("PZpl", 0.5, 1.0, POSTEROMEDIAL_LATERAL, 1.0, (gland,)),
        ("PZpm", 0.5, 1.0, 0.0, POSTEROMEDIAL_LATERAL, (gland,)),
        ("TZa", 0.0, 0.5, 0.0, 1.0, (gland, zone)),
        ("TZp", 0.5, 1.0, 0.0, 1.0, (gland, zone)),
        ("AS", 0.0, STROMA_DEPTH, 0.0, STROMA_LATERAL, (gland,)),
    ]
    if level == "Base":
        shapes.append(("CZ", CENTRAL_DEPTH, 1.0, 0.0, CENTRAL_LATERAL, (gland, zone)))
    for region, low, high, near, far, ellipses in shapes:
        corners = _cut(low, high, near, far, ellipses)
        sign = -1 if side == "R" else 1
        yield region, np.column_stack([left + (1 + sign * corners[:, 0]) * _WIDTH / 2, _TOP + corners[:, 1] * _HEIGHT])


def _cut(
    low: float, high: float, near: float, far: float, ellipses: Sequence[tuple[float, float, float]]
) -> np.ndarray:
    """Corners (N, 2), distance from the midline and depth, of a rectangle inside ellipses around the midline.

    Args:
        ellipses: Middle and half axis in depth, half axis to the side.
    """
    far = min(far, *(side for *_, side in ellipses))
    # Dense where the outline turns.
    lateral = near + (far - near) * np.sin(np.linspace(0, np.pi / 2, _STEPS))
    top, bottom = np.full(_STEPS, low), np.full(_STEPS, high)
    for middle, half, side in ellipses:
        reach = half * np.sqrt(np.clip(1 - (lateral / side) ** 2, 0, None))
        top, bottom = np.maximum(top, middle - reach), np.minimum(bottom, middle + reach)
    inside = top <= bottom
    lateral, top, bottom = lateral[inside], top[inside], bottom[inside]
    return np.concatenate([np.column_stack([lateral, top]), np.column_stack([lateral, bottom])[::-1]])


def _frame(left: float, level: str, sectors: Sequence[DrawnSector]) -> Iterator[str]:
    """A panel with its words."""
    middle, half, side = _TRANSITION[level]
    center, row = left + _WIDTH / 2, _TOP + _HEIGHT / 2
    yield (
        f'<g><text class="level" x="{center:.1f}" y="16" text-anchor="middle" font-size="13" font-weight="bold" '
        f'fill="{_INK}">{level}</text>'
    )
    for sector in sectors:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in sector.corners)
        mark = f" marked-{sector.arms}" if sector.arms else ""
        yield (
            f'<polygon class="sector{mark}" data-sector="{sector.name}" points="{corners}" '
            f'fill="{_MARKED[sector.arms]}" stroke="{_SOFT}" stroke-width="0.6"><title>{escape(sector.title)}</title>'
            "</polygon>"
        )
    yield (
        f'<ellipse class="border" cx="{center:.1f}" cy="{_TOP + middle * _HEIGHT:.1f}" rx="{side * _WIDTH / 2:.1f}" '
        f'ry="{half * _HEIGHT:.1f}" fill="none" stroke="{_SOFT}" stroke-width="1"/>'
    )
    yield (
        f'<ellipse class="border outer" cx="{center:.1f}" cy="{row:.1f}" rx="{_WIDTH / 2:.1f}" ry="{_HEIGHT / 2:.1f}" '
        f'fill="none" stroke="{_INK}" stroke-width="1.6"/>'
    )
    for x, anchor, word in ((left - 6, "end", "R"), (left + _WIDTH + 6, "start", "L")):
        yield (
            f'<text class="side" x="{x:.1f}" y="{row + 4:.1f}" text-anchor="{anchor}" font-size="12" fill="{_SOFT}">'
            f"{word}</text>"
        )
    yield "</g>"


def _circle(drawn: DrawnLesion) -> str:
    color = _COLORS[drawn.arm]
    dashes = ' stroke-dasharray="4 2"' if drawn.arm == "b" else ""
    title = escape(drawn.title)
    return (
        f'<g class="lesion of-{drawn.arm}" data-lesion="{drawn.key}" tabindex="0" role="button" aria-label="{title}">'
        f'<title>{title}</title><circle cx="{drawn.x:.1f}" cy="{drawn.y:.1f}" r="{drawn.radius:.1f}" fill="{color}" '
        f'fill-opacity="0.3" stroke="{color}" stroke-width="2"{dashes}/></g>'
    )


def _name(drawn: DrawnLesion) -> str:
    x, anchor = (drawn.name_x[1], "end") if drawn.arm == "a" else (drawn.name_x[0], "start")
    return (
        f'<text class="name" x="{x:.1f}" y="{drawn.name_y + 4:.1f}" text-anchor="{anchor}" '
        f'font-size="{_NAME_SIZE:.0f}" font-weight="bold" fill="{_INK}">{drawn.text}</text>'
    )
