"""One synthetic study: a body, a scanner, and what is true of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..case import Case
from ..terms import Sequence
from ..volume import Triple, Volume
from .acquisition import TWIN, Placement, draw_scanner, image_t2w, place_t2w
from .canvas import Box, Canvas, roughen
from .diffusion import draw_protocol, image_diffusion, place_diffusion
from .gland import Gland, PaintedGland, draw_gland, paint_gland
from .lesions import Lesion, draw_count, paint_lesions
from .organs import paint_organs
from .pelvis import Habitus, draw_habitus, paint_pelvis, paint_skin
from .scanner import box_average

_WARP_MM = 1.7
ZONE_PERIPHERAL, ZONE_TRANSITION = 1, 2
SEQUENCES = tuple(Sequence)


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
    sequences: Iterable[Sequence | str] = SEQUENCES,
    t2w_spacing_mm: Triple = (0.6, 0.6, 3.0),
    field_of_view_mm: float = 192.0,
    full_resolution: bool = False,
    lesions: int | None = None,
    noise: float | None = None,
    field_strength: float = 1.0,
) -> Phantom:
    """Draw a body and image it.

    Args:
        seed: The same seed and options give the same voxels.
        sequences: What to acquire; T2w always is. Diffusion comes whole: hbv and adc together.
        t2w_spacing_mm: Voxel of the T2w (x, y, z); (1, 1, 3) with T2w alone takes a tenth of the time.
        field_of_view_mm: Edge of the T2w's square field of view.
        full_resolution: Whether to add the twin with twice the matrix, of whose k-space the T2w is the middle.
            With a T2w of (1, 1, 3) this is the pair for super-resolution; finer ones take long.
        lesions: How many cancers; at random if None.
        noise: Noise of both scans against the signal of water; at random if None.
        field_strength: Factor of the off-resonance that distorts diffusion; 0 for none.

    Returns:
        The study with its truth.
    """
    wanted = {Sequence(s) for s in sequences}
    diffusion = bool(wanted - {Sequence.T2W})
    body, paint, grow, device, place, scan = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(6))
    gland, habitus, scanner = draw_gland(body), draw_habitus(body), draw_scanner(device, noise)
    placement = place_t2w(gland, t2w_spacing_mm, field_of_view_mm, TWIN if full_resolution else 1, place)
    canvas = Canvas(placement.lattice, paint, warp_mm=_WARP_MM)
    painted = _paint_body(canvas, gland, habitus, paint)
    found, grades = paint_lesions(canvas, painted, draw_count(grow) if lesions is None else lesions, grow)
    roughen(canvas, paint)
    t2w, full = image_t2w(canvas, scanner, placement.factors, device)
    volumes = {Sequence.T2W: Volume(t2w, placement.grid, "t2w")}
    truths = {"t2w_full_resolution": Volume(full, placement.twin, "t2w-full-resolution")} if full_resolution else {}
    record: dict[str, Any] = {"t2w": asdict(scanner), "habitus": asdict(habitus), "gland": asdict(gland)}
    if diffusion:
        protocol = draw_protocol(scan, noise, field_strength)
        grid = place_diffusion(placement.grid, scan)
        scanned = vars(image_diffusion(canvas.maps, placement.fine, grid, protocol, scan))
        volumes |= {s: scanned[s] for s in (Sequence.HBV, Sequence.ADC)}
        truths |= {name: volume for name, volume in scanned.items() if name not in volumes}
        record["diffusion"] = asdict(protocol)
    marks = {"gland": painted.gland_mm < 0, "zones": _zones(painted), "lesion": grades}
    labels = {name: _labels(placement, painted.box, mark, name) for name, mark in marks.items()}
    return Phantom(
        Case(f"phantom-{seed:04d}", volumes), **labels, lesions=found, seed=seed, acquisition=record, truths=truths
    )


def _paint_body(canvas: Canvas, gland: Gland, habitus: Habitus, rng: np.random.Generator) -> PaintedGland:
    """All of the body, back to front, but for lesions."""
    paint_pelvis(canvas, habitus, rng)
    paint_organs(canvas, gland, habitus, rng)
    paint_skin(canvas, habitus, rng)
    return paint_gland(canvas, gland, rng)


def _zones(painted: PaintedGland) -> np.ndarray:
    return painted.peripheral * np.uint8(ZONE_PERIPHERAL) + painted.transition * np.uint8(ZONE_TRANSITION)


def _labels(placement: Placement, box: Box, labels: np.ndarray, name: str) -> Volume:
    """Labels of the gland's box on the T2w's grid: in each voxel the label of most of its points."""
    full = np.zeros(placement.lattice.shape, np.uint8)
    full[box] = labels
    out = np.zeros(placement.grid.shape, np.uint8)
    values = [int(v) for v in np.unique(labels) if v]
    if values:
        shares = np.stack([box_average((full == v).astype(np.float32), placement.factors) for v in values])
        mostly = shares.sum(axis=0) >= 0.5
        out[mostly] = np.asarray(values, np.uint8)[shares.argmax(axis=0)][mostly]
    return Volume(out, placement.grid, name)
