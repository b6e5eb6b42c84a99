"""Procedural prostate MRI with exact truth: the embedded default input, the tests' and the training's source."""

from __future__ import annotations

from .diffusion import distort
from .gland import Lesion
from .phantom import VERSION, Phantom, make_phantom, make_phantoms, write_phantom
from .scanner import truncate_k_space

__all__ = [
    "VERSION",
    "Lesion",
    "Phantom",
    "distort",
    "make_phantom",
    "make_phantoms",
    "truncate_k_space",
    "write_phantom",
]
