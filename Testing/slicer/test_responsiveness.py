"""The window goes on while networks run, and a second task on an exam costs little more than its networks.

Times are printed; only a very long standstill of the window is a failure.
"""

import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import slicer
from in_slicer import MODULE, EventLoopWatch, PanelTest, waitFor

from VFMTransferLib.tasks import TASKS

PROMISED_S = 0.1
TOO_LONG_S = 2.0  # of the processor, which without a graphics card draws the views too
A_LOOK_S = 2.0  # between a choice and the click on Run, in which networks are loaded
SETTLED_S = 1.5  # in which Slicer draws what has changed


class ResponsivenessTest(PanelTest):
    def test_the_window_goes_on_from_the_opening_of_the_module_to_the_end_of_the_scene(self):
        slicer.util.selectModule("Data")
        self._watch("opening the module", lambda: slicer.util.selectModule(MODULE))
        self.chooseStudy()
        for name in ("first run, with a new worker", "second run, with a warm worker"):
            self._watch(name, lambda: self.assertEqual(self.runBoth(), "done"))
        button = self.ui.sideBySideButton
        self._watch("side by side closes", button.click)
        self._watch("side by side opens", button.click)
        self._watch("side by side closes again", button.click)
        self._watch("exam layout opens", self.ui.examButton.click)
        self._watch("exam layout closes", self.ui.examButton.click)
        button.click()
        self.settle()
        with tempfile.TemporaryDirectory() as folder:
            scene = str(Path(folder) / "scene.mrb")
            self._watch("the scene is saved", lambda: slicer.util.saveScene(scene))
        self._watch("the scene closes", slicer.mrmlScene.Clear)

    def test_a_further_task_on_the_same_exam_by_stopwatch(self):
        """From the click on Run to the nodes of both networks, with the seconds of each stage."""
        self.chooseStudy()
        workers = []
        for task in (*TASKS, *TASKS):
            combo = self.ui.taskComboBox
            combo.setCurrentIndex(combo.findData(task))
            combo.activated(combo.currentIndex)
            waitFor(lambda: self.ui.runButton.enabled, "Run can be clicked")
            click = time.monotonic() + A_LOOK_S
            waitFor(lambda click=click: time.monotonic() > click, "a look at the images")
            loaded: list[float] = []
            begun = time.monotonic()
            self._connect(
                self.logic.armLoaded, lambda *_, loaded=loaded, begun=begun: loaded.append(time.monotonic() - begun)
            )
            self.assertEqual(self.runBoth(), "done", self.failures)
            self.assertEqual(len(loaded), 2, "both networks' nodes")
            arms = [arm.numbers["seconds"] for arm in self.logic.lastRun.arms]
            stages = {stage: sum(arm.get(stage, 0.0) for arm in arms) for stage in dict.fromkeys(chain(*arms))}
            spent = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in stages.items())
            print(
                f"{task}: {loaded[-1]:.2f} s to the nodes of both networks, {sum(stages.values()):.2f} s of it {spent}"
            )
            workers.append(self.workerId())
        self.assertEqual(len(set(workers)), 1, "one worker keeps what was found")

    def _watch(self, name: str, act: Callable[[], object]) -> None:
        """Do something, let Slicer draw, and tell how long the window stood still meanwhile."""
        with EventLoopWatch() as watch:
            self._markSignals(watch)
            act()
            self.settle()
            end = time.monotonic() + SETTLED_S
            waitFor(lambda: time.monotonic() > end, name)
        self._tell(name, watch)
        self.assertLess(watch.busiest_s, TOO_LONG_S)

    def _markSignals(self, watch: EventLoopWatch) -> None:
        self._connect(self.logic.progress, lambda progress: watch.mark(f"{progress.arm} {progress.stage}"))
        for name in ("started", "armLoaded", "compared", "finished"):
            self._connect(getattr(self.logic, name), lambda *_, name=name: watch.mark(name))

    def _tell(self, name: str, watch: EventLoopWatch) -> None:
        isKept = "kept" if watch.longest_s <= PROMISED_S else "NOT kept"
        print(
            f"{name}: the window stood still for {1000 * watch.longest_s:.0f} ms at most ({isKept}), and worked for "
            f"{1000 * watch.busiest_s:.0f} ms at most, at '{watch.where}'"
        )
        for longest, busiest, where in watch.gaps:
            print(f"    {1000 * longest:.0f} ms, of which {1000 * busiest:.0f} ms of the processor, at '{where}'")
        for step, busiest in sorted(watch.steps.items(), key=lambda item: -item[1])[:3]:
            print(f"    step {step}: {1000 * busiest:.0f} ms")
