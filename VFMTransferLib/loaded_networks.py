"""Networks that stay loaded between runs, as long as there is memory for them."""

from __future__ import annotations

import gc
from collections.abc import Callable

from .bundle import Bundle
from .machine import resident_bytes
from .runtimes import Session, open_session


class LoadedNetworks:
    """Sessions by what they were opened with; those used longest ago go first when memory is short.

    A bundle whose files were replaced has other checksums, and is loaded anew.

    Args:
        limit_bytes: Memory that the process may hold before networks are let go.
        held_bytes: Tells what it holds.
        load: Opens a session.
    """

    def __init__(
        self,
        limit_bytes: int,
        held_bytes: Callable[[], int] = resident_bytes,
        load: Callable[..., Session] = open_session,
    ) -> None:
        self.loads = 0
        self._limit_bytes = limit_bytes
        self._held_bytes = held_bytes
        self._load = load
        self._sessions: dict[object, Session] = {}  # the one used last at the end

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the bundles, the one used last at the end."""
        return tuple(session.bundle.name for session in list(self._sessions.values()))

    def open(self, bundle: Bundle, *, runtime: str = "auto", device: str = "auto", precision: str = "auto") -> Session:
        """The bundle's network, loaded now if it is not there; see `runtimes.open_session`."""
        key = (bundle.folder, *sorted(bundle.sha256.items()), runtime, device, precision)
        session = self._sessions.pop(key, None)
        if session is None:
            self.make_room()
            session = self._load(bundle, runtime, device, precision)
            self.loads += 1
        self._sessions[key] = session
        return session

    def make_room(self) -> None:
        """Let go of networks, those used longest ago first, until the process holds no more than it may."""
        while self._sessions and self._held_bytes() > self._limit_bytes:
            self._sessions.pop(next(iter(self._sessions)))
            gc.collect()

    def clear(self) -> None:
        """Let go of all."""
        self._sessions.clear()
        gc.collect()
