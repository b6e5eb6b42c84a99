"""What the module reads of DICOM's database and of diffusion series, and what it needs to write DICOM, on real MRML."""

# ruff: noqa: N802, N815, RUF012  (the names of ctkDICOMDatabase)
import json
from pathlib import Path

import numpy as np
import pytest
from dicom_series import DicomSeries
from images import a_t2w, an_adc, an_hbv
from qt_stand_ins import AnEventLoop
from slicer_runs import a_segmentation_run
from slicer_scenes import a_scene, add_volume, slicer

from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import ImageError, OutputError
from VFMTransferLib.core.measurements import GlandMeasurements
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.io.results import save_result
from VFMTransferLib.worker.messages import DicomFiles, Exported, ImageFile
from VFMTransferSlicer.inputs.dicom import UIDS, dicomFilesOf, phaseAxisOf
from VFMTransferSlicer.inputs.diffusion import exportSeries, loadFit, readBValues, seriesIn
from VFMTransferSlicer.inputs.exporting import EXPORTED, writeExported
from VFMTransferSlicer.logic import CaseJob, newTemporaryFolder
from VFMTransferSlicer.results.dicom import armFolder, armFolders, dicomCommand, whyNoDicom, writeExam
from VFMTransferSlicer.results.nifti import writeNifti
from VFMTransferSlicer.results.record import readRecord, writeRecord
from VFMTransferSlicer.results.scene import loadArm
from VFMTransferSlicer.runs import RunInScene
from VFMTransferSlicer.workers.commands import LibraryCommand

TRANSVERSE = "1\\0\\0\\0\\1\\0"


class ADatabase:
    """Of two series of a study, and a third of EPI; file names are `series-slice`."""

    isOpen = True
    series = {"T2": ("T2-0", "T2-1"), "COR": ("COR-0", "COR-1"), "EPI": ("EPI-0", "EPI-1", "EPI-2"), "SR": ("SR-0",)}
    tags = {"0008,0060": "MR", "0018,1312": "ROW", "0020,0037": TRANSVERSE}

    def fileForInstance(self, instance: str) -> str:
        return "" if instance == "gone" else f"/{instance}"

    def instanceValue(self, instance: str, tag: str) -> str:
        return self.fileValue(f"/{instance}", tag)

    def fileValue(self, file: str, tag: str) -> str:
        if tag == "0008,0060" and file.startswith("/SR"):
            return "SR"
        return "EP\\SE" if tag == "0018,0020" and file.startswith("/EPI") else self.tags.get(tag, "")

    def seriesForFile(self, file: str) -> str:
        return file[1:].partition("-")[0]

    def studyForSeries(self, series: str) -> str:
        return "a study"

    def seriesForStudy(self, study: str) -> tuple[str, ...]:
        return tuple(self.series)

    def filesForSeries(self, series: str) -> tuple[str, ...]:
        return tuple(f"/{name}" for name in self.series[series])


@pytest.fixture
def t2w():
    node = add_volume(a_scene(), a_t2w(), "T2")
    node.SetAttribute(UIDS, "T2-0 T2-1")
    return node


def test_files_are_those_of_the_volume_and_what_tells_of_its_exam(t2w):
    found = dicomFilesOf({Sequence.T2W: t2w, Sequence.ADC: None}, ADatabase())
    assert found.files == {Sequence.T2W: ("/T2-0", "/T2-1")}
    assert found.others == ("/COR-0", "/EPI-0", "/EPI-1", "/EPI-2")  # one slice shows a plane; b values may differ


@pytest.mark.parametrize(
    ("phase", "orientation", "axis"),
    [
        ("ROW", TRANSVERSE, "left-right"),
        ("COL", TRANSVERSE, "anterior-posterior"),
        ("ROW", "0\\1\\0\\-1\\0\\0", "anterior-posterior"),
        ("COL", "1\\0\\0\\0\\0\\-1", ""),  # along the body
        ("", TRANSVERSE, ""),
        ("ROW", "no numbers", ""),
        ("ROW", "", ""),
    ],
)
def test_the_phase_axis_is_the_patients_axis_that_dicom_states(t2w, phase, orientation, axis):
    tags = {"0018,1312": phase, "0020,0037": orientation}
    assert phaseAxisOf(t2w, lambda instance, tag: tags[tag]) == axis
    assert phaseAxisOf(None, lambda instance, tag: tags[tag]) == ""


def a_sequence(values) -> "slicer.vtkMRMLSequenceNode":
    scene = a_scene()
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "DWI")
    if not all(value.replace(".", "").isdigit() for value in values):
        sequence.SetIndexTypeFromString("text")
    for value in values:
        frame = add_volume(scene, an_hbv(), f"frame {value}")
        sequence.SetDataNodeAtValue(frame, value)
        scene.RemoveNode(frame)
    return sequence


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("50", "400", "800"), (50.0, 400.0, 800.0)),
        (("b=50", "b=1400"), (50.0, 1400.0)),
        (("0", "1", "2"), ()),  # numbers of frames
        (("0.5", "1.5"), ()),  # seconds
        (("first", "second"), ()),
    ],
)
def test_a_sequences_b_values_are_those_that_it_states(values, expected):
    found = seriesIn(a_sequence(values))
    assert (found.frames, found.bValues) == (len(values), expected)


def a_multi_volume(labels: str | None = None):
    grid = Geometry((4, 3, 2), (2.0, 2.0, 3.0))
    node = add_volume(a_scene(), Volume(np.zeros(grid.shape, np.float32), grid), "multi")
    vector = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "DWI")
    slicer.util.updateVolumeFromArray(vector, np.stack([np.full(grid.shape, v, np.float32) for v in (9, 4, 1)], -1))
    slicer.mrmlScene.RemoveNode(node)
    if labels:
        vector.SetAttribute("MultiVolume.FrameLabels", labels)
    return vector


def test_frames_are_written_with_their_b_values_and_their_grid(tmp_path):
    for _ in exportSeries(a_multi_volume(), (50.0, 400.0, 800.0), None, None, tmp_path):
        pass
    document = json.loads((tmp_path / EXPORTED).read_text("utf-8"))
    assert list(document["series"]) == ["50", "400", "800"]
    second = document["series"]["400"]
    assert (np.load(tmp_path / second["file"]) == 4).all()
    assert second["grid"]["size"] == [4, 3, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be one a frame, 2 numbers"),
        ("50", "must be one a frame, 2 numbers"),
        ("50 b800", "must be one a frame"),
        ("50 -800", "must be one a frame"),
        ("50 nan", "must be one a frame"),
        ("800 800", "but one repeats"),
    ],
)
def test_b_values_that_are_none_are_refused_in_a_sentence(text, words):
    assert readBValues("50, 800", 2) == (50.0, 800.0)
    with pytest.raises(ImageError, match=words):
        readBValues(text, 2)


def test_fitted_volumes_are_named_after_their_series_and_numbered_only_where_the_name_is_taken(tmp_path):
    series, document = a_multi_volume(), {"files": ["adc.nii.gz", "b1500-computed.nii.gz"]}
    for file in document["files"]:
        writeNifti(tmp_path / file, np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.eye(4))
    names = []
    for _ in range(2):
        loaded = {}
        for _ in loadFit(document, tmp_path, series, loaded):
            pass
        names.append([node.GetName() for node in loaded.values()])
    assert names[0] == ["DWI ADC (fitted)", "DWI b1500 (computed)"]
    assert names[1] == ["DWI ADC (fitted)_1", "DWI b1500 (computed)_1"]


def a_run(t2w) -> RunInScene:
    labels = np.zeros(a_t2w().geometry.shape, np.uint8)
    labels[2:4, 4:8, 4:8] = 1
    return a_segmentation_run(slicer.mrmlScene, t2w, labels, labels)


def test_why_a_run_cannot_be_written_as_dicom_is_a_sentence(t2w, tmp_path):
    assert whyNoDicom(None) == "Run networks first."
    run = a_run(t2w)
    t2w.RemoveAttribute(UIDS)
    assert "loaded from Slicer's DICOM database" in whyNoDicom(run)
    run.dicom = Exported({Sequence.T2W: ImageFile("t2w.nrrd")}, dicom=DicomFiles({Sequence.T2W: ("/a.dcm",)}))
    assert "no longer there" in whyNoDicom(run)
    run.folder = tmp_path
    for folder in armFolders(run, tmp_path):
        folder.mkdir()
    assert whyNoDicom(run) == ""
    command = dicomCommand(run, tmp_path / EXPORTED, tmp_path / "out")
    assert command[:3] == ["dicom", str(tmp_path / "0-net-pretrained"), str(tmp_path / "1-net-scratch")]


class AnExamOnDisk(ADatabase):
    """Of one series, whose instances are called by their numbers."""

    def __init__(self, files: list[Path]) -> None:
        self.series = {"T2": tuple(map(str, files))}

    def fileForInstance(self, instance: str) -> str:
        return self.series["T2"][int(instance)]

    def seriesForFile(self, file: str) -> str:
        return "T2"


@pytest.fixture
def exam(tmp_path, monkeypatch) -> list[Path]:
    """The DICOM files of a T2w, which Slicer's database has."""
    volume = a_t2w()
    axes, grid = np.reshape(volume.geometry.direction, (3, 3)), volume.geometry
    series = DicomSeries(
        volume.array.astype(float),
        "t2_tse_tra",
        orientation=(*axes[:, 0], *axes[:, 1]),
        spacing_mm=grid.spacing_mm,
        origin_mm=grid.origin_mm,
        tags={"FrameOfReferenceUID": "1.2.3.4"},
    )
    files = series.write(tmp_path / "exam")
    monkeypatch.setattr(slicer, "dicomDatabase", AnExamOnDisk(files), raising=False)
    return files


def results_of(task: str) -> list[Result]:
    """What two networks gave for the T2w."""
    volume = a_t2w()
    zones = np.zeros(volume.geometry.shape, np.uint8)
    zones[2:4, 3:8, 3:9], zones[2:4, 4:6, 4:8] = 1, 2
    found = []
    for arm, shift in (("pretrained", 0), ("scratch", 1)):
        source = Provenance(f"net-{arm}", f"A network, {arm}", arm, "0" * 64, "onnx", "cpu")
        if task == "adc-translation":
            adc = volume.with_array(volume.array.astype(np.float32) * 1.5 + shift)
            found.append(Result("study", task, source, images={"adc-synthetic": adc}))
            continue
        values = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}
        labels = volume.with_array(np.roll(zones, shift, axis=2))
        volumes = {
            name: float((labels.array == value).sum() * volume.geometry.voxel_volume_ml)
            for name, value in values.items()
        }
        volumes[str(Label.PROSTATE)] = labels.volume_ml
        gland = GlandMeasurements(14.0, 14.4, 15.0, 1.6, 2.5, "as given")
        found.append(Result("study", task, source, values, labels, volumes_ml=volumes, gland=gland))
    return found


def a_restored_run(exam: list[Path], task: str, folder: Path) -> RunInScene:
    """A run as a saved scene brings it along, whose results lie in a folder, too."""
    scene = a_scene()
    node = add_volume(scene, a_t2w(), "T2")
    node.SetAttribute(UIDS, " ".join(map(str, range(len(exam)))))
    arms = []
    for index, result in enumerate(results_of(task)):
        saved = save_result(result, folder / armFolder(index, result.provenance.bundle))
        arms.append(loadArm(saved, {Sequence.T2W: node}, Sequence.T2W))
    writeRecord(RunInScene(task, {Sequence.T2W: node}, node, arms))
    return readRecord(scene)


def written_for_dicom(run: RunInScene, folder: Path) -> list[str]:
    """The arguments of the command, after its inputs were written."""
    folder.mkdir()
    for _ in writeExam(run, folder):
        pass
    return list(dicomCommand(run, folder / EXPORTED, folder / "out"))


@pytest.mark.parametrize("task", ["anatomy-segmentation", "adc-translation"])
def test_a_run_of_a_saved_scene_is_written_as_the_run_itself(exam, task, tmp_path, capsys):
    pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'vfm-transfer[dicom]'.")
    import pydicom

    run = a_restored_run(exam, task, tmp_path / "results")
    assert whyNoDicom(run) == ""
    assert main(written_for_dicom(run, tmp_path / "restored")) == 0
    direct = [str(folder) for folder in armFolders(run, tmp_path / "results")]
    assert main(["dicom", *direct, "--exam", str(tmp_path / "exam"), "-o", str(tmp_path / "direct")]) == 0
    files = sorted(file.relative_to(tmp_path / "direct") for file in (tmp_path / "direct").rglob("*.dcm"))
    written = tmp_path / "restored" / "out"
    assert files == sorted(file.relative_to(written) for file in written.rglob("*.dcm"))
    assert files
    for file in files:
        own, other = (pydicom.dcmread(folder / file) for folder in (written, tmp_path / "direct"))
        assert own.StudyInstanceUID == other.StudyInstanceUID
        for pixels in ("PixelData", "FloatPixelData"):
            assert own.get(pixels) == other.get(pixels)


def test_segments_that_were_changed_since_are_not_written_as_the_networks(exam, tmp_path):
    run = a_restored_run(exam, "anatomy-segmentation", tmp_path / "results")
    run.arms[1].segmentation.GetSegmentation().RemoveSegment(str(Label.TRANSITION_ZONE))
    with pytest.raises(OutputError, match="was changed since the network gave it"):
        written_for_dicom(run, tmp_path / "changed")
    images = a_restored_run(exam, "adc-translation", tmp_path / "images")
    slicer.mrmlScene.RemoveNode(images.arms[0].images["adc-synthetic"])
    with pytest.raises(OutputError, match="no longer whole in the scene"):
        written_for_dicom(images, tmp_path / "gone")


def test_a_jobs_request_names_files_and_axis_and_results_stay_for_dicom(t2w, monkeypatch):
    monkeypatch.setattr(slicer, "dicomDatabase", ADatabase(), raising=False)
    scene = RunInScene("anatomy-segmentation", {Sequence.T2W: t2w}, t2w)
    job = CaseJob(scene, ("profound-prostate-demo-pretrained",), options=Options(phase_axis="anterior-posterior"))
    for _ in job.prepare():
        pass
    assert job.request.dicom.files == {Sequence.T2W: ("/T2-0", "/T2-1")}
    assert job.request.options.phase_axis == "anterior-posterior"
    arm = a_run(t2w).arms[0]
    scene.arms.append(arm)
    (job.path / f"0-{arm.bundle}").mkdir()
    job.tidy()
    assert whyNoDicom(scene) == ""
    assert not list(job.path.glob("*.npy"))
    job.delete()
    assert "no longer there" in whyNoDicom(scene)


@pytest.fixture
def loop():
    return AnEventLoop()


@pytest.fixture
def command(loop, monkeypatch):
    from types import SimpleNamespace

    app = SimpleNamespace(temporaryPath=str(Path("/tmp")))
    monkeypatch.setattr(slicer, "app", app, raising=False)
    monkeypatch.setattr(slicer.util, "settingsValue", lambda key, default: default, raising=False)
    command = LibraryCommand(lambda step: loop.callLater(0, step), newTemporaryFolder, loop.make_process)
    yield command
    command.cancel()


def test_a_command_gets_its_images_and_gives_its_answer(loop, command, t2w):
    from VFMTransferSlicer.inputs.exporting import exportVolume

    adc = add_volume(slicer.mrmlScene, an_adc(), "ADC")
    found, ends, folders = {}, [], []

    def write(folder):
        images = {Sequence.T2W: exportVolume(t2w, folder, "t2w"), Sequence.ADC: exportVolume(adc, folder, "adc")}
        writeExported(Exported(images), folder)
        folders.append(folder)
        yield

    def take(document, folder):
        found.update(document)
        yield

    command.finished.connect(lambda: ends.append("finished"))
    command.failed.connect(lambda sentence, details: ends.append(sentence))
    command.start(write, lambda folder: ["quality", "--exported", str(folder / EXPORTED), "--json"], take)
    assert command.isBusy
    loop.turn_until(lambda: ends)
    assert ends == ["finished"]
    assert {row["name"] for row in found["quality"]} >= {"t2w-field-of-view", "t2w-slices"}
    assert not command.isBusy
    assert not folders[0].exists()


def test_a_command_that_fails_leaves_a_sentence_and_no_folder(loop, command):
    ends, folders = [], []

    def write(folder):
        folders.append(folder)
        yield

    command.failed.connect(lambda sentence, details: ends.append(sentence))
    command.start(write, lambda folder: ["quality", str(folder / "nothing")], lambda document, folder: iter(()))
    loop.turn_until(lambda: ends)
    assert "there is none; check the path" in ends[0]
    assert not folders[0].exists()
