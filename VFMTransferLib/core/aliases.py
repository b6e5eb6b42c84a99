"""Names of earlier states of this version that scripts and bundles on users' disks may still import.

They are deprecated and will be removed in the next version; each warns where it is imported.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.split(".")[0]

# Old module → where its names are now, the most likely place first.
MOVED: dict[str, tuple[str, ...]] = {
    "augment": ("training.augmentation",),
    "batch.summary": ("batch.cases",),
    "bundle": ("bundles.bundle",),
    "case": ("core.case",),
    "catalog": ("bundles.catalog",),
    "checkpoint": ("encoders.checkpoint", "encoders.base", "encoders.profound.checkpoint", "core.errors"),
    "demonstration": ("encoders",),
    "doctor": ("inference.doctor",),
    "errors": ("core.errors",),
    "estimators": ("study.estimators", "study.advice"),
    "export": ("bundles.onnx_export",),
    "fast_convolution": ("encoders.convolutions",),
    "fetching": ("bundles.fetching",),
    "finetune": ("training.finetune",),
    "grid_cell": ("study.run",),
    "importing": ("bundles.importing",),
    "job": ("worker.messages", "core.errors"),
    "job_replies": ("worker.messages",),
    "job_requests": ("worker.messages",),
    "models": ("encoders",),
    "models.network": ("encoders",),
    "postprocess": ("tasks", "tasks.base", "tasks.segmentation"),
    "predict": ("inference.predict", "io.results"),
    "preprocess": ("encoders.inputs",),
    "registration": ("tasks.distortion_correction.task",),
    "registry": ("encoders.base", "encoders", "encoders.profound.spec", "encoders.provicnet.spec"),
    "report.colors": ("report.scene",),
    "result": ("core.result",),
    "runtimes": ("inference.runtimes", "inference.windows"),
    "specialised": ("encoders.dynunet.network", "encoders.weights"),
    "study.candidates": ("study.advice", "study.estimators"),
    "study.cases": ("study.workspace",),
    "study.comparison": ("evaluation.comparison",),
    "study.distance": ("study.features",),
    "study_scores": ("tasks", "tasks.base", "metrics.classification", "metrics.detection"),
    "terms": ("core.terms",),
    "trivial": ("tasks",),
    "version": ("core",),
    "volume": ("core.volume",),
    "weights": ("bundles.weights", "encoders.weights"),
    "worker_client": ("worker.client",),
    "worker_process": ("worker.process",),
}


def _home(module: str) -> Any:
    return import_module(f"{_PACKAGE}.{module}")


def _network_for(size: str) -> Callable[[str, str], Any]:
    return lambda family, task: _home("encoders").find_family(family).network_for(_home("tasks").find_task(task), size)


def _baseline_beside(spec: Any) -> Any:
    encoders = _home("encoders")
    return encoders.build_network(encoders.find_family("dynunet").beside(spec))


def _predict_in_turn(
    case: Any,
    bundles: Sequence[Any],
    runtime: str = "auto",
    device: str = "auto",
    on_progress: Any = None,
    **options: Any,
) -> Iterator[Any]:
    """Results of several networks on one case, as `CasePredictor` gives them; what cannot run is refused at once."""
    home, as_bundle = _home("inference.predict"), _home("bundles.catalog").as_bundle
    open_network = options.pop("open_network", None)
    networks = [as_bundle(bundle) for bundle in bundles]
    for network in networks:
        home.require_fit(case, network)
    predictor = home.CasePredictor(case, home.PredictOptions(runtime, device, **options), open_network)
    return map(partial(predictor.predict, on_progress=on_progress), networks)


# Old name whose successor has another one or is asked otherwise → what gives it.
RENAMED: dict[str, Callable[[], Any]] = {
    "demonstration.demonstration": lambda: _network_for("demonstration"),
    "demonstration.published": lambda: _network_for("published"),
    "doctor.examine": lambda: _home("inference.doctor").inspect,
    "predict.predict_each": lambda: lambda *args, **options: list(_predict_in_turn(*args, **options)),
    "predict.predict_in_turn": lambda: _predict_in_turn,
    "registration.registered": lambda: _home("tasks").find_task("distortion-correction").methods()["registration"],
    "registry.MODELS": lambda: _home("encoders").published_models(),
    "specialised.specialised_network": lambda: _baseline_beside,
    "trivial.trivial_baseline": lambda: lambda task, cases: _home("tasks").find_task(task).naive_baseline(cases),
    "worker_process.end_process_tree": lambda: _home("worker.process").end_process_trees,
    "worker_process.how_it_ended": lambda: _home("worker.process").describe_end,
}


class TaskId(StrEnum):
    """Ids of the first tasks. A task's id is plain text now; `tasks.TASKS` has all tasks by id."""

    ANATOMY_SEGMENTATION = "anatomy-segmentation"
    LESION_SEGMENTATION = "lesion-segmentation"
    CLASSIFICATION = "classification"
    SUPER_RESOLUTION = "super-resolution"
    DISTORTION_CORRECTION = "distortion-correction"
    ADC_TRANSLATION = "adc-translation"


class _OldModule(ModuleType):
    """`VFMTransferLib.predict` was a module and is a function: importing the module must not take the function away."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


class _MovedModules(MetaPathFinder, Loader):
    """Finds the old modules, whose attributes are those of the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != _PACKAGE or name not in MOVED:
            return None
        return ModuleSpec(fullname, self, is_package=any(other.startswith(f"{name}.") for other in MOVED))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        old = spec.name.partition(".")[2]
        first = _home(MOVED[old][0])
        warnings.warn(f"{spec.name} is now {first.__name__}; the old name is deprecated.", DeprecationWarning, 2)

        def attribute(name: str) -> Any:
            if f"{old}.{name}" in RENAMED:
                return RENAMED[f"{old}.{name}"]()
            for home in MOVED[old] if name != "__path__" else ():
                if hasattr(_home(home), name):
                    return getattr(_home(home), name)
            raise AttributeError(f"module '{spec.name}' has no attribute '{name}'")

        alias = _OldModule(spec.name, first.__doc__)
        alias.__getattr__ = attribute  # type: ignore[method-assign]
        return alias

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the attributes are those of the new module."""


def install() -> None:
    """Let the old names be imported; they come after every real module."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
