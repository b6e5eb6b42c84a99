"""Lesion candidates and their average precision, against the PI-CAI challenge's own evaluation."""

import math

import numpy as np
import pytest
from scipy import ndimage

from VFMTransferLib.metrics.detection import Candidate, average_precision, lesion_candidates, match_candidates

SHAPE = (12, 30, 34)


def a_probability(seed: int, peaks: int = 6) -> np.ndarray:
    """Smooth blobs of different heights, some of which touch, on a little noise."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros(SHAPE)
    for _ in range(peaks):
        seeds[tuple(rng.integers(2, np.array(SHAPE) - 2))] = rng.uniform(0.2, 1)
    blurred = ndimage.gaussian_filter(seeds, rng.uniform(1, 2))
    return np.clip(blurred / blurred.max() * 0.9 + rng.uniform(0, 0.01, SHAPE), 0, 1).astype(np.float32)


def lesions_near(probability: np.ndarray, seed: int) -> np.ndarray:
    """Balls, half of them where the map is high."""
    rng = np.random.default_rng(seed)
    centers = [np.unravel_index(i, SHAPE) for i in np.argsort(probability.ravel())[::-700][:2]]
    centers += [tuple(rng.integers(2, np.array(SHAPE) - 2)) for _ in range(2)]
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return np.any([np.linalg.norm(places - center, axis=-1) < 3 for center in centers], axis=0)


@pytest.mark.parametrize("seed", range(12))
def test_candidates_are_those_of_the_challenge(seed):
    extract = pytest.importorskip("report_guided_annotation").extract_lesion_candidates
    probability = a_probability(seed)
    expected, confidences, _ = extract(probability, threshold="dynamic-v2")
    regions, peaks = lesion_candidates(probability)
    assert sorted(peaks) == pytest.approx(sorted(confidence for _, confidence in confidences))
    np.testing.assert_allclose(np.array([0, *peaks], np.float32)[regions], expected)


@pytest.mark.parametrize("first", [0, 20, 40])
def test_average_precision_is_that_of_the_challenge(first):
    picai_eval = pytest.importorskip("picai_eval")
    from report_guided_annotation import extract_lesion_candidates

    maps = [a_probability(seed) for seed in range(first, first + 6)]
    truths = [lesions_near(map_, seed) if seed % 3 else np.zeros(SHAPE, bool) for seed, map_ in enumerate(maps)]
    expected = picai_eval.evaluate(
        y_det=maps,
        y_true=[truth.astype(int) for truth in truths],
        y_det_postprocess_func=lambda map_: extract_lesion_candidates(map_, threshold="dynamic-v2")[0],
        num_parallel_calls=1,
    )
    matched = [match_candidates(map_, truth) for map_, truth in zip(maps, truths, strict=True)]
    candidates = [candidate for found, _ in matched for candidate in found]
    lesions = sum(count for _, count in matched)
    assert 0 < expected.AP < 1
    assert average_precision(candidates, lesions) == pytest.approx(expected.AP)


def test_a_faint_candidate_counts_although_no_threshold_would_mark_it():
    probability = np.zeros(SHAPE, np.float32)
    probability[3:7, 5:9, 5:9] = 0.08
    lesions = probability > 0
    assert match_candidates(probability, lesions) == ((Candidate(pytest.approx(0.08), True),), 1)


def test_a_second_candidate_in_one_lesion_counts_neither_way():
    probability = np.zeros(SHAPE, np.float32)
    probability[2:5, 5:10, 4:9] = 0.9
    probability[2:5, 5:10, 11:16] = 0.5
    lesions = np.zeros(SHAPE, bool)
    lesions[2:5, 5:10, 4:16] = True
    found, count = match_candidates(probability, lesions)
    assert [candidate.is_hit for candidate in found] == [True]
    assert count == 1


def test_an_empty_map_has_no_candidates():
    assert match_candidates(np.zeros(SHAPE), np.zeros(SHAPE, bool)) == ((), 0)
    assert math.isnan(average_precision([], 0))
    assert average_precision([], 2) == 0
