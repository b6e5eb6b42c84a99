"""The panel's run section with stand-ins for Qt's widgets, on real MRML, with a real worker: click, wait, look."""

import os
import signal

import pytest
from panel_stand_ins import SomeParameters, clipboard, in_qt, settings, widgets  # noqa: F401  (fixtures)
from qt_stand_ins import AnEventLoop, a_qt_worker
from slicer_scenes import a_scene, add_volume, an_oblique_t2w

from VFMTransferSlicer.logic import TransferLogic

PRETRAINED, SCRATCH = "profound-prostate-demo-pretrained", "profound-prostate-demo-scratch"


@pytest.fixture(scope="module")
def loop():
    return AnEventLoop()


@pytest.fixture(scope="module")
def worker(loop):
    worker = a_qt_worker(loop)
    yield worker
    worker.close()


@pytest.fixture
def logic(worker):
    return TransferLogic(worker)


@pytest.fixture
def ui():
    return widgets()


@pytest.fixture
def panel(in_qt, ui, logic):  # noqa: F811
    from VFMTransferSlicer.panel.run import RunSection
    from VFMTransferSlicer.widget import Panel

    panel = Panel(ui, logic, [RunSection(ui, logic)])
    parameters = SomeParameters()
    parameters.bundleA, parameters.bundleB = PRETRAINED, SCRATCH
    panel.setParameterNode(parameters)
    return panel


@pytest.fixture
def t2w(panel):
    node = add_volume(a_scene(), an_oblique_t2w(), "Doe, John: T2")
    panel.parameters.t2w = node
    return node


def run_until_done(ui, loop, logic) -> None:
    ui.runButton.click()
    loop.turn_until(lambda: not logic.isRunning)


def test_the_run_button_says_what_is_missing(panel, ui):
    assert not ui.runButton.enabled
    assert ui.runButton.toolTip == "Anatomy segmentation needs T2w. Select a volume."
    assert (ui.runReasonLabel.visible, ui.runReasonLabel.text) == (True, ui.runButton.toolTip)
    panel.parameters.t2w = add_volume(a_scene(), an_oblique_t2w(), "T2")
    assert (ui.runButton.enabled, ui.runButton.text) == (True, "Run both")
    assert (ui.runReasonLabel.visible, ui.runReasonLabel.text) == (False, "")
    panel.parameters.bundleB = ""
    assert ui.runButton.text == "Run"
    panel.parameters.bundleA = ""
    assert ui.runButton.toolTip.startswith("Choose a network.")
    panel.setParameterNode(None)
    assert ui.runButton.toolTip == "Open the module to choose a case."


def test_a_click_runs_both_and_their_rows_fill(panel, ui, loop, logic, t2w):
    ui.runButton.click()
    assert (ui.runButton.enabled, ui.cancelButton.enabled) == (False, True)
    assert not any(box.enabled for box in (ui.studyCollapsibleButton, ui.networksCollapsibleButton))
    assert ui.progressALabel.text == "waits"
    loop.turn_until(lambda: not logic.isRunning)
    assert (ui.statusLabel.text, ui.progressABar.value, ui.progressBBar.value) == ("Done", 100, 100)
    assert ui.progressBLabel.text.startswith("Done in ")
    assert (ui.runButton.enabled, ui.cancelButton.enabled, ui.studyCollapsibleButton.enabled) == (True, False, True)
    assert [arm.bundle for arm in logic.lastRun.arms] == [PRETRAINED, SCRATCH]
    assert any("A: Running the network" in line for line in ui.logTextEdit.lines)
    assert ui.logTextEdit.bar.value == len(ui.logTextEdit.lines)


def test_cancel_is_said_at_once_and_run_is_there_again(panel, ui, loop, logic, t2w):
    ui.runButton.click()
    ui.cancelButton.click()
    loop.turn_until(lambda: not logic.isRunning)
    assert ui.statusLabel.text == "Canceled"
    assert (ui.runButton.enabled, ui.cancelButton.enabled) == (True, False)
    assert ui.progressALabel.text == "not finished"


def test_a_failure_stays_on_the_panel_and_opens_the_log(panel, ui, loop, logic, t2w):
    panel.parameters.bundleA = "no-such-network"
    run_until_done(ui, loop, logic)
    assert "no-such-network" in ui.statusLabel.text
    assert ui.logCollapsibleButton.collapsed is False
    assert ui.progressABar.value == 0


def test_details_name_versions_and_the_error_but_no_patient_and_no_folder(panel, ui, loop, logic, t2w, clipboard):  # noqa: F811
    logic.progress.connect(lambda progress: os.kill(logic._worker.ready.process_id, signal.SIGKILL))
    run_until_done(ui, loop, logic)
    ui.copyDetailsButton.enabled = True
    ui.copyDetailsButton.click()
    assert "The worker was killed: most likely out of memory" in clipboard.text
    assert f"Networks: {PRETRAINED}, {SCRATCH}" in clipboard.text
    assert "Doe" not in clipboard.text


@pytest.fixture
def device(in_qt, ui, logic):  # noqa: F811
    from VFMTransferSlicer.panel.run import DeviceSection

    device = DeviceSection(ui, logic)
    device.parameters = SomeParameters()
    device.setParameters(device.parameters)
    device.update()
    return device


def test_devices_are_those_that_were_found_to_work(device, ui, logic):
    assert [value for _, value in ui.deviceComboBox.items] == ["auto", "cpu"]
    onnx = {"devices": {"cpu": "", "openvino": "", "cuda": "no driver"}}
    machine = {"system": "Linux", "nvidia_gpus": []}
    logic.setMachine({"runtimes": {"onnx": onnx, "torch": {"error": "not installed"}}, "machine": machine})
    assert [value for _, value in ui.deviceComboBox.items] == ["auto", "openvino", "cpu"]
    assert ui.deviceReasonLabel.text.startswith("Networks run on the CPU")
    ui.deviceComboBox.choose("openvino")
    assert device.parameters.device == "openvino"
    ui.runtimeComboBox.choose("torch")
    assert (device.parameters.runtime, device.parameters.device) == ("torch", "auto")


def test_a_psa_goes_into_the_numbers_and_a_wrong_one_is_a_sentence_and_no_run(panel, ui, loop, logic, t2w):
    panel.parameters.psa = "6,5"
    ui.runButton.click()
    assert "with a point, e.g. 6.5" in ui.statusLabel.text
    assert logic.lastRun is None
    panel.parameters.psa = "6.5"
    run_until_done(ui, loop, logic)
    gland = logic.lastRun.arms[0].numbers["gland"]
    assert gland is None or gland["psa_ng_ml"] == 6.5
