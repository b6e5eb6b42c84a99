"""Images that a program made from DICOM files: what those state of them, and results of them as DICOM."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from dicom_series import AXIAL, CORONAL, DicomSeries

from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import AmbiguousInputError, MixedExamsError
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.io import read_case
from VFMTransferLib.io.cases import ExportedImage, read_exported_case
from VFMTransferLib.io.results import read_result, save_result
from VFMTransferLib.worker.jobs import read_images
from VFMTransferLib.worker.messages import DicomFiles, Exported, Grid, ImageFile

VOXELS = np.random.default_rng(0).integers(100, 900, (6, 30, 40)).astype(float)
FRAME = {"FrameOfReferenceUID": "1.2.3", "InPlanePhaseEncodingDirection": "COL", "AccessionNumber": "ACC-99"}


def write_exam(folder: Path, **more) -> Path:
    """T2w in two planes, and diffusion of three b values; all that a scanner writes."""
    DicomSeries(VOXELS, "t2_tse_tra", 1, orientation=AXIAL, tags=FRAME, **more).write(folder / "t2")
    DicomSeries(VOXELS, "t2_tse_cor", 2, orientation=CORONAL, tags=FRAME).write(folder / "cor")
    kind = ("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")
    for number, b in enumerate((50, 400, 1400), start=3):
        tags = {**FRAME, "DiffusionBValue": float(b)}
        series = DicomSeries(VOXELS / (1 + b / 800) + number, f"dwi b{b}", number, kind, "EP", orientation=AXIAL)
        series.tags = tags
        series.write(folder / f"b{b}")
    return folder


def files_in(folder: Path) -> tuple[str, ...]:
    return tuple(str(file) for file in sorted(folder.rglob("*.dcm")))


def exported(volume: Volume, folder: Path, name: str) -> ImageFile:
    np.save(folder / f"{name}.npy", volume.array)
    grid = volume.geometry
    return ImageFile(f"{name}.npy", Grid(grid.size, grid.spacing_mm, grid.origin_mm, grid.direction))


def an_export(exam: Path, folder: Path) -> tuple[Exported, dict[Sequence, Volume]]:
    """What Slicer writes of an exam that it loaded from DICOM."""
    folder.mkdir()
    case = read_case(exam)
    images = {sequence: exported(volume, folder, sequence) for sequence, volume in case.volumes.items()}
    files = {Sequence.T2W: files_in(exam / "t2")[::-1], Sequence.HBV: files_in(exam / "b1400")}
    others = (*files_in(exam / "cor"), *files_in(exam / "b50"), *files_in(exam / "b400"))
    return Exported(images, dicom=DicomFiles(files, others)), case.volumes


def test_what_files_state_is_known_as_if_they_had_been_read(tmp_path):
    exam = write_exam(tmp_path / "exam")
    given, _ = an_export(exam, tmp_path / "job")
    case, expected = read_images("study", tmp_path / "job", given), read_case(exam)
    assert case.acquisitions == expected.acquisitions
    assert case.acquisitions[Sequence.HBV].phase_axis == "anterior-posterior"
    assert case.acquisitions[Sequence.HBV].b_values == (50.0, 400.0, 1400.0)
    assert case.acquisitions[Sequence.T2W].other_planes == ("coronal",)
    assert case.files == expected.files  # in the order of the slices, whatever the order they were given in


def test_slices_that_a_program_stacked_the_other_way_are_in_its_order(tmp_path):
    exam = write_exam(tmp_path / "exam")
    volume = read_case(exam)["t2w"]
    grid = volume.geometry
    axes = np.reshape(grid.direction, (3, 3)) * [1, 1, -1]
    last = tuple(grid.to_world((0, 0, grid.size[2] - 1)).tolist())
    turned = Volume(volume.array[::-1], replace(grid, origin_mm=last, direction=tuple(axes.ravel().tolist())))
    np.save(tmp_path / "t2w.npy", turned.array)
    image = ExportedImage(tmp_path / "t2w.npy", turned.geometry)
    files = [Path(name) for name in files_in(exam / "t2")]
    case = read_exported_case("study", {Sequence.T2W: image}, files={Sequence.T2W: files})
    assert case.files[Sequence.T2W] == tuple(files[::-1])


def test_an_image_that_was_moved_is_not_that_of_its_files_and_a_note_says_so(tmp_path):
    exam = write_exam(tmp_path / "exam")
    given, _ = an_export(exam, tmp_path / "job")
    image = given.images[Sequence.T2W]
    moved = replace(image, grid=replace(image.grid, origin_mm=tuple(np.add(image.grid.origin_mm, (2.0, 0.0, 0.0)))))
    case = read_images("study", tmp_path / "job", replace(given, images={**given.images, Sequence.T2W: moved}))
    assert Sequence.T2W not in case.files
    assert any("t2w does not lie where its DICOM files state" in note.text for note in case.notes)
    assert case.acquisitions[Sequence.T2W].phase_axis == "anterior-posterior"  # which a shift does not change


def test_images_of_two_patients_are_refused_and_two_frames_of_reference_noted(tmp_path):
    exam = write_exam(tmp_path / "exam")
    given, _ = an_export(exam, tmp_path / "job")
    for keyword, value in (("FrameOfReferenceUID", "9.9"), ("PatientID", "somebody else")):
        import pydicom

        for file in files_in(exam / "b1400"):
            dataset = pydicom.dcmread(file)
            setattr(dataset, keyword, value)
            dataset.save_as(file)
        if keyword == "PatientID":
            with pytest.raises(MixedExamsError, match="must belong to one exam, but t2w and hbv are of two patients"):
                read_images("study", tmp_path / "job", given)
        else:
            notes = read_images("study", tmp_path / "job", given).notes
            assert any("t2w and hbv are of two frames of reference" in note.text for note in notes)


def test_files_that_are_gone_leave_the_images_usable(tmp_path):
    exam = write_exam(tmp_path / "exam")
    given, volumes = an_export(exam, tmp_path / "job")
    shutil.rmtree(exam)
    case = read_images("study", tmp_path / "job", given)
    assert case.files == {}
    assert any("DICOM files of t2w cannot be read any more" in note.text for note in case.notes)
    np.testing.assert_array_equal(case["t2w"].array, volumes[Sequence.T2W].array)


def test_quality_of_exported_images_knows_what_dicom_states(tmp_path, capsys):
    exam = write_exam(tmp_path / "exam")
    given, _ = an_export(exam, tmp_path / "job")
    (tmp_path / "job" / "case.json").write_text(json.dumps(asdict(given)), "utf-8")
    assert main(["quality", "--exported", str(tmp_path / "job" / "case.json"), "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["quality"]}
    assert main(["quality", str(exam), "--json"]) == 0
    assert found == {row["name"]: row for row in json.loads(capsys.readouterr().out)["quality"]}
    assert (found["dwi-high-b"]["value"], found["t2w-other-planes"]["text"]) == (1400.0, "coronal")


def test_a_series_is_fitted_from_exported_images(tmp_path, capsys):
    exam = write_exam(tmp_path / "exam")
    (tmp_path / "job").mkdir()
    volumes = {b: read_case(hbv=exam / f"b{b}")["hbv"] for b in (50, 400, 1400)}
    series = {f"{b:g}": exported(volume, tmp_path / "job", f"b{b}") for b, volume in volumes.items()}
    (tmp_path / "job" / "case.json").write_text(json.dumps(asdict(Exported({}, series=series))), "utf-8")
    command = ["diffusion", "--exported", str(tmp_path / "job" / "case.json"), "--b", "1500", "--json"]
    assert main([*command, "-o", str(tmp_path / "fit")]) == 0
    assert json.loads(capsys.readouterr().out)["b_values"] == [50.0, 400.0, 1400.0]
    assert (tmp_path / "fit" / "b1500-computed.nii.gz").is_file()
    empty = volumes[50].with_array(np.zeros(volumes[50].array.shape, np.uint8))
    given = Exported({}, series=series, gland=exported(empty, tmp_path / "job", "gland"))
    (tmp_path / "job" / "case.json").write_text(json.dumps(asdict(given)), "utf-8")
    assert main([*command, "-o", str(tmp_path / "none")]) == 1
    assert "'gland' must mark the prostate, but is empty" in capsys.readouterr().err


def a_result(volume: Volume) -> Result:
    array = np.zeros(volume.geometry.shape, np.uint8)
    array[1:4, 8:20, 10:30] = 1
    source = Provenance(
        "a-bundle",
        "A network",
        "pretrained",
        "0" * 64,
        "onnx",
        "cpu",
        versions={"vfm-transfer": "1"},
        caveats=(Note("network-caveat", "A guess."),),
    )
    return Result("study", "anatomy-segmentation", source, {"prostate": 1}, volume.with_array(array))


def test_a_result_is_read_back_as_it_was_saved(tmp_path):
    exam = write_exam(tmp_path / "exam")
    volume = read_case(exam)["t2w"]
    result = replace(a_result(volume), images={"t2w-super-resolved": volume})
    save_result(result, tmp_path / "out")
    found = read_result(tmp_path / "out")
    np.testing.assert_array_equal(found.labels.array, result.labels.array)
    np.testing.assert_allclose(found.images["t2w-super-resolved"].array, volume.array)
    assert (found.label_values, found.provenance.bundle) == (result.label_values, "a-bundle")


def test_earlier_results_are_written_as_dicom(tmp_path, capsys):
    hd = pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    given, volumes = an_export(exam, tmp_path / "job")
    (tmp_path / "job" / "case.json").write_text(json.dumps(asdict(given)), "utf-8")
    result = a_result(volumes[Sequence.T2W])
    for name in ("0-a", "1-b"):
        save_result(result, tmp_path / name)
    folders = [str(tmp_path / "0-a"), str(tmp_path / "1-b")]
    assert main(["dicom", *folders, "--exam", str(exam), "-o", str(tmp_path / "by-exam"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["0-a/segmentation.dcm", "1-b/segmentation.dcm"]
    exported_file = str(tmp_path / "job" / "case.json")
    assert main(["dicom", folders[0], "--exported", exported_file, "-o", str(tmp_path / "by-files")]) == 0
    shown = capsys.readouterr()
    assert "ACC-99" not in shown.out + shown.err
    counts = [
        hd.seg.segread(file).get_volume(combine_segments=True).array.astype(bool).sum()
        for file in (tmp_path / "by-exam" / "0-a" / "segmentation.dcm", tmp_path / "by-files" / "segmentation.dcm")
    ]
    assert counts == [int(result.labels.array.sum())] * 2


def test_dicom_reads_of_an_exam_what_the_results_need(tmp_path):
    pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    save_result(a_result(read_case(exam)["t2w"]), tmp_path / "result")
    kind = ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")
    for number in (8, 9):
        series = DicomSeries(VOXELS + number, f"ADC {number}", number, kind, "EP", orientation=AXIAL, tags=FRAME)
        series.write(exam / f"adc{number}")
    with pytest.raises(AmbiguousInputError):
        read_case(exam)
    assert main(["dicom", str(tmp_path / "result"), "--exam", str(exam), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "segmentation.dcm").is_file()


def test_results_of_exams_that_were_mixed_as_asked_are_written_as_asked(tmp_path, capsys):
    pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    kind, elsewhere = ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), {**FRAME, "FrameOfReferenceUID": "1.2.9"}
    DicomSeries(VOXELS + 800, "ADC", 9, kind, "EP", orientation=AXIAL, tags=elsewhere).write(exam / "adc")
    save_result(a_result(read_case(exam, allow_mixed_exams=True)["t2w"]), tmp_path / "result")
    command = ["dicom", str(tmp_path / "result"), "--exam", str(exam), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    assert "add --allow-mixed-exams" in capsys.readouterr().err
    assert main([*command, "--allow-mixed-exams"]) == 0
    assert (tmp_path / "out" / "segmentation.dcm").is_file()


def test_dicom_of_images_that_were_moved_is_refused_and_nothing_is_written(tmp_path, capsys):
    pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    given, volumes = an_export(exam, tmp_path / "job")
    image = given.images[Sequence.T2W]
    moved = replace(image, grid=replace(image.grid, origin_mm=tuple(np.add(image.grid.origin_mm, (2.0, 0.0, 0.0)))))
    given = replace(given, images={**given.images, Sequence.T2W: moved})
    (tmp_path / "job" / "case.json").write_text(json.dumps(asdict(given)), "utf-8")
    save_result(a_result(volumes[Sequence.T2W]), tmp_path / "result")
    command = ["dicom", str(tmp_path / "result"), "--exported", str(tmp_path / "job" / "case.json")]
    assert main([*command, "-o", str(tmp_path / "out")]) == 1
    assert "t2w does not lie where its DICOM files state" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_in_folders_of_one_name_are_refused(tmp_path, capsys):
    pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    result = a_result(read_case(exam)["t2w"])
    for run in ("one", "two"):
        save_result(result, tmp_path / run / "a")
    folders = [str(tmp_path / run / "a") for run in ("one", "two")]
    with pytest.raises(SystemExit):
        main(["dicom", *folders, "--exam", str(exam), "-o", str(tmp_path / "out")])
    assert "must be in folders of different names" in capsys.readouterr().err


def test_results_named_by_dots_get_folders_inside_of_the_output(tmp_path, monkeypatch, capsys):
    pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    result = a_result(read_case(exam)["t2w"])
    for name in ("a", "b"):
        save_result(result, tmp_path / name)
    (tmp_path / "a" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "below")
    assert main(["dicom", "..", "../../b", "--exam", str(exam), "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["a/segmentation.dcm", "b/segmentation.dcm"]


def test_dicom_inside_of_the_exam_is_refused(tmp_path, capsys):
    pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    save_result(a_result(read_case(exam)["t2w"]), tmp_path / "result")
    before = sorted(exam.iterdir())
    assert main(["dicom", str(tmp_path / "result"), "--exam", str(exam), "-o", str(exam / "out")]) == 1
    assert "exam" in capsys.readouterr().err
    assert sorted(exam.iterdir()) == before


def test_a_folder_that_is_no_result_is_refused(tmp_path, capsys):
    pytest.importorskip("highdicom")
    exam = write_exam(tmp_path / "exam")
    assert main(["dicom", str(exam), "--exam", str(exam), "-o", str(tmp_path / "out")]) == 1
    assert "'exam' must be a folder of results" in capsys.readouterr().err
