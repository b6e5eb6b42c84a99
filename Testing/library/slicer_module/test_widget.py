"""The panel's run section with stand-ins for Qt's widgets, on real MRML, with a real worker: click, wait, look."""

import os
import signal

import numpy as np
import pytest
from panel_stand_ins import SomeParameters, clipboard, in_qt, settings, widgets  # noqa: F401  (fixtures)
from qt_stand_ins import AnEventLoop, a_qt_worker
from slicer_runs import add_segmentation
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, vtk

from VFMTransferLib.worker.messages import Load, Ping
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


def test_the_networks_are_loaded_when_they_are_chosen_and_not_again_with_each_change(panel, worker, t2w, monkeypatch):
    sent = []
    monkeypatch.setattr(worker, "send", sent.append)
    panel.parameters.psa = "4"
    panel.parameters.bundleB = ""
    panel.parameters.psa = "5"
    panel.parameters.device = "cpu"
    panel.parameters.t2w = None  # no run can begin
    panel.parameters.device = "auto"
    assert sent == [Load((PRETRAINED,)), Load((PRETRAINED,), device="cpu")]


def test_a_worker_that_is_gone_is_started_again_with_the_next_change(panel, loop, worker, t2w):
    worker.close()
    panel.parameters.psa = "4"
    loop.turn_until(lambda: worker.ready is not None)


def test_a_run_does_not_load_again_what_was_loaded_at_the_choice(panel, ui, loop, logic, worker, t2w):
    worker.close()
    panel.parameters.bundleB = ""
    panel.parameters.bundleB = SCRATCH  # starts a worker
    loop.turn_until(lambda: worker.ready is not None)
    names: tuple[str, ...] = ()
    while set(names) != {PRETRAINED, SCRATCH}:
        worker.send(Ping(1))
        names = worker.receive(60).networks
    run_until_done(ui, loop, logic)
    assert ui.statusLabel.text == "Done"


def test_one_network_alone_has_one_row(panel, ui, loop, logic, t2w):
    panel.parameters.bundleA = ""
    run_until_done(ui, loop, logic)
    assert (ui.progressABar.visible, ui.progressBBar.visible, ui.progressBBar.value) == (False, True, 100)


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


def fail(panel, ui, loop, logic, **choices) -> str:
    """Begin a run that cannot be prepared; what the user sees of it."""
    for name, value in choices.items():
        setattr(panel.parameters, name, value)
    run_until_done(ui, loop, logic)
    assert "Doe" in ui.statusLabel.text
    return ui.statusLabel.text


def copied(ui, clipboard) -> str:  # noqa: F811
    ui.copyDetailsButton.enabled = True
    ui.copyDetailsButton.click()
    return clipboard.text


def empty_volume(name: str, scene=None):
    return (scene or a_scene()).AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def test_details_name_no_patient_of_an_earlier_run_or_a_closed_scene(panel, ui, loop, logic, clipboard):  # noqa: F811
    first = empty_volume("Doe, John: T2")
    fail(panel, ui, loop, logic, t2w=first)
    first.GetScene().Clear(False)
    assert logic.lastRun is None
    assert "Volume '<t2w>' must hold voxels" in copied(ui, clipboard)
    fail(panel, ui, loop, logic, t2w=empty_volume("Doe, Jane: T2"))
    text = copied(ui, clipboard)
    assert text.count("Volume '<t2w>' must hold voxels") == 3  # of both runs, and the details of the second
    assert "Doe" not in text
    assert any("Doe" in line for line in ui.logTextEdit.lines)


def test_details_name_no_patient_of_a_run_that_leaves_the_former_one(panel, ui, loop, logic, t2w, clipboard):  # noqa: F811
    panel.parameters.bundleB = ""
    run_until_done(ui, loop, logic)
    former = logic.lastRun
    fail(panel, ui, loop, logic, t2w=empty_volume("Doe, Jane: T2", t2w.GetScene()))
    assert logic.lastRun is former
    assert "Doe" not in copied(ui, clipboard)


@pytest.mark.parametrize("moved", [False, True])
def test_details_name_no_gland_segment_transform_or_region(panel, ui, loop, logic, t2w, clipboard, moved):  # noqa: F811
    scene = t2w.GetScene()
    nothing = np.zeros(an_oblique_t2w().geometry.shape, np.uint8)
    gland = add_segmentation(scene, t2w, nothing, ("Doe's bladder", "Doe's rectum"), "Doe, prostate")
    fail(panel, ui, loop, logic, gland=gland)
    region = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Doe, region")
    fail(panel, ui, loop, logic, gland=None, roi=region)
    if moved:
        bend = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Doe, bent")
        t2w.SetAndObserveTransformNodeID(bend.GetID())
        assert "'Doe, bent' is nonlinear" in fail(panel, ui, loop, logic)
    assert "Doe" not in copied(ui, clipboard)


def test_a_closed_scene_leaves_no_run_to_look_at(panel, ui, loop, logic):
    scene = a_scene()
    panel.parameters.t2w = add_volume(scene, an_oblique_t2w(), "T2")
    run_until_done(ui, loop, logic)
    scene.Clear(False)
    panel.setParameterNode(None)
    assert logic.lastRun is None
    assert not ui.runButton.enabled
    assert (ui.statusLabel.text, ui.progressABar.visible, ui.progressABar.value) == ("", False, 0)


def test_sections_are_told_once_more_of_what_one_of_them_changes(in_qt, logic):  # noqa: F811
    from VFMTransferSlicer.widget import Panel

    class Eager:
        """Chooses a network as soon as there is none."""

        def __init__(self, seen) -> None:
            self.parameters, self.seen = None, seen

        def setParameters(self, parameters) -> None:  # noqa: N802
            self.parameters = parameters

        def update(self) -> None:
            self.seen.append(self.parameters and self.parameters.bundleA)
            if self.parameters and not self.parameters.bundleA:
                self.parameters.bundleA = "chosen"

    first, second = [], []
    panel = Panel(widgets(), logic, [Eager(first), Eager(second)])
    panel.setParameterNode(SomeParameters())
    assert (first, second) == ([None, "", "chosen"], [None, "chosen", "chosen"])


def test_a_parameter_node_that_is_left_is_not_heard_any_more(panel, ui):
    former = panel.parameters
    panel.setParameterNode(SomeParameters())
    former.bundleA = ""
    assert "T2w" not in ui.runButton.toolTip
    assert not former.events.HasObserver(vtk.vtkCommand.ModifiedEvent)


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


def test_a_device_of_another_computer_is_still_shown(device, ui):
    device.parameters.device = "cuda"
    device.update()
    assert ui.deviceComboBox.items[ui.deviceComboBox.currentIndex][1] == "cuda"


def test_a_python_of_ones_own_is_kept_in_the_settings(device, ui, settings):  # noqa: F811
    ui.pythonPathLineEdit.currentPath = "/opt/python"
    ui.pythonPathLineEdit.slots["currentPathChanged(QString)"]("/opt/python")
    assert settings == {"VFMTransfer/Python": "/opt/python"}
    from VFMTransferSlicer.workers.process import workerPython

    assert workerPython() == "/opt/python"
    ui.pythonPathLineEdit.currentPath = ""
    ui.pythonPathLineEdit.slots["validInputChanged(bool)"](False)
    assert workerPython() != "/opt/python"


def test_a_psa_goes_into_the_numbers_and_a_wrong_one_is_a_sentence_and_no_run(panel, ui, loop, logic, t2w):
    panel.parameters.psa = "6,5"
    ui.runButton.click()
    assert "with a point, e.g. 6.5" in ui.statusLabel.text
    assert logic.lastRun is None
    panel.parameters.psa = "6.5"
    run_until_done(ui, loop, logic)
    gland = logic.lastRun.arms[0].numbers["gland"]
    assert gland is None or gland["psa_ng_ml"] == 6.5
