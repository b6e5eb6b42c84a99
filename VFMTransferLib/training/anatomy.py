"""From a recipe and a folder of cases to bundles: what `pretrain`, `finetune` and `make bundles` do.

A work folder keeps checkpoints; started again with the same recipe, a training goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bundles.bundle import Bundle, write_bundle
from ..bundles.onnx_export import export_onnx
from ..bundles.weights import read_weights, save_weights
from ..core.decoding import to_json
from ..core.errors import DatasetError
from ..core.terms import Arm, Label
from ..encoders.base import ModelSpec
from ..evaluation.gland import evaluate_gland, read_gland_mask
from ..io import read_case
from ..phantom import make_phantom
from .crossfit import cross_fit
from .dataset import TrainingCase, training_case
from .finetune import finetune, gland_examination
from .optimization import Progress, Run
from .pretrain import encoder_weights, pretrain
from .recipes import PhantomSource, Recipe
from .record import training_card
from .samples import ViewLesson

ENCODER = "encoder.safetensors"
VERSION = "1.0.0"
_ZONE_VALUES = {Label.PERIPHERAL_ZONE: 1, Label.TRANSITION_ZONE: 2}


def pretrain_encoder(recipe: Recipe, data: Path, work: Path, on_progress: Progress | None = None) -> Path:
    """Pretrain the recipe's encoder.

    Args:
        recipe: The recipe.
        data: Folder with a folder of images for each case of the split.
        work: Where checkpoints and the encoder go.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        The file of the encoder's weights.

    Raises:
        DatasetError: A case is missing.
        CheckpointError: `work` holds a checkpoint of another recipe.
    """
    cases = read_training_cases(data, recipe.split.train, recipe.model)
    phantoms = phantom_cases(recipe.phantoms, recipe.model)
    run = pretrain(recipe.pretrain_config, cases, work / "pretrain", phantoms=phantoms, on_progress=on_progress)
    path = work / ENCODER
    encoder = torch.nn.Module()
    for name, tensor in encoder_weights(run).items():
        _put(encoder, name, tensor)
    save_weights(encoder, path)
    return path


def _put(module: torch.nn.Module, name: str, tensor: Tensor) -> None:
    """Hang a tensor into a tree of empty modules under its dotted name."""
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in dict(module.named_children()):
            module.add_module(parent, torch.nn.Module())
        module = module.get_submodule(parent)
    module.register_buffer(last, tensor)


def finetune_arm(
    recipe: Recipe,
    arm: Arm,
    data: Path,
    work: Path,
    *,
    encoder: Path | None = None,
    on_progress: Progress | None = None,
) -> Run:
    """Cross-fit the labels, unless `work` holds that already, and fine-tune one arm.

    Args:
        recipe: The recipe.
        arm: Which arm.
        data: Folder with a folder of images and masks for each case of the split.
        work: Where checkpoints go; both arms share the cross-fitted labels in it.
        encoder: The pretrained encoder's weights, for the pretrained arm.
        on_progress: Called with a line of text and the part that is done.

    Raises:
        DatasetError: A case or its mask is missing.
        CheckpointError: `work` holds a checkpoint of another recipe.
    """
    config = recipe.finetune_config
    names = [*recipe.split.train, *recipe.split.validation, *recipe.split.test]
    cases: Mapping[str, TrainingCase] = read_training_cases(data, names, recipe.model, recipe.labels)
    phantoms = phantom_cases(recipe.phantoms, recipe.model)
    cases = cross_fit(recipe.crossfit, config, cases, work / "crossfit", phantoms=phantoms, on_progress=on_progress)
    start = None if encoder is None else read_weights(encoder)
    measured = {name: cases[name] for name in (*recipe.split.validation, *recipe.split.test)}
    return finetune(
        config,
        arm,
        {name: ViewLesson(case, recipe.model.preprocess) for name, case in cases.items()},
        work / arm,
        encoder=start,
        phantoms=[ViewLesson(phantom, recipe.model.preprocess) for phantom in phantoms],
        examine=gland_examination(measured, recipe.model),
        on_progress=on_progress,
    )


def write_arm(recipe: Recipe, arm: Arm, run: Run, data: Path, folder: Path, *, remarks: Sequence[str] = ()) -> Bundle:
    """Write a finished arm as a bundle `<name>-<arm>`, with its ONNX graph, measurements and model card.

    Args:
        recipe: The recipe.
        arm: Which arm.
        run: The finished training; its averaged weights are written, as fp16.
        data: Folder with the cases that the recipe's evaluation names.
        folder: Where the bundle's folder goes.
        remarks: What of this run was not as the recipe says, for record and card.
    """
    name = f"{recipe.name}-{arm}"
    bundle = Bundle(
        folder=folder / name,
        name=name,
        title=f"{recipe.title}, {_ARM_TITLES[arm]}",
        version=VERSION,
        spec=recipe.model,
        arm=arm,
        training={
            "recipe": recipe_record(recipe),
            "steps": run.step,
            "history": run.history,
            "remarks": list(remarks),
        },
        license=recipe.license,
        demonstration=True,
        description=_DESCRIPTIONS[arm],
    )
    written = export_onnx(write_bundle(bundle, run.average, half=True, overwrite=True))
    if not recipe.evaluation.cases:
        return written
    # Measured as a user would run it: the bundle that was just written, through `predict`.
    cases = evaluate_gland(written, data, recipe.evaluation.cases, recipe.evaluation.references)
    measured = replace(bundle, metrics={"cases": cases, "notes": list(recipe.evaluation.notes)})
    card = training_card(measured, recipe)
    return export_onnx(write_bundle(measured, run.average, half=True, overwrite=True, card=card))


_ARM_TITLES = {Arm.PRETRAINED: "pretrained", Arm.SCRATCH: "from scratch"}
_DESCRIPTIONS = {
    Arm.PRETRAINED: "Segments the prostate on T2w MRI. Its encoder was pretrained as a masked autoencoder, then "
    "the network was fine-tuned.",
    Arm.SCRATCH: "Segments the prostate on T2w MRI. Fine-tuned from random weights: the pretrained twin's control.",
}


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """The recipe for the record, without the network, which the bundle states itself."""
    document = to_json(recipe)
    del document["model"]
    return document


def read_training_cases(
    data: Path, names: Sequence[str], spec: ModelSpec, labels: str | None = None
) -> dict[str, TrainingCase]:
    """Read cases, each a folder in `data`, with the mask of the prostate where `labels` names its file.

    Raises:
        DatasetError: A case or its mask is missing.
    """
    lacking = [name for name in names if not (data / name).is_dir()]
    if lacking:
        raise DatasetError(f"The folder must hold all cases of the split, but lacks {', '.join(lacking)}. Add them.")
    cases = {}
    for name in names:
        case = read_case(data / name, sequences=[s for s in spec.preprocess.sequences if s is not None])
        mask = None if labels is None else read_gland_mask(data / name, labels)
        if labels is not None and mask is None:
            raise DatasetError(
                f"Case '{name}' must have a mask {labels}, but has none. Draw one, or leave the case out."
            )
        cases[name] = training_case(case, spec, None if mask is None else {Label.PROSTATE: mask})
    return cases


def phantom_cases(source: PhantomSource, spec: ModelSpec) -> list[TrainingCase]:
    """The recipe's phantoms, with their exact zones."""
    sequences = [sequence for sequence in spec.preprocess.sequences if sequence is not None]
    cases = []
    for seed in range(source.count):
        phantom = make_phantom(seed, sequences=sequences, t2w_spacing_mm=source.t2w_spacing_mm)
        zones = {label: phantom.zones.with_array(phantom.zones.array == value) for label, value in _ZONE_VALUES.items()}
        cases.append(training_case(phantom.case, spec, {Label.PROSTATE: phantom.gland, **zones}))
    return cases
