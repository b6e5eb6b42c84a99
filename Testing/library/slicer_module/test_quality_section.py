"""Image quality on the panel with stand-ins for Qt's widgets, on real MRML, checked by the real command."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from panel_stand_ins import AWidget, SomeLogic, SomeParameters, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from qt_stand_ins import AnEventLoop
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, slicer

from VFMTransferSlicer.runs import ArmInScene, RunInScene

FOUND = {"title": "T2w, tilt from axial", "text": "3°", "threshold": "", "is_met": False, "source": "", "sentence": ""}


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def ui():
    names = ("qualityButton", "qualityLabel", "qualityCollapsibleButton", "qualityNoteLabel")
    return SimpleNamespace(**{name: AWidget() for name in names})


@pytest.fixture
def loop():
    return AnEventLoop()


@pytest.fixture
def logic():
    return SomeLogic()


@pytest.fixture
def section(in_qt, ui, logic, loop):  # noqa: F811
    from VFMTransferSlicer.panel.radiology import QualitySection

    section = QualitySection(ui, logic, lambda ms, slot: loop.callLater(min(ms, 50), slot), loop.make_process)
    yield section
    section.close()


@pytest.fixture
def panel(section, scene, ui, logic):
    from VFMTransferSlicer.widget import Panel

    panel = Panel(ui, logic, [section])
    panel.setParameterNode(SomeParameters())
    return panel


def add(scene, name):
    return add_volume(scene, an_oblique_t2w(), name)


def is_checked(ui) -> bool:
    return "criteria not met" in ui.qualityCollapsibleButton.text


def run_that_fails(logic, scene) -> None:
    run = RunInScene("anatomy-segmentation", {}, add(scene, "of a run"))
    logic.isRunning = True
    logic.started.emit(run)
    logic.isRunning = False
    logic.finished.emit("failed")


def test_images_are_checked_when_their_choice_has_settled_and_again_when_it_comes_back(panel, scene, ui, loop):
    one, other = add(scene, "one"), add(scene, "other")
    for node in (one, other, one):
        panel.parameters.t2w = node
        assert not is_checked(ui)
        assert ui.qualityNoteLabel.text == "Not checked yet."
        loop.turn_until(lambda: is_checked(ui))


def test_criteria_come_back_with_the_module_and_after_a_short_choice_of_another_volume(panel, scene, ui, loop):
    parameters, node = panel.parameters, add(scene, "one")
    parameters.t2w = node
    loop.turn_until(lambda: is_checked(ui))
    panel.setParameterNode(None)
    panel.setParameterNode(parameters)
    loop.turn_until(lambda: is_checked(ui), within_s=20)
    parameters.t2w = add(scene, "other")
    parameters.t2w = node
    loop.turn_until(lambda: is_checked(ui), within_s=20)


def test_criteria_stay_while_another_module_is_open_and_go_with_the_scene(panel, scene, ui, loop):
    parameters = panel.parameters
    parameters.t2w = add(scene, "one")
    loop.turn_until(lambda: is_checked(ui))
    panel.setParameterNode(None)
    panel.setParameterNode(parameters)
    assert is_checked(ui)
    scene.InvokeEvent(scene.StartCloseEvent)
    parameters.t2w = None
    assert not is_checked(ui)


def test_a_volume_that_was_moved_is_checked_again(panel, scene, ui, loop):
    node = panel.parameters.t2w = add(scene, "one")
    loop.turn_until(lambda: is_checked(ui))
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    panel.update()
    assert not is_checked(ui)
    loop.turn_until(lambda: is_checked(ui))


def test_a_check_that_a_failed_run_ended_is_made_then(panel, scene, ui, logic, loop):
    panel.parameters.t2w = add(scene, "one")
    loop.turn_until(lambda: ui.qualityNoteLabel.text == "Checking the images.")
    run_that_fails(logic, scene)
    loop.turn_until(lambda: is_checked(ui))


def test_criteria_that_are_there_stay_where_a_run_fails(panel, scene, ui, logic, loop):
    panel.parameters.t2w = add(scene, "one")
    loop.turn_until(lambda: is_checked(ui))
    shown = ui.qualityLabel.text
    run_that_fails(logic, scene)
    assert ui.qualityLabel.text == shown


def test_a_run_brings_criteria_of_its_first_network_for_its_own_case_alone(panel, scene, ui, logic):
    node = panel.parameters.t2w = add(scene, "one")
    arms = [ArmInScene(name, {"quality": [{**FOUND, "text": name}]}) for name in ("a", "b")]
    run = logic.lastRun = RunInScene("anatomy-segmentation", {}, node, arms)
    for arm in arms:
        logic.armLoaded.emit(arm)
    assert is_checked(ui)
    assert "a" in ui.qualityLabel.text
    assert "network A's outline" in ui.qualityNoteLabel.text
    panel.parameters.t2w = add(scene, "other")
    assert run.about is node
    logic.armLoaded.emit(arms[0])
    assert not is_checked(ui)


@pytest.fixture
def fitting(in_qt, scene, loop):  # noqa: F811
    """The section that fits an ADC, with a series of three frames whose b values are not stated."""
    from VFMTransferSlicer.panel.radiology import DiffusionSection
    from VFMTransferSlicer.widget import Panel

    series = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "DWI")
    slicer.util.updateVolumeFromArray(series, np.ones((2, 3, 4, 3), np.float32))
    ui = SimpleNamespace(**{name: AWidget() for name in ("computedBSpinBox", "fitButton", "fitNoteLabel")})
    ui.bValuesLineEdit = AWidget()
    ui.seriesSelector = SimpleNamespace(connect=lambda signal, slot: None, currentNode=lambda: series)
    section = DiffusionSection(ui, SomeLogic(), loop.callLater, loop.make_process)
    section.ui, section.panel = ui, Panel(ui, SomeLogic(), [section])
    section.panel.setParameterNode(SomeParameters())
    yield section
    section.close()


def test_a_fit_and_typed_b_values_stay_while_another_module_is_open(fitting, scene, monkeypatch):
    monkeypatch.setattr(slicer.util, "tryWithErrorDisplay", lambda message: nullcontext(), raising=False)
    ui, panel, parameters = fitting.ui, fitting.panel, fitting.panel.parameters
    ui.bValuesLineEdit.text = "50 400 800"
    fitting.onFit()
    panel.setParameterNode(None)
    assert not ui.fitButton.enabled
    panel.setParameterNode(parameters)
    assert fitting._fit.isBusy
    assert (ui.bValuesLineEdit.text, ui.fitNoteLabel.text) == ("50 400 800", "Fitting the series.")
    scene.InvokeEvent(scene.StartCloseEvent)
    assert not fitting._fit.isBusy


def a_run_of(node) -> RunInScene:
    arms = [ArmInScene(name, {"quality": [{**FOUND, "text": f"of network {name}"}]}) for name in ("a", "b")]
    return RunInScene("anatomy-segmentation", {}, node, arms)


def test_criteria_of_a_network_are_not_shown_while_it_is_read_blinded(panel, section, scene, ui, logic, loop):
    node = panel.parameters.t2w = add(scene, "one")
    loop.turn_until(lambda: is_checked(ui))
    shown = ui.qualityLabel.text
    run = logic.lastRun = a_run_of(node)
    section.setBlinded(True)
    logic.armLoaded.emit(run.arms[0])
    assert ui.qualityLabel.text == shown
    section.setBlinded(False)
    logic.armLoaded.emit(run.arms[0])
    assert "of network a" in ui.qualityLabel.text


def test_criteria_of_a_network_go_when_a_blinded_reading_begins(panel, section, scene, ui, logic, loop):
    node = panel.parameters.t2w = add(scene, "one")
    run = logic.lastRun = a_run_of(node)
    logic.armLoaded.emit(run.arms[0])
    assert "of network a" in ui.qualityLabel.text
    section.setBlinded(True)
    assert "network" not in ui.qualityLabel.text + ui.qualityNoteLabel.text
    loop.turn_until(lambda: is_checked(ui))
    assert "of network a" not in ui.qualityLabel.text
