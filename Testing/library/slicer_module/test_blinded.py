"""Blinded reading: the order, what is kept and what is hidden, the tally and its test."""

import random
import re
from datetime import datetime, timedelta, timezone

import pytest
from scipy.stats import binomtest
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer

from VFMTransferSlicer.reading.blinded import (
    BlindedReading,
    Network,
    Reading,
    ReadingError,
    Side,
    Subject,
    newSeal,
    orderOf,
)
from VFMTransferSlicer.reading.readings import (
    COLUMNS,
    Tally,
    newTable,
    readCsv,
    signTest,
    subjectOf,
    tallyOf,
    writeCsv,
)
from VFMTransferSlicer.runs import ArmInScene, RunInScene

PRETRAINED, SCRATCH = Network("first", "aa" * 32), Network("second", "bb" * 32)
MORNING = datetime(2026, 3, 1, 9, 30, tzinfo=timezone(timedelta(hours=1)))


def a_subject(case: str = "T2, größer", swapped: bool = False) -> Subject:
    networks = (SCRATCH, PRETRAINED) if swapped else (PRETRAINED, SCRATCH)
    return Subject(case, f"study of {case}", "anatomy-segmentation", networks)


def a_reading(case: str = "T2, größer", side: Side = Side.LEFT, seed: int = 1, **more) -> Reading:
    seal = newSeal(random.Random(seed))
    return Reading(a_subject(case), seal, side, 3, 12.5, MORNING.isoformat(), **more)


def a_session(former: Reading | None = None, seconds=(100.0, 112.34), seed: int = 1, **more) -> BlindedReading:
    clock = iter(seconds)
    session = BlindedReading(a_subject(**more), former, random.Random(seed), lambda: next(clock), lambda: MORNING)
    session.begin()
    return session


def seed_of(order: tuple[int, int]) -> int:
    return next(seed for seed in range(100) if orderOf(newSeal(random.Random(seed))) == order)


@pytest.fixture
def table():
    return newTable(a_scene())


# ---- order


def test_both_orders_come_equally_often():
    chance = random.Random(5)
    lefts = sum(orderOf(newSeal(chance))[0] for _ in range(2000))
    assert binomtest(lefts, 2000).pvalue > 0.01


def test_the_order_follows_from_the_seal_alone():
    seal = newSeal(random.Random(7))
    assert re.fullmatch("[0-9a-f]{32}", seal)
    assert sorted(orderOf(seal)) == [0, 1]
    # `printf 00000000000000000000000000000000 | sha256sum` ends with a, which is even, that of ...1 with 5.
    assert orderOf("0" * 32) == (0, 1)
    assert orderOf("0" * 31 + "1") == (1, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("side", list(Side))
def test_the_side_becomes_the_network_that_was_there(order, side):
    reading = a_session(seed=seed_of(order)).answer(side, 4)
    assert reading.left == "AB"[order[0]]
    there = {Side.LEFT: "AB"[order[0]], Side.RIGHT: "AB"[order[1]], Side.EQUAL: "equal"}
    assert reading.preferred == there[side]


# ---- one reading


def test_the_time_counts_from_the_first_moment_when_the_views_are_shown():
    now = [0.0]
    session = BlindedReading(a_subject(), clock=lambda: now[0])
    for now[0] in (40.0, 50.0):
        session.begin()
    now[0] = 52.5
    assert session.answer(Side.LEFT, 3).seconds == 12.5


def test_a_study_that_is_resumed_keeps_its_order_and_its_time_goes_on():
    former = a_session().answer(Side.LEFT, 2)
    later = a_session(former, seconds=(7.0, 8.0), seed=2)
    assert later.order == orderOf(former.seal)
    assert later.answer(Side.RIGHT, 3).seconds == pytest.approx(former.seconds + 1)


@pytest.mark.parametrize("confidence", [0, 6])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ReadingError, match="Confidence"):
        a_session().answer(Side.LEFT, confidence)


# ---- what a run gives to read


def an_arm(bundle: str, checksum: str) -> ArmInScene:
    return ArmInScene(bundle, {"model": {"sha256": checksum}})


def a_run(scene, *arms: ArmInScene) -> RunInScene:
    volume = add_volume(scene, an_oblique_t2w(), "T2")
    return RunInScene("anatomy-segmentation", {}, volume, list(arms))


def test_a_study_is_known_by_its_voxels_and_not_by_its_name():
    scene = a_scene()
    first, same, other = (subjectOf(a_run(scene, an_arm("a", "1"), an_arm("b", "2"))) for _ in range(3))
    assert first.isSameAs(same)
    assert first.case == "T2"
    run = a_run(scene, an_arm("a", "1"), an_arm("b", "2"))
    slicer.util.updateVolumeFromArray(run.about, slicer.util.arrayFromVolume(run.about) + 1)
    assert not subjectOf(run).isSameAs(other)


def test_a_network_is_not_compared_with_itself():
    with pytest.raises(ReadingError, match="two different networks"):
        subjectOf(a_run(a_scene(), an_arm("a", "1"), an_arm("copy of a", "1")))


# ---- the table in the scene


def test_nothing_in_the_table_says_which_was_which_until_it_is_revealed(table):
    table.put(a_reading())
    cells = {name: table.node.GetCellText(0, column) for column, name in enumerate(COLUMNS)}
    assert (cells["side"], cells["left"], cells["preferred"]) == ("left", "", "")
    table.reveal()
    cells = {name: table.node.GetCellText(0, column) for column, name in enumerate(COLUMNS)}
    assert {cells["left"], cells["preferred"]} <= {"A", "B"}


def test_after_it_was_revealed_a_reading_is_final(table):
    table.put(a_reading())
    table.reveal()
    with pytest.raises(ReadingError, match="is final, but"):
        table.put(a_reading(side=Side.RIGHT))
    assert [reading.side for reading in table.readings()] == [Side.LEFT]


def test_the_table_survives_saving_and_loading(table, tmp_path):
    for reading in (a_reading("one"), a_reading("größer", Side.EQUAL, isRevealed=True), a_reading("3", seed=3)):
        table.put(reading)
    assert saved_and_loaded(table, tmp_path).readings() == table.readings()


def saved_and_loaded(table, folder):
    storage = slicer.vtkMRMLTableStorageNode()
    storage.SetFileName(str(folder / "readings.tsv"))
    assert storage.WriteData(table.node)
    again = newTable(a_scene())
    storage = slicer.vtkMRMLTableStorageNode()
    storage.SetFileName(str(folder / "readings.tsv"))
    assert storage.ReadData(again.node)
    return again


# ---- the file


def test_a_file_goes_there_and_back(tmp_path):
    readings = [a_reading("one"), a_reading("größer, = 1\nline", Side.EQUAL, 2, isRevealed=True)]
    path = tmp_path / "readings of März.csv"
    writeCsv(readings, path)
    assert readCsv(path) == readings


def test_a_file_that_is_no_table_of_readings_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("case,dice\n1,0.9\n", encoding="utf-8")
    with pytest.raises(ReadingError, match="lacks study, task"):
        readCsv(path)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(",left,3,", ",middle,3,"), (",3,12.5,", ",9,12.5,"), ("+01:00", ""), (",A,A", ",A,B"), (",A,A", ",B,A")],
    ids=["side", "confidence", "zone", "preferred", "left"],
)
def test_a_changed_row_is_refused_with_its_number(tmp_path, right, wrong):
    path = tmp_path / "readings.csv"
    reading = a_reading("two", seed=seed_of((0, 1)), isRevealed=True)
    writeCsv([a_reading("one"), reading], path)
    head, _, row = path.read_text(encoding="utf-8").rpartition("two,")
    assert right in row
    path.write_text(f"{head}two,{row.replace(right, wrong)}", encoding="utf-8")
    with pytest.raises(ReadingError, match="Row 2"):
        readCsv(path)


def test_resuming_appends_and_keeps_what_is_final(table):
    table.put(a_reading("one"))
    table.put(a_reading("two"))
    taken = table.add([a_reading("one", isRevealed=True), a_reading("two", Side.RIGHT), a_reading("three")])
    assert taken == 2
    assert [(one.subject.case, one.side, one.isRevealed) for one in table.readings()] == [
        ("one", Side.LEFT, True),
        ("two", Side.LEFT, False),
        ("three", Side.LEFT, False),
    ]


# ---- the tally


@pytest.mark.parametrize(("a", "b"), [(0, 1), (3, 3), (9, 1), (12, 5), (0, 20), (250, 301), (1, 0)])
def test_the_sign_test_agrees_with_scipy(a, b):
    assert signTest(a, b) == pytest.approx(binomtest(a, a + b, 0.5).pvalue, rel=1e-12)


def test_only_revealed_readings_of_the_same_pair_and_task_count():
    other = Reading(
        Subject("x", "x", "classification", (PRETRAINED, SCRATCH)), "00", Side.LEFT, 1, 1.0, "", isRevealed=True
    )
    seed = seed_of((0, 1))
    readings = [
        a_reading("one", Side.LEFT, seed, isRevealed=True),
        a_reading("two", Side.RIGHT, seed, isRevealed=True),
        a_reading("three", Side.LEFT, seed, isRevealed=True),
        a_reading("four", Side.EQUAL, seed, isRevealed=True),
        a_reading("five", Side.RIGHT, seed),
        other,
    ]
    assert tallyOf(readings, "anatomy-segmentation", (PRETRAINED, SCRATCH)) == Tally(a=2, b=1, equal=1, sealed=1)
    assert tallyOf(readings, "anatomy-segmentation", (SCRATCH, PRETRAINED)) == Tally(a=1, b=2, equal=1, sealed=1)
