"""Every model as a table: what it is made of, what it takes, what it gives. No torch here.

A fact about a model stands once, in its `ModelSpec`, and drives preprocessing, building, weights,
export and postprocessing. A bundle carries its own `ModelSpec`, so that a network of any size is
described the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.terms import Label, Sequence, TaskId
from ..tasks import TASKS
from ..tasks.base import Task

PROFOUND_PAPER = "https://arxiv.org/abs/2603.03961"
PROVICNET_PAPER = "https://arxiv.org/abs/2502.00366"


@dataclass(frozen=True)
class ConvNeXtSpec:
    """3D ConvNeXt V2 of ProFound: blocks and channels of the four stages.

    The total stride is 16: stem 4, then 2, 2, 1.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    in_channels: int = 3


@dataclass(frozen=True)
class ViTSpec:
    """DINOv2 vision transformer of ProViCNet, with registers and two position tokens."""

    depth: int = 12
    dim: int = 384
    heads: int = 6
    patch_px: int = 14
    registers: int = 4
    image_px: int = 448
    pretrained_image_px: int = 518
    in_channels: int = 3


@dataclass(frozen=True)
class HeadSpec:
    """What turns features into logits.

    Attributes:
        kind: `classifier`, `upernet`, `unetr`, `convolution` (ProViCNet, one sequence),
            `fusion` (ProViCNet, three sequences), `restoration`, `matching`, or `none` (the encoder alone, which
            gives one feature vector a sample).
        out_channels: Channels of the logits, or of the image that a restoration gives.
        width: Channels of the decoder: 256 hidden (classifier), 512 (upernet), 32 (unetr),
            128 (convolution and fusion), 16 at the input's size (restoration) or compared
            (matching), the features (none).
        auxiliary_width: Channels of UPerNet's auxiliary head, which serves training only.
    """

    kind: str
    out_channels: int
    width: int
    auxiliary_width: int = 256


@dataclass(frozen=True)
class PreprocessSpec:
    """How a case becomes a network's input.

    Attributes:
        sequences: Sequence of each input channel; `None` is a channel of zeros. For ProViCNet: the
            sequences of its streams, one network each.
        spacing_mm: Network grid (x, y, z).
        patch: Input size in voxels (D, H, W). For ProViCNet D is 1 (a slice; its neighbors are
            channels) and H, W are the in-plane grid before the slice is scaled to `image_px`.
        normalization: `zscore-nonzero` (mean and std over non-zero voxels of the whole field of
            view; zeros stay zeros), `zscore-tissue` (by the same two numbers, zeros too, so that they stay the
            darkest), or `zscore-gland` (over the voxels in the gland mask).
        overlap: Fraction by which neighboring windows overlap where the volume is larger.
        whole_volume: Run windows over the whole volume, not over one crop.
        shift_voxels: Where one crop is all that the network sees: 0, or how far four crops are moved from it along
            both in-plane diagonals; their outputs are averaged.
    """

    sequences: tuple[Sequence | None, ...]
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    normalization: str = "zscore-nonzero"
    overlap: float = 0.5
    whole_volume: bool = False
    shift_voxels: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """One network, whole.

    Attributes:
        name: Lower-case name of the architecture, a key of `MODELS`.
        task: What it was made for; `None` for an encoder alone, which is a starting point only.
        encoder: `ConvNeXtSpec` (ProFound) or `ViTSpec` (ProViCNet).
        head: The head.
        preprocess: What its input is.
        labels: Name of each output channel that is a class; `Label` values where the meaning is
            known, else a neutral name such as `structure-1`.
        activation: `softmax`, `sigmoid` or `none`.
        threshold: Probability above which a voxel counts as the label (sigmoid, ProViCNet).
        paper: Where the architecture is described.
        license: Of the authors' code, not of any weights.
    """

    name: str
    title: str
    task: str | None
    encoder: ConvNeXtSpec | ViTSpec
    head: HeadSpec
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    activation: str
    threshold: float = 0.5
    paper: str = PROFOUND_PAPER
    license: str = "Apache-2.0"

    @property
    def family(self) -> str:
        """`profound` or `provicnet`."""
        return "profound" if isinstance(self.encoder, ConvNeXtSpec) else "provicnet"

    @property
    def prediction_task(self) -> Task:
        """The row of the task that it predicts.

        Raises:
            ValueError: It is an encoder alone.
        """
        if self.task is None:
            raise ValueError(f"A model that predicts must have a head, but {self.name} is an encoder alone.")
        return TASKS[self.task]


_T2W_ONLY = (Sequence.T2W, None, None)
_T2W_HBV_ADC = (Sequence.T2W, Sequence.HBV, Sequence.ADC)
_PROFOUND_GRID: dict[str, Any] = {"spacing_mm": (0.5, 0.5, 1.0), "patch": (64, 224, 224)}
_PROVICNET_GRID: dict[str, Any] = {
    "spacing_mm": (0.5, 0.5, 3.0),
    "patch": (1, 256, 256),
    "normalization": "zscore-gland",
}
_PIRADS_LABELS = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")
_CANCER_LABELS = (Label.BACKGROUND, Label.PROSTATE, Label.INDOLENT_CANCER, Label.CSPCA)
_PROVICNET: dict[str, Any] = {"activation": "softmax", "threshold": 0.4, "paper": PROVICNET_PAPER, "license": "MIT"}


def _provicnet(sequence: Sequence, title: str) -> ModelSpec:
    return ModelSpec(
        name=f"provicnet-{sequence}",
        title=f"ProViCNet, {title}",
        task=TaskId.LESION_SEGMENTATION,
        encoder=ViTSpec(),
        head=HeadSpec("convolution", 4, 128),
        preprocess=PreprocessSpec((sequence,), **_PROVICNET_GRID),
        labels=_CANCER_LABELS,
        **_PROVICNET,
    )


def _restoration(
    task: TaskId, title: str, sequences: tuple[Sequence | None, ...], kind: str = "restoration"
) -> ModelSpec:
    """An image-to-image row; the unit of its one output channel stands beside each call."""
    # Zeros in the midst of the intensities would draw rims around tissue that T2w does not show.
    normalization = "zscore-tissue" if kind == "matching" else "zscore-nonzero"
    return ModelSpec(
        name=f"profound-restoration-{task}",
        title=f"ProFound restoration, {title}",
        task=task,
        encoder=ConvNeXtSpec(),
        head=HeadSpec(kind, 1, 16),
        preprocess=PreprocessSpec(sequences, **_PROFOUND_GRID, normalization=normalization, whole_volume=True),
        labels=(),
        activation="none",
    )


def _slice_restoration(
    task: TaskId, title: str, sequences: tuple[Sequence, ...], kind: str = "restoration"
) -> ModelSpec:
    """As `_restoration`, slice by slice, and window by window where a slice is larger than one."""
    return ModelSpec(
        name=f"provicnet-restoration-{task}",
        title=f"ProViCNet restoration, {title}",
        task=task,
        encoder=ViTSpec(),
        head=HeadSpec(kind, 1, 16),
        preprocess=PreprocessSpec(sequences, **_PROVICNET_GRID, whole_volume=True),
        labels=(),
        activation="none",
        paper=PROVICNET_PAPER,
        license="MIT",
    )


# Pre-training ends with this. It predicts nothing, so it is no row of `MODELS`.
PROFOUND_ENCODER = ModelSpec(
    name="profound-encoder",
    title="ProFound encoder, pre-trained",
    task=None,
    encoder=ConvNeXtSpec(),
    head=HeadSpec("none", 768, 768),
    preprocess=PreprocessSpec(_T2W_HBV_ADC, **_PROFOUND_GRID),
    labels=(),
    activation="none",
)

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="profound-classifier",
            title="ProFound classifier",
            task=TaskId.CLASSIFICATION,
            encoder=ConvNeXtSpec(),
            head=HeadSpec("classifier", 4, 256),
            preprocess=PreprocessSpec(_T2W_HBV_ADC, **_PROFOUND_GRID),
            labels=_PIRADS_LABELS,
            activation="softmax",
        ),
        ModelSpec(
            name="profound-upernet-lesion",
            title="ProFound UPerNet, lesions",
            task=TaskId.LESION_SEGMENTATION,
            encoder=ConvNeXtSpec(),
            head=HeadSpec("upernet", 1, 512),
            preprocess=PreprocessSpec(_T2W_HBV_ADC, **_PROFOUND_GRID),
            labels=(Label.CSPCA,),
            activation="sigmoid",
        ),
        ModelSpec(
            name="profound-upernet-anatomy",
            title="ProFound UPerNet, anatomy",
            task=TaskId.ANATOMY_SEGMENTATION,
            encoder=ConvNeXtSpec(),
            head=HeadSpec("upernet", 9, 512),
            preprocess=PreprocessSpec(_T2W_ONLY, **_PROFOUND_GRID, whole_volume=True),
            labels=(Label.BACKGROUND, *(f"structure-{i}" for i in range(1, 9))),
            activation="softmax",
        ),
        ModelSpec(
            name="profound-unetr-lesion",
            title="ProFound UNETR, lesions",
            task=TaskId.LESION_SEGMENTATION,
            encoder=ConvNeXtSpec(),
            head=HeadSpec("unetr", 1, 32),
            preprocess=PreprocessSpec(_T2W_HBV_ADC, **_PROFOUND_GRID),
            labels=(Label.CSPCA,),
            activation="sigmoid",
        ),
        ModelSpec(
            name="profound-unetr-anatomy",
            title="ProFound UNETR, anatomy",
            task=TaskId.ANATOMY_SEGMENTATION,
            encoder=ConvNeXtSpec(),
            head=HeadSpec("unetr", 9, 32),
            preprocess=PreprocessSpec(_T2W_ONLY, **_PROFOUND_GRID, whole_volume=True),
            labels=(Label.BACKGROUND, *(f"structure-{i}" for i in range(1, 9))),
            activation="softmax",
        ),
        # What to add to the z-scored T2w, itself up-sampled to twice its in-plane matrix.
        _restoration(TaskId.SUPER_RESOLUTION, "super-resolution of T2w", _T2W_ONLY),
        # Displacement along the phase-encoding axis, in mm.
        _restoration(TaskId.DISTORTION_CORRECTION, "distortion correction of diffusion", _T2W_HBV_ADC, "matching"),
        # ADC in 1e-3 mm²/s, so that tissue is near 1.
        _restoration(TaskId.ADC_TRANSLATION, "T2w→ADC translation", _T2W_ONLY),
        # The same three outputs, in the same units.
        _slice_restoration(TaskId.SUPER_RESOLUTION, "super-resolution of T2w", (Sequence.T2W,)),
        _slice_restoration(
            TaskId.DISTORTION_CORRECTION, "distortion correction of diffusion", _T2W_HBV_ADC, "matching"
        ),
        _slice_restoration(TaskId.ADC_TRANSLATION, "T2w→ADC translation", (Sequence.T2W,)),
        # Not normalized by the gland, which is what it looks for.
        ModelSpec(
            name="provicnet-anatomy",
            title="ProViCNet, anatomy",
            task=TaskId.ANATOMY_SEGMENTATION,
            encoder=ViTSpec(),
            head=HeadSpec("convolution", 3, 128),
            preprocess=PreprocessSpec((Sequence.T2W,), **{**_PROVICNET_GRID, "normalization": "zscore-nonzero"}),
            labels=(Label.BACKGROUND, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE),
            activation="softmax",
            paper=PROVICNET_PAPER,
            license="MIT",
        ),
        # Each slice of the gland has its say; the study's logits are the mean of its slices'.
        ModelSpec(
            name="provicnet-classifier",
            title="ProViCNet classifier",
            task=TaskId.CLASSIFICATION,
            encoder=ViTSpec(),
            head=HeadSpec("classifier", 4, 256),
            preprocess=PreprocessSpec(_T2W_HBV_ADC, **_PROVICNET_GRID),
            labels=_PIRADS_LABELS,
            activation="softmax",
            paper=PROVICNET_PAPER,
            license="MIT",
        ),
        _provicnet(Sequence.T2W, "T2w"),
        _provicnet(Sequence.ADC, "ADC"),
        _provicnet(Sequence.HBV, "high-b DWI"),
        ModelSpec(
            name="provicnet-fusion",
            title="ProViCNet, fusion of T2w, ADC and high-b DWI",
            task=TaskId.LESION_SEGMENTATION,
            encoder=ViTSpec(),
            head=HeadSpec("fusion", 4, 128),
            preprocess=PreprocessSpec((Sequence.T2W, Sequence.ADC, Sequence.HBV), **_PROVICNET_GRID),
            labels=_CANCER_LABELS,
            **_PROVICNET,
        ),
    )
}
