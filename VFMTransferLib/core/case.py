"""One case, a patient's exam: its sequences, each on its own grid, and masks that came with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .errors import MissingSequenceError
from .measurements import Acquisition
from .notes import Note
from .terms import Sequence
from .volume import Geometry, Volume

MAX_ADC = 5000.0
"""In 1e-6 mm²/s; free water at 37 °C has 3000, so that more is no tissue."""
UNREAD = "not-read"  # code of notes on what could be a sequence, and why it is none
_ROUNDING = 1e-3  # of a share that is interpolated


@dataclass(frozen=True)
class Case:
    """The images of one case, each on the grid it was scanned on; ADC is in 1e-6 mm²/s.

    Attributes:
        id: Its name in reports; never a patient's name or identifier from DICOM.
        gland: Mask of the prostate, where somebody drew one; any grid.
        roi: Mask of a region of interest: networks that see one crop see the one around it, and nothing is marked
            outside of it. Class probabilities and images are not cut.
        zones: Zone name → mask, where the zones of that gland are known.
        notes: What reading had to decide (b value computed, unit converted), for log and report.
        acquisitions: How an image was acquired, as far as DICOM headers state it.
        files: The DICOM files an image was read from, in the order of its slices; never shown.
    """

    id: str
    volumes: dict[Sequence, Volume]
    gland: Volume | None = None
    notes: tuple[Note, ...] = field(default=())
    acquisitions: dict[Sequence, Acquisition] = field(default_factory=dict, compare=False)
    files: dict[Sequence, tuple[Path, ...]] = field(default_factory=dict, compare=False, repr=False)
    zones: dict[str, Volume] = field(default_factory=dict, compare=False)
    roi: Volume | None = None

    def __getitem__(self, sequence: Sequence | str) -> Volume:
        """The volume of a sequence; MissingSequenceError where the case has none."""
        self.require([Sequence(sequence)])
        return self.volumes[Sequence(sequence)]

    def __contains__(self, sequence: object) -> bool:
        return sequence in self.volumes

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        return tuple(s for s in Sequence if s in self.volumes)

    def require(self, sequences: Iterable[Sequence]) -> None:
        """Raise MissingSequenceError unless the case has all of `sequences`; it states what was not read, and why."""
        wanted = list(sequences)
        lacking = [s for s in wanted if s not in self.volumes]
        if lacking:
            raise MissingSequenceError(
                f"Case '{self.id}' must contain {', '.join(wanted)}, but lacks {', '.join(lacking)} "
                f"(it has {', '.join(self.sequences) or 'no image'}). Select an image for each."
                + "".join(f" {note}" for note in self.notes if note.code == UNREAD)
            )


def measured_adc(adc: Volume, grid: Geometry) -> np.ndarray:
    """ADC (D, H, W) on a grid; NaN where its interpolation includes a voxel of 0, where nothing was measured."""
    measured = adc.array > 0
    values = adc.resample_to(grid, fill=np.nan).array
    if measured.all():
        return values
    share = adc.with_array(measured.astype(np.float32)).resample_to(grid).array
    return np.where(share > 1 - _ROUNDING, values, np.float32(np.nan))
