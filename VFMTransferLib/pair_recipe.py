"""A recipe of a shipped pair: one JSON file from which both arms of one of the study's tasks can be made again.

It states the task, the start, the real cases and phantoms that train, and those that are only measured. Everything else
is as in the study (`study_training.study_config`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .dataset import Split
from .demonstration import FAMILIES
from .errors import BundleError, DatasetError
from .spec_json import from_json
from .study.grid_config import PhantomSplit
from .study_source import MaskNames
from .terms import TaskId

FORMAT = 2  # 1 is `recipe.Recipe`


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
    return isinstance(document, dict) and document.get("format") == FORMAT


def read_pair_recipe(path: Path) -> PairRecipe:
    """Read a recipe, strictly: every key known, every key there.

    Raises:
        DatasetError: A key or value is wrong; the message names it.
    """
    try:
        return from_json(PairRecipe, json.loads(path.read_text(encoding="utf-8")), "recipe")
    except (BundleError, DatasetError, ValueError, OSError) as error:
        raise DatasetError(f"Recipe {path.name} cannot be used: {error}") from error
