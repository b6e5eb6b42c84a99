"""Voxels of NIfTI, NRRD and MetaImage files, by a header that `headers.py` has checked.

Streams are inflated no further than the header allows, and read to their checksum. A file that ends early, or goes on
long after its voxels, is refused. Nothing is allocated that the file cannot fill.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import BinaryIO

import numpy as np

from ..core.errors import ImageError
from ..core.files import open_regular
from .headers import GZIP, GZIP_MAGIC, ZLIB_OR_GZIP, ImageHeader, limits, truncated

MAX_INFLATION = 1100  # deflate cannot do better than 1032 bytes out of one
_BLOCK_BYTES = 1 << 20
_PACKED_BYTES = 1 << 16  # read at once; what follows a member's end is copied for each member
_MAX_MEMBERS = 1 << 16  # bgzip needs one for each 64 KB
_MAX_TEXT_BYTES_A_VALUE = 40


def read_voxels(header: ImageHeader) -> np.ndarray:
    """The voxels (..., D, H, W), in the machine's byte order and scaled as the header states.

    Raises:
        ImageError: The file is shorter than its header states, much longer, or damaged.
    """
    shape = (*header.size[::-1], header.components) if header.components > 1 else header.size[::-1]
    blocks = _blocks(header)
    first = next(blocks)  # which raises where the file cannot fill what would be allocated
    content, end = np.empty(header.voxel_bytes, np.uint8), 0
    for block in chain((first,), blocks):
        content[end : end + len(block)] = np.frombuffer(block, np.uint8)
        end += len(block)
    values = content.view(header.dtype).reshape(shape).astype(header.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.intercept) == (1.0, 0.0):
        return values
    # As ITK scales: in double precision, stored in single precision unless doubles came in.
    with np.errstate(over="ignore", invalid="ignore"):  # who reads refuses what is not finite
        scaled = values * np.float64(header.slope) + np.float64(header.intercept)
        return scaled if header.dtype == np.float64 else scaled.astype(np.float32)


def require_whole(header: ImageHeader) -> None:
    """Raise ImageError unless the file holds all voxels that its header states."""
    for _ in _blocks(header):
        pass


def _blocks(header: ImageHeader) -> Iterator[bytes]:
    """The bytes of the voxels, block after block; as many as the header states, when the last has come."""
    left = header.voxel_bytes
    with open_regular(header.voxels) as stream:
        length = os.fstat(stream.fileno()).st_size
        if header.encoding in ("text", "hex"):
            stream.seek(header.offset)
            yield _text_bytes(header, stream)
        elif header.encoding == "raw":
            offset = length - left if header.offset == -1 else header.offset
            if offset < 0 or offset + left > length:
                raise truncated(header.file)
            _require_no_more(header, length - offset - left)
            stream.seek(offset)
            while left:
                block = stream.read(min(_BLOCK_BYTES, left))
                if not block:
                    raise truncated(header.file)
                left -= len(block)
                yield block
        elif left > MAX_INFLATION * length:
            raise truncated(header.file)
        else:
            yield from _inflated(header, stream)


def _inflated(header: ImageHeader, stream: BinaryIO) -> Iterator[bytes]:
    """What a stream holds after the header's offset, as far as the header allows, and read to its checksum."""
    is_whole_stream = header.encoding == "gzip"
    stream.seek(0 if is_whole_stream else header.offset)
    skip, left, trailing = header.offset if is_whole_stream else 0, header.voxel_bytes, 0
    for block in inflated_blocks(stream, GZIP if is_whole_stream else ZLIB_OR_GZIP, header.file):
        content, skip = block[skip:], max(skip - len(block), 0)
        trailing += max(len(content) - left, 0)
        _require_no_more(header, trailing)
        if content := content[:left]:
            left -= len(content)
            yield content
    if left:
        raise truncated(header.file)


def inflated_blocks(stream: BinaryIO, window: int, file: str, block_bytes: int = _BLOCK_BYTES) -> Iterator[bytes]:
    """What a compressed stream holds, in blocks of limited size, each inflated when it is asked for.

    gzip allows several members one after the other; what follows the last one is not read.

    Raises:
        ImageError: It is no such stream, ends early, or is damaged.
    """
    inflater, packed, members = zlib.decompressobj(window), b"", 1
    try:
        while True:
            packed = packed or stream.read(_PACKED_BYTES)
            if inflater.eof:
                if not packed.startswith(GZIP_MAGIC):  # the end, or what a program keeps behind its voxels
                    return
                inflater, members = zlib.decompressobj(window), members + 1
            content = inflater.decompress(packed, block_bytes)
            if members > _MAX_MEMBERS or not (packed or content or inflater.eof):
                raise truncated(file)
            packed = inflater.unconsumed_tail or inflater.unused_data
            if content:
                yield content
    except zlib.error:
        raise truncated(file) from None


def _require_no_more(header: ImageHeader, trailing: int) -> None:
    if trailing > limits().trailing_bytes:
        raise ImageError(
            f"'{header.file}' must hold the {header.voxel_bytes} bytes of voxels that its header states, but holds "
            "many more: the header is not that of these voxels. Export it again."
        )


def _text_bytes(header: ImageHeader, stream: BinaryIO) -> bytes:
    """The bytes that numbers, or pairs of hexadecimal digits, stand for."""
    count = header.voxel_bytes // header.dtype.itemsize
    text = stream.read(_MAX_TEXT_BYTES_A_VALUE * count + limits().trailing_bytes)
    content = b""
    with suppress(ValueError, DeprecationWarning, OverflowError), warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy's way to report a word that is no number
        if header.encoding == "hex":
            content = bytes.fromhex(text.decode("ascii"))
        else:
            content = _numbers(text.decode("ascii"), header.dtype).tobytes()
    if len(content) != header.voxel_bytes:
        raise truncated(header.file)
    return content


def _numbers(text: str, dtype: np.dtype) -> np.ndarray:
    """Numbers of a text; OverflowError where one is beyond the type, in which it would be another number."""
    if dtype.kind == "f":
        return np.fromstring(text, dtype, sep=" ")
    wide = np.fromstring(text, np.uint64 if dtype.kind == "u" and "-" not in text else np.int64, sep=" ")
    bounds = np.iinfo(dtype)
    if wide.size and not bounds.min <= int(wide.min()) <= int(wide.max()) <= bounds.max:
        raise OverflowError
    return wide.astype(dtype)
