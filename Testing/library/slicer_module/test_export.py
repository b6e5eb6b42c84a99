"""A run as files: whole or not at all, with nothing of the patient in their names, and a reason where it cannot be."""

import csv
from pathlib import Path

import pytest
from comparison_cases import anatomy_pair, classification_pair, lesion_pair
from panel_stand_ins import AWidget, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from slicer_results import a_run
from slicer_scenes import a_scene, add_volume, an_oblique_t2w

from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.terms import RESEARCH_USE
from VFMTransferSlicer.results import export

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


def test_a_scene_is_saved_whole_in_place_of_the_old_one(folder):
    def save(path: str) -> bool:
        Path(path).write_text("new", encoding="utf-8")
        return True

    (folder / "scene.mrb").write_text("old", encoding="utf-8")
    export.saveScene(folder / "scene.mrb", save)
    assert (folder / "scene.mrb").read_text(encoding="utf-8") == "new"
    assert len(list(folder.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_told_for_each_kind(run, no_folder):
    kinds = {
        "report.html": lambda path: export.saveReport(run, path),
        "report": lambda path: export.saveReport(run, path),
        "numbers.csv": lambda path: export.saveNumbers(run, path),
        "scene.mrb": lambda path: export.saveScene(path, lambda name: True),
    }
    for name, save in kinds.items():
        with pytest.raises(OutputError, match="Choose a folder"):
            save(no_folder / name)
