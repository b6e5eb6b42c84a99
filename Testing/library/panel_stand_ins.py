"""Stands for Qt's widgets and the parameter node: what the sections use of them and, as in PythonQt, nothing else."""

import sys
import tempfile
from types import ModuleType, SimpleNamespace

import pytest
from slicer_scenes import slicer, vtk

from VFMTransferSlicer.signals import Signal


class AWidget:
    """A button, a label, a bar."""

    __slots__ = ("checked", "collapsed", "currentPath", "enabled", "slots", "text", "toolTip", "value", "visible")

    def __init__(self) -> None:
        self.slots = {}
        self.checked = False

    def connect(self, signal: str, slot) -> None:
        self.slots[signal] = slot

    def click(self) -> None:
        assert self.enabled
        self.slots["clicked(bool)"](False)


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

    def choose(self, value: str) -> None:
        """As the user does."""
        self.currentIndex = self.findData(value)
        self.slots["activated(int)"](self.currentIndex)


class AScrollBar:
    """Of a text of as many lines; it stays where it was put."""

    def __init__(self, lines: list[str]) -> None:
        self._lines, self.value = lines, 0

    @property
    def maximum(self) -> int:
        return len(self._lines)

    def setValue(self, value: int) -> None:  # noqa: N802
        self.value = value


class ATextEdit(AWidget):
    __slots__ = ("bar", "lines")

    def __init__(self) -> None:
        super().__init__()
        self.lines = []
        self.bar = AScrollBar(self.lines)

    def verticalScrollBar(self) -> AScrollBar:  # noqa: N802
        return self.bar

    def appendPlainText(self, line: str) -> None:  # noqa: N802
        self.lines.append(line)


class SomeLogic:
    """A run is under way when a test sets it so; every other attribute is a signal."""

    isRunning = False  # noqa: N815  (the module's word)
    lastRun = None  # noqa: N815

    def __getattr__(self, name):
        self.__dict__[name] = Signal()
        return self.__dict__[name]


class SomeParameters:
    """A parameter node without its wrapper, which the wheel lacks: a change is an event."""

    def __init__(self) -> None:
        self.__dict__["events"] = vtk.vtkObject()
        nodes = dict.fromkeys(("t2w", "hbv", "adc", "gland", "reference", "roi", "readingTable"))
        texts = {
            "bundleA": "",
            "bundleB": "",
            "psa": "",
            "phaseAxis": "auto",
            "runtime": "auto",
            "device": "auto",
            "region": "whole",
        }
        self.__dict__.update(nodes, task="anatomy-segmentation", **texts)

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


class TheClipboard:
    def __init__(self) -> None:
        self.text = ""

    def setText(self, text: str) -> None:  # noqa: N802
        self.text = text


def widgets(**others) -> SimpleNamespace:
    """The widgets of the run and device sections."""
    buttons = ("runButton", "cancelButton", "copyDetailsButton")
    boxes = ("studyCollapsibleButton", "networksCollapsibleButton", "advancedCollapsibleButton", "logCollapsibleButton")
    rows = [f"progress{letter}{part}" for letter in "AB" for part in ("TitleLabel", "Bar", "Label")]
    names = (*buttons, *boxes, *rows, "statusLabel", "runReasonLabel", "deviceReasonLabel", "pythonPathLineEdit")
    combos = {name: AComboBox() for name in ("runtimeComboBox", "deviceComboBox", "regionComboBox")}
    return SimpleNamespace(**{name: AWidget() for name in names}, **combos, logTextEdit=ATextEdit(), **others)


@pytest.fixture
def settings() -> dict[str, str]:
    return {}


@pytest.fixture
def clipboard() -> TheClipboard:
    return TheClipboard()


@pytest.fixture
def in_qt(monkeypatch, settings, clipboard):
    """Makes the panel's files importable, with stand-ins for what only the application has."""
    modules = {name: ModuleType(name) for name in ("qt", "slicer.i18n", "slicer.parameterNodeWrapper")}
    modules["qt"].QSettings = lambda: SimpleNamespace(setValue=settings.__setitem__)
    modules["slicer.i18n"].tr = str
    modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = lambda wrapped: wrapped
    modules["slicer.parameterNodeWrapper"].WithinRange = lambda least, most: (least, most)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    app = SimpleNamespace(applicationVersion="5.12", temporaryPath=tempfile.gettempdir(), clipboard=lambda: clipboard)
    monkeypatch.setattr(slicer, "app", app, raising=False)
    monkeypatch.setattr(slicer.util, "settingsValue", lambda key, default: settings.get(key, default), raising=False)
    yield
    for name in [name for name in sys.modules if name.startswith("VFMTransferSlicer.") and "panel" in name]:
        del sys.modules[name]
    for name in ("VFMTransferSlicer.widget", "VFMTransferSlicer.parameters"):
        sys.modules.pop(name, None)
