"""Whether a file holds all the bytes that its header promises.

ITK fills what a truncated NIfTI file lacks with zeros and says nothing, so it is asked here first.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from pathlib import Path

from ..errors import ImageError

_NIFTI_HEADER_BYTES = 348
_META_HEADER_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 20
_META_ELEMENT_BYTES = {
    "CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip


def require_whole(path: Path) -> None:
    """Raise if a NIfTI or MetaImage file ends before its voxels do; other types pass.

    Raises:
        ImageError: The file is truncated, or its compression is damaged.
    """
    try:
        if path.name.lower().endswith((".nii", ".nii.gz")):
            lacking = _nifti_lacks_bytes(path)
        elif path.name.lower().endswith(".mha"):
            lacking = _meta_lacks_bytes(path)
        else:
            return
    except (EOFError, gzip.BadGzipFile, zlib.error):
        lacking = True
    if lacking:
        raise ImageError(f"'{path.name}' must be a whole file, but is truncated or damaged. Copy or export it again.")


def _nifti_lacks_bytes(path: Path) -> bool:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        header = file.read(_NIFTI_HEADER_BYTES)
        if len(header) < _NIFTI_HEADER_BYTES or header[344:347] not in (b"n+1", b"ni1"):
            return False  # no NIfTI-1 header: reading it will say what is wrong
        order = "<" if struct.unpack("<i", header[:4])[0] == _NIFTI_HEADER_BYTES else ">"
        dim = struct.unpack(f"{order}8h", header[40:56])
        bits = struct.unpack(f"{order}h", header[72:74])[0]
        offset = int(struct.unpack(f"{order}f", header[108:112])[0])
        voxels = 1
        for length in dim[1 : max(dim[0], 0) + 1]:
            voxels *= max(length, 1)
        size = _NIFTI_HEADER_BYTES
        while chunk := file.read(_CHUNK_BYTES):  # to the end, where gzip compares its checksum
            size += len(chunk)
    return size < offset + voxels * bits // 8


def _meta_lacks_bytes(path: Path) -> bool:
    content = path.read_bytes()
    match = re.search(rb"ElementDataFile\s*=\s*LOCAL\r?\n", content[:_META_HEADER_BYTES])
    if match is None:
        return False
    lines = content[: match.start()].decode("latin-1").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    element = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY").replace("UCHAR", "CHAR")
    element = element if element in _META_ELEMENT_BYTES else element.removeprefix("U")
    expected = _META_ELEMENT_BYTES.get(element, 0) * int(fields.get("ElementNumberOfChannels", 1))
    for length in fields.get("DimSize", "0").split():
        expected *= int(length)
    voxels = content[match.end() :]
    if fields.get("CompressedData", "False").lower() == "true":
        voxels = zlib.decompressobj().decompress(voxels)
    return len(voxels) < expected
