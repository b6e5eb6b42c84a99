"""The panel's sections: each keeps its widgets, the parameter node and the logic in step. All of them need Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ..parameters import VFMTransferParameterNode


class Section(Protocol):
    """The interface of a section."""

    def setParameters(self, parameters: VFMTransferParameterNode | None) -> None:
        """Show these choices, and write into them from now on; None while there is no case to choose from."""

    def update(self) -> None:
        """Enable what can be used now, and show why the rest cannot."""


@runtime_checkable
class Closing(Protocol):
    """A section that has something outside the panel: views, timers, child processes."""

    def close(self) -> None:
        """Leave nothing of it behind; the module goes, or is loaded again."""
