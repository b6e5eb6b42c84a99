"""ADC of a diffusion series with what the fit leaves over, images of other b values, and where the fit is poor and why.

S(b) = S0 exp(-b ADC), by least squares on log signals, as `io.diffusion` computes a high-b image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ..core.case import MAX_ADC
from ..core.errors import GeometryError, ImageError
from ..core.notes import Note
from ..core.volume import Volume
from ..io.dicom_series import MAX_B
from ..io.diffusion import rising_signal

PER_MM2 = 1e-6
"""ADC is in 1e-6 mm²/s."""
MIN_SPREAD_OF_B = 200.0
MAX_RESIDUAL = 0.1
"""Of the fitted signal at the lowest b. Ours."""
NOISE_FACTOR = 3.0
"""Below so many standard deviations of noise a signal is mostly noise. Ours."""


class FitProblem(IntEnum):
    """Why a voxel's fit is poor; the value in the map, of several the highest."""

    NONE = 0
    NOT_MONO_EXPONENTIAL = 1
    AT_LIMIT = 2
    NOISE = 3
    NO_SIGNAL = 4

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    FitProblem.NONE: "fits",
    FitProblem.NOT_MONO_EXPONENTIAL: f"residual above {MAX_RESIDUAL:.0%} (motion, perfusion)",
    FitProblem.AT_LIMIT: f"ADC outside 0 to {MAX_ADC:.0f} x 1e-6 mm²/s",
    FitProblem.NOISE: "signal at the highest b value at noise level",
    FitProblem.NO_SIGNAL: "no signal",
}


@dataclass(frozen=True)
class DiffusionFit:
    """A fit of each voxel.

    Attributes:
        adc: 1e-6 mm²/s, 0 to `MAX_ADC`; 0 where there is no signal.
        base: Signal at b 0, as fitted.
        residual: Root mean square of measured minus fitted signals, relative to the fitted signal at the lowest b; with
            two b values 0 but where the ADC was cut to its range, since a line through two points leaves nothing over.
        problems: `FitProblem` of each voxel, uint8.
        b_values: That were fitted, s/mm².
        notes: What must be known to read it.
    """

    adc: Volume
    base: Volume
    residual: Volume
    problems: Volume
    b_values: tuple[float, ...]
    notes: tuple[Note, ...]

    def at(self, b: float) -> Volume:
        """The image of a b value, computed.

        Raises:
            ImageError: The b value is none.
        """
        if not 0 <= b <= MAX_B:
            raise ImageError(f"The b value to compute must lie in 0 to {MAX_B:.0f} s/mm², got {b:g}.")
        values = self.base.array * np.exp(-np.float32(b * PER_MM2) * self.adc.array)
        return Volume(values.astype(np.float32), self.adc.geometry, f"b{b:g}-computed")

    def shares(self, inside: np.ndarray | None = None) -> dict[str, float]:
        """Problem in words → share of the voxels (of those inside a mask) that have it; those that fit left out.

        Raises:
            GeometryError: The mask has no voxel.
        """
        codes = self.problems.array if inside is None else self.problems.array[inside]
        if not codes.size:
            raise GeometryError(
                "The mask must mark voxels of the diffusion images, but marks none: it lies outside. Select the mask "
                "of this case."
            )
        counts = np.bincount(codes.ravel(), minlength=len(FitProblem)) / codes.size
        return {problem.words: float(counts[problem]) for problem in FitProblem if problem and counts[problem] > 0}


def noise_level(array: np.ndarray) -> float:
    """Standard deviation of the noise of slices (D, H, W), by the finest diagonal wavelet coefficients.

    The median of their magnitude divided by 0.6745 (Donoho and Johnstone, Biometrika 81:425 (1994)), since edges have
    few large ones. Where all four voxels are 0 the background was removed, which is no measurement. Interpolated images
    show less than the scanner measured; slices of one row or column show none.
    """
    even = array[:, : array.shape[1] // 2 * 2, : array.shape[2] // 2 * 2].astype(np.float64)
    diagonal = (even[:, ::2, ::2] - even[:, ::2, 1::2] - even[:, 1::2, ::2] + even[:, 1::2, 1::2]) / 2
    measured = (even[:, ::2, ::2] != 0) | (even[:, ::2, 1::2] != 0) | (even[:, 1::2, ::2] != 0)
    found = np.abs(diagonal[measured | (even[:, 1::2, 1::2] != 0)])
    return float(np.median(found) / 0.6745) if found.size else 0.0


def fit_diffusion(by_b: Mapping[float, Volume]) -> DiffusionFit:
    """Fit a diffusion series.

    Args:
        by_b: b value in s/mm² → trace-weighted image; two b values that lie 200 apart at least. A b of 0 is left out
            where two others remain, since it also shows perfusion.

    Raises:
        ImageError: There are not two such b values, or one is higher than scanners measure.
        GeometryError: The images lie on different grids.
    """
    values = sorted(b for b in by_b if b > 0)
    if values and values[-1] > MAX_B:
        raise ImageError(f"The b values must be at most {MAX_B:g} s/mm², but one is {values[-1]:g}. Correct it.")
    if len(values) < 2 or values[-1] - values[0] < MIN_SPREAD_OF_B:
        values = sorted(by_b)
    if len(values) < 2 or values[-1] - values[0] < MIN_SPREAD_OF_B:
        raise ImageError(
            f"The series must hold two b values {MIN_SPREAD_OF_B:.0f} s/mm² apart to fit an ADC, but holds b "
            f"{', '.join(f'{b:g}' for b in sorted(by_b))}. Select the whole series."
        )
    notes = rising_signal(by_b)
    if values[0] > 0 and 0 in by_b:
        notes.append(Note("b0-left-out", "b 0 was left out, since it also shows perfusion."))
    if len(values) == 2:
        notes.append(
            Note(
                "two-b-values",
                "Two b values leave no residual but where ADC was cut to its range; no other poor fit is seen.",
            )
        )
    first = by_b[values[0]]
    for b in values[1:]:
        first.require_same_grid(by_b[b])
    b_axis = np.array(values) * PER_MM2
    signals = np.stack([by_b[b].array for b in values]).astype(np.float64)  # (b, D, H, W)
    has_signal = (signals > 0).all(axis=0)
    logs = np.log(np.where(has_signal, signals, 1))
    centered = b_axis - b_axis.mean()
    raw = -np.tensordot(centered, logs, axes=1) / (centered**2).sum()
    adc = np.where(has_signal, np.clip(raw, 0, MAX_ADC), 0)
    base = np.where(has_signal, np.exp(logs.mean(axis=0) + adc * b_axis.mean()), 0)
    fitted = base * np.exp(-b_axis[:, None, None, None] * adc)
    left_over = np.sqrt(((signals - fitted) ** 2).mean(axis=0))
    residual = np.where(has_signal, left_over / np.maximum(fitted[0], 1e-9), 0)
    problems = np.zeros(first.array.shape, np.uint8)
    problems[residual > MAX_RESIDUAL] = FitProblem.NOT_MONO_EXPONENTIAL
    problems[(raw < 0) | (raw > MAX_ADC)] = FitProblem.AT_LIMIT
    noise = noise_level(signals[-1])
    if noise == 0:
        notes.append(
            Note("no-noise", "The noise could not be measured, so that voxels whose signal is noise are not marked.")
        )
    problems[signals[-1] < NOISE_FACTOR * noise] = FitProblem.NOISE
    problems[~has_signal] = FitProblem.NO_SIGNAL
    grid = first.geometry
    return DiffusionFit(
        Volume(adc.astype(np.float32), grid, "adc"),
        Volume(base.astype(np.float32), grid, "b0-fitted"),
        Volume(residual.astype(np.float32), grid, "residual"),
        Volume(problems, grid, "fit-problems"),
        tuple(values),
        tuple(notes),
    )
