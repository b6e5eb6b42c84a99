"""Published weights or bundles over https: checked by their sha256, license accepted, imported."""

from __future__ import annotations

import hashlib
import http.client
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from ..core import __version__
from ..core.errors import DownloadError
from ..core.files import expand_home, writing
from ..core.terms import RESEARCH_USE, OnProgress, Sequence
from .bundle import Bundle
from .catalog import require_user_folder
from .importing import import_files, is_bundle_zip, read_text

TIMEOUT_S = 30
MAX_BYTES = 8 * 2**30
_BLOCK_BYTES = 2**20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NO_LICENSE = (
    "This file states no license. The terms of its authors hold: read them where they publish it, and go on only if "
    f"they allow your use. {RESEARCH_USE}"
)
# Facts about publishers, by the beginning of the address without its scheme.
_PUBLISHED_LICENSES = {
    "huggingface.co/pimed/ProViCNet/": f"Weights of ProViCNet, by pimed: MIT license. {RESEARCH_USE}",
}


def check_url(url: str, allow_loopback: bool = False) -> None:
    """Raise DownloadError unless a URL is one of https, or of http to this machine where that is allowed."""
    try:
        parts = urlsplit(url)
        local = allow_loopback and parts.scheme == "http" and parts.hostname in _LOOPBACK
        is_known = parts.hostname and (parts.scheme == "https" or local) and "@" not in parts.netloc
    except ValueError:
        is_known = False
    if not is_known:
        raise DownloadError(f"The address '{url:.80}' is not of the form https://server/file. Correct it.")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects as long as they stay on https."""

    def __init__(self, allow_loopback: bool) -> None:
        self.allow_loopback = allow_loopback

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        check_url(newurl, self.allow_loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, sha256: str, path: Path, on_progress: OnProgress, allow_loopback: bool = False) -> None:
    """Fetch a file to `path`; the proxies of the environment are honored. Errors as of `fetch_bundle`."""
    check_url(url, allow_loopback)
    host = urlsplit(url).hostname
    request = urllib.request.Request(
        quote(url, safe="%/?:@!$&'()*+,;=[]"), headers={"User-Agent": f"vfm-transfer/{__version__}"}
    )
    digest, have = hashlib.sha256(), 0
    try:
        opener = urllib.request.build_opener(_HttpsOnly(allow_loopback))
        with opener.open(request, timeout=TIMEOUT_S) as response, writing(path), path.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0)
            while block := response.read(_BLOCK_BYTES):
                file.write(block)
                digest.update(block)
                have += len(block)
                if max(have, total) > MAX_BYTES:
                    raise DownloadError(f"The file of {host} is larger than {MAX_BYTES / 1e9:.0f} GB.")
                on_progress("download", min(have / total, 1.0) if total else 0.0)
    except urllib.error.HTTPError as error:
        raise DownloadError(
            f"{host} answered {error.code} ({error.reason}). Check the address; where a log-in is needed, fetch the "
            "file in a browser and import it (vfm-transfer models import)."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
        raise DownloadError(
            f"The file of {host} could not be fetched: {getattr(error, 'reason', None) or error}. Check the network "
            "(and HTTPS_PROXY), then try again."
        ) from error
    if digest.hexdigest() != sha256:
        raise DownloadError(
            f"What {host} sent ({have} bytes) does not have sha256 {sha256[:12]}…: it is another file, a web page, or "
            "was damaged on the way. It was deleted. Open the address in a browser and check the checksum."
        )


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
    """Fetch a bundle's zip or a checkpoint, and import it. Further arguments and errors as of `import_files`.

    Args:
        sha256: Checksum that its publisher states, 64 hex digits.
        accept_license: Receives the license's text before anything is used; False stops.
        on_progress: Receives a stage (`download`, `import`) and its fraction, 0..1.
        allow_loopback: Let http:// reach this machine itself, for tests.

    Raises:
        DownloadError: It could not be fetched whole, does not have the checksum, or the license was refused.
    """
    report = on_progress or (lambda stage, fraction: None)
    sha256 = sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise DownloadError("The sha256 is not 64 hex digits. Copy it from the file's publisher.")
    check_url(url, allow_loopback)
    parent = require_user_folder() if folder is None else expand_home(folder).absolute().parent
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=".fetch-", dir=parent)
    with work:
        file = Path(work.name) / file_name(url)
        download(url, sha256, file, report, allow_loopback)
        if not accept_license(license_text(url, file)):
            raise DownloadError("The license was not accepted. The file was deleted.")
        report("import", 0.0)
        bundle = import_files([file], folder, sequence=sequence, name=name, export=export, overwrite=overwrite)
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
