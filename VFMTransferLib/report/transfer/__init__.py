"""The page that tells a whole transfer study."""

from .writer import write_study_report

__all__ = ["write_study_report"]
