"""Image files that are legal, damaged or ambiguous: read as SimpleITK reads them, or refused by class and reason."""

import numpy as np
import pytest
import SimpleITK as sitk
from image_files import an_odd_volume, meta_bytes, nifti_bytes, nrrd_bytes, quaternion_fields

from VFMTransferLib.core.errors import GeometryError, ImageError
from VFMTransferLib.io import read_volume
from VFMTransferLib.io.images import read_image

VOLUME = an_odd_volume()


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("code", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("t2w.nii", nifti_bytes),
        ("big.nii", lambda volume: nifti_bytes(volume, ">")),
        ("scaled.nii", lambda volume: nifti_bytes(volume, scl_slope=0.37, scl_inter=-2.5)),
        ("t2w.nrrd", nrrd_bytes),
        ("packed.nrrd", lambda volume: nrrd_bytes(volume, "gzip", "big")),
        ("t2w.mha", meta_bytes),
        ("packed.mha", lambda volume: meta_bytes(volume, compressed=True)),
    ],
)
def test_each_type_and_form_is_read_as_by_simpleitk(tmp_path, name, make, code):
    path = written(tmp_path, name, make(an_odd_volume(code)))
    image, expected = read_image(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(image.array, sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(image.geometry.spacing_mm, expected.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(image.geometry.origin_mm, expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(image.geometry.direction, expected.GetDirection(), atol=1e-6)


@pytest.mark.parametrize("lost", [20, 100, 1600])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t2w.nii", nifti_bytes(VOLUME)),
        ("t2w.nrrd", nrrd_bytes(VOLUME)),
        ("packed.nrrd", nrrd_bytes(VOLUME, "gzip")),
        ("t2w.mha", meta_bytes(VOLUME)),
        ("packed.mha", meta_bytes(VOLUME, compressed=True)),
        ("noise.nii", b"\1" * 4000),
        ("noise.nrrd", b"NRRD0004\n" + b"\xff" * 4000),
        ("noise.mha", b"\xff" * 4000),
    ],
)
def test_a_truncated_or_damaged_file_is_refused(tmp_path, name, content, lost):
    with pytest.raises(ImageError, match="damaged"):
        read_volume(written(tmp_path, name, content[:-lost]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t2w.nii", nifti_bytes(VOLUME, dim=(3, 20000, 20000, 20, 1, 1, 1, 1))),
        ("t2w.nrrd", nrrd_bytes(VOLUME, sizes="20000 20000 20")),
        ("t2w.mha", meta_bytes(VOLUME, DimSize="20000 20000 20")),
    ],
)
def test_a_small_file_that_asks_for_much_memory_is_refused(tmp_path, name, content):
    with pytest.raises(ImageError, match="MB"):
        read_volume(written(tmp_path, name, content))


@pytest.mark.parametrize(
    "fields",
    [
        {"sform_code": 0},
        {"pixdim": (1, 3.0, 3.5, 6.0, 0, 0, 0, 0)},
        {"pixdim": (1, 0.0, 3.5, 5.0, 0, 0, 0, 0)},
        {"srow": (np.nan,) * 12},
        {"srow": (0.0,) * 12},
    ],
)
def test_a_nifti_without_one_grid_is_refused(tmp_path, fields):
    with pytest.raises(GeometryError):
        read_volume(written(tmp_path, "t2w.nii", nifti_bytes(VOLUME, **fields)))


def test_qform_and_sform_that_disagree_are_refused(tmp_path):
    fields = quaternion_fields(VOLUME)
    q = fields["quatern"]
    fields["sform_code"] = 1
    fields["quatern"] = (*q[:3], q[3] + 0.2, *q[4:])
    read_volume(written(tmp_path, "near.nii", nifti_bytes(VOLUME, **fields)))  # rounding of other programs
    fields["quatern"] = (*q[:3], q[3] + 7, *q[4:])
    with pytest.raises(GeometryError, match="qform"):
        read_volume(written(tmp_path, "t2w.nii", nifti_bytes(VOLUME, **fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"space_directions": None},
        {"space_directions": "none none none"},
        {"space_directions": "(1,0,0) (0,1,0) (0,0,0)"},
        {"space": None, "space_dimension": "3"},
        {"space": "scanner-xyz"},
        {"space_origin": None},
        {"space_origin": "(nan,0,0)"},
        {"space_units": '"um" "um" "um"'},
    ],
)
def test_an_nrrd_that_does_not_state_its_grid_is_refused(tmp_path, fields):
    with pytest.raises(GeometryError):
        read_volume(written(tmp_path, "t2w.nrrd", nrrd_bytes(VOLUME, **fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"ElementSpacing": None},
        {"ElementSpacing": "1 0 3"},
        {"TransformMatrix": None},
        {"TransformMatrix": "2 0 0 0 1 0 0 0 1"},
        {"TransformMatrix": "1 0 0 0.3 1 0 0 0 1"},
        {"Offset": None},
        {"Offset": "0 nan 0"},
        {"DistanceUnits": "cm"},
    ],
)
def test_a_metaimage_that_does_not_state_its_grid_is_refused(tmp_path, fields):
    with pytest.raises(GeometryError):
        read_volume(written(tmp_path, "t2w.mha", meta_bytes(VOLUME, **fields)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t2w.mha", meta_bytes(VOLUME, ElementDataFile="../secret.raw")),
        ("t2w.nrrd", nrrd_bytes(VOLUME, data_file="../secret.raw")),
    ],
)
def test_voxels_are_read_only_from_the_folder_of_their_header(tmp_path, name, content):
    (tmp_path / "secret.raw").write_bytes(VOLUME.array.tobytes())
    (tmp_path / "in").mkdir()
    with pytest.raises(ImageError):
        read_volume(written(tmp_path / "in", name, content))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e12])
def test_values_that_no_image_has_are_refused(tmp_path, value):
    array = VOLUME.array.astype(np.float32)
    array[1, 1, 1] = value
    with pytest.raises(ImageError):
        read_volume(written(tmp_path, "t2w.nii", nifti_bytes(VOLUME.with_array(array))))
