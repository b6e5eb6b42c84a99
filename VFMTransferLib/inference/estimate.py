"""How good a segmentation of the prostate probably is, estimated without a reference; all of it is ours.

A network that is sure marks the same organ in the windows that it sees anyway, shifted by some voxels, and in its
other arm, with high probabilities and a compact shape. `dice_estimate.json` holds, for weights by their checksum,
straight lines from such signs to the Dice (both as log odds), fitted by `python -m benchmarks.estimate` on cases whose
truth is known. Networks without a line there get no estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import combinations

import numpy as np
from scipy import ndimage

from ..bundles.bundle import Bundle
from ..core.decoding import from_json, parse_json
from ..core.measurements import DiceEstimate
from ..core.placement import NetworkInput, cut
from ..core.result import Result
from ..core.terms import Label
from ..core.volume import IntTriple
from ..encoders.base import ModelSpec
from ..metrics.agreement import dice
from ..metrics.detection import CONNECTIVITY
from ..tasks import task_of
from ..tasks.base import activated

COEFFICIENTS = "dice_estimate.json"
ARMS = "arms"
_MIN_ODDS = 0.005  # of a share before its log odds
_TYPICAL_HEIGHT_MM = 35.0


@dataclass(frozen=True)
class Line:
    """A straight line from standardized signs to the log odds of the Dice.

    Attributes:
        signs: Names, in the order of the numbers.
        mean, deviation: Of each sign over the cases of the fit.
        coefficients, intercept: Of the standardized signs.
        reach, low_reach: Log odds from the line down and up to the interval's ends, by the errors on cases that were
            left out: where the estimate is at least the level, and below it, where errors are far larger.
    """

    signs: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    reach: tuple[float, float]
    low_reach: tuple[float, float]

    def estimate(self, signs: Mapping[str, float], level: float, coverage: float) -> DiceEstimate:
        parts = zip(self.signs, self.mean, self.deviation, self.coefficients, strict=True)
        odds = self.intercept + sum(c * (signs[name] - mean) / deviation for name, mean, deviation, c in parts)
        down, up = self.reach if _share(odds) >= level else self.low_reach
        ends = _share(odds - down), _share(odds + up)
        return DiceEstimate(_share(odds), *ends, coverage, level, dict(signs))


@dataclass(frozen=True)
class DiceModel:
    """What `dice_estimate.json` holds.

    Attributes:
        weights: Checksums of the networks that it is of.
        cases: What it was fitted on.
        level: Estimate below which a result carries a warning.
        coverage: Share of results on exams that were no part of the fit whose Dice lay within their interval.
        lines: Of the signs at hand, the one with the most signs holds.
    """

    format: int
    made_by: str
    cases: str
    weights: tuple[str, ...]
    level: float
    coverage: float
    lines: tuple[Line, ...]

    def estimate(self, signs: Mapping[str, float]) -> DiceEstimate:
        usable = [line for line in self.lines if set(line.signs) <= set(signs)]
        return max(usable, key=lambda line: len(line.signs)).estimate(signs, self.level, self.coverage)


@cache
def dice_model() -> DiceModel:
    text = resources.files(__package__).joinpath(COEFFICIENTS).read_bytes()
    model: DiceModel = from_json(DiceModel, parse_json(text), COEFFICIENTS)
    return model


def has_estimate(bundle: Bundle) -> bool:
    """Whether the quality of a network's segmentations can be estimated: it is known, and one crop holds its organ."""
    spec = bundle.spec
    is_crop = not (spec.preprocess.whole_volume or spec.is_slice_based)
    return is_crop and task_of(spec).finds_gland and bundle.weights_sha256 in dice_model().weights


class Passes:
    """The windows of one crop as a network marks them, and in the end the signs of how sure it is."""

    def __init__(self, spec: ModelSpec, prepared: NetworkInput) -> None:
        self.spec, self.prepared = spec, prepared
        self._marked: list[tuple[IntTriple, np.ndarray]] = []  # first voxel, and the mask (D, H, W)

    def add(self, output: np.ndarray, start: IntTriple) -> None:
        """A window's output (C, *patch)."""
        self._marked.append((start, gland_probability(output, self.spec) > self.spec.threshold))

    def signs(self, logits: np.ndarray) -> dict[str, float]:
        """Signs of the blended logits (C, D, H, W); none where nothing is marked."""
        probable = gland_probability(logits, self.spec)
        parts, count = ndimage.label(probable > self.spec.threshold, structure=CONNECTIVITY)
        if count == 0:
            return {}
        organ = ndimage.binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
        return {
            "shifted": _log_odds(self._agreement_of_windows()),
            "certainty": _log_odds(float(probable[organ].mean())),
            **_shape(organ, self.prepared.geometry.spacing_mm[::-1]),
        }

    def _agreement_of_windows(self) -> float:
        """Mean Dice of each two windows where all of them look and the image goes on; 1 of a single one."""
        first = np.max([start for start, _ in self._marked], axis=0)
        first = np.maximum(first, 0)
        end = np.min([np.add(start, mask.shape) for start, mask in self._marked], axis=0)
        end = np.minimum(end, self.prepared.geometry.shape)
        size = tuple(int(n) for n in end - first)
        common = [cut(mask[None], tuple(first - start), size)[0] for start, mask in self._marked]  # type: ignore[arg-type]
        pairs = [_dice(a, b) for a, b in combinations(common, 2)]
        return float(np.mean(pairs)) if pairs else 1.0


def gland_probability(logits: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Probability (D, H, W) that a voxel belongs to the prostate, whatever its zone, from logits (C, D, H, W)."""
    probabilities = activated(logits, spec.activation)
    if spec.labels[0] == Label.BACKGROUND:
        return np.asarray(1 - probabilities[0])
    return np.asarray(probabilities.max(axis=0))


def with_estimate(result: Result, signs: Mapping[str, float]) -> Result:
    """A result with the estimate that its signs give; as it is where nothing was marked.

    What was marked beside the image alone has signs, but is no outline.
    """
    is_marked = result.labels is not None and result.labels.array.any()
    return replace(result, estimate=dice_model().estimate(signs)) if signs and is_marked else result


def with_agreement(a: Result, b: Result) -> tuple[Result, Result]:
    """Both results with estimates that take their agreement into account; as they are where either has none.

    The same network twice agrees with itself, which is no sign of anything.
    """
    if a.estimate is None or b.estimate is None or a.labels is None or b.labels is None:
        return a, b
    if a.provenance.sha256 == b.provenance.sha256:
        return a, b
    agreement = _log_odds(_dice(a.labels.array > 0, b.labels.array > 0))
    model = dice_model()
    first, second = (
        replace(one, estimate=model.estimate({**one.estimate.signs, ARMS: agreement}))  # type: ignore[union-attr]
        for one in (a, b)
    )
    return first, second


def _shape(organ: np.ndarray, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Signs of a mask's shape; spacing and axes are (z, y, x).

    Compactness: volume to the power of 2/3 over the area of its voxels' faces, times ten. Roughness: how unevenly the
    areas of the slices change, over their sum. Height: logarithm of the extent from slice to slice.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    padded = np.pad(organ, 1).astype(np.int8)
    faces = [np.count_nonzero(np.diff(padded, axis=axis)) * voxel_mm3 / size for axis, size in enumerate(spacing_mm)]
    areas = organ.sum(axis=(1, 2))
    areas = areas[areas > 0]
    rough = float(np.abs(np.diff(areas, 2)).sum() / areas.sum()) if len(areas) > 2 else 1.0
    return {
        "compactness": 10 * (organ.sum() * voxel_mm3) ** (2 / 3) / sum(faces),
        "roughness": rough,
        "height": math.log(max(len(areas) - 1, 1) * spacing_mm[0] / _TYPICAL_HEIGHT_MM),
    }


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice, 0 where both masks are empty."""
    found = dice(a, b)
    return 0.0 if math.isnan(found) else found


def _share(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))


def _log_odds(share: float) -> float:
    kept = min(max(share, _MIN_ODDS), 1 - _MIN_ODDS)
    return math.log(kept / (1 - kept))
