"""Synthetic cases: a body, a scanner, and the truth of both; as a folder that reads like any case, and in a store."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.case import Case
from ..core.decoding import to_json
from ..core.errors import DatasetError
from ..core.files import atomic_file, require_folder_above, writing
from ..core.terms import SIGNIFICANT_GRADE, Label, OnProgress, Sequence, phantom_name
from ..core.volume import Geometry, Triple, Volume
from ..io import output_folder, write_volume
from .artifacts import Artifacts
from .canvas import Canvas
from .conditions import Conditions, PhantomRange
from .gland import Lesion, draw_gland, paint_gland, paint_hemorrhage, paint_lesions
from .pelvis import draw_habitus, paint_implants, paint_organs, paint_pelvis, paint_skin, paint_surroundings
from .scanner import (
    TWIN,
    DiffusionStudy,
    box_average,
    draw_protocol,
    draw_scanner,
    image_diffusion,
    image_t2w,
    place_diffusion,
    place_t2w,
)
from .tissues import DARK_BLOOD

# Of what a seed gives. It is raised with any change of the voxels, so that phantoms that were kept are made again.
VERSION = "0.3.0"
ZONE_PERIPHERAL, ZONE_TRANSITION = 1, 2
SEQUENCES = tuple(Sequence)
_WARP_MM = 1.7
# A stage that is added must come last, so that those before it stay as they are.
_STREAMS = ("body", "paint", "lesions", "scanner", "placement", "diffusion", "conditions", "artifacts", "movement")
_LEFT_RIGHT = 0  # a network cannot detect the axis; see `training.cases`
_SHOWN_DIGITS = 8
_TRUE = "true_"  # before the names of tissue maps, so that no file of one is taken for a scan
CAPSULE_LIMIT_MM = 10.0  # `TissueMaps.capsule_mm` goes no further from the capsule


@dataclass(frozen=True)
class TissueMaps:
    """What a phantom's images are made of: the mean of each parameter over each voxel of the T2w's grid.

    Attributes:
        pd: Proton density relative to water.
        adc: Of the tissue itself, 1e-6 mm²/s, whatever a scan would show of it.
        capsule_mm: Signed distance to the prostate's capsule, negative inside, at most `CAPSULE_LIMIT_MM` either way.
    """

    pd: Volume
    t1_ms: Volume
    t2_ms: Volume
    adc: Volume
    capsule_mm: Volume


@dataclass(frozen=True)
class Phantom:
    """A synthetic case and its truth.

    Attributes:
        case: T2w, and where asked for hbv and adc, each on its own oblique grid.
        gland: Mask of the prostate on the T2w's grid.
        zones: 1 peripheral zone, 2 transition zone (with central zone and anterior stroma), T2w's grid.
        lesion: ISUP grade group of the cancer in each voxel, else 0; T2w's grid.
        acquisition: What body and scanner were drawn, for the record.
        t2w_full_resolution: The T2w with twice the matrix in plane.
        tissues: What the images were made of, where it was asked for.
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
    tissues: TissueMaps | None = None

    @property
    def volume_ml(self) -> float:
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
    def images(self) -> dict[str, Volume]:
        """The sequences and all truths, by name."""
        return {str(sequence): volume for sequence, volume in self.case.volumes.items()} | self.truths

    @property
    def truths(self) -> dict[str, Volume]:
        """All that is known, by name: labels, undistorted images, true ADC, field, twin, tissue maps."""
        known = {"gland": self.gland, "zones": self.zones, "lesion": self.lesion}
        if self.diffusion is not None:
            names = [f.name for f in fields(self.diffusion) if f.name not in SEQUENCES]
            known |= {name: getattr(self.diffusion, name) for name in names}
        if self.t2w_full_resolution is not None:
            known["t2w_full_resolution"] = self.t2w_full_resolution
        if self.tissues is not None:
            known |= {f"{_TRUE}{f.name}": getattr(self.tissues, f.name) for f in fields(self.tissues)}
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
    tissue_maps: bool = False,
    conditions: Conditions | PhantomRange | None = None,
) -> Phantom:
    """Draw a body and image it.

    Args:
        seed: The same seed and options give the same voxels; options that are None are drawn at random. With another
            `t2w_spacing_mm`, `field_of_view_mm` or `full_resolution` a seed is another patient.
        sequences: T2w always is acquired. Diffusion comes whole: hbv and adc together.
        t2w_spacing_mm: Voxel of the T2w (x, y, z); (1, 1, 3) with T2w alone takes a third of the time.
        field_of_view_mm: Edge of the T2w's square field of view.
        full_resolution: Whether to add the twin with twice the matrix, of whose k-space the T2w is the middle.
            With a T2w of (1, 1, 3) this is the pair for super-resolution; finer ones take long.
        noise: Of both scans, against the signal of water.
        field_strength: Factor of the off-resonance that distorts diffusion; 0 for none.
        phase_axis: Index axis (0 x, 1 y) of diffusion's phase encoding.
        tissue_maps: Whether to add what the images are made of.
        conditions: How body, coil and scanner deviate from the default, or a range of which the seed draws them.
    """
    # A source of chance for each stage, so that an option of one leaves the others as they are. Options that change the
    # lattice do not: what is painted, and where lesions lie, is drawn by its points.
    seeds = np.random.SeedSequence(seed).spawn(len(_STREAMS))
    rng = {stage: np.random.default_rng(own) for stage, own in zip(_STREAMS, seeds, strict=True)}
    if isinstance(conditions, PhantomRange):
        conditions = conditions.draw(rng["conditions"])
    own = conditions or Conditions()
    gland, habitus = draw_gland(rng["body"], own.gland_ml), draw_habitus(rng["body"])
    gland, habitus = own.body(gland, habitus, rng["artifacts"])
    scanner, vendor = own.scanner(draw_scanner(rng["scanner"], noise), rng["artifacts"])
    in_plane = TWIN if full_resolution else 1
    view_mm = own.view_mm(field_of_view_mm, gland)
    # Diffusion shows more than a narrow T2w, which is cut in the end.
    grid, lattice, factors = place_t2w(
        gland, own.spacing_mm(t2w_spacing_mm), max(view_mm, field_of_view_mm), in_plane, rng["placement"]
    )
    canvas = Canvas(lattice, rng["paint"], warp_mm=_WARP_MM)
    if own.surroundings:
        canvas.stand_ins.update(DARK_BLOOD)
    paint_pelvis(canvas, habitus, rng["paint"])  # back to front
    rectum = paint_organs(canvas, gland, habitus, rng["paint"])
    if own.surroundings:
        paint_surroundings(canvas, gland, rng["artifacts"])
    paint_implants(canvas, habitus, own.hip_implants)
    paint_skin(canvas, habitus, rng["paint"])
    painted = paint_gland(canvas, gland, rng["paint"])
    paint_hemorrhage(canvas, painted, own.hemorrhage, rng["artifacts"])
    drawn = paint_lesions(canvas, painted, lesions, rng["lesions"], own.lesion_mm, own.lesions_in_transition)
    canvas.roughen(rng["paint"])
    artifacts = None
    if conditions is not None:
        artifacts = Artifacts(conditions, lattice, rng["artifacts"], rectum, habitus, vendor)
        artifacts.set_field(canvas)
    t2w, twin = image_t2w(canvas, scanner, factors, rng["scanner"], artifacts)
    volumes = {Sequence.T2W: Volume(t2w, grid, "t2w")}
    record: dict[str, Any] = {"t2w": asdict(scanner), "habitus": asdict(habitus), "gland": asdict(gland)}
    if conditions is not None:
        record["conditions"] = asdict(conditions)
    diffusion = None
    if {Sequence(s) for s in sequences} - {Sequence.T2W}:
        protocol = draw_protocol(rng["diffusion"], noise, field_strength)
        protocol = protocol if phase_axis is None else replace(protocol, phase_axis=phase_axis)
        protocol = own.echo_planar(protocol)
        place = place_diffusion(grid, rng["diffusion"])
        moved = own.moved(grid, rng["movement"])  # the patient, and the lattice with it
        fine = moved.refined(factors[::-1])
        diffusion = image_diffusion(canvas.maps, fine, place, protocol, rng["diffusion"], artifacts)
        volumes |= {Sequence.HBV: diffusion.hbv, Sequence.ADC: diffusion.adc}
        record["diffusion"] = asdict(protocol)

    def mean_mm(distance_mm: np.ndarray) -> np.ndarray:
        """The mean signed distance over each voxel of the T2w's grid; below 0 where most of the voxel lies inside."""
        far = np.full(lattice.shape, CAPSULE_LIMIT_MM, np.float32)
        far[painted.box] = np.clip(distance_mm, -CAPSULE_LIMIT_MM, CAPSULE_LIMIT_MM)
        return box_average(far, factors)

    capsule_mm = mean_mm(painted.gland_mm)
    gland_mask = (capsule_mm < 0).astype(np.uint8)
    in_transition = mean_mm(painted.transition_mm) < 0
    zones = gland_mask * np.where(in_transition, ZONE_TRANSITION, ZONE_PERIPHERAL).astype(np.uint8)
    grades = np.zeros(grid.shape, np.uint8)
    for lesion, distance_mm in drawn:
        grades[(mean_mm(distance_mm) < 0) & (grades == 0)] = lesion.isup_grade

    tissues = None
    if tissue_maps:
        names = [f.name for f in fields(TissueMaps)]
        coarse = (*(box_average(fine, factors) for fine in canvas.maps[:4]), capsule_mm)
        tissues = TissueMaps(**{name: Volume(a, grid, name) for name, a in zip(names, coarse, strict=True)})

    phantom = Phantom(
        case=Case(phantom_name(seed), volumes),
        gland=Volume(gland_mask, grid, "gland"),
        zones=Volume(zones, grid, "zones"),
        lesion=Volume(grades, grid, "lesion"),
        lesions=tuple(lesion for lesion, _ in drawn),
        seed=seed,
        acquisition=record,
        diffusion=diffusion,
        t2w_full_resolution=Volume(twin, grid.refined((*factors[:0:-1], 1)), "t2w-full-resolution")
        if full_resolution
        else None,
        tissues=tissues,
    )
    return _narrowed(phantom, view_mm) if view_mm < field_of_view_mm else phantom


def _narrowed(phantom: Phantom, view_mm: float) -> Phantom:
    """The phantom with all that lies on the T2w's grid cut in plane to a square around the gland."""
    grid = phantom.gland.geometry
    start, size = [0, 0, 0], list(grid.size)
    for axis in (0, 1):
        others = tuple(other for other in range(3) if other != 2 - axis)
        there = np.flatnonzero(phantom.gland.array.any(axis=others))
        size[axis] = min(max(round(view_mm / grid.spacing_mm[axis]), int(np.ptp(there)) + 3), grid.size[axis])
        middle = (int(there[0]) + int(there[-1]) + 1) // 2
        start[axis] = int(np.clip(middle - size[axis] // 2, 0, grid.size[axis] - size[axis]))

    def cut(volume: Volume) -> Volume:
        first, count = (
            tuple(n * f for n, f in zip(part, np.floor_divide(volume.geometry.size, grid.size).tolist(), strict=True))
            for part in (start, size)
        )
        box = tuple(slice(f, f + c) for f, c in zip(first[::-1], count[::-1], strict=True))
        inner = volume.geometry.crop(first, count)  # type: ignore[arg-type]
        return Volume(np.ascontiguousarray(volume.array[box]), inner, volume.name)

    twin, maps = phantom.t2w_full_resolution, phantom.tissues
    return replace(
        phantom,
        case=replace(
            phantom.case, volumes={**phantom.case.volumes, Sequence.T2W: cut(phantom.case.volumes[Sequence.T2W])}
        ),
        gland=cut(phantom.gland),
        zones=cut(phantom.zones),
        lesion=cut(phantom.lesion),
        t2w_full_resolution=None if twin is None else cut(twin),
        tissues=None
        if maps is None
        else TissueMaps(**{f.name: cut(getattr(maps, f.name)) for f in fields(TissueMaps)}),
    )


RECORD = "phantom.json"


def write_phantom(phantom: Phantom, folder: str | Path) -> Path:
    """Write `t2w`, `hbv`, `adc`, every truth under its own name (`zones.nii.gz`, `adc-true.nii.gz`), `phantom.json`.

    The folder appears whole or not at all; an earlier phantom there is replaced, anything else raises OutputError.
    """
    target = Path(folder)
    record: dict[str, Any] = {
        "case": phantom.case.id,
        "seed": phantom.seed,
        "version": VERSION,
        "volume_ml": round(phantom.volume_ml, 2),
        "pirads": phantom.pirads,
        "clinically_significant": phantom.clinically_significant,
        "lesions": [asdict(lesion) | {"pirads": lesion.pirads} for lesion in phantom.lesions],
        "labels": {"zones": {"1": "peripheral-zone", "2": "transition-zone"}, "lesion": "ISUP grade group"},
        "units": {
            "adc": "1e-6 mm2/s",
            "field-map-hz": "Hz",
            "displacement-mm": "mm along the positive phase axis",
            "true-adc": "1e-6 mm2/s",
            "true-pd": "relative to water",
        },
        "acquisition": phantom.acquisition,
        "files": [f"{name.replace('_', '-')}.nii.gz" for name in phantom.images],
    }
    with output_folder(target, marks=(RECORD,)) as work:
        for file, volume in zip(record["files"], phantom.images.values(), strict=True):
            write_volume(volume, work / file)
        (work / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return target


def make_phantoms(
    count: int, seed: int, folder: str | Path, on_progress: OnProgress | None = None, **options: Any
) -> list[Path]:
    """Make and write `count` phantoms of consecutive seeds from `seed`, each in a folder of its own below `folder`.

    The options are those of `make_phantom`. Raises OutputError where a folder cannot be written.
    """
    written = []
    require_folder_above(Path(folder) / "phantom")  # before minutes of work
    for index in range(count):
        phantom = make_phantom(seed + index, **options)
        written.append(write_phantom(phantom, Path(folder) / phantom.case.id))
        if on_progress is not None:
            on_progress(f"phantom {index + 1} of {count}", (index + 1) / count)
    return written


@dataclass(frozen=True)
class Phantoms:
    """Phantoms of consecutive seeds."""

    first_seed: int
    count: int

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.count)


@dataclass(frozen=True)
class PhantomGroups:
    """Which phantoms train, choose the best step, and are measured; a phantom is a patient."""

    train: Phantoms
    validation: Phantoms
    test: Phantoms
    full_resolution: bool = False


@dataclass(frozen=True)
class PhantomSplit:
    """The phantoms of all tasks that have none of their own, with the voxel of their T2w (x, y, z).

    `conditions` is the range of bodies, coils and scanners; without it all are the default ones.
    """

    spacing_mm: Triple
    train: Phantoms
    validation: Phantoms
    test: Phantoms
    full_resolution: bool = True
    conditions: PhantomRange | None = None

    @property
    def groups(self) -> PhantomGroups:
        """The same without the voxel."""
        return PhantomGroups(self.train, self.validation, self.test, self.full_resolution)


@dataclass(frozen=True)
class PhantomStore:
    """Phantoms on disk.

    Attributes:
        folder: May be shared by many processes.
        for_tasks: Whether phase encoding runs from left to right, as the tasks need; those to pretrain on do without.
        full_resolution: Whether they have the twin that super-resolution needs; it is most of their cost.
        tissue_maps: Whether they have the maps that their images were made of.
    """

    folder: Path
    spacing_mm: Triple
    for_tasks: bool = True
    full_resolution: bool = True
    tissue_maps: bool = False
    conditions: PhantomRange | None = None

    def phantoms(self, seeds: Iterable[int], on_progress: OnProgress | None = None) -> list[Phantom]:
        """The phantoms of some seeds; what is missing is made. DatasetError of a damaged file, OutputError."""
        wanted = list(seeds)
        self.make_missing(wanted, on_progress)
        return [read_phantom(self._path(seed)) for seed in wanted]

    def make_missing(self, seeds: Iterable[int], on_progress: OnProgress | None = None) -> None:
        """Make and write what is not on disk yet, in each process's own order, so that few phantoms are made twice."""
        missing = [seed for seed in seeds if not self._path(seed).is_file()]
        random.Random(os.getpid()).shuffle(missing)
        for done, seed in enumerate(missing):
            if not self._path(seed).is_file():  # another worker may have made it meanwhile
                store_phantom(make_phantom(seed, **self._options), self._path(seed))
            if on_progress is not None:
                on_progress(f"phantoms, {done + 1} of {len(missing)} made", 0.0)

    @property
    def _options(self) -> dict[str, Any]:
        twin = {"full_resolution": True} if self.full_resolution else {}
        axis = {"phase_axis": _LEFT_RIGHT} if self.for_tasks else {}
        maps = {"tissue_maps": True} if self.tissue_maps else {}
        variety = {"conditions": self.conditions} if self.conditions else {}
        return {"t2w_spacing_mm": self.spacing_mm, **twin, **axis, **maps, **variety}

    def name_of(self, seed: int) -> str:
        """The name of a phantom's file, which changes with anything that decides the phantom."""
        return self._path(seed).name

    def _path(self, seed: int) -> Path:
        options = json.dumps(to_json({**self._options, "version": VERSION}), sort_keys=True, separators=(",", ":"))
        short = hashlib.sha256(options.encode()).hexdigest()[:_SHOWN_DIGITS]
        return self.folder / f"phantom-{seed:06d}-{short}.npz"


def store_phantom(phantom: Phantom, path: Path) -> None:
    """Write all voxels as they are and the rest as JSON into one file, whole or not at all; OutputError."""
    record = {
        "id": phantom.case.id,
        "seed": phantom.seed,
        "acquisition": phantom.acquisition,
        "lesions": [asdict(lesion) for lesion in phantom.lesions],
        "volumes": {name: {"name": volume.name, **asdict(volume.geometry)} for name, volume in phantom.images.items()},
    }
    arrays = {name: volume.array for name, volume in phantom.images.items()}
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part, part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays, record=text)


def _tissues_in(volumes: Mapping[str, Volume]) -> TissueMaps | None:
    found = {f.name: volumes.get(f"{_TRUE}{f.name}") for f in fields(TissueMaps)}
    return None if None in found.values() else TissueMaps(**found)  # type: ignore[arg-type]


def read_phantom(path: Path) -> Phantom:
    """The phantom that `store_phantom` wrote; DatasetError if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            record = json.loads(stored["record"].tobytes())
            volumes = {}
            for name, own in record["volumes"].items():
                title = own.pop("name")
                grid = Geometry(**{key: tuple(value) for key, value in own.items()})
                volumes[name] = Volume(stored[name], grid, title)
            sequences = {sequence: volumes[sequence] for sequence in Sequence if sequence in volumes}
            diffusion = None
            if "adc_true" in volumes:
                diffusion = DiffusionStudy(**{f.name: volumes[f.name] for f in fields(DiffusionStudy)})
            return Phantom(
                case=Case(record["id"], sequences),
                gland=volumes["gland"],
                zones=volumes["zones"],
                lesion=volumes["lesion"],
                lesions=tuple(Lesion(**{**lesion, "zone": Label(lesion["zone"])}) for lesion in record["lesions"]),
                seed=record["seed"],
                acquisition=record["acquisition"],
                diffusion=diffusion,
                t2w_full_resolution=volumes.get("t2w_full_resolution"),
                tissues=_tissues_in(volumes),
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"Phantom {path.name} must be whole, but cannot be read. Remove it.") from error
