"""One image file: NIfTI, NRRD and MetaImage. Read by this project's own code, and written whole by SimpleITK.

ITK crashes on some damaged files, fills others with zeros or foreign memory, and makes up what a header leaves out. So
`headers.py` and `voxels.py` read what comes from elsewhere; what ITK wrote is read back in the same way.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
import SimpleITK as sitk

from ..core.errors import GeometryError, ImageError, OutputError
from ..core.files import atomic_file, temporary_file
from ..core.terms import Sequence
from ..core.volume import Geometry, Volume, itk_warnings_silenced
from .headers import AXES_TOLERANCE, ImageHeader
from .nifti import read_nifti
from .plausibility import checked_sequence
from .text_headers import read_metaimage, read_nrrd
from .voxels import read_voxels, require_whole

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")  # each a single file
SPACING_RANGE_MM = (0.01, 50.0)
MAX_EXTENT_MM = 2500.0  # a whole body; what is larger is a spacing in another unit
MAX_VALUE = 1e9  # beyond, squares overflow in single precision
MIN_RANGE = 1e-8  # an ADC map in mm²/s spans 1e-3
MAX_LABEL = 255
_SPACE_MARGIN_BYTES = 1 << 16
_PACKED = ".gz"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_BLOCK_BYTES = 1 << 20

_STDERR = Lock()

log = logging.getLogger(__name__)


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
    _require_3d(image, file)
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
        OutputError: There is no folder for temporary files, which ITK needs to read the grid of NIfTI.
    """
    path = Path(path)
    if not path.is_file():
        found = "is none" if path.exists() else "there is none of that name"
        raise ImageError(f"'{path.name}' must be an image file, but {found}. Check the path.")
    if not is_image_name(path.name):
        raise ImageError(f"'{path.name}' must be one of {', '.join(SUFFIXES)}. Convert it, or give a DICOM folder.")
    try:
        header = read_header(path)
        if header.grid is None:
            raise _several_values(header)
        array = read_voxels(header)
    except PermissionError as error:
        raise ImageError(f"'{path.name}' may not be read by this user. Change its permissions.") from error
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise ImageError(f"'{path.name}' must be readable, but the system reports: {reason}. Copy it again.") from error
    require_finite(array, path.name)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing(header.grid.spacing_mm)
    image.SetOrigin(header.grid.origin_mm)
    image.SetDirection(header.grid.direction)
    return image


def read_header(path: Path) -> ImageHeader:
    """Read and check the header of an image file, by its suffix.

    Raises:
        ImageError: It is no such file, damaged, or asks for more than the limits allow.
        GeometryError: It does not state where the voxels lie, or states two things.
    """
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return read_nifti(path)
    return read_nrrd(path) if name.endswith((".nrrd", ".nhdr")) else read_metaimage(path)


def to_volume(image: sitk.Image, file: str, name: str) -> Volume:
    """A checked volume of an image that was read from `file`; errors as `read_volume`."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:  # one time point
        image = sitk.Extract(image, [*image.GetSize()[:3], 0], [0, 0, 0, 0])
    _require_3d(image, file)
    volume = Volume.from_sitk(image, name)
    require_usable_grid(volume.geometry, file)
    return with_checked_voxels(volume, file)


def with_checked_voxels(volume: Volume, file: str) -> Volume:
    """The volume with voxels of at most 32 bits; ImageError unless they are finite and not all equal."""
    with np.errstate(over="ignore"):  # what overflows is refused with what is infinite
        array = volume.array.astype(np.float32) if volume.array.dtype == np.float64 else volume.array
    require_finite(array, file)
    low, high = float(array.min()), float(array.max())
    if low != high and not (high - low >= MIN_RANGE and max(abs(low), abs(high)) <= MAX_VALUE):
        raise ImageError(
            f"'{file}' must hold values as images do, at most {MAX_VALUE:g} and not all within {MIN_RANGE:g}, but "
            f"holds {low:g}..{high:g}. Export it again."
        )
    if low == high:
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
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # SimpleITK would end the process
        raise OutputError(
            f"'{path.name}' must be written under names that are text, but one of its folders has another. Choose "
            "another folder."
        ) from None
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    is_packed = path.name.endswith(_PACKED)
    with atomic_file(path) as part:
        free = shutil.disk_usage(path.parent).free
        # Compression rarely does better than 8.
        if free < size // 8 + (size if is_packed else 0) + _SPACE_MARGIN_BYTES:
            raise OutputError(f"Writing results needs about {size >> 20} MB, but the disk has {free >> 20} MB free.")
        if is_packed:
            with temporary_file(path.with_name(path.name.removesuffix(_PACKED))) as plain:
                _write_by_itk(image, plain, path.name)
                _pack(plain, part)
        else:
            _write_by_itk(image, part, path.name)


def _write_by_itk(image: sitk.Image, path: Path, name: str) -> None:
    try:
        with itk_warnings_silenced(), _native_stderr_silenced():
            sitk.WriteImage(image, str(path), useCompression=True)
        require_whole(read_header(path))  # on a full disk ITK loses a NIfTI file's end without a word
    except (RuntimeError, ImageError):
        raise OutputError(f"'{name}' could not be written whole. Check the disk's free space.") from None


def _pack(plain: Path, packed: Path) -> None:
    """Compress a file as gzip does, but look for repeated bytes only.

    ITK looks for repeated strings, which the noise of images hardly has: on probabilities, a synthetic ADC and a T2w it
    took two to three times as long for files that are .6 to 6 % smaller.
    """
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP_WINDOW, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    with plain.open("rb") as source, packed.open("wb") as target:
        while block := source.read(_BLOCK_BYTES):
            target.write(packer.compress(block))
        target.write(packer.flush())


@contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """The NIfTI library prints a line of its own on a full disk, before our sentence."""
    with _STDERR:
        try:
            kept = os.dup(2)
        except OSError:  # a program without a stderr
            yield
            return
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nothing)


def _require_3d(image: sitk.Image, file: str) -> None:
    size = "x".join(map(str, image.GetSize()))
    if image.GetDimension() != 3:
        raise ImageError(
            f"'{file}' must be a 3D volume, but is {image.GetDimension()}D ({size}). Select or split out one."
        )


def _several_values(header: ImageHeader) -> ImageError:
    if header.file.lower().endswith(".seg.nrrd"):
        return ImageError(
            f"'{header.file}' must hold one layer, but its segments overlap. Export the one wanted as a label map."
        )
    return ImageError(
        f"'{header.file}' must have one gray value a voxel, but has {header.components} of {header.dtype.name} (color, "
        "vectors or complex numbers). Select the original image."
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
    if max(geometry.extent_mm) > MAX_EXTENT_MM:
        extent = " x ".join(f"{e:.0f}" for e in geometry.extent_mm)
        raise GeometryError(
            f"'{file}' must have a field of view of at most {MAX_EXTENT_MM:.0f} mm, but has {extent}. Fix its header."
        )
    axes = np.reshape(geometry.direction, (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=AXES_TOLERANCE):
        raise GeometryError(f"'{file}' must have perpendicular axes, but its are sheared. Resample it first.")
    if not np.isfinite(geometry.origin_mm).all():
        raise GeometryError(f"'{file}' must have a position in space, but its origin is {geometry.origin_mm}.")


def require_finite(array: np.ndarray, file: str) -> None:
    """Raise ImageError if voxels are NaN or Inf."""
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(f"'{file}' must hold finite values, but voxels are NaN or infinite: {count}. Export it again.")
