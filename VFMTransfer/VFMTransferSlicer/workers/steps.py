"""Work on the main thread in small steps, with the window's turn between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

Steps = Generator[None, None, None]


class StepQueue:
    """Does one piece of work after the other, a step each time.

    Args:
        later: Calls a function when the window had its turn; where there is no window, at once.
    """

    def __init__(self, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._work: deque[tuple[Steps, Callable[[Exception], None]]] = deque()
        self._isTurning = False
        self._atWork: Steps | None = None

    def add(self, steps: Steps, onError: Callable[[Exception], None]) -> None:
        """Do this after all that was added before.

        Args:
            steps: A generator; each `next` is a step.
            onError: Takes what a step raises, which ends this piece of work; the next one is done all the same.
        """
        self._work.append((steps, onError))
        if not self._isTurning:
            self._isTurning = True
            self._later(self._turn)

    def clear(self) -> None:
        """Do nothing of what is left. A step that calls this is done to its end."""
        while self._work:
            steps, _ = self._work.popleft()
            if steps is not self._atWork:
                steps.close()

    def _turn(self) -> None:
        if self._work:
            self._step(*self._work[0])
        self._isTurning = bool(self._work)
        if self._isTurning:
            self._later(self._turn)

    def _step(self, steps: Steps, onError: Callable[[Exception], None]) -> None:
        self._atWork = steps
        try:
            next(steps)
            return
        except StopIteration:
            error = None
        except Exception as raised:  # the caller that added the work handles it
            error = raised
        finally:
            self._atWork = None
        if self._work and self._work[0][0] is steps:  # a step may clear the queue
            self._work.popleft()
        if error is not None:
            onError(error)
