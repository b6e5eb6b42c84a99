"""What a transfer study consists of: encoders, tasks, arms, seeds and cases, read strictly from one YAML file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from ..core.decoding import OMITTED, Limits, from_json
from ..core.errors import ConfigError
from ..core.files import read_small
from ..encoders import FAMILIES, EncoderFamily, pretrained_families
from ..encoders.base import ModelSpec, family_of
from ..phantom import PhantomGroups, Phantoms, PhantomSplit
from ..tasks import TASKS, TaskName, find_task

FORMAT = 1
MAX_PHANTOMS = 10_000_000
MIN_SEEDS = 3
MIN_TEST_CASES = 3
CONFIG = "config.yaml"
PRETRAINED, PRETRAINING = "pretrained", "pretraining"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
KEYS = ("encoder", "task", "arm", "seed", "labelled_cases", "trained_on")
PHANTOMS, REAL = "phantoms", "real"  # what a run is trained on
_MODULE = Limits(pattern=r"[^\W\d]\w*(\.[^\W\d]\w*)*", words="the name of a module, as my_package.tasks")


@dataclass(frozen=True)
class Pretraining:
    """Where an encoder's pretrained arm starts from; the objective is one of the family's `pretext_tasks`."""

    objective: str
    steps: Annotated[int, Limits(minimum=1)]
    phantoms: Phantoms
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = field(default="float32", metadata=OMITTED)
    learning_rate: Annotated[float, Limits(above=0)] | None = field(default=None, metadata=OMITTED)  # the highest


@dataclass(frozen=True)
class EncoderConfig:
    """One encoder.

    Attributes:
        pretraining: Of the one pretrained arm; or
        pretrainings: name → one of several, each with an arm of its own beside the common one from scratch.
        size: What differs from the demonstration's networks, see `EncoderFamily.resized`.
    """

    pretraining: Pretraining | None = None
    pretrainings: dict[str, Pretraining] = field(default_factory=dict)
    size: dict[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, Pretraining]:
        """All pretrainings by name; the name of the one that `pretraining` states is empty."""
        return {**({} if self.pretraining is None else {"": self.pretraining}), **self.pretrainings}


@dataclass(frozen=True)
class Rates:
    """The highest learning rate of a training, and that of the encoder where it differs."""

    learning_rate: Annotated[float, Limits(above=0)] | None = None
    encoder_learning_rate: Annotated[float, Limits(above=0)] | None = None


@dataclass(frozen=True)
class Fit:
    """How one encoder is trained on one task; what is not stated is as `training.config.TrainConfig` has it.

    With `patience` a training ends when its validation score has not improved for that part of the steps. With
    `encoder_learning_rate` the encoder, of either arm, has another rate than the head. With `rates` each arm is trained
    at each of them, and the training whose validation score is best at its end is the run's: one rate for both arms may
    suit one of them.
    """

    steps: Annotated[int, Limits(minimum=1)]
    learning_rate: Annotated[float, Limits(above=0)] | None = None
    batch: Annotated[int, Limits(minimum=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: Annotated[float, Limits(above=0, maximum=1)] | None = None
    encoder_learning_rate: Annotated[float, Limits(above=0)] | None = field(default=None, metadata=OMITTED)
    rates: tuple[Rates, ...] = field(default=(), metadata=OMITTED)

    @property
    def tried(self) -> tuple[Rates, ...]:
        """All rates at which it is trained."""
        return self.rates or (Rates(self.learning_rate, self.encoder_learning_rate),)


@dataclass(frozen=True)
class TaskConfig:
    """One task.

    Attributes:
        fit: Encoder → how it is trained on it; a file states the encoders beside the other keys.
        specialised: Which task-specific baselines stand beside; a network has the settings of its `baseline_of`.
        phantoms: Its own phantoms; the study's by default.
        labelled_cases: Its own sizes of label efficiency; the study's by default, and with an empty list none.
    """

    fit: dict[str, Fit] = field(default_factory=dict)
    specialised: tuple[str, ...] = ()
    phantoms: PhantomGroups | None = None
    labelled_cases: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RealCases:
    """Real cases; where they lie is stated when the study is run.

    Attributes:
        cases: Name of a case's folder → the tasks that it tests; no network that they test was trained on any.
        leave_out: Task → cases on which its label efficiency is measured by leaving cases out; see `leave_out_split`.
        shown: Cases whose license lets pictures of them be passed on; of the others numbers are written only.
        gland: File stems of their masks of the prostate; of several that are there the first one is taken.
        zones, lesion: Of their other masks.
    """

    cases: dict[str, tuple[TaskName, ...]]
    shown: tuple[str, ...] = ()
    gland: tuple[str, ...] = ("gland",)
    zones: str = "zones"
    lesion: str = "lesion"
    leave_out: dict[TaskName, tuple[str, ...]] = field(default_factory=dict)

    @property
    def masks(self) -> str:
        """Which masks are the truth, in words: what is measured on others is another measurement."""
        return f"gland: {', '.join(self.gland)}; zones: {self.zones}; lesion: {self.lesion}"


@dataclass(frozen=True)
class StudyConfig:
    """A whole study; tasks are trained in their order.

    Attributes:
        seeds: Of head, order and views; every network is trained once with each.
        measurements: How often a training is measured on the validation cases.
        around_gland_mm: Side of the square around the gland that image tasks' cases are cut to; none for whole images.
        labelled_cases: Sizes of label efficiency: so many cases train further runs of both arms.
        plugins: Modules that register tasks and encoders of other packages; see `import_plugins`.
    """

    format: int
    seeds: tuple[int, ...]
    measurements: Annotated[int, Limits(minimum=1)]
    phantoms: PhantomSplit
    encoders: dict[str, EncoderConfig]
    tasks: dict[TaskName, TaskConfig]
    around_gland_mm: Annotated[float, Limits(above=0.0)] | None = None
    real: RealCases | None = None
    labelled_cases: tuple[int, ...] = ()
    plugins: tuple[Annotated[str, _MODULE], ...] = ()

    @property
    def shown(self) -> tuple[str, ...]:
        return () if self.real is None else self.real.shown

    def real_of(self, task: str) -> tuple[str, ...]:
        """Names of the real cases that test a task."""
        return () if self.real is None else tuple(name for name, tasks in self.real.cases.items() if task in tasks)

    def groups_of(self, task: str) -> PhantomGroups:
        """The phantoms of a task: its own, or the study's."""
        return self.tasks[task].phantoms or self.phantoms.groups

    def sizes_of(self, task: str, trained_on: str) -> tuple[int, ...]:
        """The numbers of labelled cases that a task's runs of label efficiency are trained on, smallest first.

        On real cases those that are left where a fold is left out; a task without such cases has none.
        """
        own = self.tasks[task].labelled_cases
        sizes = sorted(self.labelled_cases if own is None else own)
        if trained_on == PHANTOMS:
            return tuple(sizes)
        names = () if self.real is None else self.real.leave_out.get(task, ())
        folds = len(self.seeds)
        return tuple(size for size in sizes if size <= len(names) - -(-len(names) // folds))


@dataclass(frozen=True, order=True)
class RunKey:
    """Which run: one training, one baseline or one pretraining.

    Attributes:
        encoder: As the tables' column: an encoder, a task-specific baseline, `registration`, or a naive baseline.
        task: Empty of a pretraining.
        arm: One of `tables.ARMS`, or `PRETRAINING`. Where an encoder has several pretrainings, their names follow after
            a hyphen: `pretrained-synthetic`, `pretraining-synthetic`.
        labelled_cases: Of label efficiency: so many cases train it; 0 of all other runs, which all cases train.
        trained_on: Of label efficiency: `phantoms` or `real`; empty of all other runs.
    """

    encoder: str
    task: str
    arm: str
    seed: int
    labelled_cases: int = field(default=0, metadata=OMITTED)
    trained_on: str = field(default="", metadata=OMITTED)

    @property
    def columns(self) -> tuple[str, str, str, int]:
        return self.encoder, self.task, self.arm, self.seed

    @property
    def size(self) -> dict[str, Any]:
        """The tables' columns of label efficiency."""
        return {"labelled_cases": self.labelled_cases, "trained_on": self.trained_on}

    @property
    def name(self) -> str:
        size = f"{self.labelled_cases}-{self.trained_on}" if self.labelled_cases else ""
        return ".".join(part for part in (self.task, self.encoder, self.arm, size, str(self.seed)) if part)

    @property
    def title(self) -> str:
        if self.is_pretraining:
            return f"pretraining of {self.label}"
        size = f", {self.labelled_cases} labelled {self.trained_on}" if self.labelled_cases else ""
        return f"{self.task}, {self.encoder}, {self.arm}{size}, seed {self.seed}"

    @property
    def is_trained(self) -> bool:
        """Whether a network learns in it."""
        is_method = self.task in TASKS and self.encoder in TASKS[self.task].methods()
        return self.arm != "trivial" and not is_method

    @property
    def family(self) -> str:
        """The family whose settings it has; of a task-specific baseline the one that it stands beside."""
        return self.encoder if self.baseline is None else self.baseline.baseline_of

    @property
    def baseline(self) -> EncoderFamily | None:
        """The family of a task-specific baseline that is a network; None of all else."""
        return baseline_family(self.encoder, self.task) if self.arm == "specialised" else None

    @property
    def is_pretraining(self) -> bool:
        return split_arm(self.arm)[0] == PRETRAINING

    @property
    def pretraining(self) -> str:
        """The name of the pretraining that it is, or that it starts from; empty where the encoder has but one."""
        return split_arm(self.arm)[1]

    @property
    def label(self) -> str:
        """What tables of distances and summaries call its encoder: `profound`, or `profound-synthetic`."""
        return label_of(self.encoder, self.arm)

    @property
    def needs(self) -> RunKey | None:
        """The pretraining that it starts from."""
        return pretraining(self.encoder, self.pretraining) if split_arm(self.arm)[0] == PRETRAINED else None


def baseline_family(row: str, task: str) -> EncoderFamily | None:
    """The family of the task-specific baseline whose row in the tables has a name; None where it is no network."""
    families = (family for family in FAMILIES.values() if family.baseline_of)
    return next((family for family in families if family.row_name(find_task(task)) == row), None)


def resized(spec: ModelSpec, size: dict[str, Any]) -> ModelSpec:
    """A network at another size; ConfigError if its encoder has none such."""
    try:
        return family_of(spec).resized(spec, size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def pretraining(encoder: str, name: str = "") -> RunKey:
    return RunKey(encoder, "", _named_arm(PRETRAINING, name), 0)


def _named_arm(arm: str, name: str) -> str:
    return f"{arm}-{name}" if name else arm


def split_arm(arm: str) -> tuple[str, str]:
    """An arm, and the name of its pretraining, which is empty where the encoder has but one."""
    for first in (PRETRAINED, PRETRAINING):
        if arm == first or arm.startswith(f"{first}-"):
            return first, arm[len(first) + 1 :]
    return arm, ""


def label_of(encoder: str, arm: str) -> str:
    """See `RunKey.label`."""
    return "-".join(filter(None, (encoder, split_arm(arm)[1])))


def planned_runs(config: StudyConfig) -> tuple[RunKey, ...]:
    """All runs in their order; a pretraining stands before the first run that needs it.

    The order makes a study readable wherever it is stopped: what costs nothing first, then every encoder and task with
    the first seed of all arms, then with the second.
    """
    runs: list[RunKey] = []
    for task, settings in config.tasks.items():
        runs.append(RunKey(TASKS[task].baseline, task, "trivial", config.seeds[0]))
        untrained = [row for row in settings.specialised if row in TASKS[task].methods()]
        runs += [RunKey(row, task, "specialised", config.seeds[0]) for row in untrained]
    for seed in config.seeds:
        for task, settings in config.tasks.items():
            for encoder in config.encoders:
                if encoder in settings.fit:
                    arms = (_named_arm(PRETRAINED, name) for name in config.encoders[encoder].named)
                    runs += [RunKey(encoder, task, arm, seed) for arm in ("scratch", *arms)]
            trained = [row for row in settings.specialised if row not in TASKS[task].methods()]
            runs += [RunKey(row, task, "specialised", seed) for row in trained]
        both = [run for run in runs if run.seed == seed and split_arm(run.arm)[0] in (PRETRAINED, "scratch")]
        runs += [
            replace(run, labelled_cases=size, trained_on=trained_on)
            for trained_on in (PHANTOMS, REAL)
            for run in both
            for size in config.sizes_of(run.task, trained_on)
        ]
    return _with_needs(runs)


def selected_runs(runs: Iterable[RunKey], only: Mapping[str, Iterable[str]]) -> tuple[RunKey, ...]:
    """The runs with a wanted value in each wanted column, and what they need.

    ConfigError if there is none, or none has one of the values.
    """
    runs, wanted = tuple(runs), {key: set(values) for key, values in only.items()}
    for key, values in wanted.items():
        known = dict.fromkeys(text for run in runs if (text := str(getattr(run, key))))
        for wrong in sorted(values - known.keys()):
            has = f"{', '.join(known)} only" if known else "none with that key"
            raise ConfigError(f"The study must have a run of {key}={wrong:.40}, but has {has}.")
    selected = [run for run in runs if all(str(getattr(run, key)) in values for key, values in wanted.items())]
    if not selected:
        asked = " ".join(f"{key}={','.join(sorted(values))}" for key, values in wanted.items())
        raise ConfigError(f"The study must have a run of {asked}, but has none. Look into its configuration.")
    return _with_needs(selected)


def _with_needs(runs: Iterable[RunKey]) -> tuple[RunKey, ...]:
    return tuple(dict.fromkeys(each for run in runs for each in (run.needs, run) if each is not None))


def import_plugins(modules: Iterable[str], where: str = "plugins") -> None:
    """Import the modules that register a study's tasks and encoders of other packages, each once in a process.

    Raises:
        ConfigError: A module cannot be imported; the message names it, and the configuration's key by `where`.
    """
    for module in modules:
        try:
            import_module(module)
        except Exception as error:  # a module of others may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(
                f"'{where}' must name modules that can be imported, but '{module}' cannot: {reason}. "
                "Correct it, install it, or add its folder to PYTHONPATH."
            ) from error


def read_config(path: Path) -> StudyConfig:
    """Read a study's configuration; ConfigError names file and key of what cannot be.

    Its plug-ins are imported first, so that their tasks and encoders are known.
    """
    import yaml  # of the extra `study`

    try:
        document = yaml.safe_load(read_small(path))
        if isinstance(document, dict) and "plugins" in document:
            where = f"{path.name}.plugins"
            import_plugins(from_json(tuple[Annotated[str, _MODULE], ...], document["plugins"], where), where)
        config: StudyConfig = from_json(StudyConfig, _with_fits(document, path.name), path.name)
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path.name} cannot be read as a study's configuration: {error}") from error
    for problem in _problems(config):
        raise ConfigError(f"{path.name}: {problem}")
    return config


def _with_fits(document: Any, where: str) -> Any:
    """The document with the encoders of each task, which stand beside its other keys, under `fit`."""
    if not isinstance(document, dict) or not isinstance(document.get("tasks"), dict):
        return document
    tasks = {}
    for task, settings in document["tasks"].items():
        if isinstance(settings, dict):
            fits = {name: settings[name] for name in pretrained_families() if name in settings}
            rest = {key: value for key, value in settings.items() if key not in pretrained_families()}
            if "fit" in rest:
                raise ValueError(f"'{where}.tasks.{task}' must hold the encoders themselves, but holds 'fit'.")
            settings = {
                **rest,
                "fit": {name: from_json(Fit, fit, f"{where}.tasks.{task}.{name}") for name, fit in fits.items()},
            }
        tasks[task] = settings
    return {**document, "tasks": tasks}


def _problems(config: StudyConfig) -> Iterator[str]:
    """What cannot be, one sentence each."""
    if config.format != FORMAT:
        yield f"format must be {FORMAT}, got {config.format}."
    if len(set(config.seeds)) < max(len(config.seeds), MIN_SEEDS) or min(config.seeds) < 0:
        yield f"seeds must be {MIN_SEEDS} or more different ones from 0 on, got {list(config.seeds)}."
    if not config.encoders or not config.tasks:
        yield "encoders and tasks must hold at least one each."
    for name, encoder in config.encoders.items():
        if (encoder.pretraining is None) == (not encoder.pretrainings):
            yield f"encoders.{name} must hold either pretraining or pretrainings."
        for own in encoder.pretrainings:
            if _NAME.fullmatch(own) is None:
                yield f"encoders.{name}.pretrainings must have names of small letters, digits and hyphens, got '{own}'."
        for start in encoder.named.values():
            if name not in FAMILIES or start.objective not in FAMILIES[name].pretext_tasks:
                known = ", ".join(f"{each.name} with {one}" for each in FAMILIES.values() for one in each.pretext_tasks)
                yield f"encoders must be {known}, got {name} with {start.objective}."
    yield from _group_problems(config, "", config.phantoms.groups)
    for task, settings in config.tasks.items():
        if settings.phantoms is not None:
            yield from _group_problems(config, f"tasks.{task}.", settings.phantoms)
        if TASKS[task].phantom_options().get("full_resolution") and not config.groups_of(task).full_resolution:
            yield f"the phantoms of {task} must have full_resolution: true, or there is no truth to compare with."
    for task, settings in config.tasks.items():
        yield from _task_problems(config, task, settings)
        yield from _size_problems(config, task)
    if config.real is not None and (unknown := sorted(set(config.real.shown) - set(config.real.cases))):
        yield f"real.shown must be among real.cases, but {', '.join(unknown)} is not."


def _group_problems(config: StudyConfig, where: str, split: PhantomGroups) -> Iterator[str]:
    """What is wrong with phantoms that train, validate and test, beside those of the pretrainings."""
    groups = {f"{where}{part}": getattr(split, part) for part in ("train", "validation", "test")}
    for name, encoder in config.encoders.items():
        for own, start in encoder.named.items():
            where_of = f"encoders.{name}.pretrainings.{own}" if own else f"encoders.{name}.pretraining"
            groups[where_of] = start.phantoms
    for name, group in groups.items():
        if group.count < 1 or group.first_seed < 0:
            yield f"phantoms of {name} must be 1 or more, of seeds from 0 on."
        if max(group.count, group.first_seed) > MAX_PHANTOMS:
            yield f"phantoms of {name} must be at most {MAX_PHANTOMS:,}, with seeds from at most there on."
    if split.test.count < MIN_TEST_CASES:
        yield f"{where}phantoms.test.count must be {MIN_TEST_CASES} or more, or no distance is defined."
    if where:  # which other tasks' networks, and the distances to pretraining, are measured on
        groups["phantoms.test"] = config.phantoms.groups.test
    for one, other in combinations(groups, 2):
        both_pretrain = one.startswith("encoders") and other.startswith("encoders")
        a, b = groups[one].seeds, groups[other].seeds
        both_test = {one, other} == {f"{where}test", "phantoms.test"}
        if not (both_pretrain or both_test) and max(a.start, b.start) < min(a.stop, b.stop):
            yield f"phantoms of {one} and {other} must be of different seeds: a phantom is a patient."


def _size_problems(config: StudyConfig, task: str) -> Iterator[str]:
    sizes, count = config.sizes_of(task, PHANTOMS), config.groups_of(task).train.count
    if len(set(sizes)) < len(sizes) or any(not 1 <= size < count for size in sizes):
        yield (
            f"labelled_cases of {task} must be different numbers from 1 to below the {count} phantoms that train it, "
            f"got {list(sizes)}; all of them train its other runs."
        )
    names = () if config.real is None else config.real.leave_out.get(task, ())
    if names and (len(set(names)) < max(len(names), len(config.seeds)) or not config.sizes_of(task, REAL)):
        yield (
            f"real.leave_out.{task} must name different cases, at least one for each seed, and as many as the smallest "
            f"of labelled_cases needs beside those that a seed leaves out, got {len(names)}."
        )


def _task_problems(config: StudyConfig, task: str, settings: TaskConfig) -> Iterator[str]:
    where = f"tasks.{task}"
    for family, fit in settings.fit.items():
        if family not in config.encoders:
            yield f"{where}.{family} needs encoders.{family}, which is missing."
        if fit.rates and len(set(fit.rates)) < max(len(fit.rates), 2):
            yield f"{where}.{family}.rates must hold two or more different ones."
        if fit.rates and (fit.learning_rate is not None or fit.encoder_learning_rate is not None):
            yield f"{where}.{family} must state its learning rates in rates alone, but states another beside them."
    baselines = [family.row_name(find_task(task)) for family in FAMILIES.values() if family.baseline_of]
    for row in settings.specialised:
        baseline = baseline_family(row, task)
        if baseline is not None and baseline.baseline_of not in settings.fit:
            yield f"{where}.specialised needs {where}.{baseline.baseline_of}, whose budget it has."
        able = [name for name, other in TASKS.items() if row in other.methods()]
        if able and task not in able:
            yield f"{where}.specialised: {row} is of {', '.join(able)} only."
        elif not able and baseline is None:
            yield f"{where}.specialised must be {' or '.join(baselines)}, got {row}."
