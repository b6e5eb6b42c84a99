"""Signals in plain Python: subclasses of `qt.Signal` crash PythonQt, and the logic must run without Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls what is connected, in the order of connection."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        """Call `slot` with the arguments of each `emit` from now on."""
        self._slots.append(slot)

    def disconnect(self, slot: Callable[..., Any]) -> None:
        """Call it no more.

        Raises:
            ValueError: It was not connected.
        """
        self._slots.remove(slot)

    def emit(self, *arguments: Any) -> None:
        """Call every slot; one that disconnects itself on the way does no harm."""
        for slot in tuple(self._slots):
            slot(*arguments)
