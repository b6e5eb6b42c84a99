"""Procedural prostate MRI with exact truth: the embedded default input, the tests' and the training's source."""

from .lesions import Lesion
from .study import Phantom, make_phantom

__all__ = ["Lesion", "Phantom", "make_phantom"]
