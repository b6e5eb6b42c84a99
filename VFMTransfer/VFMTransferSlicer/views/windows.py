"""One window and level for images that are to be compared. MRML only."""

from __future__ import annotations

from collections.abc import Iterable

import slicer
import vtk

from ..results.nodes import windowFor
from .changes import Changes, asOne


class LinkedWindows:
    """Keeps window and level of some volumes the same, whichever of them the user changes.

    Args:
        volumes: The first one's window counts at the beginning.
        changes: Remembers what each of them had.
    """

    def __init__(self, volumes: Iterable[slicer.vtkMRMLScalarVolumeNode], changes: Changes) -> None:
        self._changes = changes
        self._observed: list[tuple[slicer.vtkMRMLScalarVolumeDisplayNode, int]] = []
        self._isCopying = False
        for volume in volumes:
            self.add(volume)

    def add(self, volume: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Link one more, which takes the others' window."""
        if volume.GetDisplayNode() is None:
            volume.CreateDefaultDisplayNodes()
        display = volume.GetScalarVolumeDisplayNode()
        window, level = display.GetWindow(), display.GetLevel()
        if display.GetAutoWindowLevel():  # nobody chose it, and on diffusion images a few bright vessels make it dark
            low, high = windowFor(slicer.util.arrayFromVolume(volume))
            window, level = high - low, (high + low) / 2
        with asOne(display):
            for name, value in (("AutoWindowLevel", False), ("Window", window), ("Level", level)):
                self._changes.set(display, name, value)
        self._observed.append((display, display.AddObserver(vtk.vtkCommand.ModifiedEvent, self._onModified)))
        self._copy(self._observed[0][0])

    def close(self) -> None:
        """Stop linking; the windows stay as they are."""
        for display, tag in self._observed:
            display.RemoveObserver(tag)
        self._observed = []

    def _onModified(self, display: slicer.vtkMRMLScalarVolumeDisplayNode, event: str) -> None:
        if not self._isCopying:
            self._copy(display)

    def _copy(self, source: slicer.vtkMRMLScalarVolumeDisplayNode) -> None:
        self._isCopying = True
        try:
            for display, _ in self._observed:
                if (display.GetWindow(), display.GetLevel()) != (source.GetWindow(), source.GetLevel()):
                    display.SetWindowLevel(source.GetWindow(), source.GetLevel())
        finally:
            self._isCopying = False
