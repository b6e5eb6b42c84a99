"""A case and a bundle in, a result out. `save_result` writes it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .bundle import Bundle
from .case import Case
from .catalog import as_bundle
from .errors import BundleError, OutOfMemoryError
from .inference import Session, infer
from .inputs import CaseInputs, OpenNetwork
from .placement import Prepared
from .postprocess import postprocess
from .restored import PHASE_AXES
from .result import Provenance, Result
from .result_files import save_result
from .runtimes import open_session
from .stages import OnProgress, StageClock
from .tasks import TASKS
from .terms import TaskId
from .version import __version__
from .volume import Volume

__all__ = ["predict", "predict_each", "predict_in_turn", "save_result"]

# What `predict` takes beside the network and where it runs, and a result records; see `Provenance.options`.
DEFAULT_OPTIONS = {"crop": "auto", "threshold": None, "only_cspca": False, "phase_axis": "left-right"}
_PACKAGES = ("numpy", "scipy", "SimpleITK")
_NO_MEMORY = ("bad_alloc", "failed to allocate memory", "memory allocation")


def predict(
    case: Case,
    bundle: Bundle | str | Path,
    runtime: str = "auto",
    device: str = "auto",
    on_progress: OnProgress | None = None,
    *,
    precision: str = "auto",
    gland: Volume | None = None,
    roi: Volume | None = None,
    crop: str = "auto",
    threshold: float | None = None,
    only_cspca: bool = False,
    phase_axis: str = "left-right",
    open_network: OpenNetwork | None = None,
) -> Result:
    """Run one network on one case; the case stays as it is.

    Args:
        case: The study.
        bundle: The network: a bundle, its folder, or the name of an installed one.
        runtime: `auto`, `onnx` or `torch`.
        device: `auto`, or a device of the runtime.
        on_progress: Called with the stage (`read`, `preprocess`, `infer`, `postprocess`) and the fraction of the whole
            that is done; what it raises stops the run.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        gland: Mask of the prostate, before the case's own. Without one, networks that profit from knowing where the
            gland is get it from the shipped gland network, and the result's notes say so.
        roi: Mask of a region of interest: networks that see one crop see the one around it, and nothing is marked
            outside of it. Class probabilities and images are not cut.
        crop: `auto`, `gland` or `center`; see `preprocess.prepare`.
        threshold: Probability above which a voxel counts, instead of the network's own.
        only_cspca: Of a network that knows cancer grades, mark clinically significant cancer alone.
        phase_axis: Along which axis diffusion images are distorted: `left-right` or `anterior-posterior`.
        open_network: Gives the loaded network of a bundle, for callers that keep networks loaded.

    Raises:
        MissingSequenceError: The case lacks a sequence, or a gland mask that cannot be had otherwise.
        ImageError: A mask is empty, or lies outside the images.
        BundleError: The bundle predicts nothing, or is broken.
        RuntimeUnavailableError: The runtime or device is not on this machine.
        OutOfMemoryError: Memory ran out.
    """
    return predict_each(
        case,
        [bundle],
        runtime,
        device,
        on_progress,
        precision=precision,
        gland=gland,
        roi=roi,
        crop=crop,
        threshold=threshold,
        only_cspca=only_cspca,
        phase_axis=phase_axis,
        open_network=open_network,
    )[0]


def predict_each(
    case: Case,
    bundles: Sequence[Bundle | str | Path],
    runtime: str = "auto",
    device: str = "auto",
    on_progress: OnProgress | None = None,
    **options: Any,
) -> list[Result]:
    """Run several networks on one case, preparing it once for all that take the same input; see `predict`."""
    return list(predict_in_turn(case, bundles, runtime, device, on_progress, **options))


def predict_in_turn(
    case: Case,
    bundles: Sequence[Bundle | str | Path],
    runtime: str = "auto",
    device: str = "auto",
    on_progress: OnProgress | None = None,
    *,
    precision: str = "auto",
    gland: Volume | None = None,
    roi: Volume | None = None,
    crop: str = "auto",
    threshold: float | None = None,
    only_cspca: bool = False,
    phase_axis: str = "left-right",
    open_network: OpenNetwork | None = None,
) -> Iterator[Result]:
    """As `predict_each`, but each result is given as soon as it is there; what cannot run is refused at once.

    A network that fails while it runs raises in its turn, and the next one can be asked for all the same.
    """
    if phase_axis not in PHASE_AXES:
        raise ValueError(f"The phase axis must be one of {', '.join(PHASE_AXES)}, got '{phase_axis}'.")
    networks = [as_bundle(bundle) for bundle in bundles]
    for network in networks:
        require_fit(case, network)
    opened = open_network or partial(open_session, runtime=runtime, device=device, precision=precision)
    options = {"crop": crop, "threshold": threshold, "only_cspca": only_cspca, "phase_axis": phase_axis}
    inputs = CaseInputs(case, gland, crop, opened, roi)
    finish = partial(postprocess, threshold=threshold, only_cspca=only_cspca, phase_axis=phase_axis, roi=roi)

    def run(i: int) -> Result:
        with memory_checked():
            clock = StageClock(on_progress, i / len(networks), 1 / len(networks))
            result = _predict_one(inputs, networks[i], finish, clock)
            return replace(result, provenance=replace(result.provenance, seconds=dict(clock.seconds), options=options))

    return map(run, range(len(networks)))


def require_fit(case: Case, bundle: Bundle, task: TaskId | None = None) -> None:
    """Raise unless the bundle can say something of the case.

    Args:
        case: The study.
        bundle: The network.
        task: What is wanted; any by default.

    Raises:
        BundleError: The bundle is an encoder alone, or was made for another task.
        MissingSequenceError: The case lacks a sequence.
    """
    made_for = require_task(bundle, task)
    case.require(sequence for sequence in bundle.spec.preprocess.sequences if sequence is not None)
    if TASKS[made_for].output == "image":
        case.require([TASKS[made_for].reference])


def require_task(bundle: Bundle, task: TaskId | None = None) -> TaskId:
    """The task that a bundle was made for.

    Raises:
        BundleError: It is an encoder alone, or was made for another task than the one wanted.
    """
    if bundle.spec.task is None:
        raise BundleError(
            f"Bundle '{bundle.name}' must have a head to predict, but is an encoder alone, a start for fine-tuning. "
            "Choose a fine-tuned one."
        )
    if task is not None and bundle.spec.task != task:
        raise BundleError(
            f"Bundle '{bundle.name}' must be for task {task}, but is for {bundle.spec.task}. Choose one for {task}."
        )
    return bundle.spec.task


def _predict_one(inputs: CaseInputs, bundle: Bundle, finish: Callable[..., Result], clock: StageClock) -> Result:
    case, spec = inputs.case, bundle.spec
    with clock.stage("read"):
        session = inputs.open_network(bundle)
    with clock.stage("preprocess") as on_window:
        look: tuple[Prepared, tuple[str, ...]] | None = inputs.of(spec, on_window)
    while look is not None:
        prepared, notes = look
        with clock.stage("infer") as on_window:
            logits = infer(session, prepared, spec, on_window)
        with clock.stage("postprocess"):
            source = _provenance(bundle, session).with_notes(*case.notes, *notes)
            known = {"gland": inputs.known_gland, "zones": inputs.zones, "calibration": bundle.calibration}
            result = finish(logits, prepared, case, spec, source, **known)
            look = inputs.around(result, prepared, spec)
    return result


def _provenance(bundle: Bundle, session: Session) -> Provenance:
    versions = {"vfm-transfer": __version__, "python": platform.python_version()}
    versions |= {package: version(package) for package in _PACKAGES}
    return Provenance(
        bundle=bundle.name,
        title=bundle.title,
        arm=str(bundle.arm or ""),
        sha256=bundle.weights_sha256,
        runtime=session.runtime,
        device=session.device,
        precision=session.precision,
        versions={**versions, **session.versions},
        notes=tuple(session.notes),
    )


@contextmanager
def memory_checked() -> Iterator[None]:
    """Say in one sentence that memory ran out, whoever noticed it.

    Raises:
        OutOfMemoryError: It did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
            raise OutOfMemoryError(
                "The memory must hold the images and the network's window, but ran out. Close other programs, crop the "
                "images, or choose a smaller network."
            ) from error
        raise
