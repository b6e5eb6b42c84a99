"""Files of the worker, read beside the main thread.

Slicer's own readers would hold up the window; decompressing releases Python's lock. The layout is that of NIfTI-1
(nifti1.h, R. W. Cox, 2003): a header of 348 bytes, then voxels, x running fastest.
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
from VFMTransferLib.core.files import writing

VECTOR = 1007  # intent of vectors that stand as they were given, here in LPS; 1006 would be displacements in RAS
_HEADER_BYTES = 348
_VOXELS_BEGIN = 352  # four bytes after the header state that it is not extended
_MILLIMETERS, _ALIGNED = 2, 2  # as NIfTI counts units, and coordinates aligned to another image
_PIECE_BYTES = 1 << 20
_MAGIC = b"n+1\0"
_TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2", 768: "<u4"}


@dataclass(frozen=True)
class NiftiImage:
    """One file.

    Attributes:
        frames: Voxels (N, D, H, W): one frame, or one for each volume of a series or component of a vector.
        ijkToRas: 4x4, voxel index (x, y, z) to RAS millimeters.
        intent: What the voxels are, as NIfTI counts it; 0 where the file states nothing.
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
        raise ImageError(f"Result '{path.name}' is damaged or no image file. Run again.") from error


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


def writeNifti(path: Path, voxels: np.ndarray, ijkToRas: np.ndarray) -> None:
    """Write one image as `.nii.gz`, as the worker does.

    Args:
        path: Of the file.
        voxels: (D, H, W), of a type that the worker writes.
        ijkToRas: 4x4, voxel index (x, y, z) to RAS millimeters.

    Raises:
        OutputError: It cannot be written.
    """
    codes = {np.dtype(kind): code for code, kind in _TYPES.items()}
    header = bytearray(_HEADER_BYTES)
    struct.pack_into("<i", header, 0, _HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, *reversed(voxels.shape), 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, codes[voxels.dtype], 8 * voxels.itemsize)
    struct.pack_into("<8f", header, 76, 1, *np.linalg.norm(ijkToRas[:3, :3], axis=0), 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, _VOXELS_BEGIN, 1, 0)  # unscaled
    header[123] = _MILLIMETERS
    struct.pack_into("<2h", header, 252, 0, _ALIGNED)
    struct.pack_into("<12f", header, 280, *ijkToRas[:3].ravel())
    header[-len(_MAGIC) :] = _MAGIC
    with writing(path), gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(bytes(header) + bytes(_VOXELS_BEGIN - _HEADER_BYTES))
        stream.write(memoryview(np.ascontiguousarray(voxels)).cast("B"))


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
