"""Images that another program hands over, as files or as arrays with their grid."""

import os
from dataclasses import replace

import numpy as np
import pytest
from images import DWI_GRID, T2W_GRID, a_gland, a_t2w, an_adc, an_hbv

from VFMTransferLib.core.errors import GeometryError, ImageError, MissingSequenceError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.io import write_volume
from VFMTransferLib.io.cases import ExportedImage, read_exported_case


def exported(folder, volume) -> ExportedImage:
    path = folder / f"{volume.name}.npy"
    np.save(path, volume.array)
    return ExportedImage(path, volume.geometry)


def test_arrays_and_files_give_the_same_case(tmp_path):
    write_volume(a_t2w(), tmp_path / "t2w.nrrd")
    images = {Sequence.T2W: ExportedImage(tmp_path / "t2w.nrrd"), Sequence.HBV: exported(tmp_path, an_hbv())}
    case = read_exported_case("p001", images, exported(tmp_path, a_gland()))
    for sequence, volume in ((Sequence.T2W, a_t2w()), (Sequence.HBV, an_hbv())):
        np.testing.assert_array_equal(case[sequence].array, volume.array)
        assert case[sequence].geometry.equals(volume.geometry)
    assert (case.id, case.gland.array.dtype, case.gland.array.sum()) == ("p001", np.uint8, a_gland().array.sum())


def test_adc_is_converted_to_its_unit_with_a_note(tmp_path):
    in_mm2_per_s = an_adc().with_array((an_adc().array * 1e-6).astype(np.float32))
    case = read_exported_case("p001", {Sequence.ADC: exported(tmp_path, in_mm2_per_s)})
    np.testing.assert_allclose(case[Sequence.ADC].array, an_adc().array, rtol=1e-5)
    assert "converted to 1e-6 mm²/s" in case.notes[0].text


def test_byte_order_and_fortran_order_do_not_matter(tmp_path):
    path = tmp_path / "t2w.npy"
    np.save(path, np.asfortranarray(a_t2w().array.astype(">i2")))
    case = read_exported_case("p001", {Sequence.T2W: ExportedImage(path, T2W_GRID)})
    np.testing.assert_array_equal(case[Sequence.T2W].array, a_t2w().array)


def test_an_array_that_does_not_fill_its_grid_is_refused(tmp_path):
    path = exported(tmp_path, a_t2w()).path
    with pytest.raises(ImageError, match=r"'t2w.npy' must hold numbers, \(5, 12, 14\).*\(7, 18, 20\)"):
        read_exported_case("p001", {Sequence.T2W: ExportedImage(path, DWI_GRID)})


def test_a_pickled_array_is_refused(tmp_path):
    path = tmp_path / "t2w.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"'t2w\.npy' must be an array file"):
        read_exported_case("p001", {Sequence.T2W: ExportedImage(path, T2W_GRID)})


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"no array"])
def test_a_damaged_array_file_is_refused(tmp_path, content):
    path = tmp_path / "t2w.npy"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"'t2w\.npy' must be an array file"):
        read_exported_case("p001", {Sequence.T2W: ExportedImage(path, T2W_GRID)})


def test_a_missing_array_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"'t2w\.npy' must be an array file"):
        read_exported_case("p001", {Sequence.T2W: ExportedImage(tmp_path / "t2w.npy", T2W_GRID)})


@pytest.mark.parametrize(
    "change", [{"direction": (0.0,) * 9}, {"spacing_mm": (0.0, 1.0, 1.0)}, {"origin_mm": (float("nan"), 0.0, 0.0)}]
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, change):
    path = exported(tmp_path, a_t2w()).path
    with pytest.raises(GeometryError, match="t2w"):
        read_exported_case("p001", {Sequence.T2W: ExportedImage(path, replace(T2W_GRID, **change))})


def test_an_empty_gland_and_no_image_are_refused(tmp_path):
    image = exported(tmp_path, a_t2w())
    empty = exported(tmp_path, a_gland().with_array(np.zeros_like(a_gland().array)))
    with pytest.raises(ImageError, match="'gland' must mark the prostate, but is empty"):
        read_exported_case("p001", {Sequence.T2W: image}, empty)
    with pytest.raises(MissingSequenceError):
        read_exported_case("p001", {})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files.")
def test_a_pipe_in_the_place_of_an_array_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "t2w.npy")
    with pytest.raises(ImageError, match=r"'t2w.npy' must be an array file, but is no file"):
        read_exported_case("p001", {Sequence.T2W: ExportedImage(tmp_path / "t2w.npy", T2W_GRID)})
