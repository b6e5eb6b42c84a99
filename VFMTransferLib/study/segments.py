"""Two label maps in one vocabulary: the structures that A and B share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import BundleError
from ..result import Result
from ..terms import Label, TaskId

BACKGROUND = 0


@dataclass(frozen=True)
class Segments:
    """Label maps of A and B whose values mean the same.

    Attributes:
        names: Shared labels; value i + 1 in the maps stands for `names[i]`.
        a: Label map of A (D, H, W), uint8.
        b: Label map of B.
        whole: Whether all labels together are the prostate.
        values: A's own table name → value, which a reference may use as well.
        notes: What was left out, in sentences.
    """

    names: tuple[str, ...]
    a: np.ndarray
    b: np.ndarray
    whole: bool
    values: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def structures(self) -> tuple[str, ...]:
        """What can be measured: the shared labels, and the prostate where they make it up."""
        prostate = (str(Label.PROSTATE),) if self.whole and Label.PROSTATE not in self.names else ()
        return prostate + self.names

    def mask(self, array: np.ndarray, structure: str) -> np.ndarray:
        """Mask of a structure in `a` or `b`."""
        if self.whole and structure == Label.PROSTATE:
            return array != BACKGROUND
        return array == self.names.index(structure) + 1

    def label_name(self, value: int) -> str:
        return str(Label.BACKGROUND) if value == BACKGROUND else self.names[value - 1]


def shared_segments(a: Result, b: Result) -> Segments:
    """Put the label maps of two results into one vocabulary.

    Raises:
        BundleError: The two share no structure.
        GeometryError: They lie on different grids.
    """
    if a.labels is None or b.labels is None:
        raise ValueError("Both results must have a label map.")
    a.labels.require_same_grid(b.labels)
    arrays = (a.labels.array, b.labels.array)
    tables = [_foreground(result) for result in (a, b)]
    whole = all(_is_whole_gland(result) for result in (a, b))
    names, notes = _common_names(tables, whole)
    maps = [_map(array, table, names, whole) for array, table in zip(arrays, tables, strict=True)]
    return Segments(names, maps[0], maps[1], whole, tables[0], notes)


def _common_names(tables: list[dict[str, int]], whole: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if set(tables[0]) == set(tables[1]):
        return tuple(tables[0]), ()
    both = " and ".join(", ".join(table) or "nothing" for table in tables)
    names = (str(Label.PROSTATE),) if whole else tuple(name for name in tables[0] if name in tables[1])
    if not names:
        raise BundleError(f"A and B must share a structure, but they mark {both}. Compare networks of one task.")
    return names, (f"A and B mark different structures ({both}); only {', '.join(names)} is compared.",)


def _foreground(result: Result) -> dict[str, int]:
    return {str(name): value for name, value in result.label_values.items() if value != BACKGROUND}


def _is_whole_gland(result: Result) -> bool:
    return result.task is TaskId.ANATOMY_SEGMENTATION and Label.PROSTATE in result.volumes_ml


def _map(array: np.ndarray, table: dict[str, int], names: tuple[str, ...], whole: bool) -> np.ndarray:
    if whole and set(names) != set(table):
        return (array != BACKGROUND).astype(np.uint8)
    out = np.zeros(array.shape, np.uint8)
    for i, name in enumerate(names):
        out[array == table[name]] = i + 1
    return out
