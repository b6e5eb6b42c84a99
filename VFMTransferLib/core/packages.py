"""Which packages this Python has, whether they are whole, and where new ones would go. Nothing is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from .machine import free_disk_gb

# Drive or home or root, then folders, as far as no space, quote or colon ends them.
_FOLDERS = re.compile(r"(?:(?<![\w.])[A-Za-z]:|~|(?<![\w.:/]))[\\/](?:[^\\/\s'\":]+[\\/])+")


def version_of(package: str) -> str | None:
    """The version of an installed package; None where it is not there or has no record."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_half_installed(module: str, packages: dict[str, str | None]) -> bool:
    """Whether a module's folder is there without a package's record, or the record without the module.

    An install or a removal that was stopped leaves such a thing: Python imports an empty folder without a word, and
    pip says that all is there, or finds nothing to remove.

    Args:
        module: The name that is imported; its packages are those that begin with it.
        packages: Name → version or None.
    """
    has_record = any(version for name, version in packages.items() if name.partition("-")[0] == module)
    spec = importlib.util.find_spec(module)
    has_code = spec is not None and spec.origin is not None
    return has_record != has_code or (spec is not None and not has_code)


def describe_site_packages() -> dict[str, Any]:
    """Where pip puts packages: folder (the home as `~`), length of its path, whether it can be written, free disk."""
    folder = Path(sysconfig.get_path("platlib"))
    return {
        "folder": without_home(folder),
        "path_length": len(str(folder)),
        "writable": is_writable(folder),
        "free_disk_gb": free_disk_gb(folder),
    }


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, by making one: rights alone do not tell on Windows or a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def without_folders(text: str) -> str:
    """A message with each path in it cut down to the file's name: folders may bear the user's name, and are long."""
    text = text.replace(str(Path.home()), "~")
    return _FOLDERS.sub("", text)


def without_home(path: Path) -> str:
    """The path with the home folder, which bears the user's name, as `~`."""
    try:
        return str(Path("~") / path.absolute().relative_to(Path.home()))
    except ValueError:
        return str(path)
