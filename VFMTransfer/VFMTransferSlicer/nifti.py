"""Images as the worker writes them, read beside the main thread: Slicer's own readers would hold the window still.

The layout is that of NIfTI-1 (nifti1.h, R. W. Cox, 2003): a header of 348 bytes, then voxels, x running fastest.
Decompressing lets go of Python's lock, so that the window goes on meanwhile.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from VFMTransferLib.errors import ImageError

VECTOR = 1007  # intent of vectors that stand as they were given, here in LPS; 1006 would be displacements in RAS
_HEADER_BYTES = 348
_MAGIC = b"n+1\0"
_TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2", 768: "<u4"}


@dataclass(frozen=True)
class NiftiImage:
    """One file.

    Attributes:
        frames: Voxels (N, D, H, W): one frame, or one for each volume of a series or component of a vector.
        ijkToRas: 4x4, voxel index (x, y, z) to RAS millimeters.
        intent: What the voxels are, as NIfTI counts it; 0 where nothing is said.
    """

    frames: np.ndarray
    ijkToRas: np.ndarray
    intent: int


def readNifti(path: Path) -> NiftiImage:
    """Read a `.nii.gz` of the worker.

    Raises:
        ImageError: It is missing or damaged, or is none that the worker writes.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        return _parsed(content)
    except (OSError, EOFError, zlib.error, struct.error, ValueError, KeyError) as error:
        raise ImageError(f"Result '{path.name}' must be an image file, but cannot be read. Run again.") from error


def _parsed(content: bytes) -> NiftiImage:
    size, magic = struct.unpack_from("<i", content, 0)[0], content[344:348]
    dimensions = struct.unpack_from("<8h", content, 40)
    intent, kind = struct.unpack_from("<2h", content, 68)
    offset, slope, inter = struct.unpack_from("<3f", content, 108)
    oriented = struct.unpack_from("<h", content, 254)[0]
    if (size, magic) != (_HEADER_BYTES, _MAGIC) or oriented <= 0 or slope not in (0, 1) or inter != 0:
        raise ValueError("no oriented, unscaled NIfTI-1 file of this byte order")
    width, height, depth, *more = (max(n, 1) for n in dimensions[1 : dimensions[0] + 1])
    frames = math.prod(more)
    voxels = np.frombuffer(content, _TYPES[kind], frames * depth * height * width, int(offset))
    affine = np.eye(4)
    affine[:3] = np.reshape(struct.unpack_from("<12f", content, 280), (3, 4))
    return NiftiImage(voxels.reshape(frames, depth, height, width), affine, intent)
