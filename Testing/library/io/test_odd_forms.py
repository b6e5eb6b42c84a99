"""Odd but legal files: our reader gives, to the bit, what SimpleITK gives."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from image_files import an_odd_volume, encoded, meta_bytes, nifti_bytes, nrrd_bytes, quaternion_fields

from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io.images import read_image

CODES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8")
GRID_OF = ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")
# Orientations that scanners and converters write: axes flipped, swapped, oblique.
TURNS = {
    "lps": np.eye(3),
    "ras": np.diag([-1.0, -1.0, 1.0]),
    "sagittal": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
    "coronal": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
}


def require_as_itk(path) -> sitk.Image:
    ours, theirs = read_image(path), sitk.ReadImage(str(path))
    assert ours.GetPixelIDTypeAsString() == theirs.GetPixelIDTypeAsString()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
    for of in GRID_OF:
        assert getattr(ours, of)() == getattr(theirs, of)()
    return ours


def turned(turn: str) -> Volume:
    volume = an_odd_volume()
    oblique = np.reshape(volume.geometry.direction, (3, 3)) @ TURNS[turn]
    return Volume(volume.array, Geometry(volume.geometry.size, (0.51, 0.73, 3.3), (-71.3, 20.1, 9.7), oblique.ravel()))


@pytest.fixture
def put(tmp_path):
    def _put(name: str, content: bytes):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return _put


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", [*CODES, "u8"])
def test_nifti_of_each_type_and_byte_order(put, code, order):
    require_as_itk(put("t2w.nii", nifti_bytes(an_odd_volume(code), order)))


@pytest.mark.parametrize("code", CODES)
def test_nifti_of_each_type_scaled(put, code):
    require_as_itk(put("t2w.nii", nifti_bytes(an_odd_volume(code), scl_slope=0.37, scl_inter=-2.5)))


@pytest.mark.parametrize(("slope", "inter"), [(0, 3), (np.nan, np.nan), (1, 2), (2, np.nan)])
def test_nifti_scales_that_mean_none(put, slope, inter):
    require_as_itk(put("t2w.nii", nifti_bytes(an_odd_volume(), scl_slope=slope, scl_inter=inter)))


@pytest.mark.parametrize("turn", TURNS)
def test_nifti_2_is_read_as_nifti_1(put, turn):
    ours, same = (read_image(put(f"{v}.nii", nifti_bytes(turned(turn), version=v))) for v in (2, 1))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(same))
    for of in GRID_OF:
        assert getattr(ours, of)() == getattr(same, of)()


@pytest.mark.parametrize("turn", TURNS)
def test_nifti_of_each_orientation_by_sform_qform_and_both(put, turn):
    volume = turned(turn)
    quaternion = quaternion_fields(volume)
    for fields in ({}, {**quaternion, "sform_code": 0}, quaternion, {**quaternion, "sform_code": 2}):
        require_as_itk(put("t2w.nii", nifti_bytes(volume, **fields)))


@pytest.mark.parametrize("units", [0, 1, 2, 3, 10])
def test_nifti_units(put, units):
    require_as_itk(put("t2w.nii", nifti_bytes(an_odd_volume(), xyzt_units=units)))


def test_nifti_with_extensions_and_what_follows_the_voxels(put):
    require_as_itk(put("t2w.nii", nifti_bytes(an_odd_volume(), vox_offset=4096) + b"behind"))


@pytest.mark.parametrize("last", [1, 3])
def test_nifti_of_four_dimensions(put, last):
    volume = an_odd_volume()
    fields = {
        "dim": (4, *volume.geometry.size, last, 1, 1, 1),
        "pixdim": (1, *volume.geometry.spacing_mm, 2.5, 0, 0, 0),
    }
    image = read_image(put("t2w.nii", nifti_bytes(volume, **fields) + (last - 1) * volume.array.tobytes()))
    theirs = sitk.ReadImage(str(put("t2w.nii", nifti_bytes(volume, **fields) + (last - 1) * volume.array.tobytes())))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).ravel(), sitk.GetArrayFromImage(theirs).ravel())


def test_gzip_of_several_streams_and_zeros_behind_them(put):
    whole = nifti_bytes(an_odd_volume())
    parts = gzip.compress(whole[:300]) + gzip.compress(whole[300:1000]) + gzip.compress(whole[1000:]) + b"\0" * 512
    path = put("t2w.nii.gz", parts)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path)), an_odd_volume().array)


def test_nifti_that_is_compressed_without_the_suffix_and_the_other_way_round(put):
    expected = an_odd_volume().array
    for name, content in (
        ("t2w.nii", gzip.compress(nifti_bytes(an_odd_volume()))),
        ("b.nii.gz", nifti_bytes(an_odd_volume())),
    ):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(put(name, content))), expected)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii", "hex"])
@pytest.mark.parametrize("code", CODES)
def test_nrrd_of_each_type_and_encoding(put, code, encoding):
    for endian in ("little", "big"):
        require_as_itk(put("t2w.nrrd", nrrd_bytes(an_odd_volume(code), encoding, endian)))


@pytest.mark.parametrize("space", ["LPS", "RAS", "LAS", "right-anterior-superior", "left-anterior-superior"])
@pytest.mark.parametrize("turn", TURNS)
def test_nrrd_of_each_orientation_and_space(put, turn, space):
    require_as_itk(put("t2w.nrrd", nrrd_bytes(turned(turn), space=space)))


def test_nrrd_with_lines_and_bytes_to_skip(put):
    volume = an_odd_volume()
    header, _, voxels = nrrd_bytes(volume, line_skip="2", byte_skip="3").partition(b"\n\n")
    require_as_itk(put("t2w.nrrd", header + b"\n\nfirst\nsecond\nabc" + voxels))
    header, _, voxels = nrrd_bytes(volume, byte_skip="-1").partition(b"\n\n")
    require_as_itk(put("t2w.nrrd", header + b"\n\nanything" + voxels))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_with_its_voxels_in_another_file(put, encoding):
    volume = an_odd_volume()
    put("t2w.raw", encoded(volume.array, encoding))
    require_as_itk(put("t2w.nhdr", nrrd_bytes(volume, encoding, data_file="t2w.raw")))


def test_nrrd_with_keys_of_a_program_and_windows_line_ends(put):
    content = nrrd_bytes(an_odd_volume(), space_units='"mm" "mm" "mm"')
    header, _, voxels = content.partition(b"\n\n")
    longer = header + b"\nSegment0_Name:=" + b"prostate " * 5000
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(read_image(put("a.nrrd", longer + b"\n\n" + voxels))), an_odd_volume().array
    )
    require_as_itk(put("t2w.nrrd", header.replace(b"\n", b"\r\n") + b"\r\n\r\n" + voxels))


@pytest.mark.parametrize("code", [*CODES, "u8"])
def test_metaimage_of_each_type_and_encoding(put, code):
    volume = an_odd_volume(code)
    for options in (
        {},
        {"compressed": True},
        {"BinaryDataByteOrderMSB": "True"},
        {"compressed": True, "BinaryDataByteOrderMSB": "True"},
        {"CompressedData": None, "ObjectType": None},
    ):
        require_as_itk(put("t2w.mha", meta_bytes(volume, **options)))
    require_as_itk(put("t2w.mha", meta_bytes(volume, binary=False) + b"\n"))


@pytest.mark.parametrize("turn", TURNS)
def test_metaimage_of_each_orientation_and_by_its_other_names(put, turn):
    content = meta_bytes(turned(turn))
    require_as_itk(put("t2w.mha", content))
    require_as_itk(put("t2w.mha", content.replace(b"TransformMatrix", b"Orientation").replace(b"Offset", b"Position")))
    require_as_itk(put("t2w.mha", content.replace(b"TransformMatrix", b"Rotation").replace(b"Offset", b"Origin")))
    require_as_itk(put("t2w.mha", content.replace(b"ElementSpacing", b"ElementSize")))


@pytest.mark.parametrize("skip", [0, 128, -1])
def test_metaimage_with_its_voxels_in_another_file(put, skip):
    volume = an_odd_volume()
    put("t2w.raw", b"h" * max(skip, 5 if skip else 0) + encoded(volume.array, "raw"))
    require_as_itk(put("t2w.mhd", meta_bytes(volume, HeaderSize=str(skip), ElementDataFile="t2w.raw")))
    put("t2w.zraw", encoded(volume.array, "zlib"))
    require_as_itk(put("z.mhd", meta_bytes(volume, compressed=True, ElementDataFile="t2w.zraw")))


def test_metaimage_whose_last_line_does_not_end(put):
    volume = an_odd_volume()
    put("t2w.raw", encoded(volume.array, "raw"))
    require_as_itk(put("t2w.mhd", meta_bytes(volume, ElementDataFile="t2w.raw").rstrip(b"\n")))
