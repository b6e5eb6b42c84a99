"""NRRD files by pynrrd. Of the header only what it states on space is used: nothing that it leaves out is made up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from ..core.errors import ImageError
from ..core.volume import Geometry
from .grids import (
    ImageArray,
    damaged,
    detached_file,
    grid_of,
    max_image_bytes,
    misplaced,
    require_size,
    several_values,
    truncated,
)

# Space → signs that bring it to LPS.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_MILLIMETERS = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "")
_DOMAINS = ("domain", "space", "time", "???", "none")
_ITEM_BYTES = {"f": 4, "d": 8}


def read_nrrd(path: Path) -> ImageArray:
    """Read an NRRD file, whose voxels may lie in one file beside it; errors as `images.read_image`."""
    file = path.name
    if path.stat().st_size > max_image_bytes():
        raise ImageError(f"'{file}' is larger than an image may be. Crop it.")
    with path.open("rb") as stream:
        try:
            header: dict[str, Any] = nrrd.read_header(stream)
            size = tuple(map(int, header["sizes"]))
        except Exception as error:  # pynrrd raises errors of many kinds
            raise damaged(file, "it has no valid NRRD header") from error
        kinds = header.get("kinds", [])
        layers = [i for i, word in enumerate(kinds[: len(size)]) if str(word).lower() not in _DOMAINS]
        if (components := math.prod(size[i] for i in layers)) > 1:
            raise several_values(file, components)
        for key in ("data file", "datafile"):
            if key in header:
                detached_file(path, str(header[key]))
        require_size(file, size, _ITEM_BYTES.get(str(header.get("type", ""))[:1], 1))
        geometry = _grid(file, header, size)
        try:
            array = nrrd.read_data(header, stream, str(path), index_order="C")
        except Exception as error:
            raise truncated(file) from error
    return ImageArray(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")), geometry)


def _grid(file: str, header: dict[str, Any], size: tuple[int, ...]) -> Geometry:
    """The grid that a header states; GeometryError where a part of it is missing."""
    space = str(header.get("space", "")).lower()
    if space not in _SPACES:
        raise misplaced(file, f"lies in the space '{space:.40}', not in LPS, RAS or LAS" if space else "names no space")
    units = header.get("space units", [])
    if any(str(unit).lower() not in _MILLIMETERS for unit in units):
        raise misplaced(file, f"has spacings in {', '.join(map(str, units)):.40}, not in mm")
    try:
        axes = np.array([[math.nan] * 3 if v is None else v for v in header["space directions"]], dtype=np.float64)
        origin = np.array(header["space origin"], dtype=np.float64)
    except (KeyError, ValueError, TypeError):
        raise misplaced(file, "lacks its space directions, or its space origin") from None
    if axes.shape != (len(size), 3) or origin.shape != (3,) or not np.isfinite(axes[:3]).all():
        raise misplaced(file, "lacks the space directions of its first three axes, or its space origin")
    signs = np.array(_SPACES[space], dtype=np.float64)
    return grid_of(file, size, axes[:3].T * signs[:, None], origin * signs)
