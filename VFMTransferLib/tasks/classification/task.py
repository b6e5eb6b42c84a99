"""PI-RADS class of a case, and the probability of clinically significant cancer that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from ...core.errors import DatasetError
from ...core.notes import Note
from ...core.result import Result
from ...core.terms import Label
from ...core.terms import Sequence as MRSequence
from ...encoders.base import PIRADS_LABELS
from ...metrics.calibration import Calibration
from ...metrics.classification import (
    SMALLEST_PROBABILITY,
    auroc,
    expected_calibration_error,
    fit_calibration,
    log_loss,
    quadratic_weighted_kappa,
)
from ..base import ISUP_VALUES, CaseFiles, CaseScore, LabeledCase, Method, NetworkOutput, Task, activated, read_truth
from ..lesions import cancer_masks, read_cancer_masks
from ..outputs import CLASSIFICATION

if TYPE_CHECKING:
    from ...phantom import Phantom
    from .training import ClassificationTraining

# This project's own definition, since the networks were trained on PI-RADS scores, without biopsies.
CSPCA_PIRADS = 4
SIGNIFICANT = ("PI-RADS 4", "PI-RADS 5")
CSPCA_NOTE = Note(
    "cspca-reading",
    f"csPCa is this project's own reading of the classes: the probability of PI-RADS {CSPCA_PIRADS} or more.",
)
_PREFIX = "PI-RADS "
# Of the naive baseline: how far places are smoothed, the rim left out, and the percentage that is extreme. Ours.
_SMOOTH_MM, _RIM_MM, _EXTREME = 2.0, 2.0, 1.0


class Classification(Task):
    """Truth: a row of `labels.csv`, `case,pirads`; masks of lesions suffice to measure by."""

    id = "classification"
    title = "Classification"
    short_title = "classification"
    network_title = "classification"
    intended_use = (
        "Research on how initializations change a classifier. Its probabilities are of phantoms' or readers' classes."
    )
    inappropriate_settings = (
        "Triage, or any decision for or against a biopsy.",
        "Cohorts in which cancer is more or less frequent than in training: probabilities do not fit there.",
    )
    stop_using_when = (
        "Its AUROC on own cases does not exceed that of the naive baseline, a rule of ADC and high-b signal.",
        "Its probabilities and the frequencies of own cases differ by more than 0.1.",
    )
    sequences = (MRSequence.T2W, MRSequence.HBV, MRSequence.ADC)
    output = CLASSIFICATION
    head = "classes"
    labels = PIRADS_LABELS
    activation = "softmax"
    metric = "auroc"
    baseline = "adc-hbv-rule"
    card_measures = ("brier", "log_loss")
    example_measures = ("log_loss", "brier")
    uses_gland_slices = True
    label_column = "pirads"
    calibrated_measures = ("brier", "log_loss", "ece")

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        return self.labeled(
            phantom.case, gland=phantom.gland, masks=cancer_masks(phantom.lesion), category=f"{_PREFIX}{phantom.pirads}"
        )

    def read_labeled(self, files: CaseFiles) -> LabeledCase:
        labeled = self.labeled(files.case, gland=files.gland, is_phantom=False, category=files.category)
        if files.category is None:
            return replace(labeled, masks=read_cancer_masks(files))
        grades = read_truth(files, files.names.lesion, ISUP_VALUES)
        found = labeled if grades is None else replace(labeled, masks=cancer_masks(grades))
        # A mask without grades, or a biopsy against the reader, does not state where what he saw lies.
        return found if found.is_significant == (files.category in SIGNIFICANT) else labeled

    def class_from_table(self, value: str) -> str:
        name = f"{_PREFIX}{value.strip()}"
        if name not in PIRADS_LABELS:
            raise ValueError("pirads must be 2, 3, 4 or 5")
        return name

    def decode(self, output: NetworkOutput) -> Result:
        """Class probabilities; of PI-RADS classes also those of a score of 3 or more and 4 or more, and of csPCa."""
        logits, spec, calibration = output.logits, output.spec, output.options.calibration
        if calibration is not None:
            logits, output = calibration.apply(logits), output.with_notes(calibration.note)
        classes = {str(n): float(p) for n, p in zip(spec.labels, activated(logits, spec.activation), strict=True)}
        scores = {int(n.removeprefix(_PREFIX)): p for n, p in classes.items() if n.startswith(_PREFIX)}
        derived = {}
        if scores:
            derived = {f"{_PREFIX}>= {score}": sum(p for s, p in scores.items() if s >= score) for score in (3, 4)}
            derived[str(Label.CSPCA)] = derived[f"{_PREFIX}>= {CSPCA_PIRADS}"]
            output = output.with_notes(CSPCA_NOTE)
        return Result(
            output.case.id, self.id, output.provenance, class_probabilities=classes, derived_probabilities=derived
        )

    def score(self, result: Result, labeled: LabeledCase) -> CaseScore:
        """Brier score of csPCa, and the log loss of the class where it is known."""
        probabilities, truth = result.class_probabilities, labeled.category
        if truth is None and labeled.is_significant is None:
            raise ValueError(f"The true class of '{labeled.case.id}' must be known, or its lesions, but neither is.")
        if truth is not None and truth not in probabilities:
            raise ValueError(f"The true class must be one of {', '.join(probabilities)}, got '{truth}'.")
        is_significant = bool(labeled.is_significant) if truth is None else truth in SIGNIFICANT
        values = {"brier": (significant(probabilities) - float(is_significant)) ** 2}
        if truth is not None:
            values["log_loss"] = log_loss(probabilities[truth])
        return CaseScore(labeled.case.id, values, truth, is_significant, probabilities)

    def cohort_measures(self, cases: Sequence[CaseScore]) -> dict[str, float]:
        """AUROC of csPCa and how far its probability is from its frequency, over all cases; over those whose class is
        known quadratic-weighted kappa of the most probable class.
        """
        known = [case for case in cases if case.truth is not None]
        classes = sorted({name for case in known for name in case.probabilities})
        chosen = [classes.index(max(case.probabilities, key=case.probabilities.__getitem__)) for case in known]
        truths = [classes.index(str(case.truth)) for case in known]
        found, happened = [significant(case.probabilities) for case in cases], [case.is_significant for case in cases]
        return {
            "auroc": float(auroc(found, happened)),
            "ece": expected_calibration_error(found, happened),
            "quadratic_weighted_kappa": quadratic_weighted_kappa(truths, chosen, len(classes)) if known else math.nan,
        }

    def tabled(self, score: CaseScore) -> dict[str, float]:
        """The answer and the truth."""
        return {"p_cspca": significant(score.probabilities), "is_cspca": float(score.is_significant)}

    def fit_calibration(self, cases: Iterable[CaseScore]) -> Calibration | None:
        """By their class, or by csPCa alone where that is all that is known."""
        cases = list(cases)
        if not cases:
            return None
        names = list(cases[0].probabilities)
        probabilities = np.array([[case.probabilities[name] for name in names] for case in cases])
        possible = [
            [
                name == case.truth if case.truth is not None else (name in SIGNIFICANT) == case.is_significant
                for name in names
            ]
            for case in cases
        ]
        return fit_calibration(np.log(np.maximum(probabilities, SMALLEST_PROBABILITY)), np.array(possible))

    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """A rule of two numbers: how dark the darkest ADC of the gland is, and how bright its brightest high-b signal.

        Both against the gland's median, as one number (`conspicuity`). Training cases give the probability of csPCa by
        logistic regression, and how often each class is among significant and other cases. A case without a mask of
        the prostate gets the classes' frequency. Ours.
        """
        self.require_training(training)
        categories = [labeled.category for labeled in training]
        prior = {name: categories.count(name) / len(categories) for name in PIRADS_LABELS}
        known = [
            (conspicuity(labeled), labeled.category in SIGNIFICANT) for labeled in training if labeled.gland is not None
        ]
        rule = _fit_rule([x for x, _ in known], [y for _, y in known])

        def baseline(labeled: LabeledCase) -> Result:
            classes = prior
            if rule is not None and labeled.gland is not None:
                p = rule(conspicuity(labeled))
                total = significant(prior)
                classes = {
                    name: share * (p / total if name in SIGNIFICANT else (1 - p) / (1 - total))
                    for name, share in prior.items()
                }
            return self.baseline_result(labeled, class_probabilities=dict(classes))

        return baseline

    def training(self) -> ClassificationTraining:
        from .training import ClassificationTraining

        return ClassificationTraining(self)


def conspicuity(labeled: LabeledCase) -> float:
    """How much the worst place of the gland stands out: ln(hbv / median) at its brightest − ln(ADC / median) at its
    darkest, both smoothed over `_SMOOTH_MM`, within the gland but for its rim; 0 where nothing is seen.

    DatasetError where the case has no mask of the prostate.
    """
    if labeled.gland is None:
        raise DatasetError(f"Case '{labeled.case.id}' must have a mask of the prostate, but has none. Draw one.")
    total = 0.0
    for sequence, percentile, sign in (
        (MRSequence.HBV, 100 - _EXTREME, 1),
        (MRSequence.ADC, _EXTREME, -1),
    ):
        volume = labeled.case[sequence]
        spacing_mm = volume.geometry.spacing_mm[::-1]
        gland = labeled.gland.resample_to(volume.geometry, "nearest").array > 0
        core = ndimage.distance_transform_edt(gland, sampling=spacing_mm) > _RIM_MM
        seen = (core if core.any() else gland) & (volume.array > 0)
        if not seen.any():
            continue
        # Smoothed over what is seen alone, so that nothing beside the gland enters.
        widths = [_SMOOTH_MM / step for step in spacing_mm]
        weight = ndimage.gaussian_filter(seen.astype(np.float32), widths)
        smooth = (
            ndimage.gaussian_filter(np.where(seen, volume.array, 0).astype(np.float32), widths)[seen] / weight[seen]
        )
        total += sign * math.log(float(np.percentile(smooth, percentile)) / float(np.median(smooth)))
    return total


def _fit_rule(values: Sequence[float], happened: Sequence[bool]) -> Callable[[float], float] | None:
    """Probability by logistic regression, rising with the value; None unless both cases that are significant and
    others were seen.
    """
    from scipy.optimize import minimize  # takes longer to import than a prediction may wait

    if len(set(happened)) < 2:
        return None
    x, y = np.asarray(values, float), np.asarray(happened, float)
    center, width = float(x.mean()), float(x.std()) or 1.0
    scaled = (x - center) / width

    def cost(parameters: np.ndarray) -> float:
        logits = parameters[0] + parameters[1] * scaled
        return float((np.logaddexp(0, logits) - y * logits).sum() + 0.5 * parameters[1] ** 2)

    found = minimize(cost, np.zeros(2), bounds=[(None, None), (0.0, None)]).x
    return lambda value: float(1 / (1 + math.exp(-(found[0] + found[1] * (value - center) / width))))


def significant(probabilities: Mapping[str, float]) -> float:
    """Probability of clinically significant cancer, by our reading."""
    return sum(probabilities[name] for name in SIGNIFICANT)


TASK = Classification()
