"""The numbers of a run as one table, where to look first, and what a comparison can claim. Needs MRML, but no Qt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.util import arrayFromVolume, arrayFromVTKMatrix
from vtk.util.numpy_support import vtk_to_numpy

import VFMTransferLib
from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.core.measurements import DiceEstimate
from VFMTransferLib.core.notes import Note, texts, warning_text
from VFMTransferLib.core.terms import Label
from VFMTransferLib.encoders import FAMILIES
from VFMTransferLib.evaluation.measures import (
    ALL_CLASSES,
    KINDS,
    MIN_DIFFERENCE_ML,
    Between,
    Kind,
    label_title,
    place_title,
    subject_title,
    unit_title,
)
from VFMTransferLib.tasks import TASKS

from ..inputs.exporting import drawnOn, ijkToWorld, labelOf
from ..runs import ArmInScene, RunInScene

ADC_OUTPUTS = ("adc-synthetic", "adc-corrected")
_LESION_LABELS = (Label.CSPCA, Label.INDOLENT_CANCER)
_INVALID_ITEM = 0
_OF_NETWORK = "VFMTransfer.Task"  # an attribute of what a run left in the scene

Lesion = tuple[str, np.ndarray]  # what it is called, and its voxels (N, 3) in the world, RAS millimeters


def meanAdcInLesions(run: RunInScene) -> list[tuple[str, list[float | None]]]:
    """What each network's ADC is on average in each lesion, by position.

    A lesion is a segment that its terminology or its name calls one, in a segmentation beside the study's images that
    no network drew.

    Returns:
        Name of the lesion's segmentation and segment → the mean of each arm, 1e-6 mm²/s; None where its image does not
        reach, or a transform bends it.
    """
    images = [next((arm.images[name] for name in ADC_OUTPUTS if name in arm.images), None) for arm in run.arms]
    if not images or any(image is None or image.GetScene() is None for image in images) or not run.isInScene:
        return []
    return [(name, [_meanAt(image, points) for image in images]) for name, points in _lesionsBeside(run)]


def _lesionsBeside(run: RunInScene) -> Iterator[Lesion]:
    scene = run.about.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = _studyOf(hierarchy, run.about)
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
        if _studyOf(hierarchy, node) != study or node.GetAttribute(_OF_NETWORK) is not None:
            continue
        if study == hierarchy.GetSceneItemID() and drawnOn(node) not in run.inputs.values():
            continue  # what lies loose in the scene may be of another patient
        segmentation = node.GetSegmentation()
        for name in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(name)
            points = _voxelsOf(node, name) if labelOf(segment) in _LESION_LABELS else np.empty((0, 3))
            if len(points):
                yield f"{segment.GetName()} of {node.GetName()}", points


def _studyOf(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, node: slicer.vtkMRMLNode) -> int:
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetSceneItemID() if item == _INVALID_ITEM else hierarchy.GetItemParent(item)


def _voxelsOf(node: slicer.vtkMRMLSegmentationNode, name: str) -> np.ndarray:
    """The middles of a segment's voxels (N, 3); none where it has no voxels, or a transform bends it."""
    parent = node.GetParentTransformNode()
    image = node.GetBinaryLabelmapInternalRepresentation(name)
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or (parent is not None and not parent.IsTransformToWorldLinear()):
        return np.empty((0, 3))
    array = vtk_to_numpy(scalars).reshape(tuple(reversed(image.GetDimensions())))  # (D, H, W)
    marked = np.argwhere(array == node.GetSegmentation().GetSegment(name).GetLabelValue())[:, ::-1]
    toNode, toWorld = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(toNode)
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(parent, None, toWorld)
    first = np.asarray(image.GetExtent()[::2])  # the array begins where the extent does
    return _moved(marked + first, arrayFromVTKMatrix(toWorld) @ arrayFromVTKMatrix(toNode))


def _meanAt(image: slicer.vtkMRMLScalarVolumeNode, points: np.ndarray) -> float | None:
    """Mean of the voxels that the points (N, 3, RAS) of the world lie in; None where it is not known."""
    try:
        toIjk = np.linalg.inv(ijkToWorld(image))
    except GeometryError:
        return None
    index = np.rint(_moved(points, toIjk)).astype(int)
    array = arrayFromVolume(image)  # (D, H, W)
    inside = ((index >= 0) & (index < array.shape[::-1])).all(axis=1)
    x, y, z = index[inside].T
    return float(array[z, y, x].mean()) if inside.any() else None


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


DIFFERENCE = "Difference"
LESION_OF = ("Lesion of A", "Lesion of B")
SHARED_LESION = "Lesion of both"
MAX_FINDINGS = 40  # a network may mark a hundred specks, which nobody visits one by one
_NOTHING = "nothing"
# As radiologists write them where space is short.
_SHORT = {
    Label.PERIPHERAL_ZONE: "PZ",
    Label.TRANSITION_ZONE: "TZ",
    Label.CSPCA: "csPCa",
    Label.INDOLENT_CANCER: "indolent",
}

Ras = tuple[float, float, float]


@dataclass(frozen=True)
class Finding:
    """One place.

    Attributes:
        kind: `DIFFERENCE`, `SHARED_LESION`, or one of `LESION_OF`.
        a: A's label there; empty where A was not read, as at a lesion of B.
        b: B's label there.
        volumeMl: Its size; A's of a shared lesion, as all that follows.
        other: The same lesion as B has it, of a shared one.
        positionRas: Where it is, RAS millimeters in the world.
        zone: Zone of the prostate that holds most of it; empty where it is not known.
        inGland: Side, level and half of the gland, with the zone; empty where the gland is not known.
        sectors: Of the sector map, with the map's name; may be empty.
        diameterMm: Largest diameter in an axial slice.
        meanAdc: Mean ADC inside, 1e-6 mm²/s; None where it is not known.
        confidence: Highest probability inside; None for a difference.
    """

    kind: str
    a: str
    b: str
    volumeMl: float
    positionRas: Ras
    zone: str = ""
    meanAdc: float | None = None
    confidence: float | None = None
    inGland: str = ""
    sectors: str = ""
    diameterMm: float | None = None
    other: Finding | None = None

    @property
    def isSmall(self) -> bool:
        """Whether it is a difference that seldom matters."""
        return self.kind == DIFFERENCE and self.volumeMl < MIN_DIFFERENCE_ML

    @property
    def place(self) -> str:
        """The position by anatomical directions, in whole millimeters' tenths."""
        x, y, z = self.positionRas
        return place_title((-x, -y, z))


@dataclass(frozen=True)
class Findings:
    """The largest places.

    Attributes:
        shown: Lesions, then differences, each with the largest first; all in all at most `MAX_FINDINGS`.
        folded: Small differences, which follow on request.
        left: How many smaller ones were left out.
    """

    shown: tuple[Finding, ...] = ()
    folded: tuple[Finding, ...] = ()
    left: int = 0

    @property
    def note(self) -> str:
        """What is left out, in a sentence; empty if nothing."""
        return f"{self.left} smaller ones are not listed." if self.left else ""


def findingsOf(run: RunInScene) -> Findings:
    """All places of a run as far as it has come."""
    of = [[_lesion(lesion, side) for lesion in arm.numbers["lesions"]] for side, arm in enumerate(run.arms[:2])]
    regions = run.comparison["disagreements"] if run.comparison is not None else ()
    found = [*_paired(*of)] if len(of) > 1 else [*of[0]] if of else []
    found += [_difference(region) for region in regions]
    found.sort(key=lambda finding: (finding.kind == DIFFERENCE, -finding.volumeMl))
    kept, left = found[:MAX_FINDINGS], len(found[MAX_FINDINGS:])
    shown, folded = ([one for one in kept if one.isSmall is isSmall] for isSmall in (False, True))
    return Findings(tuple(shown), tuple(folded), left)


def _paired(first: list[Finding], second: list[Finding]) -> Iterator[Finding]:
    """Lesions of A and of B; two less than half the larger's diameter apart are one, by our definition."""
    ways = [
        (away, x, y)
        for x, a in enumerate(first)
        for y, b in enumerate(second)
        if (away := float(np.linalg.norm(np.subtract(a.positionRas, b.positionRas)))) <= max(map(_radiusMm, (a, b)))
    ]
    pairs: dict[int, int] = {}
    for _away, x, y in sorted(ways):
        if x not in pairs and y not in pairs.values():
            pairs[x] = y
    for x, a in enumerate(first):
        b = second[pairs[x]] if x in pairs else None
        yield a if b is None else replace(a, kind=SHARED_LESION, b=b.b, other=b)
    yield from (b for y, b in enumerate(second) if y not in pairs.values())


def _radiusMm(lesion: Finding) -> float:
    """Half its diameter; of results that lack one, that of a ball of its volume."""
    if lesion.diameterMm is not None:
        return lesion.diameterMm / 2
    return float(np.cbrt(3000 * lesion.volumeMl / (4 * np.pi)))


def _difference(region: Mapping[str, Any]) -> Finding:
    a, b = (_labelText(region[side]) for side in ("a_label", "b_label"))
    # Comparisons of earlier versions lack the position.
    return Finding(
        DIFFERENCE, a, b, region["volume_ml"], _toRas(region["center_mm"]), inGland=region.get("position", "")
    )


def _lesion(lesion: Mapping[str, Any], side: int) -> Finding:
    label = _labelText(lesion["label"])
    return Finding(
        LESION_OF[side],
        label if side == 0 else "",
        label if side == 1 else "",
        lesion["volume_ml"],
        _toRas(lesion["center_mm"]),
        _labelText(lesion["zone"]) if lesion["zone"] else "",
        lesion["mean_adc"],
        lesion["confidence"],
        # Earlier results lack what follows.
        lesion.get("position", ""),
        ", ".join(lesion.get("sectors", ())) + (f" ({scheme})" if (scheme := lesion.get("sector_scheme")) else ""),
        lesion.get("diameter_mm"),
    )


def _labelText(label: str) -> str:
    return _NOTHING if label == Label.BACKGROUND else _SHORT.get(label, label_title(label))


def _toRas(lps: list[float]) -> Ras:
    return -lps[0], -lps[1], lps[2]


SUMMARY = Path(VFMTransferLib.__file__).resolve().parents[1] / "Resources" / "Study" / "summary.csv"


def transferNote(encoder: str, task: str, summary: Path = SUMMARY) -> str:
    """What starting from pretrained weights gave for this encoder and task; empty where nothing was measured.

    Args:
        encoder: As the study names it, as `profound`; of one with several pretrainings each has a row, as
            `profound-synthetic`.
        task: The task.
        summary: The table of a study, a row an encoder, or pretraining of it, and task.

    Raises:
        DatasetError: The table cannot be understood.
    """
    # scipy's statistics take longer to import than the module may to open.
    from VFMTransferLib.study.overview import gain_text, metric_name, reached_text
    from VFMTransferLib.study.summary import SummaryRow
    from VFMTransferLib.study.tables import read_rows_if_any

    own = {
        row.encoder[len(encoder) + 1 :]: row
        for row in read_rows_if_any(summary, SummaryRow)
        if row.task == task and f"{row.encoder}-".startswith(f"{encoder}-") and not math.isnan(row.rpg_percent)
    }
    if not own:
        return ""
    gains = [
        f"{reached_text(row)}{f' with {pretraining}' if pretraining else ''}, a gain of {gain_text(row)}"
        for pretraining, row in own.items()
    ]
    measure = metric_name(next(iter(own.values())).metric, task)
    unit = f" ({unit_title(measure.unit)})" if measure.unit else ""
    return (
        f"{measure.title}{unit} of {TASKS[task].title.lower()} on phantoms, in this project's transfer study of small "
        f"networks: starting {FAMILIES[encoder].title} from pretrained weights changed it from {'; '.join(gains)}. "
        "Gains above 0 are better, in parentheses their 95 % intervals."
    )


COLUMNS = {
    Between.A: "A",
    Between.B: "B",
    Between.REFERENCE: "Reference",
    Between.A_B: "A vs B",
    Between.A_REFERENCE: "A vs reference",
    Between.B_REFERENCE: "B vs reference",
    Between.INPUT_REFERENCE: "Input vs reference",
    Between.NAIVE_REFERENCE: "Naive vs reference",
}
AGREEMENT = "A vs B is agreement, not accuracy: it does not show which of the two is right."
ONLY_REFERENCE = "Only the columns against the reference show the error of each."
CALIBRATION = (
    "Probabilities are as the networks give them. It is not known here whether they are calibrated, that is, whether "
    "of all cases with 0.7 seven in ten are positive."
)
_PROBABILITY = "probability"
# A difference stands in the row of what it is a difference of.
_DIFFERENCE_OF = {"volume_difference_ml": "volume_ml", "probability_difference": _PROBABILITY}
_ARMS = (Between.A, Between.B)
_LESIONS, _MEAN_ADC = "lesions", "mean_adc"
# What the arms' results have beyond the comparison.
_OF_ARMS = {
    _LESIONS: Kind("Count", decimals=0, definition="connected regions that the network marks"),
    _MEAN_ADC: Kind("Mean ADC", "1e-6 mm²/s", decimals=0, definition="over the volume of the lesions"),
    "transverse_mm": Kind("Transverse", "mm", decimals=0, definition="largest extent from left to right, axial"),
    "anteroposterior_mm": Kind("Anteroposterior", "mm", decimals=0, definition="largest extent, mid-sagittal"),
    "longitudinal_mm": Kind("Longitudinal", "mm", decimals=0, definition="extent, mid-sagittal"),
    "ellipsoid_ml": Kind("Ellipsoid volume", "ml", decimals=1, definition="product of the diameters times pi / 6"),
    "psa_density_segmented": Kind(
        "PSA density", "ng/ml²", decimals=2, definition="PSA divided by the segmented volume"
    ),
    "psa_density_ellipsoid": Kind(
        "PSA density, ellipsoid", "ng/ml²", decimals=2, definition="PSA divided by the ellipsoid volume"
    ),
}
_OF_GLAND = tuple(name for name in _OF_ARMS if name not in (_LESIONS, _MEAN_ADC))
_KINDS = KINDS | _OF_ARMS
_ALL_LESIONS = "All lesions"
_MARKED = "Lesion: "  # one that is marked in the scene, and its name
_UNDEFINED, _INFINITE = "n/a", "∞"


@dataclass(frozen=True)
class Cell:
    """One number.

    Attributes:
        text: As shown, without its unit.
        note: Why there is none, or what it depends on.
    """

    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One measure of one structure, image or class.

    Attributes:
        group: The structure or image; rows of one follow each other. Empty for classes, which are named by the title.
        title: With its unit.
        definition: What the measure is; may be empty.
        cells: Column → number; a column without one is left out.
    """

    group: str
    title: str
    definition: str = ""
    cells: dict[Between, Cell] = field(default_factory=dict)


@dataclass(frozen=True)
class NumbersTable:
    """All numbers of a run.

    Attributes:
        rows: In the order to show.
        notes: What must be known to read them, in sentences.
        warnings: What must be read before the results are looked at, in sentences.
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[Between, ...]:
        """Those in which there is a number."""
        return tuple(column for column in COLUMNS if any(column in row.cells for row in self.rows))


def numbersOf(run: RunInScene) -> NumbersTable:
    """The table of a run as far as it has come."""
    return NumbersTable(_rows(measuresOf(run)), _notes(run), _warnings(run))


def measuresOf(run: RunInScene) -> list[dict[str, Any]]:
    """All numbers of a run: of its comparison, before that of each arm that is there, and of the lesions.

    Returns:
        Rows as `comparison.json` has them: subject, measure, between, value, unit, note.
    """
    arms = list(zip(_ARMS, run.arms, strict=False))
    if run.comparison is not None:
        found = list(run.comparison["measures"])
    else:
        found = [row for side, arm in arms for row in _measuresOfArm(arm, side)]
    found += [row for side, arm in arms for row in _glandMeasures(arm, side)]
    return [*found, *(row for side, arm in arms for row in _lesionMeasures(run, arm, side)), *_lesionAdc(run)]


def _rows(measures: Iterable[Mapping[str, Any]]) -> tuple[Row, ...]:
    rows: dict[tuple[str, str], Row] = {}
    marked: set[str] = set()  # by anyone, be it a voxel; other structures stand last with their volume of 0 alone
    for found in measures:
        kind = _DIFFERENCE_OF.get(found["measure"], found["measure"])
        row = rows.setdefault((found["subject"], kind), _emptyRow(found["subject"], kind, found["unit"]))
        row.cells[Between(found["between"])] = _cell(found)
        if found["measure"] == "volume_ml" and found["value"] and row.group:
            marked.add(row.group)
    empty = {row.group for row in rows.values() if row.group and _isVolume(row)} - marked
    kept = [row for row in rows.values() if row.group not in empty or _isVolume(row)]
    first: dict[str, int] = {}  # where a structure stands; what is known of the prostate comes from two sources
    for place, row in enumerate(kept):
        first.setdefault(row.group, place)
    return tuple(sorted(kept, key=lambda row: (row.group in empty, first[row.group])))


def _isVolume(row: Row) -> bool:
    return row.title.startswith(KINDS["volume_ml"].title)


def _emptyRow(subject: str, kind: str, unit: str) -> Row:
    about = _KINDS[kind]
    title = about.title + (f", {unit_title(unit)}" if unit else "")
    if subject.startswith(_MARKED):
        return Row(title, subject.removeprefix(_MARKED), about.definition)
    if kind == _PROBABILITY:
        return Row("", f"P({subject_title(subject)})", about.definition)
    return Row("" if subject == ALL_CLASSES else subject_title(subject), title, about.definition)


def _cell(found: Mapping[str, Any]) -> Cell:
    kind, value, note = found["measure"], found["value"], found.get("note", "")
    if value is None:
        return Cell(_INFINITE if kind == "psnr_db" and note.startswith("the images are equal") else _UNDEFINED, note)
    sign = "+" if kind in _DIFFERENCE_OF or kind == "mean_difference" else ""
    note = note or (KINDS[kind].definition if kind in _DIFFERENCE_OF else "")
    text = f"{value:{sign}.{_KINDS[kind].decimals}f}"
    return Cell(text if float(text) else text.lstrip("+-"), note)  # no -0.0


def _measuresOfArm(arm: ArmInScene, side: Between) -> list[dict[str, Any]]:
    """What one arm's result has on its own, in the comparison's words."""
    numbers = arm.numbers
    estimate = numbers.get("estimate")
    found = [] if not estimate else [_measure("expected_dice", str(Label.PROSTATE), side, estimate["dice"])]
    found += [_measure("volume_ml", name, side, ml, "ml") for name, ml in numbers["volumes_ml"].items()]
    probabilities = numbers["class_probabilities"] | numbers["derived_probabilities"]
    return found + [_measure(_PROBABILITY, name, side, value) for name, value in probabilities.items()]


def _glandMeasures(arm: ArmInScene, side: Between) -> list[dict[str, Any]]:
    """Size of the prostate, where it is known; earlier results lack it."""
    gland = arm.numbers.get("gland") or {}
    known = {name: gland[name] for name in _OF_GLAND if gland.get(name) is not None}
    return [_measure(name, str(Label.PROSTATE), side, value, _KINDS[name].unit) for name, value in known.items()]


def _lesionMeasures(run: RunInScene, arm: ArmInScene, side: Between) -> list[dict[str, Any]]:
    if not TASKS[run.task].finds_lesions:
        return []
    lesions = arm.numbers["lesions"]
    known = [lesion for lesion in lesions if lesion["mean_adc"] is not None]
    found = [_measure(_LESIONS, _ALL_LESIONS, side, len(lesions))]
    if known:
        total_ml = sum(lesion["volume_ml"] for lesion in known)
        mean = sum(lesion["mean_adc"] * lesion["volume_ml"] for lesion in known) / total_ml
        found.append(_measure(_MEAN_ADC, _ALL_LESIONS, side, mean, _KINDS[_MEAN_ADC].unit))
    return found


def _lesionAdc(run: RunInScene) -> list[dict[str, Any]]:
    """For tasks that give an ADC image."""
    return [
        _measure(_MEAN_ADC, _MARKED + name, side, mean, _KINDS[_MEAN_ADC].unit)
        for name, means in meanAdcInLesions(run)
        for side, mean in zip(_ARMS, means, strict=False)
        if mean is not None
    ]


def _measure(kind: str, subject: str, side: Between, value: float, unit: str = "") -> dict[str, Any]:
    return {"measure": kind, "subject": subject, "between": side, "value": value, "unit": unit}


def _warnings(run: RunInScene) -> tuple[str, ...]:
    """Of the comparison, which knows how far the arms agree; before it is there of each arm."""
    if run.comparison is not None:
        cautions = run.comparison.get("cautions", {})
    else:
        known = zip("AB", (arm.numbers.get("estimate") for arm in run.arms), strict=False)
        cautions = {who: DiceEstimate(**found).warning for who, found in known if found}
        cautions["images"] = warning_text(
            dict.fromkeys(note for arm in run.arms for note in _read(arm.numbers, "notes"))
        )
    return tuple(f"WARNING, {who}: {sentence}" for who, sentence in cautions.items() if sentence)


def _notes(run: RunInScene) -> tuple[str, ...]:
    notes = []
    if run.comparison is not None:
        notes.append(f"{AGREEMENT} {ONLY_REFERENCE}" if run.comparison["has_reference"] else AGREEMENT)
    if not TASKS[run.task].output.has_voxels and run.arms:
        notes.append(CALIBRATION)
    unmet = [one for one in run.arms[0].numbers.get("quality", ()) if one["is_met"] is False] if run.arms else []
    if unmet:
        listed = "; ".join(f"{one['title']} {one['text']} ({one['threshold']})" for one in unmet)
        notes.append(f"Image quality, not met: {listed}.")
    return (*notes, *_notesOfNetworks(run))


def ofAnotherCase(run: RunInScene, chosen: slicer.vtkMRMLNode | None) -> str:
    """A warning where the image that is chosen now is another than the one that the results lie on; else empty."""
    if chosen is None or chosen is run.about or not run.arms:
        return ""
    return f"WARNING: these are results of '{run.about.GetName()}', not of the case that is chosen now. Run again."


def _notesOfNetworks(run: RunInScene) -> Iterator[str]:
    """Caveats and notes of each network's result, and of the comparison, each once; whose it is where not of both."""
    said: dict[str, list[str]] = {}
    for who, arm in zip("AB", run.arms, strict=False):
        for sentence in texts((*_read(arm.numbers, "caveats"), *_read(arm.numbers, "notes"))):
            said.setdefault(sentence, []).append(who)
    for sentence, whose in said.items():
        yield sentence if len(whose) == len(run.arms) else f"{whose[0]}: {sentence}"
    shared = _read(run.comparison or {}, "notes")
    yield from (sentence for sentence in texts(shared) if sentence not in said)


def _read(document: Mapping[str, Any], key: str) -> list[Note]:
    return [Note(**note) for note in document.get(key, ())]
