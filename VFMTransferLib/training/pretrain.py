"""Pretraining: a pretext task learned from cases, to a bundle that fine-tuning starts from.

The pretext task states what is learned (`encoders`); cases, random views, loop and bundle are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ..bundles.bundle import Bundle, write_bundle
from ..bundles.onnx_export import export_onnx
from ..core.case import Case
from ..core.decoding import to_json
from ..core.errors import DatasetError
from ..core.terms import OnProgress
from ..encoders import build_network
from ..encoders.pretext import TISSUES, PretextTask, View
from ..encoders.weights import encoder_weights, load_encoder
from ..phantom import Phantom
from ..tasks import lesion_task
from ..tasks.base import LabeledCase
from ..tasks.lesions import class_map
from .cases import LazyCase
from .config import Augmentation, TrainConfig
from .distributed import DistributedContext
from .loop import BUNDLE_VERSION, CHECKPOINT, Run, choose_case, draw_samples, part_seed, run_identity
from .sample_cache import cache_path, shown_identity, stored
from .samples import CropSamples, SliceSamples, TissueSamples, crop_samples, slice_samples, tissue_samples

Shown = Case | LabeledCase | Phantom
PretrainSamples = CropSamples | SliceSamples | TissueSamples
# A random view of a case.
RandomView = Callable[[Generator], View]


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides what pretraining yields, but for the cases."""

    pretext: PretextTask
    train: TrainConfig

    @property
    def batch(self) -> int:
        return self.train.batch or self.pretext.batch

    @property
    def augmentation(self) -> Augmentation:
        return self.train.augmentation or Augmentation()

    @property
    def document(self) -> dict[str, Any]:
        """All of it but the network for JSON, defaults filled in, for records and checkpoints."""
        train = replace(self.train, batch=self.batch, augmentation=self.augmentation)
        pretext = to_json(self.pretext)
        del pretext["spec"]
        return {"pretext": pretext, **to_json(train)}


def pretrain(
    config: PretrainConfig,
    cases: Iterable[Shown | LazyCase[Any]],
    folder: Path,
    *,
    phantoms: Iterable[Shown | LazyCase[Any]] = (),
    prepared: Path | None = None,
    prefetch: int = 0,
    data: Mapping[str, Any] | None = None,
    context: DistributedContext | None = None,
    on_progress: OnProgress | None = None,
) -> Run:
    """Learn a pretext task, or go on from the checkpoint in `folder`; arguments and errors as of `finetune`.

    A sequence that a case lacks is a channel of zeros, but not for networks of slices. A pretext task of tissues takes
    cases of lesion segmentation whose gland is known, or phantoms; one of tissue maps takes phantoms that have them.
    `config.pretext.pretrained(run.average)` starts fine-tuning.
    """
    pretext, train, found = config.pretext, config.train, list(cases)
    if not found:
        raise DatasetError("Pretraining needs at least one case, got none.")
    shown: list[RandomView] = []
    for number, case in enumerate(found, start=1):
        shown.append(_view_of(case, config, prepared))
        if on_progress is not None and isinstance(case, LazyCase) and prepared is None:
            on_progress(f"case {number} of {len(found)}", number / len(found))
    mixed_in = [_view_of(case, config, prepared) for case in phantoms]
    torch.manual_seed(train.seed)
    run = Run.start(pretext.build(), train, pretext.loss, context)

    def batches(step: int) -> list[tuple[Any, ...]]:
        def sample(number: int, generator: Generator) -> tuple[Tensor, ...]:
            view = choose_case(step * config.batch + number, train.seed, shown, mixed_in, train.phantom_share)
            return pretext.sample(view(generator), generator)

        parts: list[tuple[Any, ...]] = []
        samples = draw_samples(run.context, config.batch, train.seed, step, sample)
        for part, some in enumerate(samples, start=run.context.first_part):
            generator = Generator().manual_seed(part_seed(train.seed, step, part))
            parts.append((generator, *(torch.stack(kind) for kind in zip(*some, strict=True))))
        return parts

    document = [config.document, pretext.spec, pretext.version, [_id_of(case) for case in found], data]
    run.train(
        folder / CHECKPOINT,
        run_identity(document, run.context, {}),
        batches,
        measure=lambda losses: {"loss": sum(losses) / len(losses)},
        measure_every=train.checkpoint_every,
        prefetch=prefetch,
        on_progress=on_progress,
    )
    return run


def write_pretrained(
    config: PretrainConfig,
    run: Run,
    folder: Path,
    *,
    data: str,
    cases: Iterable[Shown | LazyCase[Any]],
    license: str = "unknown",
) -> Bundle:
    """Write a finished pretraining as a bundle, in the first process; that its encoders can be loaded is tried first.

    `folder.name` is the bundle's; `data` states for the record what the cases are; `license` is the weights'.
    """
    pretext, spec = config.pretext, config.pretext.spec
    weights: dict[str, Tensor] = pretext.pretrained(run.average)
    load_encoder(build_network(spec), spec, encoder_weights(weights, spec))
    names = [_id_of(case) for case in cases]
    bundle = Bundle(
        folder=folder,
        name=folder.name,
        title=f"{spec.title}, {pretext.name}",
        version=BUNDLE_VERSION,
        spec=spec,
        training={"pretext": pretext.name, "data": data, "cases": names, "config": config.document, **run.record},
        license=license,
        demonstration=True,
        description="A starting point for fine-tuning.",
    )
    if not run.context.is_first:
        return bundle
    return export_onnx(write_bundle(bundle, weights, half=False, overwrite=True))


def _case_of(case: Shown) -> Case:
    return case if isinstance(case, Case) else case.case


def _id_of(case: Shown | LazyCase[Any]) -> str:
    return case.id if isinstance(case, LazyCase) else _case_of(case).id


def _view_of(case: Shown | LazyCase[Any], config: PretrainConfig, prepared: Path | None) -> RandomView:
    """Random views of a case: of a network of slices one slice, of others the crop of prediction."""
    if prepared is None:
        samples = _samples(case.read() if isinstance(case, LazyCase) else case, config)
        return lambda generator: _view(samples, config, generator)
    pretext = config.pretext
    identity = case.identity if isinstance(case, LazyCase) else shown_identity(case)
    kind = f"pretraining {pretext.needs_maps} {pretext.needs_tissues} {identity}"
    path = cache_path(prepared, kind, pretext.spec)

    def make() -> PretrainSamples:
        return _samples(case.read() if isinstance(case, LazyCase) else case, config)

    return lambda generator: _view(stored(path, pretext.spec, make), config, generator)


def _view(samples: PretrainSamples, config: PretrainConfig, generator: Generator) -> View:
    how = config.augmentation
    if isinstance(samples, TissueSamples):
        return View(*samples.view(generator, how))
    if isinstance(samples, SliceSamples):
        windows, position, maps = samples.view(generator, how)
        return View(windows, position, maps[0].long() if len(samples.maps) else None)
    image, shares = samples.view(generator, how)
    if shares is None:
        return View(image)
    background = (1 - shares.sum(dim=0, keepdim=True)).clamp_min(0)
    return View(image, tissues=torch.cat([background, shares]).argmax(dim=0))


def _samples(case: Shown, config: PretrainConfig) -> PretrainSamples:
    """What views of a case are sampled from."""
    pretext, spec, images = config.pretext, config.pretext.spec, _case_of(case)
    if pretext.needs_maps:
        if not isinstance(case, Phantom):
            raise DatasetError(
                f"Pretext task {pretext.name} needs phantoms; the tissue of '{images.id}' is not known. Leave it out."
            )
        return tissue_samples(case, spec)
    if isinstance(case, Phantom):
        case = lesion_task().from_phantom(case)
    labeled = case if isinstance(case, LabeledCase) else None
    if pretext.needs_tissues and (labeled is None or labeled.gland is None):
        raise DatasetError(
            f"Case '{images.id}' lacks masks of prostate and lesions for pretext task {pretext.name}. Add them, or "
            "leave the case out."
        )
    if not spec.is_slice_based:
        masks = []
        if pretext.needs_tissues and labeled is not None:
            classes = class_map(labeled, TISSUES)
            masks = [classes.with_array(classes.array == number) for number in range(1, len(TISSUES))]
        return crop_samples(images, spec, masks)
    tissues = class_map(labeled, spec.labels) if labeled is not None and pretext.needs_tissues else None
    return slice_samples(images, spec, None if labeled is None else labeled.gland, tissues)
