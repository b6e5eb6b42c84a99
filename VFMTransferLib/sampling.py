"""Which random numbers a step's samples and parts draw, so that a stopped run goes on as if it had not been.

Configurations of trainings share four fields that this file reads: `seed`, `batch` (samples a step, of all processes),
`draws`, and through `later` whatever a newer version has added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Generator

from .division import Division
from .spec_json import to_json

# Of a step's samples: one stream of random numbers for all, in their order, or one for each sample. With one for all,
# every process must draw the whole batch; with one for each, its own samples only.
DRAWS = ("step", "sample")
# Large and odd, so that the generators of two runs with neighboring seeds share no step.
_SEED_STRIDE = 1_000_003
# PyTorch's generator takes the low 32 bits of a seed, and no more.
_SEED_BYTES = 4
_LATER = "later"

Drawn = TypeVar("Drawn")


class Sampled(Protocol):
    """What a configuration says of a step's samples."""

    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def draws(self) -> str: ...


def later(default: Any) -> Any:
    """A field that a configuration has gained: while it is the default, older checkpoints stay valid (`stated`)."""
    return field(default=default, metadata={_LATER: True})


def stated(config: Any, division: Division) -> dict[str, Any]:
    """What of a configuration decides the result, as JSON: for the checksum by which a checkpoint is known.

    Where the parts of a batch run does not belong to it; how many there are does, since batch normalization, Dice and
    stochastic depth see a part.
    """
    document = to_json(config)
    for one in fields(config):
        if one.metadata.get(_LATER) and document[one.name] == one.default:
            del document[one.name]
    return document if division.parts == 1 else {**document, "parts": division.parts}


def step_seed(seed: int, step: int) -> int:
    """The seed of a step's randomness."""
    return seed * _SEED_STRIDE + step


def part_seed(seed: int, step: int, part: int) -> int:
    """The seed of a part of a step's batch; the first part's is the step's."""
    return _scrambled("part", seed, step, part) if part else step_seed(seed, step)


def _scrambled(*words: object) -> int:
    """A seed that no other words are likely to have."""
    digest = hashlib.sha256(" ".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "little")


def step_generator(seed: int, step: int) -> Generator:
    """The source of a step's randomness; also seeds the global one, which stochastic depth uses."""
    torch.manual_seed(step_seed(seed, step))
    return Generator().manual_seed(step_seed(seed, step))


def draw(
    config: Sampled, division: Division, step: int, generator: Generator, sample: Callable[[int, Generator], Drawn]
) -> list[list[Drawn]]:
    """This process's samples of a step, by part.

    Args:
        config: Says how many in all, and how they draw.
        division: This process's share.
        step: Number of the step.
        generator: The step's.
        sample: Draws the sample of a number, 0 .. batch - 1.
    """
    if config.draws not in DRAWS:
        raise ValueError(f"Samples must draw by {' or '.join(DRAWS)}, got '{config.draws}'.")
    own = division.own(config.batch)
    if config.draws == "step":
        drawn = [sample(number, generator) for number in range(config.batch)]
        return [[drawn[number] for number in part] for part in own]
    return [
        [sample(n, Generator().manual_seed(_scrambled("sample", config.seed, step, n))) for n in part] for part in own
    ]
