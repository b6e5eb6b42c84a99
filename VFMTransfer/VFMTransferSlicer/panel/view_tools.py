"""The tools that lead from A to B in the middle view: fade, flicker, checkerboard, reveal. Needs Qt."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import qt
import slicer
from slicer.i18n import tr as _

from ..views.viewing import Tool, Viewing

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
        self._isTelling = False
        self._flicker = qt.QTimer()
        self._flicker.setInterval(FLICKER_MS)
        self._flicker.connect("timeout()", self.flip)
        self._key: qt.QShortcut | None = None
        ui.fadeSlider.connect("valueChanged(double)", self.onFade)
        ui.flickerButton.connect("toggled(bool)", self.onFlicker)
        ui.checkerboardButton.connect("toggled(bool)", lambda isOn: self.onTool(Tool.CHECKERBOARD, isOn))
        ui.revealButton.connect("toggled(bool)", lambda isOn: self.onTool(Tool.REVEAL, isOn))

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
            self._tell(self._viewing())
        finally:
            self._isTelling = False

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
        """What to change; None where a widget only says what there is."""
        return None if self._isTelling else self._viewing()

    def _tell(self, viewing: Viewing | None) -> None:
        ui, canCompare = self._ui, viewing is not None
        for widget in (ui.fadeSlider, ui.flickerButton):
            widget.enabled = canCompare
        for widget in (ui.checkerboardButton, ui.revealButton):
            widget.enabled = canCompare and viewing.canMix
        ui.fadeSlider.value = viewing.fade if canCompare else 0.0
        ui.flickerButton.checked = self._flicker.isActive()
        ui.checkerboardButton.checked = canCompare and viewing.tool is Tool.CHECKERBOARD
        ui.revealButton.checked = canCompare and viewing.tool is Tool.REVEAL
        ui.viewHintLabel.text = _hint() if canCompare else ""


def _hint() -> str:
    return _(
        "{key} changes between A and B in the middle view. Shift and the mouse move the crosshair in all views, "
        "a double click shows one view alone, R shows the whole image."
    ).format(key=FLICKER_KEY)
