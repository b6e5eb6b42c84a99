"""Dialogs that several sections open. Needs Qt."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _


def askForFile(title: str, name: str, filters: str, suffix: str = "") -> Path | None:
    """Ask where to save; None if the user thought better of it.

    Args:
        title: Of the dialog.
        name: Proposed.
        filters: As Qt writes them.
        suffix: Added where it is missing; the dialog has asked before an existing file is replaced, but not
            this one.
    """
    chosen = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, filters)
    if not chosen:
        return None
    path = Path(chosen)
    if suffix and path.suffix.lower() != suffix:
        path = path.with_name(path.name + suffix)
        question = _("'{name}' is there already. Replace it?").format(name=path.name)
        if path.exists() and not slicer.util.confirmOkCancelDisplay(question, title):
            return None
    return path
