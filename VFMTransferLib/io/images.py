"""One image file: NIfTI, NRRD and MetaImage. Read by nibabel, pynrrd and a reader of its own, written by SimpleITK.

SimpleITK does not read: it crashes on some damaged files, fills others with zeros, and makes up what headers lack.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..core.errors import GeometryError, ImageError, OutputError
from ..core.files import atomic_file, temporary_file
from ..core.terms import Sequence
from ..core.volume import Geometry, Volume
from .grids import AXES_TOLERANCE, ImageArray
from .metaimage import read_metaimage
from .nifti import read_nifti
from .nrrd import read_nrrd
from .plausibility import checked_sequence

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")  # each a single file
SPACING_RANGE_MM = (0.01, 50.0)
MAX_EXTENT_MM = 2500.0  # a whole body; what is larger is a spacing in another unit
MAX_VALUE = 1e9  # beyond, squares overflow in single precision
MIN_RANGE = 1e-8  # an ADC map in mm²/s spans 1e-3
MAX_LABEL = 255
_PACKED = ".gz"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_BLOCK_BYTES = 1 << 20

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


def to_mask(image: ImageArray, file: str, name: str) -> Volume:
    """A checked label map of an image that was read from `file`; errors as `read_mask`."""
    volume = _volume_of(image, file, name)
    array = volume.array
    require_finite(array, file)
    if array.min() < 0 or array.max() > MAX_LABEL or (array != np.round(array)).any():
        raise ImageError(
            f"'{file}' holds values {array.min():.3g}..{array.max():.3g}, and a label map holds whole numbers of "
            f"0..{MAX_LABEL}. Threshold a probability map first."
        )
    return volume.with_array(array.astype(np.uint8))


def read_image(path: str | Path) -> ImageArray:
    """Read a file of a known type that is there whole, with a stated orientation: one image, or several of one grid.

    Raises:
        ImageError: Missing, of an unknown type, truncated, or damaged.
        GeometryError: It states no orientation, no spacing, or sheared axes.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"'{path.name}' is not a file. Check the path.")
    name = path.name.lower()
    if not is_image_name(name):
        raise ImageError(f"'{path.name}' is none of {', '.join(SUFFIXES)}. Convert it, or give a DICOM folder.")
    try:
        if name.endswith((".nii", ".nii.gz")):
            image = read_nifti(path)
        else:
            image = read_nrrd(path) if name.endswith((".nrrd", ".nhdr")) else read_metaimage(path)
    except OSError as error:
        reason = error.strerror or "it cannot be read"
        raise ImageError(f"'{path.name}' cannot be read: {reason}. Check its permissions, or copy it again.") from error
    require_finite(image.array, path.name)
    return image


def to_volume(image: ImageArray, file: str, name: str) -> Volume:
    """A checked volume of an image that was read from `file`; errors as `read_volume`."""
    return with_checked_voxels(_volume_of(image, file, name), file)


def _volume_of(image: ImageArray, file: str, name: str) -> Volume:
    array = image.array[0] if image.array.ndim == 4 and len(image.array) == 1 else image.array  # one time point
    if array.ndim != 3:
        size = "x".join(map(str, array.shape[::-1]))
        raise ImageError(f"'{file}' is {array.ndim}D ({size}), not a 3D volume. Select or split out one.")
    require_usable_grid(image.geometry, file)
    return Volume(array, image.geometry, name)


def with_checked_voxels(volume: Volume, file: str) -> Volume:
    """The volume with voxels of at most 32 bits; ImageError unless they are finite and not all equal."""
    with np.errstate(over="ignore"):  # what overflows is refused with what is infinite
        array = volume.array.astype(np.float32) if volume.array.dtype == np.float64 else volume.array
    require_finite(array, file)
    low, high = float(array.min()), float(array.max())
    if low != high and not (high - low >= MIN_RANGE and max(abs(low), abs(high)) <= MAX_VALUE):
        raise ImageError(f"'{file}' holds values {low:g}..{high:g}, which no image has. Export it again.")
    if low == high:
        raise ImageError(f"'{file}' is constant: every voxel is {array.flat[0]:.6g}. Select another file.")
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
        raise OutputError(f"'{path.parent.name}', where '{path.name}' goes, is no folder. Make it first.")
    with atomic_file(path) as part:
        if not path.name.endswith(_PACKED):
            _write_by_itk(image, part, path.name)
            return
        with temporary_file(path.with_name(path.name.removesuffix(_PACKED))) as plain:
            _write_by_itk(image, plain, path.name)
            _pack(plain, part)


def _write_by_itk(image: sitk.Image, path: Path, name: str) -> None:
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    is_whole = True
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        # On a full disk ITK loses a NIfTI file's end without a word.
        is_whole = path.suffix != ".nii" or path.stat().st_size >= size
    except RuntimeError:
        is_whole = False
    if not is_whole:
        raise OutputError(f"'{name}' could not be written whole. Check the disk's free space.")


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


def require_usable_grid(geometry: Geometry, file: str) -> None:
    """Raise GeometryError unless a grid is that of a volume in space."""
    if min(geometry.size) < 2:
        size = "x".join(map(str, geometry.size))
        raise GeometryError(f"'{file}' is a single slice ({size}), not a volume. Select the whole series.")
    low, high = SPACING_RANGE_MM
    if not all(low <= s <= high for s in geometry.spacing_mm):
        raise GeometryError(
            f"'{file}' has spacings of {geometry.spacing_mm} mm, outside of {low}..{high} mm. Fix its header."
        )
    if max(geometry.extent_mm) > MAX_EXTENT_MM:
        extent = " x ".join(f"{e:.0f}" for e in geometry.extent_mm)
        raise GeometryError(
            f"'{file}' has a field of view of {extent} mm, above {MAX_EXTENT_MM:.0f} mm. Fix its header."
        )
    axes = np.reshape(geometry.direction, (3, 3))
    if not np.allclose(axes.T @ axes, np.eye(3), atol=AXES_TOLERANCE):
        raise GeometryError(f"'{file}' has sheared axes. Resample it first.")
    if not np.isfinite(geometry.origin_mm).all():
        raise GeometryError(f"'{file}' has no position in space: its origin is {geometry.origin_mm}. Fix its header.")


def require_finite(array: np.ndarray, file: str) -> None:
    """Raise ImageError if voxels are NaN or Inf."""
    if not np.isfinite(array).all():
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(f"'{file}' has voxels that are NaN or infinite: {count}. Export it again.")
