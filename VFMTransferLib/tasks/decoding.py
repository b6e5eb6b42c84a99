"""A network's logits become a result on the grid that the case was scanned on.

Probabilities, not labels, are brought back by position; labels are decided there, so that their edges follow the
reference's own voxels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from ..core.case import Case
from ..core.placement import Prepared, is_cut, to_reference
from ..core.region import confine, confined_note
from ..core.result import Provenance, Result
from ..core.terms import Label, Sequence, TaskId
from ..core.volume import Volume
from ..encoders.base import ModelSpec
from ..metrics.calibration import Calibration
from .images import restored_images
from .lesions import CONNECTIVITY, find_lesions, in_prostate

# What makes up the prostate: a network that marks nothing else marks one organ.
GLAND_LABELS = frozenset({Label.PROSTATE, Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE})
CANCER_LABELS = (Label.INDOLENT_CANCER, Label.CSPCA)
# This project's own definition, since the network was trained on PI-RADS scores and knows no biopsy.
CSPCA_PIRADS = 4
CSPCA_NOTE = f"csPCa is this project's own reading of the classes: the probability of PI-RADS {CSPCA_PIRADS} or more."
CUT_NOTE = "The prostate reaches the edge of what the network saw, and may go on beyond it; look there."
OUTSIDE_NOTE = "Marks outside of the prostate were left out: {count}. The probabilities still show them."
_PIRADS = "PI-RADS "


def postprocess(
    logits: np.ndarray,
    prepared: Prepared,
    case: Case,
    spec: ModelSpec,
    provenance: Provenance,
    *,
    threshold: float | None = None,
    only_cspca: bool = False,
    phase_axis: str = "left-right",
    gland: Volume | None = None,
    zones: dict[str, Volume] | None = None,
    roi: Volume | None = None,
    calibration: Calibration | None = None,
) -> Result:
    """Make the result of a network's output.

    Args:
        logits: (C, D, H, W) on `prepared.region`, or (C,) of a classifier.
        prepared: The record of where the input lay.
        case: The study.
        spec: The network.
        provenance: Where the logits came from; notes are added.
        threshold: Probability above which a voxel counts, instead of the network's own.
        only_cspca: Of a network that knows cancer grades, mark clinically significant cancer alone.
        phase_axis: Of distortion correction: a key of `restored.PHASE_AXES`.
        gland: Mask of the prostate. A lesion most of which lies outside of it is left out, which the notes say; the
            probabilities keep it. This is our own step, not the networks' authors'.
        zones: Zone name → mask, for naming where lesions lie.
        roi: Mask outside of which nothing is marked; it leaves classes and images as they are.
        calibration: Of a classifier, what its bundle states.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"The threshold must be a probability between 0 and 1, got {threshold}.")
    output = spec.prediction_task.output
    if output == "classification":
        return classify(logits, case, spec, provenance, calibration)
    if output == "image":
        return restored_images(logits, prepared, case, spec, provenance, phase_axis)
    probabilities = {
        name: to_reference(channel, prepared, str(name), fill=float(name == Label.BACKGROUND))
        for name, channel in zip(spec.labels, activated(logits, spec.activation), strict=True)
    }
    if roi is not None:
        probabilities = confine(probabilities, roi)
        provenance = provenance.with_notes(confined_note(roi))
    level = spec.threshold if threshold is None else threshold
    if spec.task is TaskId.LESION_SEGMENTATION:
        return _lesion_result(probabilities, case, spec, provenance, level, only_cspca, gland, zones)
    result = _anatomy_result(probabilities, spec, case, provenance, level)
    if not reaches_edge(result, prepared):
        return result
    return replace(result, provenance=result.provenance.with_notes(CUT_NOTE))


def activated(logits: np.ndarray, activation: str) -> np.ndarray:
    """Probabilities of logits whose first axis is the class."""
    if activation == "softmax":
        exponentials = np.exp(logits - logits.max(axis=0))
        return exponentials / exponentials.sum(axis=0)
    if activation == "sigmoid":
        return 0.5 * (1 + np.tanh(0.5 * logits))  # the logistic function without overflow
    raise ValueError(f"Classes need the activation softmax or sigmoid, got '{activation}'.")


def label_values(spec: ModelSpec) -> dict[str, int]:
    """Label name → value in label maps: its channel, counted from 1 where the network has no background channel."""
    first = 0 if spec.labels[0] == Label.BACKGROUND else 1
    return {str(n): i for i, n in enumerate(spec.labels, start=first) if n != Label.BACKGROUND}


def classify(
    logits: np.ndarray, case: Case, spec: ModelSpec, provenance: Provenance, calibration: Calibration | None = None
) -> Result:
    """Class probabilities; of PI-RADS classes also those of a score of at least 3 and 4, and csPCa by our reading."""
    if calibration is not None:
        logits, provenance = calibration.of(logits), provenance.with_notes(calibration.note)
    probabilities = activated(logits, spec.activation)
    classes = {str(n): float(p) for n, p in zip(spec.labels, probabilities, strict=True)}
    scores = {int(n.removeprefix(_PIRADS)): p for n, p in classes.items() if n.startswith(_PIRADS)}
    derived = {}
    if scores:
        derived = {f"{_PIRADS}>= {least}": sum(p for s, p in scores.items() if s >= least) for least in (3, 4)}
        derived[str(Label.CSPCA)] = derived[f"{_PIRADS}>= {CSPCA_PIRADS}"]
        provenance = provenance.with_notes(CSPCA_NOTE)
    return Result(
        case.id, spec.prediction_task.id, provenance, class_probabilities=classes, derived_probabilities=derived
    )


def _lesion_result(
    probabilities: dict[str, Volume],
    case: Case,
    spec: ModelSpec,
    provenance: Provenance,
    threshold: float,
    only_cspca: bool,
    gland: Volume | None,
    zones: dict[str, Volume] | None,
) -> Result:
    """Voxels whose probability of all marked labels together exceeds the threshold, and the lesions they form."""
    cancer = [name for name in spec.labels if name in CANCER_LABELS]
    names = [Label.CSPCA] if only_cspca else cancer
    shown = {str(name): probabilities[name] for name in names}
    marked = sum_of(shown) > threshold
    if gland is not None and gland.array.any():
        grid = next(iter(shown.values())).geometry
        marked, left_out = in_prostate(marked, gland.resample_to(grid, "nearest").array > 0)
        if left_out:
            provenance = provenance.with_notes(OUTSIDE_NOTE.format(count=left_out))
    labels = _label_map(shown, marked, spec)
    return Result(
        case.id,
        spec.prediction_task.id,
        provenance,
        label_values={n: v for n, v in label_values(spec).items() if n in shown},
        labels=labels,
        probabilities=shown,
        volumes_ml=_volumes_ml(labels, shown, spec),
        lesions=find_lesions(labels, shown, case.volumes.get(Sequence.ADC), zones),
    )


def _anatomy_result(
    probabilities: dict[str, Volume], spec: ModelSpec, case: Case, provenance: Provenance, threshold: float
) -> Result:
    """The most probable structure of each voxel; where all of them make up the prostate, one organ without holes."""
    shown = {str(name): p for name, p in probabilities.items() if name != Label.BACKGROUND}
    is_gland = GLAND_LABELS.issuperset(shown)
    zones = {name: p for name, p in shown.items() if name != Label.PROSTATE} if is_gland else {}
    marked = _structures(probabilities, shown, spec, threshold)
    if is_gland:
        marked, notes = one_organ(marked, next(iter(shown.values())).geometry.voxel_volume_ml)
        provenance = provenance.with_notes(*notes)
    parts = zones or shown
    labels = _label_map(parts, marked, spec)
    volumes_ml = _volumes_ml(labels, parts, spec)
    if is_gland:
        volumes_ml[str(Label.PROSTATE)] = labels.volume_ml
    values = {name: value for name, value in label_values(spec).items() if name in parts}
    return Result(case.id, spec.prediction_task.id, provenance, values, labels, shown, volumes_ml=volumes_ml)


def reaches_edge(result: Result, prepared: Prepared) -> bool:
    """Whether the prostate of a result may go on beyond what the network saw."""
    return result.labels is not None and Label.PROSTATE in result.volumes_ml and is_cut(result.labels, prepared)


def _structures(
    probabilities: dict[str, Volume], shown: dict[str, Volume], spec: ModelSpec, threshold: float
) -> np.ndarray:
    """Which voxels (D, H, W) belong to a structure at all."""
    if Label.PROSTATE in shown and GLAND_LABELS.issuperset(shown):
        return probabilities[Label.PROSTATE].array > threshold  # zones divide the gland, they do not add to it
    if spec.activation == "softmax" and GLAND_LABELS.issuperset(shown):
        return sum_of(shown) > threshold  # zones compete with each other, their sum with the background
    if Label.BACKGROUND in probabilities:
        return _highest(shown) > probabilities[Label.BACKGROUND].array
    return _highest(shown) > threshold


def one_organ(mask: np.ndarray, voxel_volume_ml: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """The largest connected part of a mask (26 neighbors) without holes, and a note on what was left out."""
    parts, count = ndimage.label(mask, structure=CONNECTIVITY)
    if count == 0:
        return mask, ("No voxel was marked as prostate.",)
    sizes = np.bincount(parts.ravel())[1:]
    organ = ndimage.binary_fill_holes(parts == sizes.argmax() + 1)
    left_out_ml = (sizes.sum() - sizes.max()) * voxel_volume_ml
    if count == 1:
        return organ, ()
    return organ, (
        f"The largest connected part is the prostate; {count - 1} smaller ({left_out_ml:.2f} ml) were left out.",
    )


def sum_of(probabilities: dict[str, Volume]) -> np.ndarray:
    return np.sum([p.array for p in probabilities.values()], axis=0)


def _highest(probabilities: dict[str, Volume]) -> np.ndarray:
    return np.max([p.array for p in probabilities.values()], axis=0)


def _label_map(shown: dict[str, Volume], marked: np.ndarray, spec: ModelSpec) -> Volume:
    """The value of the most probable of the shown labels where a voxel is marked, else 0."""
    values = np.array([label_values(spec)[name] for name in shown], np.uint8)
    likeliest = np.argmax([p.array for p in shown.values()], axis=0)
    volume = next(iter(shown.values()))
    return Volume(np.where(marked, values[likeliest], np.uint8(0)), volume.geometry, "labels")


def _volumes_ml(labels: Volume, shown: dict[str, Volume], spec: ModelSpec) -> dict[str, float]:
    counts = np.bincount(labels.array.ravel(), minlength=len(spec.labels) + 1)
    return {name: float(counts[label_values(spec)[name]] * labels.geometry.voxel_volume_ml) for name in shown}
