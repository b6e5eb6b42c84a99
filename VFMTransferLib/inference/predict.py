"""A case and a bundle to a result: `predict`, and `CasePredictor` for several networks on one case."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np

from ..bundles.bundle import Bundle
from ..bundles.catalog import as_bundle, default_pair
from ..core import __version__
from ..core.case import Case
from ..core.errors import (
    OUT_OF_MEMORY,
    BundleError,
    MissingSequenceError,
    OutOfMemoryError,
    VFMTransferError,
    is_out_of_memory,
)
from ..core.notes import Note
from ..core.options import AUTO, Options, PhaseAxisChoice
from ..core.placement import RESTORED_NOTE, RIM_NOTE, Bounds, NetworkInput, most_severe
from ..core.result import GLAND_TRAINED_NOTE, TRAINED_NOTE, Provenance, Result
from ..core.terms import Arm, Label, OnProgress, Sequence
from ..core.volume import IntTriple, Triple, Volume
from ..encoders.base import ModelSpec, family_of
from ..encoders.inputs import (
    marks_inside_gland,
    needs_gland,
    prepare,
    reference_sequence,
)
from ..tasks import find_task, gland_task, task_of
from ..tasks.base import DecodeOptions, NetworkOutput, Task
from .case_cache import CaseCache, content_sha256
from .case_measurements import CaseMeasurements, KnownGland
from .estimate import Passes, has_estimate, with_estimate
from .runtimes import Session, open_session
from .windows import infer

OpenNetwork = Callable[[Bundle], Session]
_MadeInput = tuple[NetworkInput, tuple[Note, ...]]  # and notes

_DRAWN = "as given"
ZONE_LABELS = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
SECOND_PASS_NOTE = Note(
    "second-pass",
    "The prostate reached the edge of the middle crop, so the network looked a second time, around what it had found.",
)
NOTHING_MARKED_NOTE = Note(
    "options-unused", "The threshold, and the choice of cancer grades, were not used: this network marks nothing."
)
ONE_PASS_NOTE = Note("one-pass", "The network saw the whole volume in one pass, as its authors run it.")
GIB = 2**30
# How much of the time each stage takes, roughly, for the progress that is shown.
STAGE_SHARES = {"read": 0.1, "preprocess": 0.1, "infer": 0.7, "postprocess": 0.1}
_RECORDED_PACKAGES = ("numpy", "scipy", "SimpleITK")
DEFAULT = Options()
AXIS_STATED = "phase-axis-stated"
# Ways of the patient's axes, against and along them.
_WAYS = {"left-right": ("the right", "the left"), "anterior-posterior": ("the front", "the back")}


def predict(
    case: Case,
    bundle: Bundle | str | Path,
    options: Options = DEFAULT,
    on_progress: OnProgress | None = None,
    *,
    open_network: OpenNetwork | None = None,
) -> Result:
    """Run one network on one case; the case stays as it is. For several networks see `CasePredictor`.

    Args:
        case: The case, with its masks of the prostate and of a region of interest, where they are known. Without one of
            the prostate, networks that profit from knowing where it is get it from the shipped gland network, and the
            result's notes state so.
        bundle: The network: a bundle, its folder, or the name of an installed one.
        options: How the network is run.
        on_progress: Called with the stage (`read`, `preprocess`, `infer`, `postprocess`) and the fraction of the whole
            that is done; what it raises stops the run.
        open_network: Gives the loaded network of a bundle, for callers that keep networks loaded.

    Raises:
        MissingSequenceError: The case lacks a sequence, or a gland mask that cannot be had otherwise.
        ImageError: A mask is empty, or lies outside the images.
        BundleError: The bundle predicts nothing, or is broken.
        RuntimeUnavailableError: The runtime or device is not on this machine.
        OutOfMemoryError: Memory ran out.
    """
    return CasePredictor(case, options, open_network).predict(as_bundle(bundle), on_progress)


@dataclass(frozen=True)
class FoundAnatomy:
    """The prostate as the shipped gland network marks it.

    Attributes:
        note: A sentence on it.
        labels: Not empty; None where nothing was found.
        zones: Zone name → mask; none where the network does not distinguish zones.
        bundle: The network's name.
        key: What it was made from.
        sha256: Of the network's weights; None where no network was asked.
        is_trained_on_name: Whether a case of this one's name trained the network, as far as its bundle states.
    """

    note: Note | None
    labels: Volume | None = None
    zones: dict[str, Volume] = field(default_factory=dict)
    bundle: str = ""
    key: tuple[str, ...] = ()
    sha256: str | None = None
    is_trained_on_name: bool = False

    @property
    def notes(self) -> tuple[Note, ...]:
        return tuple(filter(None, (self.note, GLAND_TRAINED_NOTE if self.is_trained_on_name else None)))


class CasePredictor:
    """Runs networks on one case, one after the other.

    An input that several networks share is made once, and where nobody drew the gland it is marked once.

    Args:
        case: The case; it stays as it is.
        options: How networks are run.
        open_network: Gives the loaded network of a bundle; by default each is opened every time.
        cache: Keeps what was found about this and other cases; by default only while this object lives.
    """

    def __init__(
        self,
        case: Case,
        options: Options = DEFAULT,
        open_network: OpenNetwork | None = None,
        cache: CaseCache | None = None,
    ) -> None:
        self.case = case
        axis, self._phase_note = resolve_phase_axis(case, options.phase_axis)
        self.options = replace(options, phase_axis=axis)
        self._open_network = open_network or (lambda bundle: open_session(bundle, **options.engine))
        self._cache = CaseCache() if cache is None else cache
        self._images = {str(sequence): content_sha256(volume) for sequence, volume in case.volumes.items()}
        self._masks = content_sha256(case.gland), content_sha256(case.roi)
        self._measurements = CaseMeasurements(case, self._images, self._cache, self.options.psa_ng_ml)
        self._anatomy: FoundAnatomy | None = None  # not None once the gland network was asked

    def case_with_gland(self, task: str) -> Case:
        """The case with the prostate, which no reader of a comparison should have to look for.

        A mask of its own stays, and tasks that find the prostate are compared without one.
        """
        if self.case.gland is not None or find_task(task).finds_gland:
            return self.case
        found = self.locate_gland()
        if found.labels is None or not found.labels.array.any():
            return self.case
        mask = found.labels.with_array((found.labels.array > 0).astype(np.uint8))
        notes = (*self.case.notes, *found.notes)
        return replace(self.case, gland=mask, zones=found.zones, notes=notes)

    def predict(self, bundle: Bundle, on_progress: OnProgress | None = None) -> Result:
        """Run one network; see the function `predict`."""
        require_fit(self.case, bundle)
        if self.case.gland is not None and self.options.psa_ng_ml is not None:
            self._measurements.gland(
                self.case.gland, _DRAWN
            )  # so that a mask of something else is known before the work
        clock = _StageClock(on_progress)
        with memory_checked():
            with clock.stage("read"):
                session = self._open_network(bundle)
            with clock.stage("preprocess") as on_part:
                anatomy = self._anatomy_for(bundle.spec, on_part)
                prepared, notes = self._prepare(bundle.spec, anatomy)
            result = self._run_passes(bundle, session, prepared, notes, clock, anatomy)
            with clock.stage("postprocess"):
                self._keep_anatomy(bundle, result)
                result = self._measurements.add_to(result, self._known_gland(result, task_of(bundle.spec), anatomy))
        trained: tuple[Note, ...] = (TRAINED_NOTE,) if bundle.was_trained_on(self.case.id) else ()
        trained += (GLAND_TRAINED_NOTE,) if anatomy is not None and anatomy.is_trained_on_name else ()
        source = replace(
            result.provenance.with_notes(*trained),
            seconds=clock.seconds,
            options=dict(self.options.recorded),
            gland_sha256=None if anatomy is None else anatomy.sha256,
        )
        return replace(result, provenance=source)

    def locate_gland(self) -> FoundAnatomy:
        """The prostate by the case's own mask, else as the shipped pretrained network marks it; found once a case."""
        if self.case.gland is not None:
            return FoundAnatomy(None, self.case.gland)
        self._anatomy = self._anatomy or self._find_anatomy(lambda fraction: None)
        return self._anatomy

    def _anatomy_for(self, spec: ModelSpec, on_part: Callable[[float], None]) -> FoundAnatomy | None:
        """The prostate that is looked for where nobody drew one; None for a network that is run without it.

        What an earlier network had looked for changes nothing here, so that results do not depend on their order.
        """
        crop, roi = self.options.crop, self.case.roi
        # A network that finds the gland itself is not helped by a mask of it.
        centers_on_gland = not spec.preprocess.whole_volume and crop != "center" and roi is None
        uses_gland = centers_on_gland and not task_of(spec).finds_gland
        region = self.options.region
        takes_gland = needs_gland(spec, crop, roi) or (region == "gland" and marks_inside_gland(task_of(spec)))
        if self.case.gland is None and (uses_gland or takes_gland):
            self._anatomy = self._anatomy or self._find_anatomy(on_part)
            if self._anatomy.labels is None and takes_gland and roi is None:
                raise MissingSequenceError(
                    f"Case '{self.case.id}' must come with a gland mask for {spec.title}, but has none. "
                    f"{self._anatomy.note} Select a mask of the prostate (--gland on the command line)."
                )
            return self._anatomy
        return None

    def _prepare(self, spec: ModelSpec, anatomy: FoundAnatomy | None) -> _MadeInput:
        """A network's input, and sentences on how it was made; what was made before is not made again."""
        crop, region = self.options.crop, self.options.region
        made_from = (tuple(self._images.items()), self._masks, crop, region, None if anatomy is None else anatomy.key)
        one_pass = family_of(spec).one_pass(spec)
        key = ("input", *made_from, spec.family, spec.task, spec.preprocess, one_pass)
        return self._cache.recall(key, lambda: self._make_input(spec, anatomy))

    def _make_input(self, spec: ModelSpec, anatomy: FoundAnatomy | None) -> _MadeInput:
        one_pass = family_of(spec).one_pass(spec) is not None
        gland = self.case.gland if anatomy is None else anatomy.labels
        notes = [] if anatomy is None or anatomy.note is None else [anatomy.note]
        crop, roi, region = self.options.crop, self.case.roi, self.options.region
        case, task = self.case, task_of(spec)
        if task.finds_gland and crop == AUTO and not needs_gland(spec, crop, roi):
            case, gland = replace(case, gland=None), None  # a mask must not help what is to find the gland
        prepared = prepare(case, spec, task, crop=crop, gland=gland, roi=roi, region=region, one_pass=one_pass)
        notes += [_centered(prepared), *prepared.notes]
        if one_pass:
            notes.append(ONE_PASS_NOTE)
        if roi is not None and task.output.gives_images and spec.preprocess.whole_volume:
            notes.append(RESTORED_NOTE)
        elif roi is not None and Bounds.from_mask(roi, prepared.geometry).exceeds(prepared.box):
            notes.append(RIM_NOTE)
        return prepared, tuple(notes)

    def _find_anatomy(self, on_part: Callable[[float], None]) -> FoundAnatomy:
        """The prostate as the shipped pretrained network marks it."""
        if Sequence.T2W not in self.case:
            return FoundAnatomy(Note("gland-search", "The gland could not be looked for, since the case has no t2w."))
        bundle = gland_network()
        if bundle is None:
            return FoundAnatomy(
                Note(
                    "gland-search",
                    "The gland could not be looked for, since no gland segmentation bundle is installed.",
                )
            )
        key = self._anatomy_key(bundle)
        found = self._cache.recall(key, lambda: self._mark_anatomy(bundle, on_part))
        # What is kept is of the images, whatever the case is called.
        return replace(found, is_trained_on_name=found.labels is not None and bundle.was_trained_on(self.case.id))

    def _anatomy_key(self, bundle: Bundle) -> tuple[str, ...]:
        stated = (bundle.name, *bundle.caveats)  # by the note
        return ("anatomy", self._images[Sequence.T2W], bundle.weights_sha256, *self.options.engine.values(), *stated)

    def _keep_anatomy(self, bundle: Bundle, result: Result) -> None:
        """Keep the prostate that was marked for later tasks, where the network and its input are those of a search."""
        kept = replace(self.options, runtime="auto", device="auto", precision="auto")  # named by the key
        kept = replace(kept, phase_axis="auto", psa_ng_ml=None, region="whole")  # change nothing of this task
        is_plain = (
            self.case.gland is None and self.case.roi is None and kept == DEFAULT and bundle.arm is Arm.PRETRAINED
        )
        if is_plain and task_of(bundle.spec).finds_gland and bundle == gland_network():
            self._cache.recall(self._anatomy_key(bundle), lambda: self._as_anatomy(bundle, result))

    def _mark_anatomy(self, bundle: Bundle, on_part: Callable[[float], None]) -> FoundAnatomy:
        session = self._open_network(bundle)
        finder = CasePredictor(replace(self.case, roi=None), DEFAULT, self._open_network, self._cache)
        # Straight to the passes: this network gets the middle of the image, and asks no other network for the gland.
        prepared = prepare(self.case, bundle.spec, task_of(bundle.spec))
        found = finder._run_passes(bundle, session, prepared, (), _StageClock(lambda _, fraction: on_part(fraction)))
        return self._as_anatomy(bundle, found)

    def _as_anatomy(self, bundle: Bundle, anatomy: Result) -> FoundAnatomy:
        """What a search for the prostate found, by the network's result."""
        if anatomy.labels is None or not anatomy.labels.array.any():
            none = Note("gland-search", f"Bundle '{bundle.name}' was asked for the gland and marked none.")
            return FoundAnatomy(none, key=self._anatomy_key(bundle), sha256=bundle.weights_sha256)
        found_ml = anatomy.labels.volume_ml
        text = f"The gland was marked by bundle '{bundle.name}' ({found_ml:.1f} ml), since no mask was given."
        if anatomy.estimate is not None and anatomy.estimate.is_low:
            text += f" {anatomy.estimate.warning}"
        note = Note("gland-search", " ".join((text, *bundle.caveats)))
        key, sha256 = self._anatomy_key(bundle), bundle.weights_sha256
        return FoundAnatomy(note, anatomy.labels, _zones(anatomy), bundle.name, key, sha256)

    def _known_gland(self, result: Result, task: Task, anatomy: FoundAnatomy | None) -> KnownGland:
        """The prostate that a result is measured with: its own, else what was searched for it, else the one drawn."""
        if task.finds_gland and result.labels is not None and result.volumes_ml.get(Label.PROSTATE):
            return KnownGland(result.labels, "this network's own", _zones(result))
        if anatomy is not None:
            return KnownGland(anatomy.labels, f"by bundle '{anatomy.bundle}'", anatomy.zones)
        return KnownGland(self.case.gland, _DRAWN)

    def _run_passes(
        self,
        bundle: Bundle,
        session: Session,
        prepared: NetworkInput,
        notes: tuple[Note, ...],
        clock: _StageClock,
        anatomy: FoundAnatomy | None = None,
    ) -> Result:
        """The result of one pass, or of a second one around the prostate where the middle crop cut it off."""
        result = self._run_pass(bundle, session, prepared, notes, clock, anatomy)
        is_middle = self.options.crop == "auto" and self.case.roi is None and prepared.centered_on == "image"
        if not (is_middle and task_of(bundle.spec).is_cut_off(result, prepared)):
            return result
        with clock.stage("preprocess"):
            prepared = prepare(self.case, bundle.spec, task_of(bundle.spec), crop="gland", gland=result.labels)
        return self._run_pass(bundle, session, prepared, (SECOND_PASS_NOTE, _centered(prepared)), clock, anatomy)

    def _run_pass(
        self,
        bundle: Bundle,
        session: Session,
        prepared: NetworkInput,
        notes: tuple[Note, ...],
        clock: _StageClock,
        anatomy: FoundAnatomy | None,
    ) -> Result:
        with clock.stage("infer") as on_part:
            takes_box = prepared.limit is not None and session.takes_box
            is_whole = self.case.roi is None and self.options.threshold is None
            passes = Passes(bundle.spec, prepared) if is_whole and has_estimate(bundle) else None
            classes = _ClassesBySlice() if bundle.spec.head.is_vector and bundle.spec.is_slice_based else None
            listener = passes or classes
            logits = infer(
                session.run,
                prepared,
                bundle.spec,
                on_part,
                takes_box=takes_box,
                on_output=None if listener is None else listener.add,
            )
            signs = {} if passes is None else passes.signs(logits)
        with clock.stage("postprocess"):
            options = DecodeOptions(
                threshold=self.options.threshold,
                only_cspca=self.options.only_cspca,
                phase_axis=self.options.phase_axis,
                gland=self.case.gland if anatomy is None else anatomy.labels,
                zones={} if anatomy is None else anatomy.zones,
                roi=self.case.roi,
                calibration=bundle.calibration,
                operating_point=bundle.operating_point,
            )
            source = _provenance(bundle, session).with_notes(*self.case.notes, *notes)
            source = replace(source, min_confidence=min_confidence(bundle, self.options))
            if self._phase_note and task_of(bundle.spec).uses_phase_axis:
                source = source.with_notes(self._phase_note)
            task = task_of(bundle.spec)
            if not task.marks_voxels and (self.options.threshold is not None or self.options.only_cspca):
                source = source.with_notes(NOTHING_MARKED_NOTE)
            decided_at = None if classes is None else classes.decided_at_mm(prepared)
            if decided_at is not None and len(prepared.starts) > 1:
                source = source.with_notes(
                    _decided_note(decided_at, prepared, reference_sequence(self.case, bundle.spec, task))
                )
            output = NetworkOutput(logits, prepared, self.case, bundle.spec, source, options)
            result = task.checked(task.decode(output), self.case, options.gland)
            return with_estimate(replace(result, grid=prepared.reference, decided_at_mm=decided_at), signs)


class _ClassesBySlice:
    """A classifier's logits of each slice, of which the most severe ones are the case's."""

    def __init__(self) -> None:
        self._outputs: list[tuple[np.ndarray, IntTriple]] = []

    def add(self, output: np.ndarray, start: IntTriple) -> None:
        """See `on_output` of `infer`."""
        self._outputs.append((output, start))

    def decided_at_mm(self, prepared: NetworkInput) -> Triple:
        """Center, LPS, of the slice that decides, as of `infer`."""
        _, start = self._outputs[most_severe(np.stack([output for output, _ in self._outputs]))]
        return prepared.center_mm(start)


def _decided_note(decided_at_mm: Triple, prepared: NetworkInput, reference: Sequence) -> Note:
    """Which slice of the reference sequence decided, as pages count them: from the feet."""
    grid = prepared.reference.to_nearest_lps()
    number = grid.nearest_voxel(decided_at_mm)[2] + 1
    return Note(
        "deciding-slice",
        f"The classes are those of slice {number} of {grid.size[2]} of {reference}, counted from the feet: the most "
        f"suspicious of the {len(prepared.starts)} slices that the network saw.",
    )


def min_confidence(bundle: Bundle, options: Options) -> float | None:
    """Below which a place is no mark: the network's operating point, unless the user states a threshold."""
    point = bundle.operating_point
    return None if point is None or options.threshold is not None else point.min_confidence


def resolve_phase_axis(case: Case, chosen: str) -> tuple[PhaseAxisChoice, Note | None]:
    """Along which axis diffusion is distorted, and a note on how that is known; none where the user chose it."""
    if chosen != AUTO:
        return cast(PhaseAxisChoice, chosen), None
    about = case.acquisitions.get(Sequence.HBV) or case.acquisitions.get(Sequence.ADC)
    if about is not None and about.phase_axis is not None:
        way = ""
        if about.is_phase_positive is not None:
            way = f", toward {_WAYS[about.phase_axis][about.is_phase_positive]} by the vendor's polarity"
        stated = f"Diffusion was encoded along {about.phase_axis}{way}, as DICOM states."
        return cast(PhaseAxisChoice, about.phase_axis), Note(AXIS_STATED, stated)
    return "left-right", Note(
        "phase-axis-assumed",
        "The phase-encoding axis is unknown; left-right was assumed. Run again with the correct axis if that is wrong.",
        "caution",
    )


def require_fit(case: Case, bundle: Bundle, task: str | None = None) -> None:
    """Raise unless the bundle can predict from the case.

    Args:
        case: The case.
        bundle: The network.
        task: What is wanted; any by default.

    Raises:
        BundleError: The bundle is an encoder alone, or was made for another task.
        MissingSequenceError: The case lacks a sequence.
    """
    require_task(bundle, task)
    case.require(bundle.spec.preprocess.images)


def needed_sequences(bundles: Iterable[Bundle]) -> frozenset[Sequence]:
    """The sequences that bundles predict from, and those on whose grids their results lie; raises as `require_task`."""
    return frozenset(
        sequence
        for bundle in bundles
        for sequence in (*bundle.spec.preprocess.images, find_task(require_task(bundle)).reference)
    )


def require_task(bundle: Bundle, task: str | None = None) -> str:
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


@contextmanager
def memory_checked() -> Iterator[None]:
    """Turn every library's own error about memory into one sentence.

    Raises:
        OutOfMemoryError: Memory ran out.
    """
    try:
        yield
    except Exception as error:  # also an ImportError, where a library's code did not fit
        if isinstance(error, VFMTransferError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(OUT_OF_MEMORY) from error


class _StageClock:
    """Seconds per stage, and the fraction of the run that is done, which never falls."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._on_progress = on_progress or (lambda stage, fraction: None)
        self._done = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Time a stage; yields a function that takes the fraction of the stage that is done."""
        share = min(STAGE_SHARES[name], 1.0 - self._done)  # nothing is left for the stages of a second pass
        self._on_progress(name, self._done)
        begin = time.perf_counter()
        reached = 0.0

        def on_part(fraction: float) -> None:
            nonlocal reached
            reached = max(reached, fraction)  # the gland network may take a second pass
            self._on_progress(name, self._done + share * reached)

        yield on_part
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
        self._done += share
        self._on_progress(name, self._done)


def _centered(prepared: NetworkInput) -> Note:
    return Note("window-center", f"The input window was centered on: {prepared.centered_on}.")


def gland_network() -> Bundle | None:
    """The network that searches the prostate for others: the shipped pretrained one, if there is one."""
    try:
        return default_pair(gland_task().id)[0]
    except BundleError:
        return None


def _zones(anatomy: Result) -> dict[str, Volume]:
    """Zone name → mask; nothing where the network does not distinguish zones."""
    if anatomy.labels is None:
        return {}
    labels = anatomy.labels
    values = {name: value for name, value in anatomy.label_values.items() if name in ZONE_LABELS}
    return {name: labels.with_array((labels.array == value).astype(np.uint8)) for name, value in values.items()}


def _provenance(bundle: Bundle, session: Session) -> Provenance:
    versions = {"vfm-transfer": __version__, "python": platform.python_version()}
    versions |= {package: version(package) for package in _RECORDED_PACKAGES}
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
        caveats=bundle.caveat_notes,
    )
