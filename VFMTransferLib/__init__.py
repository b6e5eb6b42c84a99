"""Run prostate MRI foundation-model networks and compare the pretrained with the from-scratch arm.

Importing this package imports nothing heavy: each public name is loaded when it is first asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .io import read_case
    from .predict import predict, save_result
    from .report import write_report
    from .study.comparison import compare
    from .weights import load_network

__all__ = ["__version__", "compare", "load_network", "predict", "read_case", "save_result", "write_report"]

_HOME = {
    "read_case": ".io",
    "predict": ".predict",
    "save_result": ".predict",
    "compare": ".study.comparison",
    "write_report": ".report",
    "load_network": ".weights",
}


class _Package(ModuleType):
    """Keeps `predict` the function, although the file that holds it bears the same name.

    Python binds a submodule to its name in the package when it is imported; that one binding is left out.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
