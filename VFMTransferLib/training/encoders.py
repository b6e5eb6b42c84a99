"""From cases to a bundle that fine-tuning starts from: the pretrainings of the study.

A work folder keeps checkpoints; started again with the same settings, a pretraining goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..bundles.bundle import Bundle, write_bundle
from ..bundles.onnx_export import export_onnx
from ..core.case import Case
from ..core.errors import DatasetError
from ..core.terms import TaskId
from ..encoders.base import ModelSpec
from ..encoders.demonstration import demonstration, demonstration_encoder
from ..encoders.network import build_network
from ..encoders.weights import encoder_weights, load_encoder
from ..tasks.truth import StudyCase, class_map
from .augmentation import Augmentation
from .contrastive import ContrastConfig, pretrain_contrast
from .dataset import TrainingCase, training_case
from .distributed import Division
from .optimization import Progress, Run, Schedule
from .pretrain import PretrainConfig, pretrain
from .pretrain import encoder_weights as masked_encoder_weights
from .record import VERSION, checkpoints, course, draws_of, recorded
from .slices import SliceCase, slice_case


@dataclass(frozen=True)
class Pretraining:
    """How an encoder is pretrained.

    Attributes:
        steps: Optimizer steps.
        data: What the cases are, for the record.
        seed: Of weights, order, views and hidden cubes.
        spec: The network; the demonstration's by default.
        batch: Samples a step, each of which then draws for itself; the objective's own number by default.
        precision: As `Schedule`.
    """

    steps: int
    data: str
    seed: int = 0
    spec: ModelSpec | None = None
    batch: int | None = None
    precision: str = "float32"


def pretrain_masked(
    images: Iterable[Case],
    folder: Path,
    settings: Pretraining,
    *,
    division: Division | None = None,
    on_progress: Progress | None = None,
) -> Bundle:
    """Pretrain ProFound's encoder as a masked autoencoder, to a bundle.

    Args:
        images: Cases; a sequence that one lacks is a channel of zeros.
        folder: The bundle's folder; checkpoints go beside it.
        settings: How; its network is an encoder, the demonstration's by default, and its batch one view.
        division: This process's share of each batch; all of it by default.
        on_progress: Called with a line of text and the part that is done.

    Returns:
        The bundle, which the first of several processes has written.
    """
    spec = demonstration_encoder() if settings.spec is None else settings.spec
    cases: dict[str, TrainingCase] = {case.id: training_case(case, spec_for_views(spec)) for case in images}
    config = PretrainConfig(
        model=spec,
        cases=tuple(cases),
        schedule=_schedule(settings),
        augmentation=Augmentation(),
        seed=settings.seed,
        hidden=0.6,
        decoder_width=64,
        phantom_share=0.0,
        batch=settings.batch or 1,
        draws=draws_of(settings.batch),
    )
    run = pretrain(config, cases, checkpoints(folder), division=division, on_progress=on_progress)
    record = {"objective": "mae", "data": settings.data, "config": recorded(config)}
    return _write_start(spec, masked_encoder_weights(run), run, folder, record)


def pretrain_by_contrast(
    studies: Iterable[StudyCase],
    folder: Path,
    settings: Pretraining,
    *,
    division: Division | None = None,
    on_progress: Progress | None = None,
) -> Bundle:
    """Pretrain ProViCNet's encoders by patch-level contrast of tissues, to a bundle.

    Args:
        studies: Cases of lesion segmentation, whose gland is known too; otherwise as for `pretrain_masked`.
        folder, division, on_progress: As there.
        settings: How; its network is one of lesion segmentation, the demonstration's by default, and its batch eight
            slices.

    Returns:
        As there.

    Raises:
        DatasetError: A case has no mask of the prostate.
    """
    spec = demonstration("provicnet", TaskId.LESION_SEGMENTATION) if settings.spec is None else settings.spec
    cases = [_tissues(study, spec) for study in studies]
    config = ContrastConfig(
        spec,
        _schedule(settings),
        Augmentation(),
        settings.seed,
        batch=settings.batch or 8,
        drop_path=0.1,
        draws=draws_of(settings.batch),
    )
    run = pretrain_contrast(config, cases, checkpoints(folder), division=division, on_progress=on_progress)
    names = [case.id for case in cases]
    record = {"objective": "contrast", "data": settings.data, "cases": names, "config": recorded(config)}
    return _write_start(spec, run.average, run, folder, record)


def _schedule(settings: Pretraining) -> Schedule:
    return Schedule(
        settings.steps,
        learning_rate=1e-3,
        precision=settings.precision,
        checkpoint_every=min(settings.steps, 50),
    )


def _tissues(study: StudyCase, spec: ModelSpec) -> SliceCase:
    if study.gland is None:
        raise DatasetError(f"Case '{study.case.id}' must have a mask of the prostate for contrast, but has none.")
    return slice_case(study.case, spec, study.gland, class_map(study, spec))


def spec_for_views(encoder: ModelSpec) -> ModelSpec:
    """An encoder's specification with a task, which says that T2w is the grid's sequence."""
    return replace(encoder, task=TaskId.LESION_SEGMENTATION)


def _write_start(
    spec: ModelSpec, weights: Mapping[str, Tensor], run: Run, folder: Path, record: dict[str, Any]
) -> Bundle:
    """Write a pretrained network, in the first process; that its encoders can be loaded is tried first."""
    load_encoder(build_network(spec), spec, encoder_weights(weights, spec))
    bundle = Bundle(
        folder=folder,
        name=folder.name,
        title=f"{spec.title}, {record['objective']}",
        version=VERSION,
        spec=spec,
        training={**record, **course(run)},
        license="Apache-2.0" if record["data"].endswith("phantoms") else "unknown",
        demonstration=True,
        description="A starting point for fine-tuning.",
    )
    if not run.division.is_first:
        return bundle
    return export_onnx(write_bundle(bundle, weights, half=False, overwrite=True))
