"""The study on the panel with stand-ins for Qt's widgets, on real MRML: volumes arrive, click, look."""

from types import SimpleNamespace

import pytest
from panel_stand_ins import AComboBox, AWidget, SomeLogic, SomeParameters, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from qt_stand_ins import AnEventLoop
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer

LABELS = (
    "t2wGeometryLabel",
    "hbvGeometryLabel",
    "adcGeometryLabel",
    "studyNoteLabel",
    "psaNoteLabel",
    "phaseAxisLabel",
    "phaseAxisNoteLabel",
)
BUTTONS = ("fillButton", "sampleButton", "phantomButton")


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def ui():
    return SimpleNamespace(**{name: AWidget() for name in (*LABELS, *BUTTONS)}, phaseAxisComboBox=AComboBox())


@pytest.fixture
def loop():
    return AnEventLoop()


@pytest.fixture
def logic():
    return SomeLogic()


@pytest.fixture
def section(in_qt, scene, ui, logic, loop):  # noqa: F811
    from VFMTransferSlicer.panel.inputs import InputsSection

    section = InputsSection(ui, logic, loop.callLater, loop.make_process, lambda volume: section.shown.append(volume))
    section.shown = []
    return section


@pytest.fixture
def panel(section, ui, logic):
    from VFMTransferSlicer.widget import Panel

    panel = Panel(ui, logic, [section])
    panel.setParameterNode(SomeParameters())
    return panel


def add(scene, name):
    return add_volume(scene, an_oblique_t2w(), name)


def chosen(panel):
    return panel.parameters.t2w, panel.parameters.hbv, panel.parameters.adc


def test_an_empty_panel_takes_the_study_that_arrives(panel, scene, loop):
    t2w = add(scene, "t2w")
    loop.turn_until(lambda: panel.parameters.t2w)
    assert chosen(panel) == (t2w, None, None)
    adc, hbv = add(scene, "adc"), add(scene, "hbv")
    loop.turn_until(lambda: panel.parameters.adc)
    assert chosen(panel) == (t2w, hbv, adc)


def test_a_study_that_arrives_replaces_nothing_that_was_chosen(panel, scene, loop):
    other = panel.parameters.t2w = add(scene, "somebody's choice")
    for name in ("t2w", "adc"):
        add(scene, name)
    loop.turn_until(lambda: not loop._timers)
    assert chosen(panel) == (other, None, None)


def test_the_sample_is_made_chosen_shown_and_its_truth_is_the_reference(panel, section, scene, ui, loop):
    ui.sampleButton.click()
    assert not any(getattr(ui, name).enabled for name in BUTTONS)
    assert ui.studyNoteLabel.text == "Making Phantom 7 (synthetic); it takes some seconds."
    loop.turn_until(lambda: ui.sampleButton.enabled, within_s=300)
    assert [node.GetName() for node in chosen(panel)] == [
        f"Phantom 7 {word} (synthetic)" for word in ("T2w", "high-b DWI", "ADC")
    ]
    assert section.shown == [panel.parameters.t2w]
    truth = panel.parameters.reference
    assert truth.GetName() == "Phantom 7 truth (synthetic)"
    assert ui.studyNoteLabel.text == "Phantom 7 (synthetic) is loaded."
    panel.parameters.task = "super-resolution"
    assert panel.parameters.reference is None
    panel.parameters.task = "lesion-segmentation"
    assert panel.parameters.reference is truth
    panel.parameters.reference = None
    panel.update()
    assert panel.parameters.reference is None
    ui.fillButton.click()
    assert panel.parameters.reference is truth
    panel.parameters.reference = None
    nodes, panel.parameters.t2w = scene.GetNumberOfNodes(), None
    ui.sampleButton.click()
    assert panel.parameters.t2w.GetName() == "Phantom 7 T2w (synthetic)"
    assert panel.parameters.reference is truth
    assert scene.GetNumberOfNodes() == nodes


def with_answers(panel, section, scene, t2w):
    """What a user enters beside a case."""
    panel.parameters.t2w = t2w
    section.update()
    panel.parameters.psa, panel.parameters.phaseAxis = "14.2", "anterior-posterior"
    panel.parameters.gland = panel.parameters.roi = panel.parameters.reference = add(scene, "a mask")
    section.update()
    assert panel.parameters.psa == "14.2"


def answers(panel):
    chosen = panel.parameters
    return chosen.psa, chosen.phaseAxis, chosen.gland, chosen.reference, chosen.roi


CLEARED = ("", "auto", None, None, None)


def test_what_was_entered_beside_another_t2w_goes_when_the_selector_changes(panel, section, ui, scene):
    with_answers(panel, section, scene, add(scene, "t2w of one"))
    panel.parameters.t2w = add(scene, "t2w of another")
    section.update()
    assert answers(panel) == CLEARED
    assert "those of another case, and were cleared" in ui.studyNoteLabel.text


def test_the_phase_axis_is_asked_for_where_nothing_states_it(panel, ui, scene, monkeypatch):
    panel.parameters.hbv = add(scene, "b1400")
    assert not ui.phaseAxisComboBox.visible
    panel.parameters.task = "distortion-correction"
    assert (ui.phaseAxisComboBox.visible, ui.phaseAxisNoteLabel.visible) == (True, True)
    assert "is unknown. Select it; otherwise left-right is assumed" in ui.phaseAxisNoteLabel.text
    ui.phaseAxisComboBox.choose("anterior-posterior")
    assert panel.parameters.phaseAxis == "anterior-posterior"
    assert ui.phaseAxisNoteLabel.text == ""
    tags = {"0018,1312": "ROW", "0020,0037": "1\\0\\0\\0\\1\\0"}
    database = SimpleNamespace(isOpen=True, instanceValue=lambda instance, tag: tags.get(tag, ""))
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    panel.parameters.hbv.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    panel.update()
    assert ui.phaseAxisNoteLabel.text == "⚠ DICOM states left-right."
    ui.phaseAxisComboBox.choose("auto")
    assert ui.phaseAxisNoteLabel.text == "DICOM states left-right."
