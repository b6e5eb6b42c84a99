"""Every estimator on every cell of a finished study, from its training cases, and what their forecasts are worth.

Nothing is looked at but what was known before the study: its configuration, its pretrainings, its training cases. The
cells' gains come from the tables afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bundles.bundle import read_bundle
from ..core.files import writing
from ..core.terms import TaskId
from ..encoders.weights import bundle_encoder_weights
from ..tasks.truth import from_phantom
from .advice import PHANTOM_COUNT, Start, estimate, pretraining_features
from .cases import Place, training_studies
from .config import CONFIG, StudyConfig, read_config
from .estimators import Prospect, looked_at
from .forecast import EstimateRow, ForecastRow, points_of, read_estimates, validate, write_forecast
from .phantoms import PhantomStore
from .run import bundle_folder, cell_config
from .summary import summarize
from .tables import RUNS, Cell, read_tables

OnProgress = Callable[[str, float], None]


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        estimates: Each estimator's value for each cell.
        forecasts: How good they were on left-out tasks; empty where too few cells are done.
    """

    estimates: tuple[EstimateRow, ...]
    forecasts: tuple[ForecastRow, ...]


def calibrate(
    folder: Path, output: Path | None = None, *, resume: bool = False, on_progress: OnProgress | None = None
) -> Calibration:
    """Estimate every cell of a study that has a pretraining, and validate the estimators; both tables are written.

    A study that is still being run may be estimated before its cells are done: validation takes those that are.

    Args:
        folder: The study, with its `work` folder.
        output: Where `estimates.csv` and `forecast.csv` go; by default beside the study's tables.
        resume: Keep estimates that are in `output` already.
        on_progress: Told what is done and which share of all.

    Raises:
        ConfigError: The folder holds no study's configuration.
        DatasetError: A table cannot be understood.
        BundleError: A pretraining is missing.
        OutputError: The output cannot be written.
    """
    config, place = read_config(folder / CONFIG), Place(folder.absolute())
    target = output or folder
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    summary = summarize(read_tables(folder)) if (folder / RUNS).is_file() else ()
    kept = {(row.encoder, row.task): row for row in read_estimates(target)} if resume else {}
    estimates = [row for row in read_estimates(target) if resume]
    cells = [cell for cell in _cells(config) if (cell.encoder, cell.task) not in kept]
    for number, cell in enumerate(cells):
        tell = None if on_progress is None else _part(on_progress, number, len(cells))
        estimates += estimate(_prospect(cell, config, place), cell.encoder, tell)
        write_forecast(estimates, validate(points_of(estimates, summary)), target)
    forecasts = validate(points_of(estimates, summary))
    write_forecast(estimates, forecasts, target)
    return Calibration(tuple(estimates), forecasts)


def _cells(config: StudyConfig) -> Iterator[Cell]:
    """The pretrained arm of each task and encoder, with the study's first seed; tasks one after another."""
    for task, settings in config.tasks.items():
        for encoder in config.encoders:
            if settings.fit(encoder) is not None:
                yield Cell(encoder, task, "pretrained", config.seeds[0])


def _prospect(cell: Cell, config: StudyConfig, place: Place) -> Prospect:
    settings = cell_config(cell, config)
    bundle = read_bundle(bundle_folder(cell.encoder, place))
    seeds: Sequence[int] = config.encoders[cell.encoder].pretraining.phantoms.seeds[:PHANTOM_COUNT]
    store = PhantomStore(place.phantoms, config.phantoms.spacing_mm, for_tasks=False, full_resolution=False)
    shown = (from_phantom(phantom, TaskId.LESION_SEGMENTATION) for phantom in store.phantoms(seeds))
    start = Start(bundle, tuple(shown))
    studies = looked_at(training_studies(config, TaskId(cell.task), place))
    return Prospect(settings, studies, bundle_encoder_weights(bundle), pretraining_features(start, settings.model))


def _part(on_progress: OnProgress, number: int, count: int) -> OnProgress:
    return lambda line, share: on_progress(line, (number + share) / count)
