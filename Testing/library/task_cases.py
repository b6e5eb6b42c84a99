"""A scan whose images are the truth of tasks, and cases as image-to-image networks see them."""

from __future__ import annotations

from typing import Any

import numpy as np
from images import an_adc, an_hbv
from prediction_cases import with_preprocess
from scipy import ndimage
from specs import prepare

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.placement import NetworkInput
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.encoders.base import ModelSpec

COS, SIN = np.cos(0.3), np.sin(0.3)
# Runs to the left, to anterior and up, tilted about x; odd in one axis.
GRID = Geometry((31, 40, 6), (0.8, 0.9, 3.0), (5.0, 30.0, -9.0), (1, 0, 0, 0, -COS, -SIN, 0, -SIN, COS))


def prepared_for(case: Case, task: str, **changes: Any) -> tuple[NetworkInput, ModelSpec]:
    """A case as ProFound's network of an image task sees it whole, its preprocessing changed, and the network."""
    spec = with_preprocess(f"profound-restoration-{task}", whole_volume=True, **changes)
    return prepare(case, spec), spec


def a_smooth(volume: Volume) -> Volume:
    """On a wider grid, so that what moves stays inside."""
    grid = Geometry((48, 40, 5), (2.0, 2.0, 4.0), (-40.0, -36.0, -8.0))
    y, x = np.indices(grid.shape[1:])
    bump = np.exp(-(((x - 24) / 10) ** 2 + ((y - 20) / 8) ** 2))
    return Volume(np.float32(bump * volume.array.mean() + 1) * np.ones(grid.shape, np.float32), grid, volume.name)


def a_scan() -> Case:
    """Noise as T2w, and diffusion on a grid of its own."""
    noise = np.random.default_rng(0).normal(0, 200, GRID.shape)
    t2w = Volume(np.float32(100 + ndimage.gaussian_filter(noise, 1.0)), GRID, "t2w")
    return Case("scan", {Sequence.T2W: t2w, Sequence.HBV: a_smooth(an_hbv()), Sequence.ADC: a_smooth(an_adc())})
