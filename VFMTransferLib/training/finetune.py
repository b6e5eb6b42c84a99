"""Fine-tuning: one arm of one task, from cases with their truth to a bundle with what was measured.

The arms differ in the encoders' initial weights and in nothing else: the head starts from the same seed, and each step
shows both the same samples of the same cases at the same learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..bundles.bundle import Bundle, write_bundle
from ..bundles.onnx_export import export_onnx
from ..bundles.weights import bundle_encoder_weights, read_weights
from ..core.decoding import to_json
from ..core.errors import BundleError, DatasetError
from ..core.files import file_sha256
from ..core.result import Provenance, Result
from ..core.terms import Arm, OnProgress
from ..encoders import build_network, find_family
from ..encoders.base import ModelSpec, family_of
from ..encoders.weights import encoder_parameters, load_encoder
from ..inference.windows import infer
from ..layers.convolutions import accelerate
from ..tasks import TASKS, Scores, score_case, score_results, task_of
from ..tasks.base import DecodeOptions, LabeledCase, Method, NetworkOutput, finite
from ..tasks.training import Objective, Sample, collate
from .cases import LabeledDataset, LazyCase, Split
from .config import Augmentation, TrainConfig
from .distributed import DistributedContext
from .loop import BUNDLE_VERSION, CHECKPOINT, Run, choose_case, draw_samples, run_identity
from .sample_cache import case_identity, case_samples
from .samples import prepare_labeled

SCORE = "score"  # the task's primary measure in a run's history
_ARM_TITLES = {Arm.PRETRAINED: "pretrained", Arm.SCRATCH: "from scratch"}
# Of image tasks the truth is the image's look, which must not be varied but in level.
_IMAGE_AUGMENTATION = Augmentation(thick=0.0, coarse=0.0, noise=0.0, level=0.1)
_SOURCE = Provenance("in-training", "in training", "", "", "torch", "cpu", "fp32")


_AS_IT_IS = DecodeOptions()


def results_of(
    network: nn.Module, spec: ModelSpec, cases: Iterable[LabeledCase], fitted: DecodeOptions = _AS_IT_IS
) -> Iterator[tuple[Result, LabeledCase]]:
    """Each result, by a network in evaluation mode and as a user predicts, with its case.

    A case is read when its turn comes, and none is held. `fitted` holds what was fitted to the network's output.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))

    def run(*arrays: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(*(torch.from_numpy(array).to(device) for array in arrays)).float().cpu().numpy()

    for case in cases:
        prepared = prepare_labeled(case, spec)
        logits = infer(run, prepared, spec)
        options = replace(fitted, phase_axis=case.phase_axis, gland=case.gland)
        output = NetworkOutput(logits, prepared, case.case, spec, _SOURCE, options)
        yield task_of(spec).decode(output), case


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what fine-tuning yields, but for the cases and the initialization."""

    model: ModelSpec
    split: Split  # cases that do not train choose nothing
    train: TrainConfig

    @property
    def batch(self) -> int:
        return self.train.batch or family_of(self.model).batch_size(self.model)

    @property
    def augmentation(self) -> Augmentation:
        default = _IMAGE_AUGMENTATION if task_of(self.model).output.gives_images else Augmentation()
        return self.train.augmentation or default

    @property
    def drop_path(self) -> float:
        return task_of(self.model).drop_path if self.train.drop_path is None else self.train.drop_path

    @property
    def measure_every(self) -> int:
        return self.train.measure_every or max(self.train.steps // 10, 1)

    @property
    def document(self) -> dict[str, Any]:
        """All of it but the model for JSON, defaults filled in, for records and checkpoints."""
        filled = {name: getattr(self, name) for name in ("batch", "augmentation", "drop_path", "measure_every")}
        return to_json({"split": self.split} | vars(replace(self.train, **filled)))


def network_to_train(family: str, task: str, encoder: ModelSpec | None = None) -> ModelSpec:
    """A family's network for a task, at the demonstration's size or with the encoder of a pretrained network.

    Raises:
        BundleError: The `encoder` is of another family.
    """
    spec = find_family(family).network_for(TASKS[task])
    if encoder is None:
        return spec
    if (found := family_of(encoder).name) != family:
        raise BundleError(
            f"{encoder.title} has an encoder of {found}, which cannot initialize {family}. Choose a bundle that was "
            f"pretrained for {family}, or train {found}."
        )
    return replace(spec, encoder=encoder.encoder)


@dataclass(frozen=True)
class Initialization:
    """Pretrained encoders (`encoders.weights.encoder_weights`), from which the pretrained arm starts.

    `record` states where they come from, and `spec` the network that was pretrained, where it is known; `cases` are
    those that they were learned from, `Bundle.learned_from`.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    record: Mapping[str, Any] = field(default_factory=dict)
    spec: ModelSpec | None = None
    cases: frozenset[str] = frozenset()

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Initialization:
        """The encoders of a bundle; BundleError where its weights cannot be read, or differ from its checksum."""
        cases = bundle.learned_from
        record: dict[str, Any] = {"bundle": bundle.name, "sha256": bundle.weights_sha256}
        record |= {"cases": sorted(cases)} if cases else {}
        return cls(bundle_encoder_weights(bundle), record, bundle.spec, cases)

    @classmethod
    def from_file(cls, path: Path) -> Initialization:
        """An encoder's own weights, as `pretrain --recipe` writes them; BundleError where the file cannot be read."""
        return cls(read_weights(path), {"file": path.name, "sha256": file_sha256(path)})


def finetune(
    config: FinetuneConfig,
    dataset: LabeledDataset,
    folder: Path,
    *,
    init: Initialization | None = None,
    phantoms: Iterable[LabeledCase | LazyCase[LabeledCase]] = (),
    prepared: Path | None = None,
    prefetch: int = 0,
    data: Mapping[str, Any] | None = None,
    context: DistributedContext | None = None,
    on_progress: OnProgress | None = None,
) -> Run:
    """Fine-tune one arm, or go on from the checkpoint in `folder`; the scratch arm has no `init`.

    The run's `average` holds the weights to ship, and its history the validation cases' scores, the primary one as
    `score`. They choose nothing but, with patience, when it ends; the first process measures.

    Args:
        phantoms: Mixed into `phantom_share` of the samples.
        prepared: Folder of a cache on disk that many runs may share; each case is prepared when it is first shown.
        prefetch: Threads that draw the samples of the next steps.
        data: States in JSON what decides the cases beside their names, as the masks; a checkpoint that states other
            data is refused. Of cases in memory it is by default a checksum of them.

    Raises:
        DatasetError: A case is missing or lacks what its task needs, one that tests is among those that the
            initialization was learned from, no case validates where there is patience, or as of `require_batch`.
        CheckpointError: The initialization has another encoder, or the folder a checkpoint of another configuration or
            of other data.
    """
    train, context = config.train, context or DistributedContext()
    _require_split(config, dataset, init)
    require_batch(config, context)
    if data is None and isinstance(dataset.cases, dict):
        data = {"cases": [case_identity(dataset.cases[n]) for n in (*config.split.train, *config.split.validation)]}
    samples = [case_samples(dataset.lazy(name), config.model, prepared) for name in config.split.train]
    mixed_in = [case_samples(case, config.model, prepared) for case in phantoms]
    validation = dataset.select(config.split.validation if context.is_first else ())
    for case in validation:
        prepare_labeled(case, config.model)  # one that is unfit is an error now, and not after hours
    objective = Objective.balanced(config.model, (one.category for one in (*samples, *mixed_in)))
    run = start_run(config, initial_network(config, init), objective, context)

    def batches(step: int) -> list[tuple[Any, ...]]:
        def sample(number: int, generator: Generator) -> Sample:
            place = step * config.batch + number
            case = choose_case(place, train.seed, samples, mixed_in, train.phantom_share)
            return case.sample(generator, config.augmentation)

        return [(collate(part),) for part in draw_samples(context, config.batch, train.seed, step, sample)]

    def measure(losses: list[float]) -> dict[str, float]:
        if not validation:
            return {"loss": losses[-1]}
        network = averaged_network(run, config.model).to(context.device)
        scores = score_results(str(config.model.task), results_of(network, config.model, validation))
        return {"loss": losses[-1], **finite({SCORE: scores.primary, **scores.cohort})}

    sign = 1.0 if task_of(config.model).higher_is_better else -1.0
    arm, weights = (Arm.SCRATCH, {}) if init is None else (Arm.PRETRAINED, init.weights)
    run.train(
        folder / CHECKPOINT,
        run_identity([config.model, config.document, arm, data], context, weights),
        batches,
        measure=measure,
        measure_every=config.measure_every,
        score=lambda entry: sign * entry.get(SCORE, math.nan),
        prefetch=prefetch,
        on_progress=on_progress,
    )
    return run


def _require_split(config: FinetuneConfig, dataset: LabeledDataset, init: Initialization | None) -> None:
    """DatasetError as of `finetune` for what is wrong with a split."""
    if lacking := sorted(set(config.split.train) - set(dataset.cases)):
        raise DatasetError(f"Cases of the split are missing in the dataset: {', '.join(lacking)}. Add them.")
    if known := sorted(set(config.split.test) & init.cases if init is not None else ()):
        raise DatasetError(
            f"The pretrained encoder was learned from test cases: {', '.join(known)}. Start from a pretraining without "
            "them, or leave them out of the test."
        )
    if config.train.patience is not None and not config.split.validation:
        raise DatasetError("A training with patience has no validation cases. Add some, or leave patience out.")


def require_batch(config: FinetuneConfig, context: DistributedContext) -> None:
    """DatasetError where a step's samples cannot be distributed so, or a part is too small for batch normalization."""
    each = len(context.own_samples(config.batch)[0])
    # Of a network of slices each sample has several of them.
    if each < 2 and config.model.head.kind == "classifier" and not config.model.is_slice_based:
        raise DatasetError(
            f"{config.model.title} needs 2 or more samples at a time for its batch normalization, but a batch of "
            f"{config.batch} in {context.parts} gives {each}. Choose a larger --batch."
        )


def start_run(
    config: FinetuneConfig, network: nn.Module, objective: Objective, context: DistributedContext | None = None
) -> Run:
    """A fine-tuning of no step, whose encoder has its own rate where the configuration states one."""
    encoder = encoder_parameters(network, config.model)
    return Run.start(network, config.train, objective.loss, context, encoder)


def initial_network(config: FinetuneConfig, init: Initialization | None) -> nn.Module:
    """The network before its first step: all of it from the seed, then the encoders from pretraining.

    ValueError for a task-specific baseline with an initialization; CheckpointError where the encoders do not fit.
    """
    torch.manual_seed(config.train.seed)
    family, start = family_of(config.model), task_of(config.model).initial_output
    if init is not None and family.baseline_of:
        raise ValueError("A task-specific baseline has no pretraining. Train it from scratch.")
    network = family.build_for_training(config.model, config.drop_path, start)
    if init is not None:
        load_encoder(network, config.model, init.weights)
    return network


def averaged_network(run: Run, spec: ModelSpec) -> nn.Module:
    """The network with a run's averaged weights, in evaluation mode, and fast on processors."""
    network = accelerate(build_network(spec))
    network.load_state_dict(run.average)
    return network.eval()


def write_arm(
    config: FinetuneConfig,
    run: Run,
    dataset: LabeledDataset,
    folder: Path,
    *,
    data: str,
    init: Initialization | None,
    license: str,
    attribution: str = "",
    caveats: tuple[str, ...] = (),
    title: str | None = None,
    more_cases: Mapping[str, list[LabeledCase]] | None = None,
    card: Callable[[Bundle], str] | None = None,
) -> Bundle:
    """Write a finished arm's averaged weights (fp16) as a bundle with ONNX graph, record and scores of unseen cases.

    Args:
        folder: Its name is the bundle's.
        data: What the cases are, for the record.
        license: Of the weights, an SPDX identifier where there is one.
        attribution: Whose images and masks trained it.
        caveats: Sentences that each of its results bears.
        title: Of the bundle, before the arm; the network's by default.
        more_cases: Further cases to measure, by what they are.
        card: Writes its model card; the card of any bundle by default.
    """
    arm = Arm.SCRATCH if init is None else Arm.PRETRAINED
    spec, network = config.model, averaged_network(run, config.model)
    validation = dataset.select(config.split.validation)
    fitted = DecodeOptions(
        calibration=task_of(spec).fit_calibration(starmap(score_case, results_of(network, spec, validation))),
        operating_point=task_of(spec).fit_operating_point(results_of(network, spec, validation)),
    )
    parts: dict[str, Sequence[LabeledCase]] = {}
    for part, names in (("validation", config.split.validation), ("test", config.split.test)):
        is_phantom = {name: dataset.cases[name].is_phantom for name in names}
        phantoms, real = ([name for name in names if is_phantom[name] is kind] for kind in (True, False))
        if phantoms and real:
            parts |= {f"{part}, phantoms": dataset.select(phantoms), f"{part}, real cases": dataset.select(real)}
        elif names:
            parts[part] = dataset.select(names)
    parts |= more_cases or {}
    baseline: Method | DatasetError
    try:
        baseline = task_of(spec).naive_baseline(dataset.select(config.split.train))
    except DatasetError as error:
        baseline = error
    bundle = Bundle(
        folder=folder,
        name=folder.name,
        title=f"{title or spec.title}, {_ARM_TITLES[arm]}",
        version=BUNDLE_VERSION,
        spec=spec,
        arm=arm,
        training={
            "config": config.document,
            "data": data,
            **({"attribution": attribution} if attribution else {}),
            **run.record,
            "start": "scratch" if init is None else dict(init.record),
        },
        metrics={part: _measured(network, spec, cases, baseline, fitted) for part, cases in parts.items()},
        license=license,
        demonstration=True,
        description=f"{task_of(spec).title}. The study's arms differ in the encoder's initial weights only.",
        calibration=fitted.calibration,
        operating_point=fitted.operating_point,
        caveats=caveats,
    )
    text = None if card is None else card(bundle)
    return export_onnx(write_bundle(bundle, run.average, half=True, overwrite=True, card=text))


def _measured(
    network: nn.Module,
    spec: ModelSpec,
    cases: Sequence[LabeledCase],
    baseline: Method | DatasetError,
    fitted: DecodeOptions,
) -> dict[str, Any]:
    """Scores of a network, of its probabilities also before calibration, and of the task's naive baseline."""
    task = task_of(spec)
    found = _score_record(score_results(task.id, results_of(network, spec, cases, fitted)))
    if fitted.calibration is not None:
        plain = score_results(task.id, results_of(network, spec, cases)).cohort
        found["uncalibrated"] = finite({name: plain[name] for name in task.calibrated_measures if name in plain})
    try:
        if isinstance(baseline, DatasetError):
            raise baseline
        naive = _score_record(score_results(task.id, ((baseline(case), case) for case in cases)))
    except DatasetError as error:
        return {**found, "trivial": {"what": f"none: {error}"}}
    return {**found, "trivial": {"what": task.baseline, **naive}}


def _score_record(scores: Scores) -> dict[str, Any]:
    return {
        "cohort": finite(scores.cohort),
        "cases": {case.case_id: finite(case.values) for case in scores.cases},
    }
