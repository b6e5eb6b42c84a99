"""Image files byte by byte, in legal and in broken forms, for tests of reading and for the fuzzers' corpus."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Any

import numpy as np
from images import an_adc

from VFMTransferLib.core.volume import Volume

_NIFTI_CODES = {
    "u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280,
}  # fmt: skip
_META_NAMES = {
    "i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT", "i8": "LONG_LONG",
    "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE",
}  # fmt: skip
_NRRD_NAMES = {"i1": "int8", "u1": "uint8", "f4": "float", "f8": "double"}
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def an_odd_volume(code: str = "i2") -> Volume:
    """Oblique, unequal in every axis, of a type."""
    volume = an_adc()
    return volume.with_array((volume.array // (32 if code in ("u1", "i1") else 1)).astype(code))


def nifti_bytes(volume: Volume, order: str = "<", version: int = 1, **fields: Any) -> bytes:
    """A NIfTI file; `fields` replace what the header states, each a number or a tuple."""
    code = volume.array.dtype.str[1:]
    affine = TO_RAS @ volume.geometry.affine
    x, y, z = volume.geometry.size
    sizeof, first = (348, 352) if version == 1 else (540, 544)
    state: dict[str, Any] = {
        "dim": (3, x, y, z, 1, 1, 1, 1), "datatype": _NIFTI_CODES[code], "bitpix": 8 * volume.array.dtype.itemsize,
        "pixdim": (1, *volume.geometry.spacing_mm, 0, 0, 0, 0), "vox_offset": first, "scl_slope": 1, "scl_inter": 0,
        "xyzt_units": 2, "qform_code": 0, "sform_code": 1, "quatern": (0,) * 6, "srow": tuple(affine[:3].ravel()),
        "sizeof_hdr": sizeof, "magic": b"n+1\0" if version == 1 else b"n+2\0\r\n\x1a\n", **fields,
    }  # fmt: skip
    one = {
        "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
        "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"),
        "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern": (256, "6f"), "srow": (280, "12f"),
        "magic": (344, "4s"),
    }  # fmt: skip
    two = {
        "sizeof_hdr": (0, "i"), "magic": (4, "8s"), "datatype": (12, "h"), "bitpix": (14, "h"), "dim": (16, "8q"),
        "pixdim": (104, "8d"), "vox_offset": (168, "q"), "scl_slope": (176, "d"), "scl_inter": (184, "d"),
        "qform_code": (344, "i"), "sform_code": (348, "i"), "quatern": (352, "6d"), "srow": (400, "12d"),
        "xyzt_units": (500, "i"),
    }  # fmt: skip
    header = bytearray(max(first, int(state["vox_offset"]) if 0 < state["vox_offset"] < 1 << 20 else first))
    for field, (at, layout) in (one if version == 1 else two).items():
        value = state[field]
        struct.pack_into(order + layout, header, at, *(value if isinstance(value, tuple) else (value,)))
    return bytes(header) + volume.array.astype(order + code).tobytes()


def nrrd_bytes(volume: Volume, encoding: str = "raw", endian: str = "little", **fields: str | None) -> bytes:
    """An NRRD file; `fields` (with `_` for a space) replace or, as None, remove lines of the header."""
    voxels = encoded(volume.array, encoding, endian)
    code = volume.array.dtype.str[1:]
    columns = volume.geometry.affine[:3, :3].T
    lines: dict[str, str | None] = {
        "type": _NRRD_NAMES.get(code, f"{'u' if code[0] == 'u' else ''}int{8 * volume.array.dtype.itemsize}"),
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, volume.geometry.size)),
        "space directions": " ".join(f"({','.join(map(repr, map(float, column)))})" for column in columns),
        "kinds": "domain domain domain",
        "endian": endian,
        "encoding": encoding,
        "space origin": f"({','.join(map(repr, volume.geometry.origin_mm))})",
    }
    lines |= {key.replace("_", " "): value for key, value in fields.items()}
    text = "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)
    return b"NRRD0004\n# a comment\n" + text.encode() + (b"" if lines.get("data file") else b"\n" + voxels)


def meta_bytes(volume: Volume, compressed: bool = False, binary: bool = True, **fields: str | None) -> bytes:
    """A MetaImage file; `fields` replace or, as None, remove lines of the header."""
    is_big = fields.get("BinaryDataByteOrderMSB") == "True"
    encoding = "zlib" if compressed else "raw" if binary else "ascii"
    voxels = encoded(volume.array, encoding, "big" if is_big else "little")
    lines: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": str(binary),
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(compressed),
        "CompressedDataSize": str(len(voxels)) if compressed else None,
        "TransformMatrix": " ".join(map(repr, np.reshape(volume.geometry.direction, (3, 3)).T.ravel().tolist())),
        "Offset": " ".join(map(repr, volume.geometry.origin_mm)),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(map(repr, volume.geometry.spacing_mm)),
        "DimSize": " ".join(map(str, volume.geometry.size)),
        "ElementType": f"MET_{_META_NAMES[volume.array.dtype.str[1:]]}",
        "ElementDataFile": "LOCAL",
    }
    data = fields.pop("ElementDataFile", "LOCAL")
    lines = {**{k: v for k, v in lines.items() if k != "ElementDataFile"}, **fields, "ElementDataFile": data}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    return text.encode("latin-1") + (voxels if data == "LOCAL" else b"")


def encoded(array: np.ndarray, encoding: str, endian: str = "little") -> bytes:
    """Voxels as a file holds them."""
    raw = array.astype(array.dtype.newbyteorder("<" if endian == "little" else ">")).tobytes()
    if encoding in ("ascii", "text", "txt"):
        return " ".join(map(str, array.ravel().tolist())).encode()
    if encoding == "hex":
        return raw.hex().encode()
    return {"raw": raw, "gzip": gzip.compress(raw), "gz": gzip.compress(raw), "zlib": zlib.compress(raw)}[encoding]


def quaternion_fields(volume: Volume) -> dict[str, Any]:
    """Fields of a NIfTI header that states the grid by its qform."""
    from scipy.spatial.transform import Rotation

    columns = (TO_RAS @ volume.geometry.affine)[:3, :3] / volume.geometry.spacing_mm
    factor = -1.0 if np.linalg.det(columns) < 0 else 1.0
    x, y, z, w = Rotation.from_matrix(columns * (1, 1, factor)).as_quat()
    sign = -1 if w < 0 else 1
    shift = TO_RAS[:3, :3] @ np.asarray(volume.geometry.origin_mm)
    return {
        "qform_code": 1,
        "quatern": (sign * x, sign * y, sign * z, *shift),
        "pixdim": (factor, *volume.geometry.spacing_mm, 0, 0, 0, 0),
    }
