"""Public collections that real cases come from, by how they name them: whom to name beside a picture."""

from __future__ import annotations

_LICENSE = "CC BY 3.0; cut to a slice, and shown in a few gray levels"
_COLLECTIONS = {
    "ProstateX-": (
        "SPIE-AAPM PROSTATEx Challenge Data, Litjens et al., The Cancer Imaging Archive 2017, "
        "doi.org/10.7937/K9TCIA.2017.MURS5CL"
    ),
    "Prostate3T-": (
        "Prostate-3T, Litjens et al., The Cancer Imaging Archive 2015, doi.org/10.7937/K9/TCIA.2015.QJTV5IL5"
    ),
}


def attribution(case: str) -> str:
    """What the license of a public case wants said beside its pictures; empty of a case that is not known."""
    return next((f"{text}, {_LICENSE}." for start, text in _COLLECTIONS.items() if case.startswith(start)), "")
