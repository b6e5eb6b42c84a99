"""What was measured on this machine, and kept: which device runs a network fastest, whether less precision keeps it.

Kept in `measured.json` of the user's cache folder, by processor, version of the runtime and checksum of the weights,
precision by GPUs and checksums of the graphs too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..bundles.bundle import Bundle
from ..core.errors import OutOfMemoryError, OutputError, RuntimeUnavailableError
from ..core.files import atomic_file, cache_folder
from ..core.machine import cpu_name, nvidia_gpus
from ..core.notes import Note
from ..encoders.inputs import prepare
from ..phantom import make_phantom
from ..tasks import task_of
from ..tasks.base import activated
from .windows import network_input

MIN_AGREEMENT = 0.99
"""With fp32, below which less precision is refused: Dice of each structure, or 1 - relative error. Ours."""
_FILE = "measured.json"
# A prostate with a significant lesion, on the coarsest grid that shows it: with voxels of 0.6 mm a phantom takes three
# times as long, and shipped networks agree as far to .002, super-resolution to .008.
_PHANTOM_SEED = 5
_SPACING_MM = (1.0, 1.0, 3.0)
_MIN_VOXELS = 20  # of a structure, below which its Dice is chance
_REPEATS = 3

Run = Callable[..., np.ndarray]


def check_input(bundle: Bundle) -> tuple[np.ndarray, ...]:
    """Of one phantom one window of the network's input, that in the middle: the same on every machine."""
    phantom = make_phantom(_PHANTOM_SEED, t2w_spacing_mm=_SPACING_MM)
    prepared = prepare(phantom.case, bundle.spec, task_of(bundle.spec), gland=phantom.gland)
    return network_input(prepared, bundle.spec, prepared.starts[len(prepared.starts) // 2])


def agreement(bundle: Bundle, exact: np.ndarray, found: np.ndarray) -> float:
    """How far logits (1, C, ...) of one input agree, 1 at best: the lowest Dice of a structure, or 1 - relative error.

    Dice where classes are decided by voxel, and enough voxels are of one; else the error's norm relative to the
    exact values', or probabilities'.
    """
    spec, values = bundle.spec, (exact[0], found[0])
    if spec.activation == "none":
        return _closeness(*values)
    probable = [activated(value, spec.activation) for value in values]
    if spec.head.is_vector:
        return _closeness(*probable)
    if spec.activation == "softmax":
        marked = [[value.argmax(axis=0) == label for label in range(1, len(value))] for value in probable]
    else:
        marked = [list(value > spec.threshold) for value in probable]
    dice = [
        2 * float((a & b).sum()) / float(a.sum() + b.sum())
        for a, b in zip(*marked, strict=True)
        if a.sum() + b.sum() >= 2 * _MIN_VOXELS
    ]
    return min(dice, default=_closeness(*probable))


def require_precision(
    bundle: Bundle, runtime: str, version: str, device: str, precision: str, run: Run, exact: Run
) -> Note:
    """A note on how far a network in less precision agrees with fp32 on the check input.

    Measured at the first use of a bundle on a device, then kept.

    Args:
        run, exact: The network in the precision, and in fp32.

    Raises:
        RuntimeUnavailableError: It is below `MIN_AGREEMENT`.
    """
    files = [bundle.sha256[file] for file in sorted(bundle.sha256)]
    key = [*files, runtime, version, device, precision, cpu_name(), *nvidia_gpus()]
    found = _recall("agreement", key)
    if found is None:
        inputs = check_input(bundle)
        found = agreement(bundle, exact(*inputs), run(*inputs))
        _keep("agreement", key, found)
    if not found >= MIN_AGREEMENT:
        raise RuntimeUnavailableError(
            f"Bundle '{bundle.name}' in {precision} on device '{device}' must agree with fp32 to {MIN_AGREEMENT:g} on "
            f"the check phantom, but does so to {found:.3f} only. Choose fp32."
        )
    return Note("precision", f"In {precision} the network agrees with fp32 to {found:.4f} on the check phantom.")


def measure_devices(
    bundle: Bundle, devices: Sequence[str], open_on: Callable[[str], Run], version: str
) -> dict[str, float]:
    """Median seconds of one window on each device that starts; kept, so that `auto` takes the fastest from now on."""
    inputs = check_input(bundle)
    seconds = {}
    for device in devices:
        try:
            run = open_on(device)
            run(*inputs)
            seconds[device] = float(np.median([_seconds(run, inputs) for _ in range(_REPEATS)]))
        except (RuntimeUnavailableError, OutOfMemoryError):
            continue
    _keep("seconds", [bundle.weights_sha256, version, cpu_name()], seconds)
    return seconds


def fastest_first(bundle: Bundle, devices: Sequence[str], version: str) -> list[str]:
    """Devices, those that were measured with this bundle before the others and the fastest of them first."""
    seconds = _recall("seconds", [bundle.weights_sha256, version, cpu_name()])
    known = seconds if isinstance(seconds, dict) else {}
    return sorted(devices, key=lambda device: known.get(device, np.inf))


def _closeness(exact: np.ndarray, found: np.ndarray) -> float:
    return 1 - float(np.linalg.norm(found - exact) / max(np.linalg.norm(exact), np.finfo(np.float32).tiny))


def _seconds(run: Run, inputs: tuple[np.ndarray, ...]) -> float:
    start = time.perf_counter()
    run(*inputs)
    return time.perf_counter() - start


def _read() -> dict[str, Any]:
    """What is kept; nothing where the file is missing or damaged, since it can be measured again."""
    folder = cache_folder()
    if folder is None:
        return {}
    try:
        document = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _recall(kind: str, key: Sequence[str]) -> Any:
    kept = _read().get(kind)
    return kept.get("|".join(key)) if isinstance(kept, dict) else None


def _keep(kind: str, key: Sequence[str], value: Any) -> None:
    folder, document = cache_folder(), _read()
    if folder is None:
        return
    kept = document.get(kind)
    document[kind] = {**(kept if isinstance(kept, dict) else {}), "|".join(key): value}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / _FILE) as part:
            part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except (OSError, OutputError):
        return  # without a folder to write to, it is measured again next time
