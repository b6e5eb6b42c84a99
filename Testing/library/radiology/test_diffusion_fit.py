import json

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import AXIAL, DicomSeries

from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import GeometryError, ImageError, MixedExamsError
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io.cases import read_diffusion
from VFMTransferLib.io.images import write_volume
from VFMTransferLib.radiology.diffusion_fit import FitProblem, fit_diffusion

GRID = Geometry((24, 20, 4), (2.0, 2.0, 3.0))
B = (50.0, 400.0, 800.0)


def an_adc() -> np.ndarray:
    """ADC in 1e-6 mm²/s that differs from voxel to voxel, 400 to 2600."""
    return np.linspace(400, 2600, np.prod(GRID.shape)).reshape(GRID.shape)


def a_series(b_values=B, base: float = 900.0) -> dict[float, Volume]:
    return {b: Volume((base * np.exp(-b * 1e-6 * an_adc())).astype(np.float32), GRID) for b in b_values}


def test_a_mono_exponential_signal_gives_its_adc_and_leaves_nothing_over():
    fit = fit_diffusion(a_series())
    np.testing.assert_allclose(fit.adc.array, an_adc(), rtol=1e-4)
    np.testing.assert_allclose(fit.base.array, 900, rtol=1e-4)
    assert fit.residual.array.max() < 1e-5
    assert not fit.problems.array.any()
    assert (fit.b_values, fit.notes, fit.shares()) == (B, (), {})


@pytest.mark.parametrize("b", [0.0, 1500.0, 2000.0])
def test_another_b_value_is_computed_by_the_fit(b):
    np.testing.assert_allclose(fit_diffusion(a_series()).at(b).array, 900 * np.exp(-b * 1e-6 * an_adc()), rtol=1e-3)


@pytest.mark.parametrize("b", [-1.0, 9000.0])
def test_a_b_value_that_is_none_is_refused(b):
    with pytest.raises(ImageError, match="must lie in 0 to 5000"):
        fit_diffusion(a_series()).at(b)


def test_each_problem_is_named_where_it_is():
    series = a_series()
    rng = np.random.default_rng(0)
    series[800.0].array[...] += rng.normal(0, 2.0, GRID.shape).astype(np.float32)
    series[400.0].array[1, 2, 3] *= 1.6  # motion in one image
    series[50.0].array[1, 2, 4] = series[800.0].array[1, 2, 4] / 2  # signal that rises with b
    series[800.0].array[1, 2, 5] = 3.0
    series[400.0].array[1, 2, 6] = 0.0
    fit = fit_diffusion(series)
    found = [FitProblem(fit.problems.array[1, 2, x]) for x in (3, 4, 5, 6)]
    assert found == [
        FitProblem.NOT_MONO_EXPONENTIAL,
        FitProblem.AT_LIMIT,
        FitProblem.NOISE,
        FitProblem.NO_SIGNAL,
    ]
    assert fit.residual.array[1, 2, 3] > 0.1
    inside = np.zeros(GRID.shape, bool)
    inside[1, 2, 3:7] = True
    assert fit.shares(inside) == {problem.words: 0.25 for problem in FitProblem if problem}


def test_noise_is_measured_where_the_background_was_removed():
    rng = np.random.default_rng(0)
    grid = Geometry((64, 64, 4), (2.0, 2.0, 4.0))
    body = np.zeros(grid.shape, bool)
    body[:, 16:48, 16:48] = True
    series = {}
    for b in (50.0, 400.0, 800.0):
        pure = np.where(body, 900 * np.exp(-b * 1.5e-3), 0.0)
        pure[:, 20:24, 20:24] = 1.0  # no signal but noise
        noisy = np.hypot(pure + rng.normal(0, 20, grid.shape), rng.normal(0, 20, grid.shape))
        series[b] = Volume(np.where(body, noisy, 0).astype(np.float32), grid)
    fit = fit_diffusion(series)
    marked = fit.problems.array == FitProblem.NOISE
    assert marked[:, 20:24, 20:24].mean() > 0.9
    assert marked[body].mean() < 0.1
    smooth = {
        b: volume.with_array(np.full_like(volume.array, 900 * np.exp(-b * 1.5e-3))) for b, volume in series.items()
    }
    assert fit_diffusion(smooth).notes[-1].text.startswith("The noise could not be measured")


def test_residual_by_hand():
    by_b = {
        b: Volume(np.full(GRID.shape, s, np.float32), GRID) for b, s in ((0.0, 100.0), (500.0, 50.0), (1000.0, 40.0))
    }
    by_b = {b + 100: volume for b, volume in by_b.items()}
    logs = np.log([100.0, 50.0, 40.0])
    slope = -(logs[2] - logs[0]) / 1000
    base = np.exp(logs.mean() + slope * 600)
    fitted = base * np.exp(-slope * np.array([100, 600, 1100]))
    expected = np.sqrt(((fitted - [100, 50, 40]) ** 2).mean()) / fitted[0]
    assert fit_diffusion(by_b).residual.array[0, 0, 0] == pytest.approx(expected, rel=1e-4)


def test_two_b_values_leave_a_residual_only_where_adc_is_cut():
    falling, rising = np.full(GRID.shape, 40.0, np.float32), np.full(GRID.shape, 150.0, np.float32)
    first = Volume(np.full(GRID.shape, 100.0, np.float32), GRID)
    assert fit_diffusion({50.0: first, 1000.0: Volume(falling, GRID)}).residual.array.max() < 1e-5
    assert fit_diffusion({50.0: first, 1000.0: Volume(rising, GRID)}).residual.array.min() > 0.1


def test_b_0_is_left_out_where_two_others_remain_and_two_leave_no_residual():
    fit = fit_diffusion(a_series((0.0, 50.0, 800.0)))
    assert fit.b_values == (50.0, 800.0)
    assert "b 0 was left out" in fit.notes[0].text
    assert "no residual" in fit.notes[1].text


def test_a_series_of_one_b_value_or_of_two_grids_is_refused():
    with pytest.raises(ImageError, match="two b values 200"):
        fit_diffusion(a_series((50.0, 100.0)))
    series = a_series()
    series[800.0] = Volume(series[800.0].array, Geometry(GRID.size, GRID.spacing_mm, (9.0, 0.0, 0.0)))
    with pytest.raises(GeometryError):
        fit_diffusion(series)


def test_b_values_that_signal_rises_with_are_noted():
    exchanged = dict(zip(B, reversed(a_series().values()), strict=True))
    assert any("signal rises from b 50 to b 400" in note.text for note in fit_diffusion(exchanged).notes)


def test_a_b_value_beyond_what_scanners_measure_is_refused():
    with pytest.raises(ImageError, match=r"must be at most 5000 s/mm², but one is 1e\+06"):
        fit_diffusion(a_series((50.0, 400.0, 1e6)))


def test_a_mask_without_a_voxel_has_no_shares():
    with pytest.raises(GeometryError, match="must mark voxels of the diffusion images, but marks none"):
        fit_diffusion(a_series()).shares(np.zeros(GRID.shape, bool))


@pytest.mark.parametrize(("keyword", "words"), [("PatientID", "two patients"), ("StudyInstanceUID", "two studies")])
def test_b_values_of_two_exams_are_refused(tmp_path, keyword, words):
    kind = ("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")
    for number, (b, volume) in enumerate(a_series().items(), start=1):
        tags = {"DiffusionBValue": b} | ({keyword: "1.2.9"} if b == 800 else {})
        series = DicomSeries(volume.array, f"dwi b{b:g}", number, kind, "EP", orientation=AXIAL, tags=tags)
        series.write(tmp_path / f"b{b:g}")
    with pytest.raises(MixedExamsError, match=f"must belong to one exam, but series 1 .* are of {words}"):
        read_diffusion(tmp_path)


def test_b_values_are_read_from_several_dicom_series(tmp_path):
    kind = ("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")
    for number, (b, volume) in enumerate(a_series().items(), start=1):
        series = DicomSeries(volume.array, f"dwi b{b:g}", number, kind, "EP", orientation=AXIAL)
        series.tags["DiffusionBValue"] = b
        series.write(tmp_path / f"b{b:g}")
    found, notes = read_diffusion(tmp_path)
    assert list(found) == [50.0, 400.0, 800.0]
    assert [note.text for note in notes] == [
        "Several series were taken together: series 1 (4 images), series 2 (4 images), series 3 (4 images)."
    ]
    np.testing.assert_allclose(fit_diffusion(found).adc.array, an_adc(), rtol=0.02)  # stored as whole numbers


def test_the_command_writes_adc_residual_problems_and_the_b_values_asked_for(tmp_path, capsys):
    kind = ("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")
    for number, (b, volume) in enumerate(a_series().items(), start=1):
        tags = {"DiffusionBValue": b}
        series = DicomSeries(volume.array, f"dwi b{b:g}", number, kind, "EP", orientation=AXIAL, tags=tags)
        series.write(tmp_path / "exam" / f"b{b:g}")
    out = tmp_path / "out"
    assert main(["diffusion", str(tmp_path / "exam"), "--b", "1500", "-o", str(out)]) == 0
    assert "fitted: b 50, 400, 800 s/mm²" in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {
        "adc.nii.gz",
        "residual.nii.gz",
        "fit-problems.nii.gz",
        "b1500-computed.nii.gz",
        "diffusion.json",
    }
    record = json.loads((out / "diffusion.json").read_text(encoding="utf-8"))
    assert record["b_values"] == [50, 400, 800]
    assert main(["diffusion", str(tmp_path / "exam"), "--b", "99999", "-o", str(tmp_path / "no")]) == 1
    assert not (tmp_path / "no").exists()


@pytest.fixture
def a_file(tmp_path):
    """A 4D file of diffusion with its b values."""
    series = sitk.JoinSeries([volume.to_sitk() for volume in a_series().values()])
    sitk.WriteImage(series, str(tmp_path / "dwi.nii.gz"))
    (tmp_path / "dwi.bval").write_text("50 400 800", "utf-8")
    return tmp_path / "dwi.nii.gz"


@pytest.mark.parametrize(("value", "origin_mm", "words"), [(0, 0.0, "but is empty"), (1, 500.0, "but marks none")])
def test_a_mask_that_marks_nothing_of_the_image_is_refused(a_file, tmp_path, capsys, value, origin_mm, words):
    grid = Geometry(GRID.size, GRID.spacing_mm, (origin_mm, 0.0, 0.0))
    write_volume(Volume(np.full(GRID.shape, value, np.uint8), grid), tmp_path / "gland.nii.gz")
    command = ["diffusion", str(a_file), "--gland", str(tmp_path / "gland.nii.gz"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_inside_of_the_series_is_refused(tmp_path, capsys):
    exam = tmp_path / "exam"
    DicomSeries(a_series()[50.0].array, "dwi", 1).write(exam)
    before = sorted(exam.iterdir())
    assert main(["diffusion", str(exam), "-o", str(exam / "out")]) == 1
    assert "exam" in capsys.readouterr().err
    assert sorted(exam.iterdir()) == before


def test_the_real_exams_fit_agrees_with_the_scanners_map(shared_data):
    from VFMTransferLib.io import read_volume

    folder = shared_data / "cases" / "ProstateX-0000"
    fit = fit_diffusion(read_diffusion(folder / "dwi.nii.gz")[0])
    scanner = read_volume(folder / "adc.nii.gz", "adc").resample_to(fit.adc.geometry).array
    gland = read_volume(folder / "gland_taps.nii.gz", "gland").resample_to(fit.adc.geometry, "nearest").array > 0
    assert np.median(np.abs(fit.adc.array[gland] - scanner[gland])) < 60  # 1e-6 mm²/s
