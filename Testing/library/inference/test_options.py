"""Options: what may be asked for, what a result records of it, and the phase axis that `auto` stands for."""

from dataclasses import replace

import pytest
from prediction_cases import LESIONS, FakeSession, a_bundle, as_is, predict

from VFMTransferLib.core.errors import PsaError
from VFMTransferLib.core.measurements import Acquisition
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.inference.predict import CasePredictor, resolve_phase_axis


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": "left"}, "crop"),
        ({"region": "left"}, "region"),
        ({"threshold": 2.0}, "threshold"),
        ({"phase_axis": "up"}, "phase axis"),
    ],
)
def test_options_that_cannot_be_are_refused_when_they_are_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        Options(**wrong)


def test_a_result_records_what_was_asked_for(a_case):
    open_network = lambda bundle: FakeSession(as_is)  # noqa: E731
    asked = predict(a_case, a_bundle(LESIONS), threshold=0.25, crop="center", open_network=open_network)
    defaults = {"crop": "auto", "threshold": None, "only_cspca": False, "phase_axis": "left-right"}
    assert asked.provenance.options == {**defaults, "threshold": 0.25, "crop": "center"}
    assert predict(a_case, a_bundle(LESIONS), open_network=open_network).provenance.options == defaults


@pytest.mark.parametrize("psa", [0, -1, float("nan"), 1e6])
def test_a_psa_that_cannot_be_one_is_refused(psa):
    with pytest.raises(PsaError, match="PSA must be"):
        Options(psa_ng_ml=psa)


@pytest.mark.parametrize(
    ("stated", "chosen", "axis", "words"),
    [
        (None, "auto", "left-right", "unknown; left-right was assumed"),
        ("anterior-posterior", "auto", "anterior-posterior", "encoded along anterior-posterior, as DICOM states"),
        ("anterior-posterior", "left-right", "left-right", ""),
    ],
)
def test_the_phase_axis_is_what_dicom_states_else_assumed_and_noted(stated, chosen, axis, words, a_case):
    about = {} if stated is None else {Sequence.HBV: Acquisition(phase_axis=stated)}
    case = replace(a_case, acquisitions=about)
    found, note = resolve_phase_axis(case, chosen)
    assert found == axis
    assert words in str(note or "")
    assert bool(note) == bool(words)
    assert CasePredictor(case, Options(phase_axis=chosen)).options.recorded["phase_axis"] == axis


def test_the_vendors_polarity_is_part_of_the_note_on_the_phase_axis(a_case):
    about = Acquisition(phase_axis="left-right", is_phase_positive=False)
    case = replace(a_case, acquisitions={Sequence.HBV: about})
    _, note = resolve_phase_axis(case, "auto")
    assert "along left-right, toward the right by the vendor's polarity, as DICOM states" in note.text
