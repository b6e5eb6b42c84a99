"""Lesions as regions and as a list, and the classes of their voxels, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from study_examples import a_phantom, a_study, tiny_study_spec

from VFMTransferLib.core.terms import Label
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.tasks.lesions import class_map, confident, find_lesions, in_prostate, pair_regions

GRID = Geometry((8, 6, 5), (0.5, 0.5, 3.0), (10.0, 20.0, 30.0))


def a_map(*voxels: tuple[int, int, int], value: float = 1) -> np.ndarray:
    array = np.zeros(GRID.shape, np.float32)
    for voxel in voxels:
        array[voxel] = value
    return array


@pytest.fixture
def labels() -> Volume:
    """Two lesions: one of three voxels along x, one of two that touch by a corner."""
    return Volume(a_map((0, 0, 0), (1, 1, 1), (3, 4, 3), (3, 4, 4), (3, 4, 5)).astype(np.uint8), GRID, "labels")


def test_lesions_are_sorted_by_size_and_joined_by_corners(labels):
    probability = {"csPCa": Volume(a_map((3, 4, 4), value=0.9) + 0.05, GRID)}
    first, second = find_lesions(labels, probability)
    assert (first.index, second.index) == (1, 2)
    assert first.volume_ml == pytest.approx(3 * 0.75e-3)
    assert second.volume_ml == pytest.approx(2 * 0.75e-3)
    # Voxel (x 4, y 4, z 3): 10 + 4 * 0.5, 20 + 4 * 0.5, 30 + 3 * 3.
    assert first.center_mm == pytest.approx((12.0, 22.0, 39.0))
    assert first.confidence == pytest.approx(0.95)
    assert first.mean_adc is None


def test_mean_adc_counts_only_where_adc_was_measured(labels):
    half = Geometry((8, 6, 2), (0.5, 0.5, 3.0), (10.0, 20.0, 36.0))  # slices 2 and 3 of the grid
    adc = np.full(half.shape, 700.0, np.float32)
    adc[1, 4, 3:6] = (600, 900, 1200)
    first, second = find_lesions(labels, {"csPCa": Volume(a_map(value=1), GRID)}, Volume(adc, half))
    assert first.mean_adc == pytest.approx(900)
    assert second.mean_adc is None


def test_an_adc_of_zero_was_not_measured(labels):
    adc = np.full(GRID.shape, 700.0, np.float32)
    adc[3, 4, 4] = 0.0
    first, _ = find_lesions(labels, {"csPCa": Volume(a_map(value=1), GRID)}, Volume(adc, GRID))
    assert first.mean_adc == pytest.approx(700)
    beside = replace(GRID, origin_mm=tuple(np.add(GRID.origin_mm, (0.1, 0.0, 0.0))))  # all are interpolated
    first, _ = find_lesions(labels, {"csPCa": Volume(a_map(value=1), GRID)}, Volume(adc, beside))
    assert first.mean_adc == pytest.approx(700)


def test_lesion_bears_the_likeliest_of_several_labels(labels):
    low, high = a_map() + 0.3, a_map() + 0.1
    high[3, 4, 3:6] = 0.5
    first, second = find_lesions(labels, {"indolent-cancer": Volume(low, GRID), "csPCa": Volume(high, GRID)})
    assert (first.label, second.label) == ("csPCa", "indolent-cancer")
    assert first.confidence == pytest.approx(0.8)


def test_nothing_marked_is_no_lesion():
    assert find_lesions(Volume(np.zeros(GRID.shape, np.uint8), GRID), {}) == ()


def test_a_region_is_in_the_prostate_if_half_of_it_is():
    marked = np.zeros((1, 3, 9), bool)
    marked[0, 0, 0:4] = marked[0, 2, 0:3] = marked[0, 0, 6:9] = True
    gland = np.zeros_like(marked)
    gland[0, 0, 2:5] = gland[0, 2, 2:5] = True  # two of four voxels, one of three, none of three
    kept, left_out = in_prostate(marked, gland)
    assert left_out == 2
    assert np.argwhere(kept)[:, 1:].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert in_prostate(np.zeros_like(marked), gland)[1] == 0


def test_lesion_lies_in_the_zone_that_holds_most_of_it(labels):
    peripheral, transition = a_map((3, 4, 3)), a_map((3, 4, 4), (3, 4, 5))
    zones = {"peripheral-zone": Volume(peripheral, GRID), "transition-zone": Volume(transition, GRID)}
    first, second = find_lesions(labels, {"csPCa": Volume(a_map(), GRID)}, zones=zones)
    assert (first.zone, second.zone) == ("transition-zone", None)


def counts(first: np.ndarray, second: np.ndarray) -> tuple[int, int, int]:
    """Regions of both masks, of the first alone and of the second alone."""
    paired = pair_regions(first, second)
    return len(paired.pairs), paired.first_only, paired.second_only


def test_one_large_region_is_matched_with_one_of_two_small_ones():
    large = np.zeros((3, 10, 12), bool)
    large[1, 2:8, 1:11] = True
    two = np.zeros_like(large)
    two[1, 2:8, 1:5] = two[1, 2:8, 7:11] = True
    assert counts(large, two) == (1, 0, 1)
    assert counts(two, large) == (1, 1, 0)


def test_regions_that_barely_touch_are_no_match():
    a, b = np.zeros((2, 5, 30), bool), np.zeros((2, 5, 30), bool)
    a[0, 1:3, 0:12], b[0, 1:3, 11:23] = True, True  # 2 of 46 voxels in common
    assert counts(a, b) == (0, 1, 1)


def test_no_lesion_anywhere_is_no_error():
    nothing = np.zeros((2, 5, 7), bool)
    assert counts(nothing, nothing) == (0, 0, 0)


def test_voxels_of_lesions_have_the_gravest_class():
    study, spec = a_study("lesion-segmentation"), tiny_study_spec("provicnet", "lesion-segmentation")
    classes, grade = class_map(study, spec.labels).array, a_phantom(0).lesion.array
    assert (classes[grade >= 2] == spec.labels.index(Label.CSPCA)).all()
    assert (classes[grade == 1] == spec.labels.index(Label.INDOLENT_CANCER)).all()
    assert (classes[(grade == 0) & (study.gland.array > 0)] == spec.labels.index(Label.PROSTATE)).all()
    assert not classes[(grade == 0) & (study.gland.array == 0)].any()


def test_places_are_kept_by_their_largest_probability_and_others_are_named_the_surest_first():
    probability = np.zeros((4, 8, 8), np.float32)
    for place, value in (((0, 0, 0), 0.9), ((1, 4, 4), 0.5), ((3, 7, 0), 0.6), ((3, 0, 7), 0.55)):
        probability[place] = value
    probability[1, 4, 5] = 0.45  # of the same place
    kept, others = confident(probability > 0.4, probability, 0.58)
    assert np.argwhere(kept).tolist() == [[0, 0, 0], [3, 7, 0]]
    assert others.tolist() == [[3, 0, 7], [1, 4, 4]]
    kept, others = confident(probability > 1, probability, 0.58)
    assert not kept.any()
    assert others.shape == (0, 3)
