"""The study's results beside a run, where there are any."""

import pytest
import slicer_scenes  # noqa: F401  (makes the module importable)

from VFMTransferLib.tasks import TASKS
from VFMTransferSlicer.results.numbers import transferNote

HEAD = "encoder,task,metric,rpg_percent,rpg_low,rpg_high,d2p\n"
ANATOMY = "anatomy-segmentation"


def test_nothing_is_said_where_there_is_no_study(tmp_path):
    assert transferNote("profound", ANATOMY, tmp_path / "summary.csv") == ""


def test_the_row_of_encoder_and_task_becomes_a_sentence(tmp_path):
    summary = tmp_path / "summary.csv"
    summary.write_text(
        f"{HEAD}profound,lesion-segmentation,dice,1,0,2,0.1\nprofound,anatomy-segmentation,dice,4.26,1,7.5,0.1\n",
        encoding="utf-8",
    )
    assert transferNote("profound", ANATOMY, summary) == (
        "In this project's transfer study of small networks, starting ProFound from pretrained weights changed the "
        "Dice of anatomy segmentation on phantoms by +4.3 % (95 % interval 1.0 to 7.5 %); above 0 is better."
    )
    assert transferNote("provicnet", ANATOMY, summary) == ""


def test_each_pretraining_of_the_encoder_is_named_but_one_without_a_gain(tmp_path):
    rows = [
        "profound-mae,anatomy-segmentation,dice,0.31,-1,2,0.1",
        "profound-contrastive,anatomy-segmentation,dice,,,,0.1",
        "profound-synthetic,anatomy-segmentation,dice,3.14,1.3,5.1,0.1",
        "provicnet-mae,anatomy-segmentation,dice,9,8,10,0.1",
    ]
    (tmp_path / "summary.csv").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    note = transferNote("profound", ANATOMY, tmp_path / "summary.csv")
    assert note.endswith(
        "changed the Dice of anatomy segmentation on phantoms by +0.3 % (95 % interval -1.0 to 2.0 %) with mae, +3.1 % "
        "(95 % interval 1.3 to 5.1 %) with synthetic; above 0 is better."
    )
    (tmp_path / "summary.csv").write_text(HEAD + rows[1] + "\n", encoding="utf-8")
    assert transferNote("profound", ANATOMY, tmp_path / "summary.csv") == ""


@pytest.mark.parametrize("encoder", ["profound", "provicnet"])
@pytest.mark.parametrize("task", TASKS)
def test_the_shipped_study_has_a_note_or_none_of_every_encoder_and_task(encoder, task):
    note = transferNote(encoder, task)
    assert note == "" or TASKS[task].title.lower() in note


def test_what_was_not_measured_is_left_out(tmp_path):
    (tmp_path / "summary.csv").write_text(f"{HEAD}profound,anatomy-segmentation,dice,-2,,,0.1\n", encoding="utf-8")
    note = transferNote("profound", ANATOMY, tmp_path / "summary.csv")
    assert note.endswith("changed the Dice of anatomy segmentation on phantoms by -2.0 %; above 0 is better.")


def test_a_gain_of_hundredths_of_a_percent_is_no_zero(tmp_path):
    (tmp_path / "summary.csv").write_text(f"{HEAD}profound,{ANATOMY},dice,0.14,0.02,0.3,0.1\n", encoding="utf-8")
    note = transferNote("profound", ANATOMY, tmp_path / "summary.csv")
    assert "by +0.14 % (95 % interval 0.02 to 0.30 %);" in note


def test_a_summary_without_its_columns_is_told(tmp_path):
    (tmp_path / "summary.csv").write_text("encoder,task\nprofound,anatomy-segmentation\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must have the columns metric, rpg_high, rpg_low, rpg_percent, but"):
        transferNote("profound", ANATOMY, tmp_path / "summary.csv")
