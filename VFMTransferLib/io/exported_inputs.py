"""One study that another program hands over in a folder: image files, or arrays whose grid is told beside them."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.case import Case
from ..core.errors import ImageError
from ..core.terms import Sequence
from ..core.volume import Geometry, Volume
from .cases import GLAND, checked_gland, require_sensible
from .images import checked_sequence, read_image, require_usable_grid, to_mask, to_volume

_KINDS = "biuf"  # booleans, whole and floating-point numbers, as numpy calls them
_MAX_BYTES = 8  # a voxel; SimpleITK has none larger


@dataclass(frozen=True)
class HandedOver:
    """One image that was handed over.

    Attributes:
        path: An image file, or an array (D, H, W) as `numpy.save` writes it.
        geometry: Where the array's voxels lie; None for an image file.
    """

    path: Path
    geometry: Geometry | None = None

    def read(self) -> sitk.Image:
        """The image, with nothing checked of its values.

        Raises:
            ImageError: Missing or damaged, or the array does not fill the grid.
            GeometryError: The grid cannot be used.
            MemoryError: It does not fit in memory.
        """
        if self.geometry is None:
            return read_image(self.path)
        require_usable_grid(self.geometry, self.path.name)
        return Volume(_read_array(self.path, self.geometry), self.geometry).to_sitk()


def read_handed_over(case_id: str, images: Mapping[Sequence, HandedOver], gland: HandedOver | None = None) -> Case:
    """The case, after the same checks as `read_case` makes.

    Args:
        case_id: What to call it.
        images: Sequence → image.
        gland: Mask of the prostate.

    Raises:
        ImageError: An image is missing, damaged, or cannot be what its role needs.
        GeometryError: A grid cannot be used, or the images do not lie in one space.
        MissingSequenceError: There is no image.
        MemoryError: They do not fit in memory.
    """
    volumes, notes = {}, []
    for sequence in (sequence for sequence in Sequence if sequence in images):
        volume = to_volume(images[sequence].read(), sequence, sequence)
        volumes[sequence], decided = checked_sequence(volume, sequence, sequence)
        notes += decided
    mask = None if gland is None else checked_gland(read_mask_handed_over(gland, GLAND), GLAND)
    require_sensible(case_id, volumes, mask)
    return Case(case_id, volumes, mask, tuple(notes))


def read_mask_handed_over(mask: HandedOver, name: str) -> Volume:
    """A label map that was handed over; see `read_mask`."""
    return to_mask(mask.read(), name, name)


def read_volume_handed_over(image: HandedOver, name: str) -> Volume:
    """An image that was handed over; see `read_volume`."""
    return to_volume(image.read(), name, name)


def _read_array(path: Path, geometry: Geometry) -> np.ndarray:
    """The array, looked at before it is taken into memory; nothing pickled is ever loaded."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(f"{path.name} does not fit in memory") from error
        raise ImageError(f"'{path.name}' must be an array file, but cannot be opened. Hand it over again.") from error
    except (ValueError, EOFError) as error:
        raise ImageError(f"'{path.name}' must be an array file, but is damaged. Hand it over again.") from error
    if mapped.shape != geometry.shape or mapped.dtype.kind not in _KINDS or mapped.dtype.itemsize > _MAX_BYTES:
        raise ImageError(
            f"'{path.name}' must hold numbers, {geometry.shape} (D, H, W) as its grid says, but holds "
            f"{mapped.dtype}, {mapped.shape}. Hand it over again."
        )
    native = mapped.dtype.newbyteorder("=")
    return np.array(mapped, dtype=np.uint8 if native.kind == "b" else native, order="C")
