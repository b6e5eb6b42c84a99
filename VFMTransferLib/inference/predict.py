"""A case and a bundle to a result: `predict`, and `CasePredictor` for several networks on one case."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..bundles.bundle import Bundle
from ..bundles.catalog import as_bundle, default_pair
from ..core import __version__
from ..core.case import Case
from ..core.errors import (
    OUT_OF_MEMORY,
    BundleError,
    ImageError,
    MissingSequenceError,
    OutOfMemoryError,
    VFMTransferError,
    is_out_of_memory,
)
from ..core.machine import available_bytes
from ..core.measurements import PHASE_AXES, GlandMeasurements, QualityCriterion, checked_psa
from ..core.placement import RESTORED_NOTE, RIM_NOTE, Bounds, Prepared, most_severe
from ..core.result import GLAND_TRAINED_NOTE, TRAINED_NOTE, Provenance, Result
from ..core.terms import Arm, Label, OnProgress, Sequence
from ..core.volume import Geometry, IntTriple, Triple, Volume, marked_voxels
from ..encoders.base import ModelSpec, family_of
from ..encoders.inputs import (
    CROPS,
    REGIONS,
    marks_inside_gland,
    needs_gland,
    one_pass_bytes,
    prepare,
    reference_sequence,
)
from ..radiology.gland import GlandFrame, measure_gland
from ..radiology.lesions import is_cut_off, measure_lesions
from ..radiology.quality import measure_diffusion, measure_t2w
from ..tasks import find_task, gland_task, task_of
from ..tasks.base import DecodeOptions, NetworkOutput, Task
from .estimate import Passes, has_estimate, with_estimate
from .findings import Findings, content_sha256
from .runtimes import Session, open_session
from .windows import infer

OpenNetwork = Callable[[Bundle], Session]
_MadeInput = tuple[Prepared, tuple[str, ...]]  # and notes

AUTO = "auto"
_DRAWN = "as given"
ZONE_LABELS = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)
SECOND_PASS_NOTE = (
    "The prostate reached the edge of the middle crop, so the network looked a second time, around what it had found."
)
NOTHING_MARKED_NOTE = "The threshold, and the choice of cancer grades, were not used: this network marks nothing."
NO_DENSITY_NOTE = "PSA density was not computed, since no mask of the prostate is known. Provide a mask of the gland."
MIN_COVERED = 0.98  # of a mask by the T2w; with less it is measured on its own grid
CUT_LEVELS_NOTE = (
    "The prostate reaches the first or the last slice, so that a part of it may be missing: levels and sectors of "
    "lesions are those of the part that is shown."
)
ONE_PASS_NOTE = "The network saw the whole volume in one pass, as its authors run it."
PROCESSOR_DEVICES = ("cpu", "openvino", "openvino:CPU")
GIB = 2**30
_PASS_SHARE = 0.7  # of the free memory that one pass may take, by an estimate that is rough
# How much of the time each stage takes, roughly, for the progress that is shown.
STAGE_SHARES = {"read": 0.1, "preprocess": 0.1, "infer": 0.7, "postprocess": 0.1}
_RECORDED_PACKAGES = ("numpy", "scipy", "SimpleITK")


@dataclass(frozen=True)
class PredictOptions:
    """How networks are run on a case.

    Attributes:
        runtime: `auto`, `onnx` or `torch`.
        device: `auto`, or a device of the runtime; see `runtimes.open_session`.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        gland: Mask of the prostate, before the case's own. Without one, networks that profit from knowing where the
            gland is get it from the shipped gland network, and the result's notes state so.
        roi: Mask of a region of interest: networks that see one crop see the one around it, and nothing is marked
            outside of it. Class probabilities and images are not cut.
        crop: `auto`, `gland` or `center`; see `encoders.inputs.prepare`. With `auto` a network that finds the gland is
            given no mask of it, by which it would be helped.
        threshold: Probability above which a voxel counts, instead of the network's own.
        only_cspca: Of a network that marks cancer grades, mark clinically significant cancer alone.
        phase_axis: Along which axis diffusion images are distorted: `left-right`, `anterior-posterior`, or `auto`: as
            DICOM states it, else `left-right`, which the notes of a result that depends on it state.
        psa_ng_ml: Prostate-specific antigen, for its density; nothing is predicted from it.
        region: `gland` where lesions are to be marked in the prostate and around it only, which takes less time and
            there gives the same; else `whole`. Other tasks do not heed it.

    Raises:
        ValueError: A word or a number is none of these.
        PsaError: The PSA cannot be one.
    """

    runtime: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    gland: Volume | None = None
    roi: Volume | None = None
    crop: str = "auto"
    threshold: float | None = None
    only_cspca: bool = False
    phase_axis: str = "auto"
    psa_ng_ml: float | None = None
    region: str = "whole"

    def __post_init__(self) -> None:
        if self.psa_ng_ml is not None:
            checked_psa(self.psa_ng_ml)
        if self.phase_axis not in (AUTO, *PHASE_AXES):
            raise ValueError(f"The phase axis must be one of auto, {', '.join(PHASE_AXES)}, got '{self.phase_axis}'.")
        if self.region not in REGIONS:
            raise ValueError(f"Region must be one of {', '.join(REGIONS)}, got '{self.region}'.")
        if self.crop not in CROPS:
            raise ValueError(f"Crop must be one of {', '.join(CROPS)}, got '{self.crop}'.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"The threshold must be a probability between 0 and 1, got {self.threshold}.")

    @property
    def recorded(self) -> dict[str, str | float | bool | None]:
        """The options that change what is predicted, as `result.json` records them."""
        names = ("crop", "threshold", "only_cspca", "phase_axis", *(["region"] if self.region != "whole" else []))
        return {name: getattr(self, name) for name in names}

    def min_confidence(self, bundle: Bundle) -> float | None:
        """Below which a place is no mark: the network's operating point, unless the user states a threshold."""
        point = bundle.operating_point
        return None if point is None or self.threshold is not None else point.min_confidence

    def predicts_as(self, recorded: Mapping[str, object], notes: Iterable[str] | None = None) -> bool:
        """Whether these options predict what those predicted that `result.json` records.

        Args:
            recorded: The options there.
            notes: The notes there, of a result that depends on the phase axis. What `auto` found is `left-right` or
                stands in them; another axis was chosen.
        """
        axis = recorded.get("phase_axis")
        if self.phase_axis == AUTO and axis in PHASE_AXES:
            stated = f"Diffusion was encoded along {axis}"  # as `_phase_axis` notes it
            was_found = notes is None or axis == next(iter(PHASE_AXES)) or any(n.startswith(stated) for n in notes)
            axis = AUTO if was_found else axis
        return {**recorded, "phase_axis": axis} == self.recorded


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
    phase_axis: str = "auto",
    psa_ng_ml: float | None = None,
    region: str = "whole",
    options: PredictOptions | None = None,
    open_network: OpenNetwork | None = None,
) -> Result:
    """Run one network on one case; the case stays as it is. For several networks see `CasePredictor`.

    Args:
        case: The case.
        bundle: The network: a bundle, its folder, or the name of an installed one.
        runtime, device, precision, gland, roi, crop, threshold, only_cspca, phase_axis, psa_ng_ml, region: See
            `PredictOptions`.
        on_progress: Called with the stage (`read`, `preprocess`, `infer`, `postprocess`) and the fraction of the whole
            that is done; what it raises stops the run.
        options: All options at once, instead of the single ones.
        open_network: Gives the loaded network of a bundle, for callers that keep networks loaded.

    Raises:
        MissingSequenceError: The case lacks a sequence, or a gland mask that cannot be had otherwise.
        ImageError: A mask is empty, or lies outside the images.
        BundleError: The bundle predicts nothing, or is broken.
        RuntimeUnavailableError: The runtime or device is not on this machine.
        OutOfMemoryError: Memory ran out.
    """
    single = PredictOptions(
        runtime, device, precision, gland, roi, crop, threshold, only_cspca, phase_axis, psa_ng_ml, region
    )
    if options is not None and single != PredictOptions():
        raise ValueError("Options must be given one by one or as `options`, but both were given.")
    return CasePredictor(case, options or single, open_network).predict(as_bundle(bundle), on_progress)


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

    note: str
    labels: Volume | None = None
    zones: dict[str, Volume] = field(default_factory=dict)
    bundle: str = ""
    key: tuple[str, ...] = ()
    sha256: str | None = None
    is_trained_on_name: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.note, GLAND_TRAINED_NOTE if self.is_trained_on_name else "")))


class CasePredictor:
    """Runs networks on one case, one after the other.

    An input that several networks share is made once, and where nobody drew the gland it is marked once.

    Args:
        case: The case; it stays as it is.
        options: How networks are run.
        open_network: Gives the loaded network of a bundle; by default each is opened every time.
        findings: Keeps what was found about this and other cases; by default only while this object lives.
    """

    def __init__(
        self,
        case: Case,
        options: PredictOptions | None = None,
        open_network: OpenNetwork | None = None,
        findings: Findings | None = None,
    ) -> None:
        self.case = case
        options = options or PredictOptions()
        axis, self._phase_note = _phase_axis(case, options.phase_axis)
        self.options = replace(options, phase_axis=axis)
        chosen = (self.options.runtime, self.options.device, self.options.precision)
        self._open_network = open_network or (lambda bundle: open_session(bundle, *chosen))
        self._findings = Findings() if findings is None else findings
        self._images = tuple((str(sequence), content_sha256(volume)) for sequence, volume in case.volumes.items())
        self._drawn_gland = self.options.gland if self.options.gland is not None else case.gland
        self._masks = content_sha256(self._drawn_gland), content_sha256(self.options.roi)
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
        if self._drawn_gland is not None and self.options.psa_ng_ml is not None:
            self._measure(self._drawn_gland, _DRAWN)  # so that a mask of something else is known before the work
        clock = _StageClock(on_progress)
        with memory_checked():
            with clock.stage("read"):
                session = self._open_network(bundle)
            one_pass, pass_note = self._one_pass(bundle.spec, session)
            with clock.stage("preprocess") as on_part:
                anatomy = self._anatomy_for(bundle.spec, on_part)
                prepared, notes = self._prepare(bundle.spec, anatomy, one_pass)
            try:
                result = self._run_passes(bundle, session, prepared, (*notes, *pass_note), clock, anatomy)
            except OutOfMemoryError as error:
                if not one_pass:
                    raise
                prepared, notes = self._prepare(bundle.spec, anatomy, one_pass=False)
                why = f"The whole volume was seen by windows, since one pass failed. {error}"
                result = self._run_passes(bundle, session, prepared, (*notes, why), clock, anatomy)
            with clock.stage("postprocess"):
                self._keep_anatomy(bundle, result)
                result = self._measured(result, task_of(bundle.spec), anatomy)
        trained: tuple[str, ...] = (TRAINED_NOTE,) if bundle.was_trained_on(self.case.id) else ()
        trained += (GLAND_TRAINED_NOTE,) if anatomy is not None and anatomy.is_trained_on_name else ()
        source = replace(
            result.provenance.with_notes(*trained),
            seconds=clock.seconds,
            options=self.options.recorded,
            gland_sha256=None if anatomy is None else anatomy.sha256,
        )
        return replace(result, provenance=source)

    def locate_gland(self) -> FoundAnatomy:
        """The prostate by the case's own mask, else as the shipped pretrained network marks it; found once a case."""
        if self._drawn_gland is not None:
            return FoundAnatomy("", self._drawn_gland)
        self._anatomy = self._anatomy or self._find_anatomy(lambda fraction: None)
        return self._anatomy

    def _one_pass(self, spec: ModelSpec, session: Session) -> tuple[bool, tuple[str, ...]]:
        """Whether a network that its authors run on the whole volume at once does so here, and a note on it.

        On a processor the estimate must fit: a system that has promised more memory than it has ends the process.
        Other devices' free memory is not known; there one pass is tried.
        """
        self.case.require(spec.preprocess.images)
        needed = one_pass_bytes(self.case, spec, task_of(spec))
        if needed == 0:
            return False, ()
        free = available_bytes()
        if session.device in PROCESSOR_DEVICES and needed > _PASS_SHARE * free:
            have = f"of {free / GIB:.1f} GiB free memory {_PASS_SHARE:.0%} may be taken"
            return False, (
                "The whole volume was seen by windows, which a network with global normalization sees differently: "
                f"one pass takes about {needed / GIB:.1f} GiB, and {have}.",
            )
        return True, (ONE_PASS_NOTE,)

    def _anatomy_for(self, spec: ModelSpec, on_part: Callable[[float], None]) -> FoundAnatomy | None:
        """The prostate that is looked for where nobody drew one; None for a network that is run without it.

        What an earlier network had looked for changes nothing here, so that results do not depend on their order.
        """
        crop, roi = self.options.crop, self.options.roi
        # A network that finds the gland itself is not helped by a mask of it.
        centers_on_gland = not spec.preprocess.whole_volume and crop != "center" and roi is None
        uses_gland = centers_on_gland and not task_of(spec).finds_gland
        region = self.options.region
        takes_gland = needs_gland(spec, crop, roi) or (region == "gland" and marks_inside_gland(task_of(spec)))
        if self._drawn_gland is None and (uses_gland or takes_gland):
            self._anatomy = self._anatomy or self._find_anatomy(on_part)
            if self._anatomy.labels is None and takes_gland and roi is None:
                raise MissingSequenceError(
                    f"Case '{self.case.id}' must come with a gland mask for {spec.title}, but has none. "
                    f"{self._anatomy.note} Select a mask of the prostate (--gland on the command line)."
                )
            return self._anatomy
        return None

    def _prepare(
        self, spec: ModelSpec, anatomy: FoundAnatomy | None, one_pass: bool
    ) -> tuple[Prepared, tuple[str, ...]]:
        """A network's input, and sentences on how it was made; what was made before is not made again."""
        crop, region = self.options.crop, self.options.region
        made_from = (self._images, self._masks, crop, region, None if anatomy is None else anatomy.key)
        how = family_of(spec).one_pass(spec) if one_pass else None
        key = ("input", *made_from, spec.family, spec.task, spec.preprocess, how)
        return self._findings.recall(key, lambda: self._make_input(spec, anatomy, one_pass), _MadeInput)

    def _make_input(
        self, spec: ModelSpec, anatomy: FoundAnatomy | None, one_pass: bool
    ) -> tuple[Prepared, tuple[str, ...]]:
        gland = self._drawn_gland if anatomy is None else anatomy.labels
        notes = [] if anatomy is None else [anatomy.note]
        crop, roi, region = self.options.crop, self.options.roi, self.options.region
        case, task = self.case, task_of(spec)
        if task.finds_gland and crop == AUTO and not needs_gland(spec, crop, roi):
            case, gland = replace(case, gland=None), None  # a mask must not help what is to find the gland
        prepared = prepare(case, spec, task, crop=crop, gland=gland, roi=roi, region=region, one_pass=one_pass)
        notes += [_centered(prepared), *prepared.notes]
        if roi is not None and task_of(spec).output == "image" and spec.preprocess.whole_volume:
            notes.append(RESTORED_NOTE)
        elif roi is not None and Bounds.from_mask(roi, prepared.geometry).exceeds(prepared.box):
            notes.append(RIM_NOTE)
        return prepared, tuple(notes)

    def _find_anatomy(self, on_part: Callable[[float], None]) -> FoundAnatomy:
        """The prostate as the shipped pretrained network marks it."""
        if Sequence.T2W not in self.case:
            return FoundAnatomy("The gland could not be looked for, since the case has no t2w.")
        bundle = gland_network()
        if bundle is None:
            return FoundAnatomy("The gland could not be looked for, since no gland segmentation bundle is installed.")
        key = self._anatomy_key(bundle)
        found = self._findings.recall(key, lambda: self._mark_anatomy(bundle, on_part), FoundAnatomy)
        # What is kept is of the images, whatever the case is called.
        return replace(found, is_trained_on_name=found.labels is not None and bundle.was_trained_on(self.case.id))

    def _anatomy_key(self, bundle: Bundle) -> tuple[str, ...]:
        how = (self.options.runtime, self.options.device, self.options.precision)
        stated = (bundle.name, *bundle.caveats)  # by the note
        return ("anatomy", dict(self._images)[Sequence.T2W], bundle.weights_sha256, *how, *stated)

    def _keep_anatomy(self, bundle: Bundle, result: Result) -> None:
        """Keep the prostate that was marked for later tasks, where the network and its input are those of a search."""
        kept = replace(self.options, runtime="auto", device="auto", precision="auto")  # named by the key
        kept = replace(kept, phase_axis=AUTO, psa_ng_ml=None, region="whole")  # change nothing of this task
        is_plain = self._drawn_gland is None and kept == PredictOptions() and bundle.arm is Arm.PRETRAINED
        if is_plain and task_of(bundle.spec).finds_gland and bundle == gland_network():
            # In memory only: on disk it would be written for cohorts that never search.
            self._findings.recall(self._anatomy_key(bundle), lambda: self._as_anatomy(bundle, result))

    def _mark_anatomy(self, bundle: Bundle, on_part: Callable[[float], None]) -> FoundAnatomy:
        session = self._open_network(bundle)
        finder = CasePredictor(self.case, PredictOptions(), self._open_network, self._findings)
        # Straight to the passes: this network gets the middle of the image, and asks no other network for the gland.
        prepared = prepare(self.case, bundle.spec, task_of(bundle.spec))
        found = finder._run_passes(bundle, session, prepared, (), _StageClock(lambda _, fraction: on_part(fraction)))
        return self._as_anatomy(bundle, found)

    def _as_anatomy(self, bundle: Bundle, anatomy: Result) -> FoundAnatomy:
        """What a search for the prostate found, by the network's result."""
        if anatomy.labels is None or not anatomy.labels.array.any():
            none = f"Bundle '{bundle.name}' was asked for the gland and marked none."
            return FoundAnatomy(none, key=self._anatomy_key(bundle), sha256=bundle.weights_sha256)
        found_ml = anatomy.labels.volume_ml
        note = f"The gland was marked by bundle '{bundle.name}' ({found_ml:.1f} ml), since no mask was given."
        if anatomy.estimate is not None and anatomy.estimate.is_low:
            note += f" {anatomy.estimate.warning}"
        note = " ".join((note, *bundle.caveats))
        key, sha256 = self._anatomy_key(bundle), bundle.weights_sha256
        return FoundAnatomy(note, anatomy.labels, _zones(anatomy), bundle.name, key, sha256)

    def _measured(self, result: Result, task: Task, anatomy: FoundAnatomy | None) -> Result:
        """The result with the size of the gland, where it is known, what is measured of each lesion, and quality."""
        volumes = self.case.volumes
        gland, source = self._drawn_gland, _DRAWN
        zones: Mapping[str, Volume] = {}
        if task.finds_gland and result.labels is not None and result.volumes_ml.get(Label.PROSTATE):
            gland, zones, source = result.labels, _zones(result), "this network's own"
        elif anatomy is not None:
            gland, zones, source = anatomy.labels, anatomy.zones, f"by bundle '{anatomy.bundle}'"
        if gland is not None and gland.array.any():
            try:
                measured, notes = self._measure(gland, source)
                result = replace(result, gland=measured, provenance=result.provenance.with_notes(*notes))
            except ImageError as error:
                result = replace(
                    result, provenance=result.provenance.with_notes(f"The gland was not measured. {error}")
                )
        elif self.options.psa_ng_ml is not None:
            result = replace(result, provenance=result.provenance.with_notes(NO_DENSITY_NOTE))
        if result.lesions and result.labels is not None:
            lesions = measure_lesions(
                result.labels,
                result.lesions,
                adc=volumes.get(Sequence.ADC),
                hbv=volumes.get(Sequence.HBV),
                gland=gland,
                zones=zones,
            )
            is_cut = gland is not None and is_cut_off(gland, result.labels.geometry)
            provenance = result.provenance.with_notes(CUT_LEVELS_NOTE) if is_cut else result.provenance
            result = replace(result, lesions=lesions, provenance=provenance)
        where = gland if gland is not None and gland.array.any() else None
        return replace(result, quality=self._quality(where))

    def _quality(self, gland: Volume | None) -> tuple[QualityCriterion, ...]:
        """Criteria of the images, each measured once; those of T2w hold whatever other sequences a task has."""
        mask, acquisitions = content_sha256(gland), self.case.acquisitions
        of_t2w = ("quality of t2w", dict(self._images).get(Sequence.T2W), acquisitions.get(Sequence.T2W), mask)
        of_diffusion = ("quality of diffusion", self._images, tuple(acquisitions.items()), mask)
        return (
            *self._findings.recall(of_t2w, lambda: tuple(measure_t2w(self.case, gland))),
            *self._findings.recall(of_diffusion, lambda: tuple(measure_diffusion(self.case, gland))),
        )

    def _measure(self, gland: Volume, source: str) -> tuple[GlandMeasurements, tuple[str, ...]]:
        """The gland's size, measured along the axes of a T2w that covers it, else along its own, and notes on it."""
        grid = self.case.volumes.get(Sequence.T2W, gland).geometry
        on_grid = gland.resample_to(grid, "nearest")
        covered = _covered_share(gland, grid)
        notes: tuple[str, ...] = ()
        if covered < MIN_COVERED:
            notes = (f"t2w covers only {covered:.0%} of the prostate's mask, which was measured on its own grid.",)
        measured = on_grid if on_grid.array.any() and not notes else gland
        return measure_gland(measured, source, self.options.psa_ng_ml), (*notes, *GlandFrame.from_mask(measured).notes)

    def _run_passes(
        self,
        bundle: Bundle,
        session: Session,
        prepared: Prepared,
        notes: tuple[str, ...],
        clock: _StageClock,
        anatomy: FoundAnatomy | None = None,
    ) -> Result:
        """The result of one pass, or of a second one around the prostate where the middle crop cut it off."""
        result = self._run_pass(bundle, session, prepared, notes, clock, anatomy)
        is_middle = self.options.crop == "auto" and self.options.roi is None and prepared.centered_on == "image"
        if not (is_middle and task_of(bundle.spec).is_cut_off(result, prepared)):
            return result
        with clock.stage("preprocess"):
            prepared = prepare(self.case, bundle.spec, task_of(bundle.spec), crop="gland", gland=result.labels)
        return self._run_pass(bundle, session, prepared, (SECOND_PASS_NOTE, _centered(prepared)), clock, anatomy)

    def _run_pass(
        self,
        bundle: Bundle,
        session: Session,
        prepared: Prepared,
        notes: tuple[str, ...],
        clock: _StageClock,
        anatomy: FoundAnatomy | None,
    ) -> Result:
        with clock.stage("infer") as on_part:
            takes_box = prepared.limit is not None and session.takes_box
            is_whole = self.options.roi is None and self.options.threshold is None
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
                gland=self._drawn_gland if anatomy is None else anatomy.labels,
                zones={} if anatomy is None else anatomy.zones,
                roi=self.options.roi,
                calibration=bundle.calibration,
                operating_point=bundle.operating_point,
            )
            source = _provenance(bundle, session).with_notes(*self.case.notes, *notes)
            source = replace(source, min_confidence=self.options.min_confidence(bundle))
            if self._phase_note and task_of(bundle.spec).uses_phase_axis:
                source = source.with_notes(self._phase_note)
            task = task_of(bundle.spec)
            if task.output != "segmentation" and (self.options.threshold is not None or self.options.only_cspca):
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

    def decided_at_mm(self, prepared: Prepared) -> Triple:
        """Center, LPS, of the slice that decides, as of `infer`."""
        _, start = self._outputs[most_severe(np.stack([output for output, _ in self._outputs]))]
        return prepared.center_mm(start)


def _decided_note(decided_at_mm: Triple, prepared: Prepared, reference: Sequence) -> str:
    """Which slice of the reference sequence decided, as pages count them: from the feet."""
    grid = prepared.reference.to_nearest_lps()
    number = grid.nearest_voxel(decided_at_mm)[2] + 1
    return (
        f"The classes are those of slice {number} of {grid.size[2]} of {reference}, counted from the feet: the most "
        f"suspicious of the {len(prepared.starts)} slices that the network saw."
    )


def _covered_share(mask: Volume, grid: Geometry) -> float:
    """Share of a mask's voxels whose middles lie within a grid; 1 of none."""
    voxels = marked_voxels(mask.array > 0)
    index = grid.to_index(mask.geometry.to_world(voxels[:, ::-1]))
    inside = ((index >= -0.5) & (index <= np.array(grid.size) - 0.5)).all(axis=1)
    return float(inside.mean()) if len(voxels) else 1.0


# Ways of the patient's axes, against and along them.
_WAYS = {"left-right": ("the right", "the left"), "anterior-posterior": ("the front", "the back")}


def _phase_axis(case: Case, chosen: str) -> tuple[str, str]:
    """Along which axis diffusion is distorted, and a sentence on how that is known; empty where the user chose it."""
    if chosen != AUTO:
        return chosen, ""
    about = case.acquisitions.get(Sequence.HBV) or case.acquisitions.get(Sequence.ADC)
    if about is not None and about.phase_axis is not None:
        way = ""
        if about.is_phase_positive is not None:
            way = f", toward {_WAYS[about.phase_axis][about.is_phase_positive]} by the vendor's polarity"
        return about.phase_axis, f"Diffusion was encoded along {about.phase_axis}{way}, as DICOM states."
    return next(iter(PHASE_AXES)), (
        "The phase-encoding axis is unknown; left-right was assumed. Run again with the correct axis if that is wrong."
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
    made_for = find_task(require_task(bundle, task))
    case.require(bundle.spec.preprocess.images)
    if made_for.output == "image":
        case.require([made_for.reference])


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


def _centered(prepared: Prepared) -> str:
    return f"The input window was centered on: {prepared.centered_on}."


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
        caveats=bundle.caveats,
    )
