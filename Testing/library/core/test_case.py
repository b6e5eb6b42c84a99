import numpy as np
import pytest

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import MissingSequenceError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume


@pytest.fixture
def a_case() -> Case:
    grid = Geometry((4, 3, 2))
    images = {s: Volume(np.ones(grid.shape), grid, str(s)) for s in (Sequence.ADC, Sequence.T2W)}
    return Case("p001", images)


def test_sequences_come_in_one_order_however_they_were_given(a_case):
    assert a_case.sequences == (Sequence.T2W, Sequence.ADC)


def test_a_volume_is_found_by_sequence_or_by_its_name(a_case):
    assert a_case["adc"] is a_case[Sequence.ADC]


def test_a_case_contains_the_sequences_it_has(a_case):
    assert Sequence.T2W in a_case
    assert Sequence.HBV not in a_case


def test_a_missing_sequence_is_named_beside_what_is_there(a_case):
    with pytest.raises(
        MissingSequenceError, match=r"Case 'p001' must contain t2w, hbv, but lacks hbv \(it has t2w, adc\)"
    ):
        a_case.require([Sequence.T2W, Sequence.HBV])


def test_asking_for_a_missing_sequence_is_the_same_error(a_case):
    with pytest.raises(MissingSequenceError, match="lacks hbv"):
        a_case[Sequence.HBV]


def test_of_an_empty_case_the_error_names_no_image():
    with pytest.raises(MissingSequenceError, match="it has no image"):
        Case("p002", {}).require([Sequence.T2W])
