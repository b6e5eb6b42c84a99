"""What the views change of the user's scene, so that all of it can be given back. MRML only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import slicer

# Displayable node, display node that was taken from it.
_outliving: list[tuple[slicer.vtkMRMLNode, slicer.vtkMRMLNode]] = []


class Changes:
    """Remembers settings before they are changed, and nodes that are only there for the views."""

    def __init__(self) -> None:
        self._former: dict[tuple[slicer.vtkMRMLNode, str], Any] = {}
        self._added: list[slicer.vtkMRMLNode] = []

    def set(self, node: slicer.vtkMRMLNode, name: str, value: Any) -> None:
        """Call `node.Set<name>(value)`; what `node.Get<name>()` said before the first time comes back.

        Args:
            node: In a scene.
            name: Of a setting that has a getter and a setter of this name.
            value: The setter's one argument.
        """
        self._former.setdefault((node, name), getattr(node, f"Get{name}")())
        getattr(node, f"Set{name}")(value)

    def add(self, scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLNode, name: str) -> slicer.vtkMRMLNode:
        """Add a node that is neither listed to the user nor saved with the scene; `giveBack` removes it.

        Add a volume after its display, so that it goes before it: shown without one it would get another.
        """
        node.SetName(name)
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        self._added.append(scene.AddNode(node))
        return node

    def remove(self, node: slicer.vtkMRMLNode) -> None:
        """Remove a node that `add` added, before the others."""
        self._added.remove(node)
        if node.GetScene() is not None:
            if node.IsA("vtkMRMLDisplayNode"):
                _keepAlive(node)
            node.GetScene().RemoveNode(node)

    def giveBack(self) -> None:
        """Undo everything, the last change first. Nodes that the user removed meanwhile are left out."""
        nodes = {node: None for node, _ in self._former if node.GetScene() is not None}
        with asOne(*nodes):
            for (node, name), former in reversed(self._former.items()):
                if node in nodes:
                    getattr(node, f"Set{name}")(former)
        self._former.clear()
        for node in reversed(self._added[:]):
            self.remove(node)


@contextmanager
def asOne(*nodes: slicer.vtkMRMLNode) -> Iterator[None]:
    """Tell of all changes of each node together, in the end: every telling makes Slicer work out its views anew."""
    wereModifying = [node.StartModify() for node in nodes]
    try:
        yield
    finally:
        for node, wasModifying in zip(nodes, wereModifying, strict=True):
            node.EndModify(wasModifying)


def _keepAlive(display: slicer.vtkMRMLDisplayNode) -> None:
    """Let a display node that leaves the scene live as long as what it showed is there.

    The slice views of segmentations go on pointing to it, and would crash when the segmentation changes, as it does
    when the scene is saved (`vtkMRMLSegmentationsDisplayableManager2D::OnMRMLSceneNodeRemoved` in Slicer 5.12).
    """
    _outliving[:] = [(shown, node) for shown, node in _outliving if shown.GetScene() is not None]
    shown = display.GetDisplayableNode()
    if shown is not None:
        _outliving.append((shown, display))
