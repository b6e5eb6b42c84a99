"""How good results are on study cases: networks and baselines of any task, scored by one function.

A case's scores bear the names of their measures, the task's primary one among them unless it is a statistic of all
cases (AUROC). A score that has no value for a case, such as the Dice of a lesion that is not there, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from ..core.result import Result
from ..core.terms import Label, TaskId
from ..core.volume import Volume
from ..metrics.arrays import SSIM_RADIUS_PX, data_range, dice, hausdorff95_mm, mae, psnr_db, ssim
from ..metrics.calibration import Calibration
from ..metrics.classification import expected_calibration_error, fit_calibration
from .base import TASKS
from .images import HBV_CORRECTED, PHASE_AXES
from .lesions import pair_regions
from .truth import StudyCase

SMALLEST_PROBABILITY = 1e-6
# The same reading as in `postprocess`: PI-RADS 4 and 5 count as clinically significant.
SIGNIFICANT = ("PI-RADS 4", "PI-RADS 5")
# Measures that calibration is for.
OF_PROBABILITIES = ("brier", "log_loss", "ece")
_ZONES = (Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE)


@dataclass(frozen=True)
class Candidate:
    """A region that was marked as csPCa: how sure the network is, and whether a lesion is there."""

    confidence: float
    is_hit: bool


@dataclass(frozen=True)
class CaseScore:
    """One case.

    Attributes:
        case_id: The case.
        values: Measure → value.
        truth: Its true class, of a classification, where it is known.
        is_significant: Whether it has clinically significant cancer, of a classification.
        probabilities: Class → probability, of a classification.
        candidates: Of lesion segmentation.
        lesions: How many true lesions there are.
    """

    case_id: str
    values: Mapping[str, float]
    truth: str | None = None
    is_significant: bool = False
    probabilities: Mapping[str, float] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    lesions: int = 0


@dataclass(frozen=True)
class Scores:
    """All cases of one network or baseline.

    Attributes:
        task: The task.
        cases: Case by case.
        cohort: Measure → mean over the cases that have it, and statistics of all cases together.
    """

    task: TaskId
    cases: tuple[CaseScore, ...]
    cohort: Mapping[str, float]

    @property
    def primary(self) -> float:
        """The task's primary measure; `nan` where these cases give it no value."""
        return self.cohort.get(TASKS[self.task].metric, math.nan)


def score_results(task: TaskId, results: Iterable[tuple[Result, StudyCase]]) -> Scores:
    """Score results against what is true of their cases; an iterator is read one by one.

    Raises:
        ValueError: A result is of another task or case.
    """
    cases = tuple(score_case(result, study) for result, study in results)
    if any(score.case_id == other.case_id for i, score in enumerate(cases) for other in cases[:i]):
        raise ValueError("Each case must be scored once.")
    names = sorted({name for case in cases for name in case.values})
    cohort = {name: _mean([case.values[name] for case in cases if name in case.values]) for name in names}
    if task is TaskId.CLASSIFICATION:
        cohort |= classification_statistics(cases)
    if task is TaskId.LESION_SEGMENTATION:
        candidates = [candidate for case in cases for candidate in case.candidates]
        cohort["average_precision"] = average_precision(candidates, sum(case.lesions for case in cases))
    return Scores(task, cases, cohort)


def score_case(result: Result, study: StudyCase) -> CaseScore:
    """Score one result; see the module.

    Raises:
        ValueError: The result is of another task or case.
    """
    if (result.task, result.case_id) != (study.task, study.case.id):
        raise ValueError(
            f"A result must be of {study.task} on '{study.case.id}', got {result.task} on '{result.case_id}'."
        )
    if study.task is TaskId.ANATOMY_SEGMENTATION:
        return CaseScore(study.case.id, _anatomy(result, study))
    if study.task is TaskId.LESION_SEGMENTATION:
        return _lesions(result, study)
    if study.task is TaskId.CLASSIFICATION:
        return _classes(result, study)
    scored = _images(result, study)
    if study.task is TaskId.DISTORTION_CORRECTION:
        scored |= _displacement(result, study)
    return CaseScore(study.case.id, scored)


def auroc(scores: Sequence[float], positives: Sequence[bool]) -> float:
    """Area under the ROC curve: how often a positive case scores above a negative one, ties counting half.

    By the rank sum of Mann and Whitney; `nan` where all cases are of one kind.
    """
    is_positive = np.asarray(positives, bool)
    count, others = int(is_positive.sum()), int((~is_positive).sum())
    if count == 0 or others == 0:
        return math.nan
    ranks = stats.rankdata(np.asarray(scores, float))
    return float((ranks[is_positive].sum() - count * (count + 1) / 2) / (count * others))


def quadratic_weighted_kappa(truth: Sequence[int], found: Sequence[int], classes: int) -> float:
    """Cohen's kappa with squared weights: 1 minus observed over expected squared disagreement.

    `nan` where truth and answers are all one class, so that nothing could disagree.
    """
    table = np.zeros((classes, classes))
    np.add.at(table, (np.asarray(truth, int), np.asarray(found, int)), 1)
    weights = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / max(table.sum(), 1)
    by_chance = float((weights * expected).sum())
    return 1 - float((weights * table).sum()) / by_chance if by_chance else math.nan


def average_precision(candidates: Sequence[Candidate], lesions: int) -> float:
    """Area under precision over recall, in steps, of lesion candidates of all cases together.

    Candidates of equal confidence come together. Lesions without a candidate lower the recall; `nan` without lesions.
    """
    if lesions == 0:
        return math.nan
    area, hits, seen = 0.0, 0, 0
    for confidence in sorted({candidate.confidence for candidate in candidates}, reverse=True):
        group = [candidate.is_hit for candidate in candidates if candidate.confidence == confidence]
        hits, seen = hits + sum(group), seen + len(group)
        area += hits / seen * sum(group) / lesions
    return area


def classification_statistics(cases: Sequence[CaseScore]) -> dict[str, float]:
    """AUROC of csPCa and how far its probability is from its frequency, over all cases; over those whose class is known
    quadratic-weighted kappa of the most probable class.
    """
    known = [case for case in cases if case.truth is not None]
    classes = sorted({name for case in known for name in case.probabilities})
    chosen = [classes.index(_most_probable(case.probabilities)) for case in known]
    truths = [classes.index(str(case.truth)) for case in known]
    said, happened = [_significant(case.probabilities) for case in cases], [case.is_significant for case in cases]
    return {
        "auroc": auroc(said, happened),
        "ece": expected_calibration_error(said, happened),
        "quadratic_weighted_kappa": quadratic_weighted_kappa(truths, chosen, len(classes)) if known else math.nan,
    }


def calibration_of(scores: Scores) -> Calibration | None:
    """The calibration that validation cases ask for: by their class, or by csPCa alone where that is all that is known.

    Args:
        scores: Of validation cases, by a network that is not calibrated.

    Returns:
        None without cases, and for other tasks.
    """
    if scores.task is not TaskId.CLASSIFICATION or not scores.cases:
        return None
    names = list(scores.cases[0].probabilities)
    probabilities = np.array([[case.probabilities[name] for name in names] for case in scores.cases])
    possible = [
        [
            name == case.truth if case.truth is not None else (name in SIGNIFICANT) == case.is_significant
            for name in names
        ]
        for case in scores.cases
    ]
    return fit_calibration(np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)), np.array(possible))


def _anatomy(result: Result, study: StudyCase) -> dict[str, float]:
    """Dice, distance and volume of the prostate, and Dice of its zones where both know them."""
    labels = _labels(result)
    prostate = study.masks[Label.PROSTATE].resample_to(labels.geometry, "nearest").array > 0
    marked = labels.array > 0
    found = {
        "dice": dice(marked, prostate),
        "hd95_mm": hausdorff95_mm(marked, prostate, labels.geometry.spacing_mm),
        "volume_error_ml": abs(int(marked.sum()) - int(prostate.sum())) * labels.geometry.voxel_volume_ml,
    }
    for zone in _ZONES:
        if zone in study.masks and zone in result.label_values:
            there = study.masks[zone].resample_to(labels.geometry, "nearest").array > 0
            found[f"dice {zone}"] = dice(labels.array == result.label_values[zone], there)
    return _defined(found)


def _lesions(result: Result, study: StudyCase) -> CaseScore:
    """Dice of csPCa where there is any, volume marked in vain where there is none, and the candidates."""
    labels = _labels(result)
    there = study.masks[Label.CSPCA].resample_to(labels.geometry, "nearest").array > 0
    marked = labels.array == result.label_values[Label.CSPCA]
    paired = pair_regions(marked, there)
    confidence = result.probabilities[Label.CSPCA].array if paired.first_count else labels.array
    candidates = tuple(
        Candidate(float(confidence[paired.first == number].max()), number in paired.pairs)
        for number in range(1, paired.first_count + 1)
    )
    missed = paired.second_count - len(paired.pairs)
    found = {"lesions_missed": float(missed), "lesions_added": float(paired.first_count - len(paired.pairs))}
    if there.any():
        found["dice"] = dice(marked, there)
    else:
        found["volume_in_vain_ml"] = int(marked.sum()) * labels.geometry.voxel_volume_ml
    return CaseScore(study.case.id, found, candidates=candidates, lesions=paired.second_count)


def _classes(result: Result, study: StudyCase) -> CaseScore:
    probabilities, truth = result.class_probabilities, study.category
    if truth is None and study.is_significant is None:
        raise ValueError(f"The true class of '{study.case.id}' must be known, or its lesions, but neither is.")
    if truth is not None and truth not in probabilities:
        raise ValueError(f"The true class must be one of {', '.join(probabilities)}, got '{truth}'.")
    is_significant = bool(study.is_significant) if truth is None else truth in SIGNIFICANT
    values = {"brier": (_significant(probabilities) - float(is_significant)) ** 2}
    if truth is not None:
        values["log_loss"] = -math.log(max(probabilities[truth], SMALLEST_PROBABILITY))
    return CaseScore(study.case.id, values, truth, is_significant, probabilities)


def _images(result: Result, study: StudyCase) -> dict[str, float]:
    """Errors of each image on its own grid, where the truth has a say; those of the first bear plain names."""
    found: dict[str, float] = {}
    for name, truth in study.images.items():
        image = result.images[name]
        suffix = "" if name == next(iter(study.images)) else f" {name}"
        covered = _covered(truth, image, study)
        there = truth.resample_to(image.geometry)
        regions = {"": covered}
        if study.gland is not None:
            regions[" gland"] = covered & (study.gland.resample_to(image.geometry, "nearest").array > 0)
        for region, mask in regions.items():
            found |= {f"{kind}{suffix}{region}": v for kind, v in _errors(image, there, mask).items()}
    return _defined(found)


def _covered(truth: Volume, image: Volume, study: StudyCase) -> np.ndarray:
    """Where an image is measured (D, H, W): in the truth's field of view, of an ADC where the truth shows tissue."""
    shown = truth.array > 0 if study.task is TaskId.ADC_TRANSLATION else np.ones(truth.array.shape, bool)
    return truth.with_array(shown.astype(np.uint8)).resample_to(image.geometry, "nearest").array > 0


def _errors(image: Volume, truth: Volume, mask: np.ndarray) -> dict[str, float]:
    """The data range is the truth's in the whole field of view, in every region."""
    span = data_range(truth.array)
    if not mask.any() or not span > 0:
        return {}
    found = {"mae": mae(image.array, truth.array, mask), "psnr_db": psnr_db(image.array, truth.array, span, mask)}
    if min(image.array.shape[1:]) > 2 * SSIM_RADIUS_PX:
        found["ssim"] = ssim(image.array, truth.array, span, mask)
    return found


def _displacement(result: Result, study: StudyCase) -> dict[str, float]:
    """Mean error of the displacement along the phase axis in millimeters, where there is signal."""
    truth = study.along_phase_mm
    if truth is None or result.displacement_mm is None:
        raise ValueError("A displacement must be known and found for it to be scored.")
    grid = result.images[HBV_CORRECTED].geometry
    axis = np.reshape(truth.geometry.direction, (3, 3))[:, PHASE_AXES[study.phase_axis]]
    found, there = result.displacement_mm @ axis, truth.resample_to(grid).array
    tissue = study.images[HBV_CORRECTED].resample_to(grid).array > 0
    values = {"displacement_mm": mae(found, there, tissue)}
    if study.gland is not None:
        gland = study.gland.resample_to(grid, "nearest").array > 0
        values["displacement_mm gland"] = mae(found, there, tissue & gland)
    return _defined(values)


def _labels(result: Result) -> Volume:
    if result.labels is None:
        raise ValueError("A result of a segmentation must have labels.")
    return result.labels


def _most_probable(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=lambda name: probabilities[name])


def _significant(probabilities: Mapping[str, float]) -> float:
    return sum(probabilities[name] for name in SIGNIFICANT)


def _defined(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
