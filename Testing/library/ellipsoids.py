"""Ellipsoids as prostates, on grids that are as oblique as scans are: their diameters are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from VFMTransferLib.core.terms import Label
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.phantom.canvas import rotation


@dataclass(frozen=True)
class Ellipsoid:
    """A gland that leans forward with its apex.

    Attributes:
        half_mm: Half axes along its own (x, y, z).
        lean_deg: About the left-right axis.
    """

    half_mm: tuple[float, float, float] = (26.0, 18.0, 21.0)
    lean_deg: float = 0.0

    def own(self, geometry: Geometry) -> np.ndarray:
        """Own coordinates (3, D, H, W) of a grid's voxels in half axes; the middle is that of the grid."""
        d, h, w = geometry.shape
        z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (d, h, w)), indexing="ij")
        points = np.stack([x, y, z], axis=-1) * geometry.spacing_mm
        points = points @ rotation(self.lean_deg, 0, 0)
        return np.moveaxis(points / np.asarray(self.half_mm), -1, 0)

    def gland(self, geometry: Geometry) -> Volume:
        return Volume(((self.own(geometry) ** 2).sum(axis=0) < 1).astype(np.uint8), geometry, "gland")

    def zones(self, geometry: Geometry) -> dict[str, Volume]:
        """Peripheral zone: the back two fifths and the sides; the rest is transition zone."""
        own = self.own(geometry)
        inside = (own**2).sum(axis=0) < 1
        inner = (own[0] / 0.65) ** 2 + ((own[1] + 0.25) / 0.75) ** 2 < 1
        masks = {Label.PERIPHERAL_ZONE: inside & ~inner, Label.TRANSITION_ZONE: inside & inner}
        return {str(name): Volume(mask.astype(np.uint8), geometry, name) for name, mask in masks.items()}


def a_scan(
    turn_deg: tuple[float, float, float] = (0, 0, 0), spacing_mm: tuple[float, ...] = (0.5, 0.5, 3.0)
) -> Geometry:
    """A T2w's grid, oblique as asked."""
    size = (140, 120, 21)
    direction = tuple(float(v) for v in rotation(*turn_deg).ravel())
    return Geometry(size, spacing_mm, (-30.0, 14.0, -55.0), direction)  # type: ignore[arg-type]
