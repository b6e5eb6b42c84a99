"""The contract of a task, one instance of `Task` each: all that the rest of the library asks of one. No torch here.

Most tasks derive from `SegmentationTask` or `ImageTask`, which answer nearly all of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..core.case import Case
from ..core.errors import DatasetError
from ..core.measurements import PHASE_AXES, DiceEstimate
from ..core.notes import Note
from ..core.result import Provenance, Result
from ..core.terms import Label
from ..core.terms import Sequence as MRSequence
from ..core.volume import Geometry, IntTriple, Triple, Volume, share_within
from .outputs import OutputKind

if TYPE_CHECKING:
    from ..core.placement import NetworkInput
    from ..encoders.base import ModelSpec
    from ..metrics.calibration import Calibration
    from ..metrics.detection import Candidate
    from ..metrics.operating_point import OperatingPoint
    from ..phantom import Phantom
    from .training import TaskTraining

HeadKind = Literal["dense", "classes", "restoration", "matching"]

_SUPERIOR = 2


@dataclass(frozen=True)
class LabeledCase:
    """A case with the truth of one task: what a network gets, and what it should give.

    Attributes:
        masks: For segmentation; empty masks count.
        images: Output name → true image, as results name them.
        along_phase_mm: Displacement that distorted the case, along the positive `phase_axis`.
        category: True class of a classification.
        is_phantom: Whether everything about it is known, or only what was made worse.
    """

    task: str
    case: Case
    gland: Volume | None = None
    masks: Mapping[Label, Volume] = field(default_factory=dict)
    images: Mapping[str, Volume] = field(default_factory=dict)
    along_phase_mm: Volume | None = None
    phase_axis: str = "left-right"
    category: str | None = None
    is_phantom: bool = True

    @property
    def is_significant(self) -> bool | None:
        """Whether a cancer of ISUP grade group 2 or more is marked; None where nobody marked lesions."""
        mask = self.masks.get(Label.CSPCA)
        return None if mask is None else bool(mask.array.any())


@dataclass(frozen=True)
class MaskNames:
    """File stems of a case's masks; of the gland's several, the first that a case has is taken."""

    gland: tuple[str, ...] = ("gland",)
    zones: str = "zones"
    lesion: str = "lesion"


DEFAULT_NAMES = MaskNames()


@dataclass(frozen=True)
class CaseFiles:
    """A case on disk, as a task takes its truth from it: its sequences, where its masks lie, its class in `labels.csv`.

    The seed is of what is drawn to make a scan worse.
    """

    folder: Path
    case: Case
    gland: Volume | None = None
    names: MaskNames = DEFAULT_NAMES
    category: str | None = None
    seed: int = 0


def read_label_map(folder: Path, stem: str) -> Volume | None:
    """The label map of a case on disk, of the first file format that there is; None where there is none."""
    from ..io.images import WRITTEN_SUFFIXES, read_mask  # `io` brings DICOM along, which scoring does not need

    paths = (folder / f"{stem}{suffix}" for suffix in WRITTEN_SUFFIXES)
    found = next((path for path in paths if path.is_file()), None)
    return None if found is None else read_mask(found, stem)


@dataclass(frozen=True)
class MaskValues:
    """What the values of a label map mean, from 0 for none to the largest."""

    largest: int
    meaning: str

    def problem(self, mask: Volume) -> str:
        """What is wrong with the values of a mask, as a part of a sentence; empty where nothing is."""
        low, high = int(mask.array.min()), int(mask.array.max())
        if low >= 0 and high <= self.largest:
            return ""
        return f"must be 0 to {self.largest} ({self.meaning}), but are {low} to {high}"


ISUP_VALUES = MaskValues(5, "ISUP grade groups")
ZONE_VALUES = MaskValues(2, "1 for peripheral, 2 for transition")


def read_truth(files: CaseFiles, stem: str, values: MaskValues) -> Volume | None:
    """As `read_label_map`, of a case that trains or tests; a DatasetError where its values mean nothing known, or where
    it marks something, but nothing within the case's images, as after its header was lost."""
    mask = read_label_map(files.folder, stem)
    if mask is not None:
        if problem := values.problem(mask):
            raise DatasetError(f"Values of mask {stem} of case '{files.case.id}' {problem}. Correct them.")
        require_within(mask, stem, files.case)
    return mask


def require_within(mask: Volume, stem: str, case: Case) -> None:
    """DatasetError where a mask marks something, but nothing within an image of its case (the T2w, if it has one)."""
    seen = case[MRSequence.T2W] if MRSequence.T2W in case else next(iter(case.volumes.values()))
    if share_within(mask, seen.geometry) == 0:
        raise DatasetError(
            f"Mask {stem} of case '{case.id}' must mark voxels of its images, but lies outside of them. Give it the "
            "position of the image that it was drawn on."
        )


@dataclass(frozen=True)
class DecodeOptions:
    """Options of decoding beside the network's output; each task uses its own.

    Attributes:
        threshold: Probability above which a voxel counts, instead of the network's own.
        only_cspca: Of a network that marks cancer grades, mark clinically significant cancer alone.
        phase_axis: Axis of the patient along which diffusion images are distorted, a key of `PHASE_AXES`.
        gland: Mask of the prostate. A lesion most of which lies outside of it is left out, which a note states; the
            probabilities keep it. This is our own step, not the networks' authors'.
        zones: Zone name → mask, for naming where lesions lie.
        roi: Mask outside of which nothing is marked; it leaves classes and images as they are.
        calibration: Of a classifier's probabilities.
        operating_point: Of a network that finds lesions; a threshold of the caller's own takes its place.
    """

    threshold: float | None = None
    only_cspca: bool = False
    phase_axis: str = "left-right"
    gland: Volume | None = None
    zones: Mapping[str, Volume] | None = None
    roi: Volume | None = None
    calibration: Calibration | None = None
    operating_point: OperatingPoint | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"The threshold must be a probability between 0 and 1, got {self.threshold}.")
        if self.phase_axis not in PHASE_AXES:
            raise ValueError(f"The phase axis must be one of {', '.join(PHASE_AXES)}, got '{self.phase_axis}'.")


@dataclass(frozen=True)
class NetworkOutput:
    """What a network gave for a case: logits (C, D, H, W) on `prepared.region`, or (C,) of a classifier."""

    logits: np.ndarray
    prepared: NetworkInput
    case: Case
    spec: ModelSpec
    provenance: Provenance
    options: DecodeOptions = DecodeOptions()

    @property
    def threshold(self) -> float:
        return self.spec.threshold if self.options.threshold is None else self.options.threshold

    def with_notes(self, *notes: Note) -> NetworkOutput:
        return replace(self, provenance=self.provenance.with_notes(*notes))


@dataclass(frozen=True)
class CaseScore:
    """How good a result is on one case.

    Attributes:
        values: Measure → value; a measure that has no value for the case is left out.
        truth, is_significant, probabilities: Of a classification: its true class, where it is known, whether it has
            clinically significant cancer, and class → probability.
        candidates: Of lesion segmentation, whatever the threshold of the labels is.
        lesions: How many true lesions there are.
    """

    case_id: str
    values: Mapping[str, float]
    truth: str | None = None
    is_significant: bool = False
    probabilities: Mapping[str, float] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    lesions: int = 0


Method = Callable[[LabeledCase], Result]
"""What gives a result without a trained network; it uses the case, not its truth."""


class Task(ABC):
    """One task: what it takes, where its truth comes from, what a network's output means, how good a result is.

    Attributes:
        id: Name in files and on the command line.
        network_title: What a network of it does, within the network's title.
        sequences: What a case must contain; their order is the order of channels.
        truth_sequences: What is read of a case that has a truth, where that is more.
        reference: The sequence on whose grid the result comes back.
        output: What it gives, one of `tasks/outputs.py`.
        head: Kind of head that it asks of an encoder: a map of classes, classes of the case, an image (`restoration`),
            or a displacement between two images (`matching`: a cost-volume head).
        labels: Output channels of the networks that are trained here, none of an image.
        activation: `softmax`, `sigmoid` or `none`.
        initial_output: What an untrained image head gives everywhere.
        metric: Primary measure, a name in `CaseScore.values` or of `cohort_measures`.
        baseline: Name of the naive baseline, as tables show it.
        card_measures, example_measures: What a model card shows of each case, and an example picture.
        finds_gland: Whether a result marks the prostate, so that a mask of it must not help the network.
        uses_gland_slices: Whether only slices that hold gland count, for networks of slices.
        works_within_slices: Whether slices beside a slice are of little use.
        uses_phase_axis: Whether the result depends on the axis of diffusion's phase encoding.
        grid_words: How the network's grid differs from the reference's, where it does not follow the network's spacing.
        finds_lesions: Whether the labels are findings, counted one by one; none may be there.
        plain_mask_label: What a reference mask of any values marks, where it need not use the result's values.
        measured_by: Sequence of a case that is the truth of the first output where the case has it, as the measured
            ADC is of a synthetic one.
        label_column: Column of `labels.csv` that holds the class of a case; empty where there is none.
        calibrated_measures: Measures that calibration improves.
        intended_use, inappropriate_settings, stop_using_when: Of its networks, on model cards: what a result may be
            used for in research, where not to use one, and what ends its use, beside what holds for all networks.
        drop_path: Stochastic depth of the encoder in training.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    short_title: ClassVar[str]
    network_title: ClassVar[str] = ""
    sequences: ClassVar[tuple[MRSequence, ...]]
    truth_sequences: ClassVar[tuple[MRSequence, ...]] = ()
    reference: ClassVar[MRSequence] = MRSequence.T2W
    output: ClassVar[OutputKind]
    head: ClassVar[HeadKind]
    labels: ClassVar[tuple[str, ...]] = ()
    activation: ClassVar[str] = "none"
    initial_output: ClassVar[float] = 0.0
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    baseline: ClassVar[str]
    card_measures: ClassVar[tuple[str, ...]] = ()
    example_measures: ClassVar[tuple[str, ...]] = ()
    finds_gland: ClassVar[bool] = False
    uses_gland_slices: ClassVar[bool] = False
    works_within_slices: ClassVar[bool] = False
    uses_phase_axis: ClassVar[bool] = False
    grid_words: ClassVar[str] = ""
    finds_lesions: ClassVar[bool] = False
    plain_mask_label: ClassVar[Label | None] = None
    measured_by: ClassVar[MRSequence | None] = None
    label_column: ClassVar[str] = ""
    calibrated_measures: ClassVar[tuple[str, ...]] = ()
    intended_use: ClassVar[str] = ""
    inappropriate_settings: ClassVar[tuple[str, ...]] = ()
    stop_using_when: ClassVar[tuple[str, ...]] = ()
    drop_path: ClassVar[float] = 0.1

    @property
    def marks_voxels(self) -> bool:
        return self.output.marks_voxels

    def network_grid(self, seen: Geometry, spacing_mm: Triple) -> Geometry:
        """The grid that a network sees, of the reference's grid with axes nearest to L, P, S."""
        return seen.with_spacing(spacing_mm)

    def place(self, volume: Volume, grid: Geometry) -> Volume:
        """A volume on the network's grid, by position, 0 outside."""
        return volume.resample_to(grid)

    def phantom_options(self) -> dict[str, Any]:
        """Arguments of `make_phantom` for a phantom that holds the task's truth."""
        return {"sequences": self.truth_sequences or self.sequences}

    @abstractmethod
    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        """The task on a phantom; DatasetError where it was made without what the task needs."""

    def from_scan(self, case: Case, *, seed: int = 0, gland: Volume | None = None) -> LabeledCase:
        """The task on a real case where the scan itself is the truth, with a seed of what is drawn to make it worse.

        Raises DatasetError where the task needs labels, and MissingSequenceError.
        """
        raise DatasetError(f"{self.title} needs labels; a scan alone holds truth for image tasks only.")

    @abstractmethod
    def read_labeled(self, files: CaseFiles) -> LabeledCase:
        """A case on disk with what is true of it; DatasetError of a missing label, ImageError, MissingSequenceError."""

    def class_from_table(self, value: str) -> str:
        """The class that a value of `label_column` stands for; else ValueError lists the values that stand for one."""
        raise ValueError(f"{self.title} takes no class from a table.")

    def around_gland(self, labeled: LabeledCase, width_mm: float) -> LabeledCase:
        """A case cut in plane to a square around the middle of the gland; slices and voxels stay as they are.

        A narrower scan of the same patient, whose windows are fewer, so that a network is measured in less time. Raises
        DatasetError where the case has no mask of the prostate.
        """
        if labeled.gland is None:
            raise DatasetError(
                f"Case '{labeled.case.id}' must have a mask of the prostate to be cut around it. Draw one."
            )
        marked = np.argwhere(labeled.gland.array > 0)[:, ::-1]
        center_mm = labeled.gland.geometry.to_world(marked.mean(axis=0))

        def cut(volume: Volume) -> Volume:
            return cut_volume(volume, *square_around(volume.geometry, center_mm, width_mm))

        volumes = labeled.case.volumes
        return replace(
            labeled,
            case=replace(labeled.case, volumes={name: cut(volume) for name, volume in volumes.items()}),
            gland=cut(labeled.gland),
            masks={label: cut(mask) for label, mask in labeled.masks.items()},
            images={
                name: self.cut_image(image, volumes[self.reference].geometry, center_mm, width_mm)
                for name, image in labeled.images.items()
            },
            along_phase_mm=None if labeled.along_phase_mm is None else cut(labeled.along_phase_mm),
        )

    def cut_image(self, image: Volume, seen: Geometry, center_mm: np.ndarray, width_mm: float) -> Volume:
        """A true image cut as `around_gland` cuts the case, whose reference lies on `seen`."""
        return cut_volume(image, *square_around(image.geometry, center_mm, width_mm))

    def labeled(self, case: Case, **truth: Any) -> LabeledCase:
        """A case with the task's sequences alone, since no mask may help it, and its truth; MissingSequenceError."""
        case.require(self.sequences)
        seen = Case(case.id, {s: case.volumes[s] for s in self.sequences}, notes=case.notes)
        return LabeledCase(self.id, seen, **truth)

    @abstractmethod
    def decode(self, output: NetworkOutput) -> Result:
        """The result of a network's output, on the grid that the case was scanned on."""

    def caution(self, estimate: DiceEstimate | None, is_withheld: bool) -> str:
        """A sentence that must be read before a result of this expected Dice is looked at; empty for none."""
        return ""

    def checked(self, result: Result, case: Case, gland: Volume | None) -> Result:
        """What a user gets of a decoded result: the same, unless the task withholds what does more harm than good.

        Prediction asks this; training and study measure networks as they are.
        """
        return result

    def is_cut_off(self, result: Result, prepared: NetworkInput) -> bool:
        """Whether what a result marks may go on beyond what the network saw, so that it is run again around it."""
        return False

    @abstractmethod
    def score(self, result: Result, labeled: LabeledCase) -> CaseScore:
        """How good a result is on a case of this task."""

    def cohort_measures(self, cases: Sequence[CaseScore]) -> dict[str, float]:
        """Statistics of all cases together, beside the means of their values."""
        return {}

    def tabled(self, score: CaseScore) -> dict[str, float]:
        """Further numbers of a case for the study's tables, from which statistics can be computed again."""
        return {}

    def fit_calibration(self, cases: Iterable[CaseScore]) -> Calibration | None:
        """The calibration that validation cases of an uncalibrated network ask for; None without cases or classes."""
        return None

    def fit_operating_point(self, results: Iterable[tuple[Result, LabeledCase]]) -> OperatingPoint | None:
        """What validation results without an operating point ask for; None of tasks that find no lesions."""
        return None

    @abstractmethod
    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """The result of a case from what training cases have in common; DatasetError where they lack what it needs."""

    def methods(self) -> Mapping[str, Method]:
        """Name → method without a trained network, such as a registration, that a study may set beside networks."""
        return {}

    def baseline_result(self, labeled: LabeledCase, **found: Any) -> Result:
        """A result of the naive baseline."""
        source = Provenance(self.baseline, self.baseline.replace("-", " "), "trivial", "", "none", "cpu")
        return Result(labeled.case.id, self.id, source, **found)

    def require_training(self, training: Sequence[LabeledCase]) -> None:
        """Raise where the naive baseline has no training cases to learn from."""
        if not training:
            raise DatasetError(f"The naive baseline of {self.id} needs training cases, got none.")

    @abstractmethod
    def training(self) -> TaskTraining:
        """Targets, loss and sampling; imports torch."""


def activated(logits: np.ndarray, activation: str) -> np.ndarray:
    """Probabilities of logits whose first axis is the class."""
    if activation == "softmax":
        exponentials = np.exp(logits - logits.max(axis=0))
        return exponentials / exponentials.sum(axis=0)
    if activation == "sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * logits))  # the logistic function without overflow
    raise ValueError(f"Classes need the activation softmax or sigmoid, got '{activation}'.")


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """What has a value; JSON has no other numbers."""
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def slice_axis(geometry: Geometry) -> int:
    """The index axis (0, 1 or 2 for x, y, z) that runs nearest to Superior: from slice to slice of an axial image."""
    return int(np.abs(np.reshape(geometry.direction, (3, 3))[_SUPERIOR]).argmax())


def square_around(geometry: Geometry, center_mm: np.ndarray, width_mm: float) -> tuple[IntTriple, IntTriple]:
    """First voxel and size (x, y, z) of a grid's part around a place, all slices."""
    middle = geometry.to_index(center_mm)
    first, size = [0, 0, 0], list(geometry.size)
    for axis in {0, 1, 2} - {slice_axis(geometry)}:
        reach = round(width_mm / 2 / geometry.spacing_mm[axis])
        place = round(float(middle[axis]))
        first[axis] = max(place - reach, 0)
        size[axis] = min(place + reach, geometry.size[axis]) - first[axis]
    return (first[0], first[1], first[2]), (size[0], size[1], size[2])


def cut_volume(volume: Volume, first: IntTriple, size: IntTriple) -> Volume:
    """A part of a volume, from voxel `first` (x, y, z) on."""
    x, y, z = (slice(a, a + n) for a, n in zip(first, size, strict=True))
    return replace(
        volume, array=np.ascontiguousarray(volume.array[z, y, x]), geometry=volume.geometry.crop(first, size)
    )
