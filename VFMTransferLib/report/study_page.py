"""The page of a whole study: one file without scripts that loads nothing from elsewhere.

What stands on it, and how it is laid out, is in `templates/study.html`; here are its values, and charts in `charts.py`.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..core.files import write_file
from ..evaluation.measures import label_title, unit_title
from ..study.config import CONFIG, PHANTOMS, label_of, read_config, split_arm
from ..study.examples import (
    TOO_HIGH,
    TOO_LOW,
    TRUE_OUTLINE,
    Color,
    Example,
    Picture,
    planned_examples,
    read_examples,
)
from ..study.label_efficiency import EfficiencyRow, label_efficiency, write_label_efficiency
from ..study.overview import (
    NAIVE,
    REAL,
    TASK_SPECIFIC,
    Column,
    MetricName,
    MissingRuns,
    Plan,
    RealRow,
    arm_title,
    arm_values,
    best_arm,
    cases_better,
    column_place,
    column_title,
    encoder_title,
    encoders_of,
    gain_decimals,
    mean,
    metric_name,
    missing_runs,
    naive_arm,
    plan_of,
    real_rows,
    shared_cases,
    task_title,
    tasks_of,
    total_device_hours,
    whole_study,
)
from ..study.summary import (
    BOTH,
    DEFINITIONS,
    HOUR_S,
    LAYER,
    Correlation,
    SummaryRow,
    gain_against_distance,
    summarize,
    write_summary,
)
from ..study.tables import DistanceRow, RunRow, StudyTables, read_tables
from ..tasks import TASKS
from . import charts
from .charts import minus
from .pages import render

PAGE = "report.html"
TITLE = "Which pretraining helps which prostate MRI task?"
STEPS_PERCENT = (1.0, 3.0, 10.0, 30.0)
"""Gains from which on a color is stronger; the same for every study, so that colors can be compared."""
_STYLES = {TASK_SPECIFIC: "task-specific", **{arm: arm for arm in BOTH}}
_EXAMPLE_ORDER = {arm: i for i, arm in enumerate((*BOTH, TASK_SPECIFIC, NAIVE))}


def write_study_report(study: Path, folder: Path | None = None) -> tuple[Path, Path]:
    """Write `summary.csv` and `report.html`, whose paths it returns, into a folder, by default that of the study.

    Examples of arms and cases that the configuration does not name, or of real cases that it does not show, are left
    out. Where runs were trained on few labeled cases `label_efficiency.csv` stands beside both files.

    Raises:
        ConfigError: The study's configuration cannot be understood.
        DatasetError: A table or an example is missing or cannot be understood.
        OutputError: The folder cannot be written.
    """
    tables = read_tables(study)
    rows = summarize(tables)
    config = read_config(study / CONFIG) if (study / CONFIG).is_file() else None
    folder = study if folder is None else folder
    trained = {} if config is None else {task: config.groups_of(task).train.count for task in config.tasks}
    efficiency = label_efficiency(tables, trained)
    plan, whole = None if config is None else plan_of(config), tables.of_size()
    missing = missing_runs(tables, plan or whole_study(whole.runs))
    examples = read_examples(study)
    if config is not None:
        examples = planned_examples(examples, config)
    if efficiency and not whole.runs:
        page = _few_labels_html(tables, efficiency, plan, missing)
    else:
        page = _study_html(whole, rows, efficiency, examples, study, plan, missing, _chosen_rates(tables))
    write_file(folder / PAGE, page)
    if efficiency:
        write_label_efficiency(efficiency, folder)
    return write_summary(rows, folder), folder / PAGE


def _study_html(
    tables: StudyTables,
    rows: Sequence[SummaryRow],
    efficiency: Sequence[EfficiencyRow],
    examples: Sequence[Example],
    study: Path,
    planned: Plan | None,
    missing: MissingRuns,
    rates: Sequence[ChosenRates],
) -> str:
    trained, plan = tables.runs, planned or whole_study(tables.runs)
    arms = tables.by_pretraining(repeats_scratch=False)
    correlation = gain_against_distance(rows)
    facts, subheading = _facts(rows, tables, correlation, plan, missing), _subheading(tables)
    tables = tables.by_pretraining()
    runs = tables.runs
    tasks, encoders = tasks_of(runs), encoders_of(runs)
    order = [(encoder, task) for encoder in encoders for task in tasks]
    rows = sorted(rows, key=lambda row: order.index((row.encoder, row.task)))

    published = json.loads(resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8"))

    seeds_of: dict[tuple[str, str], list[DistanceRow]] = defaultdict(list)
    for distance in sorted(tables.distances, key=lambda one: one.seed):
        if distance.layer == LAYER:
            seeds_of[distance.encoder, distance.task].append(distance)

    def png(example: Example, picture: Picture) -> str:
        return base64.b64encode((example.folder(study) / picture.file).read_bytes()).decode("ascii")

    return render(
        "study.html",
        ("page.css", "study.css"),
        title=TITLE,
        heading=TITLE,
        subheading=subheading,
        facts=facts,
        is_planned=planned is not None,
        missing=missing,
        untrained=_untrained(missing),
        lacking=_lacking(missing),
        tasks=tasks,
        encoders=encoders,
        metrics={run.task: metric_name(run.metric, run.task) for run in reversed(runs)},
        pairs={(row.encoder, row.task): row for row in rows},
        steps_percent=STEPS_PERCENT,
        reached={task: _reached(task, arms.runs) for task in tasks},
        correlation=correlation,
        relation=_relation(rows),
        has_distances=bool(tables.distances),
        distances=[(row, seeds_of[row.encoder, row.task]) for row in rows],
        layers=_layers(tables),
        learned=_learned(tables),
        by_labels=_efficiency(efficiency),
        rates=rates,
        labels_note="; the largest number of phantoms is that of all other parts of this page",
        costs=[_cost(row, runs) for row in rows],
        trainings=sum(run.arm != NAIVE for run in trained),
        improving=(sum(run.is_improving for run in trained), sum(run.steps > 0 for run in trained)),
        device_hours=total_device_hours(trained),
        examples=_grouped(examples),
        tasks_of_lesions=[task.id for task in TASKS.values() if task.finds_lesions],
        real=_real(arms),
        statistics=_statistics(arms),
        published=published,
        beside_published=_beside_published(published, rows),
        definitions=DEFINITIONS,
        naive=NAIVE,
        phantoms=PHANTOMS,
        colors=_STYLES,
        infinity=math.inf,
        too_low=TOO_LOW,
        too_high=TOO_HIGH,
        png=png,
        **_FUNCTIONS,
    )


def _few_labels_html(
    tables: StudyTables, rows: Sequence[EfficiencyRow], planned: Plan | None, missing: MissingRuns
) -> str:
    """The page of a study of which only trainings with few labeled cases were run, and what of these is missing.

    Where none was trained on phantoms, or none on real cases, those were left out on purpose.
    """
    runs = tables.runs
    sources = {run.trained_on for run in runs}
    missing = MissingRuns((), (), (), (), tuple(one for one in missing.few_labels if one[-1] in sources))
    encoders, tasks = sorted({row.encoder for row in rows}), sorted({task_title(row.task) for row in rows})
    gains = [row for row in rows if math.isfinite(row.rpg_percent)]  # of an arm at 0 there is none
    cases, sizes = sorted({row.n_cases for row in gains or rows}), sorted({row.labelled_cases for row in rows})
    tested = f"{cases[0]} to {cases[-1]}" if len(cases) > 1 else f"{cases[0]}"
    gained, lost = sum(row.rpg_low > 0 for row in rows), sum(row.rpg_high < 0 for row in rows)
    return render(
        "few_labels.html",
        ("page.css", "study.css"),
        title=TITLE,
        heading=TITLE,
        subheading=" · ".join(("Label efficiency", *map(encoder_title, encoders), *tasks, f"{tested} test cases")),
        facts=(
            (f"{gained} up, {lost} down", f"of {len(gains)} gains have an interval that excludes 0"),
            (f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}", "labeled cases train a network"),
            (f"{total_device_hours(runs):.2f} h", _device_time_of(runs)),
        ),
        is_planned=planned is not None,
        missing=missing,
        untrained=_untrained(missing),
        lacking=_lacking(missing),
        trainings=len(runs),
        improving=sum(run.is_improving for run in runs),
        by_labels=_efficiency(rows),
        rates=_chosen_rates(tables),
        labels_note="",
        definitions=DEFINITIONS,
        phantoms=PHANTOMS,
        infinity=math.inf,
        **_FUNCTIONS,
    )


def _number(value: float, decimals: int = 2, suffix: str = "", sign: bool = False) -> str:
    """A number as HTML that keeps all its digits for programs."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        text = "-∞" if value < 0 else "∞"
    elif round(value, decimals) == 0:
        text = f"{0:.{decimals}f}"
    else:
        text = f"{value:{'+' if sign else ''}.{decimals}f}"
    return Markup('<data value="{}">{}{}</data>').format(repr(value), minus(text), suffix)


def _interval(low: float, high: float, decimals: int = 1) -> str:
    if math.isnan(low):
        return "no interval"
    return Markup("{} to {}").format(_number(low, decimals, sign=True), _number(high, decimals, sign=True))


def _measured(value: float, metric: MetricName) -> str:
    text = minus(metric.text(value))
    return text if math.isnan(value) else Markup('<data value="{}">{}</data>').format(repr(value), text)


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "n/a"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def gain_class(percent: float) -> str:
    """Sign of a gain, and how many of `STEPS_PERCENT` it passes."""
    if math.isnan(percent):
        return "gain-none"
    level = sum(abs(percent) >= step for step in STEPS_PERCENT)
    return f"gain-{'up' if percent > 0 else 'down'}-{level}" if level else "gain-0"


def conclusion(found: Correlation) -> str:
    """What a rank correlation of so few pairs allows to say."""
    if math.isnan(found.rho) or math.isnan(found.low):
        return "With so few pairs nothing can be said about the relation."
    caution = (
        f"These are {found.n_pairs} pairs of small networks and tasks, which share encoders and test cases and so are "
        "not independent: this is a description of this study, no proof of a rule."
    )
    if found.low == found.high:
        caution = f"The pairs lie in perfect order, of which a bootstrap cannot tell how sure it is. {caution}"
    if found.low <= 0 <= found.high:
        return (
            "The interval contains 0: these pairs are compatible with no relation at all, and neither support nor "
            f"refute the published finding (small distance, large gain). {caution}"
        )
    if found.high < 0:
        return f"Tasks that moved the features less gained more, as the published study reports. {caution}"
    return f"Tasks that moved the features more gained more, contrary to what the published study reports. {caution}"


def _unit(named: MetricName | Picture) -> str:
    return f" {unit_title(named.unit)}" if named.unit else ""


def _subheading(tables: StudyTables) -> str:
    compared = [run for run in tables.runs if run.arm not in (TASK_SPECIFIC, NAIVE)]
    arms, seeds = len({run.arm for run in compared}), len({run.seed for run in compared})
    real = len({row.case for row in tables.metrics if row.data == REAL and row.case})
    cases = sorted({run.n_test_cases for run in tables.runs})
    tested = f"{cases[0]} to {cases[-1]}" if len(cases) > 1 else f"{cases[0]}" if cases else "no"
    encoders, tasks = len(encoders_of(tables.runs)), len(tasks_of(tables.runs))
    return (
        f"{encoders} encoders · {tasks} tasks · {arms} arms · {seeds} seeds · {tested} test phantoms a task · "
        f"{real} real cases apart"
    )


def _facts(
    rows: Sequence[SummaryRow], tables: StudyTables, correlation: Correlation, plan: Plan, missing: MissingRuns
) -> tuple[tuple[str, str], ...]:
    planned = len(plan.trainings)
    gained = sum(row.rpg_low > 0 for row in rows)
    lost = sum(row.rpg_high < 0 for row in rows)
    rho = "n/a" if math.isnan(correlation.rho) else minus(f"{correlation.rho:+.2f}")
    interval = "" if math.isnan(correlation.low) else minus(f" ({correlation.low:+.2f} to {correlation.high:+.2f})")
    return (
        (f"{planned - len(missing.trainings)} of {planned}", "trainings are in the tables"),
        (f"{gained} up, {lost} down", f"of {len(rows)} gains have an interval that excludes 0"),
        (f"ρ {rho}", f"rank correlation of gain and distance{interval}"),
        (f"{total_device_hours(tables.runs):.2f} h", _device_time_of(tables.runs)),
    )


def _untrained(missing: MissingRuns) -> dict[Any, list[str]]:
    """Encoder, and arms with their seeds → titles of the tasks that lack these."""
    pairs: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for encoder, task, arm, seed in missing.trainings:
        pairs[encoder, task][arm].append(str(seed))
    found: dict[Any, list[str]] = defaultdict(list)
    for (encoder, task), seeds in pairs.items():
        arms = tuple((arm, tuple(found_seeds)) for arm, found_seeds in sorted(seeds.items()))
        found[encoder, arms].append(task_title(task))
    return found


def _lacking(missing: MissingRuns) -> dict[str, list[str]]:
    """What → where there is none of it."""
    tasks = {"naive baseline": missing.naive, "number of a real case": missing.real}
    pairs = {"distance": missing.distances, "learning curve": missing.curves}
    seeds: dict[str, list[str]] = defaultdict(list)
    for row, task, seed in missing.task_specific:
        of = f"{encoder_title(row)} on {task_title(task)}" if row else task_title(task)
        seeds[of] += [str(seed)] if row else []
    return {
        "task-specific baseline": [f"{of} (seed {', '.join(own)})" if own else of for of, own in seeds.items()],
        "training with few labeled cases": _lacking_sizes(missing),
        **{what: [task_title(task) for task in names] for what, names in tasks.items()},
        **{what: [f"{encoder_title(e)} on {task_title(t)}" for e, t in names] for what, names in pairs.items()},
    }


def _lacking_sizes(missing: MissingRuns) -> list[str]:
    """Of each encoder and task from how many labeled cases, in which arms and seeds, trainings are missing."""
    seeds: dict[Any, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for encoder, task, arm, seed, size, trained_on in missing.few_labels:
        cases = "real cases" if trained_on == REAL else "phantoms"
        seeds[f"{encoder_title(encoder)} on {task_title(task)}", cases, size][arm_title(arm).lower()].append(seed)
    sizes: dict[Any, list[str]] = defaultdict(list)
    for (of, cases, size), arms in seeds.items():
        alike: dict[str, list[str]] = defaultdict(list)
        for arm, own in arms.items():
            alike[", ".join(map(str, own))].append(arm)
        missed = "; ".join(f"{', '.join(names)}: seed {own}" for own, names in alike.items())
        sizes[of, cases, missed].append(str(size))
    return [f"{of} from {', '.join(own)} labeled {cases} ({missed})" for (of, cases, missed), own in sizes.items()]


def _reached(task: str, runs: Sequence[RunRow]) -> tuple[MetricName, list[dict[str, Any]]]:
    """The measure and the arms of a task; `better` counts an arm's seeds that are better than the naive baseline."""
    values = arm_values(runs, task)
    run = next(run for run in runs if run.task == task)
    higher = run.higher_is_better
    best, naive = best_arm(values, higher), naive_arm(values)
    shown = [one for value in values for one in value.values]
    line = None if naive is None else naive.mean
    return metric_name(run.metric, task), [
        {
            "value": value,
            "is_best": best is not None and value.mean == best.mean,
            "better": None if naive is None or not value.values else value.better_than(naive, higher),
            "strip": charts.strip(value.values, shown, line, higher, _STYLES.get(value.arm, "naive")),
        }
        for value in values
    ]


def _relation(rows: Sequence[SummaryRow]) -> dict[str, tuple[str, Correlation]]:
    """Encoder → gain against distance over its own tasks."""
    found = {}
    for encoder in dict.fromkeys(row.encoder for row in rows):
        own = [row for row in rows if row.encoder == encoder]
        known = [row for row in own if math.isfinite(row.rpg_percent) and math.isfinite(row.d2p)]
        names = {task.id: (task.title, task.short_title) for task in TASKS.values()}
        points = [
            charts.Point(*names.get(row.task, (row.task,) * 2), row.d2p, row.rpg_percent, row.rpg_low, row.rpg_high)
            for row in known
        ]
        found[encoder] = (charts.scatter(points, encoder_title(encoder)), gain_against_distance(own))
    return found


def _layers(tables: StudyTables) -> dict[str, dict[str, str]]:
    """Encoder → task → chart of each layer's distance, mean over seeds; one scale for each encoder."""
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.distances:
        if row.layer != LAYER and math.isfinite(row.d2p):
            values[row.encoder, row.task][row.layer].append(row.d2p)
    found = {}
    for encoder in encoders_of(tables.runs) if values else ():
        means = {
            task: {layer: mean(seeds) for layer, seeds in values[encoder, task].items()}
            for task in tasks_of(tables.runs)
            if (encoder, task) in values
        }
        shown = [0.0, *(value for layers in means.values() for value in layers.values())]
        low, high = min(shown), max(shown) if max(shown) > min(shown) else min(shown) + 1
        found[encoder] = {
            task: charts.columns(layers, low, high, f"{encoder_title(encoder)}, {task_title(task)}")
            for task, layers in means.items()
        }
    return found


def _learned(tables: StudyTables) -> dict[str, dict[str, str]]:
    """Encoder → task → learning curves of both arms; empty where no curve was recorded."""
    found: dict[str, dict[str, str]] = {encoder: {} for encoder in encoders_of(tables.runs) if tables.curves}
    seeds: dict[tuple[str, str], Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for row in tables.curves:
        seeds[row.encoder, row.task][row.arm][row.seed][row.step] = row.value
    for encoder, shown in found.items():
        for task in tasks_of(tables.runs):
            own = {arm: list(seeds[encoder, task][arm].values()) for arm in BOTH if arm in seeds[encoder, task]}
            if own:
                metrics = (run.metric for run in tables.runs if (run.encoder, run.task) == (encoder, task))
                told = " and ".join(f"{len(curves)} seeds {arm_title(arm).lower()}" for arm, curves in own.items())
                label = f"Learning curves of {encoder_title(encoder)}, {task_title(task)}: {told}"
                shown[task] = charts.curves(own, metric_name(next(metrics, ""), task).heading, label)
    return found


def _efficiency(
    rows: Sequence[EfficiencyRow],
) -> dict[tuple[str, str], dict[tuple[str, str], tuple[str, list[EfficiencyRow]]]]:
    """Encoder and what trained it → task and metric → chart of both arms over labeled cases, and its rows."""
    found: dict[tuple[str, str], dict[tuple[str, str], tuple[str, list[EfficiencyRow]]]] = defaultdict(dict)
    for encoder, source, task, metric in dict.fromkeys((r.encoder, r.trained_on, r.task, r.metric) for r in rows):
        own = [r for r in rows if (r.encoder, r.trained_on, r.task, r.metric) == (encoder, source, task, metric)]
        arms = {
            BOTH[0]: {row.labelled_cases: (row.pretrained, row.pretrained_low, row.pretrained_high) for row in own},
            BOTH[1]: {row.labelled_cases: (row.scratch, row.scratch_low, row.scratch_high) for row in own},
        }
        sizes, name = ", ".join(str(row.labelled_cases) for row in own), metric_name(metric, task)
        label = (
            f"Label efficiency of {encoder_title(encoder)}, {task_title(task)}, {name.title}: both arms with {sizes} "
            "labeled cases"
        )
        found[encoder, source][task, metric] = (charts.efficiency(arms, name.heading, label), own)
    return dict(found)


@dataclass(frozen=True)
class ChosenRates:
    """In how many of its trainings an arm of a network has a pair of learning rates, of several that were tried."""

    task: str
    encoder: str
    arm: str
    labelled_cases: int
    trained_on: str
    learning_rate: float
    encoder_learning_rate: float
    chosen: int
    seeds: int
    diverged: int  # trainings at any rate, of all these seeds; in the first row of them alone


def _device_time_of(runs: Sequence[RunRow]) -> str:
    """What the sum of the runs' own times is of; a run that chose among rates has the time of the chosen one alone."""
    which = "the trainings by the chosen rates" if any(run.learning_rate > 0 for run in runs) else "all trainings"
    return f"of device time for {which}, without pretraining"


def _chosen_rates(tables: StudyTables) -> list[ChosenRates]:
    """Of runs that had several rates to choose from; the rates that were chosen most often first."""
    seeds: dict[tuple[str, str, str, int, str], list[tuple[float, float]]] = defaultdict(list)
    diverged: Counter[tuple[str, str, str, int, str]] = Counter()
    for run in tables.runs:
        if run.learning_rate > 0:
            label, arm = label_of(run.encoder, run.arm), split_arm(run.arm)[0]
            key = run.task, label, arm, run.labelled_cases, run.trained_on
            seeds[key].append((run.learning_rate, run.encoder_learning_rate))
            diverged[key] += run.diverged
    return [
        ChosenRates(*key, *rates, count, len(found), diverged.pop(key, 0))
        for key, found in seeds.items()
        for rates, count in Counter(found).most_common()
    ]


def _cost(row: SummaryRow, runs: Sequence[RunRow]) -> tuple[SummaryRow, dict[str, float], str]:
    """A row with the seconds of each arm, and what share of a training from scratch is saved."""
    own = arm_values((run for run in runs if run.encoder == row.encoder), row.task)
    seconds = {value.arm: value.device_seconds for value in own}
    scratch = seconds[BOTH[1]]
    is_known = math.isfinite(row.device_hours_saved) and scratch > 0
    return row, seconds, minus(f"{row.device_hours_saved * HOUR_S / scratch:+.0%}") if is_known else ""


def _beside_published(
    published: dict[str, Any], rows: Sequence[SummaryRow]
) -> list[tuple[dict[str, Any], str, SummaryRow | None]]:
    """Each reported gain, a task of ours, and our gain there from the pretraining that is most like the published."""
    own = {(row.encoder, row.task): row for row in rows}
    found = []
    for reported in published["gains"]:
        encoder = reported["encoder"]
        alike = f"{encoder}-{published['pretrainings'][encoder]}"
        found += [(reported, task, own.get((alike, task)) or own.get((encoder, task))) for task in reported["tasks"]]
    return found


def _grouped(examples: Sequence[Example]) -> dict[str, list[list[Example]]]:
    """Task → case → its arms; phantoms before real cases, both arms encoder by encoder before baselines."""
    groups: dict[tuple[str, str, str], list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.task, example.data, example.case].append(example)

    def order(example: Example) -> tuple[bool, str, int]:
        is_both = example.arm in BOTH
        return not is_both, example.encoder if is_both else "", _EXAMPLE_ORDER[example.arm]

    cases = {task: [sorted(groups[key], key=order) for key in sorted(groups) if key[0] == task] for task in TASKS}
    return {task: found for task, found in cases.items() if found}


def _scores(example: Example) -> list[tuple[MetricName, float]]:
    names = [name for name in TASKS[example.task].example_measures if name in example.scores]
    return [(metric_name(name, example.task), example.scores[name]) for name in names]


def _outlines_of(examples: Sequence[Example]) -> list[tuple[str, Color]]:
    colors = {name: color for example in examples for name, color in example.outlines.items()}
    titles = {TRUE_OUTLINE: "truth, over which results are drawn"}
    return [(titles.get(name) or label_title(name), color) for name, color in colors.items()]


def _real(tables: StudyTables) -> dict[str, tuple[int, list[Column], list[tuple[MetricName, list[RealRow]]]]]:
    """Task → number of cases, arms, and the rows of each measure: the primary one first, then where it is of a part."""
    rows, found = real_rows(tables.metrics), {}
    for task in tasks_of(tables.runs):
        own = [row for row in rows if row.task == task]
        metrics = list(dict.fromkeys(row.metric for row in own))
        primary = TASKS[task].metric if task in TASKS else ""
        metrics.sort(key=lambda name: (name != primary, name.split(" ")[0] != primary))
        columns = list(dict.fromkeys(column for row in own for column in row.values))
        measures = [(metric_name(metric, task), [row for row in own if row.metric == metric]) for metric in metrics]
        if own:
            found[task] = (len({row.case for row in own}), columns, measures)
    return found


def _column_mean(rows: Sequence[RealRow], column: Column) -> float | None:
    values = [row.values[column] for row in shared_cases(rows) if column in row.values]
    return mean(values) if values else None


def _statistics(tables: StudyTables) -> list[tuple[str, MetricName, Column, float]]:
    """What is known of all real cases of a task together only, as AUROC: mean over seeds."""
    found = [one for one in tables.metrics if one.data == REAL]
    by_case = {(one.task, one.metric) for one in found if one.case}
    values: dict[tuple[str, str, Column], list[float]] = defaultdict(list)
    for one in found:
        if not one.case and (one.task, one.metric) not in by_case and math.isfinite(one.value):
            values[one.task, one.metric, (one.encoder, one.arm)].append(one.value)
    keys = sorted(values, key=lambda key: (key[0], key[1], column_place(key[2])))
    return [(task, metric_name(metric, task), arm, mean(values[task, metric, arm])) for task, metric, arm in keys]


_FUNCTIONS: dict[str, Any] = {
    "arm_title": arm_title,
    "cases_better": cases_better,
    "column_mean": _column_mean,
    "column_title": column_title,
    "conclusion": conclusion,
    "duration": _duration,
    "encoder_title": encoder_title,
    "gain_class": gain_class,
    "gain_decimals": gain_decimals,
    "interval": _interval,
    "measured": _measured,
    "metric_name": metric_name,
    "minus": minus,
    "number": _number,
    "outlines_of": _outlines_of,
    "scores": _scores,
    "shared_cases": shared_cases,
    "task_title": task_title,
    "unit": _unit,
}
