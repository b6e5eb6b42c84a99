"""Which bundles are on this machine: those shipped with the product, and the user's own."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ..core.errors import AmbiguousInputError, BundleError, OutputError
from ..core.files import expand_home, platform_folder, writing
from ..core.terms import Arm
from .bundle import Bundle, is_bundle_folder, read_bundle

FOLDER_VARIABLE = "VFM_TRANSFER_MODELS"
_PACKAGE = Path(__file__).resolve().parents[1]
# Beside the package in a clone and in Slicer, inside it in a wheel.
_SHIPPED = (_PACKAGE.parent / "Resources" / "Bundles", _PACKAGE / "resources" / "Bundles")


def shipped_folder() -> Path | None:
    """The folder of the bundles that came with the product, where there is one."""
    return next((folder for folder in _SHIPPED if folder.is_dir()), None)


def user_folder() -> Path | None:
    """The folder of the user's bundles: `VFM_TRANSFER_MODELS`, else the platform's data folder. It may not exist.

    None where no home is known: there are only the shipped bundles then.
    """
    stated = os.environ.get(FOLDER_VARIABLE)
    if stated:
        return expand_home(stated)
    if sys.platform == "win32":
        data = platform_folder("AppData/Local", "LOCALAPPDATA")
    elif sys.platform == "darwin":
        data = platform_folder("Library/Application Support")
    else:
        data = platform_folder(".local/share", "XDG_DATA_HOME")
    return None if data is None else data / "vfm-transfer" / "bundles"


def require_user_folder() -> Path:
    """The folder of the user's bundles, where one is written to; OutputError where no home is known."""
    folder = user_folder()
    if folder is None:
        raise OutputError(
            f"No home folder is known. Set {FOLDER_VARIABLE} to a folder for bundles, or name the folder."
        )
    return folder


@dataclass(frozen=True)
class Catalog:
    """Bundles that can be read, the shipped ones first, each group by name; and folder → sentence for the others."""

    bundles: tuple[Bundle, ...]
    broken: dict[Path, str]


def read_catalog() -> Catalog:
    """Read the metadata of every bundle on this machine."""
    bundles: list[Bundle] = []
    broken: dict[Path, str] = {}
    for folder in _bundle_folders():
        try:
            bundles.append(read_bundle(folder))
        except BundleError as error:
            broken[folder] = str(error)
    return Catalog(tuple(bundles), broken)


def list_bundles(task: str | None = None) -> list[Bundle]:
    """All bundles that can be read, or those of a task, in the order of `Catalog`."""
    return [bundle for bundle in read_catalog().bundles if task is None or bundle.spec.task == task]


def broken_bundles() -> dict[Path, str]:
    """Folder → sentence, for each bundle that cannot be read."""
    return read_catalog().broken


def as_bundle(bundle: Bundle | str | Path) -> Bundle:
    """The bundle itself, or the one that a name or folder stands for; see `find_bundle`."""
    return bundle if isinstance(bundle, Bundle) else find_bundle(bundle)


def find_bundle(name_or_path: str | Path) -> Bundle:
    """The bundle of a folder, or of a name in the catalog.

    BundleError where there is none or it is broken, with the names that there are; AmbiguousInputError where it has
    two.
    """
    path = expand_home(name_or_path)
    if is_bundle_folder(path) or isinstance(name_or_path, Path) or path.name != str(name_or_path):
        return read_bundle(path)
    folders = [folder for folder in _bundle_folders() if _name_of(folder) == path.name]
    if len(folders) > 1:
        places = ", ".join(map(str, folders))
        raise AmbiguousInputError(f"Several bundles are called '{path.name}': {places}. Give the folder instead.")
    if folders:
        return read_bundle(folders[0])
    known = ", ".join(dict.fromkeys(bundle.name for bundle in list_bundles())) or "none"
    raise BundleError(f"No bundle is called '{name_or_path}'. Installed: {known}. Choose one, or import it.")


def default_pair(task: str) -> tuple[Bundle, Bundle]:
    """The two arms that a comparison takes where none is named: pretrained, then scratch.

    Both are shipped and the same network; of several pairs the first by name. BundleError where none is shipped.
    """
    shipped = shipped_folder()
    bundles = list_bundles(task)
    for first, second in product([b for b in bundles if b.folder.parent == shipped], repeat=2):
        if (first.arm, second.arm) == (Arm.PRETRAINED, Arm.SCRATCH) and first.spec == second.spec:
            return first, second
    installed = ", ".join(bundle.name for bundle in bundles)
    remedy = f"Choose from {installed}." if installed else "Import one, or fine-tune one on your own data."
    raise BundleError(f"No pair of networks (pretrained and scratch) comes with the product for {task}. {remedy}")


def require_free_name(name: str) -> None:
    """BundleError where a bundle that came with the product has this name, which would then name two."""
    if any(_name_of(folder) == name for folder in _subfolders(shipped_folder())):
        raise BundleError(f"A bundle called '{name}' came with the product. Choose another name.")


def require_not_shipped(bundle: Bundle) -> None:
    """BundleError where it came with the product, whose files and checksums stay those that were published."""
    if bundle.folder.parent == shipped_folder():
        raise BundleError(
            f"'{bundle.name}' came with the product and stays as it is. Change a copy: "
            f"vfm-transfer models import '{bundle.folder}' --name NAME"
        )


def is_own(bundle: Bundle) -> bool:
    """Whether it lies in the user's folder, so that it can be removed."""
    return bundle.folder.parent == user_folder()


def remove_bundle(name: str) -> Path:
    """Delete a bundle of the user's by its name or its folder's, and return the folder that is gone.

    BundleError where the user's folder has no such bundle, AmbiguousInputError where it has two, OutputError where it
    cannot be deleted.
    """
    folders = _subfolders(user_folder())
    matches = [folder for folder in folders if name in (folder.name, _name_of(folder))]
    if len(matches) > 1:
        places = ", ".join(f"'{folder.name}'" for folder in matches)
        raise AmbiguousInputError(f"Several bundles are called '{name}', in the folders {places}. Name the folder.")
    if not matches:
        names = ", ".join(sorted(_name_of(folder) for folder in folders)) or "none"
        raise BundleError(f"'{name}' is not one of your own bundles: {names}. Shipped ones stay.")
    folder = matches[0]
    with writing(folder):
        # A link to a folder elsewhere goes, and what it points to stays.
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    return folder


def _bundle_folders() -> list[Path]:
    folders = (*_subfolders(shipped_folder()), *_subfolders(user_folder()))
    return list({folder.resolve(): folder for folder in folders}.values())


def _subfolders(root: Path | None) -> list[Path]:
    """Folders in `root` that hold a bundle; those being written begin with a dot."""
    if root is None or not root.is_dir():
        return []
    try:
        return sorted(f for f in root.iterdir() if not f.name.startswith(".") and is_bundle_folder(f))
    except OSError as error:
        raise BundleError(
            f"The folder of bundles '{root.name}' cannot be read ({error.strerror}). Check its permissions, or set "
            f"{FOLDER_VARIABLE} to another folder."
        ) from error


def _name_of(folder: Path) -> str:
    """The bundle's own name; the folder's where it cannot be read."""
    try:
        return read_bundle(folder).name
    except BundleError:
        return folder.name
