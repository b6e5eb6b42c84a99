"""How long a network still takes, by how long it took so far."""

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed; the dev extra brings it.")

from VFMTransferSlicer.runs import ArmClock


@pytest.fixture
def clock() -> ArmClock:
    times = iter((100.0, 104.0, 106.0, 106.0))
    return ArmClock(now=lambda: next(times))


def test_what_is_left_follows_from_what_is_done_since_the_first_word(clock):
    clock.receive("infer", 0.2)
    clock.receive("infer", 0.4)
    assert clock.remaining_s == pytest.approx(12.0)  # 0.2 took 4 s, 0.6 are left


def test_nothing_is_said_before_enough_is_done():
    times = iter((0.0, 0.5, 10.0))
    clock = ArmClock(now=lambda: next(times))
    assert clock.remaining_s is None
    clock.receive("images", 0.0)
    clock.receive("infer", 0.5)
    assert clock.remaining_s is None  # half a second says little
    clock.receive("infer", 0.01)
    assert clock.remaining_s is None  # so does one hundredth
