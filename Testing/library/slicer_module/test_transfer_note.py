"""The study's results beside a run, where there are any."""

import math

import pytest
import slicer_scenes  # noqa: F401  (makes the module importable)

from VFMTransferLib.study.summary import SummaryRow, write_summary
from VFMTransferLib.tasks import TASKS
from VFMTransferSlicer.results.numbers import SUMMARY, transferNote

ANATOMY = "anatomy-segmentation"
NAN = math.nan


def note_of(folder, *rows, encoder="profound", task=ANATOMY):
    return transferNote(encoder, task, write_summary(rows, folder))


def a_row(encoder, gain, task=ANATOMY, metric="dice", arms=(0.8, 0.834)):
    return SummaryRow(encoder, task, metric, *gain, NAN, NAN, NAN, NAN, NAN, *arms)


def test_nothing_is_said_where_there_is_no_study(tmp_path):
    assert transferNote("profound", ANATOMY, tmp_path / "summary.csv") == ""


def test_the_row_of_encoder_and_task_becomes_a_sentence(tmp_path):
    lesions = a_row("profound", (456.2, 174, 1392), "lesion-segmentation", "average_precision", (0.018, 0.1))
    rows = lesions, a_row("profound", (4.26, 1, 7.5))
    assert note_of(tmp_path, *rows) == (
        "Dice of anatomy segmentation on phantoms, in this project's transfer study of small networks: starting "
        "ProFound from pretrained weights changed it from 0.800 to 0.834, a gain of +4.3 % (1.0 to 7.5). Gains above 0 "
        "are better, in parentheses their 95 % intervals."
    )
    note = note_of(tmp_path, *rows, task="lesion-segmentation")
    assert note.startswith("Average precision of lesion segmentation on phantoms, ")
    assert "from 0.018 to 0.100, a gain of +456.2 % (174.0 to 1392.0)." in note
    assert note_of(tmp_path, *rows, encoder="provicnet") == ""


@pytest.mark.parametrize("encoder", ["profound", "provicnet"])
@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_study_has_a_note_of_every_encoder_and_task(encoder, task):
    assert SUMMARY.is_file()
    note = transferNote(encoder, task)
    assert TASKS[task].title.lower() in note
    assert "n/a" not in note
