"""Work in steps: in order, one each turn, whatever a step does."""

import pytest
from slicer_scenes import slicer  # noqa: F401  (skips where there is no MRML)

from VFMTransferSlicer.workers.steps import StepQueue


@pytest.fixture
def turns() -> list:
    return []


@pytest.fixture
def said() -> list:
    return []


@pytest.fixture
def queue(turns) -> StepQueue:
    return StepQueue(turns.append)


def work(said: list, *words: str):
    for word in words:
        said.append(word)
        yield


def failing(said: list):
    said.append("begun")
    yield
    raise ValueError("broken")


def turn_all(turns: list) -> int:
    count = 0
    while turns:
        turns.pop(0)()
        count += 1
    return count


def test_each_step_has_its_turn_and_work_keeps_its_order(queue, turns, said):
    queue.add(work(said, "a", "b"), said.append)
    queue.add(work(said, "c"), said.append)
    assert said == []
    turns.pop(0)()
    assert said == ["a"]
    turn_all(turns)
    assert said == ["a", "b", "c"]


def test_an_error_ends_one_piece_of_work_only(queue, turns, said):
    errors = []
    queue.add(failing(said), errors.append)
    queue.add(work(said, "next"), errors.append)
    turn_all(turns)
    assert (said, [str(error) for error in errors]) == (["begun", "next"], ["broken"])


def test_what_is_cleared_is_not_done_and_cleans_up(queue, turns, said):
    def careful():
        try:
            yield
        finally:
            said.append("cleaned up")

    queue.add(careful(), said.append)
    turns.pop(0)()
    queue.clear()
    turn_all(turns)
    assert said == ["cleaned up"]
