"""From the authors' own files, or a bundle that came from elsewhere, to a bundle of the user's.

Of a bundle, a folder or a zip, only what a bundle holds is copied, and nothing outside it.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
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
    read_index,
    require_replaceable,
    verify,
    write_bundle,
)
from .catalog import require_free_name, require_user_folder
from .metadata import METADATA, ONNX, ONNX_CPU, WEIGHTS, inference_config

_IMPORTED = "Imported from the authors' released weights."
# `configs/inference.json` is not copied: MONAI's tools evaluate it, so it is written again.
_REQUIRED = (METADATA, WEIGHTS)
_OPTIONAL = (ONNX, ONNX_CPU, "docs/README.md", "LICENSE")
MAX_BUNDLE_BYTES = 4 * 2**30
MAX_MEMBERS = 1000
# Weights hardly shrink; an archive that grows a hundredfold is made to fill the disk.
MAX_RATIO = 100
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
        if not path.exists():
            raise CheckpointError(f"File '{path.name}' must exist, but does not. Check its path.")
        if not path.is_file() and not path.is_dir():  # a pipe, which may never be written to
            raise CheckpointError(f"'{path.name}' must be a file or a bundle's folder, but is neither. Check its path.")
    target = None if folder is None else expand_home(folder)
    if len(paths) == 1 and (is_bundle_folder(paths[0]) or is_bundle_zip(paths[0])):
        if sequence is not None or keep_fusion_streams or not export:
            raise CheckpointError(
                f"'{paths[0].name}' must be a checkpoint for a sequence, fusion streams or an ONNX graph to be chosen, "
                "but is a bundle, which is taken as it is. Leave these options out."
            )
        final = _own_folder(name or name_of(paths[0])) if target is None else target
        with atomic_folder(final, overwrite, require_replaceable) as work:
            bundle = _copy(paths[0], work)
            if name is not None and name != bundle.name:
                change_block(bundle, "name", check_name(name))
        return read_bundle(final)
    reason = missing_reason("torch", "safetensors", extra="torch")
    if reason:
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
    with _opened(path) as archive:
        return any(PurePosixPath(name).match(METADATA) for name in archive.namelist())


def _copy(source: Path, target: Path) -> Bundle:
    """Copy a bundle's files from a folder or zip, and check that they are what the metadata state."""
    if source.is_dir():
        for name in (*_REQUIRED, *_OPTIONAL):
            path = source / name
            if any(part.is_symlink() for part in (path, path.parent)):
                raise BundleError(f"{name} of the bundle must be a file, but is a link. Copy the file itself there.")
            if path.is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / name)
            elif name in _REQUIRED:
                raise BundleError(f"The bundle must contain {name}, but it is missing. Get the bundle again.")
    else:
        with _opened(source) as archive:
            members = _members(archive, source)
            for name in (*_REQUIRED, *_OPTIONAL):
                if name in members:
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    with (target / name).open("wb") as file:
                        file.writelines(_content(archive, members[name], _BLOCK_BYTES))
                elif name in _REQUIRED:
                    inside = members[METADATA].filename.removesuffix(METADATA) + name
                    raise BundleError(f"The zip must contain {inside}, but does not. Get it again.")
    bundle = read_bundle(target)
    verify(bundle)
    read_index(bundle.weights_path)
    (target / "configs" / "inference.json").write_text(dump(inference_config()), encoding="utf-8")
    return bundle


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, block_bytes: int) -> Iterator[bytes]:
    """A member's content in blocks; as much as the directory of the zip promises, and no more."""
    remaining = member.file_size
    try:
        with archive.open(member) as packed:
            while block := packed.read(min(block_bytes, remaining + 1)):
                remaining -= len(block)
                if remaining < 0:
                    raise BundleError(
                        f"{member.filename} in the zip must be {member.file_size} bytes as stated, but is larger. "
                        "Do not use it."
                    )
                yield block
    except (OSError, zlib.error, lzma.LZMAError) as error:  # OSError is also that of damaged bzip2
        raise zipfile.BadZipFile(f"{member.filename}: {error}") from error


def name_of(path: Path) -> str:
    """The name that the metadata of a bundle's folder or zip state; BundleError where that can be none."""
    try:
        name = parse_json(read_text(path, METADATA))["vfm_transfer"]["name"]
    except (ValueError, LookupError, TypeError) as error:
        raise BundleError(
            f"The metadata in {path.name} must state vfm_transfer.name, but do not. Get it again."
        ) from error
    return check_name(name)


def read_text(path: Path, name: str) -> str:
    """One small file of a bundle's folder or zip; empty where it is missing."""
    if path.is_dir():
        file = path / name
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    with _opened(path) as archive:
        member = _members(archive, path).get(name)
        if member is None:
            return ""
        return next(_content(archive, member, _MAX_TEXT_BYTES), b"").decode("utf-8", "replace")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise BundleError(
            f"{path.name} must be a whole zip without a password, but is not ({error}). Get it again."
        ) from error


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files of the one bundle in a zip, once no member is outside of it or a link, and all are not too large."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise BundleError(f"The zip of a bundle must hold at most {MAX_MEMBERS} files, but holds {len(members)}.")
    for name, attributes in ((member.filename, member.external_attr) for member in members):
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name or ":" in name:
            raise BundleError(f"The zip must stay inside its own folder, but holds '{name}'. Do not use it.")
        if stat.S_ISLNK(attributes >> 16):
            raise BundleError(f"The zip must hold no links, but '{name}' is one. Do not use it.")
    total = sum(member.file_size for member in members)
    bound = min(MAX_BUNDLE_BYTES, max(_SMALL_BYTES, MAX_RATIO * path.stat().st_size))
    if total > bound:
        raise BundleError(f"The zip must unpack to at most {bound / 1e9:.1f} GB, but states {total / 1e9:.1f} GB.")
    found = [m.filename.removesuffix(METADATA) for m in members if PurePosixPath(m.filename).match(METADATA)]
    if len(found) != 1:
        raise BundleError(f"The zip must hold one bundle, but holds {len(found)}. Import each alone.")
    return {m.filename.removeprefix(found[0]): m for m in members if m.filename.startswith(found[0])}
