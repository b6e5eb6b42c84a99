"""The three kinds of what tasks give. A room that measures, draws or keeps results has one table by kind of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.volume import Volume


@dataclass(frozen=True)
class OutputKind:
    """One kind of output.

    Attributes:
        name: In documents.
        read_truth: The truth that a command line names: a file of a mask or an image, or a class.
        marks_voxels: Whether it labels voxels, so that a threshold and a region of interest apply.
        gives_images: Whether it is one image or more.
    """

    name: str
    read_truth: Callable[[str], Volume | str]
    marks_voxels: bool = False
    gives_images: bool = False

    @property
    def has_voxels(self) -> bool:
        """Whether there is something to look at, not numbers alone."""
        return self.marks_voxels or self.gives_images


def _mask(path: str) -> Volume:
    from ..io.images import read_mask  # `io` brings DICOM along, which scoring does not need

    return read_mask(path, "reference")


def _image(path: str) -> Volume:
    from ..io.images import read_volume

    return read_volume(path, "reference")


SEGMENTATION = OutputKind("segmentation", _mask, marks_voxels=True)
IMAGE = OutputKind("image", _image, gives_images=True)
CLASSIFICATION = OutputKind("classification", str)
