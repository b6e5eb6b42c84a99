"""From a recipe of a pair, a folder of real cases and a start to one arm's bundle, measured and with its model card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..bundles.bundle import Bundle
from ..core.errors import DatasetError
from ..study.phantoms import PhantomStore
from ..tasks.truth import StudyCase, from_phantom
from .arms import finetune_study, study_config, write_study_arm
from .cases import StudySet, read_study
from .dataset import Split
from .optimization import Progress
from .recipes import PairRecipe
from .record import checkpoints, study_card

_MEASUREMENTS = 3  # of a training, on whole images


@dataclass(frozen=True)
class PairData:
    """The cases of a recipe.

    Attributes:
        studies: Everything by name, and what each is for.
        shown: Phantoms that are shown between real training cases; none where phantoms alone train.
    """

    studies: StudySet
    shown: tuple[StudyCase, ...]


def pair_data(recipe: PairRecipe, data: Path, store: Path, on_progress: Progress | None = None) -> PairData:
    """Read the real cases and make the phantoms.

    Args:
        recipe: The recipe.
        data: Folder with a folder for each real case.
        store: Where phantoms are kept, so that each is made once.
        on_progress: Called with a line of text and the part that is done.

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
    groups = (recipe.phantoms.train, recipe.phantoms.validation, recipe.phantoms.test)
    kept = PhantomStore(store, recipe.phantoms.spacing_mm, full_resolution=recipe.phantoms.full_resolution)
    made = [[from_phantom(p, recipe.task) for p in kept.phantoms(group.seeds, on_progress)] for group in groups]
    train, validation, test = (tuple(study.case.id for study in studies) for studies in made)
    shown = tuple(made[0]) if recipe.split.train else ()
    split = Split(recipe.split.train or train, (*recipe.split.validation, *validation), (*recipe.split.test, *test))
    phantoms = {study.case.id: study for studies in made for study in studies}
    return PairData(StudySet(split, {**real, **phantoms}), shown)


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
        precision=recipe.precision,
        encoder=None if init is None else init.spec,
    )
    share = recipe.phantom_share if data.shown else 0.0
    config = replace(config, phantom_share=share, measure_every=max(recipe.steps // _MEASUREMENTS, 1))
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
    phantoms = f"{recipe.phantoms.train.count} phantoms"
    return f"{real}; {phantoms} in {recipe.phantom_share:.0%} of the steps" if real else phantoms
