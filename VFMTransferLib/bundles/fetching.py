"""Published weights or bundles over https: resumed where a fetch broke off, checked, license accepted, imported."""

from __future__ import annotations

import errno
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ..core import __version__
from ..core.errors import DownloadError
from ..core.files import expand_home, file_sha256, writing
from ..core.terms import RESEARCH_USE, OnProgress, Sequence
from .bundle import Bundle
from .catalog import require_user_folder
from .importing import import_files, is_bundle_zip, read_text

ATTEMPTS = 3
TIMEOUT_S = 30
MAX_BYTES = 8 * 2**30
SLOWEST_BYTES_S = 4096  # a server that trickles would hold us for ever
SLOW_AFTER_S = 30.0
_WAIT_S = 1.0
_BLOCK_BYTES = 2**20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WEB_PAGE = (b"<!doctype html", b"<html")
_IN_URLS = "%/?:@!$&'()*+,;=[]"  # what has a meaning in a path or a query (RFC 3986), and is sent as it is
_HTTP_PARTIAL, _HTTP_RANGE = 206, 416
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)
_ADVICE = {
    401: "The server requires a log-in. Fetch the file in a browser, then import it (vfm-transfer models import).",
    403: "The server refuses. Fetch the file in a browser, then import it (vfm-transfer models import).",
    404: "No such file is there. Check the address.",
    407: "The proxy requires a log-in. Set HTTPS_PROXY with user and password.",
    410: "The file is no longer there. Check the address with its publisher.",
}
_NO_LICENSE = (
    "This file states no license. The terms of its authors hold: read them where they publish it, and go on only if "
    f"they allow your use. {RESEARCH_USE}"
)
# Facts about publishers, by the beginning of the address without its scheme.
_PUBLISHED_LICENSES = {
    "huggingface.co/pimed/ProViCNet/": f"Weights of ProViCNet, by pimed: MIT license. {RESEARCH_USE}",
}


@dataclass(frozen=True)
class Source:
    """A file at an address, https or (where `allow_loopback`) http to this machine, and its publisher's sha256."""

    url: str
    sha256: str
    allow_loopback: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise DownloadError(
                f"The sha256 must be the 64 hex digits that the file's publisher states, got '{self.sha256[:70]}'."
            )
        check_url(self.url, self.allow_loopback)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


def check_url(url: str, allow_loopback: bool = False) -> None:
    """Raise DownloadError unless a URL is one of https, or of http to this machine where that is allowed."""
    try:
        parts = urlsplit(url)
        _ = parts.port, (parts.hostname or "").encode("idna")  # each raises ValueError where it cannot be
        wrong = "it names a user" if "@" in parts.netloc else "its server has a space" if " " in parts.netloc else ""
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise DownloadError(
            f"The address must be https://server/file, or https://server:port/file, but is not ({wrong}). Correct it."
        )
    local = allow_loopback and parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not (parts.scheme == "https" and parts.hostname) and not local:
        raise DownloadError(f"The address must begin with https://, got '{parts.scheme}://{parts.hostname or ''}'.")


def _as_sent(url: str) -> str:
    """The URL in ASCII: the server's name as IDNA, other characters in path and query as %c3%a4; escapes stay."""
    parts = urlsplit(url)
    server = parts.netloc
    if not server.isascii():  # so that it is a name, and no IPv6 address in brackets
        server = (parts.hostname or "").encode("idna").decode("ascii") + (f":{parts.port}" if parts.port else "")
    path, query = (quote(part, safe=_IN_URLS) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, server, path, query, ""))


def download(source: Source, path: Path, on_progress: OnProgress) -> None:
    """Fetch a file to `path`, going on from an earlier try; until it is whole and right it is called `<path>.part`."""
    part = path.with_name(f"{path.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(source, part, on_progress)
            break
        except urllib.error.HTTPError as error:
            advice = _ADVICE.get(error.code, "Try again later.")
            raise DownloadError(f"{source.host} answered {error.code} ({error.reason}). {advice}") from error
        except _NETWORK_ERRORS as error:
            if attempt == ATTEMPTS:
                have = part.stat().st_size if part.exists() else 0
                kept = f" {have / 1e6:.0f} MB are kept and used next time." if have else ""
                raise DownloadError(
                    f"The file of {source.host} could not be fetched whole: {getattr(error, 'reason', None) or error}."
                    f"{kept} Check the network (and HTTPS_PROXY)."
                ) from error
            time.sleep(_WAIT_S * attempt)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                reason = "The disk must hold the file, but is full. Free some space, then try again: what came is kept."
            else:
                reason = (
                    f"The file could not be stored: {error.strerror or error}. Choose a folder that you may write to."
                )
            raise DownloadError(reason) from error
    found = file_sha256(part)
    if found == source.sha256:
        part.replace(path)
        return
    with part.open("rb") as file:
        start = file.read(512).lstrip().lower()
    size = part.stat().st_size
    part.unlink()
    if start.startswith(_WEB_PAGE):
        raise DownloadError(
            f"{source.host} must send the file, but sends a web page: a log-in page of this network, a link that has "
            "expired, or a page that asks for confirmation. Open the address in a browser."
        )
    raise DownloadError(
        f"The file of {source.host} must have sha256 {source.sha256[:12]}…, but has {found[:12]}… ({size} bytes): "
        "it is another file, or was damaged on the way. It was deleted; check the checksum, then try again."
    )


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects as long as they stay on https."""

    def __init__(self, allow_loopback: bool) -> None:
        self.allow_loopback = allow_loopback

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        check_url(newurl, self.allow_loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(source: Source, part: Path, on_progress: OnProgress) -> None:
    """One try: ask for what is missing, append it."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"vfm-transfer/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.build_opener(_HttpsOnly(source.allow_loopback))
    try:
        response = opener.open(urllib.request.Request(_as_sent(source.url), headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == _HTTP_RANGE and have:
            return  # nothing is missing; the checksum decides whether it is right
        raise
    except (http.client.InvalidURL, ValueError) as error:  # of a redirect, which no further try makes better
        raise DownloadError(f"{source.host} refers to an address that is none ({error}). Check the address.") from error
    with response:
        if response.status != _HTTP_PARTIAL:
            have = 0  # the server sends the whole file again
        total = have + int(response.headers.get("Content-Length") or 0)
        free = shutil.disk_usage(part.parent).free
        if total > MAX_BYTES:
            raise DownloadError(f"The file of {source.host} must be at most {MAX_BYTES / 1e9:.0f} GB, but is larger.")
        if total - have > free:
            raise DownloadError(
                f"The disk must have {(total - have) / 1e9:.1f} GB free for the file, but has {free / 1e9:.1f} GB. "
                "Free some space, or choose another folder."
            )
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            begin, began_with = time.monotonic(), have
            while block := response.read1(_BLOCK_BYTES):  # which returns what came, and waits for no whole block
                file.write(block)
                have += len(block)
                elapsed_s = time.monotonic() - begin
                if elapsed_s > SLOW_AFTER_S and have - began_with < SLOWEST_BYTES_S * elapsed_s:
                    raise TimeoutError(f"fewer than {SLOWEST_BYTES_S} bytes a second come")
                if have > MAX_BYTES:
                    limit = f"{MAX_BYTES / 1e9:.0f} GB"
                    raise DownloadError(f"The file must be at most {limit}, but the server sends more.")
                on_progress("download", min(have / total, 1.0) if total else 0.0)
        if have < total:
            raise ConnectionError(f"{have} of {total} bytes came")


def fetch_bundle(
    url: str,
    sha256: str,
    folder: Path | str | None = None,
    *,
    accept_license: Callable[[str], bool],
    on_progress: OnProgress | None = None,
    name: str | None = None,
    sequence: Sequence | str | None = None,
    export: bool = True,
    overwrite: bool = False,
    allow_loopback: bool = False,
) -> Bundle:
    """Fetch a bundle's zip or a checkpoint, and import it; the proxies of the environment are honored.

    A fetch that breaks off goes on where it stopped at the next call. Further arguments and errors as of
    `import_files`.

    Args:
        sha256: Checksum that its publisher states, 64 hex digits.
        accept_license: Receives the license's text before anything is used; False stops.
        on_progress: Receives a stage (`download`, `import`) and its fraction, 0..1.
        allow_loopback: Let http:// reach this machine itself, for tests.

    Raises:
        DownloadError: It could not be fetched whole, is not what the checksum states, or the license was refused.
    """
    report = on_progress or (lambda stage, fraction: None)
    source = Source(url, sha256.strip().lower(), allow_loopback)
    parent = require_user_folder() if folder is None else expand_home(folder).absolute().parent
    # Named by the checksum, so that a later call finds what came, and never continues another file.
    work = parent / f".fetch-{source.sha256[:16]}"
    file = work / file_name(url)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    try:
        download(source, file, report)
        try:
            if not accept_license(license_text(url, file)):
                raise DownloadError(
                    "The license must be accepted before the file is used, but was not. It was deleted."
                )
            report("import", 0.0)
            bundle = import_files([file], folder, sequence=sequence, name=name, export=export, overwrite=overwrite)
        finally:
            file.unlink(missing_ok=True)
    finally:
        if not any(work.iterdir()):  # else a part of the file waits for the next call
            work.rmdir()
    report("import", 1.0)
    return bundle


def license_text(url: str, file: Path) -> str:
    """The license to show: the bundle's own, else what its publisher states, else that none is stated."""
    own = read_text(file, "LICENSE") if is_bundle_zip(file) else ""
    if own.strip():
        return own
    place = url.partition("://")[2]
    return next((text for start, text in _PUBLISHED_LICENSES.items() if place.startswith(start)), _NO_LICENSE)


def file_name(url: str) -> str:
    """The file's name in a URL, which may state the sequence of a checkpoint; safe as a name on disk."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip(".")
    return safe[-100:] or "download"
