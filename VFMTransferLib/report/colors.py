"""Colors that mean something in views, tables and figures: arms apart from labels, safe for the color-blind."""

from __future__ import annotations

from ..core.terms import LABEL_TERMS

Color = tuple[int, int, int]

ARM_A: Color = (76, 184, 255)
ARM_B: Color = (255, 168, 38)
REFERENCE: Color = (126, 231, 135)
OTHER_LABEL: Color = (214, 112, 255)
NEUTRAL: Color = (140, 160, 182)
_PALETTE: tuple[Color, ...] = (
    (240, 228, 66),
    (86, 180, 233),
    (0, 190, 140),
    (230, 120, 60),
    (204, 121, 167),
    (160, 160, 255),
    (180, 220, 110),
    (255, 130, 130),
)


def label_color(name: str, index: int) -> Color:
    """A label's own color, or one of a neutral palette where its meaning is unknown."""
    terms = {str(label): term.color for label, term in LABEL_TERMS.items()}
    return terms.get(name, _PALETTE[index % len(_PALETTE)])
