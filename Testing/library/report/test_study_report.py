"""The page of a whole study: its numbers are those of the summary, and what is missing or infinite is said."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_examples import a_study
from whole_study import PHANTOMS, a_grid

from VFMTransferLib.cli import main
from VFMTransferLib.report.study_page import conclusion, write_study_report
from VFMTransferLib.study.examples import write_examples
from VFMTransferLib.study.summary import Correlation
from VFMTransferLib.study.tables import CURVES, DISTANCES, METRICS, StudyTables, write_tables
from VFMTransferLib.tasks import TASKS

GRID = a_grid()
ROOT = Path(__file__).parents[3]


def written(tables: StudyTables, folder: Path) -> str:
    write_tables(tables, folder)
    return write_study_report(folder)[1].read_text(encoding="utf-8")


def part(page: str, anchor: str) -> str:
    """One part of the page."""
    return re.search(rf'<section id="{anchor}".*?</section>', page, re.DOTALL).group()


def words(html: str) -> str:
    """Text without tags."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def configuration(shown: Sequence[str] = ("ProstateX-0000",), **changes: Any) -> str:
    """The shipped configuration as YAML, with the one pretraining of each encoder that the grid has."""
    document = yaml.safe_load((ROOT / "Resources" / "Study" / "config.yaml").read_text(encoding="utf-8")) | changes
    for encoder in document["encoders"].values():
        encoder["pretraining"] = encoder.pop("pretrainings")["mae"]
    document["real"]["shown"] = list(shown)
    return yaml.safe_dump(document, sort_keys=False)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def values(html: str) -> list[float]:
    return [float(text) for text in re.findall(r'<data value="([^"]+)"', html)]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("study")
    for task in ("super-resolution", "classification"):
        study = a_study(task)
        write_examples(folder, TASKS[task].baseline, "trivial", [(TASKS[task].naive_baseline([study])(study), study)])
    return written(GRID, folder)


@pytest.fixture(scope="module")
def summary(tmp_path_factory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("study")
    write_tables(GRID, folder)
    return rows_of(write_study_report(folder)[0])


def test_every_number_of_the_summary_is_on_the_page_as_it_is(page, summary):
    places = {
        "matrix": ("rpg_percent", "rpg_low", "rpg_high"),
        "distance": ("d2p", "d2p_low_bandwidth", "d2p_high_bandwidth"),
        "cost": ("convergence_efficiency", "device_hours_saved"),
    }
    assert len(summary) == 12
    for anchor, columns in places.items():
        shown = values(part(page, anchor))
        for row in summary:
            assert all(float(row[column]) in shown for column in columns if row[column])


def test_negative_gains_stay_and_unsure_ones_are_marked(page, summary):
    negative = [float(row["rpg_percent"]) for row in summary if float(row["rpg_percent"]) < 0]
    unsure = sum(float(row["rpg_low"]) <= 0 <= float(row["rpg_high"]) for row in summary if row["rpg_low"])
    assert negative
    assert part(page, "matrix").count("contains 0</span>") == unsure > 0
    assert all(f"−{abs(gain):.1f} %" in words(part(page, "matrix")) for gain in negative)


def test_each_encoders_own_correlation_stands_by_its_points(page):
    text = words(part(page, "relation"))
    assert "over 12 pairs of encoder and task" in text
    assert text.count("over 6 tasks") == 2


def test_it_runs_nothing_and_loads_nothing(page):
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#|https://arxiv\.org)', page)
    assert "default-src 'none'" in page
    assert not re.search(r'<[^>]* style="', page)


def test_a_study_of_one_encoder_without_other_tables_says_what_it_lacks(tmp_path):
    runs = tuple(
        run for run in GRID.runs if run.encoder == "profound" and run.task in ("super-resolution", "classification")
    )
    write_tables(StudyTables(runs), tmp_path)
    for name in (METRICS, CURVES, DISTANCES):
        (tmp_path / name).unlink()
    page = write_study_report(tmp_path)[1].read_text(encoding="utf-8")
    text = words(part(page, "gaps"))
    assert "This study is incomplete" in text
    assert "Not trained: ProViCNet (pretrained, seed 0, 1 and 2; from scratch, seed 0, 1 and 2) on Anatomy" in text
    assert "No naive baseline: Anatomy segmentation" in text
    for anchor, missing in (("distance", "No distance"), ("curves", "No learning curve"), ("real", "No real case")):
        assert missing in words(part(page, anchor))
    assert "12 of 72" in words(page)
    assert "cannot be computed from 0 pairs" in words(part(page, "relation"))
    assert "no interval" in words(part(page, "matrix"))


def test_a_study_is_held_against_its_own_configuration(tmp_path):
    (tmp_path / "config.yaml").write_text(configuration(seeds=[0, 1, 2, 3], labelled_cases=[2]), encoding="utf-8")
    page = written(GRID, tmp_path)
    assert "72 of 96" in words(page)
    assert "Of what its configuration plans something is missing" in words(part(page, "gaps"))
    assert "ProFound (pretrained, seed 3; from scratch, seed 3) on Anatomy segmentation, " in words(part(page, "gaps"))
    assert "DynUNet on Lesion segmentation (seed 3) and ResNet on Classification (seed 3)" in words(part(page, "gaps"))
    few = "ProFound on Anatomy segmentation from 2 labeled phantoms (from scratch, pretrained: seed 0, 1, 2, 3)"
    assert f"No training with few labeled cases: {few}" in words(part(page, "gaps"))


def test_examples_that_the_configuration_no_longer_shows_leave_the_page(tmp_path):
    study = tmp_path / "study"
    write_tables(GRID, study)
    a_case = a_study("super-resolution", seed=2000)
    real = replace(a_case, case=replace(a_case.case, id="ProstateX-0000"), is_phantom=False)
    pairs = [(TASKS["super-resolution"].naive_baseline([one])(one), one) for one in (a_case, real)]
    write_examples(study, TASKS["super-resolution"].baseline, "trivial", pairs)
    for shown, pictures in ((["ProstateX-0000", "ProstateX-0001"], 8), (["ProstateX-0001"], 4)):
        (study / "config.yaml").write_text(configuration(shown=shown), encoding="utf-8")
        page = write_study_report(study, tmp_path / "elsewhere")[1].read_text(encoding="utf-8")
        assert part(page, "examples").count("<img ") == pictures


def test_infinite_and_undefined_numbers_have_words(tmp_path, page):
    never = words(part(page, "cost"))
    assert "never reached n/a" in never
    runs = tuple(replace(run, value=math.nan) if run.task == "classification" else run for run in GRID.runs)
    text = written(replace(GRID, runs=runs), tmp_path)
    assert "no value" in words(part(text, "arms"))
    assert "n/a" in words(part(text, "matrix"))
    assert not re.search(r"\b(nan|inf)\b", words(text))
    assert "Not trained" not in text


def test_a_study_without_any_pair_still_has_a_page(tmp_path):
    runs = tuple(run for run in GRID.runs if run.arm == "trivial")
    page = written(StudyTables(runs), tmp_path)
    assert "0 of 0" in words(page)
    assert (tmp_path / "summary.csv").read_text().count("\n") == 1


def test_names_from_tables_cannot_become_html(tmp_path):
    evil = "<b onload=x>&"
    metrics = tuple(replace(row, case=evil) if row.data == "real" and row.case else row for row in GRID.metrics)
    runs = tuple(replace(run, encoder=evil) if run.arm == "specialised" else run for run in GRID.runs)
    page = written(replace(GRID, metrics=metrics, runs=runs), tmp_path)
    assert evil not in page
    assert "&lt;b onload=x&gt;&amp;" in page


def test_examples_are_shown_with_their_own_scores(page):
    shown = part(page, "examples")
    text = words(shown)
    assert shown.count("<img ") == 4 + 3  # input, truth, result, difference; three inputs of the classification
    assert re.search(r"Zero filled naive baseline PSNR \d\d\.\d\d dB · SSIM 0\.\d{3}", text)
    assert "(true)" in text
    assert "difference from the truth" in text


@pytest.mark.parametrize(
    ("correlation", "sentence"),
    [
        (Correlation(-0.6, -0.9, 0.1, 12), "contains 0"),
        (Correlation(-0.8, -0.95, -0.4, 12), "as the published study reports"),
        (Correlation(-1.0, -1.0, -1.0, 6), "a bootstrap cannot tell how sure it is"),
        (Correlation(0.8, 0.4, 0.95, 12), "contrary to what the published study reports"),
        (Correlation(math.nan, math.nan, math.nan, 2), "nothing can be said"),
    ],
)
def test_the_conclusion_is_no_stronger_than_the_interval(correlation, sentence):
    assert sentence in conclusion(correlation)


def test_the_command_writes_both_files_and_says_where(tmp_path, capsys):
    write_tables(GRID, tmp_path / "study")
    assert main(["study", "report", str(tmp_path / "study"), "-o", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "profound, lesion-segmentation: RPG of average_precision -" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "summary.csv"]
    assert not (tmp_path / "study" / "summary.csv").exists()


def test_of_several_pretrainings_scratch_stands_once_and_the_published_one_beside_its_like(tmp_path):
    def twice(rows):
        """Each pretrained row of either encoder by `mae` and by `contrastive`, the latter better."""
        for row in rows:
            if row.arm != "pretrained":
                yield row
                continue
            for name, more in (("mae", 1.0), ("contrastive", 1.1)):
                yield replace(row, arm=f"pretrained-{name}", value=row.value * more)

    tables = replace(GRID, runs=(*twice(GRID.runs),), metrics=(*twice(GRID.metrics),), curves=(), distances=())
    page = written(tables, tmp_path)
    assert "2 encoders · 6 tasks · 3 arms · 3 seeds" in words(page)
    for anchor, of in (("arms", len(TASKS)), ("real", len({row.task for row in GRID.metrics if row.data == "real"}))):
        found = part(page, anchor) if anchor == "arms" else re.sub(r"(?s)<details.*?</details>", "", part(page, anchor))
        heads = [words(one) for one in re.findall(r"<th scope=\"(?:row|col)\".*?</th>", found, re.DOTALL)]
        for encoder in ("ProFound", "ProViCNet"):
            titles = [re.sub(",? (from scratch|pretrained)", r" \1", one) for one in heads if one.startswith(encoder)]
            own = [f"{encoder}{name}" for name in (" from scratch", ", contrastive pretrained", ", mae pretrained")]
            assert titles == own * of, anchor
    rows = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", part(page, "published"), re.DOTALL)
    assert [words(row).split(" distortion")[0] for row in rows[:1]] == ["ProFound, mae"]
    assert all(words(row).startswith("ProViCNet, contrastive ") for row in rows[2:])
    gains = {(row["encoder"], row["task"]): row["rpg_percent"] for row in rows_of(tmp_path / "summary.csv")}
    assert values(rows[0])[1] == float(gains["profound-mae", "distortion-correction"])
    assert values(rows[-1])[1] == float(gains["provicnet-contrastive", "classification"])


def test_a_gain_of_hundredths_of_a_percent_is_no_zero(tmp_path):
    def little_better(rows):
        """Of one cell each pretrained value as from scratch, and 0.02 or 0.05 % more by the case or seed."""
        of = ("provicnet", "super-resolution", "psnr_db", "phantom")
        own = [row for row in rows if (row.encoder, row.task, row.metric, getattr(row, "data", of[3])) == of]
        scratch = {(row.seed, getattr(row, "case", "")): row.value for row in own if row.arm == "scratch"}
        for row in rows:
            if row in own and row.arm == "pretrained":
                key = row.seed, getattr(row, "case", "")
                row = replace(row, value=scratch[key] * (1.0005 if key[1] in PHANTOMS[::3] else 1.0002))
            yield row

    tables = replace(GRID, runs=(*little_better(GRID.runs),), metrics=(*little_better(GRID.metrics),))
    matrix = words(part(written(tables, tmp_path), "matrix"))
    assert re.search(r"\+0\.0[23] % \+0\.02 to \+0\.0[34] ", matrix), matrix
