"""The high-b image of a diffusion series: the highest measured one, or one computed from the fit.

A series may lie in one 4D file, as converters write it, beside a `.bval` of b values.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..core.case import MAX_ADC
from ..core.errors import ImageError
from ..core.files import read_small
from ..core.notes import Note
from ..core.terms import Sequence
from ..core.volume import Volume
from .dicom_series import MAX_B
from .grids import ImageArray
from .images import image_stem, to_volume

HIGH_B = 1400.0  # s/mm²; from here on a measured image is taken as it is
LOWEST_FITTED_B = 1.0  # a b of 0 also shows perfusion, which a mono-exponential does not describe
MIN_SPREAD_OF_B = 200.0
MAX_RISE = 1.1  # of the mean signal from one b value to the next; scaling of each image may let it rise a little
_MAX_BVAL_BYTES = 1 << 20


def high_b_image(by_b: Mapping[float, Volume], source: str, shown: str = "the file") -> tuple[Volume, str]:
    """The image of a diffusion series that serves as high-b image.

    Args:
        by_b: b value in s/mm² → trace-weighted image, on one grid.
        source: The series' name in errors.
        shown: What to call it in the note, which goes into results.

    Returns:
        The measured image of the highest b from 1400, else one computed for 1400; and a sentence on which it is.

    Raises:
        GeometryError: The images lie on different grids.
        ImageError: The highest b is too low and there are not two b values to extrapolate from.
    """
    highest = max(by_b)
    measured = ", ".join(f"{b:g}" for b in sorted(by_b))
    odd = "".join(f" {note}" for note in rising_signal(by_b))
    if highest >= HIGH_B:
        return by_b[highest], f"High-b image: b {highest:g} as measured ({shown}, b {measured}).{odd}"
    fitted = sorted(b for b in by_b if b >= LOWEST_FITTED_B)
    if len(fitted) < 2 or fitted[-1] - fitted[0] < MIN_SPREAD_OF_B:
        fitted = sorted(by_b)
    if len(fitted) < 2 or fitted[-1] - fitted[0] < MIN_SPREAD_OF_B:
        raise ImageError(
            f"{source} must hold b {HIGH_B:g} or higher, or two b values {MIN_SPREAD_OF_B:g} apart to compute it from, "
            f"but holds b {measured}. Select the high-b image itself."
        )
    for b in fitted:
        by_b[highest].require_same_grid(by_b[b])
    computed = mono_exponential({b: by_b[b].array for b in fitted}, HIGH_B)
    used = ", ".join(f"{b:g}" for b in fitted)
    note = f"High-b image: b {HIGH_B:g} computed by a mono-exponential fit to b {used} ({shown}); it was not measured."
    return by_b[highest].with_array(computed), note + odd


def rising_signal(by_b: Mapping[float, Volume]) -> list[Note]:
    """A note where signal rises with b, which no tissue does: the b values are not the images'."""
    ordered = sorted(by_b)
    means = [float(by_b[b].array.mean()) for b in ordered]
    for (b, mean), (next_b, next_mean) in pairwise(zip(ordered, means, strict=True)):
        if next_mean > MAX_RISE * mean:
            return [
                Note(
                    "rising-signal",
                    f"The signal rises from b {b:g} to b {next_b:g}, and signal can only fall with b; check the b "
                    "values, which may be exchanged.",
                )
            ]
    return []


def mono_exponential(by_b: Mapping[float, np.ndarray], b: float) -> np.ndarray:
    """The signal at `b` by S(b) = S0 exp(-b ADC), fitted to log signals by least squares.

    Args:
        by_b: b value in s/mm² → signal, at least two, arrays of one shape.

    Returns:
        float32 of the same shape. The ADC is kept in 0..`MAX_ADC`, so that noise cannot make the signal grow with b;
        where any measured signal is not positive, 0.
    """
    values = np.array(sorted(by_b), dtype=np.float64)
    signals = np.stack([by_b[v] for v in values]).astype(np.float32)
    has_signal = (signals > 0).all(axis=0)
    logs = np.log(np.where(has_signal, signals, 1))
    mean_b, mean_log = values.mean(), logs.mean(axis=0)
    weights = (values - mean_b) / ((values - mean_b) ** 2).sum()
    adc = np.clip(-np.tensordot(weights, logs, axes=1), 0, MAX_ADC * 1e-6)
    return np.where(has_signal, np.exp(mean_log - (b - mean_b) * adc), 0).astype(np.float32)


def is_series(image: ImageArray) -> bool:
    """Whether a file holds several images."""
    return image.array.ndim == 4 and len(image.array) > 1


def high_b_of_file(path: Path, image: ImageArray) -> tuple[Volume, str]:
    """The high-b image of a 4D file, by the b values in the `.bval` beside it.

    Returns:
        The image, measured or computed, and a sentence on which it is.

    Raises:
        ImageError: No b value for each image, several images of one b value, or too few b values.
    """
    return high_b_image(volumes_by_b(path, image), path.name)


def volumes_by_b(path: Path, image: ImageArray) -> dict[float, Volume]:
    """The images of a 4D file by b value, from the `.bval` beside it; errors as `high_b_of_file`."""
    by_b: dict[float, Volume] = {}
    b_values = _b_values(path)
    if len(b_values) != len(image.array):
        raise ImageError(
            f"'{path.name}' must have one b value for each of its {len(image.array)} images, but its .bval has "
            f"{len(b_values)}. Convert it again."
        )
    for index, b in enumerate(b_values):
        if b in by_b:
            raise ImageError(
                f"'{path.name}' must hold one trace-weighted image for each b value, but holds several of b {b:g} "
                "(directions). Select the trace images."
            )
        by_b[b] = to_volume(ImageArray(image.array[index], image.geometry), path.name, str(Sequence.HBV))
    return by_b


def _b_values(path: Path) -> list[float]:
    file = path.with_name(image_stem(path.name) + ".bval")
    try:
        values = [float(word) for word in read_small(file, _MAX_BVAL_BYTES).decode("ascii").split()]
    except (OSError, ValueError):
        values = []
    if not values or not np.isfinite(values).all() or min(values) < 0:
        raise ImageError(
            f"'{path.name}' is 4D and must have its b values in '{file.name}', but has none to read "
            f"there. Add the file, or select the high-b image itself."
        )
    if max(values) > MAX_B:
        raise ImageError(
            f"'{file.name}' must hold b values of 0 to {MAX_B:g} s/mm², but holds {max(values):g}. Correct the file."
        )
    return values
