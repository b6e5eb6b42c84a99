"""What the panel shows of a network, in a few short lines: where it comes from, how large it is, who may use it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.bundles.tensors import read_index
from VFMTransferLib.core.errors import BundleError
from VFMTransferLib.core.terms import RESEARCH_USE, Arm

_NON_COMMERCIAL = re.compile(r"\bNC\b|non-?\s?commercial", re.IGNORECASE)
_MOST_S = 90  # from here on in minutes


@dataclass(frozen=True)
class Card:
    """What is shown of a network.

    Attributes:
        text: A few short lines.
        details: More of it, for the tooltip.
    """

    text: str
    details: str


def cardOf(bundle: Bundle, files: str | None, last: tuple[float, str] | None) -> Card:
    """The card of a network.

    Args:
        bundle: The network.
        files: As `FileChecks.stateOf` says.
        last: As `RunTimes.last` says.
    """
    state = {None: "not checked", "": "intact"}.get(files, "damaged")
    time = "not run here yet" if last is None else f"took {_duration(last[0])} here ({last[1]})"
    restricted = [f"Non-commercial use only: {bundle.license}"] if isNonCommercial(bundle) else []
    license_ = [] if restricted else [_licenseOf(bundle)]
    lines = [
        *([files] if files else []),
        f"{startOf(bundle)}, {_kindOf(bundle)}",
        trainedOn(bundle),
        *restricted,
        ", ".join([_megabytes(sizeOf(bundle)), *license_, state, time]),
    ]
    return Card("\n".join(lines), _details(bundle))


def startOf(bundle: Bundle) -> str:
    """Where its training started from."""
    return {Arm.PRETRAINED: "Pretrained", Arm.SCRATCH: "From scratch"}.get(bundle.arm, "No arm stated")


def trainedOn(bundle: Bundle) -> str:
    """On how many studies it was trained, as far as its metadata say."""
    training = bundle.training
    recipe = training.get("recipe", training.get("config", training))
    split = recipe.get("split", {}) if isinstance(recipe, dict) else {}
    names = split.get("train") if isinstance(split, dict) else None
    names = names if isinstance(names, list) else []
    studies = [name for name in names if not str(name).startswith("phantom-")]
    phantoms = recipe.get("phantoms", {}) if isinstance(recipe, dict) else {}
    count = phantoms.get("count") if isinstance(phantoms, dict) else None
    if count is None:  # a study's arm says it in words
        said = re.search(r"(\d+) phantoms", str(training.get("data", "")))
        count = int(said[1]) if said else len(names) - len(studies)
    parts = [_plural(len(studies), "study", "studies")] if studies else []
    parts += [_plural(count, "phantom", "phantoms")] if isinstance(count, int) and count > 0 else []
    return f"Trained on {' and '.join(parts)}" if parts else "Training data: see its card"


def isNonCommercial(bundle: Bundle) -> bool:
    """Whether its license forbids commercial use, as far as its name tells."""
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
    recipe = bundle.training.get("recipe")
    attribution = recipe.get("attribution") if isinstance(recipe, dict) else None
    lines = [
        bundle.title,
        bundle.description,
        attribution,
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


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _MOST_S else f"{seconds / 60:.0f} min"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
