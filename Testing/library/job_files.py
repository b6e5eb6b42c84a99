"""Jobs of a worker with their images, as a program writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from images import a_t2w

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.worker.messages import Grid, ImageFile, Run


def grid_of(geometry: Geometry) -> Grid:
    return Grid(
        geometry.size,
        tuple(map(float, geometry.spacing_mm)),
        tuple(map(float, geometry.origin_mm)),
        tuple(map(float, geometry.direction)),
    )


def hand_over(folder: Path, volume: Volume) -> ImageFile:
    np.save(folder / f"{volume.name}.npy", volume.array)
    return ImageFile(f"{volume.name}.npy", grid_of(volume.geometry))


def a_job(folder: Path, models: Path, *names: str, t2w: Volume | None = None, **about) -> Run:
    """A job on a T2w in `folder`, with bundles of `models`."""
    images = {Sequence.T2W: hand_over(folder, t2w if t2w is not None else a_t2w())}
    bundles = tuple(str(models / name) for name in names)
    fields = {"job": "job", "task": "anatomy-segmentation", "case": "p001", **about}
    return Run(folder=str(folder), images=images, bundles=bundles, **fields)
