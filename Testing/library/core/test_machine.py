import mmap
import os
import shutil
import subprocess
import sys

import pytest

from VFMTransferLib.core.machine import _ps_resident_bytes, resident_bytes


def test_memory_that_a_process_takes_is_counted():
    size = 100 << 20
    before = resident_bytes()
    with mmap.mmap(-1, size) as taken:  # not from the allocator, which may give what another test has freed
        taken.write(b"1" * size)
        assert resident_bytes() - before > 0.9 * size


def test_a_process_that_has_ended_holds_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    assert resident_bytes(ended.pid) == 0


@pytest.mark.skipif(shutil.which("ps") is None, reason="this machine has no ps")
def test_ps_counts_what_the_system_counts():
    assert _ps_resident_bytes(os.getpid()) == pytest.approx(resident_bytes(), rel=0.1)
