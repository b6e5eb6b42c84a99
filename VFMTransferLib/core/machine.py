"""What this computer is: processor, memory, disk. Standard library only, for any platform."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_GB = 1e9
_TIMEOUT_S = 10
_GPU_QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]


def describe_machine() -> dict[str, Any]:
    """System, processor, cores, memory and NVIDIA GPUs."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gb": round(memory_bytes() / _GB, 1),
        "nvidia_gpus": nvidia_gpus(),
    }


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor as its maker calls it; the architecture where that is not told."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"])
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Memory of the computer."""
    if sys.platform == "win32":
        return _windows_memory_bytes()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory that this process holds now."""
    if sys.platform == "win32":
        return _windows_resident_bytes()
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    kib = _output(["ps", "-o", "rss=", "-p", str(os.getpid())])
    return int(kib) * 1024 if kib.isdigit() else 0


def free_disk_gb(folder: Path) -> float:
    """Free space on the disk of a folder that may not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return round(shutil.disk_usage(existing).free / _GB, 1)


def nvidia_gpus() -> list[str]:
    """Name, driver and memory of each NVIDIA GPU, where the driver's own tool is there and works."""
    if shutil.which(_GPU_QUERY[0]) is None:
        return []
    return [line.strip() for line in _output(_GPU_QUERY).splitlines() if line.strip()]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _windows_memory_bytes() -> int:
    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong), ("total", ctypes.c_ulonglong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("free", "pages", "free_pages", "virtual", "free_virtual", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.total)


def _windows_resident_bytes() -> int:
    class Counters(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("faults", ctypes.c_ulong), ("peak", ctypes.c_size_t)] + [
            (name, ctypes.c_size_t)
            for name in ("resident", "peak_paged", "paged", "peak_nonpaged", "nonpaged", "pagefile", "peak_pagefile")
        ]

    counters = Counters(length=ctypes.sizeof(Counters))
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    query = kernel.K32GetProcessMemoryInfo
    query.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
    query(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.length)
    return int(counters.resident)
