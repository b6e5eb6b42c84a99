"""The sectors of the PI-RADS v2.1 map: their names and codes, and which sector each voxel of a prostate lies in.

The map has 41 sectors: 38 of the prostate, two of the seminal vesicles, one of the external urethral sphincter. Names,
abbreviations and SNOMED CT codes are those of DICOM PS3.16, CID 6304 (PI-RADS v2.1), which is CID 6301 (PI-RADS v2, 39
sectors) with two more in the base of the peripheral zone.

PI-RADS divides right from left by the midline, front from back by a line through the middle of the gland, and the
length of the gland into base, mid-gland and apex. Where it draws a border and does not define it, the rule is ours:
thirds of the length; the posterior peripheral zone is medial in the inner half of each side; and since networks mark
the central zone and the anterior stroma as part of the transition zone, the two are told from it by their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..core.terms import Code, Label
from ..core.volume import Volume
from .gland import GlandFrame

PIRADS_SCHEME = "PI-RADS v2.1 sector map (central zone and anterior stroma by their place, our rule)"
PLAIN_SCHEME = "level, side and anterior or posterior half, since the zones are not known"
LEVELS = ("Base", "Mid", "Apex")
SIDES = ("R", "L")
# Regions of a level and side, from front to back as the map has them; the central zone lies in the base alone.
REGIONS = ("AS", "TZa", "TZp", "CZ", "PZa", "PZpl", "PZpm")
REGION_TITLES = {
    "AS": "anterior fibromuscular stroma",
    "TZa": "anterior transition zone",
    "TZp": "posterior transition zone",
    "CZ": "central zone",
    "PZa": "anterior peripheral zone",
    "PZpl": "posterolateral peripheral zone",
    "PZpm": "posteromedial peripheral zone",
}
# Where the prostate ends and its neighbors begin on the map.
OUTSIDE_SECTORS = {
    "R SV": Code("SCT", "74308000", "Right seminal vesicle"),
    "L SV": Code("SCT", "42320003", "Left seminal vesicle"),
    "US": Code("SCT", "717027004", "Male external urethral sphincter"),
}
# Our rules for what the map draws; shares of the gland in the slice.
POSTEROMEDIAL_LATERAL = 0.5
STROMA_DEPTH, STROMA_LATERAL = 0.15, 0.5
CENTRAL_DEPTH, CENTRAL_LATERAL = 0.62, 0.42

# SNOMED CT codes of the right and the left sector, by level and region.
_CODES = {
    "Base AS": ("716892006", "716893001"),
    "Base TZa": ("716896009", "716897000"),
    "Base TZp": ("716898005", "716899002"),
    "Base CZ": ("716900007", "716901006"),
    "Base PZa": ("716904003", "716905002"),
    "Base PZpl": ("716906001", "716907005"),
    "Base PZpm": ("836428004", "836427009"),
    "Mid AS": ("716909008", "716910003"),
    "Mid TZa": ("716913001", "716914007"),
    "Mid TZp": ("716915008", "716916009"),
    "Mid PZa": ("716919002", "716920008"),
    "Mid PZpl": ("716921007", "716922000"),
    "Mid PZpm": ("716923005", "716924004"),
    "Apex AS": ("716926002", "716927006"),
    "Apex TZa": ("716930004", "716931000"),
    "Apex TZp": ("716932007", "716933002"),
    "Apex PZa": ("716936005", "716937001"),
    "Apex PZpl": ("716938006", "716939003"),
    "Apex PZpm": ("716940001", "716941002"),
}
_LEVEL_WORDS = {"Base": "basal", "Mid": "middle", "Apex": "apical"}
_SIDE_WORDS = {"R": "Right", "L": "Left"}
_REGION_PATTERNS = {
    "AS": "{side} {level} anterior fibromuscular stroma of prostate",
    "TZa": "{side} anterior {level} transition zone of prostate",
    "TZp": "{side} posterior {level} transition zone of prostate",
    "CZ": "Central zone of {lower} half prostate",
    "PZa": "{side} anterior {level} peripheral zone of prostate",
    "PZpl": "{side} posterolateral {level} peripheral zone of prostate",
    "PZpm": "{side} posteromedial {level} peripheral zone of prostate",
}


@dataclass(frozen=True)
class Sector:
    """One sector of the prostate.

    Attributes:
        level: `Base`, `Mid` or `Apex`.
        side: `R` or `L`.
        region: A key of `REGION_TITLES`.
    """

    level: str
    side: str
    region: str

    @property
    def name(self) -> str:
        """The map's own abbreviation, as `Mid R PZpl`."""
        return f"{self.level} {self.side} {self.region}"

    @property
    def code(self) -> Code:
        right, left = _CODES[f"{self.level} {self.region}"]
        words = {"side": _SIDE_WORDS[self.side], "level": _LEVEL_WORDS[self.level]}
        meaning = _REGION_PATTERNS[self.region].format(**words, lower=words["side"].lower())
        return Code("SCT", right if self.side == "R" else left, meaning)


SECTORS = tuple(
    Sector(level, side, region)
    for level in LEVELS
    for side in SIDES
    for region in REGIONS
    if f"{level} {region}" in _CODES
)
"""The 38 sectors of the prostate."""
SECTOR_CODES: Mapping[str, Code] = {**{sector.name: sector.code for sector in SECTORS}, **OUTSIDE_SECTORS}
"""Abbreviation → code of all 41."""


@dataclass(frozen=True)
class SectorMap:
    """Which sector each voxel of the prostate lies in.

    Attributes:
        frame: The prostate.
        numbers: (D, H, W), uint8 on the frame's grid: 0 outside, else 1 + the index in `names`.
        names: Of the sectors.
        scheme: What they are sectors of.
    """

    frame: GlandFrame
    numbers: np.ndarray
    names: tuple[str, ...]
    scheme: str


def map_sectors(frame: GlandFrame, zones: Mapping[str, Volume] | None = None) -> SectorMap:
    """The sectors of a prostate.

    Args:
        frame: The prostate.
        zones: Masks of peripheral and transition zone by label, on any grid. Without both, sectors are level, side and
            the front or back half.
    """
    z, y, x = np.nonzero(frame.mask)
    level = np.digitize(frame.height(z), (1 / 3, 2 / 3))  # 0 apex, 1 mid, 2 base
    side = (x > frame.midline[z]).astype(int)  # 0 right
    lateral, depth = np.abs(frame.lateral(z, x)), frame.depth(z, y)
    is_back = depth > 0.5
    numbers = np.zeros(frame.mask.shape, np.uint8)
    masks = {name: _inside(zones, name, frame)[z, y, x] for name in zones or {}}
    if not {Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE} <= masks.keys():
        names = [f"{lv} {s} {half}" for lv in LEVELS for s in SIDES for half in ("anterior", "posterior")]
        numbers[z, y, x] = 1 + (2 - level) * 4 + side * 2 + is_back
        return SectorMap(frame, numbers, tuple(names), PLAIN_SCHEME)
    is_base = level == 2
    transition = np.where(is_back, REGIONS.index("TZp"), REGIONS.index("TZa"))
    transition[(depth < STROMA_DEPTH) & (lateral < STROMA_LATERAL)] = REGIONS.index("AS")
    transition[is_base & (depth > CENTRAL_DEPTH) & (lateral < CENTRAL_LATERAL)] = REGIONS.index("CZ")
    peripheral = np.where(lateral < POSTEROMEDIAL_LATERAL, REGIONS.index("PZpm"), REGIONS.index("PZpl"))
    peripheral[~is_back] = REGIONS.index("PZa")
    region = np.where(masks[Label.PERIPHERAL_ZONE], peripheral, transition)
    known = masks[Label.PERIPHERAL_ZONE] | masks[Label.TRANSITION_ZONE]
    order = {(s.level, s.side, s.region): i for i, s in enumerate(SECTORS, start=1)}
    table = np.zeros((len(LEVELS), len(SIDES), len(REGIONS)), np.uint8)
    for (name, one_side, one_region), number in order.items():
        table[2 - LEVELS.index(name), SIDES.index(one_side), REGIONS.index(one_region)] = number
    numbers[z, y, x] = np.where(known, table[level, side, region], 0)
    return SectorMap(frame, numbers, tuple(sector.name for sector in SECTORS), PIRADS_SCHEME)


def _inside(zones: Mapping[str, Volume] | None, name: str, frame: GlandFrame) -> np.ndarray:
    assert zones is not None
    return zones[name].resample_to(frame.geometry, "nearest").array > 0
