"""A diffusion series in one 4D file, as converters write it: images beside a `.bval` of b values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import ImageError
from ..terms import Sequence
from ..volume import Volume
from .diffusion import high_b_image
from .images import image_stem, to_volume


def is_series(image: sitk.Image) -> bool:
    return image.GetDimension() == 4 and image.GetSize()[3] > 1


def high_b_of_file(path: Path, image: sitk.Image) -> tuple[Volume, str]:
    """The high-b image of a 4D file, by the b values in the `.bval` beside it.

    Returns:
        The image, measured or computed, and a sentence that says which.

    Raises:
        ImageError: No b value for each image, several images of one b value, or too few b values.
    """
    by_b: dict[float, Volume] = {}
    b_values = _b_values(path)
    if len(b_values) != image.GetSize()[3]:
        raise ImageError(
            f"'{path.name}' must have one b value for each of its {image.GetSize()[3]} images, but its .bval has "
            f"{len(b_values)}. Convert it again."
        )
    for index, b in enumerate(b_values):
        if b in by_b:
            raise ImageError(
                f"'{path.name}' must hold one trace-weighted image for each b value, but holds several of b {b:g} "
                "(directions). Select the trace images."
            )
        part = sitk.Extract(image, [*image.GetSize()[:3], 0], [0, 0, 0, index])
        by_b[b] = to_volume(part, path.name, str(Sequence.HBV))
    return high_b_image(by_b, path.name)


def _b_values(path: Path) -> list[float]:
    file = path.with_name(image_stem(path.name) + ".bval")
    try:
        values = [float(word) for word in file.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        values = []
    if not values or not np.isfinite(values).all() or min(values) < 0:
        raise ImageError(
            f"'{path.name}' is 4D and must have its b values in '{file.name}', but has none to read "
            f"there. Add the file, or select the high-b image itself."
        )
    return values
