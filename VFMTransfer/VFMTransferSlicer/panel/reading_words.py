"""What the panel says about readings."""

from __future__ import annotations

from slicer.i18n import tr as _

from ..reading.blinded import Reading, Side
from ..reading.tally import FEWEST_FOR_SIGNIFICANCE, Tally


def revealedText(reading: Reading) -> str:
    """Which network was where, and which one the reader preferred."""
    names = [network.bundle for network in reading.subject.networks]
    left, right = names if reading.left == "A" else reversed(names)
    if reading.side is Side.EQUAL:
        return _("Left was {left}, right was {right}. You found them equal.").format(left=left, right=right)
    preferred = left if reading.side is Side.LEFT else right
    return _("Left was {left}, right was {right}. You preferred {preferred}.").format(
        left=left, right=right, preferred=preferred
    )


def tallyText(tally: Tally, names: list[str]) -> str:
    """The counts, the test, and a word of caution where there are too few.

    Args:
        tally: Of one pair.
        names: Of its networks, A and then B.
    """
    lines = [
        f"{names[0]}: {tally.a}",
        f"{names[1]}: {tally.b}",
        _("equal: {equal}; not revealed yet: {sealed}").format(equal=tally.equal, sealed=tally.sealed),
    ]
    if tally.preferences:
        p = "p < 0.001" if tally.pValue < 0.001 else f"p = {tally.pValue:.3f}"
        lines.append(_("Exact two-sided sign test, n = {n} without ties: {p}.").format(n=tally.preferences, p=p))
    if 0 < tally.preferences < FEWEST_FOR_SIGNIFICANCE:
        caution = _("Too few to tell: fewer than {fewest} cannot give p < 0.05.")
        lines.append(caution.format(fewest=FEWEST_FOR_SIGNIFICANCE))
    return "\n".join(lines)
