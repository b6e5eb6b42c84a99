"""The section for blinded reading, with stand-ins for Qt's widgets, on real MRML."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer

from VFMTransferSlicer.logic import TransferLogic
from VFMTransferSlicer.reading.blinded import Side
from VFMTransferSlicer.reading.readings import ReadingTable
from VFMTransferSlicer.runs import ArmInScene, RunInScene
from VFMTransferSlicer.signals import Signal

BUTTONS = ("Start", "Left", "Equal", "Right", "Reveal", "Export", "Resume")
NEEDS_THE_APPLICATION = ("VFMTransferSlicer.panel", "VFMTransferSlicer.parameters")


class AWidget:
    """Has the properties that the section uses and, as in PythonQt, no others."""

    __slots__ = ("checked", "currentIndex", "enabled", "items", "slots", "text", "toolTip")

    def __init__(self) -> None:
        self.slots, self.items = {}, []

    def connect(self, signal: str, slot) -> None:
        self.slots[signal] = slot

    def addItem(self, text: str, value: int) -> None:  # noqa: N802  (Qt's names, here and below)
        self.items.append((text, value))

    def itemData(self, index: int) -> int:  # noqa: N802
        return self.items[index][1]

    def setCurrentIndex(self, index: int) -> None:  # noqa: N802
        self.currentIndex = index


class SomeViews:
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.shown, self.calls = Signal(), []

    def show(self, order, isBlinded):  # noqa: N803
        self.calls.append(("blinded" if isBlinded else "open", order))

    def unblind(self) -> None:
        self.calls.append("unblind")

    def restore(self) -> None:
        self.calls.append("restore")


@pytest.fixture
def ui() -> SimpleNamespace:
    names = [f"reading{name}Button" for name in BUTTONS]
    return SimpleNamespace(
        **{name: AWidget() for name in (*names, "readingConfidenceComboBox", "readingStatusLabel", "readingTallyLabel")}
    )


@pytest.fixture
def logic() -> SimpleNamespace:
    kept = []  # those that are named

    def keep(run: RunInScene) -> None:
        TransferLogic.keep(None, run)
        if not run.isMasked:
            kept.append(run)

    signals = {name: Signal() for name in ("started", "armLoaded", "finished")}
    return SimpleNamespace(**signals, isRunning=False, lastRun=None, kept=kept, keep=keep)


@pytest.fixture
def views() -> SomeViews:
    return SomeViews()


def forget_what_needs_the_application() -> None:
    for name in [name for name in sys.modules if name.startswith(NEEDS_THE_APPLICATION)]:
        del sys.modules[name]


@pytest.fixture
def section(ui, logic, views, monkeypatch):
    modules = {name: ModuleType(name) for name in ("qt", "slicer.i18n", "slicer.parameterNodeWrapper")}
    modules["slicer.i18n"].tr = str
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None, raising=False)
    modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = lambda wrapped: wrapped
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    forget_what_needs_the_application()
    from VFMTransferSlicer.panel.reading import ReadingSection

    scene = a_scene()
    section = ReadingSection(ui, logic, views)
    section.scene, section.said = scene, []
    section.blinded.connect(section.said.append)
    section.parameters = SimpleNamespace(readingTable=None)
    section.setParameters(section.parameters)
    yield section
    forget_what_needs_the_application()


def a_run(scene, name: str = "T2", brighter: int = 0) -> RunInScene:
    volume = an_oblique_t2w()
    volume = type(volume)(volume.array + brighter, volume.geometry, volume.name)
    arms = [ArmInScene(bundle, {"model": {"sha256": bundle}}) for bundle in ("first", "second")]
    return RunInScene("anatomy-segmentation", {}, add_volume(scene, volume, name), arms)


def a_segmented_run(scene, name: str = "T2", brighter: int = 0) -> RunInScene:
    run = a_run(scene, name, brighter)
    for arm in run.arms:
        label = f"{name} segmentation ({arm.bundle})"
        arm.segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", label)
        arm.segmentation.CreateDefaultDisplayNodes()
    return run


def are_named(run: RunInScene) -> bool:
    """Whether both networks have their own names, or neither has."""
    (named,) = {
        node.GetName().endswith(f"({arm.bundle})") and bool(node.GetDisplayNode().GetVisibility())
        for arm in run.arms
        for node in arm.nodes
    }
    return named


def choose(path) -> None:
    """What the user will choose in the next file dialog."""
    dialog = SimpleNamespace(getSaveFileName=lambda *_: str(path), getOpenFileName=lambda *_: str(path))
    sys.modules["qt"].QFileDialog = dialog


def click(ui, name: str, *arguments) -> None:
    ui.__dict__[f"reading{name}Button"].slots["clicked(bool)"](*arguments)


def run_through(logic, run: RunInScene) -> None:
    logic.isRunning = True
    logic.started.emit(run)
    logic.lastRun, logic.isRunning = run, False
    logic.finished.emit("done")


def readings(section):
    return ReadingTable(section.parameters.readingTable).readings()


def test_a_reading_goes_from_start_to_the_tally(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    assert views.calls[0][0] == "blinded"
    assert not ui.readingRevealButton.enabled
    click(ui, "Left")
    assert ui.readingLeftButton.checked
    assert ui.readingTallyLabel.text.split("\n") == ["first: 0", "second: 0", "equal: 0; not revealed yet: 1"]
    click(ui, "Reveal")
    (reading,) = readings(section)
    assert reading.isRevealed
    assert views.calls[1:] == ["unblind"]
    order = views.calls[0][1]
    preferred = ("first", "second")[order[0]]
    assert ui.readingStatusLabel.text.endswith(f"You preferred {preferred}.")
    assert f"{preferred}: 1\n" in ui.readingTallyLabel.text
    assert "n = 1 without ties: p = 1.000.\nToo few" in ui.readingTallyLabel.text
    assert section.said == [True, False]


def test_the_panel_does_not_tell_the_order_before_it_is_revealed(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Right")
    texts = [widget.text for widget in vars(ui).values() if hasattr(widget, "text")]
    texts += [widget.toolTip for widget in vars(ui).values() if hasattr(widget, "toolTip")]
    told = [text for text in texts if "first" in text or "second" in text]
    assert told == [ui.readingTallyLabel.text]
    assert told[0].startswith("first: 0\nsecond: 0\n")


def test_each_run_is_blinded_from_its_beginning_as_long_as_reading_goes_on(section, ui, logic, views):
    click(ui, "Start", True)
    for brighter in range(3):
        run_through(logic, a_run(section.scene, f"case {brighter}", brighter))
        click(ui, "Left")
    assert [call[0] for call in views.calls] == ["blinded"] * 3
    assert section.said == [True]
    click(ui, "Reveal")
    assert [reading.isRevealed for reading in readings(section)] == [True] * 3
    run_through(logic, a_run(section.scene, "case 3", 3))
    assert section.said == [True, False, True]


def test_while_reading_goes_on_nodes_are_called_by_their_side_and_hidden_in_the_users_views(section, ui, logic, views):
    run = a_run(section.scene)
    for arm in run.arms:
        arm.segmentation = section.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"T2 segmentation ({arm.bundle})")
        arm.segmentation.CreateDefaultDisplayNodes()
        label = f"T2 csPCa probability ({arm.bundle})"
        arm.probabilities["csPCa"] = section.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", label)
    former = [node.GetName() for arm in run.arms for node in arm.nodes]
    logic.lastRun = run
    click(ui, "Start", True)
    order = views.calls[0][1]
    for arm, side in ((run.arms[order[0]], "Left"), (run.arms[order[1]], "Right")):
        assert [node.GetName() for node in arm.nodes] == [f"T2 segmentation ({side})", f"T2 csPCa probability ({side})"]
        assert not arm.segmentation.GetDisplayNode().GetVisibility()
    click(ui, "Left")
    click(ui, "Reveal")
    assert [node.GetName() for arm in run.arms for node in arm.nodes] == former
    assert all(arm.segmentation.GetDisplayNode().GetVisibility() for arm in run.arms)
    assert logic.kept == [run]


def test_stopping_takes_the_views_away_and_makes_the_reading_of_the_case_final(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    click(ui, "Start", False)
    assert views.calls[1:] == ["restore"]
    assert ui.readingStatusLabel.text.startswith("Stopped. The reading of this case is final. Left was ")
    assert "equal: 0; not revealed yet: 0\nExact" in ui.readingTallyLabel.text
    click(ui, "Start", True)
    assert "must be read before its networks are revealed" in ui.readingStatusLabel.text
    assert not ui.readingRightButton.enabled
    assert [(reading.side, reading.isRevealed) for reading in readings(section)] == [(Side.LEFT, True)]
    assert section.said == [True, False, True, False]


def test_a_case_that_was_named_before_its_answer_is_not_read_blinded_again(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Start", False)
    assert "cannot be read blinded any more" in ui.readingStatusLabel.text
    click(ui, "Start", True)
    assert "must be read before its networks are revealed" in ui.readingStatusLabel.text
    assert not ui.readingLeftButton.enabled
    assert views.calls[1:] == ["restore"]
    again = a_run(section.scene)
    assert logic.blind(again) is None
    run_through(logic, again)
    assert section.said[-1] is False
    run_through(logic, a_run(section.scene, "another", 1))
    assert ui.readingLeftButton.enabled


def test_after_a_closed_scene_the_next_case_is_read_blinded_too(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    section.setParameters(None)
    logic.lastRun = None  # as when its study left the scene
    section.setParameters(section.parameters)
    assert section.said == [True]
    assert not ui.readingLeftButton.enabled
    assert ui.readingStartButton.checked
    assert ui.readingStatusLabel.text == "The networks of the next run will be shown without their names."
    assert views.calls[-1] == "restore"
    run_through(logic, a_segmented_run(section.scene, "another", 1))
    assert not are_named(logic.lastRun)
    assert ui.readingLeftButton.enabled
    assert section.said == [True]


def test_readings_go_on_from_a_file(section, ui, logic, tmp_path):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    choose(tmp_path / "readings.csv")
    click(ui, "Export")
    section.scene.RemoveNode(logic.lastRun.about)  # as when the scene is closed
    logic.lastRun = None
    section.parameters = SimpleNamespace(readingTable=None)
    section.setParameters(section.parameters)
    click(ui, "Start", False)
    logic.lastRun = a_run(section.scene)
    click(ui, "Resume")
    assert ui.readingStatusLabel.text == "1 readings loaded from readings.csv."
    click(ui, "Start", True)
    assert ui.readingLeftButton.checked
