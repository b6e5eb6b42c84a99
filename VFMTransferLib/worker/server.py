"""The worker's two threads: one receives requests and answers what is quick, one runs job after job.

Standard library only, so that a worker whose Python lacks a package can still report which.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import queue
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import TIMEOUT_MAX, Event, Lock
from typing import TYPE_CHECKING

from ..core import __version__
from ..core.errors import OUT_OF_MEMORY, JobError, VFMTransferError, is_out_of_memory
from ..core.files import plain_text
from ..core.options import RuntimeName
from ..tasks import TASKS
from .messages import (
    Batch,
    Bye,
    Cancel,
    Capabilities,
    Error,
    Finished,
    Hello,
    Load,
    Outcome,
    Ping,
    Pong,
    Ready,
    Reason,
    Reply,
    Request,
    Run,
    Shutdown,
    read_request,
)

if TYPE_CHECKING:
    from ..inference.runtimes import LoadedNetworks

REQUIRED = ("numpy", "scipy", "SimpleITK", "nibabel", "nrrd")
_RUNTIME_PACKAGES: dict[RuntimeName, tuple[str, ...]] = {"onnx": ("onnxruntime",), "torch": ("torch", "safetensors")}
_PACKAGE_OF = {"PIL": "pillow", "nrrd": "pynrrd"}  # where what is installed bears another name than what is imported
_SHORT = 200  # characters of an unexpected error's text


class ClientGoneError(Exception):
    """The client no longer reads what the worker writes."""


class Server:
    """Requests in, replies out, one job at a time.

    Args:
        send: Takes each reply, from either thread; raises ClientGoneError when nobody listens.
        keep_bytes: Memory that the process may hold before loaded networks are let go.
    """

    def __init__(self, send: Callable[[Reply], None], keep_bytes: int) -> None:
        self._send = send
        self._keep_bytes = keep_bytes
        self._networks: LoadedNetworks | None = None
        self._queue: queue.Queue[Run | Batch | Load | None] = queue.Queue()
        self._lock = Lock()
        self._canceled: dict[str, Event] = {}  # one for each job that is not finished
        self._reason: Reason = "stdin closed"
        self._has_reported_end = False

    def receive(self, lines: Iterable[bytes]) -> None:
        """Take requests until there are no more, or one asks for the end; then cancel what runs."""
        try:
            for line in filter(bytes.strip, lines):
                try:
                    request: Request = read_request(line)
                    if isinstance(request, Shutdown):
                        self._reason = "shutdown"
                        break
                    self._answer(request)
                except JobError as error:
                    self._send(Error(type(error).__name__, str(error)))
        except ClientGoneError:
            self._reason = "stdin closed"
        finally:
            with self._lock:
                for canceled in self._canceled.values():
                    canceled.set()
            self._queue.put(None)

    def run_jobs(self, idle_s: float) -> None:
        """Run jobs until the end is asked for, or none came for so long, which may be infinite."""
        # What every job needs is loaded while the user still chooses; what fails here fails again in the job.
        for module in ("VFMTransferLib.worker.jobs", "onnxruntime"):
            with suppress(Exception):
                importlib.import_module(module)
        while True:
            try:
                run = self._queue.get(timeout=None if idle_s > TIMEOUT_MAX else idle_s)
            except queue.Empty:
                self._reason = "idle"
                break
            if run is None:
                break
            if isinstance(run, Load):
                self._load(run)
                continue
            outcome = self._outcome_of(run)
            with self._lock:
                del self._canceled[run.job]
            self._send(Finished(run.job, outcome))
        if self._networks is not None:
            self._networks.clear()
        self.report_end()

    def report_end(self) -> None:
        """Send `Bye` once, from whichever thread, that the process ends."""
        with self._lock:
            is_first, self._has_reported_end = not self._has_reported_end, True
        if is_first:
            self._send(Bye(self._reason))

    def _answer(self, request: Request) -> None:
        if isinstance(request, Hello):
            self._send(Ready(__version__, platform.python_version(), os.getpid(), capabilities()))
        elif isinstance(request, Ping):
            self._send(Pong(request.token, self._networks.names if self._networks else ()))
        elif isinstance(request, Cancel):
            with self._lock:
                if request.job in self._canceled:
                    self._canceled[request.job].set()
        elif isinstance(request, Run | Batch):
            with self._lock:
                if request.job in self._canceled:
                    raise JobError(
                        f"A run must have a name of its own, but '{request.job}' is not finished. Name it otherwise."
                    )
                self._canceled[request.job] = Event()
            self._queue.put(request)
        elif isinstance(request, Load):
            self._queue.put(request)

    def _load(self, request: Load) -> None:
        """Load networks ahead of a job, unless something else waits already, or they take the place of loaded ones.

        TensorRT is left to the job, for it compiles for minutes, in which a job would wait.
        """
        if request.device.partition(":")[0] == "tensorrt":
            return
        with suppress(Exception):  # the job reports it
            from ..bundles.catalog import find_bundle

            networks = self._loaded()
            how = {"runtime": request.runtime, "device": request.device, "precision": request.precision}
            for name in request.bundles:
                if not self._queue.empty() or networks.is_full:
                    return
                networks.open(find_bundle(name), **how)

    def _loaded(self) -> LoadedNetworks:
        from ..inference.runtimes import LoadedNetworks

        self._networks = self._networks or LoadedNetworks(self._keep_bytes)
        return self._networks

    def _outcome_of(self, run: Run | Batch) -> Outcome:
        job = None
        try:
            from .jobs import Job, JobCanceledError

            job = Job(run, self._loaded(), self._send, self._canceled[run.job].is_set)
            try:
                job.execute()
            except JobCanceledError:
                return "canceled"
        except ClientGoneError:
            raise
        except Exception as error:  # the edge of the process: whatever happened becomes one sentence
            self._send(describe_error(error, run.job, job.arm if job else None))
            return "failed"
        return "done"


def capabilities() -> Capabilities:
    """What this Python can do, by the packages that are there; none is imported."""
    find = importlib.util.find_spec
    missing = tuple(name for name in REQUIRED if not find(name))
    runtimes = tuple(name for name, packages in _RUNTIME_PACKAGES.items() if all(map(find, packages)))
    return Capabilities(tuple(TASKS), runtimes, missing)


def describe_error(error: Exception, job: str | None, arm: int | None) -> Error:
    """An error as the message that reports it."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, VFMTransferError):
        return Error(type(error).__name__, plain_text(_one_line(str(error))), details, job, arm)
    if is_out_of_memory(error):  # before or after the job itself, where a library's code did not fit
        return Error("OutOfMemoryError", OUT_OF_MEMORY, details, job, arm)
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        package = _PACKAGE_OF.get(module, module)
        sentence = f"The worker's Python must have the package {package}, but lacks it. Install it, then run again."
        return Error("RuntimeUnavailableError", sentence, details, job, arm)
    text = _one_line(f"{type(error).__name__}: {error}")[:_SHORT]
    sentence = f"An unexpected error stopped the run ({text}). Run it again; if it comes back, report its details."
    return Error("UnexpectedError", sentence, details, job, arm)


def _one_line(text: str) -> str:
    return " ".join(text.split())
