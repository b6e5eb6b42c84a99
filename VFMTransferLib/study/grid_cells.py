"""The cells of a study: one training, one baseline or one pretraining each, in the order in which they are run.

The order makes a study readable wherever it is stopped: what costs nothing first, then every encoder and task with the
first seed of all arms, then with the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import ConfigError
from ..terms import TaskId
from .grid_config import StudyConfig

PRETRAINING = "pretraining"
REGISTRATION = "registration"
FAMILIES = ("profound", "provicnet")
KEYS = ("encoder", "task", "arm", "seed")
# What stands in the encoder's column of a trivial baseline; the same words as in `trivial.TITLES`, a test says.
BASELINES = {
    TaskId.ANATOMY_SEGMENTATION: "mean-shape",
    TaskId.LESION_SEGMENTATION: "no-lesion",
    TaskId.CLASSIFICATION: "class-prior",
    TaskId.SUPER_RESOLUTION: "zero-filled",
    TaskId.DISTORTION_CORRECTION: "uncorrected",
    TaskId.ADC_TRANSLATION: "mean-adc",
}


@dataclass(frozen=True, order=True)
class Cell:
    """One cell.

    Attributes:
        encoder: As the tables' column: an encoder, a specialised network, `registration`, or a baseline.
        task: The task; empty of a pretraining.
        arm: One of `grid_tables.ARMS`, or `PRETRAINING`.
        seed: Of head, order and views.
    """

    encoder: str
    task: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return ".".join(part for part in (self.task, self.encoder, self.arm, str(self.seed)) if part)

    @property
    def is_trained(self) -> bool:
        """Whether a network learns in it."""
        return self.arm != "trivial" and self.encoder != REGISTRATION

    @property
    def family(self) -> str:
        """The family whose settings it has; a specialised network has ProFound's."""
        return self.encoder if self.encoder in FAMILIES else FAMILIES[0]

    @property
    def needs(self) -> Cell | None:
        """The pretraining that it starts from."""
        return pretraining(self.encoder) if self.arm == "pretrained" else None


def pretraining(encoder: str) -> Cell:
    """The cell of an encoder's pretraining."""
    return Cell(encoder, "", PRETRAINING, 0)


def study_cells(config: StudyConfig) -> tuple[Cell, ...]:
    """All cells in their order; a pretraining stands before the first cell that needs it."""
    return tuple(dict.fromkeys(_with_needs(_measured(config))))


def chosen_cells(cells: Iterable[Cell], only: Mapping[str, Iterable[str]]) -> tuple[Cell, ...]:
    """The cells whose columns are among those that are wanted, and what they need.

    Args:
        cells: In their order.
        only: Column, one of `KEYS` → values that it may have; all columns must agree.

    Raises:
        ConfigError: No cell is wanted.
    """
    wanted = {key: set(values) for key, values in only.items()}
    chosen = [cell for cell in cells if all(str(getattr(cell, key)) in values for key, values in wanted.items())]
    if not chosen:
        told = " ".join(f"{key}={','.join(sorted(values))}" for key, values in wanted.items())
        raise ConfigError(f"The study must have a cell of {told}, but has none. Look into its configuration.")
    return tuple(dict.fromkeys(_with_needs(chosen)))


def _measured(config: StudyConfig) -> Iterator[Cell]:
    """What the tables have rows of."""
    first = config.seeds[0]
    for task, settings in config.tasks.items():
        yield Cell(BASELINES[task], task, "trivial", first)
        if REGISTRATION in settings.specialised:
            yield Cell(REGISTRATION, task, "specialised", first)
    for seed in config.seeds:
        for task, settings in config.tasks.items():
            for encoder in config.encoders:
                if settings.fit(encoder) is not None:
                    yield Cell(encoder, task, "scratch", seed)
                    yield Cell(encoder, task, "pretrained", seed)
            yield from (Cell(row, task, "specialised", seed) for row in settings.specialised if row != REGISTRATION)


def _with_needs(cells: Iterable[Cell]) -> Iterator[Cell]:
    for cell in cells:
        if cell.needs is not None:
            yield cell.needs
        yield cell
