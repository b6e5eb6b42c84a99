"""What a reader of a result must know, as records: views choose by severity what they show, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["info", "caution", "warning"]


@dataclass(frozen=True)
class Note:
    """One thing that was decided or noticed on the way to a result.

    Attributes:
        code: What it is about; the same for each case.
        text: For people, in sentences; never a path or patient data.
        severity: A `warning` must be read before the result, a `caution` with it.
    """

    code: str
    text: str
    severity: Severity = "info"

    def __str__(self) -> str:
        return self.text


def warning_text(notes: Iterable[Note]) -> str:
    """The texts of the warnings as one; empty without any."""
    first, *more = [note.text for note in notes if note.severity == "warning"] or [""]
    return " ".join([first, *(text[0].upper() + text[1:] for text in more)])


def texts(notes: Iterable[Note]) -> list[str]:
    """The texts of the other notes."""
    return [note.text for note in notes if note.severity != "warning"]
