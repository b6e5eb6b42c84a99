"""What a radiologist reads of a case, as the page shows it: the gland's size, the sector map, the list of lesions."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.result import Lesion, Result
from ..evaluation.comparison import Comparison
from ..evaluation.measures import label_title, place_title
from ..radiology.sectors import (
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
from .figure import figure_png
from .scene import Display, Scene, strip

SHOWN_LESIONS = 50
MAX_KEY_IMAGES = 3
_KEY_SLICES_APART = 2
# The drawing: a gland of this size in each of three panels.
_WIDTH, _HEIGHT, _GAP, _TOP = 184.0, 140.0, 46.0, 30.0
# The transition zone as an ellipse: middle and half axis in depth, half axis to the side; smaller at the apex.
_TRANSITION = {"Base": (0.44, 0.38, 0.64), "Mid": (0.42, 0.36, 0.62), "Apex": (0.4, 0.27, 0.46)}
_MIN_RADIUS = 5.0


def gland_table(comparison: Comparison) -> list[tuple[str, str, str]]:
    """What was measured of the prostate: what, A's and B's value; nothing where neither knows the prostate."""
    glands = (comparison.a.gland, comparison.b.gland)
    a, b = ({what: value for value, what in gland.lines} if gland else {} for gland in glands)
    return [(what, a.get(what, "–"), b.get(what, "–")) for what in dict.fromkeys([*a, *b])]


def quality_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Criteria of image quality; they are of the case, so that A's are B's."""
    marks = {True: ("met", "met"), False: ("not met", "unmet"), None: ("not known", "unknown")}
    return [
        {
            "title": found.title,
            "value": found.text,
            "threshold": found.threshold,
            "mark": marks[found.is_met][0],
            "css": marks[found.is_met][1],
            "source": found.source,
            "sentence": found.sentence,
        }
        for found in comparison.a.quality or comparison.b.quality
    ]


def key_images(scene: Scene) -> list[tuple[str, str]]:
    """The slices to look at after the one that the page opens with: text and PNG, as base64.

    Those of the largest lesions, else those in which A and B differ most; the classification of a case has none.
    """
    if scene.kind == "classification":
        return []
    chosen = {scene.focus_slice: ""}
    for who, lesion in sorted(_lesions(scene.comparison), key=lambda found: -found[1].volume_ml):
        chosen.setdefault(scene.display.index_of(lesion.center_mm)[2], f"lesion {who.upper()}{lesion.index}")
    differing = strip(scene)
    if differing is not None and len(chosen) == 1:
        totals = np.sum(list(differing["series"].values()), axis=0)
        for z in np.argsort(-totals, kind="stable"):
            # Neighbors show the same.
            if totals[z] > 0 and min(abs(int(z) - other) for other in chosen) >= _KEY_SLICES_APART:
                chosen[int(z)] = "A and B differ"
    slices = list(chosen.items())[1 : MAX_KEY_IMAGES + 1]
    depth = scene.display.geometry.size[2]
    return [
        (
            f"Slice {z + 1} of {depth}: {why}",
            base64.b64encode(figure_png(replace(scene, focus_slice=z))).decode("ascii"),
        )
        for z, why in slices
    ]


def lesion_key(who: str, lesion: Lesion) -> str:
    """How the map, the list and the script call a lesion: `a1` is the largest of A."""
    return f"{who}{lesion.index}"


def lesion_places(comparison: Comparison, display: Display) -> dict[str, tuple[int, int, int]]:
    """Lesion → voxel of the display to go to."""
    return {lesion_key(who, lesion): display.index_of(lesion.center_mm) for who, lesion in _lesions(comparison)}


def lesion_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of the list of lesions, place in the gland first."""
    return [
        {
            "key": lesion_key(who, lesion),
            "arm": who,
            "index": lesion.index,
            "where": lesion.position or "–",
            "sectors": ", ".join(lesion.sectors) or "–",
            "label": label_title(lesion.label),
            "volume": f"{lesion.volume_ml:.2f} ml",
            "diameter": _shown(lesion.diameter_mm, "mm", 0),
            "probability": f"{lesion.confidence:.2f}",
            "adc": f"{_shown(lesion.mean_adc)} / {_shown(lesion.adc_p10)}",
            "ratio": _shown(lesion.high_b_ratio, decimals=1),
            "capsule": f"{_shown(lesion.capsule_distance_mm, decimals=1)} / {_shown(lesion.capsule_contact_mm)}",
            "center": place_title(lesion.center_mm),
        }
        for who, lesion in _lesions(comparison)
    ]


def sector_schemes(comparison: Comparison) -> list[str]:
    """What the sectors of the lesions are those of."""
    return list(dict.fromkeys(lesion.sector_scheme for _, lesion in _lesions(comparison) if lesion.sector_scheme))


def _lesions(comparison: Comparison) -> list[tuple[str, Lesion]]:
    arms: tuple[tuple[str, Result], ...] = (("a", comparison.a), ("b", comparison.b))
    return [(who, lesion) for who, result in arms for lesion in result.lesions[:SHOWN_LESIONS]]


def _shown(value: float | None, unit: str = "", decimals: int = 0) -> str:
    return "n/a" if value is None else f"{value:.{decimals}f}" + (f" {unit}" if unit else "")


def sector_map(comparison: Comparison) -> dict[str, Any] | None:
    """The map of PI-RADS v2.1 with the lesions of A and B, as shapes; None without a lesion whose place is known.

    Borders are those of the rules in `radiology.sectors`, on a gland that is drawn as an ellipse.
    """
    placed = [(who, lesion) for who, lesion in _lesions(comparison) if lesion.place is not None]
    if not placed:
        return None
    marked: dict[str, set[str]] = {}
    for who, lesion in placed:
        for name in (part for sector in lesion.sectors for part in _parts(sector)):
            marked.setdefault(name, set()).add(who)
    return {
        "width": len(LEVELS) * (_WIDTH + _GAP) + _GAP,
        "height": _TOP + _HEIGHT + 26,
        "panels": [_panel(i, level, marked, comparison, placed) for i, level in enumerate(LEVELS)],
    }


def _parts(sector: str) -> list[str]:
    """The sectors of the map that a sector covers: itself, or those of its half where the zones are not known."""
    level, side, region = sector.split()
    halves = {"anterior": ("AS", "TZa", "PZa"), "posterior": ("TZp", "CZ", "PZpl", "PZpm")}
    return [f"{level} {side} {part}" for part in halves.get(region, (region,))]


def _panel(
    number: int, level: str, marked: dict[str, set[str]], comparison: Comparison, placed: list[tuple[str, Lesion]]
) -> dict[str, Any]:
    """One level: the shapes of its sectors, back to front, and its lesions."""
    left = _GAP + number * (_WIDTH + _GAP)
    depth, half_depth, half_side = _TRANSITION[level]
    sectors: list[dict[str, Any]] = []
    for side in SIDES:
        for region, low, high, near, far in _shapes(level):
            name = f"{level} {side} {region}"
            first, last = (-far, -near) if side == "R" else (near, far)
            sectors.append(
                {
                    "name": name,
                    "title": f"{name}: {REGION_TITLES[region]}, SNOMED CT {SECTOR_CODES[name].value}",
                    "arms": "".join(sorted(marked.get(name, ()))),
                    "clip": "gland" if region.startswith("PZ") or region == "AS" else "transition",
                    "x": left + (1 + first) * _WIDTH / 2,
                    "y": _TOP + low * _HEIGHT,
                    "width": (last - first) * _WIDTH / 2,
                    "height": (high - low) * _HEIGHT,
                }
            )
    sectors.sort(key=lambda s: ("PZa", "PZpl", "PZpm", "TZa", "TZp", "CZ", "AS").index(s["name"].split()[-1]))
    thirds = {"Apex": (0.0, 1 / 3), "Mid": (1 / 3, 2 / 3), "Base": (2 / 3, 1.01)}
    low, high = thirds[level]
    lesions = []
    for who, lesion in placed:
        lateral, back, height = lesion.place or (0.0, 0.0, 0.0)
        if not low <= height < high:
            continue
        gland = (comparison.a if who == "a" else comparison.b).gland
        scale = _WIDTH / gland.transverse_mm if gland else 0.0
        lesions.append(
            {
                "key": lesion_key(who, lesion),
                "arm": who,
                "text": f"{who.upper()}{lesion.index}",
                "title": f"{who.upper()}{lesion.index}: {lesion.position}",
                "x": left + (1 + lateral) * _WIDTH / 2,
                "y": _TOP + back * _HEIGHT,
                "r": max((lesion.diameter_mm or 0.0) * scale / 2, _MIN_RADIUS),
            }
        )
    return {
        "level": level,
        "cx": left + _WIDTH / 2,
        "cy": _TOP + _HEIGHT / 2,
        "rx": _WIDTH / 2,
        "ry": _HEIGHT / 2,
        "zone": (_TOP + depth * _HEIGHT, half_side * _WIDTH / 2, half_depth * _HEIGHT),
        "left": left,
        "right": left + _WIDTH,
        "sectors": sectors,
        "lesions": lesions,
    }


def _shapes(level: str) -> list[tuple[str, float, float, float, float]]:
    """Region, depth from and to, distance from the midline from and to, of one side of a level."""
    shapes = [
        ("PZa", 0.0, 0.5, 0.0, 1.0),
        ("PZpl", 0.5, 1.0, POSTEROMEDIAL_LATERAL, 1.0),
        ("PZpm", 0.5, 1.0, 0.0, POSTEROMEDIAL_LATERAL),
        ("TZa", 0.0, 0.5, 0.0, 1.0),
        ("TZp", 0.5, 1.0, 0.0, 1.0),
        ("AS", 0.0, STROMA_DEPTH, 0.0, STROMA_LATERAL),
    ]
    return [*shapes, ("CZ", CENTRAL_DEPTH, 1.0, 0.0, CENTRAL_LATERAL)] if level == "Base" else shapes
