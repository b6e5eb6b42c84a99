"""One synthetic case: a body, a scanner, and the truth of both; on disk it reads like any case."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.case import Case
from ..core.terms import OnProgress, Sequence
from ..core.volume import Triple, Volume
from ..io import output_folder, write_volume
from .canvas import Box, Canvas, roughen
from .diffusion import DiffusionStudy, draw_protocol, image_diffusion, place_diffusion
from .gland import SIGNIFICANT_GRADE, Lesion, draw_gland, paint_gland, paint_lesions
from .pelvis import draw_habitus, paint_organs, paint_pelvis, paint_skin
from .scanner import TWIN, Placement, box_average, draw_scanner, image_t2w, place_t2w

# Of what a seed gives. It is raised with any change of the voxels, so that phantoms that were kept are made again.
VERSION = "0.1.0"
ZONE_PERIPHERAL, ZONE_TRANSITION = 1, 2
SEQUENCES = tuple(Sequence)
_WARP_MM = 1.7
_STREAMS = ("body", "paint", "lesions", "scanner", "placement", "diffusion")


@dataclass(frozen=True)
class Phantom:
    """A synthetic case and its exact truth.

    Attributes:
        case: T2w, and where asked for hbv and adc, each on its own oblique grid.
        gland: Mask of the prostate on the T2w's grid.
        zones: 1 peripheral zone, 2 transition zone (with central zone and anterior stroma), T2w's grid.
        lesion: ISUP grade group of the cancer in each voxel, else 0; T2w's grid.
        lesions: The same as a list.
        seed: Makes the same phantom again.
        acquisition: What body and scanner were drawn, for the record.
        diffusion: The diffusion scan with its undistorted twin, true ADC and field, where asked for.
        t2w_full_resolution: The T2w with twice the matrix in plane, where asked for.
    """

    case: Case
    gland: Volume
    zones: Volume
    lesion: Volume
    lesions: tuple[Lesion, ...]
    seed: int
    acquisition: dict[str, Any]
    diffusion: DiffusionStudy | None = None
    t2w_full_resolution: Volume | None = None

    @property
    def volume_ml(self) -> float:
        """Volume of the prostate."""
        return self.gland.volume_ml

    @property
    def pirads(self) -> int:
        """PI-RADS class of the worst lesion; 2 where there is none."""
        return max((lesion.pirads for lesion in self.lesions), default=2)

    @property
    def clinically_significant(self) -> bool:
        """Whether any lesion is of ISUP grade group 2 or more."""
        return any(lesion.isup_grade >= SIGNIFICANT_GRADE for lesion in self.lesions)

    @property
    def truths(self) -> dict[str, Volume]:
        """All that is exactly known, by name: labels, undistorted images, true ADC, field, full-resolution twin."""
        known = {"gland": self.gland, "zones": self.zones, "lesion": self.lesion}
        if self.diffusion is not None:
            names = [f.name for f in fields(self.diffusion) if f.name not in SEQUENCES]
            known |= {name: getattr(self.diffusion, name) for name in names}
        if self.t2w_full_resolution is not None:
            known["t2w_full_resolution"] = self.t2w_full_resolution
        return known


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
    phase_axis: int | None = None,
) -> Phantom:
    """Draw a body and image it.

    Args:
        seed: The same seed and options give the same voxels.
        sequences: T2w always is acquired. Diffusion comes whole: hbv and adc together.
        t2w_spacing_mm: Voxel of the T2w (x, y, z); (1, 1, 3) with T2w alone takes a third of the time.
        field_of_view_mm: Edge of the T2w's square field of view.
        full_resolution: Whether to add the twin with twice the matrix, of whose k-space the T2w is the middle.
            With a T2w of (1, 1, 3) this is the pair for super-resolution; finer ones take long.
        lesions: How many cancers.
        noise: Of both scans, against the signal of water.
        field_strength: Factor of the off-resonance that distorts diffusion; 0 for none.
        phase_axis: Index axis (0 x, 1 y) of diffusion's phase encoding. What is None is drawn at random.
    """
    # A source of chance for each stage, so that an option of one leaves the others as they are.
    seeds = np.random.SeedSequence(seed).spawn(len(_STREAMS))
    rng = {stage: np.random.default_rng(own) for stage, own in zip(_STREAMS, seeds, strict=True)}
    gland, habitus, scanner = draw_gland(rng["body"]), draw_habitus(rng["body"]), draw_scanner(rng["scanner"], noise)
    in_plane = TWIN if full_resolution else 1
    placement = place_t2w(gland, t2w_spacing_mm, field_of_view_mm, in_plane, rng["placement"])
    canvas = Canvas(placement.lattice, rng["paint"], warp_mm=_WARP_MM)
    paint_pelvis(canvas, habitus, rng["paint"])  # back to front
    paint_organs(canvas, gland, habitus, rng["paint"])
    paint_skin(canvas, habitus, rng["paint"])
    painted = paint_gland(canvas, gland, rng["paint"])
    found, grades = paint_lesions(canvas, painted, lesions, rng["lesions"])
    roughen(canvas, rng["paint"])
    t2w, twin = image_t2w(canvas, scanner, placement.factors, rng["scanner"])
    volumes = {Sequence.T2W: Volume(t2w, placement.grid, "t2w")}
    record: dict[str, Any] = {"t2w": asdict(scanner), "habitus": asdict(habitus), "gland": asdict(gland)}
    diffusion = None
    if {Sequence(s) for s in sequences} - {Sequence.T2W}:
        protocol = draw_protocol(rng["diffusion"], noise, field_strength)
        protocol = protocol if phase_axis is None else replace(protocol, phase_axis=phase_axis)
        grid = place_diffusion(placement.grid, rng["diffusion"])
        diffusion = image_diffusion(canvas.maps, placement.fine, grid, protocol, rng["diffusion"])
        volumes |= {Sequence.HBV: diffusion.hbv, Sequence.ADC: diffusion.adc}
        record["diffusion"] = asdict(protocol)
    zones = painted.peripheral * np.uint8(ZONE_PERIPHERAL) + painted.transition * np.uint8(ZONE_TRANSITION)
    return Phantom(
        case=Case(f"phantom-{seed:04d}", volumes),
        gland=_labels(placement, painted.box, painted.gland_mm < 0, "gland"),
        zones=_labels(placement, painted.box, zones, "zones"),
        lesion=_labels(placement, painted.box, grades, "lesion"),
        lesions=found,
        seed=seed,
        acquisition=record,
        diffusion=diffusion,
        t2w_full_resolution=Volume(twin, placement.twin, "t2w-full-resolution") if full_resolution else None,
    )


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


RECORD = "phantom.json"


def write_phantom(phantom: Phantom, folder: str | Path) -> Path:
    """Write `t2w`, `hbv`, `adc`, every truth under its own name (`zones.nii.gz`, `adc-true.nii.gz`), `phantom.json`.

    The folder appears whole or not at all; an earlier phantom there is replaced.

    Raises:
        OutputError: `folder` is something else, or cannot be written.
    """
    target = Path(folder)
    record = {
        "case": phantom.case.id,
        "seed": phantom.seed,
        "volume_ml": round(phantom.volume_ml, 2),
        "pirads": phantom.pirads,
        "clinically_significant": phantom.clinically_significant,
        "lesions": [asdict(lesion) | {"pirads": lesion.pirads} for lesion in phantom.lesions],
        "labels": {"zones": {"1": "peripheral-zone", "2": "transition-zone"}, "lesion": "ISUP grade group"},
        "units": {
            "adc": "1e-6 mm2/s",
            "field-map-hz": "Hz",
            "displacement-mm": "mm along the positive phase axis",
        },
        "acquisition": phantom.acquisition,
    }
    images = {str(sequence): volume for sequence, volume in phantom.case.volumes.items()} | phantom.truths
    with output_folder(target, marks=(RECORD,)) as work:
        for name, volume in images.items():
            write_volume(volume, work / f"{name.replace('_', '-')}.nii.gz")
        (work / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return target


def make_phantoms(
    count: int,
    seed: int,
    folder: str | Path,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> list[Path]:
    """Make and write `count` phantoms of consecutive seeds from `seed`, each in a folder of its own below `folder`.

    Args:
        on_progress: Receives what was done and which share of all.
        **options: As for `make_phantom`.

    Raises:
        OutputError: A folder cannot be written.
    """
    written = []
    for index in range(count):
        phantom = make_phantom(seed + index, **options)
        written.append(write_phantom(phantom, Path(folder) / phantom.case.id))
        if on_progress is not None:
            on_progress(f"phantom {index + 1} of {count}", (index + 1) / count)
    return written
