"""The networks on this computer: which are offered for a task, which are whole, how long they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from VFMTransferLib.bundles.archive import is_bundle_folder, is_bundle_zip
from VFMTransferLib.bundles.bundle import Bundle, verify
from VFMTransferLib.bundles.catalog import Catalog, default_pair, is_own
from VFMTransferLib.core.errors import BundleError, ChecksumError
from VFMTransferLib.core.terms import Arm, TaskId
from VFMTransferLib.tasks import TASKS

from .network_card import sizeOf

# Reading and hashing so much takes far less than the 100 ms for which the window may stand still.
_CHECKED_AT_ONCE_BYTES = 8 * 2**20
_SECONDS = "VFMTransfer/Seconds"


class Store(Protocol):
    """What outlives Slicer; a `qt.QSettings`."""

    def value(self, key: str, default: str) -> str: ...

    def setValue(self, key: str, value: str) -> None: ...


class FileChecks:
    """Remembers of each network whether its files are what its metadata say, until one of them changes."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], str] = {}

    def stateOf(self, bundle: Bundle) -> str | None:
        """Empty where the files are intact, a sentence where not; None where nobody looked yet.

        Small ones are looked at now.
        """
        mark = _markOf(bundle)
        if mark not in self._found and sizeOf(bundle) <= _CHECKED_AT_ONCE_BYTES:
            self.note(bundle, _whyDamaged(bundle))
        return self._found.get(mark)

    def note(self, bundle: Bundle, sentence: str) -> None:
        """Remember what was found: a sentence about the damage, empty for none."""
        self._found[_markOf(bundle)] = sentence


class RunTimes:
    """How long each network took the last time, on which device.

    Args:
        store: Keeps it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def remember(self, numbers: dict[str, Any]) -> None:
        """Take the seconds of a result; `numbers` is the content of its `result.json`."""
        model = numbers["model"]
        known = self._known(model["sha256"])
        known.pop(model["device"], None)  # the latest stands last
        known[model["device"]] = round(sum(numbers["seconds"].values()), 1)
        self._store.setValue(_keyOf(model["sha256"]), json.dumps(known))

    def last(self, bundle: Bundle, device: str = "") -> tuple[float, str] | None:
        """Seconds and device of the last run; None where there was none here.

        Args:
            bundle: The network.
            device: Of the last run on this one; empty for any.
        """
        known = self._known(bundle.weights_sha256)
        if not device:
            return next(((seconds, name) for name, seconds in reversed(known.items())), None)
        found = next((name for name in (device, f"{device}:0") if name in known), None)
        return None if found is None else (known[found], found)

    def _known(self, sha256: str) -> dict[str, float]:
        try:
            known = json.loads(self._store.value(_keyOf(sha256), "{}"))
        except (TypeError, ValueError):  # somebody edited the settings; they are written anew with the next run
            return {}
        return known if isinstance(known, dict) else {}


def offered(catalog: Catalog, task: TaskId | str) -> dict[str, Bundle]:
    """The networks for a task, by what the choice is stored as: the name, or the folder where two bear one name."""
    names = [bundle.name for bundle in catalog.bundles]
    return {
        bundle.name if names.count(bundle.name) == 1 else str(bundle.folder): bundle
        for bundle in catalog.bundles
        if bundle.spec.task == task
    }


def defaultChoice(catalog: Catalog, task: TaskId | str) -> tuple[str, str]:
    """What is chosen where the user chose nothing: the shipped pair, else the first of each arm; empty for none."""
    choices = offered(catalog, task)
    try:
        wanted = [bundle.folder for bundle in default_pair(TaskId(task))]
        pair = [key for folder in wanted for key, bundle in choices.items() if bundle.folder == folder]
    except BundleError:
        pair = [next((key for key, b in choices.items() if b.arm == arm), "") for arm in Arm]
    first, second = pair if len(pair) == 2 else ("", "")
    return first or next((key for key in choices if key != second), ""), second


def whyNotChosen(catalog: Catalog, task: TaskId | str, name: str) -> str:
    """A sentence where a choice is no network for the task here; empty where it is one, or nothing is chosen."""
    if not name or name in offered(catalog, task):
        return ""
    title = TASKS[TaskId(task)].title
    shown = Path(name).name
    if any(bundle.name == name or str(bundle.folder) == name for bundle in catalog.bundles):
        return f"Network '{shown}' is not for {title}. Choose another one."
    if any(folder.name == shown for folder in catalog.broken):
        return f"Network '{shown}' cannot be used, see below. Choose another one."
    return f"Network '{shown}' is not on this computer. Import it under Set-up, or choose another one."


def taskTitle(catalog: Catalog, task: TaskId) -> str:
    """The task's name; those for which there is no network say so."""
    title = TASKS[task].title
    return title if offered(catalog, task) else f"{title} (no network installed)"


def brokenText(catalog: Catalog) -> str:
    """What is wrong with the networks that cannot be used; empty where all can."""
    return "\n".join(f"'{folder.name}' cannot be used: {why}" for folder, why in catalog.broken.items())


def canDelete(bundle: Bundle) -> str:
    """A sentence where a network cannot be deleted; empty where it can."""
    return "" if is_own(bundle) else "It came with the extension, and stays."


def needsTorch(paths: list[Path]) -> bool:
    """Whether importing these files takes PyTorch, as checkpoints of the networks' authors do."""
    return not (len(paths) == 1 and (is_bundle_folder(paths[0]) or is_bundle_zip(paths[0])))


def importedText(bundle: Bundle, task: TaskId | str) -> str:
    """What is said of a network that was just imported."""
    if bundle.spec.task == task:
        return f"Imported '{bundle.title}', and chose it."
    if bundle.spec.task is None:
        return f"Imported '{bundle.title}'. It has no task of its own: it is a start for fine-tuning."
    return f"Imported '{bundle.title}'. It is for {TASKS[bundle.spec.task].title}: choose that task to use it."


def _markOf(bundle: Bundle) -> tuple[object, ...]:
    """Changes when one of the files does."""
    paths = [bundle.folder / name for name in bundle.sha256]
    stats = [path.stat() if path.is_file() else None for path in paths]
    return bundle.folder, *((stat.st_size, stat.st_mtime_ns) if stat else None for stat in stats)


def _whyDamaged(bundle: Bundle) -> str:
    try:
        verify(bundle)
    except (BundleError, ChecksumError) as error:
        return str(error)
    return ""


def _keyOf(sha256: str) -> str:
    return f"{_SECONDS}/{sha256[:16]}"
