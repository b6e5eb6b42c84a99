"""One image file: read with checks, written whole. NIfTI, NRRD and MetaImage, through SimpleITK.

ITK fills a truncated NIfTI file with zeros, turns NaN and Inf in one into zeros and a spacing of 0 into 1, and reports
a truncated MetaImage file with the operating system's last, unrelated error. So the bytes are checked here first.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.errors import GeometryError, ImageError, OutputError
from ..core.files import atomic_file
from ..core.terms import Sequence
from ..core.volume import Geometry, Volume, itk_warnings_silenced
from .sequence_values import checked_sequence

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")  # each a single file
SPACING_RANGE_MM = (0.01, 50.0)
AXES_TOLERANCE = 1e-2
MAX_LABEL = 255
_SPACE_MARGIN_BYTES = 1 << 16

log = logging.getLogger(__name__)
_NIFTI_HEADER_BYTES = 348
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI_FLOATS = {16: "f4", 64: "f8"}  # datatype code → numpy's name
_META_HEADER_BYTES = 1 << 16
_META_ELEMENT_BYTES = {
    "CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip


def is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def image_stem(name: str) -> str:
    """A file's name without the suffix of an image: `t2w` of `t2w.nii.gz`."""
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def read_volume(path: str | Path, role: Sequence | str = "image") -> Volume:
    """Read a three-dimensional image and check that it can serve.

    Args:
        path: NIfTI, NRRD or MetaImage file.
        role: A sequence, whose values are checked (ADC is converted to 1e-6 mm²/s), or any other
            word to call the image by.

    Raises:
        ImageError: Missing, damaged, not 3D, not one value a voxel, constant, NaN or Inf, values
            that do not fit the sequence.
        GeometryError: One slice only, or a grid without spacing or orientation.
    """
    volume = to_volume(read_image(path), Path(path).name, str(role))
    if role not in tuple(Sequence):
        return volume
    volume, notes = checked_sequence(volume, Sequence(role), Path(path).name)
    for note in notes:
        log.info(note)
    return volume


def read_mask(path: str | Path, name: str = "mask") -> Volume:
    """Read a label map: uint8, 0 is background; it may be empty.

    Raises:
        ImageError: As `read_volume`, or values that are no labels 0..255.
    """
    return to_mask(read_image(path), Path(path).name, name)


def to_mask(image: sitk.Image, file: str, name: str) -> Volume:
    """A checked label map of an image that was read from `file`; errors as `read_mask`."""
    if image.GetNumberOfComponentsPerPixel() > 1 and file.lower().endswith(".seg.nrrd"):
        raise ImageError(
            f"'{file}' must hold one layer, but its segments overlap. Export the one wanted as a label map."
        )
    _require_3d_scalar(image, file)
    volume = Volume.from_sitk(image, name)
    require_usable_grid(volume.geometry, file)
    array = volume.array
    require_finite(array, file)
    if array.min() < 0 or array.max() > MAX_LABEL or (array != np.round(array)).any():
        raise ImageError(
            f"'{file}' must be a label map with whole numbers 0..{MAX_LABEL}, but holds values "
            f"{array.min():.3g}..{array.max():.3g}. Threshold a probability map first."
        )
    return volume.with_array(array.astype(np.uint8))


def read_image(path: str | Path) -> sitk.Image:
    """Read a file of a known type that is there whole, with a stated orientation; any dimension.

    Raises:
        ImageError: Missing, of an unknown type, truncated, or damaged.
        GeometryError: It states no orientation, no spacing, or sheared axes.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"'{path.name}' must be an image file, but there is none of that name. Check the path.")
    if not is_image_name(path.name):
        raise ImageError(f"'{path.name}' must be one of {', '.join(SUFFIXES)}. Convert it, or give a DICOM folder.")
    try:
        require_sound(path)
        with itk_warnings_silenced():
            image = sitk.ReadImage(str(path))
    except PermissionError as error:
        raise ImageError(f"'{path.name}' may not be read by this user. Change its permissions.") from error
    except RuntimeError as error:
        raise _reading_error(path.name, str(error)) from None  # ITK's text holds the full path
    _require_stated_orientation(image, path.name)
    return image


def to_volume(image: sitk.Image, file: str, name: str) -> Volume:
    """A checked volume of an image that was read from `file`; errors as `read_volume`."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:  # one time point
        image = sitk.Extract(image, [*image.GetSize()[:3], 0], [0, 0, 0, 0])
    _require_3d_scalar(image, file)
    volume = Volume.from_sitk(image, name)
    require_usable_grid(volume.geometry, file)
    return with_checked_voxels(volume, file)


def with_checked_voxels(volume: Volume, file: str) -> Volume:
    """The volume with voxels of at most 32 bits; ImageError unless they are finite and not all equal."""
    array = volume.array.astype(np.float32) if volume.array.dtype == np.float64 else volume.array
    require_finite(array, file)
    if array.min() == array.max():
        raise ImageError(f"'{file}' must show something, but every voxel is {array.flat[0]:.6g}. Select another file.")
    return volume.with_array(array)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write an image `.nii.gz`, `.nii`, `.nrrd` or `.mha`, compressed; the file appears whole or not at all.

    Raises:
        OutputError: Folder not writable, disk full.
    """
    write_image(volume.to_sitk(), Path(path))


def write_displacement(displacement_mm: np.ndarray, geometry: Geometry, path: str | Path) -> None:
    """Write displacement vectors as ITK's displacement field.

    Args:
        displacement_mm: (D, H, W, 3), millimeters in LPS. As in every ITK transform it leads from a
            point of the output to where the input is sampled.
        path: For example `displacement.nii.gz`; `SimpleITK.DisplacementFieldTransform` takes it
            when read as `sitkVectorFloat64`.

    Raises:
        OutputError: Folder not writable, disk full.
    """
    if displacement_mm.shape != (*geometry.shape, 3):
        raise ValueError(f"Displacement must be {(*geometry.shape, 3)}, got {displacement_mm.shape}.")
    image = sitk.GetImageFromArray(np.asarray(displacement_mm, np.float32), isVector=True)
    image.CopyInformation(geometry.image())
    write_image(image, Path(path))


def write_image(image: sitk.Image, path: Path) -> None:
    """Write through a temporary sibling, so that a failure (OutputError) leaves nothing under `path`."""
    if not path.name.endswith(WRITTEN_SUFFIXES):
        raise ValueError(f"Images are written as {', '.join(WRITTEN_SUFFIXES)}, not as '{path.name}'.")
    if not path.parent.is_dir():
        raise OutputError(
            f"'{path.name}' must be written into a folder, but '{path.parent.name}' is none. Make it first."
        )
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    with atomic_file(path) as part:
        free = shutil.disk_usage(path.parent).free
        if free < size // 8 + _SPACE_MARGIN_BYTES:  # compression rarely does better than 8
            raise OutputError(f"Writing results needs about {size >> 20} MB, but the disk has {free >> 20} MB free.")
        try:
            with itk_warnings_silenced():
                sitk.WriteImage(image, str(part), useCompression=True)
            require_sound(part)  # on a full disk ITK loses a NIfTI file's end without a word
        except (RuntimeError, ImageError):
            raise OutputError(f"'{path.name}' could not be written whole. Check the disk's free space.") from None


def _reading_error(file: str, text: str) -> ImageError:
    if "orthonormal" in text or "Bad direction" in text:
        return GeometryError(f"'{file}' must have perpendicular axes, but its are sheared or missing. Resample it.")
    if "Zero-valued spacing" in text:
        return GeometryError(f"'{file}' must have a spacing above 0 mm along each axis. Fix its header.")
    if "Unable to determine ImageIO" in text:
        return ImageError(f"'{file}' must be an image, but its content is of no known type. Export it again.")
    return ImageError(f"'{file}' must be an image, but its header or voxels cannot be read. Export it again.")


def _require_stated_orientation(image: sitk.Image, file: str) -> None:
    """Raise where a header leaves out how the patient lies, which ITK would then make up."""
    stated = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    is_nifti_without = stated.get("qform_code") == "0" and stated.get("sform_code") == "0"
    is_nrrd_without = stated.get("ITK_InputFilterName") == "NrrdImageIO" and "NRRD_space" not in stated
    if image.GetDimension() > 2 and (is_nifti_without or is_nrrd_without):
        field = "qform and sform are both unset" if is_nifti_without else "its header names no space"
        raise GeometryError(f"'{file}' must state its orientation, but {field}. Convert it from DICOM again.")


def _require_3d_scalar(image: sitk.Image, file: str) -> None:
    size = "x".join(map(str, image.GetSize()))
    if image.GetDimension() != 3:
        raise ImageError(
            f"'{file}' must be a 3D volume, but is {image.GetDimension()}D ({size}). Select or split out one."
        )
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise ImageError(
            f"'{file}' must have one gray value a voxel, but has {image.GetPixelIDTypeAsString()} (color or vectors). "
            "Select the original image."
        )


def require_usable_grid(geometry: Geometry, file: str) -> None:
    """Raise GeometryError unless a grid is that of a volume in space."""
    if min(geometry.size) < 2:
        size = "x".join(map(str, geometry.size))
        raise GeometryError(f"'{file}' must be a volume, but is a single slice ({size}). Select the whole series.")
    low, high = SPACING_RANGE_MM
    if not all(low <= s <= high for s in geometry.spacing_mm):
        raise GeometryError(
            f"'{file}' must have spacings of {low}..{high} mm, but has {geometry.spacing_mm}. Fix its header."
        )
    axes = np.reshape(geometry.direction, (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=AXES_TOLERANCE):
        raise GeometryError(f"'{file}' must have perpendicular axes, but its are sheared. Resample it first.")
    if not np.isfinite(geometry.origin_mm).all():
        raise GeometryError(f"'{file}' must have a position in space, but its origin is {geometry.origin_mm}.")


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
    if len(content) < _NIFTI_HEADER_BYTES or content[344:347] not in (b"n+1", b"ni1"):
        return  # reading it raises that it is no NIfTI file
    order = "<" if content[:4] == struct.pack("<i", _NIFTI_HEADER_BYTES) else ">"
    dim = struct.unpack_from(f"{order}8h", content, 40)
    datatype, bits = struct.unpack_from(f"{order}2h", content, 70)
    pixdim = struct.unpack_from(f"{order}8f", content, 76)
    (offset,) = struct.unpack_from(f"{order}f", content, 108)
    lengths = dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else ()
    if min(lengths, default=0) < 1:
        raise ImageError(f"'{path.name}' must have voxels along each axis, but its header is broken. Export it again.")
    begin = int(offset) if np.isfinite(offset) else 0
    end = begin + math.prod(lengths) * bits // 8
    if len(content) < end:
        raise _truncated(path)
    spacings = pixdim[1 : 1 + min(len(lengths), 3)]
    if not all(np.isfinite(s) and s > 0 for s in spacings):
        words = " x ".join(f"{s:g}" for s in spacings)
        raise GeometryError(f"'{path.name}' must have a spacing along each axis, but has {words} mm. Fix its header.")
    if datatype in _NIFTI_FLOATS:
        require_finite(np.frombuffer(content[begin:end], order + _NIFTI_FLOATS[datatype]), path.name)


def require_finite(array: np.ndarray, file: str) -> None:
    """Raise ImageError if voxels are NaN or Inf."""
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(f"'{file}' must hold finite values, but voxels are NaN or infinite: {count}. Export it again.")


def _require_sound_meta(path: Path) -> None:
    content = path.read_bytes()
    match = re.search(rb"ElementDataFile\s*=\s*LOCAL\r?\n", content[:_META_HEADER_BYTES])
    if match is None:
        return  # reading it raises what is wrong
    lines = content[: match.start()].decode("latin-1").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if "ElementSpacing" not in fields and "ElementSize" not in fields:
        raise GeometryError(f"'{path.name}' must have a spacing along each axis, but states none. Fix its header.")
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
