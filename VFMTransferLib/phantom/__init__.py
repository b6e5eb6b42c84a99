"""Procedural prostate MRI with exact truth: the embedded default input, the tests' and the training's source."""

from .distortion import distort
from .lesions import Lesion
from .scanner import truncate_k_space
from .study import VERSION, Phantom, make_phantom
from .writing import make_phantoms, write_phantom

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
