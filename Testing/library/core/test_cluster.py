"""Dask's worker processes: what reaches them of a terminal."""

import signal
import sys

import pytest

from VFMTransferLib.core.cluster import workers

pytest.importorskip("distributed")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_workers_never_receive_what_a_terminal_sends_to_all():
    def blocked() -> set[int]:  # of the main thread of a worker; nested, so that it travels by value
        from pathlib import Path

        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
        return {number for number in range(1, 65) if mask >> (number - 1) & 1}

    with workers(None, 1) as client:
        (found,) = client.run(blocked).values()
    assert {signal.SIGINT, signal.SIGHUP} <= found
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
