"""From a recipe of a pair, a folder of real cases and a start to one arm's bundle, measured and with its model card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .bundle import Bundle
from .dataset import Split
from .errors import DatasetError
from .optimization import Progress
from .pair_recipe import PairRecipe
from .study_card import study_card
from .study_cases import StudyCase
from .study_source import StudySet, phantom_cases_of, read_study
from .study_training import checkpoints, finetune_study, study_config, write_study_arm


@dataclass(frozen=True)
class PairData:
    """The cases of a recipe.

    Attributes:
        studies: Everything by name, and what each is for.
        shown: Phantoms that are shown between real training cases; none where phantoms alone train.
    """

    studies: StudySet
    shown: tuple[StudyCase, ...]


def pair_data(recipe: PairRecipe, data: Path, on_progress: Progress | None = None) -> PairData:
    """Read the real cases and make the phantoms.

    Raises:
        DatasetError: A case or a label is missing.
        ImageError: A file cannot be read.
    """
    named = [*recipe.split.train, *recipe.split.validation, *recipe.split.test]
    lacking = [name for name in named if not (data / name).is_dir()]
    if lacking:
        raise DatasetError(f"The folder must hold all cases of the recipe, but lacks {', '.join(lacking)}. Add them.")
    real = {
        name: read_study(data / name, recipe.task, recipe.masks, seed=recipe.seed + place)
        for place, name in enumerate(named)
    }
    part = recipe.phantoms
    count = part.train + part.validation + part.test
    phantoms = phantom_cases_of(recipe.task, range(count), on_progress=on_progress)
    names = [study.case.id for study in phantoms]
    train, validation, test = names[: part.train], names[part.train : count - part.test], names[count - part.test :]
    if recipe.split.train:
        shown, train = tuple(phantoms[: part.train]), []
    else:
        shown = ()
    split = Split((*recipe.split.train, *train), (*recipe.split.validation, *validation), (*recipe.split.test, *test))
    return PairData(StudySet(split, {**real, **{study.case.id: study for study in phantoms}}), shown)


def train_pair_arm(
    recipe: PairRecipe, data: PairData, folder: Path, init: Bundle | None, on_progress: Progress | None = None
) -> Bundle:
    """Train one arm, or go on where it was stopped, and write its bundle.

    Args:
        recipe: The recipe, the same for both arms.
        data: From `pair_data`.
        folder: The bundle's folder; checkpoints go beside it.
        init: The pretrained arm's start; the scratch arm has none.
        on_progress: Called with a line of text and the part that is done.
    """
    config = study_config(
        recipe.encoder,
        recipe.task,
        data.studies,
        steps=recipe.steps,
        seed=recipe.seed,
        encoder=None if init is None else init.spec,
    )
    config = replace(config, phantom_share=recipe.phantoms.share if data.shown else 0.0)
    run = finetune_study(
        config, data.studies, checkpoints(folder), init=init, phantoms=data.shown, on_progress=on_progress
    )
    return write_study_arm(
        config,
        run,
        data.studies,
        folder,
        data=_data_line(recipe),
        init=init,
        license=recipe.license,
        title=recipe.title,
        card=lambda bundle: study_card(bundle, recipe),
    )


def _data_line(recipe: PairRecipe) -> str:
    real = ", ".join(recipe.split.train)
    phantoms = f"{recipe.phantoms.train} phantoms"
    return f"{real}; {phantoms} in {recipe.phantoms.share:.0%} of the steps" if real else phantoms
