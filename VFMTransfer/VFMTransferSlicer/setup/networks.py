"""The networks on this computer: which are offered for a task, which are whole, how long they take, and their card."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from VFMTransferLib.bundles.bundle import Bundle, read_index
from VFMTransferLib.bundles.catalog import Catalog, default_pair, is_own
from VFMTransferLib.bundles.importing import is_bundle_folder, is_bundle_zip
from VFMTransferLib.core.errors import BundleError
from VFMTransferLib.core.terms import RESEARCH_USE, Arm
from VFMTransferLib.tasks import TASKS

_NON_COMMERCIAL = re.compile(r"\bNC\b|non-?\s?commercial", re.IGNORECASE)


@dataclass(frozen=True)
class Card:
    """What is shown of a network.

    Attributes:
        text: A few short lines.
        details: More of it, for the tooltip.
    """

    text: str
    details: str


def cardOf(bundle: Bundle) -> Card:
    """The card of a network."""
    isRestricted = isNonCommercial(bundle)
    lines = [
        f"{startOf(bundle)}, {_kindOf(bundle)}",
        trainedOn(bundle),
        *([f"Non-commercial use only: {bundle.license}"] if isRestricted else []),
        ", ".join([_megabytes(sizeOf(bundle)), *([] if isRestricted else [_licenseOf(bundle)])]),
    ]
    return Card("\n".join(lines), _details(bundle))


def startOf(bundle: Bundle) -> str:
    """Where its training started from."""
    return {Arm.PRETRAINED: "Pretrained", Arm.SCRATCH: "From scratch"}.get(bundle.arm, "No arm stated")


def trainedOn(bundle: Bundle) -> str:
    """On how many cases it was trained, as far as its metadata state it."""
    training = bundle.training
    recipe = training.get("config", training)
    split = recipe.get("split", {}) if isinstance(recipe, dict) else {}
    names = split.get("train") if isinstance(split, dict) else None
    names = names if isinstance(names, list) else []
    cases = [name for name in names if not str(name).startswith("phantom-")]
    phantoms = recipe.get("phantoms", {}) if isinstance(recipe, dict) else {}
    count = phantoms.get("count") if isinstance(phantoms, dict) else None
    if count is None:  # an arm of a transfer study states it in words
        stated = re.search(r"(\d+) phantoms", str(training.get("data", "")))
        count = int(stated[1]) if stated else len(names) - len(cases)
    parts = [_plural(len(cases), "case", "cases")] if cases else []
    parts += [_plural(count, "phantom", "phantoms")] if isinstance(count, int) and count > 0 else []
    return f"Trained on {' and '.join(parts)}" if parts else "Training data: see its card"


def isNonCommercial(bundle: Bundle) -> bool:
    """Whether its license forbids commercial use, as far as its name states."""
    return _NON_COMMERCIAL.search(bundle.license) is not None


def sizeOf(bundle: Bundle) -> int:
    """Bytes of its files of weights, as far as they are there."""
    paths = [bundle.folder / name for name in bundle.sha256]
    return sum(path.stat().st_size for path in paths if path.is_file())


def parameterCount(bundle: Bundle) -> int:
    """Numbers in its weights, by the header of their file.

    Raises:
        BundleError: The file is missing or damaged.
    """
    return sum(math.prod(tensor.shape) for tensor in read_index(bundle.weights_path).values())


def _licenseOf(bundle: Bundle) -> str:
    return bundle.license if bundle.license.count(" ") == 0 else f"license {bundle.license}"


def _kindOf(bundle: Bundle) -> str:
    if bundle.demonstration:
        return "demonstration network"
    return "published network" if "source" in bundle.training else "own network"


def _details(bundle: Bundle) -> str:
    attribution = bundle.training.get("attribution")
    lines = [
        bundle.title,
        bundle.description,
        attribution if isinstance(attribution, str) else "",
        f"Version {bundle.version}, {bundle.spec.title}, {_parameters(bundle)}, {bundle.spec.paper}",
        f"Checksum of the weights: {bundle.weights_sha256[:12]}…",
        RESEARCH_USE,
    ]
    return "\n\n".join(line for line in lines if line)


def _parameters(bundle: Bundle) -> str:
    try:
        return f"{parameterCount(bundle) / 1e6:.1f} M parameters"
    except BundleError:
        return "parameters unknown"


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def offered(catalog: Catalog, task: str) -> dict[str, Bundle]:
    """The networks for a task, by what the choice is stored as: the name, or the folder where two bear one name."""
    names = [bundle.name for bundle in catalog.bundles]
    return {
        bundle.name if names.count(bundle.name) == 1 else str(bundle.folder): bundle
        for bundle in catalog.bundles
        if bundle.spec.task == task
    }


def defaultChoice(catalog: Catalog, task: str) -> tuple[str, str]:
    """What is chosen where the user chose nothing: the shipped pair, else the first of each arm; empty for none."""
    choices = offered(catalog, task)
    try:
        wanted = [bundle.folder for bundle in default_pair(task)]
        pair = [key for folder in wanted for key, bundle in choices.items() if bundle.folder == folder]
    except BundleError:
        pair = [next((key for key, b in choices.items() if b.arm == arm), "") for arm in Arm]
    first, second = pair if len(pair) == 2 else ("", "")
    return first or next((key for key in choices if key != second), ""), second


def choiceUnavailableReason(catalog: Catalog, task: str, name: str) -> str:
    """A sentence where a choice is no network for the task here; empty where it is one, or nothing is chosen."""
    if not name or name in offered(catalog, task):
        return ""
    title = TASKS[task].title
    shown = Path(name).name
    if any(bundle.name == name or str(bundle.folder) == name for bundle in catalog.bundles):
        return f"Network '{shown}' is not for {title}. Choose another one."
    if any(folder.name == shown for folder in catalog.broken):
        return f"Network '{shown}' cannot be used, see below. Choose another one."
    return f"Network '{shown}' is not on this computer. Import it under Setup, or choose another one."


def taskTitle(catalog: Catalog, task: str) -> str:
    """The task's name; marked where there is no network."""
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


def importedText(bundle: Bundle, task: str | None) -> str:
    """The message on a network that was just imported; None for the task where another module is open."""
    if bundle.spec.task is None:
        return f"Imported '{bundle.title}'. It has no task of its own: it is a start for fine-tuning."
    if task is None:
        return f"Imported '{bundle.title}'."
    if bundle.spec.task == task:
        return f"Imported '{bundle.title}', and chose it."
    return f"Imported '{bundle.title}'. It is for {TASKS[bundle.spec.task].title}: choose that task to use it."
