"""Workers of `dask.distributed`: processes of this machine, or a cluster by its address."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

MAX_DEATHS = 3  # of workers at one task, before it is given up
_ANSWER_S = 30
# A core runs one case or training, not one of them all cores: that is more in the same time.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@contextmanager
def workers(scheduler: str | None, count: int) -> Iterator[Client]:
    """Workers for as long as the context lasts: of the cluster of `scheduler`, its address, as many as it has; where
    that is None, `count` processes of this machine, which end with it.

    Raises:
        ClusterError: The cluster does not answer, or has no workers.
    """
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        with _connected(scheduler) as client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": MAX_DEATHS,
        "distributed.admin.tick.limit": "1h",
        # Without Dask's own MALLOC_TRIM_THRESHOLD_, by which the C library maps each large array again: a third of the
        # time of a case.
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(_THREADS, "1"),
        # Samples of the call stack and of the machine, for pages that nobody opens here.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "10s",
    }
    with ExitStack() as stack:
        # Dask would leave a folder of its own behind.
        scratch = stack.enter_context(TemporaryDirectory(prefix="vfm-transfer-", ignore_cleanup_errors=True))
        stack.enter_context(dask.config.set({**settings, "temporary-directory": scratch}))
        with _terminal_signals_blocked():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",  # it is always served; nobody else needs to see it
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
            )
        yield stack.enter_context(Client(cluster))


@contextmanager
def _terminal_signals_blocked() -> Iterator[None]:
    """Let the threads and processes that start here never receive Ctrl-C or a terminal's end; this thread does, later.

    Workers that receive them print tracebacks, while this process ends them anyway.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    signals = {signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        # A thread that finds no tracker starts it, and then lets SIGINT through again, also to what it starts later.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    from distributed import Client

    # Errors are reported in one sentence, not as the tracebacks of dask.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_ANSWER_S)
        client.wait_for_workers(1, timeout=_ANSWER_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"The scheduler at {address} must answer and have a worker within {_ANSWER_S} s, but does not. "
            "Check the address, and start workers with `dask worker ADDRESS --nthreads 1`."
        ) from error
    with client:
        yield client


def require_library(client: Client, version: str) -> None:
    """Raise ClusterError unless every worker has this version of the library."""
    found = client.run(_version_there, on_error="return")
    for address, there in found.items():
        if there != version:
            other = f"none ({type(there).__name__})" if isinstance(there, BaseException) else there
            raise ClusterError(f"The worker at {address} must have vfm-transfer {version}, but has {other}.")


def _version_there() -> str:
    from . import __version__

    return __version__
