"""Stages of one network's run: how long each took, and how far the whole is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Sequence_of_abc
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..bundles.bundle import Bundle
from ..bundles.catalog import as_bundle, default_pair
from ..core.case import Case
from ..core.errors import BundleError, MissingSequenceError, OutOfMemoryError
from ..core.placement import Prepared
from ..core.region import RESTORED_NOTE, RIM_NOTE, Bounds
from ..core.result import Provenance, Result
from ..core.terms import Label, Sequence, TaskId
from ..core.version import __version__
from ..core.volume import Volume
from ..encoders.base import ModelSpec
from ..encoders.preparation import needs_gland, prepare
from ..io.results import save_result
from ..tasks.base import TASKS
from ..tasks.decoding import postprocess, reaches_edge
from ..tasks.images import PHASE_AXES
from .runtimes import open_session
from .windows import OnWindow, Session, infer

OnProgress = Callable[[str, float], None]

# How much of the time each stage takes, roughly, for the progress that is shown.
STAGE_SHARES = {"read": 0.1, "preprocess": 0.1, "infer": 0.7, "postprocess": 0.1}


class StageClock:
    """Seconds per stage of one network's run, and the fraction of all runs that is done.

    Args:
        on_progress: Whom to tell; may be None.
        start: Fraction that was done before this run.
        share: Fraction that this run is of all.
    """

    def __init__(self, on_progress: OnProgress | None, start: float, share: float) -> None:
        self.seconds: dict[str, float] = {}
        self._on_progress = on_progress or (lambda stage, fraction: None)
        self._done = start
        self._share = share
        self._end = start + share

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a stage; what is given takes the fraction of the stage that is done."""
        # A network that looks a second time stays at the end of its share meanwhile.
        share = min(STAGE_SHARES[name] * self._share, self._end - self._done)
        self._on_progress(name, self._done)
        begin = time.perf_counter()
        reached = 0.0

        def on_part(fraction: float) -> None:
            nonlocal reached
            reached = max(reached, fraction)  # a gland network may look a second time
            self._on_progress(name, self._done + share * reached)

        yield on_part
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        self._done += share
        self._on_progress(name, self._done)


# Inputs of one case for many networks: each made once, with the gland found by a network where nobody drew it.

ZONE_LABELS = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)

SECOND_LOOK_NOTE = (
    "The prostate reached the edge of the middle crop, so the network looked a second time, around what it had found."
)

OpenNetwork = Callable[[Bundle], Session]


@dataclass
class CaseInputs:
    """The inputs that networks take of one case.

    Attributes:
        case: The study; it stays as it is.
        gland: Mask of the prostate, before the case's own.
        crop, roi: As in `preprocess.prepare`.
        open_network: Gives the loaded network of a bundle.
    """

    case: Case
    gland: Volume | None
    crop: str
    open_network: OpenNetwork
    roi: Volume | None = None
    _made: dict[object, tuple[Prepared, tuple[str, ...]]] = field(default_factory=dict)
    _found: tuple[Result | None, str] | None = None

    def of(self, spec: ModelSpec, on_window: OnWindow | None = None) -> tuple[Prepared, tuple[str, ...]]:
        """The input of a network, and what was decided for it, in sentences.

        Args:
            spec: The network.
            on_window: Called with the fraction that is done where the gland is looked for; may raise to stop.

        Raises:
            MissingSequenceError: The network needs a gland mask, and none can be had.
        """
        key = (spec.family, spec.task, spec.preprocess)
        if key not in self._made:
            self._made[key] = self._prepare(spec, on_window)
        return self._made[key]

    @property
    def known_gland(self) -> Volume | None:
        """The mask of the prostate that was given, comes with the case, or was found by a network; None as yet."""
        if self.gland is not None or self.case.gland is not None:
            return self.gland if self.gland is not None else self.case.gland
        return self._found[0].labels if self._found and self._found[0] else None

    def _prepare(self, spec: ModelSpec, on_window: OnWindow | None) -> tuple[Prepared, tuple[str, ...]]:
        gland = self.gland if self.gland is not None else self.case.gland
        notes: tuple[str, ...] = ()
        if gland is None and self._profits_from_gland(spec):
            anatomy, note = self._anatomy_by_network(on_window)
            gland, notes = anatomy.labels if anatomy else None, (note,)
            if gland is None and needs_gland(spec, self.crop, self.roi):
                raise MissingSequenceError(
                    f"Case '{self.case.id}' must come with a gland mask for {spec.title}, but has none. {note} "
                    "Select a mask of the prostate (--gland on the command line)."
                )
        prepared = prepare(self.case, spec, crop=self.crop, gland=gland, roi=self.roi)
        return prepared, (*notes, _centered(prepared), *self._roi_notes(prepared, spec))

    def _roi_notes(self, prepared: Prepared, spec: ModelSpec) -> tuple[str, ...]:
        if self.roi is None:
            return ()
        if spec.prediction_task.output == "image" and spec.preprocess.whole_volume:
            return (RESTORED_NOTE,)
        return (RIM_NOTE,) if Bounds.of(self.roi, prepared.geometry).exceeds(prepared.box) else ()

    def around(self, found: Result, prepared: Prepared, spec: ModelSpec) -> tuple[Prepared, tuple[str, ...]] | None:
        """The input for a second look, around what a network found, where the first look cut the prostate off.

        Args:
            found: What the network made of `prepared`.
            prepared: Its input, in the middle of the image.
            spec: The network.

        Returns:
            As `of`; None where a second look would show nothing new, or the user chose the crop.
        """
        if (
            self.crop != "auto"
            or self.roi is not None
            or prepared.centered_on != "image"
            or not reaches_edge(found, prepared)
        ):
            return None
        again = prepare(self.case, spec, crop="gland", gland=found.labels)
        return again, (SECOND_LOOK_NOTE, _centered(again))

    def _profits_from_gland(self, spec: ModelSpec) -> bool:
        """Whether a mask changes the input; a network that looks for the gland itself is not told where it is."""
        looks_for_middle = not spec.preprocess.whole_volume and self.crop != "center" and self.roi is None
        is_anatomy = spec.task is TaskId.ANATOMY_SEGMENTATION
        return needs_gland(spec, self.crop, self.roi) or (looks_for_middle and not is_anatomy)

    def _anatomy_by_network(self, on_window: OnWindow | None) -> tuple[Result | None, str]:
        if self._found is None:
            self._found = anatomy_by_network(self.case, self.open_network, on_window)
        return self._found

    @property
    def zones(self) -> dict[str, Volume]:
        """Zone name → mask, where the gland was found by a network that tells zones apart; else nothing."""
        anatomy = self._found[0] if self._found else None
        if anatomy is None or anatomy.labels is None:
            return {}
        zones = {name: value for name, value in anatomy.label_values.items() if name in ZONE_LABELS}
        return {n: anatomy.labels.with_array((anatomy.labels.array == v).astype(np.uint8)) for n, v in zones.items()}


def _centered(prepared: Prepared) -> str:
    return f"What the network saw was centered on: {prepared.centered_on}."


def anatomy_by_network(
    case: Case, open_network: OpenNetwork, on_window: OnWindow | None = None
) -> tuple[Result | None, str]:
    """The prostate, not empty, as the shipped pretrained network marks it, or None; and a sentence on either.

    Args:
        case: The study.
        open_network: Gives the loaded network of a bundle.
        on_window: As for `inference.infer`.
    """
    if Sequence.T2W not in case:
        return None, "The gland could not be looked for, since the case has no t2w."
    try:
        bundle, _ = default_pair(TaskId.ANATOMY_SEGMENTATION)
    except BundleError:
        return None, "The gland could not be looked for, since no gland segmentation bundle is installed."
    session = open_network(bundle)
    unused = Provenance(bundle.name, bundle.title, "", bundle.weights_sha256, "", "")
    inputs = CaseInputs(case, None, "auto", open_network)
    look: tuple[Prepared, tuple[str, ...]] | None = (prepare(case, bundle.spec), ())
    while look is not None:
        logits = infer(session, look[0], bundle.spec, on_window)
        anatomy = postprocess(logits, look[0], case, bundle.spec, unused)
        look = inputs.around(anatomy, look[0], bundle.spec)
    if anatomy.labels is None or not anatomy.labels.array.any():
        return None, f"Bundle '{bundle.name}' was asked for the gland and marked none."
    found_ml = anatomy.labels.volume_ml
    return anatomy, f"The gland was marked by bundle '{bundle.name}' ({found_ml:.1f} ml), since no mask was given."


# A case and a bundle in, a result out. `save_result` writes it.

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
    bundles: Sequence_of_abc[Bundle | str | Path],
    runtime: str = "auto",
    device: str = "auto",
    on_progress: OnProgress | None = None,
    **options: Any,
) -> list[Result]:
    """Run several networks on one case, preparing it once for all that take the same input; see `predict`."""
    return list(predict_in_turn(case, bundles, runtime, device, on_progress, **options))


def predict_in_turn(
    case: Case,
    bundles: Sequence_of_abc[Bundle | str | Path],
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
