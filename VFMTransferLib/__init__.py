"""Run prostate MRI foundation-model networks and compare the pretrained with the from-scratch arm.

Importing this package imports nothing heavy: each public name is loaded when it is first asked for.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core import __version__

if TYPE_CHECKING:
    from .bundles.weights import load_network
    from .evaluation.comparison import compare
    from .inference.predict import predict
    from .io import read_case
    from .io.results import save_result
    from .report import write_report

__all__ = ["__version__", "compare", "load_network", "predict", "read_case", "save_result", "write_report"]

_HOME = {
    "read_case": ".io",
    "predict": ".inference.predict",
    "save_result": ".io.results",
    "compare": ".evaluation.comparison",
    "write_report": ".report",
    "load_network": ".bundles.weights",
}

# ONNX Runtime's own builds report sessions to their maker and keep an identifier of the machine, unless this is set
# before it is imported (its Privacy.md). What is done with patients' images is nobody's business; who wants to report
# sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
