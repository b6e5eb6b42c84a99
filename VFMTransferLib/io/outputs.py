"""A folder of results that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import atomic_folder
from ..errors import OutputError

OWN_MARKS = ("result.json", "comparison.json")
CLOCK_TOLERANCE_S = 2.0  # some file systems and archives count in steps of 2 s
_OF_FILE_BROWSERS = ("thumbs.db", "desktop.ini")  # and what begins with a dot


@contextmanager
def output_folder(path: str | Path, marks: tuple[str, ...] = OWN_MARKS) -> Iterator[Path]:
    """Give a hidden sibling to write into, and move it to `path` when the block ends well.

    On any failure, Ctrl-C included, the sibling is removed and what was at `path` stays.

    Args:
        path: Where the results shall lie; missing parents are made. A link to a folder stays, and
            the results lie where it leads.
        marks: Files by which an earlier output is known; only such a folder, in which nothing was
            changed since, or an empty one, is replaced.

    Raises:
        OutputError: `path` is something else than an earlier output, or cannot be written; disk full.
    """
    target = Path(path).absolute()
    target = target.resolve() if target.is_symlink() and target.is_dir() else target
    require_replaceable(target, marks)
    with atomic_folder(target, overwrite=True) as work:
        yield work
        for mark in _marks_in(work, marks):
            os.utime(mark)  # the last of all, so that it tells when the output was whole


def require_replaceable(target: Path, marks: tuple[str, ...] = OWN_MARKS) -> None:
    """Raise if something is at `target` that is not an earlier output.

    Raises:
        OutputError: It is.
    """
    if not target.exists() and not target.is_symlink():
        return
    found = _marks_in(target, marks)
    if not found and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(
            f"Output '{target.name}' must be a new folder or an earlier output, but is neither. Choose another name."
        )
    if changed := _changed_since(target, found):
        raise OutputError(
            f"Output '{target.name}' must be as it was written to be replaced, but '{changed.name}' in it was changed "
            "or added since, and would be lost. Move that file, or choose another name."
        )


def _marks_in(folder: Path, marks: tuple[str, ...]) -> list[Path]:
    return [folder / mark for mark in marks if (folder / mark).is_file()]


def _changed_since(folder: Path, marks: list[Path]) -> Path | None:
    """A file that is newer than the output it lies in: a corrected segmentation, a note, another output."""
    whole_at = max((mark.stat().st_mtime for mark in marks), default=0.0) + CLOCK_TOLERANCE_S
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and not _is_of_file_browser(f.name))
    return next((f for f in files if f.stat().st_mtime > whole_at), None)


def _is_of_file_browser(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_FILE_BROWSERS
