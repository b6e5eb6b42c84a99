"""The study's results beside a run, where there are any."""

import pytest
import slicer_scenes  # noqa: F401  (makes the module importable)

from VFMTransferSlicer.results.numbers import transferNote

HEAD = "encoder,task,metric,rpg_percent,rpg_low,rpg_high,d2p,device_hours_saved\n"
ANATOMY = "anatomy-segmentation"


def test_nothing_is_said_where_there_is_no_study(tmp_path):
    assert transferNote("profound", ANATOMY, tmp_path / "summary.csv") == ""


def test_the_row_of_encoder_and_task_becomes_a_sentence(tmp_path):
    summary = tmp_path / "summary.csv"
    summary.write_text(
        f"{HEAD}profound,lesion-segmentation,dice,1,0,2,0.1,1\nprofound,anatomy-segmentation,dice,4.26,1,7.5,0.1,3.04\n",
        encoding="utf-8",
    )
    assert transferNote("profound", ANATOMY, summary) == (
        "In this project's transfer study, starting ProFound from pretrained weights changed the Dice of anatomy "
        "segmentation by +4.3 % (95 % interval 1.0 to 7.5 %); above 0 is better. It saves 3.0 device-hours a "
        "fine-tuning."
    )
    assert transferNote("provicnet", ANATOMY, summary) == ""


def test_what_was_not_measured_is_left_out(tmp_path):
    (tmp_path / "summary.csv").write_text(f"{HEAD}profound,anatomy-segmentation,dice,-2,,,0.1,\n", encoding="utf-8")
    note = transferNote("profound", ANATOMY, tmp_path / "summary.csv")
    assert note.endswith("changed the Dice of anatomy segmentation by -2.0 %; above 0 is better.")


def test_a_summary_without_its_columns_is_told(tmp_path):
    (tmp_path / "summary.csv").write_text("encoder,task\nprofound,anatomy-segmentation\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must have the columns device_hours_saved, metric"):
        transferNote("profound", ANATOMY, tmp_path / "summary.csv")
