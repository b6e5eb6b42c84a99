"""From the authors' own files, or a bundle that came from elsewhere, to a bundle of the user's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..core.errors import CheckpointError, OutputError, RuntimeUnavailableError
from ..core.files import atomic_folder
from ..core.machine import missing_reason
from ..core.terms import Arm, Sequence
from ..encoders.base import family_of
from .archive import copy_folder, extract_zip, is_bundle_folder, is_bundle_zip, name_of
from .bundle import Bundle, file_sha256, read_bundle, rename, write_bundle
from .catalog import user_folder

_IMPORTED = "Imported from the authors' released weights."


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
        files: One checkpoint as its authors released it; ProViCNet's three and its fusion file together; or one
            bundle, as a folder or a zip.
        folder: Where the bundle shall be; by default a folder of its name among the user's bundles.
        sequence: Of a ProViCNet file, where its name does not say it.
        name: The bundle's name; by default the folder's, else the network's (or the given bundle's own).
        keep_fusion_streams: Keep the fusion file's own first blocks, which upstream overwrites with those of the
            three networks' heads.
        export: Add the ONNX graph.
        overwrite: Replace the folder, if it holds a bundle.

    Raises:
        CheckpointError: A file holds no known network, holds what must not be loaded, or the files do not belong
            together.
        BundleError: A bundle is damaged, or its metadata are wrong.
        OutputError: The folder is taken or cannot be written.
        RuntimeUnavailableError: PyTorch, which reads the authors' files, is not installed.
    """
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if not path.exists():
            raise CheckpointError(f"File '{path.name}' must exist, but does not. Check its path.")
    target = None if folder is None else Path(folder).expanduser()
    if len(paths) == 1 and (is_bundle_folder(paths[0]) or is_bundle_zip(paths[0])):
        return _import_bundle(paths[0], target, name, overwrite)
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
    final = target or user_folder() / name
    _require_bundle(final, overwrite)
    with atomic_folder(final, overwrite) as work:
        bundle = write_bundle(replace(bundle, folder=work), state, overwrite=True)
        if export and spec.task is not None:
            from .onnx_export import export_onnx

            export_onnx(bundle)
    return read_bundle(final)


def bundle_name(text: str) -> str:
    """A bundle's name made of any text: lower-case, other characters than letters and digits as `-`."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")[:80] or "bundle"


def _import_bundle(source: Path, target: Path | None, name: str | None, overwrite: bool) -> Bundle:
    """Copy a bundle into place once all of it is found right."""
    final = target or user_folder() / (name or name_of(source))
    _require_bundle(final, overwrite)
    with atomic_folder(final, overwrite) as work:
        bundle = extract_zip(source, work) if source.is_file() else copy_folder(source, work)
        if name is not None and name != bundle.name:
            rename(bundle, name)
    return read_bundle(final)


def _require_bundle(folder: Path, overwrite: bool) -> None:
    """Raise where a bundle would take the place of something else, as of the folder that holds all bundles.

    Raises:
        OutputError: It would.
    """
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if overwrite and not is_free and not is_bundle_folder(folder):
        raise OutputError(
            f"'{folder.name}' must be a bundle to be replaced, but holds something else. Choose another folder."
        )
