"""Synthetic prostate MRI with known truth: the default input, and a source of training cases and of tests.

Imports `core` to `io`.
"""

from __future__ import annotations

from .conditions import Conditions, PhantomRange
from .gland import Lesion
from .phantom import (
    VERSION,
    Phantom,
    PhantomGroups,
    Phantoms,
    PhantomSplit,
    PhantomStore,
    TissueMaps,
    make_phantom,
    make_phantoms,
    write_phantom,
)
from .scanner import distort, truncate_k_space

__all__ = [
    "VERSION",
    "Conditions",
    "Lesion",
    "Phantom",
    "PhantomGroups",
    "PhantomRange",
    "PhantomSplit",
    "PhantomStore",
    "Phantoms",
    "TissueMaps",
    "distort",
    "make_phantom",
    "make_phantoms",
    "truncate_k_space",
    "write_phantom",
]
