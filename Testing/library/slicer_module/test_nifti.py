"""The reader of the worker's images, held to SimpleITK's, which writes them."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from slicer_scenes import an_oblique_t2w

from VFMTransferLib.core.errors import ImageError, OutputError
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.io import read_volume, write_displacement, write_volume
from VFMTransferSlicer.results.nifti import VECTOR, readNifti, writeNifti

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_and_grid_are_those_that_were_written(tmp_path, kind):
    volume = an_oblique_t2w()
    volume = volume.with_array(volume.array.astype(kind))
    write_volume(volume, tmp_path / "image.nii.gz")
    image = readNifti(tmp_path / "image.nii.gz")
    assert image.frames.dtype == kind
    np.testing.assert_array_equal(image.frames, volume.array[None])
    np.testing.assert_allclose(image.ijkToRas, TO_RAS @ volume.geometry.affine, atol=1e-4)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_what_is_written_here_is_read_elsewhere(tmp_path, kind):
    volume = an_oblique_t2w()
    volume = volume.with_array(volume.array.astype(kind))
    path = tmp_path / "image.nii.gz"
    writeNifti(path, volume.array, TO_RAS @ volume.geometry.affine)
    for read in (read_volume(path), Volume.from_sitk(sitk.ReadImage(str(path)))):
        assert read.array.dtype == kind
        np.testing.assert_array_equal(read.array, volume.array)
        np.testing.assert_allclose(read.geometry.affine, volume.geometry.affine, atol=1e-4)
    np.testing.assert_array_equal(readNifti(path).frames[0], volume.array)
    with pytest.raises(OutputError, match=r"'image\.nii\.gz' could not be written"):
        writeNifti(path / "image.nii.gz", volume.array, np.eye(4))


def test_components_of_a_vector_are_frames_as_they_were_given(tmp_path):
    grid = an_oblique_t2w().geometry
    vectors = np.random.default_rng(0).normal(0, 2, (*grid.shape, 3)).astype(np.float32)
    write_displacement(vectors, grid, tmp_path / "displacement.nii.gz")
    image = readNifti(tmp_path / "displacement.nii.gz")
    assert image.intent == VECTOR
    np.testing.assert_array_equal(image.frames, np.moveaxis(vectors, -1, 0))


# Names of their own: what gzip makes bears the time.
@pytest.mark.parametrize(
    "content",
    [b"no image", gzip.compress(b"too short"), gzip.compress(bytes(400)), None],
    ids=["text", "short", "zeros", "missing"],
)
def test_a_file_that_is_no_image_is_told(tmp_path, content):
    path = tmp_path / "broken.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match="broken"):
        readNifti(path)
