"""DICOM pixels, decoded in a child process, since the codecs (JPEG, JPEG 2000, JPEG-LS) are native code.

A crash or an endless loop there ends the child, not this process; its memory and time are limited. One child is kept
for all series of a process, since starting one takes longer than reading; it ends with its parent.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, BinaryIO

import numpy as np
import SimpleITK as sitk

from ..core.errors import ImageError
from ..core.machine import resident_bytes
from .headers import limits

START_S = 60.0
READ_S = 120.0
WATCH_S = 0.25
# What Python, numpy and SimpleITK take of the address space, with room for the toolkit's copies of a series.
BASE_BYTES = 3 << 30
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LINE_BYTES = 1 << 16

log = logging.getLogger(__name__)


class ReaderDiedError(Exception):
    """The child ended while it read."""


def read_slices(paths: Sequence[Path], shape: tuple[int, int, int], label: str) -> np.ndarray:
    """Decode the slices of a series in the order given, rescaled as their headers state.

    Args:
        shape: (D, H, W) that the headers state.
        label: What to call the series in messages.

    Returns:
        Array (D, H, W), float32.

    Raises:
        ImageError: A slice cannot be decoded, is not of that shape, or decoding it crashed or took too long.
    """
    require_room(shape, label)
    try:
        array = _READER.read([str(path) for path in paths], shape)
    except ReaderDiedError:
        raise ImageError(
            f"{label} must be readable, but reading a slice crashed or took too long: it is damaged. Export it again."
        ) from None
    if array is None:
        raise ImageError(
            f"{label} must be readable, but a slice is damaged or compressed in an unknown way. Export it again."
        )
    return array


def require_room(shape: tuple[int, int, int], label: str) -> None:
    """Raise ImageError if a series asks for more memory than the limits allow."""
    if int(np.prod(shape, dtype=np.int64)) * 4 > limits().image_bytes or max(shape) > limits().axis:
        size = "x".join(map(str, shape[::-1]))
        raise ImageError(f"{label} must fit in memory, but its slices state {size} voxels. Select another series.")


def start_reader() -> None:
    """Start the child, so that it is ready when headers are read."""
    with suppress(ReaderDiedError):
        _READER.start()


class _Reader:
    """The child process, started when it is first needed and again after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = Lock()

    def start(self) -> subprocess.Popen[bytes] | None:
        """The running child; None where this program has no Python to start."""
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        python = _python()
        if python is None:
            return None
        root = str(Path(__file__).resolve().parents[2])
        program = f"import sys; sys.path.insert(0, {root!r}); from VFMTransferLib.io.guarded import serve; serve()"
        # A group of its own, so that Ctrl-C reaches the parent alone.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NO_WINDOW}
        try:
            self._process = subprocess.Popen(
                [python, "-P", "-c", program],  # without -P files of the current folder would stand in for modules
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                **group,
            )
        except OSError:
            raise ReaderDiedError from None
        self._owner = os.getpid()
        return self._process

    def read(self, files: list[str], shape: tuple[int, int, int]) -> np.ndarray | None:
        """The voxels; None where the toolkit refuses them, or where they are not of that shape."""
        with self._lock:
            process = self.start()
            if process is None:
                log.warning("No Python was found to read DICOM in a process of its own; it is read in this one.")
                array = _decoded(files)
                return array if array is not None and array.shape == shape else None
            limit_bytes = BASE_BYTES + 2 * limits().image_bytes
            done = False
            try:
                with _watched(process, START_S + READ_S, limit_bytes):
                    answer = self._exchange(process, files, shape, limit_bytes)
                done = True
                return answer
            except (OSError, ValueError):
                raise ReaderDiedError from None
            finally:
                if not done:
                    self.stop()

    def _exchange(
        self, process: subprocess.Popen[bytes], files: list[str], shape: tuple[int, int, int], limit_bytes: int
    ) -> np.ndarray | None:
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"files": files, "limit_bytes": limit_bytes}
        process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline(_LINE_BYTES))  # ValueError where the child died
        if answer is None:
            return None
        if not (isinstance(answer, list) and [type(n) for n in answer] == [int] * 3):
            raise ValueError(f"the child must answer with a shape, got {answer}")
        array = np.empty(answer, np.float32) if tuple(answer) == shape else None
        if array is None:  # what follows is not read
            self.stop()
            return None
        _fill(process.stdout, array)
        return array

    def stop(self) -> None:
        """End the child at once."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        process.wait()


@contextmanager
def _watched(process: subprocess.Popen[bytes], seconds: float, limit_bytes: int) -> Iterator[None]:
    """Kill the process as soon as it takes longer, or holds more memory, which only Linux limits by itself."""
    done, deadline = Event(), time.monotonic() + seconds

    def watch() -> None:
        while not done.wait(WATCH_S):
            if time.monotonic() > deadline or resident_bytes(process.pid) > limit_bytes:
                process.kill()
                return

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _fill(stream: Any, array: np.ndarray) -> None:
    view = memoryview(array.data).cast("B")
    while view:
        count = stream.readinto(view)
        if not count:
            raise ValueError("the child died")
        view = view[count:]


def _python() -> str | None:
    """A Python to start; inside an application that embeds one, the program of this process is none."""
    names = ("python", "pypy")
    candidates = [Path(sys.executable or ""), Path(sys.exec_prefix) / "bin" / "python3"]
    return next((str(p) for p in candidates if p.name.lower().startswith(names) and p.is_file()), None)


_READER = _Reader()
atexit.register(_READER.stop)


# In the child


def serve() -> None:
    """Decode series after series until stdin closes: a line of JSON in, a line of JSON and the voxels out."""
    # What native code prints to stdout must not come between the voxels.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_memory(request["limit_bytes"])
        faulthandler.dump_traceback_later(READ_S, exit=True)  # also where this process's parent is gone
        try:
            array = _decoded(request["files"])
        except MemoryError:
            array = None
        faulthandler.cancel_dump_traceback_later()
        try:
            _answer(out, array)
        except OSError:  # the parent is gone
            return


def _answer(out: BinaryIO, array: np.ndarray | None) -> None:
    out.write(json.dumps(None if array is None else array.shape).encode() + b"\n")
    if array is not None:
        out.write(np.ascontiguousarray(array).tobytes())
    out.flush()


def _limit_memory(limit_bytes: int) -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit, and macOS refuses it
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))


def _decoded(files: list[str]) -> np.ndarray | None:
    """The slices of a series as float32; None where the toolkit refuses them."""
    if all(file.isprintable() for file in files):
        return _read_series(files)
    with tempfile.TemporaryDirectory(prefix="vfm-transfer-") as folder:
        # SimpleITK ends the process at a name that is no text.
        links = [Path(folder) / f"{i}.dcm" for i in range(len(files))]
        for link, file in zip(links, files, strict=True):
            link.symlink_to(Path(file).absolute())
        return _read_series([str(link) for link in links])


def _read_series(files: list[str]) -> np.ndarray | None:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.SetOutputPixelType(sitk.sitkFloat32)  # rescale slopes may differ from slice to slice
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        return None
    return array if array.ndim == 3 else None
