"""What pip says, for people: how far it is, and what went wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

from ..workers.process import NOT_STARTED

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")


def pipVersion(listing: str) -> tuple[int, ...]:
    """The version of pip itself, by its own list; empty where it is not in it."""
    match = re.search(r"^pip==(\d+)\.(\d+)", listing, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else ()


def downloaded(line: str) -> float | None:
    """How much of a download is done (0..1), where a line of pip's tells that; else None."""
    match = _PROGRESS.fullmatch(line.strip())
    return int(match[1]) / max(int(match[2]), 1) if match else None


def whyPipFailed(exitCode: int, lines: Iterable[str]) -> str:
    """One sentence that says what pip ran into, and what to do."""
    if exitCode == NOT_STARTED:
        return "Python could not be started. Check its path under Runtime and device."
    text = "\n".join(lines)
    for signs, sentence in _REASONS:
        if re.search(signs, text, re.IGNORECASE):
            return sentence() if callable(sentence) else sentence
    errors = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.startswith("ERROR:")]
    said = f" It said: {errors[-1][:200]}" if errors else ""
    return f"pip ended with {exitCode}.{said} The log below says more."


def notWritable() -> str:
    """What to do where packages cannot be written."""
    ways = "install Slicer into a folder of your own"
    if sys.platform == "win32":
        ways += ", start it once as administrator"
    return (
        f"The folder of packages cannot be written. Ask whoever installed Slicer, or {ways}, or choose another Python "
        "under Runtime and device."
    )


# In this order: what pip says of a network that is not there is followed by "no matching distribution".
_REASONS = (
    (
        r"ProxyError|Cannot connect to proxy|Tunnel connection failed|407 Proxy",
        "The proxy refused the connection. Ask for its address, set it in the system or as HTTPS_PROXY, and start "
        "Slicer again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|certificate verify",
        "The network replaces secure connections, and pip does not trust it. Ask your IT for its certificate and set "
        "PIP_CERT to that file.",
    ),
    (
        r"NewConnectionError|Name or service not known|name resolution|getaddrinfo|Connection refused|"
        r"Network is unreachable|ConnectTimeout|Read timed out|ReadTimeout|Connection reset|Max retries|"
        r"Failed to establish|NameResolutionError|ConnectionError",
        "PyPI cannot be reached. Check the network, and press Install again; without one, choose a Python that has "
        "ONNX Runtime under Runtime and device.",
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
