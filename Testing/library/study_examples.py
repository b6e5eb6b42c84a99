"""Study cases of each task that are small enough to train on: phantoms, coarse, made once."""

from __future__ import annotations

from functools import lru_cache

from VFMTransferLib.phantom import Phantom, make_phantom
from VFMTransferLib.study_cases import StudyCase, from_phantom
from VFMTransferLib.terms import TaskId

SPACING_MM = (3.0, 3.0, 4.0)


@lru_cache
def a_phantom(seed: int = 0) -> Phantom:
    """About 64x64 pixels and a dozen slices."""
    return make_phantom(seed, t2w_spacing_mm=SPACING_MM, full_resolution=True, lesions=2)


def a_study(task: TaskId, seed: int = 0) -> StudyCase:
    return from_phantom(a_phantom(seed), task)
