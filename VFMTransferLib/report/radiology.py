"""What a radiologist reads of a case, as the page shows it: the gland's size, the sector map, the list of lesions."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.result import Lesion, Result
from ..evaluation.comparison import Comparison
from ..evaluation.measures import label_title, place_title
from ..radiology.sector_map import SectorDrawing, draw_sectors, lesion_key
from .figure import figure_png
from .scene import Display, Scene, strip

SHOWN_LESIONS = 50
MAX_KEY_IMAGES = 3
_KEY_SLICES_APART = 2


def gland_table(comparison: Comparison) -> list[tuple[str, str, str]]:
    """What was measured of the prostate: what, A's and B's value; nothing where neither knows the prostate."""
    glands = (comparison.a.gland, comparison.b.gland)
    a, b = ({what: value for value, what in gland.lines} if gland else {} for gland in glands)
    return [(what, a.get(what, "–"), b.get(what, "–")) for what in dict.fromkeys([*a, *b])]


def quality_rows(comparison: Comparison) -> list[dict[str, str]]:
    """Criteria of image quality, each once; A's and B's where they differ, as the outlines do that they rest on."""
    a, b = comparison.a.quality or comparison.b.quality, comparison.b.quality or comparison.a.quality
    shared = set(a) & set(b)
    marks = {True: ("met", "met"), False: ("not met", "unmet"), None: ("not known", "unknown")}
    return [
        {
            "title": found.title if found in shared else f"{found.title}, {who}",
            "value": found.text,
            "threshold": found.threshold,
            "mark": marks[found.is_met][0],
            "css": marks[found.is_met][1],
            "source": found.source,
            "sentence": found.sentence,
        }
        for who, found in [*(("A", one) for one in a), *(("B", one) for one in b if one not in shared)]
    ]


def key_images(scene: Scene) -> list[tuple[str, str]]:
    """The slices to look at after the one that the page opens with: text and PNG, as base64.

    Those of the largest lesions, else those in which A and B differ most; of a classification the one that decides the
    classes of B.
    """
    chosen = {scene.focus_slice: ""}
    if (decided_at := scene.comparison.b.decided_at_mm) is not None:
        chosen.setdefault(scene.display.index_of(decided_at)[2], "most suspicious for B")
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
            "volume": f"{lesion.volume_ml:.2f} ml" if lesion.volume_ml >= 0.005 else "< 0.01 ml",
            "diameter": _shown(lesion.diameter_mm, "mm", 1),  # whole ones would hide on which side of 15 mm it is
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


def sector_map(comparison: Comparison) -> SectorDrawing | None:
    """The map of PI-RADS v2.1 with the lesions of A and B; None without a lesion whose place is known."""
    glands = {"a": comparison.a.gland, "b": comparison.b.gland}
    widths = {who: gland.transverse_mm for who, gland in glands.items() if gland is not None}
    return draw_sectors(_lesions(comparison), widths)
