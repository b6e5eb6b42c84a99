"""Figures and the page that shows two results side by side."""

from __future__ import annotations

from .case_report import write_report

__all__ = ["write_report"]
