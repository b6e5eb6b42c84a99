"""From the authors' own files, or a bundle that came from elsewhere, to a bundle of the user's.

Of a bundle, a folder or a zip, only what a bundle holds is copied, and nothing outside it.
"""

from __future__ import annotations

import lzma
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..core.decoding import parse_json
from ..core.errors import BundleError, CheckpointError, RuntimeUnavailableError
from ..core.files import atomic_folder, expand_home, file_sha256
from ..core.machine import missing_reason
from ..core.terms import Arm, Sequence
from ..encoders.base import family_of
from .bundle import (
    Bundle,
    change_block,
    check_name,
    dump,
    is_bundle_folder,
    read_bundle,
    require_replaceable,
    verify,
    write_bundle,
)
from .catalog import require_free_name, require_user_folder
from .metadata import METADATA, ONNX, ONNX_CPU, WEIGHTS, inference_config

_IMPORTED = "Imported from the authors' released weights."
MAX_BUNDLE_BYTES = 4 * 2**30
_MAX_RATIO = 100  # weights hardly shrink; an archive that grows a hundredfold is made to fill the disk
_SMALL_BYTES = 64 * 2**20
_MAX_TEXT_BYTES = 4 * 2**20
_BLOCK_BYTES = 2**20


def import_files(
    files: Iterable[Path | str],
    folder: Path | str | None = None,
    *,
    sequence: Sequence | str | None = None,
    name: str | None = None,
    keep_fusion_streams: bool = False,
    export: bool = True,
    overwrite: bool = False,
) -> Bundle:
    """Make a bundle of files, whole or not at all.

    Args:
        files: One checkpoint as its authors released it; ProViCNet's three and its fusion file together; or one bundle,
            as a folder or a zip.
        folder: By default a folder of the bundle's name among the user's bundles.
        sequence: Of a ProViCNet file, where its name does not state it.
        name: By default the folder's, else the network's (or the given bundle's own).
        keep_fusion_streams: Keep the fusion file's own first blocks, which upstream overwrites with those of the three
            networks' heads.
        export: Add the ONNX graph.
        overwrite: Replace the folder, if it holds a bundle.

    Raises:
        CheckpointError: A file holds no known network or what must not be loaded, or the files do not belong together.
        BundleError, OutputError: A bundle is damaged; the folder is taken or cannot be written.
        RuntimeUnavailableError: PyTorch, which reads the authors' files, is not installed.
    """
    paths = [expand_home(file) for file in files]
    for path in paths:
        if not path.is_file() and not path.is_dir():
            raise CheckpointError(f"There is no file '{path.name}'. Check its path.")
    target = None if folder is None else expand_home(folder)
    if len(paths) == 1 and (is_bundle_folder(paths[0]) or is_bundle_zip(paths[0])):
        if sequence is not None or keep_fusion_streams or not export:
            raise CheckpointError(
                f"'{paths[0].name}' is a bundle, which is taken as it is: leave out options of checkpoints."
            )
        final = _own_folder(name or name_of(paths[0])) if target is None else target
        with atomic_folder(final, overwrite, require_replaceable) as work:
            bundle = _copy(paths[0], work)
            if name is not None and name != bundle.name:
                change_block(bundle, "name", check_name(name))
        return read_bundle(final)
    if reason := missing_reason("torch", "safetensors", extra="torch"):
        raise RuntimeUnavailableError(f"Checkpoints are read with PyTorch, which is {reason}")
    from ..encoders.checkpoint import read_network

    wanted = None if sequence is None else Sequence(sequence)
    spec, state = read_network(paths, wanted, own_streams=keep_fusion_streams)
    family = family_of(spec)
    name = name or bundle_name(spec.name if target is None else target.name)
    bundle = Bundle(
        folder=Path(name),
        name=name,
        title=spec.title,
        version="1.0.0",
        spec=spec,
        arm=Arm.PRETRAINED,
        training={
            "source": [{"file": path.name, "sha256": file_sha256(path)} for path in paths],
            **family.import_record(spec, keep_fusion_streams),
        },
        license=family.weights_license,
        description=" ".join(filter(None, (f"{spec.title}.", _IMPORTED, family.weights_note))),
    )
    final = _own_folder(name) if target is None else target
    with atomic_folder(final, overwrite, require_replaceable) as work:
        bundle = write_bundle(replace(bundle, folder=work), state, overwrite=True)
        if export and spec.task is not None:
            from .onnx_export import export_onnx

            export_onnx(bundle)
    return read_bundle(final)


def _own_folder(name: str) -> Path:
    """Where a bundle of this name goes among the user's; BundleError where a shipped one has it."""
    require_free_name(name)
    return require_user_folder() / name


def bundle_name(text: str) -> str:
    """A bundle's name made of any text: lower-case, other characters than letters and digits as `-`."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")[:80] or "bundle"


def is_bundle_zip(path: Path) -> bool:
    """Whether it is a zip that holds a bundle; PyTorch's own files are zips too, and are none."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).match(METADATA) for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _copy(source: Path, target: Path) -> Bundle:
    """Copy a bundle's files from a folder or zip, and check that they are what the metadata state."""
    for name in (METADATA, WEIGHTS, ONNX, ONNX_CPU, "docs/README.md", "LICENSE"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            path = source / name
            if any(part.is_symlink() for part in (path, path.parent)):
                raise BundleError(f"{name} of the bundle is a link. Copy the file itself there.")
            if path.is_file():
                shutil.copyfile(path, target / name)
            continue
        with _opened(source) as (archive, members):
            if name in members:
                # zipfile reads no more than the directory of the zip states, and checks the CRC.
                with archive.open(members[name]) as packed, (target / name).open("wb") as file:
                    shutil.copyfileobj(packed, file, _BLOCK_BYTES)
    bundle = read_bundle(target)
    verify(bundle)
    # MONAI's tools evaluate it, so it is written again, not copied.
    (target / "configs" / "inference.json").write_text(dump(inference_config()), encoding="utf-8")
    return bundle


def name_of(path: Path) -> str:
    """The name that the metadata of a bundle's folder or zip state; BundleError where that can be none."""
    try:
        name = parse_json(read_text(path, METADATA))["vfm_transfer"]["name"]
    except (ValueError, LookupError, TypeError) as error:
        raise BundleError(f"The metadata in {path.name} do not state vfm_transfer.name. Get it again.") from error
    return check_name(name)


def read_text(path: Path, name: str) -> str:
    """The first 4 MB of one file of a bundle's folder or zip; empty where it is missing."""
    if path.is_dir():
        file = path / name
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    with _opened(path) as (archive, members):
        if name not in members:
            return ""
        with archive.open(members[name]) as packed:
            return packed.read(_MAX_TEXT_BYTES).decode("utf-8", "replace")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """A zip and the files of the one bundle in it, by their names in the bundle; BundleError where it is damaged.

    Only files of a bundle's names are ever read, so that no member is written outside of the target folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            found = [m.filename.removesuffix(METADATA) for m in members if PurePosixPath(m.filename).match(METADATA)]
            if len(found) != 1:
                raise BundleError(f"The zip holds {len(found)} bundles, not one. Import each alone.")
            inside = {m.filename.removeprefix(found[0]): m for m in members if m.filename.startswith(found[0])}
            size = sum(member.file_size for member in inside.values())
            if size > min(MAX_BUNDLE_BYTES, max(_SMALL_BYTES, _MAX_RATIO * path.stat().st_size)):
                raise BundleError(f"The zip would unpack to {size / 1e9:.1f} GB, which no bundle needs. Do not use it.")
            yield archive, inside
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BundleError(
            f"{path.name} is not a whole zip without a password ({error}). Get the bundle again."
        ) from error
