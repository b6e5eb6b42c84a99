"""Prostates whose measurements are known: the phantom's shapes on a grid so fine that voxels no longer matter.

Glands and zones are those of `phantom.gland`, given by formulas; lesions are ellipsoids, cut off at the capsule. The
truth is counted on voxels of `FINE_MM` along the scan's axes, by plain code of its own; the library measures what an
oblique scan of 0.5 x 0.5 x 3 mm, and diffusion of 2 x 2 x 3 mm with noise, show of the same shapes.

    python Testing/library/measurement_truth.py 50

prints the table of docs/measurements.md.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist

from VFMTransferLib.core.measurements import GlandMeasurements
from VFMTransferLib.core.result import Lesion
from VFMTransferLib.core.terms import Label
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.phantom.canvas import Blob, rotation
from VFMTransferLib.phantom.gland import Gland, draw_gland
from VFMTransferLib.radiology.gland import measure_gland
from VFMTransferLib.radiology.lesions import measure_lesions
from VFMTransferLib.tasks.lesions import find_lesions

FINE_MM = 0.5
T2W_MM, DIFFUSION_MM = (0.5, 0.5, 3.0), (2.0, 2.0, 3.0)
NOISE = 50.0  # of the ADC, 1e-6 mm²/s
MAX_TILT_DEG = 15.0
CONTACT_MM = 1.0
PERIPHERAL_ADC, TRANSITION_ADC, OTHER_ADC = 1700.0, 1300.0, 1500.0
_SUBSAMPLES = (4, 4, 3)
_MARGIN_MM = 8.0


@dataclass(frozen=True)
class Measured:
    """Numbers of one lesion, true or as the library gives them."""

    diameter_mm: float
    volume_ml: float
    mean_adc: float
    adc_p10: float
    capsule_distance_mm: float
    capsule_contact_mm: float
    sectors: dict[str, float] = field(default_factory=dict)  # name → share; of the library's the share is not known
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Shapes:
    """A prostate with lesions, and how it was scanned.

    Attributes:
        turn: The scan's axes in the body (3, 3).
    """

    gland: Gland
    lesions: tuple[Blob, ...]
    turn: np.ndarray
    seed: int

    def grid(self, spacing_mm: tuple[float, float, float]) -> Geometry:
        """A grid along the scan's axes around the gland."""
        reach = np.abs(self.turn.T @ rotation(*self.gland.turn_deg)) @ np.asarray(self.gland.half_mm) * 1.1 + _MARGIN_MM
        size = tuple(int(n) for n in np.ceil(2 * reach / spacing_mm))
        first = np.asarray(self.gland.center_mm) - self.turn @ ((np.array(size) - 1) / 2 * spacing_mm)
        return Geometry(size, spacing_mm, tuple(first.tolist()), tuple(self.turn.ravel().tolist()))

    def points(self, grid: Geometry, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> list[np.ndarray]:
        """Body coordinates (D, H, W) of the voxels, or of points beside their middles, in voxels."""
        x, y, z = (np.arange(n) + s for n, s in zip(grid.size, shift, strict=True))
        index = np.stack(np.broadcast_arrays(x[None, None], y[None, :, None], z[:, None, None]), -1)
        return list(np.moveaxis(grid.to_world(index), -1, 0).astype(np.float32))

    def labels(self, points: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Gland, transition zone, number of the lesion or 0, and the gland's own left-right coordinate."""
        u, v, w = self.gland.own(*points)
        inside = self.gland.distance_mm(u, v, w) < 0
        central = self.gland.ellipsoid_distance_mm(u, v - 0.48, w - 0.66, (0.42, 0.26, 0.42))
        stroma = self.gland.ellipsoid_distance_mm(u, v + 0.92, w - 0.05, (0.50, 0.20, 0.85))
        transition = np.minimum(np.minimum(self.gland.lobes_distance_mm(u, v, w), central), stroma) < 0
        numbers = np.zeros(inside.shape, np.uint8)
        for number, blob in enumerate(self.lesions, start=1):
            numbers[(blob.distance_of(*points) < 0) & inside] = number
        return inside, transition & inside, numbers, u

    def adc(self, points: list[np.ndarray]) -> np.ndarray:
        """True ADC, 1e-6 mm²/s: lesions are dark, and darker to one side."""
        inside, transition, numbers, _ = self.labels(points)
        adc = np.where(transition, TRANSITION_ADC, np.where(inside, PERIPHERAL_ADC, OTHER_ADC)).astype(np.float32)
        for number, blob in enumerate(self.lesions, start=1):
            mask = numbers == number
            along = (points[0] - blob.center[0]) / max(blob.half)
            adc[mask] = (750 + 100 * along)[mask]
        return adc


def draw_shapes(seed: int) -> Shapes:
    """A prostate by chance, with one to three lesions that do not touch, scanned obliquely by up to `MAX_TILT_DEG`."""
    rng = np.random.default_rng((seed, 12))
    gland = draw_gland(rng)
    turn = rotation(*(rng.uniform(-1, 1, 3) * (MAX_TILT_DEG, MAX_TILT_DEG / 2, MAX_TILT_DEG / 2)))
    count, lesions = int(rng.integers(1, 4)), []
    while len(lesions) < count:
        own = rng.uniform(-0.95, 0.95, 3)
        depth_mm = float(gland.distance_mm(*(np.float32(value) for value in own)))
        half = rng.uniform(3.5, 8.0) * np.array([1.0, *rng.uniform(0.6, 1.0, 2)])
        center = rotation(*gland.turn_deg) @ (own * gland.half_mm) + gland.center_mm
        apart = [np.linalg.norm(center - other.center) - max(half) - max(other.half) for other in lesions]
        if depth_mm < -2 and all(mm > 4 for mm in apart):
            lesions.append(Blob(tuple(center), tuple(half), tuple(rng.uniform(-40, 40, 3))))
    return Shapes(gland, tuple(lesions), turn, seed)


def true_measurements(shapes: Shapes, fine_mm: float = FINE_MM) -> tuple[dict[str, float], list[Measured]]:
    """What is true of the gland, by the keys of `result.json`, and of each lesion."""
    grid = shapes.grid((fine_mm,) * 3)
    points = shapes.points(grid)
    inside, transition, numbers, u = shapes.labels(points)
    middle = np.abs(u) * shapes.gland.half_mm[0] < fine_mm  # the plane about which the gland is symmetric
    sagittal = inside & middle
    gland = {
        "transverse_mm": _reach(inside, 2) * fine_mm,
        "anteroposterior_mm": _reach(sagittal, 1) * fine_mm,
        "longitudinal_mm": float(np.ptp(np.flatnonzero(sagittal.any(axis=(1, 2)))) + 1) * fine_mm,
        "segmented_ml": float(inside.sum()) * fine_mm**3 / 1000,
    }
    diameters = (gland["transverse_mm"], gland["anteroposterior_mm"], gland["longitudinal_mm"])
    gland["ellipsoid_ml"] = float(np.prod(diameters)) * np.pi / 6000
    depth_mm = ndimage.distance_transform_edt(inside, sampling=fine_mm)
    edge = inside & ~ndimage.binary_erosion(inside)
    adc = shapes.adc(points)
    sectors = _SectorRule(inside, transition, u, middle)
    found = []
    for number in range(1, len(shapes.lesions) + 1):
        mask = numbers == number
        away = ndimage.distance_transform_edt(~mask, sampling=(1e6, fine_mm, fine_mm))  # within slices
        contact = [_span(edge[z] & (away[z] <= CONTACT_MM)) for z in np.flatnonzero(mask.any(axis=(1, 2)))]
        found.append(
            Measured(
                max(_span(mask[z]) for z in np.flatnonzero(mask.any(axis=(1, 2)))) * fine_mm,
                float(mask.sum()) * fine_mm**3 / 1000,
                float(adc[mask].mean()),
                float(np.percentile(adc[mask], 10)),
                float(depth_mm[mask].min()) - fine_mm if mask.any() else np.nan,
                max(contact) * fine_mm,
                sectors.shares(mask),
                tuple(float(p[mask].mean()) for p in points),
            )
        )
    return gland, found


def _reach(mask: np.ndarray, axis: int) -> int:
    """Largest number of voxels from the first to the last in a slice, along an axis of it."""
    lines = mask.any(axis=3 - axis)  # (D, n)
    return max(int(np.ptp(np.flatnonzero(line))) + 1 for line in lines if line.any())


def _span(section: np.ndarray) -> float:
    """Largest distance between two marked pixels, with the width of one."""
    places = np.argwhere(section & ~ndimage.binary_erosion(section))
    return 0.0 if len(places) < 2 else float(pdist(places[:: max(1, len(places) // 600)]).max()) + 1


class _SectorRule:
    """The rules of docs/measurements.md, once more: sectors by the gland's plane of symmetry, slice by slice."""

    def __init__(self, inside: np.ndarray, transition: np.ndarray, u: np.ndarray, middle: np.ndarray) -> None:
        self._inside, self._transition, self._u = inside, transition, u
        held = np.flatnonzero(inside.any(axis=(1, 2)))
        self._low, self._high = held[0], held[-1] + 1
        columns = np.arange(inside.shape[2])
        self._middle = [float((middle[z] * columns).sum() / max(middle[z].sum(), 1)) for z in range(len(inside))]

    def shares(self, mask: np.ndarray) -> dict[str, float]:
        names: Counter[str] = Counter()
        for z in np.flatnonzero(mask.any(axis=(1, 2))):
            rows, columns = (np.flatnonzero(self._inside[z].any(axis=axis)) for axis in (1, 0))
            level = ("Apex", "Mid", "Base")[min(int(3 * (z + 0.5 - self._low) / (self._high - self._low)), 2)]
            half_width = (np.ptp(columns) + 1) / 2
            for y, x in np.argwhere(mask[z]):
                depth = (y - rows[0] + 0.5) / (np.ptp(rows) + 1)
                lateral = abs(x - self._middle[z]) / half_width
                region = self._region(level, depth, lateral, bool(self._transition[z, y, x]))
                names[f"{level} {'L' if self._u[z, y, x] > 0 else 'R'} {region}"] += 1
        total = sum(names.values())
        return {name: count / total for name, count in names.most_common()}

    @staticmethod
    def _region(level: str, depth: float, lateral: float, is_transition: bool) -> str:
        if not is_transition:
            return "PZa" if depth <= 0.5 else "PZpm" if lateral < 0.5 else "PZpl"
        if level == "Base" and depth > 0.62 and lateral < 0.42:
            return "CZ"
        if depth < 0.15 and lateral < 0.5:
            return "AS"
        return "TZp" if depth > 0.5 else "TZa"


def library_measurements(shapes: Shapes) -> tuple[GlandMeasurements, list[Lesion]]:
    """What the library measures of a scan of the shapes."""
    grid = shapes.grid(T2W_MM)
    inside, transition, numbers, _ = shapes.labels(shapes.points(grid))
    coarse = shapes.grid(DIFFUSION_MM)
    shifts = [(np.arange(n) + 0.5) / n - 0.5 for n in _SUBSAMPLES]
    parts = [shapes.adc(shapes.points(coarse, (x, y, z))) for x in shifts[0] for y in shifts[1] for z in shifts[2]]
    noise = np.random.default_rng(shapes.seed).normal(0, NOISE, coarse.shape)
    adc = Volume((np.mean(parts, axis=0) + noise).astype(np.float32), coarse, "adc")
    gland = Volume(inside.astype(np.uint8), grid, "gland")
    zones = {
        str(Label.PERIPHERAL_ZONE): gland.with_array((inside & ~transition).astype(np.uint8)),
        str(Label.TRANSITION_ZONE): gland.with_array(transition.astype(np.uint8)),
    }
    labels = gland.with_array((numbers > 0).astype(np.uint8))
    probability = labels.with_array(labels.array.astype(np.float32))
    lesions = find_lesions(labels, {str(Label.CSPCA): probability}, adc, zones)
    return measure_gland(gland, "truth"), list(measure_lesions(labels, lesions, adc=adc, gland=gland, zones=zones))


@dataclass
class Errors:
    """Measured minus true, by the key of `result.json`."""

    gland: dict[str, list[float]] = field(default_factory=dict)
    lesions: dict[str, list[float]] = field(default_factory=dict)
    fullest: list[bool] = field(default_factory=list)  # whether the first sector is the fullest, or nearly so
    named: list[bool] = field(default_factory=list)  # of sectors that hold a quarter or more: whether it is named
    false: list[bool] = field(default_factory=list)  # of named sectors: whether it holds less than a twentieth
    side: list[bool] = field(default_factory=list)

    def add(self, shapes: Shapes, fine_mm: float = FINE_MM) -> None:
        """Compare one prostate."""
        truth, lesions = true_measurements(shapes, fine_mm)
        gland, found = library_measurements(shapes)
        for key, value in truth.items():
            error = getattr(gland, key) - value
            self.gland.setdefault(key, []).append(100 * error / value if key.endswith("_ml") else error)
        assert len(found) == len(lesions), "lesions that do not touch are found one by one"
        for true in lesions:
            lesion = min(found, key=lambda one: np.linalg.norm(np.subtract(one.center_mm, true.center_mm)))
            for key in ("diameter_mm", "volume_ml", "mean_adc", "adc_p10", "capsule_distance_mm", "capsule_contact_mm"):
                error = getattr(lesion, key) - getattr(true, key)
                self.lesions.setdefault(key, []).append(100 * error / true.volume_ml if key == "volume_ml" else error)
            best = max(true.sectors.values())
            self.fullest.append(true.sectors.get(lesion.sectors[0], 0.0) >= best - 0.05)
            self.named += [name in lesion.sectors for name, share in true.sectors.items() if share >= 0.25]
            self.false += [true.sectors.get(name, 0.0) < 0.05 for name in lesion.sectors]


_ROWS = (
    ("gland", "transverse_mm", "transverse diameter", "mm"),
    ("gland", "anteroposterior_mm", "anteroposterior diameter", "mm"),
    ("gland", "longitudinal_mm", "longitudinal diameter", "mm"),
    ("gland", "segmented_ml", "volume of the mask", "%"),
    ("gland", "ellipsoid_ml", "volume of the ellipsoid", "%"),
    ("lesions", "diameter_mm", "lesion, largest diameter", "mm"),
    ("lesions", "volume_ml", "lesion, volume", "%"),
    ("lesions", "mean_adc", "lesion, mean ADC", "1e-6 mm²/s"),
    ("lesions", "adc_p10", "lesion, 10th percentile of ADC", "1e-6 mm²/s"),
    ("lesions", "capsule_distance_mm", "lesion, distance from the capsule", "mm"),
    ("lesions", "capsule_contact_mm", "lesion, contact with the capsule", "mm"),
)


def table(errors: Errors) -> list[str]:
    """Rows as docs/measurements.md has them: mean, 95th percentile of the size, and largest error."""
    lines = ["| measured minus true | unit | mean | 95 % within | largest |", "| --- | --- | --- | --- | --- |"]
    for kind, key, title, unit in _ROWS:
        values = np.array(getattr(errors, kind)[key])
        size = np.abs(values)
        decimals = 0 if "ADC" in title else 1
        numbers = (values.mean(), np.percentile(size, 95), size.max())
        lines.append(f"| {title} | {unit} | " + " | ".join(f"{n:.{decimals}f}" for n in numbers) + " |")
    return lines


def main(count: int) -> None:
    errors = Errors()
    for seed in range(count):
        errors.add(draw_shapes(seed))
        print(f"{seed + 1} of {count}", file=sys.stderr)
    print("\n".join(table(errors)))
    print(f"{count} prostates, {len(errors.fullest)} lesions")
    print(f"first sector the fullest, or within 5 points of it: {np.mean(errors.fullest):.1%}")
    print(
        f"sectors with a quarter or more of a lesion that are named: {np.mean(errors.named):.1%} of {len(errors.named)}"
    )
    print(f"named sectors that hold less than a twentieth: {np.mean(errors.false):.1%} of {len(errors.false)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
