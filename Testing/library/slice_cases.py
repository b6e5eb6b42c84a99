"""A tiny network of slices, and cases in which the classes of tissue can be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from networks import SMALL_SPECS
from specs import ViTSpec

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.training.samples import SliceSamples, slice_samples

# 8 x 8 patches; a window of 64 voxels of 2 mm.
TINY_VIT = ViTSpec(depth=1, dim=16, heads=2, registers=1, patch_px=4, image_px=32, pretrained_image_px=32)
SPEC = SMALL_SPECS["provicnet-fusion"]
SPEC = replace(
    SPEC,
    encoder=TINY_VIT,
    head=replace(SPEC.head, width=4),
    preprocess=replace(SPEC.preprocess, spacing_mm=(2.0, 2.0, 4.0), patch=(1, 64, 64)),
)
_CANCERS = {Label.INDOLENT_CANCER: 2, Label.CSPCA: 3}
GRID = Geometry((50, 44, 7), (2.0, 2.5, 4.0), (-40.0, -50.0, -12.0))


def a_case(seed: int = 0) -> tuple[Case, Volume, Volume]:
    """Three sequences in which the classes can be seen."""
    z, y, x = np.indices(GRID.shape)
    classes = np.zeros(GRID.shape, np.uint8)
    classes[((x - 25) / 14) ** 2 + ((y - 22) / 10) ** 2 + ((z - 3) / 2.6) ** 2 < 1] = 1
    classes[((x - 30) / 5) ** 2 + ((y - 25) / 4) ** 2 + (z - 3) ** 2 < 1] = 3
    classes[((x - 19) / 5) ** 2 + ((y - 19) / 4) ** 2 + (z - 3) ** 2 < 1] = 2
    rng = np.random.default_rng(seed)
    images = {s: 100 + 40.0 * classes * (-1) ** i + rng.normal(0, 5, GRID.shape) for i, s in enumerate(Sequence)}
    volumes = {s: Volume(np.float32(array), GRID, str(s)) for s, array in images.items()}
    gland = Volume((classes > 0).astype(np.uint8), GRID, "gland")
    return Case(f"case-{seed}", volumes), gland, Volume(classes, GRID, "classes")


def a_sliced_case(seed: int = 0) -> SliceSamples:
    case, gland, classes = a_case(seed)
    return slice_samples(case, SPEC, gland, classes)


def a_tissue_case(seed: int = 0) -> LabeledCase:
    """The same as a case of lesion segmentation, whose masks say the classes."""
    case, gland, classes = a_case(seed)
    masks = {label: classes.with_array((classes.array == n).astype(np.uint8)) for label, n in _CANCERS.items()}
    return TASKS["lesion-segmentation"].labeled(case, gland=gland, masks=masks, is_phantom=False)
