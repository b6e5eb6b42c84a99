"""The window goes on while networks run. How long it stood still is printed; only a very long stand is a failure."""

import slicer
from in_slicer import EventLoopWatch, PanelTest

PROMISED_S = 0.1
TOO_LONG_S = 2.0  # of the processor, which without a graphics card draws the views too


class ResponsivenessTest(PanelTest):
    def test_the_window_goes_on_while_both_networks_run(self):
        self.chooseStudy()
        for name in ("first run, with a new worker", "second run, with a warm worker"):
            with EventLoopWatch() as watch:
                self._markSignals(watch)
                self.assertEqual(self.runBoth(), "done")
            self._tell(name, watch)
            self.ui.sideBySideButton.click()

    def test_the_window_goes_on_while_results_are_shown_side_by_side(self):
        self.chooseStudy()
        self.runBoth()
        self.ui.sideBySideButton.click()
        with EventLoopWatch() as watch:
            self.ui.sideBySideButton.click()
            for _ in range(50):
                slicer.app.processEvents()
        self._tell("side by side", watch)

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
        self.assertLess(watch.busiest_s, TOO_LONG_S)
