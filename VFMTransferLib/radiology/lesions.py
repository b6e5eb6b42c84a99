"""What is measured of each lesion: where it lies in the gland, its diameter, ADC, high-b signal, way to the capsule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import scipy  # `spatial` is imported at its first use, for which a gland without lesions need not wait
from scipy import ndimage

from ..core.case import measured_adc
from ..core.result import Lesion
from ..core.terms import LABEL_TERMS
from ..core.volume import Geometry, Volume, bounding_box
from .gland import GlandFrame
from .sectors import SectorMap, map_sectors

CONNECTIVITY = np.ones((3, 3, 3), bool)
"""Voxels that share a face, an edge or a corner are one lesion, as in `tasks.lesions`."""
MIN_SECTOR_SHARE = 0.1
"""Of a lesion's volume; a sector that holds less is not named. Ours."""
CONTACT_MM = 1.0
"""A lesion this near to the capsule is taken to touch it; outlines are no surer than that. Ours."""
MIN_CONTRALATERAL_VOXELS = 10
MIDLINE_SHARE = 1 / 3
"""From this share of its volume on either side, a lesion lies at the midline. Ours."""
_FEW_POINTS = 400
_RIM = 2  # voxels around gland and lesions
_LEVEL_WORDS = ("apex", "mid", "base")


def measure_lesions(
    labels: Volume,
    lesions: Sequence[Lesion],
    *,
    adc: Volume | None = None,
    hbv: Volume | None = None,
    gland: Volume | None = None,
    zones: Mapping[str, Volume] | None = None,
) -> tuple[Lesion, ...]:
    """The lesions with what is measured of them; without a gland only what needs none.

    Args:
        labels: The label map whose regions the lesions are.
        lesions: Its regions, largest first, one for each.
        adc: ADC on any grid, 1e-6 mm²/s.
        hbv: High-b image on any grid.
        gland: Mask of the prostate, not empty, on any grid.
        zones: Masks of peripheral and transition zone by label.
    """
    labels = labels.to_nearest_lps()
    if not labels.array.any() and not lesions:
        return ()
    around = labels.array > 0
    if gland is not None:
        around |= gland.resample_to(labels.geometry, "nearest").array > 0
    # A tenth of the voxels, or less; the rim is narrower only where the image ends.
    labels = labels.cropped_to(bounding_box(around, _RIM))
    marked = labels.array > 0
    regions, count = ndimage.label(marked, structure=CONNECTIVITY)
    if count != len(lesions):
        raise ValueError(f"There must be a lesion for each of {count} regions, got {len(lesions)}.")
    if not lesions:
        return ()
    numbers = _numbers_of(lesions, regions, count, labels.geometry)
    grid = labels.geometry
    adc_values = None if adc is None else measured_adc(adc, grid)
    hbv_values = None if hbv is None else hbv.resample_to(grid, fill=np.nan).array
    placed = None if gland is None else _placed(gland, zones, grid)
    surface = None if placed is None else Surface(placed.frame.mask, grid)
    found = []
    for lesion, number in zip(lesions, numbers, strict=True):
        mask = regions == number
        lesion = replace(lesion, diameter_mm=largest_diameter_mm(mask, grid), adc_p10=_low_adc(adc_values, mask))
        if placed is not None and surface is not None and (mask & placed.frame.mask).any():
            lesion = _in_gland(lesion, mask, marked, placed, surface, zones or {}, hbv_values)
        found.append(lesion)
    return tuple(found)


def is_cut_off(gland: Volume, grid: Geometry) -> bool:
    """Whether the prostate reaches the first or the last slice of a grid, so that a part may lie beyond."""
    mask = gland.resample_to(grid, "nearest").to_nearest_lps().array > 0
    return bool(mask[[0, -1]].any())


def _numbers_of(lesions: Sequence[Lesion], regions: np.ndarray, count: int, grid: Geometry) -> list[int]:
    """The number of each lesion's region: of those of its size the one whose middle is nearest.

    They were numbered on other axes, where the label map had to be turned.
    """
    sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    middles = ndimage.center_of_mass(np.ones(regions.shape, bool), regions, range(1, count + 1))
    points = grid.to_world(np.array(middles)[:, ::-1])
    left, numbers = set(range(count)), []
    for lesion in lesions:
        apart = [
            (abs(sizes[i] - lesion.volume_ml / grid.voxel_volume_ml) > 0.5, _apart(points[i], lesion), i) for i in left
        ]
        number = min(apart)[2]
        left.remove(number)
        numbers.append(number + 1)
    return numbers


def _apart(point: np.ndarray, lesion: Lesion) -> float:
    return float(np.linalg.norm(point - lesion.center_mm))


def _placed(gland: Volume, zones: Mapping[str, Volume] | None, grid: Geometry) -> SectorMap | None:
    mask = gland.resample_to(grid, "nearest")
    return map_sectors(GlandFrame.from_mask(mask), zones) if mask.array.any() else None


def _in_gland(
    lesion: Lesion,
    mask: np.ndarray,
    marked: np.ndarray,
    placed: SectorMap,
    surface: Surface,
    zones: Mapping[str, Volume],
    hbv: np.ndarray | None,
) -> Lesion:
    """What needs the gland: place, sectors, the other side, the capsule."""
    frame = placed.frame
    inside = mask & frame.mask
    counts = np.bincount(placed.numbers[inside], minlength=len(placed.names) + 1)[1:]
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i] >= MIN_SECTOR_SHARE * inside.sum()]
    distance_mm, contact_mm = surface.to_lesion_mm(mask)
    ratio = None
    if hbv is not None:
        own = zones.get(lesion.zone or "")
        zone = None if own is None else own.resample_to(frame.geometry, "nearest").array > 0
        ratio = _contralateral_ratio(inside, marked, frame, zone, hbv)
    return replace(
        lesion,
        position=position_title(np.argwhere(inside), frame, lesion.zone),
        place=_place(inside, frame),
        sectors=tuple(placed.names[i] for i in order),
        sector_scheme=placed.scheme,
        high_b_ratio=ratio,
        capsule_distance_mm=distance_mm,
        capsule_contact_mm=contact_mm,
    )


def position_title(voxels: np.ndarray, frame: GlandFrame, zone: str | None = None) -> str:
    """Side, level, front or back, zone: each where most of some voxels (N, 3), by index z, y, x, lies."""
    z, y, x = voxels.T
    left = float((x > frame.midline[z]).mean())
    side = "midline" if min(left, 1 - left) >= MIDLINE_SHARE else "left" if left > 0.5 else "right"
    level = np.bincount(np.digitize(frame.height(z), (1 / 3, 2 / 3)), minlength=3).argmax()
    half = "posterior" if (frame.depth(z, y) > 0.5).mean() >= 0.5 else "anterior"
    term = LABEL_TERMS.get(zone or "")
    return ", ".join([side, _LEVEL_WORDS[level], half, *([term.title.lower()] if term else [])])


def _place(inside: np.ndarray, frame: GlandFrame) -> tuple[float, float, float]:
    z, y, x = np.nonzero(inside)
    means = (frame.lateral(z, x).mean(), frame.depth(z, y).mean(), frame.height(z).mean())
    return (float(means[0]), float(means[1]), float(means[2]))


def _low_adc(adc: np.ndarray | None, mask: np.ndarray) -> float | None:
    values = np.array([]) if adc is None else adc[mask]
    values = values[np.isfinite(values)]
    return float(np.percentile(values, 10)) if values.size else None


def _contralateral_ratio(
    inside: np.ndarray, marked: np.ndarray, frame: GlandFrame, zone: np.ndarray | None, hbv: np.ndarray
) -> float | None:
    """Mean signal of a lesion divided by that of its zone on the other side of the midline, in its slices.

    Without a zone the whole other side serves. What is marked as lesion there is left out. None where too little is
    left, or the other side gives no signal.
    """
    z, _, x = np.nonzero(inside)
    is_left = (x > frame.midline[z]).mean() > 0.5
    columns = np.arange(inside.shape[2])[None, None, :]
    on_left = columns > frame.midline[:, None, None]
    other = frame.mask & ~marked & (on_left != is_left) & inside.max(axis=(1, 2), keepdims=True)
    other &= np.isfinite(hbv)
    if zone is not None:
        other &= zone
    own = hbv[inside & np.isfinite(hbv)]
    if own.size == 0 or other.sum() < MIN_CONTRALATERAL_VOXELS or hbv[other].mean() <= 0:
        return None
    return float(own.mean() / hbv[other].mean())


def largest_diameter_mm(mask: np.ndarray, geometry: Geometry) -> float:
    """Largest distance in an axial slice between two points of a mask's outline: the middles of its voxels' edges.

    Args:
        mask: (D, H, W) on a grid whose third index axis runs from slice to slice; not empty.
    """
    largest = 0.0
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        largest = max(largest, _extent(_edge_middles(mask[z]) * geometry.spacing_mm[:2]))
    return largest


def _edge_middles(section: np.ndarray) -> np.ndarray:
    """Middles (N, 2), x and y in voxels, of the edges between marked and other pixels (H, W)."""
    padded = np.pad(section, 1).astype(np.int8)
    upright = np.argwhere(np.diff(padded, axis=1)) + np.array([0.0, 0.5])
    level = np.argwhere(np.diff(padded, axis=0)) + np.array([0.5, 0.0])
    return np.concatenate([upright, level])[:, ::-1] - 1


def _extent(points: np.ndarray) -> float:
    """Largest distance between two of the points (N, 2)."""
    if len(points) > _FEW_POINTS:
        try:
            points = points[scipy.spatial.ConvexHull(points).vertices]
        except scipy.spatial.QhullError:  # all on one line
            points = points[[points.sum(axis=1).argmin(), points.sum(axis=1).argmax()]]
    return float(scipy.spatial.distance.pdist(points).max()) if len(points) > 1 else 0.0


class Surface:
    """The surface of the prostate, as points in the middle of the faces between its voxels and others.

    Where the image ends inside the prostate there is no surface: what lies beyond is not known.

    Args:
        mask: The prostate (D, H, W), which reaches the border of the array only where the image ends.
        geometry: Its grid.
    """

    def __init__(self, mask: np.ndarray, geometry: Geometry) -> None:
        self.geometry = geometry
        self._mask = mask
        faces = _face_middles(mask)
        ends = _at_border(faces, geometry.size)
        # Of points (N, 3), x y z in mm along the index axes.
        self._tree = scipy.spatial.cKDTree(faces[~ends] * geometry.spacing_mm)
        self._ends = scipy.spatial.cKDTree(faces[ends] * geometry.spacing_mm)
        self._outlines: dict[int, np.ndarray] = {}
        for z in np.flatnonzero(mask.any(axis=(1, 2))):
            edges = _edge_middles(mask[z])
            self._outlines[int(z)] = edges[~_at_border(edges, geometry.size[:2])] * geometry.spacing_mm[:2]

    def to_lesion_mm(self, lesion: np.ndarray) -> tuple[float | None, float]:
        """Shortest distance from a lesion (D, H, W), and the longest chord of the outline that it lies along.

        A lesion that reaches beyond the surface is 0 mm away. The distance is None where the image ends nearer than the
        surface, which may lie anywhere beyond.
        """
        points_mm = _face_middles(lesion) * self.geometry.spacing_mm
        distance_mm, end_mm = (float(tree.query(points_mm)[0].min()) for tree in (self._tree, self._ends))
        longest = 0.0
        for z in np.flatnonzero(lesion.any(axis=(1, 2))):
            outline = self._outlines.get(int(z))
            if outline is None:
                continue
            points = np.concatenate([_edge_middles(lesion[z]), np.argwhere(lesion[z])[:, ::-1]])  # its edge, and inside
            near, _ = scipy.spatial.cKDTree(points * self.geometry.spacing_mm[:2]).query(outline)
            longest = max(longest, _extent(outline[near <= CONTACT_MM]))
        if (lesion & ~self._mask).any():
            return 0.0, longest
        return (None if end_mm < distance_mm else distance_mm), longest


def _at_border(middles: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Which middles of faces or edges (N, 2 or 3), in voxels, lie between the outermost voxels and nothing."""
    return np.asarray(((middles < 0) | (middles > np.subtract(size, 1))).any(axis=1))


def _face_middles(mask: np.ndarray) -> np.ndarray:
    """Middles (N, 3), x y z in voxels, of the faces between marked and other voxels (D, H, W)."""
    padded = np.pad(mask, 1).astype(np.int8)
    found = []
    for axis in range(3):
        half = np.zeros(3)
        half[axis] = 0.5
        found.append(np.argwhere(np.diff(padded, axis=axis)) + half)
    return np.concatenate(found)[:, ::-1] - 1
