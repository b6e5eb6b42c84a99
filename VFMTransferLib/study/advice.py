"""Which pretraining a fine-tuning should start from: every estimator on each of them, and what a study lets expect.

Advice estimates each candidate on a task's own training cases. The same estimators are tried on every encoder and task
of a finished study, with nothing but what was known before it: its configuration, pretrainings and training cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..bundles.bundle import Bundle, read_bundle
from ..bundles.catalog import find_bundle, list_bundles, shipped_folder
from ..bundles.metadata import METADATA
from ..bundles.weights import bundle_encoder_weights
from ..core.errors import DatasetError
from ..core.files import writing
from ..core.terms import OnProgress
from ..encoders.base import family_of
from ..encoders.weights import pretrained_network
from ..tasks import TASKS, lesion_task
from ..tasks.base import LabeledCase
from ..training.cases import StudySet, pretraining_phantoms
from ..training.finetune import FinetuneConfig, finetune_config
from .config import CONFIG, planned_runs, read_config
from .estimators import MAX_TRIAL_PARAMETERS, Candidate, estimate, evenly_chosen
from .features import ENCODER, encoder_features, feature_cases
from .forecast import (
    CHOSEN,
    CONSTANT,
    COVERAGE,
    ESTIMATES,
    EstimateRow,
    ExpectedGain,
    FinishedStudy,
    ForecastRow,
    SavedHours,
    gain_to_expect,
    hours_to_save,
    points_of,
    validate,
    write_forecast,
)
from .run import training_config
from .summary import SummaryRow, summarize
from .tables import RUNS, read_rows_if_any, read_tables, without_nan
from .workspace import Workspace, phantoms_of_pretraining, training_cases

SCRATCH = "scratch"
STEPS = 400  # of the fine-tuning that is asked about; only its learning rate and batch are used
PHANTOM_COUNT = 8  # of pretraining's phantoms, made again
_STUDY = "Study"
_LIMIT = (
    "Expected gain: relative performance gain over training from scratch (this project's own definition and forecast); "
    f"interval: {COVERAGE:.0%}, as wide as the errors on left-out tasks were."
)


@dataclass(frozen=True)
class PretrainedCheckpoint:
    """A pretraining that a fine-tuning could start from, and cases such as it was trained on, where they are at hand.

    They are of all sequences and with the gland, as cases of lesion segmentation.
    """

    bundle: Bundle
    cases: tuple[LabeledCase, ...] = ()


@dataclass(frozen=True)
class CandidateEstimate:
    """What a pretraining may be worth on a task; seen is the same encoder and task in the study, where it has them.

    The objective, as `mae`, is empty where the bundle does not state it; an estimator without a value has `nan`.
    """

    name: str
    encoder: str
    objective: str
    estimates: dict[str, float]
    gain: ExpectedGain
    hours: SavedHours
    seen: SummaryRow | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Advice:
    """The answer: recommended is a pretraining's name, `scratch`, or empty where nothing favors one."""

    task: str
    data: str
    n_cases: int
    candidates: tuple[CandidateEstimate, ...]
    recommended: str
    why: str
    trust: str
    forecasts: tuple[ForecastRow, ...] = field(default=())


def shipped_study() -> Path:
    """The folder of the study that comes with the product; it may not be there."""
    bundles = shipped_folder()
    return Path(_STUDY) if bundles is None else bundles.parent / _STUDY


def find_checkpoints(
    names: Iterable[str], study: Path, on_progress: OnProgress | None = None
) -> list[PretrainedCheckpoint]:
    """The pretrainings of some names or folders; by default those that are installed, and the study's own.

    DatasetError if there is none, BundleError if a name stands for no bundle.
    """
    bundles = [find_bundle(name) for name in names]
    if not bundles:  # those without a head that was trained: they name the pretext task of their pretraining
        own = sorted(folder for folder in study.glob("work/pretrained/*") if (folder / METADATA).is_file())
        bundles = [*(b for b in list_bundles() if b.arm is None and _pretext_of(b)), *map(read_bundle, own)]
    if not bundles:
        raise DatasetError(
            "Advice needs a pretraining, but none is installed. Make one with `vfm-transfer pretrain`, or "
            "name its folder with --pretrained."
        )
    of_phantoms = [str(bundle.training.get("data", "")).endswith("phantoms") for bundle in bundles]
    phantoms = pretraining_phantoms(PHANTOM_COUNT, on_progress) if any(of_phantoms) else []
    made = tuple(lesion_task().from_phantom(phantom) for phantom in phantoms)
    return [PretrainedCheckpoint(b, made if is_of else ()) for b, is_of in zip(bundles, of_phantoms, strict=True)]


def _pretext_of(bundle: Bundle) -> str:
    """The pretext task of a bundle's pretraining; earlier versions recorded it as `objective`. Empty without one."""
    return str(bundle.training.get("pretext", bundle.training.get("objective", "")))


def advise(
    task: str,
    studies: StudySet,
    checkpoints: Sequence[PretrainedCheckpoint],
    finished: FinishedStudy,
    *,
    data: str,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Advice:
    """Which pretraining suits a task on these cases; only those that train are used, and of many of them some.

    Raises:
        DatasetError: There is no pretraining, or there are no cases.
        BundleError, CheckpointError: A pretraining cannot be read, or has no encoder for the task.
    """
    if not checkpoints or not studies.split.train:
        raise DatasetError("Advice needs at least one pretraining and one training case.")
    cases = evenly_chosen(studies.of(studies.split.train))
    width_mm = finished.around_gland_mm
    if width_mm is not None:  # cut as the study's were, so that estimates compare
        cases = [case if case.gland is None else TASKS[case.task].around_gland(case, width_mm) for case in cases]
    found = []
    for number, checkpoint in enumerate(checkpoints):
        bundle, family = checkpoint.bundle, checkpoint.bundle.spec.family
        config = finetune_config(family, task, studies.split, steps=STEPS, seed=seed, encoder=bundle.spec)
        candidate = _candidate(checkpoint, config, cases)
        progress = _part(on_progress, number, len(checkpoints))
        estimates = {row.estimator: row.value for row in estimate(candidate, family, progress)}
        measured = candidate.trial.seconds_per_step if math.isfinite(estimates["few-steps"]) else None
        found.append(
            CandidateEstimate(
                name=bundle.name,
                encoder=family,
                objective=_pretext_of(bundle),
                estimates=estimates,
                gain=gain_to_expect(finished, family, task, estimates),
                hours=hours_to_save(finished, family, task, measured),
                seen=finished.row(family, task),
                notes=tuple(_notes(candidate, estimates)),
            )
        )
    return advice_of(task, data, len(studies.split.train), found, finished)


def _candidate(checkpoint: PretrainedCheckpoint, config: FinetuneConfig, cases: Sequence[LabeledCase]) -> Candidate:
    """A pretraining before a fine-tuning, with features of its own cases in the sequences that the network takes."""
    weights, features = bundle_encoder_weights(checkpoint.bundle), None
    if checkpoint.cases:
        own = checkpoint.bundle.spec
        if own.task is None:  # an encoder alone; the task decides whose grid its input lies on
            own = replace(own, task=lesion_task().id)
        network = pretrained_network(own, weights)
        features = encoder_features(network, own, feature_cases(checkpoint.cases, own))[ENCODER]
        features = family_of(own).features_for(features, own, config.model)  # one encoder with the network is shared
    return Candidate(config, cases, weights, features)


def _notes(candidate: Candidate, estimates: Mapping[str, float]) -> Iterator[str]:
    if candidate.parameters > MAX_TRIAL_PARAMETERS:
        yield (
            f"few-steps was not tried: {candidate.parameters / 1e6:.0f} million parameters are too many to train on a "
            "processor. The study's encoders were far smaller, so that its results may not hold."
        )
    training = len(candidate.config.split.train)
    if len(candidate.cases) < training:
        yield f"{len(candidate.cases)} of {training} training cases were used, evenly from all of them."
    if candidate.pretraining is None:
        yield "nearness was not computed: the cases of this pretraining are not at hand."
    if any(math.isnan(value) for name, value in estimates.items() if name in ("probe", "logme")):
        yield "probe and logme need three or more cases."


def _part(on_progress: OnProgress | None, number: int, count: int) -> OnProgress | None:
    return None if on_progress is None else lambda line, share: on_progress(line, (number + share) / count)


def try_estimators(
    folder: Path, output: Path | None = None, *, resume: bool = False, on_progress: OnProgress | None = None
) -> tuple[ForecastRow, ...]:
    """Estimate every encoder and task of a study, validate the estimators, and write both tables.

    A study that is still being run may be estimated before its runs are done: validation takes those that are.

    Args:
        folder: The study, with its `work` folder.
        output: Where `estimates.csv` and `forecast.csv` go; by default beside the study's tables.
        resume: Keep estimates that are in `output` already.

    Returns:
        How good the estimators were on left-out tasks; empty where too few tasks are done.

    Raises:
        ConfigError: The folder holds no study's configuration.
        DatasetError: A table cannot be understood.
        BundleError: A pretraining is missing.
        OutputError: The output cannot be written.
    """
    config, workspace = read_config(folder / CONFIG), Workspace(folder.absolute())
    target = output or folder
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    summary = summarize(read_tables(folder)) if (folder / RUNS).is_file() else ()
    estimates = list(read_rows_if_any(target / ESTIMATES, EstimateRow)) if resume else []
    kept = {(row.encoder, row.task) for row in estimates}
    pairs = [
        (run, task)
        for task in config.tasks
        for run in planned_runs(config)
        if (run.task, run.seed, run.labelled_cases) == (task, config.seeds[0], 0)
        and run.needs is not None
        and (run.label, task) not in kept
    ]
    for number, (run, task) in enumerate(pairs):
        phantoms = phantoms_of_pretraining(config, run, workspace, max_count=PHANTOM_COUNT)
        seen = tuple(lesion_task().from_phantom(phantom) for phantom in phantoms)
        checkpoint = PretrainedCheckpoint(read_bundle(workspace.pretrained(run.label)), seen)
        training = training_config(run, config)
        candidate = _candidate(checkpoint, training, evenly_chosen(training_cases(config, task, workspace)))
        estimates += estimate(candidate, run.label, _part(on_progress, number, len(pairs)))
        write_forecast(estimates, validate(points_of(estimates, summary)), target)
    forecasts = validate(points_of(estimates, summary))
    write_forecast(estimates, forecasts, target)
    return forecasts


def advice_of(
    task: str, data: str, n_cases: int, candidates: Iterable[CandidateEstimate], finished: FinishedStudy
) -> Advice:
    """Weigh the candidates."""
    found = tuple(candidates)
    recommended, why = _recommendation(found, finished)
    return Advice(task, data, n_cases, found, recommended, why, trust_words(finished), finished.forecasts)


def _recommendation(candidates: tuple[CandidateEstimate, ...], finished: FinishedStudy) -> tuple[str, str]:
    forecast = finished.best_forecast
    if forecast is not None:
        usable = [one for one in candidates if math.isfinite(one.estimates.get(forecast.estimator, math.nan))]
        if not usable:
            return "", f"The estimator `{forecast.estimator}` has no value for any of them."
        top = max(usable, key=lambda candidate: candidate.gain.percent)
        if top.gain.percent <= 0:
            return SCRATCH, f"No pretraining is expected to gain; the best is {top.name} with {_gain_words(top.gain)}."
        doubt = " The interval reaches below 0: it may as well lose." if top.gain.low < 0 else ""
        return top.name, f"It has the largest expected gain, {_gain_words(top.gain)}.{doubt}"
    seen = [(o.name, o.seen) for o in candidates if o.seen is not None and math.isfinite(o.seen.rpg_percent)]
    if not seen:
        return "", "Nothing was measured that favors one of them on this task."
    percent = max(row.rpg_percent for _, row in seen)
    first = [(name, row) for name, row in seen if row.rpg_percent == percent]
    basis = "That is what the study measured with its own pretraining and cases of this task, no forecast for these."
    if percent <= 0:
        return SCRATCH, f"The largest gain of an encoder was {percent:+.1f} %. {basis}"
    if min(row.rpg_low for _, row in first) <= 0:
        return "", f"The largest gain of an encoder was {percent:+.1f} %, and its interval contains 0. {basis}"
    if len(first) > 1:
        names = ", ".join(name for name, _ in first)
        return "", f"{names} have the same encoder, whose gain was {percent:+.1f} %; nothing distinguishes them."
    return first[0][0], f"Its encoder had the largest gain, {percent:+.1f} %. {basis}"


def trust_words(finished: FinishedStudy) -> str:
    """How good the forecast was where it could be tried, or that it could not."""
    constant, row, chosen = finished.forecast(CONSTANT), finished.best_forecast, finished.forecast(CHOSEN)
    if constant is None:
        return (
            "No forecast: the study at hand has no estimates of its own runs, so that no estimator was ever tried. "
            "The estimates are shown as they are. Run `vfm-transfer forecast` on a finished study."
        )
    tried = f"{constant.n_cells} pairs, {constant.n_tasks} tasks, each left out in turn"
    if row is None:
        return (
            f"No estimator beats always predicting the mean gain on the study ({tried}; that errs by "
            f"{constant.mae_percent:.1f} percent points on average). The expected gain is that mean, the same for "
            "every pretraining; the estimates are shown, but were not found to distinguish tasks."
        )
    flattery = ""  # picking the best of several flatters it
    if chosen is not None:
        verdict = "still better than" if chosen.mae_percent < chosen.mae_constant_percent else "no better than"
        flattery = (
            "It was picked as the best of several; picked again without each task, the error is "
            f"{chosen.mae_percent:.1f}, {verdict} the mean gain."
        )
    rho = f"{row.rho:.2f} (95 %: {row.rho_low:.2f} to {row.rho_high:.2f}, bootstrap over tasks)"
    return (
        f"Forecast by `{row.estimator}`: rank correlation with the observed gain {rho} on the study ({tried}); mean "
        f"error {row.mae_percent:.1f} percent points, against {row.mae_constant_percent:.1f} of always predicting the "
        f"mean gain. {flattery}"
    )


def advice_document(advice: Advice) -> dict[str, Any]:
    """The answer as a JSON document; what is not known is null."""
    document: dict[str, Any] = without_nan(asdict(advice))
    document["outlooks"] = document.pop("candidates")  # the key of version 1
    return {**document, "coverage": COVERAGE, "definition": _LIMIT}


def advice_lines(advice: Advice) -> list[str]:
    """The answer as lines for a terminal."""
    lines = [f"{advice.task} on {advice.data}, {advice.n_cases} training cases", ""]
    for candidate in advice.candidates:
        lines += [*_candidate_lines(candidate), ""]
    chosen = {"": "No recommendation", SCRATCH: "Recommended: train from scratch"}
    lines.append(f"{chosen.get(advice.recommended, f'Recommended: {advice.recommended}')}. {advice.why}")
    return [*lines, advice.trust, _LIMIT]


def _candidate_lines(candidate: CandidateEstimate) -> Iterator[str]:
    kind = f"{candidate.encoder}, {candidate.objective}" if candidate.objective else candidate.encoder
    known = {n: f"{v:.3g}" if math.isfinite(v) else "not available" for n, v in candidate.estimates.items()}
    hours, seen = candidate.hours, candidate.seen
    over = "" if not math.isfinite(hours.low) else f" ({hours.low:.3f} to {hours.high:.3f} over the encoder's tasks)"
    saved = f"{hours.hours:.3f} device-hours" if math.isfinite(hours.hours) else "none"
    yield f"{candidate.name} ({kind})"
    yield f"  expected gain   {_gain_words(candidate.gain)}"
    yield f"  saved hours     {saved}{over}. {hours.words}"
    yield f"  estimates       {', '.join(f'{name} {text}' for name, text in known.items())}"
    if seen is not None:
        interval = "" if math.isnan(seen.rpg_low) else f" ({seen.rpg_low:+.1f} to {seen.rpg_high:+.1f}, 95 %)"
        yield f"  in the study    {seen.metric}: gain {seen.rpg_percent:+.1f} %{interval} on the study's own cases"
    yield from (f"  note            {note}" for note in candidate.notes)


def _gain_words(gain: ExpectedGain) -> str:
    if not math.isfinite(gain.percent):
        return "not known"
    return f"{gain.percent:+.1f} % ({gain.low:+.1f} to {gain.high:+.1f})"


def forecast_lines(rows: Sequence[ForecastRow]) -> list[str]:
    """How good each estimator was on left-out tasks, as a table for a terminal, and which one is used."""
    if not rows:
        return ["Too few tasks have estimates and a gain: three are needed."]
    lines = [f"{'':12}{'pairs':>6}{'error':>8}{'mean gain':>11}{'rank correlation':>26}{'within encoder':>16}"]
    for row in rows:
        rho = "" if math.isnan(row.rho) else f"{row.rho:.2f} ({row.rho_low:.2f} to {row.rho_high:.2f})"
        within = "" if math.isnan(row.rho_within) else f"{row.rho_within:.2f}"
        numbers = f"{row.n_cells:6}{row.mae_percent:8.1f}{row.mae_constant_percent:11.1f}"
        lines.append(f"{row.estimator:12}{numbers}{rho:>26}{within:>16}")
    return [*lines, trust_words(FinishedStudy(forecasts=tuple(rows)))]
