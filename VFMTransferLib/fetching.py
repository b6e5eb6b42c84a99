"""Published weights or bundles onto the user's own machine: fetched whole, checked, license accepted, imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from .atomic import writing
from .bundle import Bundle
from .bundle_archive import is_bundle_zip, license_of
from .catalog import user_folder
from .download import OnProgress, Source, download
from .errors import DownloadError
from .importing import import_files
from .terms import RESEARCH_USE, Sequence

_NO_LICENSE = (
    "This file states no license. The terms of its authors hold: read them where they publish it, and go on only if "
    f"they allow your use. {RESEARCH_USE}"
)
# Facts about publishers, by the beginning of the address without its scheme.
_PUBLISHED_LICENSES = {
    "huggingface.co/pimed/ProViCNet/": f"Weights of ProViCNet, by pimed: MIT license. {RESEARCH_USE}",
}


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

    A fetch that breaks off goes on where it stopped at the next call.

    Args:
        url: Begins with https://.
        sha256: Checksum that its publisher states, 64 hex digits.
        folder: Where the bundle shall be; see `importing.import_files`.
        accept_license: Is given the license's text before anything is used; False stops.
        on_progress: Is given a stage (`download`, `import`) and its fraction, 0..1.
        name: The bundle's name.
        sequence: Of a ProViCNet file, where its name does not say it.
        export: Add the ONNX graph to a checkpoint's bundle.
        overwrite: Replace the folder.
        allow_loopback: Let http:// reach this machine itself, for tests.

    Raises:
        DownloadError: It could not be fetched whole, is not what the checksum says, or the license was refused.
        BundleError: It is a bundle, but a broken one.
        CheckpointError: It is no bundle and no known checkpoint.
        OutputError: The folder is taken or cannot be written.
    """
    report = on_progress or (lambda stage, fraction: None)
    source = Source(url, sha256.strip().lower(), allow_loopback)
    parent = user_folder() if folder is None else Path(folder).expanduser().absolute().parent
    # Named by the checksum, so that a later call finds what came, and never continues another file.
    work = parent / f".fetch-{source.sha256[:16]}"
    file = work / file_name(url)
    with _work_folder(work):
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
    report("import", 1.0)
    return bundle


@contextmanager
def _work_folder(work: Path) -> Iterator[None]:
    """A folder that stays only where a part of a file is in it."""
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not any(work.iterdir()):
            work.rmdir()


def license_text(url: str, file: Path) -> str:
    """The license to show: the bundle's own, else what its publisher states, else that none is stated."""
    own = license_of(file) if is_bundle_zip(file) else ""
    if own.strip():
        return own
    place = url.partition("://")[2]
    return next((text for start, text in _PUBLISHED_LICENSES.items() if place.startswith(start)), _NO_LICENSE)


def file_name(url: str) -> str:
    """The file's name in a URL, which may say the sequence of a checkpoint; safe as a name on disk."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip(".")
    return safe[-100:] or "download"
