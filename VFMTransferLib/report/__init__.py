"""Pages and figures of a case and of a transfer study.

Imports `core` to `study`.
"""

from __future__ import annotations

from .case_report import write_report

__all__ = ["write_report"]
