"""Tiny cases, networks and configurations for the tests of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from specs import MODELS, ConvNeXtSpec

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.encoders.base import HeadSpec, ModelSpec, PreprocessSpec
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import DecodeOptions, LabeledCase, NetworkOutput
from VFMTransferLib.training.cases import LabeledDataset, Split
from VFMTransferLib.training.config import Augmentation, TrainConfig
from VFMTransferLib.training.finetune import FinetuneConfig
from VFMTransferLib.training.samples import CropSamples, crop_samples, prepare_labeled

OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)
# x runs to the left, y to anterior, as dcm2niix writes.
ANTERIOR = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


def tiny_spec(out_channels: int = 2) -> ModelSpec:
    """ProFound with UPerNet, as small as it gets."""
    zones = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
    labels = (Label.BACKGROUND, *(zones if out_channels == 3 else (Label.PROSTATE,)))
    return replace(
        MODELS["profound-upernet-anatomy"],
        encoder=ConvNeXtSpec((1, 1, 1, 1), (4, 6, 8, 10)),
        head=HeadSpec("upernet", out_channels, 6, 5),
        preprocess=PreprocessSpec((Sequence.T2W, None, None), (1.0, 1.0, 1.0), (16, 32, 48)),
        labels=labels,
    )


def tiny_case(seed: int, direction: tuple[float, ...] = OBLIQUE) -> tuple[Case, Volume]:
    """Noise with a bright ellipsoid, and the ellipsoid's mask; unequal and anisotropic."""
    grid = Geometry((60, 50, 9), (0.8, 0.9, 2.5), (3.0, -20.0, 7.0), direction)
    z, y, x = np.indices(grid.shape)
    inside = ((x - 31) / 14) ** 2 + ((y - 24) / 12) ** 2 + ((z - 4) / 3) ** 2 < 1
    noise = np.random.default_rng(seed).normal(100, 10, grid.shape)
    image = Volume((noise + 60 * inside).astype(np.float32), grid, "t2w")
    return Case(f"case-{seed}", {Sequence.T2W: image}), Volume(inside.astype(np.uint8), grid, "gland")


def tiny_crops(seed: int, spec: ModelSpec | None = None) -> CropSamples:
    case, mask = tiny_case(seed)
    return crop_samples(case, spec or tiny_spec(), [mask])


def tiny_config(steps: int = 4, **changes) -> FinetuneConfig:
    train = TrainConfig(
        steps=steps, seed=3, batch=1, drop_path=0.1, augmentation=Augmentation(), measure_every=2, checkpoint_every=2
    )
    return changed(FinetuneConfig(tiny_spec(), Split(("case-0", "case-1"), (), ("case-2",)), train), **changes)


def changed(config, **changes):
    """A configuration with other fields, of its own or of its training."""
    own = {name: value for name, value in changes.items() if name in vars(config)}
    train = {name: value for name, value in changes.items() if name not in own}
    return replace(config, **{"train": replace(config.train, **train), **own})


def tiny_labeled_case(seed: int) -> LabeledCase:
    case, mask = tiny_case(seed)
    masks = {Label.PROSTATE: mask}
    return TASKS["anatomy-segmentation"].labeled(case, gland=mask, masks=masks, is_phantom=False)


def tiny_dataset(**changes) -> LabeledDataset:
    """Two cases that train and one that tests."""
    cases = {f"case-{seed}": tiny_labeled_case(seed) for seed in range(3)}
    return LabeledDataset(changes.get("split", tiny_config().split), cases)


def decode_logits(labeled: LabeledCase, spec: ModelSpec, logits: np.ndarray) -> Result:
    """The result of a network that gives `logits` (C, D, H, W) on the whole network grid."""
    prepared = prepare_labeled(labeled, spec)
    (z, y, x), (depth, height, width) = prepared.box
    inside = np.ascontiguousarray(logits[:, z : z + depth, y : y + height, x : x + width], np.float32)
    options = DecodeOptions(phase_axis=labeled.phase_axis)
    source = Provenance("b", "B", "", "", "none", "cpu")
    return TASKS[labeled.task].decode(NetworkOutput(inside, prepared, labeled.case, spec, source, options))
