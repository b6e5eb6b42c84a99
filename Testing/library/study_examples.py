"""Study cases of each task that are small enough to train on: phantoms, coarse, made once."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from specs import MODELS, ConvNeXtSpec, ViTSpec
from training_cases import changed

from VFMTransferLib.core.terms import Label
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.io import write_volume
from VFMTransferLib.phantom import Phantom, make_phantom
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.training.cases import Split
from VFMTransferLib.training.config import NO_AUGMENTATION, Augmentation, TrainConfig
from VFMTransferLib.training.finetune import FinetuneConfig

SPACING_MM = (3.0, 3.0, 4.0)


@lru_cache
def a_phantom(seed: int = 0) -> Phantom:
    """About 64x64 pixels and a dozen slices."""
    return make_phantom(seed, t2w_spacing_mm=SPACING_MM, full_resolution=True, lesions=2)


def a_study(task: str, seed: int = 0) -> LabeledCase:
    return TASKS[task].from_phantom(a_phantom(seed))


def write_case(folder: Path, seed: int, *truths: str) -> None:
    """A phantom as a study on disk, with some of its truths."""
    folder.mkdir(parents=True)
    phantom = a_phantom(seed)
    for sequence, volume in phantom.case.volumes.items():
        write_volume(volume, folder / f"{sequence}.nii.gz")
    for name in truths:
        write_volume(phantom.truths[name], folder / f"{name}.nii.gz")


FAMILIES = ("profound", "provicnet")
CELLS = [(family, task) for family in FAMILIES for task in TASKS]
TINY_CONVNEXT = ConvNeXtSpec((1, 1, 1, 1), (4, 6, 8, 10))
# 8 x 8 patches of 8 px; a window of 64 voxels, none of which is lost on the way in.
TINY_VIT = ViTSpec(depth=1, dim=16, heads=2, registers=1, patch_px=8, image_px=64, pretrained_image_px=64)
_HEADS = {
    "anatomy-segmentation": {"profound": "profound-upernet-anatomy", "provicnet": "provicnet-anatomy"},
    "lesion-segmentation": {"profound": "profound-upernet-lesion", "provicnet": "provicnet-fusion"},
    "classification": {"profound": "profound-classifier", "provicnet": "provicnet-classifier"},
}


def tiny_study_spec(family: str, task: str) -> ModelSpec:
    """The registry's network of a task, as small as it gets, on a coarse grid."""
    spec = MODELS[_HEADS.get(task, {}).get(family, f"{family}-restoration-{task}")]
    head = replace(
        spec.head, width={"classifier": 8, "restoration": 2, "matching": 2}.get(spec.head.kind, 6), auxiliary_width=5
    )
    if family == "provicnet":
        grid = replace(spec.preprocess, spacing_mm=(3.0, 3.0, 4.0), patch=(1, 64, 64))
        return replace(spec, encoder=TINY_VIT, head=head, preprocess=grid)
    grid = replace(spec.preprocess, spacing_mm=(3.0, 3.0, 4.0), patch=(16, 32, 48))
    spec = replace(spec, encoder=TINY_CONVNEXT, head=head, preprocess=grid)
    if task != "anatomy-segmentation":
        return spec
    labels = (Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
    return replace(spec, labels=labels, head=replace(head, out_channels=3))


def tiny_study_config(family: str, task: str, steps: int = 4, **changes) -> FinetuneConfig:
    """Two training phantoms; batches of two, since batch norm needs them."""
    train = TrainConfig(
        steps=steps,
        learning_rate=6e-3,
        batch=2,
        seed=5,
        drop_path=0.1,
        augmentation=Augmentation(),
        measure_every=steps,
        checkpoint_every=2,
    )
    split = Split((a_phantom(0).case.id, a_phantom(1).case.id))
    return changed(FinetuneConfig(tiny_study_spec(family, task), split, train), **changes)


def unvaried(config: FinetuneConfig) -> FinetuneConfig:
    """The same without augmentation and stochastic depth."""
    return changed(config, augmentation=NO_AUGMENTATION, drop_path=0.0)
