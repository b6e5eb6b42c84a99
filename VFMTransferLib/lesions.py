"""From a label map to a list of lesions: one entry a connected region, largest first."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .result import Lesion
from .volume import Volume

# Voxels that share a face, an edge or a corner are one lesion (26 neighbors).
CONNECTIVITY = np.ones((3, 3, 3), bool)


def find_lesions(labels: Volume, probabilities: dict[str, Volume], adc: Volume | None = None) -> tuple[Lesion, ...]:
    """Describe each connected region of the label map's non-zero voxels; none is too small.

    Args:
        labels: Label map; what its values mean does not matter here, only where they are.
        probabilities: Label name → probability on the same grid. A lesion bears the name whose probability is
            highest on average inside it, and its confidence is the largest sum of all inside it.
        adc: ADC on any grid, 1e-6 mm²/s; read by position, where it has a say.
    """
    regions, count = ndimage.label(labels.array > 0, structure=CONNECTIVITY)
    if count == 0:
        return ()
    numbers = np.arange(1, count + 1)
    voxels = ndimage.sum_labels(np.ones_like(regions), regions, numbers)
    centers_mm = labels.geometry.to_world(np.asarray(ndimage.center_of_mass(regions > 0, regions, numbers))[:, ::-1])
    total = np.sum([p.array for p in probabilities.values()], axis=0)
    confidence = ndimage.maximum(total, regions, numbers)
    means = np.stack([ndimage.mean(p.array, regions, numbers) for p in probabilities.values()])
    names = [list(probabilities)[i] for i in means.argmax(axis=0)]
    mean_adc = _mean_adc(adc, labels, regions, numbers)
    order = np.argsort(-voxels, kind="stable")
    return tuple(
        Lesion(
            index=rank,
            label=str(names[i]),
            center_mm=tuple(float(v) for v in centers_mm[i]),  # type: ignore[arg-type]
            volume_ml=float(voxels[i] * labels.geometry.voxel_volume_ml),
            confidence=float(confidence[i]),
            mean_adc=mean_adc[i],
        )
        for rank, i in enumerate(order, start=1)
    )


def _mean_adc(adc: Volume | None, labels: Volume, regions: np.ndarray, numbers: np.ndarray) -> list[float | None]:
    """Mean ADC of each region over the voxels that lie in the ADC's field of view."""
    if adc is None:
        return [None] * len(numbers)
    on_grid = adc.resample_to(labels.geometry, fill=np.nan).array
    inside = np.where(np.isfinite(on_grid), regions, 0)
    counts = ndimage.sum_labels(inside > 0, inside, numbers)
    sums = ndimage.sum_labels(np.nan_to_num(on_grid), inside, numbers)
    return [float(total / n) if n else None for total, n in zip(sums, counts, strict=True)]
