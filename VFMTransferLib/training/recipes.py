"""A recipe: one JSON file from which both arms of a shipped pair can be made again, and the way from it to bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors.numpy import save_file

from ..bundles.bundle import Bundle, check_name, require_replaceable
from ..bundles.card import model_card
from ..bundles.metadata import spec_from_json
from ..core.case import Case
from ..core.decoding import Limits, OneOf, from_json, parse_json, to_json
from ..core.errors import BundleError, DatasetError
from ..core.files import atomic_file, read_small
from ..core.terms import Arm, OnProgress, phantom_name
from ..encoders import pretrained_families
from ..encoders.base import ModelSpec
from ..encoders.pretext import pretext_task
from ..encoders.weights import encoder_weights
from ..io import read_case
from ..phantom import VERSION, Phantom, Phantoms, PhantomSplit, PhantomStore
from ..tasks import TASKS, TaskName
from ..tasks.base import LabeledCase, MaskNames, read_label_map
from .cases import LabeledDataset, LazyCase, LazyCases, Split, file_facts, folder_checksum, read_labeled
from .config import TrainConfig
from .finetune import FinetuneConfig, Initialization, finetune, network_to_train, write_arm
from .loop import checkpoint_folder
from .pretrain import PretrainConfig, pretrain

FORMAT = 3
ENCODER = "encoder.safetensors"
_OF_COHORT = ("auroc", "quadratic_weighted_kappa", "ece", "average_precision")  # on model cards


@dataclass(frozen=True)
class RecipePretraining:
    """How the pretrained arm's encoder is pretrained on the recipe's own training cases and phantoms."""

    pretext: str  # one of images alone, or of phantoms alone
    train: TrainConfig
    settings: dict[str, float] = field(default_factory=dict)  # of the pretext task, that differ from its defaults


@dataclass(frozen=True)
class References:
    """Further masks on which the finished networks are measured; they choose and train nothing."""

    cases: tuple[str, ...]
    masks: tuple[str, ...]  # file stems, of the prostate; a case may lack some
    zones: str = "zones"  # file stem; a case may lack it
    notes: tuple[str, ...] = ()  # for the model card


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a pair of bundles, but for the images and a pretraining from elsewhere."""

    format: int
    name: str  # of the bundles, before the arm
    title: str
    task: TaskName
    encoder: Annotated[str, OneOf(pretrained_families)]
    train: TrainConfig  # its seed is also of the fields that distort scans
    split: Split  # real cases, folders of the data; those that test are measured and choose nothing
    masks: MaskNames
    phantoms: PhantomSplit
    license: str  # of the weights, an SPDX identifier
    attribution: str  # whose images and masks trained the networks
    limits: tuple[str, ...]  # of use
    # How often an input is made of each scan that trains, by another seed each time.
    acquisitions: Annotated[int, Limits(minimum=1)] = 1
    network: ModelSpec | None = None
    pretraining: RecipePretraining | None = None
    references: References | None = None
    caveats: tuple[str, ...] = ()  # sentences that each result of the networks bears
    population: str = ""  # whom its training cases stand for, for the model card

    def __post_init__(self) -> None:
        check_name(self.bundle_name(Arm.SCRATCH))
        if self.format != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {self.format}")
        needs_twin = bool(TASKS[self.task].phantom_options().get("full_resolution"))
        if self.acquisitions > 1 and not needs_twin:
            raise ValueError(f"acquisitions must be 1 for {self.task}, which sees scans as they are")
        if needs_twin and not self.phantoms.full_resolution:
            raise ValueError(f"phantoms.full_resolution must be true for {self.task}")
        if not self.split.train and self.phantoms.train.count < 1:
            raise ValueError("no case and no phantom trains")
        for one, other in combinations(("train", "validation", "test"), 2):
            if set(getattr(self.phantoms, one).seeds) & set(getattr(self.phantoms, other).seeds):
                raise ValueError(f"phantoms of {one} and {other} must be of different seeds: a phantom is a patient")

    def bundle_name(self, arm: Arm) -> str:
        return f"{self.name}-{arm}"

    def with_seed(self, seed: int) -> Recipe:
        """The same trainings with another seed."""
        how = self.pretraining
        how = how and replace(how, train=replace(how.train, seed=seed))
        return replace(self, train=replace(self.train, seed=seed), pretraining=how)

    def finetune_config(self, split: Split, init: Initialization | None) -> FinetuneConfig:
        """The configuration of fine-tuning, the same for both arms where the initialization has the network's size."""
        model = self.network or network_to_train(self.encoder, self.task, None if init is None else init.spec)
        train = self.train if self.split.train else replace(self.train, phantom_share=0.0)
        return FinetuneConfig(model, split, train)

    @property
    def data(self) -> dict[str, Any]:
        """What decides the training data beside the real cases, for `finetune` and `pretrain`."""
        phantoms = to_json(replace(self.phantoms, test=Phantoms(0, 0)))
        return {
            "masks": to_json(self.masks),
            "phantoms": {**phantoms, "version": VERSION},
            "acquisitions": self.acquisitions,
        }

    def card(self, bundle: Bundle) -> str:
        """The model card of a bundle, Markdown: its facts, then training, measurements and limits."""
        start, steps = bundle.training["start"], bundle.training.get("steps", self.train.steps)
        length = f"{steps} steps" if steps == self.train.steps else f"{steps} of at most {self.train.steps} steps"
        source = "with random weights" if isinstance(start, str) else f"from `{start.get('bundle', ENCODER)}`"
        training = (
            f"Initialized {source}. Training data: {bundle.training['data']}. {length}, seed {self.train.seed}, "
            f"{bundle.training.get('seconds', 0.0) / 60:.0f} minutes of one processor core. Held-out real cases: "
            f"{', '.join(self.split.test) or 'none'}. Both arms differ in the encoder's initial weights only. Made by "
            "`make bundles`; the configuration is in `configs/metadata.json`."
        )
        measured = []
        for part, found in bundle.metrics.items():
            measured += [f"**{part[0].upper()}{part[1:]}**", *self._measured(found)]
        measured += self.references.notes if self.references else ()
        return model_card(
            bundle,
            population=self.population,
            training=(training, self.attribution),
            measured=measured,
            limits=self.limits,
        )

    def _measured(self, found: Mapping[str, Any]) -> list[str]:
        """Table of cases and their mean, each value before that of the naive baseline, and notes on it.

        The means of a measure that some cases lack are over those that have it of both, which the table states.
        """
        task, naive = TASKS[self.task], found.get("trivial", {})
        names = [name for name in task.card_measures if any(name in values for values in found["cases"].values())]

        def row(case: str, *values: Mapping[str, float]) -> str:
            cells = (f"{one[name]:.4g}" if name in one else "" for name in names for one in values)
            return f"| {' | '.join([case, *cells])} |"

        def means(name: str) -> list[str]:
            sides = [
                {case: values[name] for case, values in side.items() if name in values}
                for side in (found["cases"], naive.get("cases", {}))
            ]
            known = [case for case in found["cases"] if all(case in side for side in sides if side)]
            of = "" if len(known) == len(found["cases"]) else f" ({len(known)} of {len(found['cases'])})"
            return [f"{np.mean([side[case] for case in known]):.4g}{of}" if side and known else "" for side in sides]

        table = [f"| {' | '.join(['case', *(f'{name}: network | naive' for name in names)])} |"]
        table += ["|" + "---|" * (1 + 2 * len(names))]
        table += [row(case, values, naive.get("cases", {}).get(case, {})) for case, values in found["cases"].items()]
        table += [f"| {' | '.join(['mean', *(cell for name in names for cell in means(name))])} |"]
        notes = [f"Primary: {task.metric}, {'higher' if task.higher_is_better else 'lower'} is better."]
        if "what" in naive:
            notes.append(f"Naive baseline: {naive['what']}.")
        statistics = [f"{name} {found['cohort'][name]:.3f}" for name in _OF_COHORT if name in found["cohort"]]
        if statistics:
            notes.append(f"Of all cases: {', '.join(statistics)}.")
        if "uncalibrated" in found:
            before = ", ".join(f"{name} {value:.3f}" for name, value in found["uncalibrated"].items())
            notes.append(f"Before calibration: {before}.")
        return ["\n".join(table), " ".join(notes)]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe, strictly. DatasetError names the key or value that is wrong."""
    try:
        document = parse_json(read_small(path))
        if isinstance(document, dict) and document.get("network") is not None:
            document = {**document, "network": spec_from_json(document["network"])}
        return from_json(Recipe, document, "recipe")
    except (OSError, BundleError, DatasetError, ValueError) as error:
        raise DatasetError(f"Recipe {path.name} cannot be used: {str(error).rstrip('.')}. Correct it.") from error


def pretrain_by_recipe(
    recipe: Recipe,
    data: Path,
    work: Path,
    on_progress: OnProgress | None = None,
    *,
    prepared: Path | None = None,
    prefetch: int = 0,
) -> Path:
    """Pretrain the recipe's encoder on its training cases in `data`, without their labels; the file of its weights.

    `prepared` and `prefetch` are as of `finetune`. DatasetError where the recipe has no pretraining, or a case is
    missing; CheckpointError as of `pretrain`.
    """
    how = recipe.pretraining
    if how is None:
        raise DatasetError(
            f"Recipe '{recipe.name}' states no pretraining. Pretrain with --pretext, and fine-tune with --init."
        )
    pretext = pretext_task(how.pretext, recipe.network, **how.settings)
    phantoms = _phantoms(recipe, recipe.phantoms.train, work, on_progress, tissue_maps=pretext.needs_maps)
    decided, shown = recipe.data, []
    cases: list[LazyCase[Any]] = list(phantoms)
    if not pretext.needs_maps:
        _require_folders(data, recipe.split.train)
        sequences = pretext.spec.preprocess.images

        def images(name: str) -> Case:
            return replace(read_case(data / name, sequences=sequences), id=name)

        cases = [
            LazyCase(name, f"images {list(sequences)} {file_facts(data / name)}", partial(images, name))
            for name in recipe.split.train
        ]
        shown = [LazyCase(one.id, f"images {one.identity}", partial(_case_in, one)) for one in phantoms]
        decided["cases"] = folder_checksum(data, recipe.split.train)
    run = pretrain(
        PretrainConfig(pretext, how.train),
        cases,
        work / "pretrain",
        phantoms=shown,
        prepared=prepared,
        prefetch=prefetch,
        data=decided,
        on_progress=on_progress,
    )
    found = encoder_weights(pretext.pretrained(run.average), pretext.spec)
    weights = {name: tensor.contiguous().numpy() for name, tensor in found.items()}
    with atomic_file(work / ENCODER) as part:
        save_file(weights, part, {"format": "pt"})
    return work / ENCODER


@dataclass(frozen=True)
class RecipeData:
    dataset: LabeledDataset
    mixed_in: tuple[LabeledCase | LazyCase[LabeledCase], ...]  # phantoms among real training cases, if such train
    checksum: str  # of the real cases that train and validate
    references: Mapping[str, list[LabeledCase]] = field(default_factory=dict)  # those with further masks


def recipe_data(
    recipe: Recipe, data: Path, work: Path, on_progress: OnProgress | None = None, *, lazy: bool = False
) -> RecipeData:
    """Read the real cases in `data` and make the phantoms, each once, in `work`; errors as of `read_labeled`.

    With `lazy` cases are read each time they are asked for, and not kept, as it suits cached samples.
    """
    named = [*recipe.split.train, *recipe.split.validation, *recipe.split.test]
    _require_folders(data, named)

    def scan(name: str, place: int, more: str = "") -> LazyCase[LabeledCase]:
        seed = recipe.train.seed + place
        identity = f"{recipe.task} {recipe.masks} {seed} {file_facts(data / name)}"
        return LazyCase(name + more, identity, partial(read_labeled, data / name, recipe.task, recipe.masks, seed=seed))

    real = [scan(name, place) for place, name in enumerate(named)]
    again = [
        scan(name, place + time * len(named), f", acquisition {time + 1}")
        for time, (place, name) in product(range(1, recipe.acquisitions), enumerate(recipe.split.train))
    ]
    groups = (recipe.phantoms.train, recipe.phantoms.validation, recipe.phantoms.test)
    made = [
        [
            LazyCase(one.id, f"{recipe.task} {one.identity}", partial(_labeled, recipe.task, one))
            for one in _phantoms(recipe, group, work, on_progress)
        ]
        for group in groups
    ]
    train, validation, test = (tuple(one.id for one in some) for some in made)
    trained = (*recipe.split.train, *(one.id for one in again))
    split = Split(trained or train, (*recipe.split.validation, *validation), (*recipe.split.test, *test))
    sources = [*real, *again, *(one for some in made for one in some)]
    cases: Mapping[str, LabeledCase] = LazyCases({one.id: (one.identity, one.read) for one in sources})
    mixed_in: tuple[LabeledCase | LazyCase[LabeledCase], ...] = tuple(made[0])
    if not lazy:
        cases = {one.id: one.read() for one in sources}
        mixed_in = tuple(cases[one.id] for one in made[0])
    references: dict[str, list[LabeledCase]] = {}  # cases that train apart from unseen ones
    if recipe.references is not None:
        _require_folders(data, recipe.references.cases)
        zones = recipe.references.zones
        for mask, name in product(recipe.references.masks, recipe.references.cases):
            if read_label_map(data / name, mask) is not None:
                part = f"{mask}, {'training' if name in recipe.split.train else 'unseen'} cases"
                labeled = read_labeled(data / name, recipe.task, MaskNames((mask,), zones))
                references.setdefault(part, []).append(labeled)
    checksum = folder_checksum(data, (*recipe.split.train, *recipe.split.validation))
    return RecipeData(LabeledDataset(split, cases), mixed_in if recipe.split.train else (), checksum, references)


def _phantoms(
    recipe: Recipe, group: Phantoms, work: Path, on_progress: OnProgress | None, tissue_maps: bool = False
) -> list[LazyCase[Phantom]]:
    """The phantoms of some seeds on disk; what is missing is made."""
    how = recipe.phantoms
    is_fine = how.full_resolution and not tissue_maps
    store = PhantomStore(work / "phantoms", how.spacing_mm, True, is_fine, tissue_maps, how.conditions)
    store.make_missing(group.seeds, on_progress)
    return [
        LazyCase(phantom_name(seed), store.name_of(seed), partial(_phantom_in, store, seed)) for seed in group.seeds
    ]


def _phantom_in(store: PhantomStore, seed: int) -> Phantom:
    return store.phantoms([seed])[0]


def _case_in(phantom: LazyCase[Phantom]) -> Case:
    return phantom.read().case


def _labeled(task: str, phantom: LazyCase[Phantom]) -> LabeledCase:
    return TASKS[task].from_phantom(phantom.read())


def _require_folders(data: Path, names: Sequence[str]) -> None:
    lacking = [name for name in names if not (data / name).is_dir()]
    if lacking:
        raise DatasetError(f"The folder lacks cases of the recipe: {', '.join(lacking)}. Add them.")


def train_arm(
    recipe: Recipe,
    data: RecipeData,
    arm: Arm,
    work: Path,
    init: Initialization | None,
    on_progress: OnProgress | None = None,
    *,
    prepared: Path | None = None,
    prefetch: int = 0,
) -> Bundle:
    """Train one arm, or go on where it was stopped, and write its bundle; errors as of `finetune`.

    `work` is the folder of bundles and checkpoints; OutputError, before the training, where the bundle could not be put
    there. `prepared` and `prefetch` are as of `finetune`.
    """
    if (arm is Arm.PRETRAINED) != (init is not None):
        raise ValueError("The pretrained arm must start from pretrained encoders, and the scratch arm from none.")
    folder = work / recipe.bundle_name(arm)
    require_replaceable(folder)
    config = recipe.finetune_config(data.dataset.split, init)
    run = finetune(
        config,
        data.dataset,
        checkpoint_folder(folder),
        init=init,
        phantoms=data.mixed_in,
        prepared=prepared,
        prefetch=prefetch,
        data={**recipe.data, "cases": data.checksum},
        on_progress=on_progress,
    )
    line = f"{recipe.phantoms.train.count} phantoms"
    if recipe.split.train:
        times = f", each acquired {recipe.acquisitions} times" if recipe.acquisitions > 1 else ""
        line = f"{', '.join(recipe.split.train)}{times}; {line} in {recipe.train.phantom_share:.0%} of the steps"
    return write_arm(
        config,
        run,
        data.dataset,
        folder,
        data=line,
        init=init,
        license=recipe.license,
        attribution=recipe.attribution,
        caveats=recipe.caveats,
        title=recipe.title,
        more_cases=data.references,
        card=recipe.card,
    )
