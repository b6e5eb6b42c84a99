"""Voxels as text that a browser can read exactly: quantized, delta-coded, deflated, base64.

Not as pictures, although a browser decodes those itself: reading pixels back from a canvas is
rounded or blurred on purpose by browsers that guard against fingerprinting, which would turn a
label into another one. `templates/decode.js` is the other half.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

LEVELS = 2047
"""Steps between the smallest and the largest value of an image that is rounded (11 bit)."""
LARGEST_EXACT_RANGE = 4095
"""Whole numbers within this range are kept as they are; most scanners store 12 bit."""
_DEFLATE_LEVEL = 6


def encode_image(array: np.ndarray) -> dict[str, Any]:
    """An image (D, H, W) as codes of 16 bit; a value is `offset + code * scale`.

    Whole numbers within a range of 4095 stay exact. Others are rounded to 1/2047 of their range,
    which a screen cannot show, so that the noise of a float does not fill the page.
    """
    low, high = float(array.min()), float(array.max())
    whole = high - low <= LARGEST_EXACT_RANGE and bool(np.all(array == np.rint(array)))
    scale = 1.0 if whole or high == low else (high - low) / LEVELS
    codes = np.rint((array - low) / scale).astype(np.uint16)
    steps = np.diff(codes, axis=-1, prepend=np.uint16(0)).astype(np.int16)  # modulo 2^16, along each row
    folded = ((steps << 1) ^ (steps >> 15)).astype(np.uint16)  # small steps of either sign become small codes
    planes = np.concatenate([(folded & 0xFF).astype(np.uint8).ravel(), (folded >> 8).astype(np.uint8).ravel()])
    return {"bits": 16, "offset": low, "scale": scale, "data": _deflated(planes)}


def encode_labels(array: np.ndarray) -> dict[str, Any]:
    """A label map (D, H, W) of values 0..255, exact."""
    return {"bits": 8, "offset": 0, "scale": 1, "data": _deflated(array.astype(np.uint8))}


def _deflated(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), level=_DEFLATE_LEVEL)).decode("ascii")
