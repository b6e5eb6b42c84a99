"""How a DICOM series was acquired, as far as its headers state it: for image quality, and for the phase axis."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.measurements import Acquisition, nearest_phase_axis
from .dicom_series import MIN_COS_AXIAL, MIN_T2W_ECHO_MS, Series

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# The vendor's polarity along the phase axis: group, private creator, element (Siemens writes 1 for positive in its CSA
# header, which newer software repeats here; GE in the user tags).
_SIEMENS_POLARITY = (0x0021, "SIEMENS MR SDI 02", 0x1C)


def acquisition_of(file: Path) -> Acquisition:
    """What one slice of a series states of its acquisition; fields that it does not state stay unknown."""
    import pydicom

    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            return _acquisition(dataset)
        except Exception:  # pydicom raises errors of many kinds for a value that is none
            return Acquisition()


def _acquisition(dataset: Dataset) -> Acquisition:
    phase = str(dataset.get("InPlanePhaseEncodingDirection", "")).upper()
    axis, sign = _phase_axis(dataset, phase)
    phase_mm, frequency_mm = _acquired_mm(dataset, phase)
    thickness = dataset.get("SliceThickness")
    polarity = None
    with suppress(KeyError, ValueError, TypeError):
        group, creator, element = _SIEMENS_POLARITY
        polarity = int(dataset.private_block(group, creator)[element].value) > 0
    return Acquisition(
        phase_mm=phase_mm,
        frequency_mm=frequency_mm,
        thickness_mm=float(thickness) if thickness is not None and float(thickness) > 0 else None,
        phase_axis=axis,
        is_phase_positive=None if polarity is None or axis is None else polarity == (sign > 0),
    )


def _phase_axis(dataset: Dataset, phase: str) -> tuple[str | None, float]:
    """The patient's axis that is nearest to the phase encoding (0018,1312), and the sign of the image's axis along it.

    ROW: phase was encoded along the rows of the image, that is, from column to column.
    """
    orientation = np.array(dataset.get("ImageOrientationPatient") or (), float)
    if phase not in ("ROW", "COL", "COLUMN") or orientation.size != 6:
        return None, 1.0
    direction = orientation[:3] if phase == "ROW" else orientation[3:]
    nearest = int(np.abs(direction).argmax())
    return nearest_phase_axis(direction.tolist()), float(np.sign(direction[nearest]))


def _acquired_mm(dataset: Dataset, phase: str) -> tuple[float | None, float | None]:
    """Voxel along phase and frequency as acquired: field of view divided by the acquisition matrix (0018,1310)."""
    matrix = [int(n) for n in dataset.get("AcquisitionMatrix") or ()]
    spacing = [float(s) for s in dataset.get("PixelSpacing") or ()]
    if len(matrix) != 4 or len(spacing) != 2 or phase not in ("ROW", "COL", "COLUMN"):
        return None, None
    frequency_steps, phase_steps = max(matrix[:2]), max(matrix[2:])
    along_rows, along_columns = spacing[1] * int(dataset.Columns), spacing[0] * int(dataset.Rows)
    phase_view, frequency_view = (along_rows, along_columns) if phase == "ROW" else (along_columns, along_rows)
    if min(frequency_steps, phase_steps) < 1:
        return None, None
    return phase_view / phase_steps, frequency_view / frequency_steps


def with_b_values(found: Acquisition, series: Iterable[Series]) -> Acquisition:
    """The acquisition of a diffusion image with the b values of its series, or of all diffusion of its exam."""
    diffusion = [s for s in series if s.is_diffusion]
    measured = sorted({b for s in diffusion if not s.is_calculated for b in s.b_values})
    highest = max((b for s in diffusion for b in s.b_values), default=None)
    return replace(found, b_values=tuple(measured), highest_b=highest)


def with_planes(found: Acquisition, series: Sequence[Series]) -> Acquisition:
    """The acquisition of a T2w with the further planes in which the exam has T2w."""
    planes = set()
    for one in series:
        first = one.first
        is_t2w = (
            first.modality == "MR" and "SE" in first.scanning_sequence and (first.echo_time_ms or 0) >= MIN_T2W_ECHO_MS
        )
        across = np.abs(first.normal)
        if is_t2w and not (one.is_diffusion or one.is_adc or one.is_reconstructed) and across[2] < MIN_COS_AXIAL:
            planes.add("sagittal" if across[0] > across[1] else "coronal")
    return replace(found, other_planes=tuple(sorted(planes)), is_study=True)
