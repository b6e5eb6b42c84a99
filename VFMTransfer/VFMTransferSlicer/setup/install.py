"""What is installed where nothing runs networks yet: plans as data, and what pip and the PyTorch extension report.

PyTorch comes by its own extension, which imports torch where it installs it. In this Slicer that must not be: an import
can take the application with it, and what is imported cannot be replaced. So its installer runs in a second Slicer
without a window, and this window goes on.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import slicer

from ..workers.process import NOT_STARTED, Child, MakeProcess, chosenPython, newProcess, workerPython
from .machine_report import Report, builds, gpuUnavailableReason, lacking, needsRepair, nvidiaDriver, toInstall

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def pipVersion(listing: str) -> tuple[int, ...]:
    """The version of pip itself, by its own list; empty where it is not in it."""
    match = re.search(r"^pip==(\d+)\.(\d+)", listing, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else ()


def downloaded(line: str) -> float | None:
    """How much of a download is done (0..1), where a line of pip's has it; else None."""
    match = _PROGRESS.fullmatch(line.strip())
    return int(match[1]) / max(int(match[2]), 1) if match else None


def whyPipFailed(exitCode: int, lines: Iterable[str]) -> str:
    """One sentence on what stopped pip, and what to do."""
    if exitCode == NOT_STARTED:
        return "Python could not be started. Check its path under Runtime and device."
    text = "\n".join(lines)
    for signs, sentence in _REASONS:
        if re.search(signs, text, re.IGNORECASE):
            return sentence() if callable(sentence) else sentence
    errors = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.startswith("ERROR:")]
    said = f" Its message: {errors[-1][:200]}" if errors else ""
    return f"pip ended with {exitCode}.{said} The log below shows more."


def notWritable() -> str:
    """What to do where packages cannot be written."""
    ways = "install Slicer into a folder of your own"
    if sys.platform == "win32":
        ways += ", start it once as administrator"
    return (
        f"The folder of packages cannot be written. Ask whoever installed Slicer, or {ways}, or choose another Python "
        "under Runtime and device."
    )


# In this order: pip's message on a missing connection is followed by "no matching distribution".
_REASONS = (
    (
        r"ProxyError|Cannot connect to proxy|Tunnel connection failed|407 Proxy",
        "The proxy refused the connection. Ask for its address, set it in the system or as HTTPS_PROXY, and start "
        "Slicer again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|certificate verify",
        "A proxy or firewall intercepts secure connections with a certificate that pip does not trust. Ask your IT for "
        "that certificate and set PIP_CERT to its file.",
    ),
    (
        r"NewConnectionError|Name or service not known|name resolution|getaddrinfo|Connection refused|"
        r"Network is unreachable|ConnectTimeout|Read timed out|ReadTimeout|Connection reset|Max retries|"
        r"Failed to establish|NameResolutionError|ConnectionError",
        "PyPI cannot be reached. Check the internet connection, and press Install again; without a connection, choose "
        "a Python that has ONNX Runtime under Runtime and device.",
    ),
    (r"No space left|Errno 28|not enough space|Disk quota", "The disk is full. Free some space, and press Repair."),
    (
        r"WinError 206|filename or extension is too long|File name too long",
        "The folder of Slicer has too long a path for Windows. Install Slicer into a short one, such as C:\\S.",
    ),
    (
        r"WinError 32|WinError 5\b|being used by another process",
        "A file is in use or may not be changed. Close other Slicer windows, start Slicer again, and press Repair.",
    ),
    (r"Permission denied|Errno 13|Read-only file system|Errno 30|externally-managed-environment", notWritable),
    (
        r"ResolutionImpossible|conflicting dependencies|Cannot install .* because",
        "It would need other versions of packages that are installed already, and those are not touched. Choose "
        "another build, or another Python under Runtime and device.",
    ),
    (r"No module named pip", "This Python has no pip. Choose another one under Runtime and device."),
    (
        r"uninstall-no-record-file|no RECORD file|Cannot uninstall",
        "A package that is there cannot be removed, for its record is missing. Press Repair.",
    ),
    (
        r"No matching distribution|Could not find a version",
        "There is no ready-made package for this Python on this system. Choose another build, or another Python under "
        "Runtime and device.",
    ),
)


# CUDA 13 needs driver 580, CUDA 12 driver 525
# (https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).
_CUDA_13_DRIVER, _CUDA_12_DRIVER = 580, 525
# The last release whose extras bring CUDA 12 is 1.26; from 1.27 on they bring CUDA 13 (the packages' own metadata).
_CUDA_12_RELEASES = "<1.27"
_X86 = {"x86_64", "AMD64", "amd64"}
# No compiler is at hand in a clinic, so ready-made packages only; nobody answers a question in a child process.
_QUIETLY = ("--disable-pip-version-check", "--no-input")
_INSTALL = ("--only-binary=:all:", "--no-warn-script-location")
# Since this release pip reports the progress of a download in lines that a program can read.
_RAW_PROGRESS = (24, 1)


@dataclass(frozen=True)
class Build:
    """One build of ONNX Runtime.

    Attributes:
        package: Its name on PyPI.
        title: What to call it on screen.
        requirement: The package for pip. The extras bring CUDA and cuDNN
            (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).
        downloadMb, diskMb: About how much it takes, with all that it needs (measured for release 1.31 and 1.32).
    """

    package: str
    title: str
    requirement: str
    downloadMb: int
    diskMb: int


BUILDS: dict[str, Build] = {
    build.package: build
    for build in (
        Build("onnxruntime", "CPU", "onnxruntime>=1.22", 30, 90),
        Build("onnxruntime-gpu", "NVIDIA GPU", "onnxruntime-gpu[cuda,cudnn]>=1.22", 1600, 3000),
        Build("onnxruntime-openvino", "Intel and AMD CPU, faster", "onnxruntime-openvino>=1.22", 90, 270),
    )
}


@dataclass(frozen=True)
class Plan:
    """What shall be done to the packages.

    Attributes:
        requirements: What is installed.
        removed: Packages that are removed before.
        isRepair: Put them in place again even if pip takes them for installed.
        downloadMb, diskMb: About how much it takes.
    """

    requirements: tuple[str, ...]
    removed: tuple[str, ...] = ()
    isRepair: bool = False
    downloadMb: int = 0
    diskMb: int = 0

    def steps(self, constraints: Path, pipVersion: tuple[int, ...]) -> list[list[str]]:
        """The calls of pip, in order; the first that fails is the last.

        Where something is removed, pip first checks whether the rest can be had at all: without a network the user
        would be left with nothing. A repair writes the package's own files again and leaves its dependencies alone.
        """
        progress = "raw" if pipVersion >= _RAW_PROGRESS else "off"
        install = ["install", *_QUIETLY, *_INSTALL, f"--progress-bar={progress}", "-c", str(constraints)]
        wanted = list(self.requirements)
        steps = [[*install, "--dry-run", *(["--ignore-installed", "--no-deps"] if self.isRepair else []), *wanted]]
        steps = steps if self.removed or self.isRepair else []
        if self.removed:
            steps.append(["uninstall", *_QUIETLY, "--yes", *self.removed])
        if self.isRepair:
            steps.append([*install, "--ignore-installed", "--no-deps", *wanted])
        return [*steps, [*install, *wanted]]


def planInstall(report: Report, package: str) -> Plan:
    """Install a build of ONNX Runtime, and what else lacks; the other builds, which share its folder, go first."""
    build = BUILDS[package]
    others = tuple(name for name in builds(report) if name != package)
    # scipy and SimpleITK, of all that may lack, are the largest by far.
    extraMb = 100 if lacking(report) else 0
    requirements = (_requirement(report, build), *toInstall(report))
    return Plan(requirements, others, False, build.downloadMb + extraMb, build.diskMb + 3 * extraMb)


def planRepair(report: Report, package: str) -> Plan:
    """Remove all builds that are there, and install one."""
    build = BUILDS[package]
    return Plan((_requirement(report, build),), tuple(builds(report)), True, build.downloadMb, build.diskMb)


def planTorchCompanions(report: Report) -> Plan:
    """What importing checkpoints needs beside PyTorch itself, which its own extension installs."""
    lacking = tuple(name for name in ("safetensors", "onnx") if not report["packages"][name])
    return Plan(lacking, downloadMb=20, diskMb=60)


def buildUnavailableReason(report: Report, package: str) -> str:
    """A sentence where a build cannot work on this computer; empty where it can."""
    machine, system = report["machine"]["architecture"], report["machine"]["system"]
    if package == "onnxruntime-openvino" and not (system.startswith("Linux") and machine in _X86):
        return "Its packages hold OpenVINO itself for Linux on Intel and AMD processors only."
    if package != "onnxruntime-gpu":
        return ""
    if system.startswith("Darwin"):
        return "There are no NVIDIA GPUs in Macs."
    driver = nvidiaDriver(report)
    if not driver:
        return "It needs an NVIDIA GPU with a working driver, and none was found."
    if driver < _CUDA_12_DRIVER:
        return f"It needs NVIDIA driver {_CUDA_12_DRIVER} or newer, but {driver} is installed. Update the driver first."
    return ""


def bestBuild(report: Report) -> str:
    """The package to offer: what is there, else the fastest that works here."""
    installed = [name for name in builds(report) if name in BUILDS]
    if len(installed) == 1:
        return installed[0]
    preferred = ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime")
    works = [package for package in preferred if not buildUnavailableReason(report, package)]
    return next((package for package in works if package in installed), works[0])


def installUnavailableReason(report: Report, plan: Plan) -> str:
    """A sentence where a plan is bound to fail, before anything is removed; empty where it is not."""
    place = report["site_packages"]
    if not place["writable"]:
        return notWritable()
    needed, free = plan.diskMb / 1000, place["free_disk_gb"]
    if free < needed:
        return f"It takes about {needed:.1f} GB, but only {free:.1f} GB are free. Free some space first."
    return ""


def consent(plan: Plan, folder: str) -> str:
    """The question to the user before anything is changed."""
    parts = [f"To be installed from PyPI: {', '.join(plan.requirements)}, and what they need."]
    if plan.removed:
        parts.append(f"To be removed first: {', '.join(plan.removed)}.")
    parts.append(f"About {_size(plan.downloadMb)} to download, {_size(plan.diskMb)} on the disk, in:\n{folder}")
    parts.append("Every other package, Slicer's numpy and SimpleITK among them, stays as it is.")
    return "\n\n".join(parts)


def constraints(listing: str, plan: Plan) -> str:
    """The file that pins every package to the version it has, but for those that the plan is about.

    Args:
        listing: The output of `pip list --format=freeze`.
        plan: What shall be done.
    """
    own = {_canonical(re.split(r"[\[<>=!~ ]", one, maxsplit=1)[0]) for one in (*plan.requirements, *plan.removed)}
    # A version that is none, as some developer's builds have, would make pip refuse the whole file.
    pin = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==\d[A-Za-z0-9.!+_-]*")
    matches = [match for line in listing.splitlines() if (match := pin.fullmatch(line.strip()))]
    return "".join(f"{match[0]}\n" for match in matches if _canonical(match[1]) not in own)


def outcomeOf(plan: Plan, report: Report, imported: Iterable[str]) -> str:
    """The message when a plan is done and its work was tried.

    Args:
        plan: What was done.
        report: What doctor found afterwards.
        imported: Names of the modules in Slicer, `sys.modules`.
    """
    if broken := needsRepair(report):
        return broken
    isForGpu = any(name.startswith("onnxruntime-gpu") for name in plan.requirements)
    if isForGpu and gpuUnavailableReason(report):
        return "Installed, but the GPU is not used; the reason is below."
    restart = " Slicer itself has the former one in use: start Slicer again." if needsRestart(plan, imported) else ""
    return f"Installed, and it works.{restart}"


def needsRestart(plan: Plan, imported: Iterable[str]) -> bool:
    """Whether Slicer itself has a package in use that was replaced; the worker is a process of its own.

    Args:
        plan: What was done.
        imported: Names of the modules in Slicer, `sys.modules`.
    """
    isOnnxRuntime = any(name.startswith("onnxruntime") for name in (*plan.requirements, *plan.removed))
    return isOnnxRuntime and "onnxruntime" in set(imported)


def torchRequirement() -> str:
    """Which PyTorch its extension installs; from 2.13 on its folders are too deep for Windows' short paths."""
    return ">=2.6,<2.13" if sys.platform == "win32" else ">=2.6"


def _requirement(report: Report, build: Build) -> str:
    isOldDriver = build.package == "onnxruntime-gpu" and 0 < nvidiaDriver(report) < _CUDA_13_DRIVER
    return f"{build.requirement},{_CUDA_12_RELEASES}" if isOldDriver else build.requirement


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _size(megabytes: int) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes} MB"


_EXTENSION = "PyTorch"
_MODULE = "pytorchutils"
# What the second Slicer does; its command line takes one line only.
_CODE = f"import {__name__} as torch_extension; torch_extension.installAndExit()"


class TorchInstaller:
    """Runs the extension's installer, after what must go first.

    Args:
        onLine: Takes each line for the log.
        onDone: Takes a sentence about what failed, empty where all is done.
        makeProcess: Makes a `qt.QProcess`; see `process.newProcess`.
    """

    def __init__(
        self,
        onLine: Callable[[str], None],
        onDone: Callable[[str], None],
        makeProcess: MakeProcess = newProcess,
    ) -> None:
        self._onLine, self._onDone, self._makeProcess = onLine, onDone, makeProcess
        self._commands: list[list[str]] = []
        self._child: Child | None = None

    @property
    def isRunning(self) -> bool:
        return self._child is not None

    def start(self, commands: list[list[str]]) -> None:
        """Run these one after the other, see `torchCommands`; `onDone` comes in any case."""
        self._commands = list(commands)
        self._next()

    def detach(self) -> None:
        """Emit nothing any more; what was begun continues, for half an install is worse than one too many."""
        self._onLine = self._onDone = lambda text: None

    def _next(self) -> None:
        self._child = Child(
            self._commands.pop(0),
            lambda line: self._onLine(line.decode("utf-8", "replace")),
            lambda line: self._onLine(line),
            self._onEnd,
            self._makeProcess,
        )
        self._child.start()

    def _onEnd(self, exitCode: int) -> None:
        if exitCode == 0 and self._commands:
            self._next()
            return
        self._child = None
        failed = "The PyTorch extension could not install it; see the log. Start Slicer again before you try again."
        self._onDone(failed if exitCode else "")


def torchExtensionUnavailableReason() -> str:
    """A sentence where PyTorch cannot be installed from here; empty where it can."""
    if chosenPython():
        return "Another Python is chosen under Runtime and device: install PyTorch there with its own pip."
    if not hasattr(slicer.modules, _MODULE):
        return (
            f"PyTorch comes by an extension of its own. Open the Extensions Manager, install {_EXTENSION}, start "
            "Slicer again, and press PyTorch… once more."
        )
    return ""


def torchCommands(report: Report) -> list[list[str]]:
    """Removes a PyTorch that is there but does not work, then starts the second Slicer, which installs it and ends.

    pip would take what is broken for installed, and leave it as it is.
    """
    application = slicer.app.launcherExecutableFilePath or slicer.app.applicationFilePath()
    extension = Path(getattr(slicer.modules, _MODULE).path).parent
    # Modules from folders of this session alone would be missing there.
    folders = [str(Path(__file__).parents[2]), str(extension)]
    window = ["--no-splash", "--no-main-window"]
    install = [application, *window, "--additional-module-paths", *folders, "--python-code", _CODE]
    remove = [workerPython(), "-m", "pip", "uninstall", "--yes", "torch", "torchvision"]
    return [remove, install] if report["packages"]["torch"] else [install]


def installAndExit() -> None:
    """In the second Slicer: install PyTorch, and end; the exit code is the outcome."""
    status = 1
    try:
        from PyTorchUtils import PyTorchUtilsLogic

        PyTorchUtilsLogic().installTorch(torchVersionRequirement=torchRequirement())
        status = 0
    except Exception:  # the edge of a process: whatever happened, it must be reported and the process must end
        traceback.print_exc()
    slicer.util.exit(status)


def torchConsent() -> str:
    """The question to the user."""
    return (
        f"The PyTorch extension will install torch{torchRequirement()} and torchvision into Slicer's Python, as they "
        "fit the driver of this computer: up to 3 GB to download, up to 6 GB on the disk.\n\n"
        "Only importing checkpoints of the networks' authors, and networks without an ONNX file, need it. The "
        "extension decides what else it changes. What reads checkpoints, safetensors and onnx, follows (20 MB)."
    )
