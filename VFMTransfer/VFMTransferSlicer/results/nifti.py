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
from typing import BinaryIO

import numpy as np

from VFMTransferLib.core.errors import ImageError

VECTOR = 1007  # intent of vectors that stand as they were given, here in LPS; 1006 would be displacements in RAS
_HEADER_BYTES = 348
_PIECE_BYTES = 1 << 20
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
        with gzip.open(path) as stream:
            return _read(stream)
    except (OSError, EOFError, zlib.error, struct.error, ValueError, KeyError) as error:
        raise ImageError(f"Result '{path.name}' must be an image file, but cannot be read. Run again.") from error


def _read(stream: BinaryIO) -> NiftiImage:
    header = stream.read(_HEADER_BYTES)
    size, magic = struct.unpack_from("<i", header, 0)[0], header[-len(_MAGIC) :]
    dimensions = struct.unpack_from("<8h", header, 40)
    intent, kind = struct.unpack_from("<2h", header, 68)
    offset, slope, inter = struct.unpack_from("<3f", header, 108)
    oriented = struct.unpack_from("<h", header, 254)[0]
    if (size, magic) != (_HEADER_BYTES, _MAGIC) or oriented <= 0 or slope not in (0, 1) or inter != 0:
        raise ValueError("no oriented, unscaled NIfTI-1 file of this byte order")
    width, height, depth, *more = (max(n, 1) for n in dimensions[1 : dimensions[0] + 1])
    voxels = np.empty((math.prod(more), depth, height, width), _TYPES[kind])
    stream.read(int(offset) - _HEADER_BYTES)
    _fill(voxels, stream)
    affine = np.eye(4)
    affine[:3] = np.reshape(struct.unpack_from("<12f", header, 280), (3, 4))
    return NiftiImage(voxels, affine, intent)


def _fill(voxels: np.ndarray, stream: BinaryIO) -> None:
    """Read the voxels in pieces: a copy of all of them at once would hold Python's lock, and with it the window."""
    room = memoryview(voxels).cast("B")
    while len(room):
        piece = stream.read(min(_PIECE_BYTES, len(room)))
        if not piece:
            raise EOFError("the file ends before its voxels do")
        room[: len(piece)] = piece
        room = room[len(piece) :]
    if stream.read(1):  # which also compares the checksum at the file's end
        raise ValueError("the file goes on after its voxels")
