"""Figures and the page that shows two results side by side."""

from .writer import write_report

__all__ = ["write_report"]
