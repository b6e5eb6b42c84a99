"""The panel with stand-ins for Qt's widgets, on real MRML, with a real worker: click, wait, look at the scene."""

import os
import sys
import time
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer, vtk
from test_slicer_process import ATimer

from VFMTransferLib.worker_client import WorkerClient
from VFMTransferSlicer.logic import TransferLogic
from VFMTransferSlicer.timed_worker import TimedWorker

SHIPPED = ("profound-prostate-demo-pretrained", "profound-prostate-demo-scratch")
WAIT_S = 60


class AWidget:
    """Has the properties that the panel uses and, as in PythonQt, no others."""

    __slots__ = ("checked", "enabled", "slots", "text", "toolTip", "value")

    def __init__(self) -> None:
        self.slots = {}
        self.checked = False

    def connect(self, signal: str, slot) -> None:
        self.slots[signal] = slot


class AComboBox(AWidget):
    __slots__ = ("currentIndex", "items")

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def addItem(self, text: str, value: str) -> None:  # noqa: N802  (Qt's names, here and below)
        self.items.append((text, value))
        self.currentIndex = max(self.currentIndex, 0)

    def clear(self) -> None:
        self.items, self.currentIndex = [], -1

    def itemData(self, index: int):  # noqa: N802
        return self.items[index][1] if 0 <= index < len(self.items) else None

    def findData(self, value: str) -> int:  # noqa: N802
        return next((index for index, item in enumerate(self.items) if item[1] == value), -1)

    def setCurrentIndex(self, index: int) -> None:  # noqa: N802
        self.currentIndex = index


class ATable(AWidget):
    __slots__ = ("cells", "columns", "rows")

    def setColumnCount(self, count: int) -> None:  # noqa: N802
        self.cells = {}

    def setRowCount(self, count: int) -> None:  # noqa: N802
        self.cells = {}

    def setHorizontalHeaderLabels(self, labels: list[str]) -> None:  # noqa: N802
        self.columns = labels

    def setVerticalHeaderLabels(self, labels: list[str]) -> None:  # noqa: N802
        self.rows = labels

    def setItem(self, row: int, column: int, item: str) -> None:  # noqa: N802
        self.cells[row, column] = item


class SomeParameters:
    """A parameter node without its wrapper, which the wheel lacks: a change is an event."""

    def __init__(self) -> None:
        self.__dict__["events"] = vtk.vtkObject()
        self.__dict__.update(t2w=None, hbv=None, adc=None, task="anatomy-segmentation", bundleA="", bundleB="")

    def __setattr__(self, name: str, value) -> None:
        self.__dict__[name] = value
        self.events.InvokeEvent(vtk.vtkCommand.ModifiedEvent)

    def AddObserver(self, *arguments) -> int:  # noqa: N802
        return self.events.AddObserver(*arguments)

    def RemoveObserver(self, tag: int) -> None:  # noqa: N802
        self.events.RemoveObserver(tag)

    def connectGui(self, ui) -> int:  # noqa: N802
        return 1

    def disconnectGui(self, tag: int) -> None:  # noqa: N802
        assert tag == 1


@pytest.fixture
def panel_class(monkeypatch):
    """The panel, imported with stand-ins for what only the application has."""
    modules = {name: ModuleType(name) for name in ("qt", "slicer.i18n", "slicer.parameterNodeWrapper")}
    modules["qt"].QTableWidgetItem = str
    modules["slicer.i18n"].tr = str
    modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = lambda wrapped: wrapped
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("VFMTransferSlicer.widget", "VFMTransferSlicer.parameters"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from VFMTransferSlicer.widget import Panel

    yield Panel
    for name in ("VFMTransferSlicer.widget", "VFMTransferSlicer.parameters"):
        sys.modules.pop(name, None)


@pytest.fixture
def ui() -> SimpleNamespace:
    combos = {name: AComboBox() for name in ("taskComboBox", "bundleAComboBox", "bundleBComboBox")}
    names = ("runButton", "cancelButton", "compareButton", "inputsCollapsibleButton", "progressBar", "statusLabel")
    return SimpleNamespace(**combos, **{name: AWidget() for name in names}, resultsTable=ATable())


@pytest.fixture
def timer() -> ATimer:
    return ATimer()


@pytest.fixture(scope="module")
def client():
    with WorkerClient(environment={**os.environ, "OMP_NUM_THREADS": "1"}) as client:
        yield client


@pytest.fixture
def shown() -> list:
    """What the comparison's layout was asked to show."""
    return []


@pytest.fixture
def panel(panel_class, ui, timer, client, shown, monkeypatch):
    @contextmanager
    def with_error_display(message: str, waitCursor: bool = False):  # noqa: N803
        yield

    monkeypatch.setattr(slicer.util, "tryWithErrorDisplay", with_error_display, raising=False)
    layout = SimpleNamespace(
        show=lambda volume, segmentations: shown.append((volume, list(segmentations.values()))),
        restore=lambda: shown.append("restored"),
    )
    panel = panel_class(ui, TransferLogic(client, TimedWorker(client, timer)), lambda: layout)
    panel.parameters = SomeParameters()
    panel.setParameterNode(panel.parameters)
    return panel


def click_run(panel, timer: ATimer) -> None:
    panel.ui.runButton.slots["clicked(bool)"]()
    deadline = time.monotonic() + WAIT_S
    while timer.isActive and time.monotonic() < deadline:
        timer.fire()


def test_the_shipped_pair_is_chosen_and_run_says_what_is_missing(panel, ui):
    assert (panel.parameters.bundleA, panel.parameters.bundleB) == SHIPPED
    assert not ui.runButton.enabled
    assert ui.runButton.toolTip == "Anatomy segmentation needs T2w, but lacks T2w. Select a volume for each."
    panel.parameters.t2w = add_volume(a_scene(), an_oblique_t2w(), "T2")
    assert ui.runButton.enabled


def test_a_task_without_networks_says_so(panel, ui):
    ui.taskComboBox.slots["activated(int)"](ui.taskComboBox.findData("super-resolution"))
    assert panel.parameters.task == "super-resolution"
    assert not ui.runButton.enabled
    assert ui.runButton.toolTip.startswith("Choose a network.")


def test_a_click_runs_both_and_shows_their_numbers_and_views(panel, ui, timer, shown):
    panel.parameters.t2w = t2w = add_volume(a_scene(), an_oblique_t2w(), "T2")
    click_run(panel, timer)
    assert (ui.statusLabel.text, ui.progressBar.value) == ("Done", 100)
    assert ui.resultsTable.rows == ["Prostate, ml"]
    assert set(ui.resultsTable.cells) == {(0, 0), (0, 1)}
    assert (ui.runButton.enabled, ui.cancelButton.enabled, ui.compareButton.enabled) == (True, False, True)
    ui.compareButton.slots["toggled(bool)"](True)
    ui.compareButton.slots["toggled(bool)"](False)
    assert shown == [(t2w, slicer.util.getNodesByClass("vtkMRMLSegmentationNode")), "restored"]


def test_cancel_is_said_and_run_is_there_again(panel, ui, timer):
    panel.parameters.t2w = add_volume(a_scene(), an_oblique_t2w(), "T2")
    panel.logic.progress.connect(lambda progress: ui.cancelButton.slots["clicked(bool)"]())
    click_run(panel, timer)
    assert ui.statusLabel.text == "Canceled"
    assert (ui.runButton.enabled, ui.cancelButton.enabled) == (True, False)


def test_a_failure_stays_on_the_panel_with_its_details_in_the_tooltip(panel, ui, timer):
    panel.parameters.t2w = add_volume(a_scene(), an_oblique_t2w(), "T2")
    panel.parameters.bundleA = "no-such-network"
    click_run(panel, timer)
    assert "no-such-network" in ui.statusLabel.text
    assert ui.progressBar.value == 0


def test_a_closed_scene_leaves_nothing_to_compare(panel, ui, timer):
    scene = a_scene()
    panel.parameters.t2w = add_volume(scene, an_oblique_t2w(), "T2")
    click_run(panel, timer)
    scene.Clear(False)
    panel.clear()
    panel.setParameterNode(None)
    assert not ui.compareButton.enabled
    assert not ui.runButton.enabled
