"""Blinded reading: two networks behind left and right in random order, and the reader's answers.

Nothing here needs Slicer. The order is random for each case and follows from a *seal*, a random number that is kept
with the reading: it reveals nothing at sight, but anybody can compute later that the order was not chosen afterwards.
Which network was preferred is written down only when the reading is revealed; until then there is the side alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from VFMTransferLib.core.errors import VFMTransferError

CONFIDENCES = range(1, 6)  # 1 a guess .. 5 certain
_SEAL_BITS = 128


class ReadingError(VFMTransferError):
    """A reading cannot be taken, or a table of readings cannot be understood."""


class Side(StrEnum):
    """The reader's answer: which of the two views is better."""

    LEFT = "left"
    EQUAL = "equal"
    RIGHT = "right"


@dataclass(frozen=True)
class Network:
    """A network by its name and the checksum of its weights."""

    bundle: str
    sha256: str


@dataclass(frozen=True)
class Subject:
    """What is read: two networks' results of one task on one case.

    Attributes:
        case: Name of the case's volume, for the reader.
        study: Checksum of the case's voxels; volumes of many cases bear the same name.
        task: Its id, as in `tasks.TASKS`.
        networks: A, then B.
    """

    case: str
    study: str
    task: str
    networks: tuple[Network, Network]

    def isSameAs(self, other: Subject) -> bool:
        """Whether it is the same case, task and pair, whichever network is called A."""
        checksums = [{network.sha256 for network in subject.networks} for subject in (self, other)]
        return (self.study, self.task) == (other.study, other.task) and checksums[0] == checksums[1]


@dataclass(frozen=True)
class Reading:
    """A reader's answer on one subject.

    Attributes:
        seal: 32 hexadecimal digits, from which the order follows.
        side: Which side is better.
        confidence: One of `CONFIDENCES`.
        seconds: From the moment when the views were shown to the answer.
        time: Of the answer; ISO 8601 with its time zone.
        isRevealed: Whether the order was shown to the reader; the reading is final then.
    """

    subject: Subject
    seal: str
    side: Side
    confidence: int
    seconds: float
    time: str
    isRevealed: bool = False

    @property
    def left(self) -> str:
        """`A` or `B`: which network was on the left."""
        return "AB"[orderOf(self.seal)[0]]

    @property
    def preferred(self) -> str:
        """`A`, `equal` or `B`."""
        if self.side is Side.EQUAL:
            return str(Side.EQUAL)
        first, second = orderOf(self.seal)
        return "AB"[first if self.side is Side.LEFT else second]

    def revealed(self) -> Reading:
        """The same, final."""
        return replace(self, isRevealed=True)


def newSeal(chance: random.Random) -> str:
    return f"{chance.getrandbits(_SEAL_BITS):0{_SEAL_BITS // 4}x}"


def orderOf(seal: str) -> tuple[int, int]:
    """Which network is left and which is right, 0 for A and 1 for B: the last bit of the seal's SHA-256."""
    left = sha256(seal.encode("ascii")).digest()[-1] & 1
    return left, 1 - left


def _nowWithZone() -> datetime:
    return datetime.now().astimezone()


class BlindedReading:
    """One subject in front of the reader.

    Args:
        subject: What is read.
        former: An earlier reading of it that was not revealed: its order stays, and its time goes on.
        chance: Gives the order.
        clock: Seconds that never jump.
        now: The time of day, with its zone.
        isNamed: Whether the reader was shown which network is which, without an answer.

    Raises:
        ReadingError: The reader knows which network is which: it was shown, or the earlier reading was revealed.
    """

    def __init__(
        self,
        subject: Subject,
        former: Reading | None = None,
        chance: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _nowWithZone,
        isNamed: bool = False,
    ) -> None:
        if isNamed or (former is not None and former.isRevealed):
            raise ReadingError(
                f"A case must be read before its networks are revealed, but those of '{subject.case}' were. "
                "Read another case."
            )
        # The former subject stays, for its A and B belong to the seal; the run's may have changed places since.
        self.subject = former.subject if former else subject
        self._isSwapped = self.subject.networks[0].sha256 != subject.networks[0].sha256
        self._seal = former.seal if former else newSeal(chance or random.SystemRandom())
        self._clock, self._now = clock, now
        self._former_s = former.seconds if former else 0.0
        self._begun: float | None = None

    @property
    def order(self) -> tuple[int, int]:
        """Which network of the run on the screen is left, and which is right."""
        left, right = orderOf(self._seal)
        return (right, left) if self._isSwapped else (left, right)

    def begin(self) -> None:
        """Count the time from now on, when the views are shown for the first time."""
        if self._begun is None:
            self._begun = self._clock() - self._former_s

    def answer(self, side: Side, confidence: int) -> Reading:
        """The reader's present answer; it replaces the one before.

        Raises:
            ReadingError: The confidence is none of `CONFIDENCES`.
        """
        if confidence not in CONFIDENCES:
            lowest, highest = CONFIDENCES[0], CONFIDENCES[-1]
            raise ReadingError(f"Confidence is {confidence}. Choose {lowest} to {highest}.")
        self.begin()
        seconds = round(self._clock() - self._begun, 1)
        return Reading(
            self.subject, self._seal, Side(side), confidence, seconds, self._now().isoformat(timespec="seconds")
        )
