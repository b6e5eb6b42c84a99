"""The section that opens the views, as long as networks are read blinded, with stand-ins for Qt and for the views."""

import sys
from types import SimpleNamespace

import pytest
from panel_stand_ins import AComboBox, AWidget, clipboard, in_qt, settings  # noqa: F401  (fixtures)

from VFMTransferSlicer.signals import Signal

WIDGETS = (
    *("fadeSlider", "flickerButton", "checkerboardButton", "revealButton", "sideBySideButton", "examButton"),
    *("opacitySlider", "fadeLabel", "viewHintLabel"),
)


class ATimer:
    """What is to come later comes at once."""

    singleShot = staticmethod(lambda milliseconds, slot: slot())  # noqa: N815  (Qt's names, here and below)

    def setInterval(self, milliseconds: int) -> None:  # noqa: N802
        pass

    def connect(self, signal: str, slot) -> None:
        pass

    def stop(self) -> None:
        pass

    def isActive(self) -> bool:  # noqa: N802
        return False


class SomeLayout:
    """Remembers how a run was shown."""

    def __init__(self) -> None:
        self.changed = Signal()
        self.run = self.viewing = self.exam = None
        self.tags, self.calls = (), []

    @property
    def isShown(self) -> bool:  # noqa: N802  (the module's names, here and below)
        return self.run is not None

    def showInSteps(self, run, *, order, isBlinded, **others):  # noqa: N802, N803
        self.calls.append((order, isBlinded))
        yield
        self.run = run
        self.changed.emit()

    def leave(self) -> None:
        """The user chooses another layout."""
        self.run = None
        self.changed.emit()


@pytest.fixture
def ui() -> SimpleNamespace:
    combos = {name: AComboBox() for name in ("pairComboBox", "styleComboBox")}
    return SimpleNamespace(**{name: AWidget() for name in WIDGETS}, **combos)


@pytest.fixture
def logic() -> SimpleNamespace:
    run = SimpleNamespace(isInScene=True, arms=[1, 2], inputs={})
    return SimpleNamespace(started=Signal(), finished=Signal(), isRunning=False, lastRun=run)


@pytest.fixture
def layout() -> SomeLayout:
    return SomeLayout()


@pytest.fixture
def section(in_qt, ui, logic, layout):  # noqa: F811
    sys.modules["qt"].QTimer = ATimer
    from VFMTransferSlicer.panel.views import ViewSection

    section = ViewSection(ui, logic, lambda: layout)
    section.setParameters(SimpleNamespace(t2w=None, secondRow=True, segmentStyle="outline", opacity=0.5))
    return section


def test_in_a_reading_the_views_come_back_as_they_were_after_another_layout(section, ui, logic, layout):
    section.setBlinded(True)
    section.show(order=(1, 0), isBlinded=True)
    assert not ui.sideBySideButton.enabled
    layout.leave()
    assert ui.sideBySideButton.enabled
    ui.sideBySideButton.slots["toggled(bool)"](True)
    assert layout.calls == [((1, 0), True)] * 2
    assert not ui.sideBySideButton.enabled


def test_in_a_reading_nothing_is_shown_that_is_on_its_way(section, ui, logic, layout):
    section.setBlinded(True)
    section.show(order=(1, 0), isBlinded=True)
    layout.leave()
    logic.isRunning = True
    section.update()
    assert not ui.sideBySideButton.enabled


def test_after_a_reading_they_are_shown_by_name(section, ui, logic, layout):
    section.setBlinded(True)
    section.show(order=(1, 0), isBlinded=True)
    layout.leave()
    section.setBlinded(False)
    ui.sideBySideButton.slots["toggled(bool)"](True)
    assert layout.calls[1:] == [((0, 1), False)]


def test_it_is_reported_when_the_views_are_shown(section, layout):
    seen = []
    section.shown.connect(lambda: seen.append(layout.isShown))
    section.show()
    assert seen == [True]
