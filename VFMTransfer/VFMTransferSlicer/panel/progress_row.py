"""One network's progress on the panel. Needs Qt."""

from __future__ import annotations

from types import SimpleNamespace

from slicer.i18n import tr as _

from VFMTransferLib.worker.messages import Progress

from ..arm_clock import ArmClock

_MINUTE_S = 60
_MOST_S = 90  # from here on in minutes
_DONE = "done"  # no word of the worker's


def stageTitle(stage: str) -> str:
    """What the worker does, in plain words."""
    titles = {
        "images": _("Reading the images"),
        "read": _("Looking at the study"),
        "preprocess": _("Preparing the images"),
        "infer": _("The network works"),
        "postprocess": _("Finishing the result"),
        "write": _("Writing the result"),
        "compare": _("Comparing both"),
        "report": _("Writing the report"),
    }
    return titles.get(stage, stage)


class ProgressRow:
    """The title, the bar and the words of one network.

    Args:
        ui: The widgets of `VFMTransfer.ui`, by name.
        letter: `A` or `B`.
    """

    def __init__(self, ui: SimpleNamespace, letter: str) -> None:
        self.letter = letter
        self._clock = ArmClock()
        self._title = getattr(ui, f"progress{letter}TitleLabel")
        self._bar = getattr(ui, f"progress{letter}Bar")
        self._words = getattr(ui, f"progress{letter}Label")

    def clear(self, isShown: bool) -> None:
        """Begin anew."""
        self._clock = ArmClock()
        self._bar.value = 0
        self._words.text = _("waits") if isShown else ""
        for widget in (self._title, self._bar, self._words):
            widget.visible = isShown

    def hear(self, progress: Progress) -> None:
        """Show how far it is."""
        self._clock.hear(progress.stage, progress.fraction)
        self._bar.value = round(100 * progress.fraction)
        title = stageTitle(progress.stage)
        remaining = self._clock.remaining_s
        self._words.text = title if remaining is None else f"{title}, {_remainingWords(remaining)}"

    def finish(self, seconds: float) -> None:
        """Its result is there."""
        self._bar.value = 100
        self._words.text = _("Done in {seconds:.1f} s").format(seconds=seconds)
        self._clock.hear(_DONE, 1.0)

    def end(self) -> None:
        """Nothing more comes; what is not finished never will be."""
        if self._clock.stage != _DONE:
            self._bar.value = 0
            self._words.text = _("not finished")


def _remainingWords(seconds: float) -> str:
    if seconds > _MOST_S:
        return _("about {minutes} min left").format(minutes=round(seconds / _MINUTE_S))
    return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
