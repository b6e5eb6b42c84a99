"""From a label map to a list of lesions: one entry a connected region, largest first."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .result import Lesion
from .volume import Volume

# Voxels that share a face, an edge or a corner are one lesion (26 neighbors).
CONNECTIVITY = np.ones((3, 3, 3), bool)


def find_lesions(
    labels: Volume,
    probabilities: dict[str, Volume],
    adc: Volume | None = None,
    zones: dict[str, Volume] | None = None,
) -> tuple[Lesion, ...]:
    """Describe each connected region of the label map's non-zero voxels; none is too small.

    Args:
        labels: Label map; what its values mean does not matter here, only where they are.
        probabilities: Label name → probability on the same grid. A lesion bears the name whose probability is
            highest on average inside it, and its confidence is the largest sum of all inside it.
        adc: ADC on any grid, 1e-6 mm²/s; read by position, where it has a say.
        zones: Zone name → mask on any grid.
    """
    marked = labels.array > 0
    regions, count = ndimage.label(marked, structure=CONNECTIVITY)
    if count == 0:
        return ()
    owner = regions[marked] - 1  # (N,) the region of each marked voxel
    sizes = np.bincount(owner)
    centers_mm = labels.geometry.to_world(_means(np.argwhere(marked).T[::-1], owner).T)  # (regions, 3)
    inside = np.stack([p.array[marked] for p in probabilities.values()])  # (labels, N)
    confidence = np.zeros(count)
    np.maximum.at(confidence, owner, inside.sum(axis=0))
    names = [str(list(probabilities)[i]) for i in _means(inside, owner).argmax(axis=0)]
    mean_adc = _mean_adc(adc, labels, marked, owner)
    zone = _zones(zones or {}, labels, marked, owner)
    return tuple(
        Lesion(
            index=rank,
            label=names[i],
            center_mm=tuple(float(v) for v in centers_mm[i]),  # type: ignore[arg-type]
            volume_ml=float(sizes[i] * labels.geometry.voxel_volume_ml),
            confidence=min(float(confidence[i]), 1.0),
            mean_adc=mean_adc[i],
            zone=zone[i],
        )
        for rank, i in enumerate(np.argsort(-sizes, kind="stable"), start=1)
    )


def _means(rows: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Mean of each row (rows, N) over the voxels of each region: (rows, regions)."""
    return np.stack([np.bincount(owner, weights=row) for row in rows]) / np.bincount(owner)


def _mean_adc(adc: Volume | None, labels: Volume, marked: np.ndarray, owner: np.ndarray) -> list[float | None]:
    """Mean ADC of each region over the voxels that lie in the ADC's field of view."""
    count = int(owner.max()) + 1
    if adc is None:
        return [None] * count
    values = adc.resample_to(labels.geometry, fill=np.nan).array[marked]
    known = np.isfinite(values)
    counts = np.bincount(owner[known], minlength=count)
    sums = np.bincount(owner[known], weights=values[known], minlength=count)
    return [float(total / n) if n else None for total, n in zip(sums, counts, strict=True)]


def _zones(zones: dict[str, Volume], labels: Volume, marked: np.ndarray, owner: np.ndarray) -> list[str | None]:
    """The zone that holds most of each region, or None of one that lies outside of all."""
    count = int(owner.max()) + 1
    if not zones:
        return [None] * count
    inside = np.stack([z.resample_to(labels.geometry, "nearest").array[marked] > 0 for z in zones.values()])
    shares = _means(inside.astype(float), owner)  # (zones, regions)
    names = [str(list(zones)[i]) for i in shares.argmax(axis=0)]
    return [name if share > 0 else None for name, share in zip(names, shares.max(axis=0), strict=True)]
