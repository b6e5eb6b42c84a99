"""How often each network was preferred, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from .blinded import Network, Reading

# Of fewer readings with a preference even unanimous ones have p >= 0.05: 2 / 2**5 = 0.0625, but 2 / 2**6 = 0.031.
FEWEST_FOR_SIGNIFICANCE = 6


@dataclass(frozen=True)
class Tally:
    """Counts of the revealed readings of one pair of networks at one task.

    Attributes:
        a, b: How often each was preferred.
        equal: How often neither was.
        sealed: Readings that are not revealed yet, which count nowhere else.
    """

    a: int
    b: int
    equal: int
    sealed: int

    @property
    def preferences(self) -> int:
        """Readings that prefer one: the n of the sign test."""
        return self.a + self.b

    @property
    def pValue(self) -> float:
        return signTest(self.a, self.b)


def signTest(a: int, b: int) -> float:
    """Exact two-sided sign test: how likely a split at least as uneven is, if neither network is better.

    Ties are left out, as Dixon and Mood do (The statistical sign test, J Am Stat Assoc 41, 1946, 557-566).

    Args:
        a, b: How often each was preferred.

    Returns:
        p in (0, 1]; 1 where nothing was preferred.
    """
    n = a + b
    tail = sum(comb(n, k) for k in range(min(a, b) + 1))
    return min(1.0, 2 * tail / 2**n)


def tallyOf(readings: Iterable[Reading], task: str, networks: tuple[Network, Network]) -> Tally:
    """Count the readings of a pair of networks at a task, of all studies.

    Readings of the pair in which A and B had changed places count for the network, not for the letter.
    """
    a, b = (network.sha256 for network in networks)
    counts = {a: 0, b: 0, "": 0}
    sealed = 0
    for reading in readings:
        checksums = [network.sha256 for network in reading.subject.networks]
        if reading.subject.task != task or set(checksums) != {a, b}:
            continue
        if reading.isRevealed:
            preferred = dict(zip("AB", checksums, strict=True)).get(reading.preferred, "")
            counts[preferred] += 1
        else:
            sealed += 1
    return Tally(counts[a], counts[b], counts[""], sealed)
