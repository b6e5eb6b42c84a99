"""A volume as ProViCNet sees it: one slice at a time, its neighbors as channels, scaled to the transformer's size.

Facts from pimed/ProViCNet @ 1b016ac (MIT); written anew. Where a volume has fewer than six slices, upstream pads it
and returns two slices too many; here every volume gives one output a slice.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

NEIGHBORS = 3


def neighbor_slices(z: int, depth: int) -> tuple[int, int, int]:
    """The three slices whose middle answers for slice `z` of `depth`.

    At the ends the window moves inwards, so that the first two slices see the same three, and the last two too.
    With one or two slices there are no three: the missing neighbor is the nearest slice again.
    """
    if depth < NEIGHBORS:
        return (max(z - 1, 0), z, min(z + 1, depth - 1))
    middle = min(max(z, 1), depth - 2)
    return (middle - 1, middle, middle + 1)


def slice_positions(z: int, depth: int) -> np.ndarray:
    """What the network is told of a slice's place: (1, 2), its index and the number of slices, as they are."""
    return np.array([[z, depth]], np.float32)


def scale_slices(array: np.ndarray, size_px: int) -> np.ndarray:
    """Slices (..., H, W) scaled to (..., size_px, size_px), bilinear, pixel edges aligned, no smoothing.

    The same function as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    rows = _bilinear_matrix(array.shape[-2], size_px)
    columns = _bilinear_matrix(array.shape[-1], size_px)
    return np.ascontiguousarray(rows @ array.astype(np.float32) @ columns.T)


@lru_cache(maxsize=8)
def _bilinear_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Matrix (size_out, size_in) whose rows weigh the two nearest of `size_in` samples.

    Places are rounded to float32 once, as torch's fused multiply-add does; kept in float64 they would
    differ by up to 2e-5 of a pixel.
    """
    step = np.float64(np.float32(size_in) / np.float32(size_out))
    place = np.maximum(((np.arange(size_out) + 0.5) * step - 0.5).astype(np.float32), 0)
    lower = np.minimum(place.astype(int), size_in - 1)
    upper = np.minimum(lower + 1, size_in - 1)
    matrix = np.zeros((size_out, size_in), np.float32)
    out = np.arange(size_out)
    np.add.at(matrix, (out, lower), 1 - (place - lower))
    np.add.at(matrix, (out, upper), place - lower)
    matrix.setflags(write=False)
    return matrix
