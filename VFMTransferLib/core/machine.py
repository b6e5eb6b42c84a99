"""What this computer is (processor, memory, disk), and which packages this Python has. Standard library only, but for
free memory.

No package is imported to be examined.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import home_folder

_GB = 1e9
_TIMEOUT_S = 10
_WINDOWS_QUERY = 0x0410  # PROCESS_QUERY_INFORMATION and PROCESS_VM_READ
_GPU_QUERY = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]

# Drive or home or root, then folders, as far as no quote or colon ends them; spaces may be within their names, and
# apostrophes between letters (O'Brien).
_FOLDERS = re.compile(
    r"(?:(?<![\w.])[A-Za-z]:|~|(?<![\w.:/]))[\\/]"
    r"(?:[^\\/\s'\":](?:(?:[^\\/\n'\":]|(?<=\w)'(?=\w))*[^\\/\s'\":])?[\\/])+"
)


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
    """The processor as its maker calls it; the architecture where that is unknown."""
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


def available_bytes() -> int:
    """Memory that programs may still take without paging, no more than a container leaves to this process.

    Half of the machine's memory where psutil is lacking, as in Slicer: what others hold is not known then.
    """
    try:
        import psutil
    except ImportError:
        return memory_bytes() // 2
    free = int(psutil.virtual_memory().available)
    limit, held = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    try:
        return max(min(free, int(limit.read_text("ascii")) - int(held.read_text("ascii"))), 0)
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def resident_bytes(process_id: int | None = None) -> int:
    """Memory that a process, by default this one, holds now; 0 where it has ended."""
    process_id = os.getpid() if process_id is None else process_id
    if sys.platform == "win32":
        return _windows_resident_bytes(process_id)
    if sys.platform == "linux":
        try:
            pages = Path(f"/proc/{process_id}/statm").read_text(encoding="ascii").split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return _ps_resident_bytes(process_id)


def free_disk_gb(folder: Path) -> float:
    """Free space on the disk of a folder that may not exist yet; 0 where its disk is not there or may not be read."""
    for path in (folder, *folder.parents):
        with suppress(OSError):
            return round(shutil.disk_usage(path).free / _GB, 1)
    return 0.0


def nvidia_gpus() -> list[str]:
    """Name, driver and memory of each NVIDIA GPU, where the driver's own tool is there and works."""
    if shutil.which(_GPU_QUERY[0]) is None:
        return []
    return [line.strip() for line in _output(_GPU_QUERY).splitlines() if line.strip()]


def version_of(package: str) -> str | None:
    """The version of an installed package; None where it is not there or has no record."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_half_installed(module: str, packages: dict[str, str | None]) -> bool:
    """Whether a module's folder is there without a package's record, or the record without the module.

    A stopped install or removal leaves such a thing, which neither Python nor pip reports. A module's packages are
    those whose names begin with its name.
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


def missing_reason(*modules: str, extra: str) -> str:
    """A sentence that names those modules that are not there, and the extra that has them; nothing where all are."""
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    if not lacking:
        return ""
    return f'not installed: {", ".join(lacking)}; install it under Setup (pip install "vfm-transfer[{extra}]").'


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, by making one: rights prove nothing on Windows or a read-only disk."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def without_folders(text: str) -> str:
    """A message with each path in it cut down to the file's name: folders may bear the user's name, and are long."""
    home = _own_home()
    return _FOLDERS.sub("", text if home is None else text.replace(str(home), "~"))


def without_home(path: Path) -> str:
    """The path with the home folder, which bears the user's name, as `~`."""
    home = _own_home()
    if home is None or not path.absolute().is_relative_to(home):
        return str(path)
    return str(Path("~") / path.absolute().relative_to(home))


def _own_home() -> Path | None:
    """The home folder, unless it is the root, as of a service: that bears no name."""
    home = home_folder()
    return None if home is None or home == home.parent else home


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


def _ps_resident_bytes(process_id: int) -> int:
    kib = _output(["ps", "-o", "rss=", "-p", str(process_id)])
    return int(kib) * 1024 if kib.isdigit() else 0


def _windows_resident_bytes(process_id: int) -> int:
    class Counters(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("faults", ctypes.c_ulong), ("peak", ctypes.c_size_t)] + [
            (name, ctypes.c_size_t)
            for name in ("resident", "peak_paged", "paged", "peak_nonpaged", "nonpaged", "pagefile", "peak_pagefile")
        ]

    counters = Counters(length=ctypes.sizeof(Counters))
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    kernel.CloseHandle.argtypes = [ctypes.c_void_p]
    query = kernel.K32GetProcessMemoryInfo
    query.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
    handle = kernel.OpenProcess(_WINDOWS_QUERY, False, process_id)
    if not handle:
        return 0
    try:
        query(handle, ctypes.byref(counters), counters.length)
    finally:
        kernel.CloseHandle(handle)
    return int(counters.resident)
