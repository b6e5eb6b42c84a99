"""The study on the panel with stand-ins for Qt's widgets, on real MRML: volumes arrive, click, look."""

from types import SimpleNamespace

import pytest
from panel_stand_ins import AComboBox, AWidget, SomeLogic, SomeParameters, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from qt_stand_ins import AnEventLoop
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, matrix_of, slicer

from VFMTransferLib.core.terms import Sequence

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


def test_an_empty_panel_takes_the_study_that_is_there_when_it_opens(scene, section, ui, logic):
    study = tuple(add(scene, name) for name in ("t2_tse_tra", "b1400", "adc"))
    from VFMTransferSlicer.widget import Panel

    panel = Panel(ui, logic, [section])
    assert not ui.fillButton.enabled
    panel.setParameterNode(SomeParameters())
    assert chosen(panel) == study
    assert all(getattr(ui, name).enabled for name in BUTTONS)


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


def test_what_the_user_took_out_is_not_put_in_again(panel, scene, loop):
    t2w, adc = add(scene, "t2w"), add(scene, "adc")
    loop.turn_until(lambda: panel.parameters.adc)
    assert chosen(panel) == (t2w, None, adc)
    panel.parameters.adc = None
    add(scene, "something else")
    loop.turn_until(lambda: not loop._timers)
    assert chosen(panel) == (t2w, None, None)


def test_the_fill_button_takes_the_newest_study_and_says_why(panel, scene, ui):
    former = panel.parameters.t2w = add(scene, "t2w old")
    panel.parameters.reference = panel.parameters.gland = former
    newer = add(scene, "t2w new")
    ui.fillButton.click()
    assert chosen(panel) == (newer, None, None)
    assert "T2w: 't2w new' rather than 't2w old', since it was loaded last." in ui.studyNoteLabel.text
    assert panel.parameters.reference is None
    assert panel.parameters.gland is None


def test_the_fill_button_leaves_the_choice_where_there_is_no_study(panel, scene, ui):
    other = panel.parameters.t2w = add(scene, "something")
    ui.fillButton.click()
    assert chosen(panel) == (other, None, None)
    assert ui.studyNoteLabel.text.startswith("No volume in the scene is a T2w")


def test_lines_follow_volumes_networks_and_transforms(panel, scene, ui):
    assert ui.t2wGeometryLabel.text == ""
    node = panel.parameters.t2w = add(scene, "t2w")
    expected = ["2 × 2.5 × 4 mm · 20 × 18 × 7 · axial, oblique by 30°", "⚠ It has only 7 slices"]
    for line, start in zip(ui.t2wGeometryLabel.text.split("\n"), expected, strict=True):
        assert line.startswith(start)
    panel.parameters.bundleA = "profound-prostate-demo-pretrained"
    assert "will be resampled to 1 × 1 × 1 mm" in ui.t2wGeometryLabel.text
    transform = add_transform(scene)
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert "axial, oblique by 30° · moved by 'To the world'" in ui.t2wGeometryLabel.text
    transform.SetMatrixTransformToParent(matrix_of([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
    assert "It is sagittal, but networks need axial images." in ui.t2wGeometryLabel.text
    panel.parameters.bundleA = "there is none of this name"
    assert "resampled" not in ui.t2wGeometryLabel.text


def test_dicom_tags_are_read_where_there_is_a_database(panel, scene, ui, monkeypatch):
    tags = {"0008,103E": "t2_tse_tra", "0018,0020": "SE", "0018,0081": "101"}
    database = SimpleNamespace(isOpen=True, instanceValue=lambda uid, tag: tags.get(tag, ""))
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    node = add(scene, "no telling name")
    node.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    ui.fillButton.click()
    assert chosen(panel) == (node, None, None)


def test_nothing_can_be_filled_during_a_run(panel, ui, logic):
    logic.isRunning = True
    logic.started.emit(None)
    assert not any(getattr(ui, name).enabled for name in BUTTONS)


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


def test_a_new_phantom_has_the_next_seed(panel, scene, ui, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "VFMTransferSlicer.inputs.samples.PhantomMaker.make", lambda self, seed, scene: asked.append(seed)
    )
    ui.phantomButton.click()
    add(scene, "Phantom 12 T2w (synthetic)").SetAttribute("Phantom.Seed", "12")
    slicer.util.getNode("Phantom 12 T2w (synthetic)").SetAttribute("Phantom.Role", str(Sequence.T2W))
    ui.phantomButton.click()
    assert asked == [8, 13]


def test_a_phantom_that_fails_is_told(panel, ui, loop, tmp_path, monkeypatch):
    monkeypatch.setattr("VFMTransferSlicer.workers.process.workerPython", lambda: str(tmp_path / "no-python"))
    ui.sampleButton.click()
    loop.turn_until(lambda: "could not be made" in ui.studyNoteLabel.text)
    assert ui.sampleButton.enabled


def test_the_end_of_the_scene_ends_the_phantom(panel, scene, ui, loop):
    ui.sampleButton.click()
    scene.Clear(0)
    panel.update()
    assert ui.sampleButton.enabled


def test_a_phantom_in_the_making_ends_with_the_panel(panel, section, ui):
    ui.sampleButton.click()
    assert section._maker.isBusy
    panel.close()
    assert not section._maker.isBusy


def test_a_psa_that_cannot_be_one_has_its_sentence_and_goes_with_the_case(panel, section, ui, scene):
    parameters = panel.parameters
    add_volume(scene, an_oblique_t2w(), "t2w")
    for text, words in (("6,5", "with a point, e.g. 6.5"), ("-1", "above 0"), ("6.5", ""), ("", "")):
        parameters.psa = text
        section.update()
        assert words in ui.psaNoteLabel.text
        assert bool(ui.psaNoteLabel.text) == bool(words)
    parameters.psa = "6.5"
    section.onFill()
    assert parameters.psa == ""


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


def test_what_was_entered_beside_a_case_that_was_deleted_is_not_of_the_next_one(panel, section, scene, loop):
    former = add(scene, "t2w of one")
    with_answers(panel, section, scene, former)
    mask = panel.parameters.gland
    panel.parameters.t2w = None
    scene.RemoveNode(former)
    section.update()
    assert answers(panel) == ("14.2", "anterior-posterior", mask, mask, mask)  # of no case as yet
    newer = add(scene, "t2w of another")
    loop.turn_until(lambda: panel.parameters.t2w is newer)
    section.update()
    assert answers(panel) == CLEARED


def test_what_was_entered_goes_also_where_the_case_was_replaced_in_another_module(panel, section, ui, scene, loop):
    former = add(scene, "t2w of one")
    with_answers(panel, section, scene, former)
    section.setParameters(None)
    panel.parameters.t2w = None
    scene.RemoveNode(former)
    newer = add(scene, "t2w of another")
    section.setParameters(panel.parameters)
    loop.turn_until(lambda: panel.parameters.t2w is newer)
    section.update()
    assert answers(panel) == CLEARED
    assert "those of another case, and were cleared" in ui.studyNoteLabel.text


def test_what_was_entered_stays_with_its_case_and_comes_back_with_its_scene(panel, section, scene):
    t2w = add(scene, "t2w")
    with_answers(panel, section, scene, t2w)
    panel.parameters.adc = add(scene, "adc")
    section.update()
    section.setParameters(None)
    section.setParameters(panel.parameters)
    section.update()
    assert panel.parameters.psa == "14.2"


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
