"""Clinically significant cancer: voxels above a threshold, and the lesions that they form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...core.notes import Note
from ...core.result import Result
from ...core.terms import Label
from ...core.terms import Sequence as MRSequence
from ...core.volume import Geometry
from ...metrics.agreement import dice
from ...metrics.detection import average_precision, match_candidates
from ...metrics.operating_point import MAX_FALSE_MARKS, OperatingPoint, operating_point
from ..base import CaseFiles, CaseScore, LabeledCase, Method, NetworkOutput
from ..lesions import (
    CANCER_LABELS,
    cancer_masks,
    confidences,
    confident,
    find_lesions,
    in_prostate,
    pair_regions,
    read_cancer_masks,
)
from ..segmentation import Probabilities, SegmentationTask, labels_of

if TYPE_CHECKING:
    from ...phantom import Phantom
    from .training import LesionTraining

OUTSIDE_NOTE = "Marks outside of the prostate were left out: {count}. The probabilities still show them."
UNSURE_NOTE = (
    "Places above the threshold that are not marked, since their confidence lies below {least:.2f}: {count} ({where}). "
    "That number was chosen on validation cases for at most {most:g} false marks an exam. The probabilities still show "
    "these places, and a threshold of your own marks them."
)
NOTHING_NOTE = Note("no-lesion", "No lesion was marked, which does not rule one out.")
_MAX_PLACES = 5  # in a sentence


class LesionSegmentation(SegmentationTask):
    """Truth: a mask of lesions whose values are ISUP grade groups, empty where there is none."""

    id = "lesion-segmentation"
    title = "Lesion segmentation"
    short_title = "lesions"
    network_title = "lesions"
    intended_use = "Research on how initializations change what a network marks. Marks are candidates, not findings."
    inappropriate_settings = (
        "Search for cancer, or its exclusion: an exam without a mark is not an exam without cancer.",
        "Exams without diffusion at a high b, or whose diffusion lies off T2w by more than a lesion is wide.",
    )
    stop_using_when = (
        "It marks more than one place an exam that readers do not call a lesion.",
        "It misses a lesion that any reader sees.",
    )
    sequences = (MRSequence.T2W, MRSequence.HBV, MRSequence.ADC)
    labels = (Label.CSPCA,)
    activation = "sigmoid"
    metric = "average_precision"  # Dice is 0 wherever nothing reaches the threshold, as of a network with few labels
    baseline = "no-lesion"
    card_measures = ("dice", "lesions_missed", "lesions_added", "volume_in_vain_ml")
    example_measures = ("dice", "volume_in_vain_ml")
    finds_lesions = True
    plain_mask_label = Label.CSPCA

    def from_phantom(self, phantom: Phantom) -> LabeledCase:
        return self.labeled(phantom.case, gland=phantom.gland, masks=cancer_masks(phantom.lesion))

    def read_labeled(self, files: CaseFiles) -> LabeledCase:
        return self.labeled(files.case, gland=files.gland, masks=read_cancer_masks(files), is_phantom=False)

    def decides_by(self, label: str) -> bool:
        return label in CANCER_LABELS

    def mark(self, probabilities: Probabilities, output: NetworkOutput) -> Result:
        """Voxels whose probability of all marked labels together exceeds the threshold, and the lesions they form."""
        case, options = output.case, output.options
        cancer = [name for name in output.spec.labels if name in CANCER_LABELS]
        names = [Label.CSPCA] if options.only_cspca else cancer
        shown = {str(name): probabilities[name] for name in names}
        probability = np.sum([p.array for p in shown.values()], axis=0)
        marked = probability > output.threshold
        if options.gland is not None and options.gland.array.any():
            grid = next(iter(shown.values())).geometry
            marked, left_out = in_prostate(marked, options.gland.resample_to(grid, "nearest").array > 0)
            if left_out:
                output = output.with_notes(Note("outside-gland", OUTSIDE_NOTE.format(count=left_out)))
        point = options.operating_point if options.threshold is None else None
        if point is not None:
            marked, unsure = confident(marked, probability, point.min_confidence)
            if len(unsure):
                where = _in_slices(unsure, probability, next(iter(shown.values())).geometry)
                least, most = point.min_confidence, MAX_FALSE_MARKS
                text = UNSURE_NOTE.format(least=least, count=len(unsure), where=where, most=most)
                output = output.with_notes(Note("below-operating-point", text))
        if not marked.any():
            output = output.with_notes(NOTHING_NOTE)
        result = self.label_result(shown, marked, output)
        lesions = find_lesions(labels_of(result), shown, case.volumes.get(MRSequence.ADC), options.zones)
        return replace(result, lesions=lesions)

    def score(self, result: Result, labeled: LabeledCase) -> CaseScore:
        """Dice of csPCa where there is any, the volume of false positives where there is none, and the candidates."""
        labels = labels_of(result)
        there = labeled.masks[Label.CSPCA].resample_to(labels.geometry, "nearest").array > 0
        marked = labels.array == result.label_values[Label.CSPCA]
        paired = pair_regions(marked, there)
        candidates, lesions = match_candidates(result.probabilities[Label.CSPCA].array, there)
        found = {"lesions_missed": float(paired.second_only), "lesions_added": float(paired.first_only)}
        if there.any():
            found["dice"] = dice(marked, there)
        else:
            found["volume_in_vain_ml"] = int(marked.sum()) * labels.geometry.voxel_volume_ml
        return CaseScore(labeled.case.id, found, candidates=candidates, lesions=lesions)

    def cohort_measures(self, cases: Sequence[CaseScore]) -> dict[str, float]:
        candidates = [candidate for case in cases for candidate in case.candidates]
        return {"average_precision": average_precision(candidates, sum(case.lesions for case in cases))}

    def tabled(self, score: CaseScore) -> dict[str, float]:
        """How many lesions there are, of which average precision is, with the candidates, that of all cases."""
        return {"lesions": float(score.lesions)}

    def fit_operating_point(self, results: Iterable[tuple[Result, LabeledCase]]) -> OperatingPoint | None:
        """The lowest confidence at which there are half as many false marks as validation cases, or fewer."""
        found = [self._false_marks(result, labeled) for result, labeled in results]
        return operating_point([confidence for case in found for confidence in case], len(found))

    def _false_marks(self, result: Result, labeled: LabeledCase) -> list[float]:
        """Confidence of each mark that `score` counts as added: that of the whole place, whatever its grades."""
        labels = labels_of(result)
        there = labeled.masks[Label.CSPCA].resample_to(labels.geometry, "nearest").array > 0
        probability = np.sum([p.array for p in result.probabilities.values()], axis=0)
        places, highest = confidences(labels.array > 0, probability)
        paired = pair_regions(labels.array == result.label_values[Label.CSPCA], there)
        false = (number for number in range(1, paired.first_count + 1) if number not in paired.pairs)
        return [float(highest[places[paired.first == number][0] - 1]) for number in false]

    def naive_baseline(self, training: Sequence[LabeledCase]) -> Method:
        """No lesion."""

        def baseline(labeled: LabeledCase) -> Result:
            t2w = labeled.case[MRSequence.T2W]
            nothing = t2w.with_array(np.zeros(t2w.geometry.shape, np.uint8))
            improbable = {str(Label.CSPCA): t2w.with_array(np.zeros(t2w.geometry.shape, np.float32))}
            values = {str(Label.CSPCA): 1}
            return self.baseline_result(labeled, label_values=values, labels=nothing, probabilities=improbable)

        return baseline

    def training(self) -> LesionTraining:
        from .training import LesionTraining

        return LesionTraining(self)


def _in_slices(places: np.ndarray, probability: np.ndarray, grid: Geometry) -> str:
    """In which slices voxels (N, 3), index (z, y, x), lie, as pages count them: from the feet; each with its number."""
    shown = grid.to_nearest_lps()
    numbers = [shown.nearest_voxel(grid.to_world(place[::-1][None])[0])[2] + 1 for place in places[:_MAX_PLACES]]
    each = [f"slice {n}: {probability[tuple(place)]:.2f}" for n, place in zip(numbers, places, strict=False)]
    return f"{', '.join(each)}{', …' if len(places) > _MAX_PLACES else ''}; of {shown.size[2]}, counted from the feet"


TASK = LesionSegmentation()
