"""`vfm-transfer finetune`: one arm of the study, to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..core.terms import Arm
from ..tasks import TASKS
from .shared import (
    Commands,
    add_command,
    add_computing,
    add_output,
    distributed_context,
    progress_lines,
    require_default_computing,
)

SCRATCH, PHANTOMS = "scratch", "phantoms"
_EPILOG = (
    "With --recipe the first argument is the folder of cases and --arm names the arm. The pretrained one starts from "
    "--init, a bundle that pretrain wrote, or from --encoder, the file that pretrain wrote by the same recipe. This is "
    "how the shipped pairs were made."
)


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "finetune", "Fine-tune one arm, pretrained or from scratch, and write its bundle")
    parser.epilog = _EPILOG
    parser.add_argument("what", metavar="TASK", help=f"{', '.join(TASKS)}; with --recipe the folder of cases")
    parser.add_argument("--encoder", metavar="E", help="a family, such as profound or provicnet; with --recipe a file")
    parser.add_argument("--init", metavar="B", help=f"the one switch between the arms: a bundle, or {SCRATCH}")
    add_study_data(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of head, order and samples (default: 0)")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="optimizer steps (default: 400)")
    parser.add_argument("--license", default="unknown", metavar="L", help="of the weights (default: unknown)")
    add_computing(parser)
    recipe = parser.add_argument_group("by a recipe")
    recipe.add_argument("--recipe", type=Path, metavar="JSON", help="network, split, schedules, seed")
    recipe.add_argument("--arm", choices=[str(arm) for arm in Arm], help="which arm")
    add_output(parser, "folder of the bundle (by a recipe: of bundle and checkpoints); a stopped run goes on there")
    parser.set_defaults(run=run)


def add_study_data(parser: argparse.ArgumentParser) -> None:
    """Where study cases come from."""
    group = parser.add_argument_group("cases")
    group.add_argument(
        "--data", default=PHANTOMS, metavar="D", help=f"folder with a folder for each case, or {PHANTOMS} (default)"
    )
    group.add_argument("--phantoms", type=int, default=24, metavar="N", help="how many phantoms (default: 24)")
    group.add_argument("--validation", type=int, default=6, metavar="N", help="phantoms that validate (default: 6)")
    group.add_argument("--gland", default="gland", metavar="STEM", help="file name of the masks of the prostate")


def run(args: argparse.Namespace) -> None:
    if args.recipe is not None:
        _by_recipe(args)
    else:
        _study(args)


def _study(args: argparse.Namespace) -> None:
    if args.what not in TASKS:
        args.parser.error(f"TASK must be one of {', '.join(TASKS)}, got '{args.what}'")
    from ..encoders import pretrained_families

    families = pretrained_families()
    if args.encoder not in families or args.init is None or args.arm is not None:
        args.parser.error(f"--encoder must be {' or '.join(families)}, and --init a bundle or {SCRATCH}; no --arm")
    from ..bundles.catalog import find_bundle
    from ..training.cases import folder_studies, phantom_studies
    from ..training.finetune import Initialization, finetune, finetune_config, write_arm
    from ..training.loop import checkpoint_folder

    task = args.what
    init = None if args.init == SCRATCH else Initialization.from_bundle(find_bundle(args.init))
    with progress_lines() as on_progress:
        how = distributed_context(args, on_progress)
        if args.data == PHANTOMS:
            dataset = phantom_studies(task, args.phantoms, args.validation, on_progress=on_progress)
        else:
            dataset = folder_studies(Path(args.data), task, gland=args.gland, seed=args.seed)
        config = finetune_config(
            args.encoder,
            task,
            dataset.split,
            steps=args.steps,
            seed=args.seed,
            encoder=None if init is None else init.spec,
            batch=args.batch,
            precision=args.precision,
        )
        work = checkpoint_folder(args.output)
        trained = finetune(config, dataset, work, init=init, context=how, on_progress=on_progress)
        if not how.is_first:
            return
        data = f"{args.phantoms} {PHANTOMS}" if args.data == PHANTOMS else Path(args.data).name
        license = "Apache-2.0" if args.data == PHANTOMS and args.license == "unknown" else args.license
        bundle = write_arm(config, trained, dataset, args.output, data=data, init=init, license=license)
    print(f"{bundle.name}\n{bundle.folder}")


def _by_recipe(args: argparse.Namespace) -> None:
    if args.arm is None:
        args.parser.error("--recipe needs --arm")
    require_default_computing(args)
    arm = Arm(args.arm)
    named = args.init not in (None, SCRATCH), args.encoder is not None
    if sum(named) != (arm is Arm.PRETRAINED):
        args.parser.error("--arm pretrained needs either --init, a bundle, or --encoder, a file; --arm scratch neither")
    from ..bundles.catalog import find_bundle
    from ..training.finetune import Initialization
    from ..training.recipes import read_recipe, recipe_data, train_arm

    recipe, init = read_recipe(args.recipe), None
    if arm is Arm.PRETRAINED:
        from_bundle = args.encoder is None
        init = (
            Initialization.from_bundle(find_bundle(args.init))
            if from_bundle
            else Initialization.from_file(Path(args.encoder))
        )
    with progress_lines() as on_progress:
        data = recipe_data(recipe, Path(args.what), args.output, on_progress)
        bundle = train_arm(recipe, data, arm, args.output, init, on_progress)
    print(f"{bundle.name}\n{bundle.folder}")
