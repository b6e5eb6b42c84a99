import os

import numpy as np
import pytest
import SimpleITK as sitk

from VFMTransferLib.core.errors import GeometryError, ImageError
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io import read_volume
from VFMTransferLib.io.diffusion import high_b_image, high_b_of_file, mono_exponential
from VFMTransferLib.io.images import read_image

GRID = Geometry((4, 3, 2), (2.0, 2.5, 3.0))
S0, ADC = 900.0, 1.2e-3


def images_at(*b_values: float) -> dict[float, Volume]:
    signal = {b: S0 * np.exp(-b * ADC) for b in b_values}
    return {b: Volume(np.full(GRID.shape, s, np.float32), GRID, "hbv") for b, s in signal.items()}


def test_the_fit_continues_an_exact_decay():
    measured = {b: v.array for b, v in images_at(50, 400, 800).items()}
    np.testing.assert_allclose(mono_exponential(measured, 1400), S0 * np.exp(-1.68), rtol=1e-5)


def test_the_fit_is_the_least_squares_line_of_log_signals():
    rng = np.random.default_rng(0)
    measured = {float(b): np.exp(5 - b * 1e-3 + rng.normal(0, 0.05, GRID.shape)) for b in (50, 400, 800)}
    logs = np.log(np.stack(list(measured.values()))).reshape(3, -1)
    slope, intercept = np.polyfit([50, 400, 800], logs, 1)
    expected = np.exp(intercept + slope * 1400).reshape(GRID.shape)
    np.testing.assert_allclose(mono_exponential(measured, 1400), expected, rtol=1e-4)


def test_signal_that_grows_with_b_is_not_extrapolated_upwards():
    growing = {50.0: np.full(GRID.shape, 10.0), 800.0: np.full(GRID.shape, 40.0)}
    np.testing.assert_allclose(mono_exponential(growing, 1400), 20.0)  # their geometric mean


def test_no_signal_gives_no_signal():
    dark = {50.0: np.zeros(GRID.shape), 800.0: np.ones(GRID.shape)}
    assert not mono_exponential(dark, 1400).any()


def test_a_measured_high_b_is_taken_as_it_is():
    images = images_at(0, 800, 1500)
    volume, note = high_b_image(images, "dwi.nii.gz")
    assert volume is images[1500]
    assert note == "High-b image: b 1500 as measured (the file, b 0, 800, 1500)."


def test_below_1400_it_is_computed_and_said_so():
    volume, note = high_b_image(images_at(0, 50, 800), "dwi.nii.gz")
    np.testing.assert_allclose(volume.array, S0 * np.exp(-1.68), rtol=1e-5)
    assert "b 1400 computed by a mono-exponential fit to b 50, 800" in note


def test_signal_that_rises_with_b_is_noted():
    images = images_at(0, 50, 800)
    exchanged = {0: images[800], 50: images[50], 800: images[0]}
    _, note = high_b_image(exchanged, "dwi.nii.gz")
    assert "signal rises from b 0 to b 50, and signal can only fall with b; check the b values" in note
    assert "rises" not in high_b_image(images, "dwi.nii.gz")[1]


def test_b_0_serves_where_only_one_other_was_measured():
    assert "fit to b 0, 800" in high_b_image(images_at(0, 800), "dwi.nii.gz")[1]


@pytest.mark.parametrize("b_values", [(800,), (0, 50), (700, 800)])
def test_too_few_b_values_are_refused(b_values):
    with pytest.raises(ImageError, match="must hold b 1400 or higher, or two b values 200 apart"):
        high_b_image(images_at(*b_values), "dwi.nii.gz")


def test_images_on_two_grids_are_not_fitted():
    images = images_at(50, 800)
    moved = Geometry(GRID.size, GRID.spacing_mm, (5.0, 0.0, 0.0))
    images[50] = Volume(images[50].array, moved, "hbv")
    with pytest.raises(GeometryError, match="must lie on the grid"):
        high_b_image(images, "dwi.nii.gz")


def test_the_fit_reproduces_what_a_scanner_calculated(shared_data):
    """The scanner's own calculated image of this study is of b 1000, by its tag."""
    folder = shared_data / "cases" / "ProstateX-0000"
    series = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "dwi.nii.gz")))
    computed = mono_exponential(dict(zip((50.0, 400.0, 800.0), series, strict=True)), 1000)
    calculated = read_volume(folder / "hbv.nii.gz", "hbv").array
    tissue = (series[2] > 40) & (read_volume(folder / "adc.nii.gz", "adc").array > 300)
    assert np.corrcoef(computed[tissue], calculated[tissue])[0, 1] > 0.98
    assert np.median(computed[tissue] / calculated[tissue]) == pytest.approx(1, abs=0.05)


def test_a_b_value_beyond_what_scanners_measure_is_refused(tmp_path):
    series = sitk.JoinSeries([volume.to_sitk() for volume in images_at(50, 800).values()])
    sitk.WriteImage(series, str(tmp_path / "dwi.nii.gz"))
    (tmp_path / "dwi.bval").write_text("1e6 50", "utf-8")
    with pytest.raises(ImageError, match=r"'dwi.bval' must hold b values of 0 to 5000 s/mm², but holds 1e\+06"):
        high_b_of_file(tmp_path / "dwi.nii.gz", read_image(tmp_path / "dwi.nii.gz"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files.")
@pytest.mark.parametrize("kind", ["pipe", "endless", "binary"])
def test_b_values_are_read_from_a_small_regular_file_only(tmp_path, kind):
    series = sitk.JoinSeries([volume.to_sitk() for volume in images_at(50, 800).values()])
    sitk.WriteImage(series, str(tmp_path / "dwi.nii.gz"))
    if kind == "pipe":
        os.mkfifo(tmp_path / "dwi.bval")
    else:
        (tmp_path / "dwi.bval").write_bytes(b"50 800 " * 300_000 if kind == "endless" else b"50 \xff\xfe")
    with pytest.raises(ImageError, match=r"must have its b values in 'dwi.bval'"):
        high_b_of_file(tmp_path / "dwi.nii.gz", read_image(tmp_path / "dwi.nii.gz"))
