"""`vfm-transfer finetune`: one arm of the study, to a bundle; `vfm-transfer pretrain`: encoders that it starts from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DatasetError, OutputError
from ..core.terms import Arm, OnProgress
from ..tasks import TASKS
from .shared import Commands, add_command, add_output, progress_lines, require_output_outside

if TYPE_CHECKING:
    from ..training.distributed import DistributedContext

SCRATCH, PHANTOMS = "scratch", "phantoms"
# What is not stated has these; None in `args` is what nobody stated, so that what cannot be heeded is refused.
_DEFAULTS = {
    "steps": 400, "seed": 0, "phantoms": 24, "validation": 6, "gland": "gland", "license": "unknown", "devices": 1,
    "accumulate": 1, "precision": "float32",
}  # fmt: skip
# The same words as in training/distributed.py and training/loop.py, which import torch.
ACCELERATORS = ("auto", "cpu", "cuda")
TRAINING_PRECISIONS = ("float32", "bfloat16")
# What a recipe states, and only a training without one may be told.
_OF_RECIPE = ("steps", "batch", "precision", "devices", "accumulate", "accelerator")


def add_finetune(commands: Commands) -> None:
    parser = add_command(
        commands,
        "finetune",
        "Fine-tune one arm, pretrained or from scratch, and write its bundle",
        run_finetune,
        epilog="With --recipe the first argument is the folder of cases and --arm names the arm. The pretrained one "
        "starts from --init, a bundle that pretrain wrote, or from --encoder, the file that pretrain wrote by the same "
        "recipe. This is how the shipped pairs were made.",
    )
    parser.add_argument("what", metavar="TASK", help=f"{', '.join(TASKS)}; with --recipe the folder of cases")
    parser.add_argument("--encoder", metavar="E", help="a family, such as profound or provicnet; with --recipe a file")
    parser.add_argument("--init", metavar="B", help=f"the one switch between the arms: a bundle, or {SCRATCH}")
    parser.add_argument("--data", metavar="D", help=f"folder with a folder for each case, or {PHANTOMS} (default)")
    _add_option(parser, "phantoms", "number of phantoms", type=_count, metavar="N")
    _add_option(parser, "validation", "phantoms that validate", type=_count, metavar="N")
    _add_option(parser, "gland", "file name of the masks of the prostate in --data", metavar="STEM")
    _add_option(parser, "license", "license of the weights", metavar="L")
    _add_training(parser, seeded="head, case order and samples")
    parser.add_argument(
        "--patience",
        type=_part,
        metavar="P",
        help="early stopping: end when the validation score has not improved for this fraction of --steps, which is "
        "then the maximum (default: never)",
    )
    parser.add_argument("--learning-rate", type=_rate, metavar="R", help="highest learning rate (default: the study's)")
    parser.add_argument(
        "--encoder-learning-rate",
        type=_rate,
        metavar="R",
        help="that of the encoder; a lower one leaves a pretrained encoder more of what it has learned (default: the "
        "same)",
    )
    recipe = parser.add_argument_group("by a recipe")
    recipe.add_argument("--recipe", type=Path, metavar="JSON", help="network, split, schedules, seed")
    recipe.add_argument("--arm", choices=[str(arm) for arm in Arm], help="arm to train")
    add_output(parser, "folder of the bundle (by a recipe: of bundle and checkpoints); a stopped run goes on there")


def run_finetune(args: argparse.Namespace) -> None:
    if args.recipe is not None:
        _finetune_by_recipe(args)
        return
    is_folder, task = _is_of_a_folder(args), args.what
    if is_folder:
        _refuse(args, "--data FOLDER, of which a fifth validates", "phantoms", "validation")
        if args.gland is not None:
            _require_masks(Path(args.data), args.gland)
    else:
        _refuse(args, f"--data {PHANTOMS}", "gland")
    _add_defaults(args)
    if task not in TASKS:
        args.parser.error(f"TASK must be one of {', '.join(TASKS)}, got '{task}'")
    from ..encoders import pretrained_families

    families = pretrained_families()
    if args.encoder not in families or args.init is None or args.arm is not None:
        args.parser.error(f"--encoder must be {' or '.join(families)}, and --init a bundle or {SCRATCH}; no --arm")
    from ..bundles.catalog import find_bundle
    from ..training.cases import Split, folder_dataset, phantom_dataset
    from ..training.config import TrainConfig
    from ..training.finetune import (
        FinetuneConfig,
        Initialization,
        finetune,
        network_to_train,
        require_batch,
        write_arm,
    )
    from ..training.loop import checkpoint_folder
    from ..training.samples import prepare_labeled

    init = None if args.init == SCRATCH else Initialization.from_bundle(find_bundle(args.init))
    _require_free_output(args)
    stated = {
        name: getattr(args, name)
        for name in ("batch", "patience", "learning_rate", "encoder_learning_rate")
        if getattr(args, name) is not None
    }
    train = TrainConfig(steps=args.steps, seed=args.seed, precision=args.precision, **stated)
    model = network_to_train(args.encoder, task, None if init is None else init.spec)
    config = FinetuneConfig(model, Split(()), train)  # the split is known as soon as the cases are read
    with progress_lines() as on_progress:
        how = _distributed_context(args, on_progress)
        require_batch(config, how)
        if is_folder:
            lazy = args.prepared is not None
            dataset = folder_dataset(Path(args.data), task, gland=args.gland, seed=args.seed, lazy=lazy)
        else:
            dataset = phantom_dataset(task, args.phantoms, args.validation, seed=0, on_progress=on_progress)
        config = replace(config, split=dataset.split)
        if how.is_first:
            for case in dataset.select(dataset.split.test):
                prepare_labeled(case, config.model)  # one that is unfit is an error now, and not after hours
        work = checkpoint_folder(args.output)
        decided = _decided_by(args) | ({"masks": args.gland} if is_folder else {})
        shared = {"prepared": args.prepared, "prefetch": args.ahead, "context": how, "on_progress": on_progress}
        trained = finetune(config, dataset, work, init=init, data=decided, **shared)
        if not how.is_first:
            return
        license = args.license if is_folder or args.license != "unknown" else "Apache-2.0"
        bundle = write_arm(config, trained, dataset, args.output, data=_data_title(args), init=init, license=license)
    print(f"{bundle.name}\n{bundle.folder}")


def _finetune_by_recipe(args: argparse.Namespace) -> None:
    if args.arm is None:
        args.parser.error("--recipe needs --arm")
    cases = ("data", "phantoms", "gland", "validation", "license")
    _refuse(args, "--recipe", *_OF_RECIPE, *cases, "patience", "learning_rate", "encoder_learning_rate")
    arm = Arm(args.arm)
    named = args.init not in (None, SCRATCH), args.encoder is not None
    if sum(named) != (arm is Arm.PRETRAINED):
        args.parser.error("--arm pretrained needs either --init, a bundle, or --encoder, a file; --arm scratch neither")
    from ..bundles.catalog import find_bundle
    from ..training.finetune import Initialization
    from ..training.recipes import read_recipe, recipe_data, train_arm

    recipe, init = read_recipe(args.recipe), None
    if args.prepared is not None:
        require_output_outside(args.prepared, [Path(args.what)])
    if args.encoder is not None:
        init = Initialization.from_file(Path(args.encoder))
    elif arm is Arm.PRETRAINED:
        init = Initialization.from_bundle(find_bundle(args.init))
    with progress_lines() as on_progress:
        lazy = args.prepared is not None
        data = recipe_data(recipe, Path(args.what), args.output, on_progress, lazy=lazy)
        shared = {"prepared": args.prepared, "prefetch": args.ahead}
        if args.seed is not None:  # of the training alone: what distorts scans stays, so that seeds can be compared
            recipe = recipe.with_seed(args.seed)
        bundle = train_arm(recipe, data, arm, args.output, init, on_progress, **shared)
    print(f"{bundle.name}\n{bundle.folder}")


def add_pretrain(commands: Commands) -> None:
    parser = add_command(commands, "pretrain", "Pretrain encoders by a pretext task", run_pretrain)
    parser.add_argument(
        "data", nargs="?", metavar="DATA", help=f"folder with a folder for each case, or {PHANTOMS} (default)"
    )
    parser.add_argument(
        "--pretext",
        metavar="P",
        help="the pretext task: mae, contrastive, synthetic or synthetic-contrastive; the bundle is for --init",
    )
    parser.add_argument(
        "--encoder", metavar="E", help="a family, such as profound or provicnet (default: the one that is known by P)"
    )
    _add_option(parser, "phantoms", "number of phantoms", type=_count, metavar="N")
    parser.add_argument("--recipe", type=Path, metavar="JSON", help="network, split, schedules, seed, in one file")
    _add_training(parser, seeded="weights, case order and views")
    parser.add_argument("--learning-rate", type=_rate, metavar="R", help="highest learning rate (default: the study's)")
    add_output(parser, "folder of the bundle (by a recipe: of encoder and checkpoints); a stopped run goes on there")


def run_pretrain(args: argparse.Namespace) -> None:
    name = args.pretext
    if (args.recipe is None) == (name is None) or (args.recipe is not None and args.data is None):
        args.parser.error("name a --pretext task, or DATA with its --recipe")
    if args.recipe is not None:
        _refuse(args, "--recipe", *_OF_RECIPE, "phantoms", "encoder", "learning_rate")
        from ..training.recipes import pretrain_by_recipe, read_recipe

        recipe = read_recipe(args.recipe)
        if args.prepared is not None:
            require_output_outside(args.prepared, [Path(args.data)])
        if args.seed is not None:
            recipe = recipe.with_seed(args.seed)
        with progress_lines() as on_progress:
            shared = {"prepared": args.prepared, "prefetch": args.ahead}
            print(pretrain_by_recipe(recipe, Path(args.data), args.output, on_progress, **shared))
        return
    is_folder = _is_of_a_folder(args)
    if is_folder:
        _refuse(args, "a folder as DATA", "phantoms")
    _add_defaults(args)
    from ..encoders import find_family, pretrained_families
    from ..encoders.pretext import pretext_task, pretext_tasks
    from ..training.cases import folder_cases, pretraining_phantoms
    from ..training.config import PRETRAINING_RATE, TrainConfig
    from ..training.loop import checkpoint_folder
    from ..training.pretrain import PretrainConfig, pretrain, write_pretrained

    if args.encoder is not None and args.encoder not in pretrained_families():
        args.parser.error(f"--encoder must be one of {', '.join(pretrained_families())}, got '{args.encoder}'")
    if name not in pretext_tasks():
        args.parser.error(f"--pretext must be one of {', '.join(pretext_tasks())}, got '{name}'")
    family = None if args.encoder is None else find_family(args.encoder)
    pretext = pretext_task(name, None if family is None else family.pretraining_network())
    if pretext.needs_maps and is_folder:
        args.parser.error(f"--pretext {name} is learned from {PHANTOMS}, whose tissue is known; DATA must be that word")
    _require_free_output(args)
    with progress_lines() as on_progress:
        context = _distributed_context(args, on_progress)
        rate = args.learning_rate or PRETRAINING_RATE
        train = TrainConfig(
            steps=args.steps, learning_rate=rate, batch=args.batch, precision=args.precision, seed=args.seed
        )
        config = PretrainConfig(pretext, train)
        context.own_samples(config.batch)  # DatasetError, before cases are read
        if is_folder:
            cases = folder_cases(Path(args.data), lesions=pretext.needs_tissues)
        else:
            cases = pretraining_phantoms(args.phantoms, tissue_maps=pretext.needs_maps)
        work = checkpoint_folder(args.output)
        shared = {"prepared": args.prepared, "prefetch": args.ahead, "context": context, "on_progress": on_progress}
        trained = pretrain(config, cases, work, data=_decided_by(args), **shared)
        license = "unknown" if is_folder else "Apache-2.0"
        bundle = write_pretrained(config, trained, args.output, data=_data_title(args), cases=cases, license=license)
    if context.is_first:
        print(f"{bundle.name}\n{bundle.folder}")


def _add_option(group: Any, name: str, text: str, **how: Any) -> None:
    """An option with one of `_DEFAULTS`, which `_add_defaults` fills in."""
    group.add_argument(f"--{name}", help=f"{text} (default: {_DEFAULTS[name]})", **how)


def _add_defaults(args: argparse.Namespace) -> None:
    for name, value in _DEFAULTS.items():
        if getattr(args, name, value) is None:
            setattr(args, name, value)


def _refuse(args: argparse.Namespace, because: str, *names: str) -> None:
    """Exit with a usage error where one of these options was stated, which another one makes void."""
    for name in names:
        if getattr(args, name) is not None:
            args.parser.error(f"--{name.replace('_', '-')} has no effect with {because}; leave it out")


def _require_masks(data: Path, stem: str) -> None:
    from ..io.images import WRITTEN_SUFFIXES
    from ..training.cases import case_folders

    if not any((path / f"{stem}{end}").is_file() for _, path in case_folders(data) for end in WRITTEN_SUFFIXES):
        raise DatasetError(f"No case has a mask '{stem}'. Name those of the prostate by --gland.")


def _is_of_a_folder(args: argparse.Namespace) -> bool:
    """Whether cases on disk train, and not built-in phantoms."""
    return args.data not in (None, PHANTOMS)


def _require_free_output(args: argparse.Namespace) -> None:
    """Raise, before hours of training, where the bundle could not be put or named so.

    Raises:
        BundleError: The name cannot be a bundle's.
        OutputError: Another training's bundle is there, as the one that it starts from, or it lies among the cases.
    """
    from ..bundles.bundle import check_name, is_bundle_folder, require_replaceable
    from ..training.loop import checkpoint_folder

    check_name(args.output.name)
    require_replaceable(args.output)
    if is_bundle_folder(args.output) and not checkpoint_folder(args.output).is_dir():
        raise OutputError(f"'{args.output.name}' holds another bundle. Choose another folder, or remove it.")
    if _is_of_a_folder(args):
        for place in filter(None, (args.output, args.prepared)):
            require_output_outside(place, [Path(args.data)])


def _decided_by(args: argparse.Namespace) -> dict[str, str]:
    """What a checkpoint's cases are, beside their names: a training must not go on with other ones."""
    from ..phantom import VERSION
    from ..training.cases import folder_checksum

    return {"cases": folder_checksum(Path(args.data))} if _is_of_a_folder(args) else {"phantoms": VERSION}


def _data_title(args: argparse.Namespace) -> str:
    """What the cases are, without a path: of the phantoms how many, of a folder the name."""
    return Path(args.data).name if _is_of_a_folder(args) else f"{args.phantoms} {PHANTOMS}"


def _add_training(parser: argparse.ArgumentParser, seeded: str) -> None:
    """How long a training lasts, what is drawn, and how its steps are computed."""
    text = f"random seed of {seeded} (default: the recipe's, or 0)"
    parser.add_argument("--seed", type=_whole, metavar="S", help=text)
    _add_option(parser, "steps", "optimizer steps", type=_count, metavar="N")
    parser.add_argument(
        "--prepared",
        type=Path,
        metavar="DIR",
        help="cache preprocessed cases in this folder, for all runs and processes (default: in memory)",
    )
    group = parser.add_argument_group("computing", "Several devices need the extra 'fabric'.")
    group.add_argument(
        "--ahead",
        type=_whole,
        default=0,
        metavar="N",
        help="threads that draw the samples of the next steps (default: 0)",
    )
    group.add_argument("--batch", type=_count, metavar="N", help="samples a step of all devices (default: the study's)")
    _add_option(group, "accumulate", "gradient-accumulation steps", type=_count, metavar="K")
    _add_option(group, "devices", "processes, each on a device of its own", type=_count, metavar="N")
    group.add_argument("--accelerator", choices=ACCELERATORS, help="device type (default: this CPU)")
    _add_option(group, "precision", "training precision", choices=TRAINING_PRECISIONS)


def _distributed_context(args: argparse.Namespace, on_progress: OnProgress) -> DistributedContext:
    """This process's share of a training, by the options of `add_training`, with the other processes started."""
    from ..training.distributed import join_processes

    return join_processes(args.devices, args.accelerator, args.accumulate)


def _number(kind: type[int] | type[float], low: float, high: float, words: str) -> Callable[[str], float]:
    """The type of an option that is a number above `low` and at most `high`."""

    def read(text: str) -> float:
        with suppress(ValueError):  # of what is no number
            if low < (value := kind(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"must be {words}, got {text}")

    return read


_MAX = sys.float_info.max
_part = _number(float, 0, 1, "a number above 0 and at most 1")
_rate = _number(float, 0, _MAX, "a finite number above 0")
_whole = _number(int, -1, _MAX, "a whole number of 0 or more")
_count = _number(int, 0, _MAX, "a whole number of 1 or more")
