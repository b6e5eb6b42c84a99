import numpy as np
import pytest
from ellipsoids import Ellipsoid, a_scan

from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.radiology.gland import GlandFrame
from VFMTransferLib.radiology.sectors import (
    OUTSIDE_SECTORS,
    PIRADS_SCHEME,
    PLAIN_SCHEME,
    SECTOR_CODES,
    SECTORS,
    map_sectors,
)
from VFMTransferLib.tasks.anatomy_segmentation.task import TASK as ANATOMY

# What DICOM PS3.16 has in CID 6301 for PI-RADS v2; CID 6304 for v2.1 adds the two of the base.
V2_OF_A_SIDE = [
    "Base AS",
    "Base TZa",
    "Base TZp",
    "Base CZ",
    "Base PZa",
    "Base PZpl",
    "Mid AS",
    "Mid TZa",
    "Mid TZp",
    "Mid PZa",
    "Mid PZpl",
    "Mid PZpm",
    "Apex AS",
    "Apex TZa",
    "Apex TZp",
    "Apex PZa",
    "Apex PZpl",
    "Apex PZpm",
]
ADDED_BY_V21 = ["Base PZpm"]


def a_map(lean_deg=0.0, turn_deg=(0, 0, 0), with_zones=True):
    scan, gland = a_scan(turn_deg), Ellipsoid(lean_deg=lean_deg)
    return map_sectors(GlandFrame.from_mask(gland.gland(scan)), gland.zones(scan) if with_zones else None)


def test_the_map_has_the_41_sectors_of_version_2_1():
    named = {
        f"{level} {side} {region}" for side in "RL" for level, region in map(str.split, V2_OF_A_SIDE + ADDED_BY_V21)
    }
    assert {sector.name for sector in SECTORS} == named
    assert len(SECTORS) == 38
    assert len(OUTSIDE_SECTORS) == 3
    assert len(V2_OF_A_SIDE) * 2 + len(OUTSIDE_SECTORS) == 39
    assert len({code.value for code in SECTOR_CODES.values()}) == 41


@pytest.mark.parametrize(
    ("name", "value", "meaning"),
    [
        ("Mid R PZpl", "716921007", "Right posterolateral middle peripheral zone of prostate"),
        ("Base L PZpm", "836427009", "Left posteromedial basal peripheral zone of prostate"),
        ("Base L CZ", "716901006", "Central zone of left half prostate"),
        ("Apex R AS", "716926002", "Right apical anterior fibromuscular stroma of prostate"),
        ("L SV", "42320003", "Left seminal vesicle"),
    ],
)
def test_sectors_bear_the_codes_of_dicom(name, value, meaning):
    assert (SECTOR_CODES[name].value, SECTOR_CODES[name].meaning) == (value, meaning)


@pytest.mark.parametrize(
    ("place", "name"),  # in half axes: left, posterior, superior
    [
        ((-0.7, 0.5, 0.0), "Mid R PZpl"),
        ((0.2, 0.8, 0.0), "Mid L PZpm"),
        ((-0.9, -0.2, 0.0), "Mid R PZa"),
        ((0.4, -0.3, 0.0), "Mid L TZa"),
        ((-0.4, 0.1, 0.0), "Mid R TZp"),
        ((0.2, -0.9, 0.0), "Mid L AS"),
        ((-0.1, 0.42, 0.6), "Base R CZ"),
        ((0.2, 0.7, 0.5), "Base L PZpm"),
        ((-0.6, 0.3, -0.6), "Apex R PZpl"),
    ],
)
@pytest.mark.parametrize("turn_deg", [(0, 0, 0), (12, -6, 9)])
def test_a_place_lies_in_its_sector(place, name, turn_deg):
    found = a_map(turn_deg=turn_deg)
    size = np.array(found.numbers.shape[::-1])
    x, y, z = np.rint((size - 1) / 2 + np.array(place) * Ellipsoid().half_mm / a_scan().spacing_mm).astype(int)
    assert found.names[found.numbers[z, y, x] - 1] == name
    assert found.scheme == PIRADS_SCHEME


def test_without_zones_sectors_are_level_side_and_half_and_say_so():
    found = a_map(with_zones=False)
    assert found.scheme == PLAIN_SCHEME
    assert "zones are not known" in found.scheme
    assert len(found.names) == 12
    size = np.array(found.numbers.shape[::-1])
    x, y, z = np.rint((size - 1) / 2 + np.array([-0.5, 0.5, 0.0]) * Ellipsoid().half_mm / a_scan().spacing_mm).astype(
        int
    )
    assert found.names[found.numbers[z, y, x] - 1] == "Mid R posterior"


@pytest.mark.parametrize("seed", [2, 7])
def test_every_voxel_of_a_phantoms_gland_has_one_sector_of_its_zone(seed):
    phantom = make_phantom(seed, sequences=["t2w"], t2w_spacing_mm=(1.0, 1.0, 3.0))
    zones = {str(label): mask for label, mask in ANATOMY.from_phantom(phantom).masks.items()}
    found = map_sectors(GlandFrame.from_mask(phantom.gland), zones)
    regions = np.array(["", *(sector.region for sector in SECTORS)])[found.numbers]
    assert ((found.numbers > 0) == found.frame.mask).all()
    peripheral = phantom.zones.to_nearest_lps().array == 1
    assert (np.char.startswith(regions, "PZ") == peripheral).all()
    volumes = np.bincount(found.numbers.ravel(), minlength=39)[1:]
    right, left = (sum(v for v, s in zip(volumes, SECTORS, strict=True) if s.side == side) for side in "RL")
    assert right / left == pytest.approx(1, abs=0.1)
    assert (volumes > 0).sum() >= 34
