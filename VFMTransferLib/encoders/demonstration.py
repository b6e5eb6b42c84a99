"""Networks of a size that two cores can train: the registry's rows with fewer and narrower layers on coarser grids.

All tasks of a family share one encoder, so that one pretraining serves them all.
"""

from __future__ import annotations

from dataclasses import replace

from ..core.terms import Label, TaskId
from .base import MODELS, PROFOUND_ENCODER, ConvNeXtSpec, HeadSpec, ModelSpec, PreprocessSpec, ViTSpec

FAMILIES = ("profound", "provicnet")
CONVNEXT = ConvNeXtSpec(depths=(2, 2, 4, 2), dims=(16, 32, 64, 96))
# 16 x 16 patches of 8 px; the slice comes in as fine as it goes out.
VIT = ViTSpec(depth=6, dim=64, heads=2, patch_px=8, registers=4, image_px=128, pretrained_image_px=128)
_WIDTHS = {"classifier": 64, "upernet": 24, "restoration": 8, "matching": 8, "convolution": 48, "fusion": 48}
_ROWS = {
    (TaskId.ANATOMY_SEGMENTATION, "profound"): "profound-upernet-anatomy",
    (TaskId.ANATOMY_SEGMENTATION, "provicnet"): "provicnet-anatomy",
    (TaskId.LESION_SEGMENTATION, "profound"): "profound-upernet-lesion",
    (TaskId.LESION_SEGMENTATION, "provicnet"): "provicnet-fusion",
    (TaskId.CLASSIFICATION, "profound"): "profound-classifier",
    (TaskId.CLASSIFICATION, "provicnet"): "provicnet-classifier",
}
_ZONES = (Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)


def published(family: str, task: TaskId) -> ModelSpec:
    """The registry's row for a task; of anatomy with background and both zones, which are all that the labels know.

    Raises:
        ValueError: There is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"The encoder must be one of {', '.join(FAMILIES)}, got '{family}'.")
    spec = MODELS[_ROWS.get((task, family), f"{family}-restoration-{task}")]
    if task != TaskId.ANATOMY_SEGMENTATION:
        return spec
    return replace(spec, labels=_ZONES, head=replace(spec.head, out_channels=len(_ZONES)))


def demonstration(family: str, task: TaskId) -> ModelSpec:
    """A task's network at demonstration size.

    Raises:
        ValueError: There is no such family.
    """
    spec = published(family, task)
    head = replace(spec.head, width=_WIDTHS[spec.head.kind], auxiliary_width=24)
    encoder = CONVNEXT if family == "profound" else VIT
    return replace(spec, encoder=encoder, head=head, preprocess=_grid(spec))


def demonstration_encoder() -> ModelSpec:
    """ProFound's encoder as pretraining makes it: all three sequences, no head."""
    width = CONVNEXT.dims[-1]
    grid = _grid(PROFOUND_ENCODER)
    return replace(PROFOUND_ENCODER, encoder=CONVNEXT, head=HeadSpec("none", width, width), preprocess=grid)


def demonstration_fusion() -> ModelSpec:
    """ProViCNet's fusion as pretraining makes it: a stream for each sequence, four tissues."""
    return demonstration("provicnet", TaskId.LESION_SEGMENTATION)


def _grid(spec: ModelSpec) -> PreprocessSpec:
    """About 10 cm around the prostate at the scale that pretraining saw; for images all of the slices, by windows."""
    is_image = spec.head.kind in ("restoration", "matching")
    overlap = 0.25 if is_image else spec.preprocess.overlap
    if spec.family == "provicnet":
        return replace(spec.preprocess, spacing_mm=(1.0, 1.0, 3.0), patch=(1, 128, 128), overlap=overlap)
    depth = 48 if spec.task == TaskId.ANATOMY_SEGMENTATION else 32
    spacing_mm = (1.0, 1.0, 1.5)
    if spec.task == TaskId.SUPER_RESOLUTION:  # works within slices: no use in slices between them
        depth, spacing_mm = 16, (1.0, 1.0, 3.0)
    return replace(
        spec.preprocess, spacing_mm=spacing_mm, patch=(depth, 96, 96), overlap=overlap, whole_volume=is_image
    )
