"""Blinded reading on the panel: left or right, how sure, and only then which was which; saving answers. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import qt
import slicer
from slicer.i18n import tr as _

from VFMTransferLib.core.errors import VFMTransferError

from ..reading.blinded import CONFIDENCES, BlindedReading, Reading, Side, Subject
from ..reading.readings import (
    FEWEST_FOR_SIGNIFICANCE,
    ReadingTable,
    Tally,
    networksOf,
    newTable,
    readCsv,
    subjectOf,
    tallyOf,
    writeCsv,
)
from ..runs import renameArm
from ..signals import Signal
from .dialogs import askForFile


def notWhileBlinded() -> str:
    """Why a button is off as long as the networks are read blinded."""
    return _("Not available during a blinded reading.")


def sideTitles(order: tuple[int, int]) -> list[str]:
    """What to call each arm, A and then B, by where it stands."""
    return [_("Left") if order[0] == arm else _("Right") for arm in range(2)]


def revealedText(reading: Reading) -> str:
    """Which network was where, and which one the reader preferred."""
    names = [network.bundle for network in reading.subject.networks]
    left, right = names if reading.left == "A" else reversed(names)
    if reading.side is Side.EQUAL:
        return _("Left was {left}, right was {right}. You rated them equal.").format(left=left, right=right)
    preferred = left if reading.side is Side.LEFT else right
    return _("Left was {left}, right was {right}. You preferred {preferred}.").format(
        left=left, right=right, preferred=preferred
    )


def stoppedText(hasCase: bool, answer: Reading | None) -> str:
    """What became of the reading of the case on the screen, if there was one."""
    if answer is not None:
        return f"{_('Stopped. The reading of this case is final.')} {revealedText(answer)}"
    if hasCase:
        return _("Stopped. The networks are named now, so that this case cannot be read blinded any more.")
    return _("Stopped.")


def tallyText(tally: Tally, names: list[str]) -> str:
    """The counts, the test, and a word of caution where there are too few.

    Args:
        tally: Of one pair.
        names: Of its networks, A and then B.
    """
    lines = [
        f"{names[0]}: {tally.a}",
        f"{names[1]}: {tally.b}",
        _("equal: {equal}; not revealed yet: {sealed}").format(equal=tally.equal, sealed=tally.sealed),
    ]
    if tally.preferences:
        p = "p < 0.001" if tally.pValue < 0.001 else f"p = {tally.pValue:.3f}"
        lines.append(_("Exact two-sided sign test, n = {n} without ties: {p}.").format(n=tally.preferences, p=p))
    if 0 < tally.preferences < FEWEST_FOR_SIGNIFICANCE:
        caution = _("Too few: less than {fewest} cannot give p < 0.05.")
        lines.append(caution.format(fewest=FEWEST_FOR_SIGNIFICANCE))
    return "\n".join(lines)


class ReadingFiles:
    """Brings readings from the scene into files, and from files into the scene.

    Args:
        ui: The panel's widgets.
        table: Gives the table in the scene; called with True it makes one.
        showMessage: Shows a sentence.
        taken: Called when there are more readings than before.
    """

    def __init__(
        self,
        ui: SimpleNamespace,
        table: Callable[[bool], ReadingTable | None],
        showMessage: Callable[[str], None],
        taken: Callable[[], None],
    ) -> None:
        self._ui, self._table, self._showMessage, self._taken = ui, table, showMessage, taken
        ui.readingExportButton.connect("clicked(bool)", self.onExport)
        ui.readingResumeButton.connect("clicked(bool)", self.onResume)

    def update(self, *, canSave: bool, canTake: bool) -> None:
        self._ui.readingExportButton.enabled = canSave
        self._ui.readingResumeButton.enabled = canTake

    def onExport(self, checked: bool = False) -> None:
        """Save all readings as CSV; those that are not revealed stay sealed in it."""
        path = askForFile(_("Save readings"), "readings.csv", _("Table") + " (*.csv)", ".csv")
        if path is None:
            return
        try:
            writeCsv(self._table(True).readings(), path)
        except (VFMTransferError, OSError) as error:
            self._showMessage(str(error))
        else:
            self._showMessage(_("Saved {name}.").format(name=path.name))

    def onResume(self, checked: bool = False) -> None:
        """Take the readings of a CSV file into the scene."""
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Resume readings"), "", _("Table") + " (*.csv)"
        )
        if not path:
            return
        try:
            taken = self._table(True).add(readCsv(Path(path)))
        except VFMTransferError as error:
            self._showMessage(str(error))
        else:
            self._showMessage(_("{count} readings loaded from {name}.").format(count=taken, name=Path(path).name))
            self._taken()


if TYPE_CHECKING:
    from ..logic import TransferLogic
    from ..parameters import VFMTransferParameterNode
    from ..runs import RunInScene
    from .views import ViewSection

_USUAL_CONFIDENCE = 3


def _hasNodes(run: RunInScene) -> bool:
    """Whether something of the networks' answers is in a scene."""
    return any(arm.nodes for arm in run.arms)


class ReadingSection:
    """Leads through blinded readings: each run is shown blinded as long as Start is pressed.

    Args:
        ui: The panel's widgets.
        logic: Has the run to read.
        views: Shows it.

    Attributes:
        blinded: Emitted with True when networks are hidden, and with False when they may be seen again. Whoever names
            their results elsewhere on the panel hides that meanwhile.
    """

    def __init__(self, ui: SimpleNamespace, logic: TransferLogic, views: ViewSection) -> None:
        self.ui, self._logic, self._views = ui, logic, views
        self.blinded = Signal()
        self._parameters: VFMTransferParameterNode | None = None
        self._isOn = False
        self._isBlinded = False
        self._run: RunInScene | None = None
        self._session: BlindedReading | None = None
        self._answer: Reading | None = None
        self._masked: list[RunInScene] = []  # called by their side, and hidden in the user's own views
        self._named: list[Subject] = []  # the reader may have no answer to them, and yet knows which is which
        self._drawn: BlindedReading | None = None  # before its run is in the scene
        self._files = ReadingFiles(ui, self._table, self._showMessage, self.update)
        self._sides = {
            Side.LEFT: ui.readingLeftButton,
            Side.EQUAL: ui.readingEqualButton,
            Side.RIGHT: ui.readingRightButton,
        }
        self._fillConfidence()
        ui.readingStartButton.connect("clicked(bool)", self.onStart)
        for side, button in self._sides.items():
            button.connect("clicked(bool)", lambda checked=False, side=side: self.answer(side))
        ui.readingConfidenceComboBox.connect("activated(int)", self.onConfidence)
        ui.readingRevealButton.connect("clicked(bool)", self.onReveal)
        logic.started.connect(self.onRunStarted)
        logic.finished.connect(self.onRunFinished)
        views.shown.connect(self.onShown)

    # ---- what the panel and the logic report

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Other choices, or none while another module is open; a reading that goes on stays."""
        self._parameters = parameters
        self.update()

    def update(self) -> None:
        """Show what can be done now; a case that left the scene is read no longer, and one that came in is."""
        run = self._logic.lastRun
        if run is None and self._session is not None:
            self._leave()
        elif run is not None and run is not self._run and not self._logic.isRunning and (self._isOn or run.isMasked):
            self._isOn = True  # a scene that was saved during a reading goes on with it
            self._begin()
        readings = self._readings()
        missing = self._missing()
        self._updateStart(missing)
        canAnswer, answer = self._canAnswer, self._answer if self._canAnswer else None
        for side, button in self._sides.items():
            button.enabled = canAnswer and self._parameters is not None
            button.checked = answer is not None and answer.side is side
        self.ui.readingConfidenceComboBox.enabled = canAnswer and self._parameters is not None
        isUnanswered = canAnswer and answer is None
        isHidden = any(not reading.isRevealed for reading in readings) or bool(self._masked)
        # What a run brings is shown blinded, so that nothing may be named meanwhile.
        self.ui.readingRevealButton.enabled = isHidden and not isUnanswered and not self._logic.isRunning
        self.ui.readingRevealButton.toolTip = (
            _("Choose Left, Equal or Right first.")
            if isUnanswered
            else _("Wait for the run, or cancel it.")
            if self._logic.isRunning
            else _("Show which was which, in all readings so far. They are final then, and count in the tally.")
        )
        self._files.update(canSave=bool(readings), canTake=self._parameters is not None)

    def onRunStarted(self, run: RunInScene) -> None:
        """What comes is hidden from its first moment; the case before is read on where nothing comes."""
        self._drawn = None
        if self._session is None:
            self._run = None
        if self._isOn:
            self._hide(True)
            self._showMessage(_("The networks of this run will be shown without their names."))
        self.update()

    def draw(self, run: RunInScene) -> list[str] | None:
        """Draw the order of a run whose networks are not in the scene yet, and return what to call them there."""
        try:
            self._drawn = self._sessionOf(run)
        except VFMTransferError:  # it is reported when the run is to be shown
            return None
        return sideTitles(self._drawn.order)

    def onRunFinished(self, outcome: str) -> None:
        if self._isOn:
            self._begin()
        self.update()

    def onShown(self) -> None:
        """The reader can see the case."""
        if self._canAnswer:
            self._session.begin()

    # ---- what the reader does

    def onStart(self, isOn: bool) -> None:
        """Begin to read blinded, or stop it."""
        if isOn:
            self._isOn = True
            self._hide(True)
            self._begin()
        else:
            hasCase, answer = self._session is not None, self._answer
            self._end()
            self._showMessage(stoppedText(hasCase, answer))
        self.update()

    def answer(self, side: Side) -> None:
        """Note which side is better; a second word takes the place of the first."""
        if not self._canAnswer:
            return
        combo = self.ui.readingConfidenceComboBox
        try:
            reading = self._session.answer(side, combo.itemData(combo.currentIndex))
            self._table(isNeeded=True).put(reading)
            self._answer = reading
            self._showMessage(_("Saved. You can change your answer until the networks are revealed."))
        except VFMTransferError as error:
            self._showMessage(str(error))
        self.update()

    def onConfidence(self, index: int) -> None:
        """The reader is more or less sure of what was noted."""
        if self._answer is not None:
            self.answer(self._answer.side)

    def onReveal(self, checked: bool = False) -> None:
        """Show which was which; all readings are final from now on."""
        table, isShown = self._table(), self._canAnswer
        answer = self._answer if isShown else None
        try:
            if table is not None:
                table.reveal()
        except VFMTransferError as error:
            self._showMessage(str(error))
            return
        self._session = self._answer = None
        for run in self._masked:
            self._reveal(run)
        self._masked.clear()
        self._hide(False)
        if isShown:
            self._views.unblind()
        self._showMessage(revealedText(answer) if answer is not None else _("All readings are revealed."))
        self.update()

    # ---- within

    @property
    def _canAnswer(self) -> bool:
        """Whether there is a case to read; not while another one is on its way."""
        return self._session is not None and self._logic.lastRun is self._run

    def _begin(self) -> None:
        """Show the last run blinded, if there is one to read; while another module is open, it waits for the user."""
        run = self._logic.lastRun
        if run is None or self._logic.isRunning:
            self._showMessage(_("The networks of the next run will be shown without their names."))
            return
        if self._parameters is None:  # which has the earlier readings
            return
        if not self._canAnswer:
            try:
                self._open(run)
            except VFMTransferError as error:
                self._hide(False)
                if run.isMasked:
                    self._name(run)
                self._showMessage(str(error))
                return
        self._hide(True)
        self._views.show(order=self._session.order, isBlinded=True)
        self._showMessage(_("Which is better, left or right? The reading time is recorded."))

    def _open(self, run: RunInScene) -> None:
        """Read this run from now on, its networks called by their side.

        Raises:
            ReadingError: It cannot be read blinded.
        """
        self._run, self._session, self._answer = run, None, None
        session = self._sessionOf(run)
        self._session, self._answer = session, self._find(session.subject)
        for arm, title in zip(run.arms, sideTitles(session.order), strict=True):
            renameArm(arm, title, isSeen=False)
        self._logic.keep(run)
        self._masked.append(run)
        confidence = _USUAL_CONFIDENCE if self._answer is None else self._answer.confidence
        self.ui.readingConfidenceComboBox.setCurrentIndex(CONFIDENCES.index(confidence))

    def _sessionOf(self, run: RunInScene) -> BlindedReading:
        """With the order of the earlier reading, else the one that was drawn for the run, else a new one.

        Raises:
            ReadingError: It cannot be read, or the reader was shown which network is which.
        """
        subject = subjectOf(run)
        former = self._find(subject)
        drawn, self._drawn = self._drawn, None
        if former is None and drawn is not None and drawn.subject == subject:
            return drawn
        return BlindedReading(subject, former, isNamed=any(subject.isSameAs(named) for named in self._named))

    def _find(self, subject: Subject) -> Reading | None:
        table = self._table()
        return table.find(subject) if table is not None else None

    def _leave(self) -> None:
        """The case on the screen left the scene, and its answer stays as it is; the next one is read blinded too."""
        self._run = self._session = self._answer = None
        self._views.restore()
        self._begin()

    def _end(self) -> None:
        """Stop reading. The views close, and the case in them is named from now on; the others stay hidden."""
        run, session = self._run, self._session
        self._isOn = False
        self._session = self._answer = self._drawn = None
        if session is not None:
            self._views.restore()
            if run.isInScene or _hasNodes(run):  # else its scene was closed, and nothing is shown
                self._close(session.subject)
                self._name(run)
        self._masked = [other for other in self._masked if other is not run and _hasNodes(other)]
        self._hide(False)

    def _close(self, subject: Subject) -> None:
        """Take no other answer to a case: its networks are named."""
        self._named.append(subject)
        table = self._table()
        if table is not None:
            with suppress(VFMTransferError):  # the tally shows what is wrong with the table
                table.reveal(subject)

    def _reveal(self, run: RunInScene) -> None:
        """Name the networks of a run, which cannot be read blinded any more unless its answer is final now."""
        with suppress(VFMTransferError):  # its case left the scene
            subject = subjectOf(run)
            if self._find(subject) is None:
                self._named.append(subject)
        self._name(run)

    def _name(self, run: RunInScene) -> None:
        """Call the networks of a run by their own names again, in its scene and in what is saved with it."""
        for arm in run.arms:
            renameArm(arm)
        self._logic.keep(run)

    def _hide(self, isBlinded: bool) -> None:
        """Hide on the panel which network is which, or not."""
        self._logic.blind = self.draw if self._isOn else None
        if isBlinded != self._isBlinded:
            self._isBlinded = isBlinded
            self.blinded.emit(isBlinded)

    def _missing(self) -> str:
        if self._parameters is None:
            return _("Open the module to choose a case.")
        return _("Wait for the run, or cancel it.") if self._logic.isRunning and not self._isOn else ""

    def _updateStart(self, missing: str) -> None:
        button = self.ui.readingStartButton
        button.checked = self._isOn
        button.text = _("Stop") if self._isOn else _("Start")
        button.enabled = not missing
        button.toolTip = missing or _(
            "Hide which is A and which is B: the results of each run appear left and right in random order."
        )

    def _table(self, isNeeded: bool = False) -> ReadingTable | None:
        """The readings in the scene; made where it is needed and there is none."""
        node = self._parameters.readingTable if self._parameters is not None else None
        if node is not None:
            return ReadingTable(node)
        if not isNeeded:
            return None
        table = newTable(slicer.mrmlScene)
        self._parameters.readingTable = table.node
        return table

    def _readings(self) -> list[Reading]:
        """All readings in the scene, counted in the tally."""
        try:
            table = self._table()
            readings = table.readings() if table is not None else []
        except VFMTransferError as error:
            self.ui.readingTallyLabel.text = str(error)
            return []
        self.ui.readingTallyLabel.text = self._tallyText(readings)
        return readings

    def _tallyText(self, readings: list[Reading]) -> str:
        if not readings:
            return _("No readings yet.")
        subject = readings[-1].subject
        task, networks = subject.task, subject.networks
        run = self._logic.lastRun
        if run is not None and len(run.arms) == 2:
            try:
                task, networks = str(run.task), networksOf(run)
            except VFMTransferError as error:
                return str(error)
        names = [network.bundle for network in networks]
        return tallyText(tallyOf(readings, task, networks), names)

    def _fillConfidence(self) -> None:
        titles = {1: _("1: a guess"), 3: _("3: fairly sure"), 5: _("5: certain")}
        for confidence in CONFIDENCES:
            self.ui.readingConfidenceComboBox.addItem(titles.get(confidence, str(confidence)), confidence)
        self.ui.readingConfidenceComboBox.setCurrentIndex(CONFIDENCES.index(_USUAL_CONFIDENCE))

    def _showMessage(self, sentence: str) -> None:
        self.ui.readingStatusLabel.text = sentence
