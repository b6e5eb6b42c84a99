"""The section for blinded reading, with stand-ins for Qt's widgets, on real MRML."""

import re
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
from slicer_scenes import a_scene, add_volume, an_oblique_t2w, slicer

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.logic import TransferLogic
from VFMTransferSlicer.reading.blinded import Side, orderOf
from VFMTransferSlicer.reading.readings import ReadingTable
from VFMTransferSlicer.results.record import maskedRuns, readRecord, writeRecord
from VFMTransferSlicer.results.scene import placeBeside
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


def test_the_confidence_can_be_said_after_the_side(section, ui, logic):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Equal")
    ui.readingConfidenceComboBox.setCurrentIndex(4)
    ui.readingConfidenceComboBox.slots["activated(int)"](4)
    (reading,) = readings(section)
    assert (reading.side, reading.confidence) == (Side.EQUAL, 5)


@pytest.mark.parametrize("later", ["first", "second"])
def test_the_number_that_slicer_adds_to_a_name_does_not_tell_which_network_came_second(section, ui, logic, later):
    run = a_segmented_run(section.scene)
    for arm in run.arms:
        arm.numbers["model"]["arm"] = "pretrained"
        number = "_1" if arm.bundle == later else ""
        arm.segmentation.SetName(f"T2 segmentation ({arm.ownTitle}){number}")
    own = {arm.segmentation.GetName() for arm in run.arms}
    logic.lastRun = run
    click(ui, "Start", True)
    assert {arm.segmentation.GetName() for arm in run.arms} == {"T2 segmentation (Left)", "T2 segmentation (Right)"}
    click(ui, "Left")
    click(ui, "Reveal")
    names = [arm.segmentation.GetName() for arm in run.arms]
    assert len(set(names)) == len(own)
    assert all(
        re.sub(r"_\d+$", "", name).endswith(f"({arm.ownTitle})") for name, arm in zip(names, run.arms, strict=True)
    )


def test_an_opened_case_shows_the_confidence_that_was_noted_and_a_new_one_the_usual(section, ui, logic):
    def shown() -> int:
        return ui.readingConfidenceComboBox.itemData(ui.readingConfidenceComboBox.currentIndex)

    click(ui, "Start", True)
    for brighter, confidence in enumerate((5, 1)):
        run_through(logic, a_run(section.scene, f"case {brighter}", brighter))
        assert shown() == 3
        ui.readingConfidenceComboBox.setCurrentIndex(confidence - 1)
        click(ui, "Left")
    run_through(logic, a_run(section.scene, "case 0"))
    assert ui.readingLeftButton.checked
    assert shown() == 5
    click(ui, "Left")
    assert [reading.confidence for reading in readings(section)] == [5, 1]


def test_a_saved_reading_that_lost_a_result_is_still_revealed(section, ui, logic):
    run = a_segmented_run(section.scene)
    run.inputs[Sequence.T2W] = run.about
    logic.lastRun = run
    click(ui, "Start", True)
    click(ui, "Left")
    section.scene.RemoveNode(run.arms[1].segmentation)
    (found,) = maskedRuns(section.scene)
    assert [len(arm.nodes) for arm in found.arms] == [1, 0]
    assert readRecord(section.scene) is None
    other = a_segmented_run(section.scene, "another", 1)
    other.inputs[Sequence.T2W] = other.about
    writeRecord(other)  # which removes what is left of runs that are gone
    assert len(maskedRuns(section.scene)) == 1
    section._masked.clear()  # as after a restart
    section.onReveal()
    assert run.arms[0].segmentation.GetName() == "T2 segmentation (first)"
    assert maskedRuns(section.scene) == []


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


def test_nothing_is_revealed_during_a_run_and_what_it_brings_is_blinded(section, ui, logic, views):
    click(ui, "Start", True)
    run_through(logic, a_run(section.scene))
    click(ui, "Left")
    second = a_run(section.scene, "another", 1)
    logic.isRunning = True
    logic.started.emit(second)
    assert not ui.readingRevealButton.enabled
    assert "Wait for the run" in ui.readingRevealButton.toolTip
    section.onReveal()  # whoever reveals all the same
    assert section.said[-1] is False
    logic.lastRun, logic.isRunning = second, False
    logic.finished.emit("done")
    assert section.said[-1] is True
    assert views.calls[-1][0] == "blinded"


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


@pytest.mark.parametrize("left", [0, 1])
def test_nodes_that_were_there_before_stand_in_the_order_of_their_sides(section, ui, logic, monkeypatch, left):
    seal = next(seal for seal in map(str, range(99)) if orderOf(seal)[0] == left)
    monkeypatch.setattr("VFMTransferSlicer.reading.blinded.newSeal", lambda chance: seal)
    run = logic.lastRun = a_segmented_run(section.scene)
    nodes = [node for arm in run.arms for node in arm.nodes]
    displays, names = [node.GetDisplayNode() for node in nodes], [node.GetID() for node in nodes]
    referring = section.scene.AddNewNodeByClass("vtkMRMLTextNode")
    for node in (run.about, *nodes):
        placeBeside(node, run.about)
        referring.AddNodeReferenceID("of", node.GetID())
    click(ui, "Start", True)
    assert run.arms[left].title == "Left"
    ordered = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode", section.scene)]
    assert ordered == ["T2 segmentation (Left)", "T2 segmentation (Right)"]
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(section.scene)
    places = [hierarchy.GetItemPositionUnderParent(hierarchy.GetItemByDataNode(node)) for node in nodes]
    assert (places[0] < places[1]) == (left == 0)
    assert [node.GetDisplayNode() for node in nodes] == displays
    assert [node.GetID() for node in nodes] == names
    assert [referring.GetNthNodeReference("of", index) for index in range(3)] == [run.about, *nodes]


def test_of_a_name_with_two_brackets_the_networks_own_is_hidden(section, ui, logic, views):
    run = a_run(section.scene, "T2 SR (first, synthetic)")
    for arm in run.arms:
        name = f"{run.about.GetName()} ADC ({arm.bundle}, synthetic)"
        arm.images["adc-synthetic"] = section.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    former = [arm.images["adc-synthetic"].GetName() for arm in run.arms]
    logic.lastRun = run
    click(ui, "Start", True)
    names = {arm.images["adc-synthetic"].GetName() for arm in run.arms}
    assert names == {f"T2 SR (first, synthetic) ADC ({side}, synthetic)" for side in ("Left", "Right")}
    click(ui, "Left")
    click(ui, "Reveal")
    assert [arm.images["adc-synthetic"].GetName() for arm in run.arms] == former


def test_the_order_is_drawn_before_a_runs_results_are_in_the_scene_and_stays(section, ui, logic, views):
    click(ui, "Start", True)
    run = a_run(section.scene)
    logic.isRunning = True
    logic.started.emit(run)
    titles = logic.blind(run)
    assert sorted(titles) == ["Left", "Right"]
    logic.lastRun, logic.isRunning = run, False
    logic.finished.emit("done")
    assert [titles[arm] for arm in views.calls[0][1]] == ["Left", "Right"]
    click(ui, "Start", False)
    assert logic.blind is None


def cancel_a_run(logic, run: RunInScene) -> None:
    """It leaves nothing, so that the run before is the last one again."""
    former, logic.lastRun, logic.isRunning = logic.lastRun, run, True
    logic.started.emit(run)
    logic.lastRun, logic.isRunning = former, False
    logic.finished.emit("canceled")


def finish_away(section, logic, run: RunInScene) -> None:
    """It begins here and ends while another module is open; its nodes are called as the order was drawn."""
    logic.lastRun, logic.isRunning = run, True
    logic.started.emit(run)
    section.setParameters(None)
    for arm, title in zip(run.arms, logic.blind(run) or ("", ""), strict=True):
        arm.title = title
    logic.isRunning = False
    logic.finished.emit("done")


def test_a_case_keeps_its_order_when_another_run_is_canceled(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    for brighter in range(1, 9):
        cancel_a_run(logic, a_run(section.scene, "another", brighter))
    assert set(views.calls) == {views.calls[0]}
    click(ui, "Left")
    cancel_a_run(logic, a_run(section.scene, "another", 1))
    assert ui.readingLeftButton.checked
    assert ui.readingRightButton.enabled
    assert section.said == [True]


def test_the_time_counts_from_the_moment_when_the_views_are_shown(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    time.sleep(0.1)
    click(ui, "Left")
    assert [reading.seconds for reading in readings(section)] == [0.0]
    views.shown.emit()
    time.sleep(0.1)
    click(ui, "Left")
    assert readings(section)[0].seconds >= 0.1


def test_during_a_run_the_case_before_takes_no_answer(section, ui, logic):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    logic.lastRun, logic.isRunning = a_run(section.scene, "another", 1), True
    logic.started.emit(logic.lastRun)
    assert not ui.readingRightButton.enabled
    assert not ui.readingLeftButton.checked
    section.answer(Side.RIGHT)
    section.onConfidence(0)
    assert [reading.side for reading in readings(section)] == [Side.LEFT]


def test_a_case_that_is_named_once_a_run_is_canceled_takes_no_other_answer(section, ui, logic, views):
    run = logic.lastRun = a_segmented_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    logic.lastRun, logic.isRunning = a_run(section.scene, "another", 1), True
    logic.started.emit(logic.lastRun)
    click(ui, "Start", False)
    assert views.calls[-1] == "restore"
    logic.lastRun, logic.isRunning = run, False
    logic.finished.emit("canceled")
    assert [reading.isRevealed for reading in readings(section)] == [are_named(run)] == [True]


def test_what_ends_while_another_module_is_open_is_read_when_the_user_is_back(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    for _ in range(8):
        finish_away(section, logic, a_segmented_run(section.scene))
        shown = len(views.calls)
        section.update()
        assert len(views.calls) == shown
        section.setParameters(section.parameters)
        assert views.calls[shown:] == views.calls[:1]  # the order of the earlier reading
        assert ui.readingLeftButton.checked
        titles = [arm.title for arm in logic.lastRun.arms]
        assert [titles[arm] for arm in views.calls[0][1]] == ["Left", "Right"]
    assert section.said == [True]


def test_a_revealed_case_that_ends_while_another_module_is_open_is_named(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    click(ui, "Reveal")
    again = a_segmented_run(section.scene)
    former = [node.GetName() for arm in again.arms for node in arm.nodes]
    finish_away(section, logic, again)
    shown = len(views.calls)
    section.setParameters(section.parameters)
    assert "must be read before its networks are revealed" in ui.readingStatusLabel.text
    assert not ui.readingLeftButton.enabled
    assert len(views.calls) == shown
    assert section.said[-1] is False
    assert [arm.title for arm in again.arms] == ["", ""]
    assert [node.GetName() for arm in again.arms for node in arm.nodes] == former


def test_a_run_that_a_scene_brings_along_is_blinded(section, ui, logic, views):
    click(ui, "Start", True)
    run = logic.lastRun = a_segmented_run(section.scene)
    section.update()
    section.update()
    assert [call[0] for call in views.calls] == ["blinded"]
    assert not are_named(run)
    assert ui.readingLeftButton.enabled


def test_a_revealed_case_stays_named_when_another_run_is_canceled(section, ui, logic):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    click(ui, "Reveal")
    cancel_a_run(logic, a_run(section.scene, "another", 1))
    assert section.said == [True, False, True, False]


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


def test_stopping_names_the_case_on_the_screen_and_leaves_the_others_as_they_are(section, ui, logic, views):
    runs = [a_segmented_run(section.scene, f"case {brighter}", brighter) for brighter in range(3)]
    click(ui, "Start", True)
    for run in runs:
        run_through(logic, run)
        click(ui, "Left")
    click(ui, "Start", False)
    assert [reading.isRevealed for reading in readings(section)] == [False, False, True]
    assert [are_named(run) for run in runs] == [False, False, True]
    assert logic.kept == [runs[2]]
    click(ui, "Start", True)
    run_through(logic, a_run(section.scene, "case 0", 0))
    assert ui.readingLeftButton.checked
    assert views.calls[-1] == views.calls[0]
    click(ui, "Right")
    click(ui, "Reveal")
    assert [reading.side for reading in readings(section)] == [Side.RIGHT, Side.LEFT, Side.LEFT]
    assert all(are_named(run) for run in runs)


def test_a_case_that_is_run_again_outside_of_a_reading_is_final(section, ui, logic):
    click(ui, "Start", True)
    for brighter in range(2):
        run_through(logic, a_run(section.scene, f"case {brighter}", brighter))
        click(ui, "Left")
    click(ui, "Start", False)
    assert [reading.isRevealed for reading in readings(section)] == [False, True]
    run_through(logic, a_run(section.scene, "another", 7))
    again = a_run(section.scene, "case 0", 0)
    run_through(logic, again)
    assert [reading.isRevealed for reading in readings(section)] == [True, True]
    assert ui.readingStatusLabel.text.startswith("The networks of this case are named now, so that its reading is")
    click(ui, "Start", True)
    assert "must be read before its networks are revealed" in ui.readingStatusLabel.text
    assert not ui.readingLeftButton.enabled


def test_a_masked_run_that_comes_outside_of_a_reading_is_read_on(section, ui, logic, views):
    click(ui, "Start", True)
    for brighter in range(2):
        run_through(logic, a_run(section.scene, f"case {brighter}", brighter))
        click(ui, "Left")
    click(ui, "Start", False)
    masked = a_run(section.scene, "case 0", 0)
    for arm in masked.arms:
        arm.title = "Left"
    run_through(logic, masked)
    assert [reading.isRevealed for reading in readings(section)] == [False, True]
    assert section.said == [True, False, True]
    assert ui.readingStartButton.checked
    assert ui.readingLeftButton.checked


def test_a_scene_that_was_saved_during_a_reading_goes_on_with_it_and_reveals_all_its_cases(section, ui, logic, views):
    runs = [a_segmented_run(section.scene, f"case {brighter}", brighter) for brighter in range(2)]
    for run in runs:
        run.inputs[Sequence.T2W] = run.about
        logic.lastRun = run
        click(ui, "Start", True) if run is runs[0] else section.update()
        click(ui, "Left")
    sides = [arm.title for arm in runs[1].arms]

    from VFMTransferSlicer.panel.reading import ReadingSection

    signals = {name: Signal() for name in ("started", "armLoaded", "finished")}
    restored = readRecord(section.scene)  # as an application that was just started does
    another = SimpleNamespace(**signals, isRunning=False, lastRun=restored, keep=logic.keep)
    resumed, said = ReadingSection(ui, another, views), []
    resumed.blinded.connect(said.append)
    resumed.setParameters(section.parameters)
    assert [arm.title for arm in restored.arms] == sides
    assert said == [True]
    assert ui.readingLeftButton.checked
    assert not any(are_named(run) for run in runs)
    resumed.onReveal()
    assert all(are_named(run) for run in runs)
    assert maskedRuns(section.scene) == []
    assert [arm.title for arm in readRecord(section.scene).arms] == ["", ""]
    assert not ui.readingRevealButton.enabled


def test_a_run_without_a_second_answer_names_no_other_case(section, ui, logic):
    click(ui, "Start", True)
    first = a_segmented_run(section.scene)
    run_through(logic, first)
    click(ui, "Left")
    second = a_run(section.scene, "another", 1)
    del second.arms[1]
    run_through(logic, second)
    assert section.said[-1] is False
    assert not are_named(first)


def test_once_the_networks_are_named_no_difference_tells_their_order(section, ui, logic):
    for end in (lambda: click(ui, "Start", False), lambda: click(ui, "Reveal")):
        run = a_segmented_run(section.scene, "T2", len(logic.kept))
        logic.lastRun = run
        click(ui, "Start", True)
        node = section.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "T2 difference Left - Right")
        node.SetAttribute("VFMTransfer.Role", "difference")
        node.SetNodeReferenceID("VFMTransfer.about", run.about.GetID())
        click(ui, "Left")
        assert node.GetScene() is section.scene
        end()
        assert node.GetScene() is None


def test_a_revealed_study_is_not_read_again(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    click(ui, "Reveal")
    click(ui, "Start", False)
    click(ui, "Start", True)
    assert "must be read before its networks are revealed" in ui.readingStatusLabel.text
    assert not ui.readingLeftButton.enabled
    assert section.said[-1] is False


def test_a_run_that_failed_leaves_nothing_hidden(section, ui, logic):
    click(ui, "Start", True)
    run = a_run(section.scene)
    del run.arms[1]
    run_through(logic, run)
    assert "two networks, but there are 1" in ui.readingStatusLabel.text
    assert section.said == [True, False]


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


def test_a_case_that_was_answered_and_revealed_is_read_again_in_another_scene(section, ui, logic):
    click(ui, "Start", True)
    run_through(logic, a_segmented_run(section.scene))
    click(ui, "Left")
    click(ui, "Reveal")
    section.parameters.readingTable = None
    run_through(logic, a_segmented_run(section.scene))
    assert not are_named(logic.lastRun)
    assert ui.readingLeftButton.enabled


def test_a_case_that_is_deleted_keeps_its_answer_and_the_next_one_is_read_blinded_too(section, ui, logic, views):
    click(ui, "Start", True)
    first = a_segmented_run(section.scene)
    run_through(logic, first)
    click(ui, "Left")
    section.scene.RemoveNode(first.about)
    logic.lastRun = None
    section.update()
    assert [reading.isRevealed for reading in readings(section)] == [are_named(first)] == [False]
    run_through(logic, a_segmented_run(section.scene, "another", 1))
    assert not are_named(logic.lastRun)
    click(ui, "Left")
    click(ui, "Reveal")
    assert are_named(first)
    assert are_named(logic.lastRun)


def test_a_reading_stays_while_another_module_is_open(section, ui, logic, views):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    section.setParameters(None)
    assert not ui.readingStartButton.enabled
    assert not ui.readingRightButton.enabled
    section.setParameters(section.parameters)
    assert section.said == [True]
    assert ui.readingLeftButton.checked
    click(ui, "Right")
    assert [reading.side for reading in readings(section)] == [Side.RIGHT]


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


def test_a_file_of_readings_is_named_so_that_it_is_found_again(section, ui, logic, tmp_path):
    logic.lastRun = a_run(section.scene)
    click(ui, "Start", True)
    click(ui, "Left")
    choose(tmp_path / "my readings")
    click(ui, "Export")
    assert [path.name for path in tmp_path.iterdir()] == ["my readings.csv"]
    assert ui.readingStatusLabel.text == "Saved my readings.csv."


def test_a_file_that_is_none_of_ours_is_said_on_the_panel(section, ui, tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n", encoding="utf-8")
    choose(tmp_path / "other.csv")
    click(ui, "Resume")
    assert "'other.csv' must have the columns" in ui.readingStatusLabel.text
