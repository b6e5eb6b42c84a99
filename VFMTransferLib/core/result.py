"""What one network predicts for one case, in space and in numbers; nothing here touches files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .measurements import DiceEstimate, GlandMeasurements, QualityCriterion
from .notes import Note
from .volume import Geometry, Volume

TRAINED_NOTE = Note(
    "trained-on-case",
    "A case of this name is among those that this network was trained or validated on. If it is this exam, the result "
    "does not show what the network does on new ones.",
    "caution",
)

GLAND_TRAINED_NOTE = Note(
    "gland-trained-on-case",
    "A case of this name is among those that the network that marked the gland was trained or validated on. If it is "
    "this exam, new ones may have a worse outline, and results that rely on it.",
)


@dataclass(frozen=True)
class Lesion:
    """A connected region that a network marks as suspicious.

    Attributes:
        index: 1 for the largest; the value in `labels` stays the label's, not this.
        center_mm: Centroid, LPS.
        volume_ml: Volume.
        confidence: Highest probability inside.
        mean_adc: Mean ADC inside, 1e-6 mm²/s, where the case has an ADC above 0.
        label: Name of the label.
        zone: Zone of the prostate that holds most of it, where a network distinguished the zones.
        position: Where most of it lies in the gland, as `right, mid, posterior, peripheral zone`; empty where the gland
            is not known.
        place: Its middle in the gland: to the side as a share of its width (-1 right, 1 left), then from front (0)
            to back (1) and from apex (0) to base (1).
        sectors: Sectors that hold at least a tenth of it, the fullest first.
        sector_scheme: What the sectors are those of.
        diameter_mm: Largest diameter in an axial slice.
        adc_p10: 10th percentile of the ADC inside, 1e-6 mm²/s.
        high_b_ratio: Mean high-b signal inside divided by that of the same zone on the other side, in the same slices.
        capsule_distance_mm: Shortest way to the prostate's surface; 0 where it reaches it, None where the image ends
            inside the prostate nearer than that.
        capsule_contact_mm: Longest stretch of the prostate's outline in an axial slice along which it lies within 1 mm.
    """

    index: int
    label: str
    center_mm: tuple[float, float, float]
    volume_ml: float
    confidence: float
    mean_adc: float | None = None
    zone: str | None = None
    position: str = ""
    place: tuple[float, float, float] | None = None
    sectors: tuple[str, ...] = ()
    sector_scheme: str = ""
    diameter_mm: float | None = None
    adc_p10: float | None = None
    high_b_ratio: float | None = None
    capsule_distance_mm: float | None = None
    capsule_contact_mm: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Which weights predicted, how, and how long it took.

    Attributes:
        arm: `pretrained`, `scratch` or empty.
        sha256: Of the weights.
        runtime, device, precision: For example `onnx`, `cpu`, `fp32`.
        versions: Of packages.
        seconds: Of each stage.
        notes: What was decided on the way.
        options: Crop, threshold (None is the network's own), only_cspca, phase_axis.
        caveats: What must be known of any result of these weights.
        min_confidence: Of lesions: a place above the threshold whose largest probability is below it is no mark. None
            where each one is.
        gland_sha256: Of the weights of the network that searched the prostate for this one; None where none did.
    """

    bundle: str
    title: str
    arm: str
    sha256: str
    runtime: str
    device: str
    precision: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    options: dict[str, str | float | bool | None] = field(default_factory=dict)
    caveats: tuple[Note, ...] = ()
    min_confidence: float | None = None
    gland_sha256: str | None = None

    @property
    def was_trained_on_name(self) -> bool:
        """Whether a case of the result's name trained the network, as far as its bundle states."""
        return TRAINED_NOTE in self.notes

    def with_notes(self, *notes: Note) -> Provenance:
        return replace(self, notes=(*self.notes, *notes))


@dataclass(frozen=True)
class Result:
    """One network's answer on one case.

    Attributes:
        label_values: Label name → value in `labels`; 0 is background.
        labels: Label map (uint8) on the grid of the task's reference sequence.
        probabilities: Label name → probability (float32) on that grid.
        images: Output name (file stem, as `t2w-super-resolved`) → volume.
        displacement_mm: (D, H, W, 3) LPS millimeters on the grid of the first image, or None. A point p of the
            corrected image shows what lay at p + displacement in the distorted one.
        class_probabilities: Of classification; they add up to 1.
        derived_probabilities: What follows from the classes, as `PI-RADS >= 3`; a note states whose reading it is.
        decided_at_mm: Center, LPS, of the slice that the classes are of, where a classifier saw each slice alone and
            the most suspicious one decides; else None.
        volumes_ml: Of structures; for anatomy also `prostate`, all labels together.
        lesions: Largest first.
        gland: The prostate's size and PSA density, where its mask is known.
        quality: Of the case's images.
        estimate: Of a segmentation of the prostate how good it probably is, where that is known for the network.
        grid: Of the image of the task's reference sequence, by which the exam is known that a result is of.
        case_sha256: Of the case's files, by which a batch knows them again; empty outside of batches.
    """

    case_id: str
    task: str
    provenance: Provenance
    label_values: dict[str, int] = field(default_factory=dict)
    labels: Volume | None = None
    probabilities: dict[str, Volume] = field(default_factory=dict)
    images: dict[str, Volume] = field(default_factory=dict)
    displacement_mm: np.ndarray | None = None
    class_probabilities: dict[str, float] = field(default_factory=dict)
    derived_probabilities: dict[str, float] = field(default_factory=dict)
    decided_at_mm: tuple[float, float, float] | None = None
    volumes_ml: dict[str, float] = field(default_factory=dict)
    lesions: tuple[Lesion, ...] = ()
    gland: GlandMeasurements | None = None
    quality: tuple[QualityCriterion, ...] = ()
    estimate: DiceEstimate | None = None
    grid: Geometry | None = None
    case_sha256: str = ""

    @property
    def is_withheld(self) -> bool:
        """Whether a correction was withheld: its displacement is 0 everywhere, and the images are the case's own."""
        return self.displacement_mm is not None and not self.displacement_mm.any()
