"""What the tests inside Slicer share: a study, the panel under their fingers, and waiting without standing still."""

import importlib.util
import subprocess
import tempfile
import time
import unittest
from collections.abc import Callable
from functools import cache
from pathlib import Path

import qt
import slicer

from VFMTransferLib.core.terms import Sequence
from VFMTransferSlicer.panel.views import ViewSection
from VFMTransferSlicer.workers.process import theWorker, workerPython
from VFMTransferSlicer.workers.steps import StepQueue

MODULE = "VFMTransfer"
WITHIN_S = 180.0  # generous: the machine may be slow, and busy
PAIR = ("profound-prostate-demo-pretrained", "profound-prostate-demo-scratch")


def waitFor(isReached: Callable[[], object], what: str, within_s: float = WITHIN_S) -> None:
    """Let the application go on until it is so.

    Raises:
        AssertionError: It was not in time.
    """
    deadline = time.monotonic() + within_s
    while not isReached():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:.0f} s"
        slicer.app.processEvents()
        time.sleep(0.005)


@cache
def studyFolder() -> Path:
    """A phantom on disk, made once by the library's own command."""
    folder = Path(tempfile.mkdtemp(prefix="VFM Transfer Prüfung "))
    library = str(Path(importlib.util.find_spec("VFMTransferLib").origin).parents[1])
    code = f"import sys; sys.path.insert(0, {library!r}); from VFMTransferLib.cli import main; sys.exit(main())"
    command = [workerPython(), "-c", code, "phantom", "--no-full-resolution", "--seed", "7", "-o", str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(path for path in (folder / "out").iterdir() if path.is_dir())


def loadStudy(*sequences: Sequence) -> dict[Sequence, slicer.vtkMRMLScalarVolumeNode]:
    """The phantom's volumes in the scene, all three by default."""
    wanted = sequences or tuple(Sequence)
    return {sequence: slicer.util.loadVolume(str(studyFolder() / f"{sequence}.nii.gz")) for sequence in wanted}


def requireRuntime(test: unittest.TestCase) -> None:
    """Networks run on ONNX Runtime, which Slicer does not bring."""
    if importlib.util.find_spec("onnxruntime") is None:
        test.skipTest("onnxruntime is not in Slicer's Python.")


class EventLoopWatch:
    """How long the window stood still: the times between two turns of a fast timer.

    Attributes:
        longest_s: The longest by the clock; other processes count too.
        busiest_s: Of the processor, on the thread of the window; the same on an idle and a busy machine.
        where: What was said last before the busiest time ended; see `mark`.
        gaps: Each time of more than `LONG_S` by the clock: clock, processor, and what was said last.
        steps: The longest time of the processor that each kind of our own steps took, by its name.
    """

    LONG_S = 0.1

    def __init__(self) -> None:
        self.longest_s = self.busiest_s = 0.0
        self.where = self._mark = ""
        self.gaps: list[tuple[float, float, str]] = []
        self.steps: dict[str, float] = {}
        self._last = self._times()
        self._timer = qt.QTimer()
        self._timer.setInterval(5)
        self._timer.connect("timeout()", self._tick)
        self._step = StepQueue._step

    def __enter__(self) -> "EventLoopWatch":
        def step(queue, steps, onError) -> None:
            frame = steps.gi_frame
            name = f"{steps.__name__} {frame.f_lineno if frame is not None else ''}"
            begun = time.thread_time()
            self._step(queue, steps, onError)
            self.steps[name] = max(self.steps.get(name, 0.0), time.thread_time() - begun)

        StepQueue._step = step
        self._last = self._times()
        self._timer.start()
        return self

    def __exit__(self, *_) -> None:
        self._tick()
        self._timer.stop()
        StepQueue._step = self._step

    def mark(self, what: str) -> None:
        """Say what happens."""
        self._mark = what

    def _tick(self) -> None:
        now = self._times()
        longest, busiest = (new - old for new, old in zip(now, self._last, strict=True))
        self.longest_s = max(self.longest_s, longest)
        if busiest > self.busiest_s:
            self.busiest_s, self.where = busiest, self._mark
        if longest > self.LONG_S:
            self.gaps.append((longest, busiest, self._mark))
        self._last = now

    def _times(self) -> tuple[float, float]:
        return time.monotonic(), time.thread_time()


def ownViews() -> list[str]:
    """Singleton tags of the comparison's views that are in the scene, shown or on their way out."""
    tags = [node.GetLayoutName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")]
    return [tag for tag in tags if tag.startswith(MODULE)]


class PanelTest(unittest.TestCase):
    """The module open in an empty scene, with what its logic says written down.

    Attributes:
        ui: The panel's widgets, by name.
        logic: The panel's.
        views: The panel's section of the views.
        outcomes: What each run ended with.
        failures: The sentences that were said.
    """

    def setUp(self) -> None:
        if slicer.util.mainWindow() is None:
            self.skipTest("The panel is clicked where there is a main window.")
        requireRuntime(self)
        slicer.mrmlScene.Clear()
        waitFor(lambda: not ownViews(), "The end of a former test's views")
        slicer.util.selectModule(MODULE)
        slicer.app.processEvents()
        self.ui = slicer.util.childWidgetVariables(slicer.util.getModuleWidget(MODULE).parent)
        self.logic = slicer.util.getModuleWidget(MODULE).logic
        panel = slicer.util.getModuleWidget(MODULE).panel
        self.views = next(section for section in panel._sections if isinstance(section, ViewSection))
        self.outcomes, self.failures = [], []
        self._connect(self.logic.finished, self.outcomes.append)
        self._connect(self.logic.failed, lambda sentence, details: self.failures.append(sentence))

    def tearDown(self) -> None:
        self.logic.cancel()
        waitFor(lambda: not self.logic.isRunning, "The end of a run")
        slicer.mrmlScene.Clear()

    def _connect(self, signal, slot) -> None:
        signal.connect(slot)
        self.addCleanup(signal.disconnect, slot)

    def onFirst(self, signal, isWanted: Callable[..., bool], act: Callable[[], None]) -> None:
        """Act once, when a signal says what is waited for."""
        done = []

        def slot(*arguments) -> None:
            if not done and isWanted(*arguments):
                done.append(True)
                act()

        self._connect(signal, slot)

    def chooseStudy(self) -> dict[Sequence, slicer.vtkMRMLScalarVolumeNode]:
        """Load the phantom, and choose its volumes by hand."""
        volumes = loadStudy()
        for sequence, node in volumes.items():
            getattr(self.ui, f"{sequence}Selector").setCurrentNode(node)
        waitFor(lambda: self.ui.runButton.enabled, "Run can be clicked")
        return volumes

    def runBoth(self) -> str:
        """Click Run, wait for the end, and return the outcome."""
        self.outcomes.clear()
        self.failures.clear()
        self.ui.runButton.click()
        waitFor(lambda: self.outcomes, "The end of the run")
        self.settle()
        return self.outcomes[0]

    def settle(self) -> None:
        """Wait until the views that were asked for are open or gone, and Slicer has drawn them."""
        steps = self.views._steps
        waitFor(lambda: not steps._work, "The views")
        for _ in range(10):
            slicer.app.processEvents()

    def workerId(self) -> int:
        return theWorker().ready.process_id
