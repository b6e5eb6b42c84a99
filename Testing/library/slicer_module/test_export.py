"""A run as files: whole or not at all, with nothing of the patient in their names, and a reason where it cannot be."""

import csv
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from comparison_cases import anatomy_pair, classification_pair, lesion_pair
from panel_stand_ins import AWidget, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from slicer_results import a_run
from slicer_runs import PERIPHERAL, TRANSITION, a_segmentation_run
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer, vtk

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.terms import RESEARCH_USE
from VFMTransferSlicer.results import export
from VFMTransferSlicer.results.nodes import signSegments

VOXELS = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()

NOW = datetime(2026, 11, 25, 16, 5, 30)
LATER = NOW.replace(second=31)
UMLAUTS = "Größe und Übersicht"


@pytest.fixture
def folder(tmp_path) -> Path:
    """One with spaces and umlauts."""
    folder = tmp_path / UMLAUTS
    folder.mkdir()
    return folder


@pytest.fixture
def about():
    return add_volume(a_scene(), an_oblique_t2w(), "DOE^JANE T2")


@pytest.fixture
def run(tmp_path, about):
    """A compared run whose report is there, with a segmentation of each network."""
    report = tmp_path / "job" / export.REPORT
    report.mkdir(parents=True)
    for name in (export.PAGE, "comparison.png", "comparison.csv", "comparison.json"):
        (report / name).write_text(f"content of {name}", encoding="utf-8")
    run = a_run(*anatomy_pair(), about=about, folder=tmp_path / "job")
    for arm in run.arms:
        arm.segmentation = about.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", f"Of {arm.bundle}")
    return run


@pytest.fixture
def no_folder(folder) -> Path:
    """Where nobody can write, not even the superuser: a file."""
    (folder / "file").touch()
    return folder / "file"


def test_a_proposed_name_says_what_and_when_but_not_who(run):
    assert export.proposedName(run, NOW, ".csv") == "vfm-transfer-anatomy-segmentation-2026-11-25-160530.csv"


def test_the_report_is_saved_as_one_page(run, folder):
    target = folder / "report one.html"
    target.write_text("old", encoding="utf-8")
    export.saveReport(run, target)
    assert target.read_text(encoding="utf-8") == "content of report.html"
    assert [path.name for path in folder.iterdir()] == [target.name]


def test_the_report_is_saved_as_a_folder_with_its_tables(run, folder):
    export.saveReport(run, folder / "report")
    names = {path.name for path in (folder / "report").iterdir()}
    assert names == {"report.html", "comparison.png", "comparison.csv", "comparison.json"}
    with pytest.raises(OutputError, match="'report' must not exist yet"):
        export.saveReport(run, folder / "report")


def test_a_report_that_cannot_be_says_why(run):
    assert export.whyNoReport(None) == "Run networks first."
    assert export.whyNoReport(a_run(anatomy_pair()[0])).startswith("The report needs both networks.")
    assert export.whyNoReport(run) == ""
    run.folder = None
    assert export.whyNoReport(run) == "The report of this run is no longer there. Run again."
    with pytest.raises(OutputError, match="no longer there"):
        export.saveReport(run, Path("nowhere.html"))


def test_the_numbers_are_saved_with_where_they_come_from(run, folder):
    export.saveNumbers(run, folder / "Zahlen.csv")
    text = (folder / "Zahlen.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(text.decode("utf-8-sig").splitlines()))
    dice = next(row for row in rows if row["measure"] == "dice" and row["subject"] == "prostate")
    assert (dice["between"], dice["task"]) == ("a-b", "anatomy-segmentation")
    known = {(row["between"], row["measure"]): row["value"] for row in rows if row["subject"] == "provenance"}
    assert known["a", "bundle"] == "anatomy-pretrained"
    assert known["b", "sha256"] == "0123456789abcdef" * 4
    assert known["a", "version of onnxruntime"] == "1.32.0"
    assert known["b", "time to network"] == "1.250"
    assert known["", "research use"] == RESEARCH_USE
    assert "DOE" not in text.decode("utf-8-sig")


@pytest.mark.parametrize("results", [anatomy_pair()[:1], lesion_pair(), classification_pair()])
def test_the_numbers_of_every_task_and_of_one_network_can_be_saved(results, folder):
    export.saveNumbers(a_run(*results), folder / "numbers.csv")
    assert (folder / "numbers.csv").stat().st_size > 500
    assert export.whyNoNumbers(None) == "Run networks first."


def test_the_numbers_state_the_operating_point(folder):
    results = [replace(one, provenance=replace(one.provenance, min_confidence=0.62)) for one in lesion_pair()]
    export.saveNumbers(a_run(*results), folder / "numbers.csv")
    with (folder / "numbers.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows if row["measure"] == "min confidence"] == ["0.62", "0.62"]


def test_a_scene_is_saved_whole_in_place_of_the_old_one(folder):
    def save(path: str) -> bool:
        Path(path).write_text("new", encoding="utf-8")
        return True

    (folder / "scene.mrb").write_text("old", encoding="utf-8")
    export.saveScene(folder / "scene.mrb", save)
    assert (folder / "scene.mrb").read_text(encoding="utf-8") == "new"
    assert len(list(folder.iterdir())) == 1


def test_a_scene_that_slicer_cannot_save_leaves_the_old_one(folder):
    def save(path: str) -> bool:
        Path(path).write_text("half", encoding="utf-8")
        return False

    (folder / "scene.mrb").write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match=r"could not save the scene as 'scene\.mrb'"):
        export.saveScene(folder / "scene.mrb", save)
    assert (folder / "scene.mrb").read_text(encoding="utf-8") == "old"
    assert len(list(folder.iterdir())) == 1


class AnExporter:
    """Stands for Slicer's exporter, which needs dcmqi."""

    calls: tuple = ()

    def __init__(self, node, creator: str) -> None:
        self.node, self.creator = node, creator

    def export(self, outputDirectory, segFileName, metadata, *, skipEmpty):  # noqa: N803  (Slicer's names)
        AnExporter.calls += ((self.node.GetName(), segFileName, metadata, skipEmpty),)
        (Path(outputDirectory) / segFileName).write_bytes(b"DICM")

    def cleanup(self) -> None:
        pass


def test_each_network_gets_a_dicom_segmentation_that_says_research_use(run, folder, monkeypatch):
    monkeypatch.setattr(AnExporter, "calls", ())
    written = export.saveSegmentations(run, folder, AnExporter, NOW)
    stem = "vfm-transfer-anatomy-segmentation-2026-11-25-160530"
    assert [path.name for path in written] == [f"{stem}-a.dcm", f"{stem}-b.dcm"]
    assert all(path.read_bytes() == b"DICM" for path in written)
    assert len(list(folder.iterdir())) == 2
    name, _, metadata, skips_empty = AnExporter.calls[0]
    assert (name, skips_empty) == ("Of anatomy-pretrained", True)
    assert metadata["SeriesDescription"] == "Research use only: anatomy-pretrained"


def test_a_segment_that_the_user_edited_is_not_saved_as_the_networks_alone(folder, about):
    labels = np.zeros(an_oblique_t2w().array.shape, np.uint8)
    labels[2:4, 3:8, 3:9], labels[2:4, 4:6, 4:8] = 1, 2
    run = a_segmentation_run(about.GetScene(), about, labels, labels)
    voxel_ml = an_oblique_t2w().geometry.voxel_volume_ml
    volumes = {name: float((labels == value).sum() * voxel_ml) for value, name in ((1, PERIPHERAL), (2, TRANSITION))}
    for arm in run.arms:
        arm.numbers["volumes_ml"] = volumes
        signSegments(arm.segmentation, arm.bundle)
    edited = run.arms[1].segmentation.GetSegmentation().GetSegment(TRANSITION)
    voxels = edited.GetRepresentation(VOXELS).GetPointData().GetScalars()
    before = voxels.GetTuple1(0)
    voxels.SetTuple1(0, 1 - before)
    export.saveSegmentations(run, folder, AnExporter, NOW)
    assert [algorithms_of(arm) for arm in run.arms] == [["AUTOMATIC", "AUTOMATIC"], ["AUTOMATIC", "SEMIAUTOMATIC"]]
    voxels.SetTuple1(0, before)  # the edit is undone
    export.saveSegmentations(run, folder, AnExporter, LATER)
    assert [algorithms_of(arm) for arm in run.arms] == [["AUTOMATIC", "AUTOMATIC"]] * 2


def algorithms_of(arm) -> list[str]:
    """What DICOM SEG states of each segment's author."""
    segmentation, found = arm.segmentation.GetSegmentation(), []
    for name in (PERIPHERAL, TRANSITION):
        text = vtk.reference("")
        segmentation.GetSegment(name).GetTag("DICOM.SegmentAlgorithmType", text)
        found.append(str(text))
    return found


@pytest.fixture
def exports(in_qt, run, folder, monkeypatch):  # noqa: F811
    """The buttons that save, where the user always chooses the folder."""
    from VFMTransferSlicer.panel import results

    sys.modules["qt"].QFileDialog = SimpleNamespace(getExistingDirectory=lambda parent, title: str(folder))
    monkeypatch.setattr(results, "hasSegExporter", lambda: True)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None, raising=False)
    monkeypatch.setattr(slicer.util, "WaitCursor", nullcontext, raising=False)
    plugin = ModuleType("DICOMSegmentationPlugin")
    plugin.DICOMSegmentationExporter = AnExporter
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    buttons = {f"export{kind}Button": AWidget() for kind in ("Report", "Csv", "Scene", "Seg")}
    for button in buttons.values():
        button.toolTip = ""
    ui = SimpleNamespace(**buttons, exportStatusLabel=AWidget())
    exports = results.Exports(ui, SimpleNamespace(lastRun=run, isRunning=False), nullcontext)
    exports.ui = ui
    return exports


def test_the_sentence_names_the_segmentations_that_were_written(exports, run, folder):
    exports.onSegmentations()
    assert exports.ui.exportStatusLabel.text == "Saved the segmentations of A and B."
    run.about.GetScene().RemoveNode(run.arms[0].segmentation)
    exports.onSegmentations()
    assert exports.ui.exportStatusLabel.text == "Saved the segmentation of B."


def test_a_dicom_segmentation_that_fails_leaves_no_other_behind(run, folder):
    class Fails(AnExporter):
        def export(self, *arguments, **options):
            if self.node.GetName() == "Of anatomy-scratch":
                raise RuntimeError("itkimage2segimage failed:\n/home/jane/secret")
            super().export(*arguments, **options)

    with pytest.raises(OutputError, match=r"could not be written as DICOM SEG: itkimage2segimage failed:$"):
        export.saveSegmentations(run, folder, Fails, NOW)
    assert list(folder.iterdir()) == []


def test_a_dicom_segmentation_that_cannot_be_says_why(run, about):
    assert export.whyNoSegmentations(None, True) == "Run networks first."
    assert export.whyNoSegmentations(a_run(*classification_pair(), about=about), True).startswith("This run left no")
    assert "must have been loaded from DICOM" in export.whyNoSegmentations(run, True)
    about.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    assert "needs Slicer 5.12" in export.whyNoSegmentations(run, False)
    assert export.whyNoSegmentations(run, True) == ""


def test_a_place_that_cannot_be_written_is_told_for_each_kind(run, no_folder):
    kinds = {
        "report.html": lambda path: export.saveReport(run, path),
        "report": lambda path: export.saveReport(run, path),
        "numbers.csv": lambda path: export.saveNumbers(run, path),
        "scene.mrb": lambda path: export.saveScene(path, lambda name: True),
        "segmentations": lambda path: export.saveSegmentations(run, path.parent, AnExporter, NOW),
    }
    for name, save in kinds.items():
        with pytest.raises(OutputError, match="Choose a folder"):
            save(no_folder / name)
