import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk
from images import DWI_GRID, T2W_GRID, a_gland, a_t2w, an_adc

from VFMTransferLib.core.errors import GeometryError, ImageError, OutputError
from VFMTransferLib.io import read_mask, read_volume, write_displacement, write_volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def write(tmp_path):
    """Write voxels (D, H, W) or an image under a name, and give the path."""

    def _write(name: str, content):
        path = tmp_path / name
        image = content if isinstance(content, sitk.Image) else sitk.GetImageFromArray(content)
        sitk.WriteImage(image, str(path))
        return path

    return _write


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_is_read_back(tmp_path, suffix):
    volume = an_adc()
    path = tmp_path / f"ünïcode name{suffix}"
    write_volume(volume, path)
    back = read_volume(path, "adc")
    assert back.geometry.equals(DWI_GRID)
    np.testing.assert_array_equal(back.array, volume.array)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_headers_with_a_file_of_voxels_beside_them_are_read(write, suffix):
    np.testing.assert_array_equal(read_volume(write(f"t2w{suffix}", a_t2w().to_sitk())).array, a_t2w().array)


def test_a_suffix_in_capitals_is_read(tmp_path):
    write_volume(a_t2w(), tmp_path / "t2w.nii.gz")
    (tmp_path / "t2w.nii.gz").rename(tmp_path / "T2W.NII.GZ")
    assert read_volume(tmp_path / "T2W.NII.GZ").geometry.equals(T2W_GRID)


def test_images_are_written_as_one_file_each(tmp_path):
    with pytest.raises(ValueError, match=r"not as 't2w.mhd'"):
        write_volume(a_t2w(), tmp_path / "t2w.mhd")


def test_writing_leaves_no_temporary_file(tmp_path):
    write_volume(a_t2w(), tmp_path / "t2w.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["t2w.nii.gz"]


def test_written_files_carry_no_description(tmp_path):
    write_volume(a_t2w(), tmp_path / "t2w.nii.gz")
    header = gzip.decompress((tmp_path / "t2w.nii.gz").read_bytes())[:348]
    assert header[148:228].strip(b"\0") == b""


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.97])
def test_a_truncated_file_is_refused(tmp_path, suffix, compressed, fraction):
    path = tmp_path / f"t2w{suffix}"
    sitk.WriteImage(a_t2w().to_sitk(), str(path), compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(ImageError):
        read_volume(path)


def test_a_damaged_compressed_file_is_refused(tmp_path):
    path = tmp_path / "t2w.nii.gz"
    write_volume(a_t2w(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ImageError, match="is truncated or damaged"):
        read_volume(path)


def test_a_missing_file_is_named_without_its_folder(tmp_path):
    with pytest.raises(ImageError) as caught:
        read_volume(tmp_path / "t2w.nii.gz")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["t2w.nii.gz", "t2w.nii", "t2w.nrrd", "t2w.mha"])
def test_a_file_that_is_no_image_is_refused(tmp_path, name):
    (tmp_path / name).write_text("<html>Not found</html>", encoding="utf-8")
    with pytest.raises(ImageError) as caught:
        read_volume(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


def test_an_unknown_type_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "t2w.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError):
        read_volume(tmp_path / "t2w.png")


def test_a_time_series_is_refused(write):
    path = write("t2w.nii.gz", sitk.JoinSeries([a_t2w().to_sitk()] * 3))
    with pytest.raises(ImageError):
        read_volume(path)


def test_a_fourth_axis_of_one_image_is_no_time_series(write):
    path = write("t2w.nii.gz", sitk.JoinSeries([a_t2w().to_sitk()]))
    assert read_volume(path).geometry.equals(T2W_GRID)


def test_color_is_refused(write):
    path = write("t2w.nrrd", sitk.GetImageFromArray(np.ones((4, 5, 6, 3), np.uint8), isVector=True))
    with pytest.raises(ImageError):
        read_volume(path)


def test_a_two_dimensional_image_is_refused(write):
    with pytest.raises(ImageError):
        read_volume(write("t2w.nrrd", np.arange(20).reshape(4, 5).astype(np.int16)))


def test_a_single_slice_is_refused(write):
    with pytest.raises(GeometryError, match=r"is a single slice \(6x5x1\)"):
        read_volume(write("t2w.nrrd", np.arange(30).reshape(1, 5, 6).astype(np.int16)))


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_is_refused(write, value):
    with pytest.raises(ImageError):
        read_volume(write("t2w.nii.gz", np.full((4, 5, 6), value, np.int16)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(write, value):
    array = a_t2w().array.astype(np.float32)
    array[2, 3, 4] = value
    with pytest.raises(ImageError):
        read_volume(write("t2w.nii.gz", array))


def test_doubles_become_floats(write):
    assert read_volume(write("t2w.nrrd", a_t2w().array.astype(np.float64))).array.dtype == np.float32


def nifti_with(tmp_path, offset: int, replacement: bytes):
    """A NIfTI file whose header was changed at an offset."""
    path = tmp_path / "t2w.nii"
    write_volume(a_t2w(), path)
    content = bytearray(path.read_bytes())
    content[offset : offset + len(replacement)] = replacement
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("spacing", [0.0, -1.0, np.nan])
def test_a_header_without_spacing_is_refused(tmp_path, spacing):
    path = nifti_with(tmp_path, 80, struct.pack("<f", spacing))
    with pytest.raises((GeometryError, ImageError)):
        read_volume(path)


def test_a_header_without_orientation_is_refused(tmp_path):
    with pytest.raises(GeometryError):
        read_volume(nifti_with(tmp_path, 252, struct.pack("<2h", 0, 0)))


def test_sheared_axes_are_refused(tmp_path):
    rows = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0]], "<f4").tobytes()
    path = nifti_with(tmp_path, 252, struct.pack("<2h", 0, 1))
    content = bytearray(path.read_bytes())
    content[280 : 280 + len(rows)] = rows
    path.write_bytes(content)
    with pytest.raises(GeometryError):
        read_volume(path)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("", "must state its orientation, but its header names no space"),
        ("space directions: (1,0,0) (0,1,0) (0,0,0)", "spacing above 0"),
        ("space directions: (1,0,0) (0.5,1,0) (0,0,3)", "perpendicular axes"),
    ],
)
def test_an_nrrd_header_must_give_a_grid(tmp_path, fields, problem):
    space = "space: left-posterior-superior\n" if fields else ""
    header = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 6 5 4\nencoding: raw\n{space}{fields}\n\n".replace(
        "\n\n\n", "\n\n"
    )
    (tmp_path / "t2w.nrrd").write_bytes(header.encode() + bytes(range(120)))
    with pytest.raises(GeometryError):
        read_volume(tmp_path / "t2w.nrrd")


@pytest.mark.parametrize(
    "fields",
    ["", "ElementSpacing = 0 1 3\n", "ElementSpacing = 1 1 3\nTransformMatrix = 1 0 0 1 0 0 0 0 1\n"],
)
def test_a_metaimage_header_must_give_a_grid(tmp_path, fields):
    header = f"ObjectType = Image\nNDims = 3\nBinaryData = True\n{fields}DimSize = 6 5 4\n"
    content = f"{header}ElementType = MET_UCHAR\nElementDataFile = LOCAL\n".encode() + bytes(range(120))
    (tmp_path / "t2w.mha").write_bytes(content)
    with pytest.raises(GeometryError):
        read_volume(tmp_path / "t2w.mha")


@pytest.mark.parametrize("dim", [(3, -4, 18, 7), (0, 20, 18, 7), (9, 20, 18, 7), (3, 20, 0, 7)])
def test_impossible_dimensions_are_refused(tmp_path, dim):
    with pytest.raises(ImageError):
        read_volume(nifti_with(tmp_path, 40, struct.pack("<4h", *dim)))


def test_spacing_in_the_wrong_unit_is_refused(write):
    image = a_t2w().to_sitk()
    image.SetSpacing((500.0, 500.0, 3000.0))
    with pytest.raises(GeometryError):
        read_volume(write("t2w.nrrd", image))


def test_a_mask_is_read_as_labels_and_may_be_empty(write):
    mask = read_mask(write("lesion.nii.gz", np.zeros((4, 5, 6), np.float32)), "lesion")
    assert mask.array.dtype == np.uint8
    assert mask.name == "lesion"


def test_a_probability_map_is_no_mask(write):
    with pytest.raises(ImageError):
        read_mask(write("gland.nii.gz", np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)))


def test_overlapping_segments_are_no_mask(write):
    layers = sitk.GetImageFromArray(np.zeros((4, 5, 6, 2), np.uint8), isVector=True)
    with pytest.raises(ImageError):
        read_mask(write("gland.seg.nrrd", layers))


def test_a_displacement_field_moves_points_as_simpleitk_does(tmp_path):
    field = np.random.default_rng(4).normal(size=(*DWI_GRID.shape, 3))
    write_displacement(field, DWI_GRID, tmp_path / "displacement.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    point = DWI_GRID.to_world((3, 4, 2))
    moved = sitk.DisplacementFieldTransform(image).TransformPoint(point.tolist())
    np.testing.assert_allclose(moved - point, field[2, 4, 3], atol=1e-5)


def test_a_displacement_must_fit_its_grid(tmp_path):
    with pytest.raises(ValueError, match="Displacement must be"):
        write_displacement(np.zeros((2, 3, 4, 3)), DWI_GRID, tmp_path / "displacement.nii.gz")


def test_a_folder_that_is_not_there_cannot_be_written(tmp_path):
    with pytest.raises(OutputError):
        write_volume(a_gland(), tmp_path / "missing" / "gland.nii.gz")


@pytest.mark.parametrize("name", ["adc.nii", "adc.nii.gz"])
def test_a_write_that_ends_early_leaves_nothing(tmp_path, monkeypatch, name):
    """On a full disk ITK cuts a NIfTI file off and reports success."""

    def write_half(image, path, **_):
        whole = tmp_path / "whole.nii"
        original(image, str(whole))
        content = whole.read_bytes()
        whole.unlink()
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(content[: len(content) // 2])

    original = sitk.WriteImage
    monkeypatch.setattr(sitk, "WriteImage", write_half)
    with pytest.raises(OutputError, match=rf"'{name}' could not be written whole"):
        write_volume(an_adc(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_packed_file_is_one_gzip_stream_that_states_no_time(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(an_adc(), tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.nii.gz", "b.nii.gz"))
    assert first == second
    write_volume(an_adc(), tmp_path / "a.nii")
    assert gzip.decompress(first) == (tmp_path / "a.nii").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii", "a.nii.gz", "b.nii.gz"}
