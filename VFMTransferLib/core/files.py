"""Files and folders that appear whole or not at all, and locks that keep a second process out."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO, TypeVar

from .errors import OutputError

Value = TypeVar("Value")

CACHE_VARIABLE = "VFM_TRANSFER_CACHE"
MAX_TEXT_BYTES = 64 << 20  # of a file of settings or numbers
OF_FILE_BROWSERS = ("thumbs.db", "desktop.ini", ".ds_store", ".directory")  # in lower case; they lie anywhere
_DISK_FULL_WORDS = ("inline_container", "No space left", "File too large", "os error 28", "os error 27")
_UNUSABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP,
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NEGATIVE = re.compile(r"-\d+([.,]\d+)?(e[-+]?\d+)?", re.IGNORECASE)  # a number, also with a decimal comma
_LEFT_AFTER_S = 24 * 3600.0
_OWNER = r"(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,9})-[0-9a-f]{8}"
_FILE_PART = re.compile(rf"\.part-{_OWNER}-(?P<target>.+)", re.DOTALL)
_FOLDER_PART = re.compile(rf"\.(?P<target>.+)\.{_OWNER}\.(?:part|old)", re.DOTALL)


def home_folder() -> Path | None:
    """The user's home; None where none is known, as for a container's user without a name and without `HOME`."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expand_home(path: Path | str) -> Path:
    """The path with a home folder for the `~` that it begins with; as it is where none is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def platform_folder(in_home: str, variable: str = "") -> Path | None:
    """The folder that the platform's environment variable names, else the one in the home; None without either."""
    stated, home = os.environ.get(variable), home_folder()
    if stated:
        return Path(stated)
    return None if home is None else home / in_home


def cache_folder() -> Path | None:
    """The user's folder for what can be made again: `VFM_TRANSFER_CACHE`, else the platform's. It may not exist.

    None where no home is known: everything is made again then.
    """
    stated = os.environ.get(CACHE_VARIABLE)
    if stated:
        return expand_home(stated)
    if sys.platform == "win32":
        caches, name = platform_folder("AppData/Local", "LOCALAPPDATA"), "vfm-transfer/Cache"
    elif sys.platform == "darwin":
        caches, name = platform_folder("Library/Caches"), "vfm-transfer"
    else:
        caches, name = platform_folder(".cache", "XDG_CACHE_HOME"), "vfm-transfer"
    return None if caches is None else caches / name


@contextmanager
def atomic_folder(folder: Path, overwrite: bool = False, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends without an error.

    What others put at `folder` during the block is kept where it would be refused before it. What was written is then
    moved to the next free name beside it, which the error states, as where a program holds the folder.

    Args:
        overwrite: Replace what is at `folder`; by default only an empty folder.
        check: With `overwrite`, raises OutputError where what lies at the path that it is given must stay.

    Raises:
        OutputError: `folder` is not to be replaced, holds the current folder, or cannot be written; the disk is full.
    """
    require = check if overwrite else _require_free
    before = _identity(folder)
    if _holds_current_folder(folder):  # whose shell would be left in a folder that is gone
        raise OutputError(
            f"'{given_name(folder)}' must be a folder that can be replaced, but is the current folder, or holds it. "
            "Name a folder inside it."
        )
    if require is not None:
        with writing(folder):
            require(folder)
    require_folder_above(folder)
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    try:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder.parent, folder.name)
            if os.path.ismount(folder):
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(folder))
            if folder.is_dir() and not os.access(folder, os.W_OK):  # known before the block, which may be hours of work
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
            work = part_of_folder(folder)
            work.mkdir()
            _share_as(folder, work)
        try:
            with writing(folder):
                yield work
                # Some libraries, safetensors among them, make their files private. The folder has the permissions that
                # the process gives; asking for its umask would change it for all threads.
                mode = work.stat().st_mode & 0o666
                for file in work.rglob("*"):
                    if file.is_file():
                        file.chmod(mode)
                try:
                    with writing(folder):  # a program may hold the folder open
                        _replace_folder(work, folder, require, before)
                except OutputError as error:  # the block may have been hours of work
                    kept = _move_to_free_name(work, folder)
                    raise OutputError(f"{error} What was written is kept in '{kept.name}'.") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except BaseException:
        for parent in new_parents:  # the innermost first
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _require_free(folder: Path) -> None:
    """Raise OutputError if something else than an empty folder is at `folder`."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputError(f"'{folder.name}' must not exist yet, but does. Choose another folder, or remove it first.")


def _holds_current_folder(folder: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(os.path.realpath(folder))  # which takes a link to itself too
    except FileNotFoundError:  # the current folder was removed
        return False


def require_folder_above(path: Path) -> None:
    """Raise OutputError where something else than a folder stands where a file or folder is to be written, or above."""
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise OutputError(
                f"'{parent.name}' must be a folder to hold '{path.name}', but is a file. Choose a folder."
            )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of the same suffix, that replaces it when the block ends well, or OutputError."""
    with temporary_file(path) as part, writing(path):
        mode = stat.S_IMODE(part.stat().st_mode)
        yield part
        part.chmod(mode)  # some libraries make their files private
        part.replace(path)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, of the same suffix, that is gone when the block ends, or OutputError."""
    with writing(path):
        remove_leftovers(path.parent, path.name)
        part = path.with_name(f".part-{_owner()}-{path.name}")
        part.touch(exist_ok=False)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all (OutputError); its folder is made if need be."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        part.write_text(content, encoding="utf-8") if isinstance(content, str) else part.write_bytes(content)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses (disk full, no permission) into an OutputError about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _disk_full(path) from error
        if error.errno == errno.EBUSY:
            raise OutputError(
                f"'{path.name}' must be a folder that can be replaced, but a disk is mounted there, or a program uses "
                "it. Name a folder inside it."
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"'{path.name:.40}…' must have a shorter name to be written. Choose another.") from error
        if error.errno in _UNUSABLE:
            reason = os.strerror(error.errno).lower()
            raise OutputError(
                f"'{path.name}' could not be written: {reason}. Choose a folder that you may write to."
            ) from error
        raise
    except Exception as error:  # PyTorch and safetensors have classes of their own for a write that failed
        if any(words in str(error) for words in _DISK_FULL_WORDS):
            raise _disk_full(path) from error
        raise


def _disk_full(path: Path) -> OutputError:
    return OutputError(f"'{path.name}' could not be written: the disk is full. Free some space, then try again.")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the moment, removed at the end; OutputError where the system has no place for one."""
    try:
        made = tempfile.TemporaryDirectory(prefix="vfm-transfer-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            "The folder for temporary files must be writable, but is not, or is full. Free some space there, or set "
            "TMPDIR to another folder."
        ) from error
    with made as folder:
        yield Path(folder)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a device or a pipe, which may never end or never begin, is refused.

    Raises:
        OSError: It is none, or cannot be opened.
    """
    # Without O_NONBLOCK a pipe that nobody writes to would block before it is known as one.
    stream = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return stream


def read_small(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The content of a regular file that is known to be small.

    Raises:
        OSError: It is none, or cannot be opened.
        ValueError: It is larger than `max_bytes`.
    """
    with open_regular(path) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"'{path.name}' must be at most {max_bytes >> 20} MB, but is larger.")
    return content


def file_sha256(path: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def given_name(path: Path) -> str:
    """The name of a file or folder, which `.` and `..` do not state; links keep the name that they were given."""
    return (path.resolve() if path.name in ("", "..") else path).name


def plain_text(name: str) -> str:
    """A text from elsewhere, as a file's name, that can be shown and written: other characters become %1b or %ff."""
    return "".join(c if c.isprintable() else f"%{ord(c) & 0xFF:02x}" for c in name)


def name_on_disk(name: str) -> str:
    """A name as a disk that ignores case compares it: two names that give the same may be one folder's."""
    return unicodedata.normalize("NFC", plain_text(name)).casefold()


def spreadsheet_cell(value: Value) -> Value | str:
    """A value for a CSV file: text that a spreadsheet would run as a formula begins with an apostrophe.

    A negative number that was read from a table is none, and stays one.
    """
    is_formula = isinstance(value, str) and value.startswith(_FORMULA) and not _NEGATIVE.fullmatch(value)
    return f"'{value}" if is_formula else value


def spreadsheet_row(row: Mapping[str, Value]) -> dict[str, Value | str]:
    """A row for a CSV file by its columns, as every writer here writes one; see `spreadsheet_cell`."""
    return {column: spreadsheet_cell(value) for column, value in row.items()}


def text_of_cell(cell: str) -> str:
    """The text that `spreadsheet_cell` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the system's lock on a file, which is created if needed; the lock ends with the process, even a killed one.

    The file stays, since removing it would let two processes lock two files of one name; who removes it all the same
    must see, once it is locked, that the name is still that of the descriptor, which is given.

    Raises:
        BlockingIOError: Another process, or another block of this one, holds it.
        OutputError: The file cannot be written, or its disk has no locks.
    """
    with writing(path):
        stream = path.open("a+b")
    with stream:
        try:
            if sys.platform == "win32":
                import msvcrt

                stream.seek(0)
                msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # closing the file unlocks it
            else:
                import fcntl

                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise BlockingIOError(f"'{path.name}' is locked by another process.") from error
            raise OutputError(
                f"'{path.parent.name}' must be on a disk with file locks, but is not. Choose another folder."
            ) from error
        yield stream.fileno()


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half-written in a folder; what a living one writes there stays.

    A folder that was set aside, and whose successor did not come, goes back to its place. Names state the machine and
    the process that write; of another machine, what was not touched for a day counts as left. A name that states none,
    as `.notes.txt.old`, is a user's.

    Args:
        name: Of the file or folder that was written; all by default.
    """
    for left in list(folder.iterdir()) if folder.is_dir() else []:
        found = _FILE_PART.fullmatch(left.name) or _FOLDER_PART.fullmatch(left.name)
        if found is None or name not in (None, _written(found["target"])) or _is_at_work(found, left):
            continue
        with suppress(OSError):
            target = folder / found["target"]
            if left.suffix == ".old" and (left / target.name).exists() and not target.exists():
                (left / target.name).rename(target)
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _written(target: str) -> str:
    """The name that is written in the end: a half-written folder may itself be written by way of another one."""
    while within := _FOLDER_PART.fullmatch(target):
        target = within["target"]
    return target


def _is_at_work(found: re.Match[str], left: Path) -> bool:
    """Whether the process that a name states may still write."""
    with suppress(OSError):
        is_here, process = found["machine"] == _machine(), int(found["process"])
        if is_here and sys.platform != "win32":
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return False
            return True
        if is_here and importlib.util.find_spec("psutil"):  # on Windows a signal of 0 would end the process
            import psutil

            return bool(psutil.pid_exists(process))
        return time.time() - left.stat().st_mtime < _LEFT_AFTER_S
    return True


def part_of_folder(folder: Path) -> Path:
    """Where a folder is written until it is whole, beside it; `remove_leftovers` knows it by its name."""
    return folder.with_name(f".{folder.name}.{_owner()}.part")


def _owner() -> str:
    """What a name of a half-written file states: the machine, the process, and a number of its own."""
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode('utf-8', 'replace')):08x}"


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which folder it is, whatever its name; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _replace_folder(
    work: Path, folder: Path, require: Callable[[Path], None] | None, before: tuple[int, int] | None
) -> None:
    """Move `work` to `folder`, from where an old folder is set aside first, checked there, and deleted last.

    Nobody can add to what is set aside, so that nothing comes between the check and the end. Only what stood there
    `before` the work began is replaced: another one is the result of another process.
    """
    aside = folder.with_name(f".{folder.name}.{_owner()}.old")
    earlier = aside / folder.name
    try:
        if folder.exists():
            aside.mkdir()
            folder.rename(earlier)
            if _identity(earlier) != before:
                _require_free(earlier)
            if require is not None:
                require(earlier)
        work.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # another process was faster
            _require_free(folder)
        raise
    finally:
        if work.exists() and os.path.lexists(earlier):
            _move_to_free_name(earlier, folder)  # where this fails, the next writing takes it back
        shutil.rmtree(aside, ignore_errors=True)


def _move_to_free_name(path: Path, folder: Path) -> Path:
    """Move a folder to `folder`, or where something is there to the next name that is free, and return its place."""
    places = chain([folder], (folder.with_name(f"{folder.name}-{number}") for number in count(1)))
    place = next(place for place in places if not os.path.lexists(place))
    path.rename(place)
    return place


def _share_as(folder: Path, work: Path) -> None:
    """Give a folder the permissions, and where possible the group, of the one that it will replace."""
    if not folder.is_dir():
        return
    shared = folder.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(work, -1, shared.st_gid)
    work.chmod(stat.S_IMODE(shared.st_mode) | stat.S_IRWXU)
