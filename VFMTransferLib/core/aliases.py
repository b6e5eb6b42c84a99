"""Module names of version 1 that scripts and bundles on users' disks may still import: each leads to its new home.

They are deprecated and will be removed in the next version; each warns once when it is imported.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.split(".")[0]
MOVED = {
    "bundle": "bundles.bundle",
    "case": "core.case",
    "catalog": "bundles.catalog",
    "checkpoint": "encoders.checkpoint",
    "doctor": "inference.doctor",
    "errors": "core.errors",
    "export": "bundles.onnx_export",
    "fetching": "bundles.fetching",
    "importing": "bundles.importing",
    "job": "worker.messages",
    "models": "encoders",
    "models.network": "encoders",
    "postprocess": "tasks",
    "preprocess": "encoders.inputs",
    "registry": "encoders.base",
    "result": "core.result",
    "runtimes": "inference.runtimes",
    "study.comparison": "evaluation.comparison",
    "terms": "core.terms",
    "version": "core.version",
    "volume": "core.volume",
    "weights": "bundles.weights",
    "worker_client": "worker.client",
}


class _MovedModules(MetaPathFinder, Loader):
    """Finds the old names, and gives modules whose attributes are those of the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != _PACKAGE or name not in MOVED:
            return None
        return ModuleSpec(fullname, self, is_package=any(other.startswith(f"{name}.") for other in MOVED))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        home = import_module(f"{_PACKAGE}.{MOVED[spec.name.partition('.')[2]]}")
        warnings.warn(f"{spec.name} is now {home.__name__}; the old name is deprecated.", DeprecationWarning, 2)
        alias = ModuleType(spec.name, home.__doc__)
        alias.__getattr__ = lambda name: getattr(home, name)  # type: ignore[method-assign]
        return alias

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the attributes are those of the new module."""


def install() -> None:
    """Let the old names be imported; they come after every real module."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
