"""The panel's section for A and B side by side, with the tools of the middle view. Needs Qt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from types import SimpleNamespace

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from VFMTransferLib.core.terms import Sequence

from ..logic import TransferLogic
from ..parameters import VFMTransferParameterNode
from ..runs import RunInScene
from ..signals import Signal
from ..views.display import Style, showKeptOut
from ..views.exam import findExam
from ..views.layout import SideBySide
from ..views.pairs import Order
from ..views.viewing import Tool, Viewing
from ..workers.steps import StepQueue, Steps
from .reading import notWhileBlinded

FLICKER_KEY = "X"  # Slicer's slice views use b, f, g, r, t, v, the arrows and the brackets
FLICKER_MS = 600


class ViewTools:
    """Keeps the tools' widgets and the middle view in step.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        viewing: What is shown at the moment; None if nothing is, or nothing to compare.
    """

    def __init__(self, ui: SimpleNamespace, viewing: Callable[[], Viewing | None]) -> None:
        self._ui = ui
        self._viewing = viewing
        self._isTelling = self._isBlinded = False
        self._offered: list[str] = []
        self._flicker = qt.QTimer()
        self._flicker.setInterval(FLICKER_MS)
        self._flicker.connect("timeout()", self.flip)
        self._key: qt.QShortcut | None = None
        ui.pairComboBox.connect("activated(int)", self.onPair)
        ui.fadeSlider.connect("valueChanged(double)", self.onFade)
        ui.flickerButton.connect("toggled(bool)", self.onFlicker)
        ui.checkerboardButton.connect("toggled(bool)", lambda isOn: self.onTool(Tool.CHECKERBOARD, isOn))
        ui.revealButton.connect("toggled(bool)", lambda isOn: self.onTool(Tool.REVEAL, isOn))

    def setBlinded(self, isBlinded: bool) -> None:
        """Speak of left and right, whatever the views are called."""
        self._isBlinded = isBlinded
        self.update()

    def reset(self) -> None:
        """The views came, or went: nothing flickers, and the key counts only while they are there."""
        self._flicker.stop()
        canCompare = self._viewing() is not None
        if self._key is None and canCompare:
            self._key = qt.QShortcut(qt.QKeySequence(FLICKER_KEY), slicer.util.mainWindow())
            self._key.connect("activated()", self.flip)
        if self._key is not None:
            self._key.setEnabled(canCompare)
        self.update()

    def update(self) -> None:
        """Show on the widgets what there is; none of them is to take it for a click."""
        self._isTelling = True
        try:
            self._report(self._viewing())
        finally:
            self._isTelling = False

    def onPair(self, index: int) -> None:
        """Make the middle view of A and B, or of input and output."""
        viewing = self._asked()
        if viewing is not None:
            self._flicker.stop()
            viewing.setPair(self._ui.pairComboBox.itemData(index))
            self.update()

    def onFade(self, fade: float) -> None:
        viewing = self._asked()
        if viewing is not None:
            viewing.setFade(fade)

    def onFlicker(self, isOn: bool) -> None:
        """Change between A and B by the clock."""
        viewing = self._asked()
        if viewing is not None:
            viewing.setTool(Tool.NONE)
            if isOn:
                self._flicker.start()
            else:
                self._flicker.stop()
            self.update()

    def onTool(self, tool: Tool, isOn: bool) -> None:
        """Make the middle view of both, or of A again."""
        viewing = self._asked()
        if viewing is not None:
            self._flicker.stop()
            viewing.setTool(tool if isOn else Tool.NONE)
            self.update()

    def flip(self) -> None:
        """From A to B in the middle view, or back."""
        viewing = self._viewing()
        if viewing is not None:
            if viewing.tool is not Tool.NONE:
                viewing.setTool(Tool.NONE)
            viewing.flip()
            self.update()

    def _asked(self) -> Viewing | None:
        """What to change; None where a widget only shows a state."""
        return None if self._isTelling else self._viewing()

    def _report(self, viewing: Viewing | None) -> None:
        ui, canCompare = self._ui, viewing is not None
        for widget in (ui.fadeSlider, ui.flickerButton):
            widget.enabled = canCompare
        for widget in (ui.checkerboardButton, ui.revealButton):
            widget.enabled = canCompare and viewing.canMix
        ui.fadeSlider.value = viewing.fade if canCompare else 0.0
        ui.flickerButton.checked = self._flicker.isActive()
        ui.checkerboardButton.checked = canCompare and viewing.tool is Tool.CHECKERBOARD
        ui.revealButton.checked = canCompare and viewing.tool is Tool.REVEAL
        if self._isBlinded:
            first, second = _("left"), _("right")
        else:  # after a blinded reading the left one may be B
            first, second = viewing.namesOf("") if canCompare else ("A", "B")
        pairs = viewing.pairs if canCompare else ("",)
        self._fillPairs([_("{first} and {second}").format(first=first, second=second), *pairs[1:]], pairs)
        ui.pairComboBox.setCurrentIndex(pairs.index(viewing.pair) if canCompare else 0)
        ui.fadeLabel.text = _("Fade {first} to {second}:").format(first=first, second=second)
        if canCompare and viewing.pair:
            ui.fadeLabel.text = _("Fade:")
            first, second = viewing.namesOf(viewing.pair)
        self._nameTools({"first": first, "second": second})
        ui.viewHintLabel.text = _hint(first, second) if canCompare else ""

    def _nameTools(self, names: dict[str, str]) -> None:
        ui = self._ui
        ui.fadeSlider.toolTip = _("In the middle view, from {first} (0) to {second} (1).").format(**names)
        ui.flickerButton.toolTip = _("Change between {first} and {second} in one place.").format(**names)
        ui.checkerboardButton.toolTip = _("{first} and {second} in alternate fields.").format(**names)
        ui.revealButton.toolTip = _("In a square around the mouse, {second} shows through.").format(**names)

    def _fillPairs(self, titles: list[str], pairs: Sequence_[str]) -> None:
        """Offer what there is; a list that is open stays open."""
        combo = self._ui.pairComboBox
        combo.enabled = len(pairs) > 1
        if self._offered != titles:
            self._offered = titles
            combo.clear()
            for title, pair in zip(titles, pairs, strict=True):
                combo.addItem(title, pair)


def _hint(first: str, second: str) -> str:
    return _(
        "{key} changes between {first} and {second} in the middle view. Shift and the mouse move the crosshair in all "
        "views, a double click shows one view alone, R shows the whole image."
    ).format(key=FLICKER_KEY, first=first, second=second)


def makeSideBySide() -> SideBySide | None:
    """The views of this application; None where it has no window to show them in."""
    layoutManager = slicer.app.layoutManager()
    if layoutManager is None:
        return None
    return SideBySide(
        layoutManager.layoutLogic().GetLayoutNode(),
        slicer.app.applicationLogic(),
        lambda tag: layoutManager.sliceWidget(tag).sliceView().renderWindow().GetRenderers().GetFirstRenderer(),
        lambda function: qt.QTimer.singleShot(0, function),
        forgetInDataProbe,
    )


def forgetInDataProbe(tag: str, logic: slicer.vtkMRMLSliceLogic | None) -> None:
    """Let Slicer's data probe forget a view that is gone: it keeps each that it ever met, and fails on those."""
    probe = getattr(getattr(slicer.modules, "DataProbeInstance", None), "infoWidget", None)
    annotations = getattr(probe, "sliceAnnotations", None)
    names = getattr(annotations, "sliceViewNames", ())
    if tag not in names:
        return
    names.remove(tag)
    watched = (logic, vtk.vtkCommand.ModifiedEvent, getattr(annotations, "updateViewAnnotations", None))
    if logic is not None and annotations.hasObserver(*watched):
        annotations.removeObserver(*watched)


_NOTHING, _RUN, _EXAM = "", "run", "exam"  # what the views show, or are about to


class ViewSection:
    """Opens the views after a run, and closes them again.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        logic: Has the run to show.
        make: Makes the views when they are first wanted, for they need a main window.

    Attributes:
        shown: Emitted when all views are there that were to be opened.
    """

    def __init__(
        self, ui: SimpleNamespace, logic: TransferLogic, make: Callable[[], SideBySide | None] = makeSideBySide
    ) -> None:
        self.shown = Signal()
        self._ui = ui
        self._logic = logic
        self._make = make
        self._views: SideBySide | None = None
        self._parameters: VFMTransferParameterNode | None = None
        self._order: Order = (0, 1)
        self._isBlinded = False
        self._isReading = False
        self._hasSecondRow = True
        self._isTelling = False
        self._open = _NOTHING
        self._steps = StepQueue(lambda step: qt.QTimer.singleShot(0, step))
        for title, style in ((_("Outline"), Style.OUTLINE), (_("Fill"), Style.FILL), (_("Both"), Style.BOTH)):
            ui.styleComboBox.addItem(title, str(style))
        self._tools = ViewTools(ui, self._comparable)
        ui.sideBySideButton.connect("toggled(bool)", self.onSideBySide)
        ui.examButton.connect("toggled(bool)", self.onExam)
        ui.styleComboBox.connect("activated(int)", self.onStyle)
        logic.finished.connect(self.onFinished)
        self.update()

    # ---- what the panel and the logic report

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Other choices, or none; what is shown stays."""
        self._parameters = parameters
        if self._open == _NOTHING:  # the scene may have been loaded, and saved while views were open
            showKeptOut(slicer.mrmlScene)
        self.update()

    def update(self) -> None:
        """Show what is chosen, and show what can be done now."""
        run = self._run()
        if self._open == _EXAM:
            self._followExam()
        elif self._open == _RUN and not self._logic.isRunning:  # what was shown stays until there is something new
            self._follow(run)
        self._report(run)

    def onFinished(self, outcome: str) -> None:
        """A run that is done is shown, if there are two answers to compare, and the user is here, not blinded."""
        run = self._run()
        isWanted = self._parameters is not None and not self._isReading
        if isWanted and outcome == "done" and run is not None and len(run.arms) > 1:
            self.show()

    def setBlinded(self, isBlinded: bool) -> None:
        """Leave it to the reading what is shown, for a click here would name the networks."""
        self._isReading = isBlinded
        self._tools.setBlinded(isBlinded)
        self.update()

    # ---- what other sections call

    @property
    def isShown(self) -> bool:
        return self._views is not None and self._views.isShown

    def show(self, order: Order = (0, 1), isBlinded: bool = False) -> None:
        """Show the last run, a view at a time; nothing happens where there is none, or no window.

        Args:
            order: Which arm comes first.
            isBlinded: Call the networks left and right.
        """
        run = self._run()
        if run is None or not self._hasViews():
            return
        self._order, self._isBlinded = order, isBlinded
        self._hasSecondRow = self._parameters is None or self._parameters.secondRow
        steps = self._views.showInSteps(
            run, others=self._others(run), secondRow=self._hasSecondRow, order=order, isBlinded=isBlinded
        )
        self._begin(_RUN, steps, lambda: run.isInScene)

    def showExam(self) -> None:
        """Show the chosen case in the exam layout; nothing happens where no T2w is chosen."""
        chosen = self._parameters
        if chosen is None or chosen.t2w is None or not self._hasViews():
            return
        exam = findExam(self._chosen(), chosen.gland)
        self._begin(_EXAM, self._views.showExamInSteps(exam), lambda: exam.about.GetScene() is not None)

    def _begin(self, what: str, steps: Steps, isStillThere: Callable[[], bool]) -> None:
        """Open views in steps, in place of what was being opened."""
        self._steps.clear()
        self._open = what
        self._steps.add(self._opening(steps, isStillThere), self._onNotShown)

    def _opening(self, steps: Steps, isStillThere: Callable[[], bool]) -> Steps:
        former = self._tags()
        while isStillThere():
            try:
                next(steps)
            except StopIteration:
                break
            yield
        else:
            self._open = _NOTHING
            self._views.close()
            return
        if self._views.viewing is not None:
            self._setStyle()
        if self._tags() != former:  # Slicer lays the views out when it has the time
            yield
            yield from self._views.frameInSteps()
        self._report(self._run())
        self.shown.emit()

    def unblind(self) -> None:
        """Name the networks in the views that are shown, each where it is."""
        if self.isShown:
            self.show(self._order, isBlinded=False)

    def restore(self) -> None:
        """Back to the user's own layout, in steps."""
        self._steps.clear()
        if self._open != _NOTHING:
            self._open = _NOTHING
            self._steps.add(self._views.restoreInSteps(), self._onNotShown)

    def close(self) -> None:
        """Leave nothing of it in the application."""
        self._steps.clear()
        if self._views is not None:
            self._views.close()
        self._tools.reset()

    def jumpTo(self, ras: tuple[float, float, float]) -> None:
        """Go to a point, RAS, in these views, or in the user's while these are not shown."""
        if self._hasViews():
            self._views.jumpTo(ras)

    # ---- what the user does

    def onSideBySide(self, isOn: bool) -> None:
        if self._isTelling:
            return
        if isOn and self._isReading:
            self.show(self._order, isBlinded=True)
        elif isOn:
            self.show()
        else:
            self.restore()
        self.update()

    def onExam(self, isOn: bool) -> None:
        if self._isTelling:
            return
        if isOn:
            self.showExam()
        else:
            self.restore()
        self.update()

    def onStyle(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.segmentStyle = self._ui.styleComboBox.itemData(index)

    # ---- within

    def _run(self) -> RunInScene | None:
        """The run to show; None as long as there is nothing of it."""
        run = self._logic.lastRun
        return run if run is not None and run.isInScene and run.arms else None

    def _others(self, run: RunInScene) -> dict[Sequence, slicer.vtkMRMLScalarVolumeNode]:
        """What else is chosen of the case; nothing if the user has chosen another one."""
        chosen = self._parameters
        if chosen is None or chosen.t2w is None or chosen.t2w is not run.inputs.get(Sequence.T2W):
            return {}
        return self._chosen()

    def _chosen(self) -> dict[Sequence, slicer.vtkMRMLScalarVolumeNode]:
        """The volumes of the case that is chosen."""
        volumes = {sequence: getattr(self._parameters, str(sequence)) for sequence in Sequence}
        return {sequence: volume for sequence, volume in volumes.items() if volume is not None}

    def _hasViews(self) -> bool:
        if self._views is None:
            self._views = self._make()
            if self._views is not None:
                self._views.changed.connect(self._onChanged)
        return self._views is not None

    def _tags(self) -> tuple[str, ...]:
        return self._views.tags if self._views is not None else ()

    def _comparable(self) -> Viewing | None:
        viewing = self._views.viewing if self.isShown else None
        return viewing if viewing is not None and viewing.canCompare else None

    def _leave(self) -> None:
        """Back to the user's layout once quicker updates are done, if there is still nothing to show."""
        qt.QTimer.singleShot(0, lambda: self.restore() if self._run() is None else None)

    def _onChanged(self) -> None:
        """The views came, or went, perhaps because the user chose another layout."""
        if not self.isShown:
            self._isBlinded = False
            self._open = _NOTHING
            self._steps.clear()
        self._tools.reset()
        self._report(self._run())

    def _onNotShown(self, error: Exception) -> None:
        self._open = _NOTHING
        self._views.close()
        self._report(self._run())
        logging.warning("The views could not be shown: %s", error)
        if not slicer.app.testingEnabled():
            slicer.util.errorDisplay(f"{_('The results cannot be shown side by side.')}\n\n{error}")

    def _followExam(self) -> None:
        """Change the exam that is shown with the choices; what is shown stays while another module is open."""
        exam = self._views.exam
        if exam is None or self._parameters is None:
            return
        if self._parameters.t2w is None:
            self.restore()
        elif dict(exam.volumes) != self._chosen():
            self.showExam()

    def _follow(self, run: RunInScene | None) -> None:
        """Change what is shown with the choices."""
        if run is None:
            self._leave()
        elif not self.isShown:  # on its way
            return
        elif not self._isReading and self._views.run is not run:
            self.show()
        elif self._parameters is not None and self._parameters.secondRow != self._hasSecondRow:
            self.show(self._order, self._isBlinded)
        elif self._views.viewing is not None:
            self._setStyle()

    def _setStyle(self) -> None:
        if self._parameters is not None:
            self._views.viewing.setStyle(self._parameters.segmentStyle, self._parameters.opacity)

    def _report(self, run: RunInScene | None) -> None:
        """Show on the widgets what there is; none of them is to take it for a click."""
        self._isTelling = True
        try:
            self._notifyViews(run)
        finally:
            self._isTelling = False
        self._tools.update()

    def _notifyViews(self, run: RunInScene | None) -> None:
        ui, chosen = self._ui, self._parameters
        # During a reading they are not closed here, but come back where the user chose another layout.
        isHeld = self._isReading and (self._open != _NOTHING or self._logic.isRunning)
        ui.sideBySideButton.enabled = run is not None and not isHeld
        ui.sideBySideButton.checked = self._open == _RUN
        ui.examButton.checked = self._open == _EXAM
        hasCase = chosen is not None and chosen.t2w is not None
        ui.examButton.enabled = (hasCase or self._open == _EXAM) and not self._isReading
        if self._isReading:
            ui.examButton.toolTip = notWhileBlinded()
        elif not hasCase:
            ui.examButton.toolTip = _("Choose a T2w first.")
        else:
            ui.examButton.toolTip = _(
                "T2w in three planes, ADC and high-b DWI, linked, at the prostate; again to go back to your layout."
            )
        if isHeld:
            ui.sideBySideButton.toolTip = notWhileBlinded()
        elif run is None:
            ui.sideBySideButton.toolTip = _("Run two networks first.")
        elif self._isReading:
            ui.sideBySideButton.toolTip = _("Show the case that is read again, left and right as before.")
        else:
            ui.sideBySideButton.toolTip = _("Show T2w, A and B in linked views; again to go back to your layout.")
        if chosen is not None:
            ui.styleComboBox.setCurrentIndex(max(ui.styleComboBox.findData(chosen.segmentStyle), 0))
        isOutline = chosen is not None and chosen.segmentStyle == Style.OUTLINE
        ui.opacitySlider.enabled = not isOutline
        ui.opacitySlider.toolTip = _("Of the fill; an outline is always opaque.")
