"""A training recipe: one JSON file from which a pair of bundles can be made again.

It states the network, the cases and their labels, the phantoms, and the three trainings: pretraining,
cross-fitting of the labels, and fine-tuning, which both arms share.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..bundles.metadata import spec_from_json
from ..core.decoding import from_json
from ..core.errors import BundleError, DatasetError
from ..core.terms import TaskId
from ..core.volume import Triple
from ..encoders.base import ModelSpec
from ..encoders.demonstration import FAMILIES
from ..study.config import PhantomSplit
from .augmentation import Augmentation
from .cases import MaskNames
from .crossfit import CrossFit
from .dataset import Split
from .finetune import FinetuneConfig
from .optimization import Schedule
from .pretrain import PretrainConfig

FORMAT = 1


@dataclass(frozen=True)
class PhantomSource:
    """Phantoms to train on: seeds 0 .. count - 1.

    Attributes:
        count: How many.
        t2w_spacing_mm: Their T2w's voxel (x, y, z).
    """

    count: int
    t2w_spacing_mm: Triple


@dataclass(frozen=True)
class PretrainPart:
    """What pretraining adds to the recipe; see `PretrainConfig`."""

    schedule: Schedule
    augmentation: Augmentation
    hidden: float
    decoder_width: int
    phantom_share: float


@dataclass(frozen=True)
class FinetunePart:
    """What fine-tuning adds to the recipe; see `FinetuneConfig`."""

    schedule: Schedule
    augmentation: Augmentation
    drop_path: float
    phantom_share: float
    measure_every: int


@dataclass(frozen=True)
class Evaluation:
    """On what the finished networks are measured; nothing of it chooses or trains.

    Attributes:
        cases: Names of the cases.
        references: File stems of masks of the prostate; a case may lack some.
        notes: What to know about the references, for the model card.
    """

    cases: tuple[str, ...]
    references: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a pair of bundles, but for the images.

    Attributes:
        format: Version of this file's layout.
        name: Name of the bundles, before the arm.
        title: Title of the bundles, before the arm.
        model: The network.
        split: Which cases train, and which are measured.
        labels: File stem of the mask of the prostate in each case's folder.
        seed: Of all randomness.
        phantoms: The phantoms.
        pretrain, crossfit, finetune: The three trainings.
        evaluation: On what the networks are measured afterwards.
        license: Of the weights, an SPDX identifier.
        attribution: Whose images and masks trained the networks, for the model card.
    """

    format: int
    name: str
    title: str
    model: ModelSpec
    split: Split
    labels: str
    seed: int
    phantoms: PhantomSource
    pretrain: PretrainPart
    crossfit: CrossFit
    finetune: FinetunePart
    evaluation: Evaluation
    license: str
    attribution: str

    @property
    def pretrain_config(self) -> PretrainConfig:
        """The configuration of pretraining: all training cases."""
        part = self.pretrain
        return PretrainConfig(
            model=self.model,
            cases=self.split.train,
            schedule=part.schedule,
            augmentation=part.augmentation,
            seed=self.seed,
            hidden=part.hidden,
            decoder_width=part.decoder_width,
            phantom_share=part.phantom_share,
        )

    @property
    def finetune_config(self) -> FinetuneConfig:
        """The configuration of fine-tuning, of either arm."""
        part = self.finetune
        return FinetuneConfig(
            model=self.model,
            split=self.split,
            schedule=part.schedule,
            augmentation=part.augmentation,
            seed=self.seed,
            drop_path=part.drop_path,
            phantom_share=part.phantom_share,
            measure_every=part.measure_every,
        )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe, strictly: every key known, every key there.

    Raises:
        DatasetError: The file is missing, no JSON, or a key or value is wrong; the message names it.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"A recipe must be at {path}, but no file is there. Name another.") from error
    except (ValueError, OSError) as error:
        raise DatasetError(f"Recipe {path.name} must be readable JSON, but is not ({error}). Mend it.") from error
    try:
        if isinstance(document, dict) and "model" in document:
            document["model"] = spec_from_json(document["model"])
        recipe = from_json(Recipe, document, "recipe", every_key=True)
    except (BundleError, ValueError) as error:
        raise DatasetError(f"Recipe {path.name} cannot be used: {error}") from error
    if recipe.format != FORMAT:
        raise DatasetError(
            f"Recipe {path.name} must have format {FORMAT}, but has {recipe.format}. Use another version."
        )
    return recipe


# A recipe of a shipped pair: one JSON file from which both arms of one of the study's tasks can be made again.
#
# It states the task, the start, the real cases and phantoms that train, and those that are only measured. Everything
# else is as in the study (`study_training.study_config`).

FORMAT_PAIR_RECIPE = 2  # 1 is `recipe.Recipe`


@dataclass(frozen=True)
class PairRecipe:
    """Everything that decides a pair of bundles, but for the images and the start.

    Attributes:
        format: Version of this file's layout.
        name: Name of the bundles, before the arm.
        title: Title of the bundles, before the arm.
        task: The task.
        encoder: `profound` or `provicnet`.
        seed: Of head, order, samples, and of the fields that distort scans.
        steps: Optimizer steps.
        precision: `float32` or `bfloat16`.
        split: Real cases, folders of the data; those that test are measured and choose nothing.
        masks: How their masks are called.
        phantoms: The phantoms.
        phantom_share: Part of the steps that show one, where real cases train too.
        license: Of the weights, an SPDX identifier.
        attribution: Whose images and masks trained the networks, for the model card.
        limits: What to know before use, for the model card.
    """

    format: int
    name: str
    title: str
    task: TaskId
    encoder: str
    seed: int
    steps: int
    precision: str
    split: Split
    masks: MaskNames
    phantoms: PhantomSplit
    phantom_share: float
    license: str
    attribution: str
    limits: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.encoder not in FAMILIES:
            raise ValueError(f"encoder must be one of {', '.join(FAMILIES)}, got '{self.encoder}'")
        if not 0 <= self.phantom_share < 1:
            raise ValueError(f"phantom_share must be at least 0 and below 1, got {self.phantom_share:g}")
        if not self.split.train and self.phantoms.train.count < 1:
            raise ValueError("some cases or phantoms must train, got none")
        if self.task is TaskId.SUPER_RESOLUTION and not self.phantoms.full_resolution:
            raise ValueError("phantoms.full_resolution must be true for super-resolution, got false")


def is_pair_recipe(path: Path) -> bool:
    """Whether a readable file is of this kind; what is wrong with any other is said by who reads it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT_PAIR_RECIPE


def read_pair_recipe(path: Path) -> PairRecipe:
    """Read a recipe, strictly: every key known, every key there.

    Raises:
        DatasetError: A key or value is wrong; the message names it.
    """
    try:
        return from_json(PairRecipe, json.loads(path.read_text(encoding="utf-8")), "recipe", every_key=True)
    except (BundleError, DatasetError, ValueError, OSError) as error:
        raise DatasetError(f"Recipe {path.name} cannot be used: {error}") from error
