from dataclasses import replace

import numpy as np
import pytest
from ellipsoids import Ellipsoid, a_scan

from VFMTransferLib.core.terms import Label
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.radiology.lesions import is_cut_off, largest_diameter_mm, measure_lesions
from VFMTransferLib.radiology.sectors import PLAIN_SCHEME
from VFMTransferLib.tasks.anatomy_segmentation.task import TASK as ANATOMY
from VFMTransferLib.tasks.lesions import find_lesions

GRID = Geometry((60, 60, 12), (0.5, 0.5, 3.0))
GLAND = (slice(1, 11), slice(10, 50), slice(5, 55))  # z, y, x: 50 voxels wide, 40 deep, 10 slices


def a_mask(*boxes) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    for box in boxes:
        array[box] = 1
    return Volume(array, GRID)


def measured(labels, **known):
    probability = labels.with_array(labels.array.astype(np.float32))
    lesions = find_lesions(labels, {"csPCa": probability}, known.get("adc"), known.get("zones"))
    return measure_lesions(labels, lesions, **known)


def test_diameter_is_the_longest_way_across_an_axial_slice():
    row = np.zeros((2, 20, 20), bool)
    row[0, 4, 3:8] = True
    grid = Geometry((20, 20, 2), (0.5, 0.5, 3.0))
    assert largest_diameter_mm(row, grid) == pytest.approx(5 * 0.5)
    y, x = np.mgrid[:41, :41]
    disk = (((y - 20) ** 2 + (x - 20) ** 2) <= 15.5**2)[None].repeat(2, axis=0)
    grid = Geometry((41, 41, 2), (0.5, 0.5, 3.0))
    assert largest_diameter_mm(disk, grid) == pytest.approx(15.5, abs=0.5)  # half a voxel on either side


def test_a_lesion_is_placed_by_side_level_half_and_zone():
    labels = a_mask((slice(5, 7), slice(40, 46), slice(10, 16)))
    gland = a_mask(GLAND)
    peripheral = a_mask((slice(1, 11), slice(36, 50), slice(5, 55)))
    zones = {
        str(Label.PERIPHERAL_ZONE): peripheral,
        str(Label.TRANSITION_ZONE): gland.with_array(gland.array - peripheral.array),
    }
    (lesion,) = measured(labels, gland=gland, zones=zones)
    assert lesion.position == "right, mid, posterior, peripheral zone"
    assert lesion.sectors == ("Mid R PZpl",)
    (plain,) = measured(labels, gland=gland)
    assert plain.position == "right, mid, posterior"
    assert (plain.sectors, plain.sector_scheme) == (("Mid R posterior",), PLAIN_SCHEME)


def test_the_side_is_the_patients_however_far_the_scan_lies_off_center():
    grid = replace(GRID, origin_mm=(38.0, -20.0, 7.0))  # all of it on the scanner's left
    labels = Volume(a_mask((slice(5, 7), slice(40, 46), slice(10, 16))).array, grid)
    (lesion,) = measured(labels, gland=Volume(a_mask(GLAND).array, grid))
    assert lesion.center_mm[0] > 0
    assert lesion.position.startswith("right")


def test_a_lesion_across_the_midline_lies_at_the_midline():
    (lesion,) = measured(a_mask((slice(8, 10), slice(12, 16), slice(24, 37))), gland=a_mask(GLAND))
    assert lesion.position == "midline, base, anterior"
    assert lesion.sectors == ("Base L anterior", "Base R anterior")


def test_distance_to_the_capsule_and_contact_with_it():
    inside = (slice(5, 7), slice(43, 47), slice(20, 30))  # 3 voxels before the back at 50
    touching = (slice(2, 4), slice(44, 50), slice(20, 36))
    found = {lesion.volume_ml: lesion for lesion in measured(a_mask(inside, touching), gland=a_mask(GLAND))}
    small, large = found[min(found)], found[max(found)]
    assert small.capsule_distance_mm == pytest.approx(1.5)
    assert small.capsule_contact_mm == 0
    assert large.capsule_distance_mm == 0
    # 16 voxels touch; the outline within 1 mm goes on for at most two middles of edges on either side.
    assert large.capsule_contact_mm == pytest.approx(15 * 0.5 + 2 * 2 * 0.5, abs=0.51)


def test_where_the_image_ends_there_is_no_capsule():
    gland = a_mask((slice(1, 12), slice(10, 50), slice(5, 55)))  # into the last slice
    at_the_end = a_mask((slice(10, 12), slice(26, 34), slice(26, 34)))
    (lesion,) = measured(at_the_end, gland=gland)
    assert lesion.capsule_distance_mm is None  # 8 mm to the front, and nobody knows how far upward
    assert lesion.capsule_contact_mm == 0
    before_it = a_mask((slice(8, 10), slice(43, 47), slice(20, 30)))  # 3 voxels before the back, 6 mm below the end
    assert measured(before_it, gland=gland)[0].capsule_distance_mm == pytest.approx(1.5)
    beyond = a_mask((slice(10, 12), slice(44, 54), slice(20, 30)))
    assert measured(beyond, gland=gland)[0].capsule_distance_mm == 0


def test_a_side_of_the_image_is_no_outline_to_lie_along():
    gland = a_mask((slice(1, 11), slice(10, 50), slice(0, 55)))
    (lesion,) = measured(a_mask((slice(5, 7), slice(20, 40), slice(0, 8))), gland=gland)
    assert (lesion.capsule_distance_mm, lesion.capsule_contact_mm) == (None, 0)


def test_a_prostate_in_the_first_or_last_slice_may_be_cut_off():
    assert not is_cut_off(a_mask(GLAND), GRID)
    assert is_cut_off(a_mask((slice(1, 12), slice(10, 50), slice(5, 55))), GRID)


def test_tenth_percentile_of_adc_leaves_out_what_the_map_does_not_cover():
    labels = a_mask((slice(5, 6), slice(20, 24), slice(20, 25)))
    values = np.arange(GRID.shape[2], dtype=np.float32)[None, None].repeat(60, axis=1).repeat(12, axis=0) * 10
    (lesion,) = measured(labels, adc=Volume(values, GRID))
    assert lesion.mean_adc == pytest.approx(220)
    assert lesion.adc_p10 == pytest.approx(np.percentile(np.repeat([200, 210, 220, 230, 240], 4), 10))


def test_tenth_percentile_of_adc_leaves_out_what_was_not_measured():
    labels = a_mask((slice(2, 4), slice(10, 20), slice(10, 20)))
    adc = np.full(labels.array.shape, 700.0, np.float32)
    adc[2, 10:14] = 0.0  # a fifth
    assert measured(labels, adc=labels.with_array(adc))[0].adc_p10 == pytest.approx(700)


def test_high_b_signal_is_set_against_the_same_zone_on_the_other_side():
    signal = np.full(GRID.shape, 7.0, np.float32)  # what lies elsewhere does not count
    signal[GLAND] = 30.0
    signal[1:11, 36:50, 30:55] = 20.0  # the peripheral zone on the left
    box = (slice(5, 7), slice(40, 46), slice(10, 16))
    signal[box] = 50.0
    signal[5:7, 38:41, 40:44] = 90.0  # another lesion there
    labels = a_mask(box, (slice(5, 7), slice(38, 41), slice(40, 44)))
    gland, peripheral = a_mask(GLAND), a_mask((slice(1, 11), slice(36, 50), slice(5, 55)))
    zones = {
        str(Label.PERIPHERAL_ZONE): peripheral,
        str(Label.TRANSITION_ZONE): gland.with_array(gland.array - peripheral.array),
    }
    lesion, _ = measured(labels, gland=gland, zones=zones, hbv=Volume(signal, GRID))
    assert lesion.high_b_ratio == pytest.approx(2.5)


def test_without_a_gland_only_what_needs_none_is_measured():
    (lesion,) = measured(a_mask((slice(5, 6), slice(20, 24), slice(20, 25))))
    assert lesion.diameter_mm == pytest.approx(np.hypot(5 * 0.5, 3 * 0.5))  # 5 voxels wide, 3 between rows' middles
    assert (lesion.position, lesion.sectors, lesion.sector_scheme) == ("", (), "")
    assert lesion.capsule_distance_mm is None


@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (14, -7, 10)])
def test_a_turned_label_map_gives_the_same_lesions(turn_deg):
    scan = a_scan(turn_deg)
    own = Ellipsoid().own(scan)
    masks = [((own - np.reshape(c, (3, 1, 1, 1))) ** 2).sum(axis=0) < 0.02 for c in ((-0.5, 0.5, 0), (0.3, 0.6, 0.4))]
    labels = Volume((masks[0] | masks[1]).astype(np.uint8), scan)
    gland = Ellipsoid().gland(scan)
    turned = Volume.from_sitk(labels.to_sitk()[::-1, ::-1, :])
    first, second = measured(labels, gland=gland), measured(turned, gland=gland)
    by_place = {lesion.position: lesion for lesion in second}
    assert {lesion.position for lesion in first} == {"right, mid, posterior", "left, base, posterior"}
    for lesion in first:
        other = by_place[lesion.position]
        assert lesion.capsule_distance_mm == pytest.approx(other.capsule_distance_mm)
        assert lesion.diameter_mm == pytest.approx(other.diameter_mm)


@pytest.mark.parametrize("seed", [1, 9])
def test_a_phantoms_lesions_lie_where_they_were_painted(seed):
    phantom = make_phantom(seed, t2w_spacing_mm=(1.0, 1.0, 3.0), lesions=2, field_strength=0.0)
    zones = {str(k): v for k, v in ANATOMY.from_phantom(phantom).masks.items() if k != Label.PROSTATE}
    true_adc = phantom.diffusion.adc_true
    labels = phantom.lesion.with_array((phantom.lesion.array > 0).astype(np.uint8))
    found = measured(labels, gland=phantom.gland, zones=zones, adc=true_adc, hbv=phantom.case["hbv"])
    assert len(found) >= 1
    for lesion in found:
        painted = min(phantom.lesions, key=lambda p: abs(p.volume_ml - lesion.volume_ml))
        assert lesion.zone == painted.zone
        assert lesion.position.endswith(painted.zone.replace("-", " "))
        # The blob's axes are turned, its rim is rough, and its zone cuts it; a slice shows at most its longest axis.
        assert lesion.diameter_mm <= painted.diameter_mm * 1.25 + 2
        assert lesion.adc_p10 <= lesion.mean_adc
        assert lesion.capsule_distance_mm < 15
