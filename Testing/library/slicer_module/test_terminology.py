"""The prostate's zones in Slicer's own logic of terminologies."""

import json

import pytest
from slicer_scenes import slicer

from VFMTransferLib.core.terms import LABEL_TERMS, Label
from VFMTransferLib.io import segmentations as segments
from VFMTransferSlicer.results import scene

ZONES = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)


@pytest.fixture
def logic():
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    scene.loadTerminology(logic)
    return logic


@pytest.mark.parametrize("label", ZONES)
def test_slicer_finds_a_zone_by_the_code_that_its_segment_bears(logic, label):
    entry, term = slicer.vtkSlicerTerminologyEntry(), LABEL_TERMS[label]
    assert logic.DeserializeTerminologyEntry(segments.terminology(term), entry)
    assert logic.UpdateEntryFromLoadedTerminologies(entry, [], [])
    assert entry.GetTerminologyContextName() == scene.CONTEXT
    assert entry.GetTypeObject().GetCodeMeaning() == term.type.meaning
    assert tuple(entry.GetTypeObject().GetRecommendedDisplayRGBValue()) == term.color


def test_the_list_says_what_the_library_says():
    document = json.loads(scene.TERMS.read_text(encoding="utf-8"))
    (category,) = document["SegmentationCodes"]["Category"]
    found = {kind["CodeValue"]: tuple(kind["recommendedDisplayRGBValue"]) for kind in category["Type"]}
    labels = (Label.PROSTATE, *ZONES)
    assert found == {LABEL_TERMS[label].type.value: LABEL_TERMS[label].color for label in labels}
