"""One synthetic study: a body, a scanner, and what is true of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..case import Case
from ..terms import Sequence
from ..volume import Geometry, Volume
from .canvas import Canvas, Lattice, smooth_field
from .gland import Gland, PaintedGland, draw_gland, paint_gland
from .lesions import Lesion, draw_count, paint_lesions
from .organs import paint_organs
from .pelvis import Habitus, draw_habitus, paint_pelvis, paint_skin
from .scanner import SpinEcho, acquire, box_average, coil_sensitivity
from .shapes import rotation

FULL_SCALE = 700.0
_SLICE_POINTS = 2
_BASE_MARGIN_MM, _APEX_MARGIN_MM = 14.0, 11.0
_MIN_SLICES = 19
ZONE_PERIPHERAL, ZONE_TRANSITION = 1, 2


@dataclass(frozen=True)
class Scanner:
    """How T2w was acquired.

    Attributes:
        echo: Repetition and echo time.
        noise: Noise of real and imaginary part against the signal of water at TE 0.
        shading: Strength of the coil's uneven gain.
        kept: Fraction of k-space along (rows, columns) that was measured.
    """

    echo: SpinEcho
    noise: float
    shading: float
    kept: tuple[float, float]


@dataclass(frozen=True)
class Phantom:
    """A synthetic prostate study and its exact truth.

    Attributes:
        case: T2w, and where asked for hbv and adc, each on its own oblique grid.
        gland: Mask of the prostate on the T2w's grid.
        zones: 1 peripheral zone, 2 transition zone (with central zone and anterior stroma), T2w's grid.
        lesion: ISUP grade group of the cancer in each voxel, else 0; T2w's grid.
        lesions: The same as a list.
        seed: Makes the same phantom again.
        acquisition: What the scanner was set to, for the record.
        truths: Further images that are exactly known, by name.
    """

    case: Case
    gland: Volume
    zones: Volume
    lesion: Volume
    lesions: tuple[Lesion, ...]
    seed: int
    acquisition: dict[str, Any]
    truths: dict[str, Volume] = field(default_factory=dict)

    @property
    def volume_ml(self) -> float:
        """Volume of the prostate."""
        return self.gland.volume_ml

    @property
    def pirads(self) -> int:
        """PI-RADS class of the worst lesion; 2 where there is none."""
        return max((lesion.pirads for lesion in self.lesions), default=2)


def make_phantom(
    seed: int,
    *,
    sequences: Iterable[Sequence | str] = tuple(Sequence),
    t2w_spacing_mm: tuple[float, float, float] = (0.5, 0.5, 3.0),
    field_of_view_mm: float = 192.0,
    lesions: int | None = None,
    noise: float | None = None,
) -> Phantom:
    """Draw a body and image it.

    Args:
        seed: The same seed and options give the same voxels.
        sequences: What to acquire; T2w always is.
        t2w_spacing_mm: Voxel of the T2w (x, y, z). (1, 1, 3) takes a quarter of the time.
        field_of_view_mm: Edge of the T2w's square field of view.
        lesions: How many cancers; at random if None.
        noise: Noise against the signal of water; at random if None.

    Returns:
        The study with its truth.
    """
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(6)]
    body, paint, grow, device, place, _ = streams
    gland, habitus, scanner = draw_gland(body), draw_habitus(body), _draw_scanner(device, noise)
    grid, lattice = _place_t2w(gland, t2w_spacing_mm, field_of_view_mm, place)
    canvas = Canvas(lattice, paint, warp_mm=1.7)
    paint_pelvis(canvas, habitus, paint)
    paint_organs(canvas, gland, habitus, paint)
    paint_skin(canvas, habitus, paint)
    painted = paint_gland(canvas, gland, paint)
    count = draw_count(grow) if lesions is None else lesions
    found, grades = paint_lesions(canvas, painted, count, grow)
    _roughen(canvas, paint)
    t2w = Volume(_image_t2w(canvas, scanner, device), grid, "t2w")
    return Phantom(
        case=Case(f"phantom-{seed:04d}", {Sequence.T2W: t2w}),
        gland=_labels(canvas, painted, painted.gland_mm < 0, grid, "gland"),
        zones=_labels(canvas, painted, _zones(painted), grid, "zones"),
        lesion=_labels(canvas, painted, grades, grid, "lesion"),
        lesions=found,
        seed=seed,
        acquisition=_record(gland, habitus, scanner),
    )


def _draw_scanner(rng: np.random.Generator, noise: float | None) -> Scanner:
    echo = SpinEcho(tr_ms=float(rng.uniform(3500, 7000)), te_ms=float(rng.uniform(88, 118)))
    level = float(np.exp(rng.normal(np.log(0.013), 0.4))) if noise is None else noise
    kept = (float(rng.uniform(0.72, 1.0)), float(rng.uniform(0.85, 1.0)))
    return Scanner(echo, level, float(rng.uniform(0.1, 0.9)), kept)


def _place_t2w(
    gland: Gland, spacing_mm: tuple[float, float, float], view_mm: float, rng: np.random.Generator
) -> tuple[Geometry, Lattice]:
    """An oblique grid that shows the whole gland, and the finer lattice whose boxes are its voxels."""
    matrix = round(view_mm / spacing_mm[0])
    top = gland.center_mm[2] + gland.half_mm[2] + _BASE_MARGIN_MM
    bottom = gland.center_mm[2] - gland.half_mm[2] - _APEX_MARGIN_MM
    slices = max(_MIN_SLICES, int(np.ceil((top - bottom) / spacing_mm[2])))
    middle = np.array(
        [rng.normal(0, 3), gland.center_mm[1] + rng.normal(0, 6), (top + bottom) / 2 + rng.normal(0, 1.5)]
    )
    direction = rotation(rng.normal(0, 8), rng.normal(0, 2), rng.normal(0, 2))
    size = (matrix, matrix, slices)
    center = rng.normal(0, 15, 3)
    origin = center - direction @ ((np.array(size) - 1) / 2 * spacing_mm)
    grid = Geometry(size, spacing_mm, tuple(origin.tolist()), tuple(direction.ravel().tolist()))
    fine = (spacing_mm[2] / _SLICE_POINTS, spacing_mm[1], spacing_mm[0])
    lattice = Lattice((slices * _SLICE_POINTS, matrix, matrix), fine, tuple(middle[::-1].tolist()))
    return grid, lattice


def _roughen(canvas: Canvas, rng: np.random.Generator) -> None:
    """Texture within tissues: T2 and ADC vary over a few lengths at once, as far as each tissue's grain says."""
    coarse = smooth_field(canvas.lattice, rng, 7.0)
    fine = smooth_field(canvas.lattice, rng, (4.0, 2.2, 2.2))
    rough = (coarse * np.float32(0.6) + fine * np.float32(0.8)) * canvas.maps[4]
    canvas.maps[2] *= np.exp(rough)
    canvas.maps[3] *= np.exp(rough * np.float32(0.5))


def _image_t2w(canvas: Canvas, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    pd, t1, t2 = canvas.maps[:3]
    signal = box_average(scanner.echo.signal(pd, t1, t2), (_SLICE_POINTS, 1, 1))
    gain = coil_sensitivity(canvas.lattice.axis_mm(1), canvas.lattice.axis_mm(2), rng, scanner.shading)
    image = acquire(signal * gain, rng, noise=scanner.noise, kept=scanner.kept)
    return np.round(image * FULL_SCALE).astype(np.float32)


def _zones(painted: PaintedGland) -> np.ndarray:
    return painted.peripheral * np.uint8(ZONE_PERIPHERAL) + painted.transition * np.uint8(ZONE_TRANSITION)


def _labels(canvas: Canvas, painted: PaintedGland, labels: np.ndarray, grid: Geometry, name: str) -> Volume:
    """Labels of the gland's box on the T2w's grid: in each voxel the label of most of its points."""
    full = np.zeros(canvas.lattice.shape, np.uint8)
    full[painted.box] = labels
    values = [int(v) for v in np.unique(labels) if v]
    shares = [box_average((full == v).astype(np.float32), (_SLICE_POINTS, 1, 1)) for v in values]
    out = np.zeros(grid.shape, np.uint8)
    if not values:
        return Volume(out, grid, name)
    any_label = np.sum(shares, axis=0) >= 0.5
    out[any_label] = np.asarray(values, np.uint8)[np.argmax(shares, axis=0)][any_label]
    return Volume(out, grid, name)


def _record(gland: Gland, habitus: Habitus, scanner: Scanner) -> dict[str, Any]:
    return {
        "t2w": {
            "tr_ms": scanner.echo.tr_ms,
            "te_ms": scanner.echo.te_ms,
            "noise": scanner.noise,
            "shading": scanner.shading,
            "k_space_kept": scanner.kept,
        },
        "rectum": habitus.rectum_content,
        "gland_tilt_deg": gland.turn_deg[0],
    }
