"""Setup on the panel, with stand-ins for Qt and for child processes: what is shown, asked and done."""

import json
import sys
from types import SimpleNamespace

import pytest
from doctor_reports import a_report
from panel_stand_ins import AComboBox, ATextEdit, AWidget, SomeParameters, clipboard, in_qt, settings  # noqa: F401

from VFMTransferLib.core.errors import OutputError
from VFMTransferSlicer.signals import Signal

READY, NOTHING = a_report(["onnxruntime"]), a_report([])


class ALogic:
    """What the section uses of the logic."""

    def __init__(self) -> None:
        self.machine, self.isRunning, self.inspected = None, False, Signal()

    def setMachine(self, machine) -> None:  # noqa: N802
        self.machine = machine


@pytest.fixture
def panel(in_qt, monkeypatch):  # noqa: F811
    """The section of a panel that is open, on the computer that `show` describes."""
    sys.modules["qt"].qVersion = lambda: "5.15.2"
    from VFMTransferSlicer.panel import setup

    buttons = [f"setup{name}Button" for name in ("Install", "Check", "Torch", "CopyReport")]
    names = (*buttons, "runInstallButton", "setupStatusLabel", "setupCollapsibleButton", "pythonPathLineEdit")
    ui = SimpleNamespace(
        **{name: AWidget() for name in names}, setupPackageComboBox=AComboBox(), setupLogTextEdit=ATextEdit()
    )
    ui.setupCollapsibleButton.collapsed = True
    panel = SimpleNamespace(ui=ui, logic=ALogic(), later=[], inspections=[], asked=[], plans=[], answer=True, closed=0)
    worker = SimpleNamespace(is_busy=False, close=lambda: setattr(panel, "closed", panel.closed + 1))
    monkeypatch.setattr(setup, "theWorker", lambda: worker)
    monkeypatch.setattr(setup, "install", panel.plans.append)

    def child(arguments, on_line, on_done):
        assert arguments == ["doctor", "--json"]
        return SimpleNamespace(start=lambda: panel.inspections.append(on_done), cancel=lambda: None)

    def ask(question: str) -> bool:
        panel.asked.append(question)
        return panel.answer

    def show(report) -> None:
        if not panel.inspections:
            panel.section.setParameters(SomeParameters())
            panel.later.pop(0)()
        panel.inspections.pop()(0, json.dumps(report), [])

    panel.section = setup.SetupSection(ui, panel.logic, lambda ms, slot: panel.later.append(slot), ask, child)
    panel.worker, panel.show, panel.module = worker, show, setup
    return panel


def test_a_ready_computer_leaves_the_box_closed(panel):
    panel.show(READY)
    assert panel.ui.setupCollapsibleButton.collapsed
    assert panel.logic.machine == READY
    assert panel.section.unavailableReason() == ""
    assert not panel.ui.runInstallButton.visible


def test_where_nothing_runs_the_box_opens_and_run_states_why(panel):
    panel.show(NOTHING)
    assert not panel.ui.setupCollapsibleButton.collapsed
    assert "ONNX Runtime" in panel.section.unavailableReason()
    assert panel.ui.runInstallButton.visible
    assert panel.ui.setupInstallButton.enabled


def test_an_install_asks_closes_the_worker_and_is_inspected(panel):
    panel.show(NOTHING)
    panel.ui.runInstallButton.click()
    assert "onnxruntime" in panel.asked[0]
    assert (len(panel.plans), panel.closed) == (1, 1)
    assert not panel.ui.setupInstallButton.enabled
    panel.show(READY)
    assert panel.ui.setupStatusLabel.text.startswith("Installed.\nReady")


def test_declined_consent_installs_nothing(panel):
    panel.show(NOTHING)
    panel.answer = False
    panel.ui.setupInstallButton.click()
    panel.ui.setupTorchButton.click()
    assert len(panel.asked) == 2
    assert panel.plans == []
    assert panel.closed == 0


def test_a_run_of_the_console_is_waited_for(panel):
    panel.show(NOTHING)
    panel.worker.is_busy = True
    panel.ui.setupInstallButton.click()
    assert panel.asked == panel.plans == []
    assert "run is in progress" in panel.ui.setupStatusLabel.text


def test_a_failed_install_states_why(panel, monkeypatch):
    def fail(plan):
        raise OutputError("pip could not install it.")

    monkeypatch.setattr(panel.module, "install", fail)
    panel.show(NOTHING)
    panel.ui.setupInstallButton.click()
    panel.show(NOTHING)
    assert "pip" in panel.ui.setupStatusLabel.text
    assert panel.section.unavailableReason()


def test_a_build_that_cannot_work_here_cannot_be_installed(panel):
    panel.show(NOTHING)
    panel.ui.setupPackageComboBox.choose("onnxruntime-gpu")
    assert not panel.ui.setupInstallButton.enabled
    assert "NVIDIA" in panel.ui.setupInstallButton.toolTip


def test_another_python_is_inspected_once_its_path_is_whole(panel):
    panel.show(READY)
    for path in ("/opt/p", "/opt/python"):
        panel.ui.pythonPathLineEdit.slots["currentPathChanged(QString)"](path)
    for slot in panel.later:
        slot()
    assert len(panel.inspections) == 1


def test_a_python_that_cannot_be_inspected_opens_the_box(panel):
    panel.section.setParameters(SomeParameters())
    panel.later.pop(0)()
    panel.inspections.pop()(1, "", ["no module"])
    assert panel.logic.machine is None
    assert panel.ui.setupLogTextEdit.lines == ["no module"]
    assert not panel.ui.setupCollapsibleButton.collapsed


def test_the_report_is_copied(panel, clipboard):  # noqa: F811
    panel.show(READY)
    panel.ui.setupCopyReportButton.click()
    assert "Slicer 5.12" in clipboard.text
