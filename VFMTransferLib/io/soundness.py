"""What ITK does not say of a file that it reads.

A truncated NIfTI file it fills with zeros, NaN and Inf in one it turns into zeros, and a spacing of 0
into 1; a truncated MetaImage file it reports with the operating system's last, unrelated error. So
the bytes are looked at here first.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import GeometryError, ImageError

_NIFTI_HEADER_BYTES = 348
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI_FLOATS = {16: "f4", 64: "f8"}  # datatype code → numpy's name
_META_HEADER_BYTES = 1 << 16
_META_ELEMENT_BYTES = {
    "CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip


@dataclass(frozen=True)
class _NiftiHeader:
    """The fields of a NIfTI header that say where the voxels are and what they are."""

    order: str
    dim: tuple[int, ...]
    datatype: int
    bits: int
    pixdim: tuple[float, ...]
    offset: int

    @property
    def voxel_bytes(self) -> int:
        return math.prod(self.lengths) * self.bits // 8

    @property
    def lengths(self) -> tuple[int, ...]:
        """Voxels along each axis; empty where the header states no possible number of axes."""
        return self.dim[1 : self.dim[0] + 1] if 1 <= self.dim[0] <= 7 else ()


def require_sound(path: Path) -> None:
    """Raise for a damaged NIfTI or MetaImage file that ITK would read all the same; other types pass.

    Raises:
        ImageError: Truncated, damaged, or NaN or Inf among the voxels.
        GeometryError: An axis without spacing.
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            _require_sound_nifti(path)
        elif name.endswith(".mha"):
            _require_sound_meta(path)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise _truncated(path) from None


def _require_sound_nifti(path: Path) -> None:
    content = path.read_bytes()
    if content.startswith(_GZIP_MAGIC):
        content = gzip.decompress(content)
    header = _nifti_header(content)
    if header is None:
        return  # reading it will say that it is no NIfTI file
    if min(header.lengths, default=0) < 1:
        raise ImageError(f"'{path.name}' must have voxels along each axis, but its header is broken. Export it again.")
    if len(content) < header.offset + header.voxel_bytes:
        raise _truncated(path)
    spacings = header.pixdim[1 : 1 + min(len(header.lengths), 3)]
    if not all(np.isfinite(s) and s > 0 for s in spacings):
        words = " x ".join(f"{s:g}" for s in spacings)
        raise GeometryError(f"'{path.name}' must have a spacing along each axis, but has {words} mm. Mend its header.")
    if header.datatype in _NIFTI_FLOATS:
        voxels = content[header.offset : header.offset + header.voxel_bytes]
        require_finite(np.frombuffer(voxels, header.order + _NIFTI_FLOATS[header.datatype]), path.name)


def require_finite(array: np.ndarray, file: str) -> None:
    """Raise if voxels are no numbers.

    Raises:
        ImageError: NaN or Inf.
    """
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(f"'{file}' must hold finite values, but voxels are NaN or infinite: {count}. Export it again.")


def _nifti_header(content: bytes) -> _NiftiHeader | None:
    if len(content) < _NIFTI_HEADER_BYTES or content[344:347] not in (b"n+1", b"ni1"):
        return None
    order = "<" if content[:4] == struct.pack("<i", _NIFTI_HEADER_BYTES) else ">"
    dim = struct.unpack_from(f"{order}8h", content, 40)
    datatype, bits = struct.unpack_from(f"{order}2h", content, 70)
    pixdim = struct.unpack_from(f"{order}8f", content, 76)
    (offset,) = struct.unpack_from(f"{order}f", content, 108)
    return _NiftiHeader(order, dim, datatype, bits, pixdim, int(offset) if np.isfinite(offset) else 0)


def _require_sound_meta(path: Path) -> None:
    content = path.read_bytes()
    match = re.search(rb"ElementDataFile\s*=\s*LOCAL\r?\n", content[:_META_HEADER_BYTES])
    if match is None:
        return  # reading it will say what is wrong
    lines = content[: match.start()].decode("latin-1").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if "ElementSpacing" not in fields and "ElementSize" not in fields:
        raise GeometryError(f"'{path.name}' must have a spacing along each axis, but states none. Mend its header.")
    element = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    element = element if element in _META_ELEMENT_BYTES else element.removeprefix("U")
    expected = _META_ELEMENT_BYTES.get(element, 0) * int(fields.get("ElementNumberOfChannels", 1))
    for length in fields.get("DimSize", "0").split():
        expected *= int(length)
    voxels = content[match.end() :]
    if fields.get("CompressedData", "False").lower() == "true":
        voxels = zlib.decompressobj().decompress(voxels)
    if len(voxels) < expected:
        raise _truncated(path)


def _truncated(path: Path) -> ImageError:
    return ImageError(f"'{path.name}' must be a whole file, but is truncated or damaged. Copy or export it again.")
