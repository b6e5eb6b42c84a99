"""The study's results beside a run, where there are any."""

import math
import os
import subprocess
import sys

import pytest
import slicer_scenes  # noqa: F401  (makes the module importable)

from VFMTransferLib.core.errors import DatasetError
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


def test_each_pretraining_of_the_encoder_is_named_but_one_without_a_gain(tmp_path):
    without = a_row("profound-contrastive", (NAN,) * 3)
    rows = [
        a_row("profound-mae", (0.31, -1, 2), arms=(0.8, 0.802)),
        without,
        a_row("profound-synthetic", (3.14, 1.3, 5.1), arms=(0.8, 0.825)),
        a_row("provicnet-mae", (9, 8, 10)),
    ]
    assert (
        "from 0.800 to 0.802 with mae, a gain of +0.3 % (-1.0 to 2.0); 0.800 to 0.825 with synthetic, a "
        "gain of +3.1 % (1.3 to 5.1). Gains"
    ) in note_of(tmp_path, *rows)
    assert note_of(tmp_path, without) == ""


@pytest.mark.parametrize("encoder", ["profound", "provicnet"])
@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_study_has_a_note_of_every_encoder_and_task(encoder, task):
    assert SUMMARY.is_file()
    note = transferNote(encoder, task)
    assert TASKS[task].title.lower() in note
    assert "n/a" not in note


def test_a_measure_with_a_unit_states_it():
    start = "MAE (10⁻⁶ mm²/s) of t2w→adc translation on phantoms, "
    assert transferNote("profound", "adc-translation").lower().startswith(start.lower())
    assert transferNote("profound", "super-resolution").startswith("PSNR (dB) of super-resolution on phantoms, ")


def test_what_was_not_measured_is_left_out(tmp_path):
    note = note_of(tmp_path, a_row("profound", (-2.0, NAN, NAN), arms=(0.8, 0.784)))
    assert "from 0.800 to 0.784, a gain of -2.0 %. Gains" in note


def test_a_gain_of_hundredths_of_a_percent_is_no_zero(tmp_path):
    assert "a gain of +0.14 % (0.02 to 0.30)." in note_of(tmp_path, a_row("profound", (0.14, 0.02, 0.3)))


def test_a_summary_without_its_columns_is_told(tmp_path):
    (tmp_path / "summary.csv").write_text("encoder,task\nprofound,anatomy-segmentation\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"summary.csv must have the columns encoder,task,metric.*, but has enc"):
        transferNote("profound", ANATOMY, tmp_path / "summary.csv")


def test_the_first_note_imports_nothing_for_which_the_window_would_wait():
    code = (
        "import sys, slicer_scenes, VFMTransferSlicer.results.numbers as numbers\n"
        "assert numbers.transferNote('profound', 'anatomy-segmentation')\n"
        "print([name for name in ('scipy.stats', 'scipy.optimize') if name in sys.modules])\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
