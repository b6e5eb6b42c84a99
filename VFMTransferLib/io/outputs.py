"""A folder of results that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import atomic_folder
from ..errors import OutputError

OWN_MARKS = ("result.json", "comparison.json")


@contextmanager
def output_folder(path: str | Path, marks: tuple[str, ...] = OWN_MARKS) -> Iterator[Path]:
    """Give a hidden sibling to write into, and move it to `path` when the block ends well.

    On any failure, Ctrl-C included, the sibling is removed and what was at `path` stays.

    Args:
        path: Where the results shall lie; missing parents are made.
        marks: Files by which an earlier output is known; only such a folder, or an empty one, is
            replaced.

    Raises:
        OutputError: `path` is something else than an earlier output, or cannot be written; disk full.
    """
    target = Path(path).absolute()
    require_replaceable(target, marks)
    with atomic_folder(target, overwrite=True) as work:
        yield work


def require_replaceable(target: Path, marks: tuple[str, ...] = OWN_MARKS) -> None:
    """Raise if something is at `target` that is not an earlier output.

    Raises:
        OutputError: It is.
    """
    if not target.exists() and not target.is_symlink():
        return
    is_ours = target.is_dir() and (any((target / m).is_file() for m in marks) or not any(target.iterdir()))
    if not is_ours:
        raise OutputError(
            f"Output '{target.name}' must be a new folder or an earlier output, but is neither. Choose another name."
        )
