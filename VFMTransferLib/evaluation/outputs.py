"""Label maps or output images of two networks, against each other and against a reference, brought to their grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import ndimage

from ..core.case import Case
from ..core.errors import BundleError, GeometryError, ImageError
from ..core.notes import Note
from ..core.result import Result
from ..core.terms import Label
from ..core.volume import Geometry, Volume, share_within
from ..inference.case_measurements import MIN_COVERED
from ..io.plausibility import GLAND_ML, checked_sequence
from ..metrics.agreement import data_range, dice, hausdorff95_mm, mean_difference, volume_difference_ml
from ..radiology.gland import GlandFrame
from ..radiology.lesions import position_title
from ..tasks import TASKS, find_task
from ..tasks.image_to_image import image_errors, sequence_of, unit_of
from ..tasks.lesions import pair_regions
from .measures import Between, Disagreement, Measure, measure

Reference = Volume | Mapping[str, Volume] | str
WHOLE, GLAND = "", "gland"
GLAND_MASK = "The gland mask"
CONSTANT = "the image is constant"
BACKGROUND = 0
MAX_DISAGREEMENTS = 25
_FAR_BETTER = 0.2  # of a mean Dice, where two structures of a reference are exchanged; ours
_LIKE = 0.5  # mean Dice from which a reference is of what A and B mark, whatever its size
_UNLIKE = 0.1  # mean Dice below which it may be another exam's; both ours
PART_NOTE = Note(
    "part",
    "Against the reference, overlap, distance and volume difference are of the part that it covers; the volumes of A "
    "and B are whole.",
)
_KINDS = ("mean_difference", "mae", "psnr_db", "ssim")
_NAMES = {Between.A: "A", Between.B: "B", Between.REFERENCE: "the reference"}


@dataclass(frozen=True)
class Placed:
    """A reference on the grid of the results, where it has values there (D, H, W), bool, and what was done."""

    volume: Volume
    covered: np.ndarray
    notes: tuple[Note, ...] = ()


def place(reference: Volume, geometry: Geometry, interpolation: str, what: str = "The reference") -> Placed:
    """Resample a reference by position where its grid is another: `nearest` for labels, `linear` for images.

    Errors and the first note call it `what`. GeometryError where it does not overlap the grid.
    """
    if reference.geometry.equals(geometry):
        return Placed(reference, np.ones(geometry.shape, bool))
    ones = reference.with_array(np.ones(reference.array.shape, np.uint8))
    covered = ones.resample_to(geometry, "nearest").array != 0
    if not covered.any():
        raise GeometryError(
            f"{what} must overlap the results ({geometry}), but lies elsewhere "
            f"({grid_words(reference.geometry, geometry)}). "
            "Check that it belongs to this case."
        )
    ways = f"from {reference.geometry} to {geometry}"
    if str(reference.geometry) == str(geometry):  # moved or turned by less than the words show
        ways = f"to the results' grid, from one of the same size {_apart_mm(reference.geometry, geometry):.2g} mm away"
    notes = [Note("resampled", f"{what} was resampled by position ({interpolation}) {ways}.")]
    if not covered.all():
        notes.append(
            Note(
                "uncovered",
                f"{1 - covered.mean():.0%} of the grid lies outside the reference and is left out against it.",
            )
        )
    return Placed(reference.resample_to(geometry, interpolation), covered, tuple(notes))


def grid_words(grid: Geometry, other: Geometry) -> str:
    """A grid in words, against another: how far apart they lie where both have the same words."""
    is_alike = str(grid) == str(other)
    return f"of the same size, {_apart_mm(grid, other):.3g} mm away" if is_alike else str(grid)


def _apart_mm(first: Geometry, second: Geometry) -> float:
    """Largest distance of corresponding corners of two grids of one size."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(first.size) - 1)
    return float(np.linalg.norm(first.to_world(corners) - second.to_world(corners), axis=1).max())


def reference_images(
    case: Case, result: Result, reference: Reference | None
) -> tuple[dict[str, Volume], tuple[Note, ...]]:
    """Output → its reference as the caller or the case gives it, in the output's unit, and what had to be decided.

    ImageError where one is a label map, a CT, or in no unit of an ADC where it should be one.
    """
    first = next(iter(result.images))
    if isinstance(reference, Volume):
        references, notes = checked_references({first: reference})
        taken = (Note("reference", f"The reference is taken as that of {first}."),) if len(result.images) > 1 else ()
        return references, taken + notes
    if isinstance(reference, str):
        raise wrong_reference("an image, or images by output name", reference)
    if reference is not None:
        unknown = set(reference) - set(result.images)
        if unknown:
            raise ValueError(f"References must be named as the outputs ({', '.join(result.images)}), got {unknown}.")
        return checked_references(reference)
    measured_by = TASKS[result.task].measured_by
    if measured_by is not None and measured_by in case:
        return {first: case[measured_by]}, (
            Note("reference", f"The case's own measured {measured_by.upper()} is the reference."),
        )
    return {}, ()


def checked_references(references: Mapping[str, Volume]) -> tuple[dict[str, Volume], tuple[Note, ...]]:
    """References by output in the unit of what they are of, and what had to be decided; ImageError as above."""
    checked, notes = {}, []
    for output, volume in references.items():
        checked[output], more = checked_sequence(volume, sequence_of(output), f"reference of {output}")
        notes += [replace(note, text=f"Reference of {output}: {note}") for note in more]
    return checked, tuple(notes)


def regions_of(case: Case, geometry: Geometry) -> tuple[dict[str, np.ndarray], tuple[Note, ...]]:
    """Masks (D, H, W) of where image measures are taken: everywhere, and in the gland where the case has a mask."""
    regions = {WHOLE: np.ones(geometry.shape, bool)}
    if case.gland is None:
        return regions, ()
    placed = place(case.gland.to_nearest_lps(), geometry, "nearest", GLAND_MASK)
    regions[GLAND] = placed.volume.array != 0
    return regions, placed.notes[:1]


def wrong_reference(wanted: str, got: Reference) -> ValueError:
    return ValueError(f"The reference must be {wanted}, got {type(got).__name__}.")


def image_measures(
    output: str,
    between: Between,
    first: Volume,
    second: Volume,
    regions: dict[str, np.ndarray],
    span: float | None = None,
) -> tuple[Measure, ...]:
    """Bias (`first` minus `second`), MAE, PSNR and SSIM of two images on one grid, in each region of `regions_of`.

    `span` is the data range of PSNR and SSIM, of a reference; that of both images together by default.
    """
    found: list[Measure] = []
    unit, note = unit_of(output), "data range: of the reference"
    if span is None:
        both = np.concatenate([image.array[regions[WHOLE]] for image in (first, second)])
        span, note = data_range(both), "data range: of A and B together"
    for region, mask in regions.items():
        subject = f"{output}, {region}" if region else output
        if not mask.any():
            found += [measure(k, subject, between, np.nan, f"the {region} is empty", unit) for k in _KINDS]
            continue
        errors = image_errors(first, second, mask, span)
        psnr, similarity = errors.get("psnr_db", np.nan), errors.get("ssim", np.nan)
        ssim_note = note
        if span <= 0:
            ssim_note = CONSTANT
        elif "ssim" not in errors:
            ssim_note = "the slices are smaller than the window of SSIM"
        elif np.isnan(similarity):
            ssim_note = "the region lies within the border that SSIM leaves out"
        found += [
            measure("mean_difference", subject, between, mean_difference(first.array, second.array, mask), "", unit),
            measure("mae", subject, between, errors["mae"], "", unit),
            measure("psnr_db", subject, between, psnr, note if span > 0 else CONSTANT),
            measure("ssim", subject, between, similarity, ssim_note),
        ]
    return tuple(found)


def slice_of_greatest_difference(a: np.ndarray, b: np.ndarray, gland: np.ndarray | None) -> int:
    """Slice of two images (D, H, W) of the largest summed difference in the gland; the middle one where A equals B."""
    _, height, width = a.shape
    # Without a mask, where a prostate scan has the prostate; at the rim the difference is noise and aliasing.
    middle = np.s_[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    difference = np.abs(a.astype(np.float64) - b)
    per_slice = (difference[middle] if gland is None else difference * gland).sum(axis=(1, 2))
    return int(per_slice.argmax()) if per_slice.any() else len(a) // 2


@dataclass(frozen=True)
class Segments:
    """Label maps (D, H, W), uint8, of A and B whose values mean the same."""

    names: tuple[str, ...]  # shared labels; value i + 1 in the maps stands for `names[i]`
    a: np.ndarray
    b: np.ndarray
    whole: bool  # whether all labels together are the prostate
    values: dict[str, int]  # A's own table name → value, which a reference may use as well
    notes: tuple[Note, ...] = ()  # what was left out

    @property
    def structures(self) -> tuple[str, ...]:
        """What can be measured: the shared labels, and the prostate where they make it up."""
        prostate = (str(Label.PROSTATE),) if self.whole and Label.PROSTATE not in self.names else ()
        return prostate + self.names

    def mask(self, array: np.ndarray, structure: str) -> np.ndarray:
        if self.whole and structure == Label.PROSTATE:
            return array != BACKGROUND
        return array == self.names.index(structure) + 1


def shared_segments(a: Result, b: Result) -> Segments:
    """Put the label maps of two results into one vocabulary; BundleError where the two share no structure."""
    if a.labels is None or b.labels is None:
        raise ValueError("Both results must have a label map.")
    a.labels.require_same_grid(b.labels)
    tables = [{str(n): v for n, v in result.label_values.items() if v != BACKGROUND} for result in (a, b)]
    whole = all(TASKS[result.task].finds_gland and Label.PROSTATE in result.volumes_ml for result in (a, b))
    names, notes = tuple(tables[0]), tuple[Note, ...]()
    if set(tables[0]) != set(tables[1]):
        both = " and ".join(", ".join(table) or "nothing" for table in tables)
        names = (str(Label.PROSTATE),) if whole else tuple(name for name in tables[0] if name in tables[1])
        if not names:
            raise BundleError(f"A and B must share a structure, but they mark {both}. Compare networks of one task.")
        notes = (
            Note("structures", f"A and B mark different structures ({both}); only {', '.join(names)} is compared."),
        )
    maps = []
    for array, table in zip((a.labels.array, b.labels.array), tables, strict=True):
        shared = np.zeros(array.shape, np.uint8)
        if whole and set(names) != set(table):
            shared[array != BACKGROUND] = 1
        else:
            for i, name in enumerate(names, start=1):
                shared[array == table[name]] = i
        maps.append(shared)
    return Segments(names, maps[0], maps[1], whole, tables[0], notes)


def reference_segments(
    reference: np.ndarray, task: str, segments: Segments, label_values: dict[str, int] | None
) -> tuple[dict[str, np.ndarray], tuple[Note, ...]]:
    """Structure → mask of a reference's label map (D, H, W) on the grid of the results, and what had to be decided.

    `label_values` is the caller's table name → value; None to go by the values found, ImageError where these are
    neither a plain mask nor in the results' own table. ValueError where the caller's table names no known structure.
    """
    found = sorted({int(v) for v in np.unique(reference)} - {BACKGROUND})
    whole = {str(Label.PROSTATE): reference != BACKGROUND} if segments.whole else {}
    if label_values is None:
        plain = find_task(task).plain_mask_label
        if plain is not None and plain in segments.names:
            text = f"Every non-zero voxel of the reference (values {found or 'none'}) counts as {plain}."
            if 1 in found:
                text += " In masks that train, 1 is ISUP grade group 1, which is not clinically significant."
            return {str(plain): reference != 0}, (Note("reference", text),)
        name = str(Label.PROSTATE) if segments.whole else segments.names[0]
        if not found:
            return {name: reference != 0}, (Note("reference", "The reference is empty."),)
        in_table = found[0] != 1 and found[0] in segments.values.values()  # 1 alone is how any plain mask is written
        if len(found) == 1 and not in_table and (segments.whole or len(segments.names) == 1):
            masks = {name: reference != 0}
            note = Note("reference", f"The reference has one value and counts as a mask of the {name}.")
            return masks, (note, *_of_another(masks, segments))
        if not set(found) <= set(segments.values.values()):
            table = ", ".join(f"{value} {name}" for name, value in segments.values.items())
            raise ImageError(
                f"The reference must be a mask with one value, or have the values of the results' labels ({table}), "
                f"but has {found}. "
                "Give a mask of one structure, or name its values (`reference_labels` of `compare` in Python)."
            )
        if len(found) == 1:
            (name,) = (name for name, value in segments.values.items() if value == found[0])
            masks = {name: reference != 0}
            note = Note("reference", f"The reference has the value {found[0]} alone, which is taken as {name}.")
            return masks, (note, *_of_another(masks, segments))
        masks = _by_value(reference, segments, segments.values)
        taken = ", ".join(f"{value} {name}" for name, value in segments.values.items())
        return masks | whole, (
            Note("reference", f"The reference's values are taken as {taken}."),
            *_exchanged(masks, segments),
        )
    known = dict.fromkeys((*segments.structures, *segments.values, *map(str, Label)))
    unknown = [name for name in label_values if name not in known]
    if unknown:
        raise ValueError(f"reference_labels must name {', '.join(known)}, but names {', '.join(unknown)}.")
    masks = _by_value(reference, segments, label_values)
    notes = [
        Note("reference", f"The reference's {name} is not compared, since the results do not mark it.")
        for name in label_values
        if name not in masks and not segments.whole and name != Label.BACKGROUND
    ]
    zones = {Label.PERIPHERAL_ZONE, Label.TRANSITION_ZONE}
    names_all = Label.PROSTATE in label_values or zones <= set(label_values)
    if whole and not (names_all and set(found) <= set(label_values.values())):
        notes.append(
            Note("reference", "The reference's prostate is not known, since reference_labels names only a part of it.")
        )
        whole = {}
    return masks | whole, tuple(notes)


def _exchanged(masks: Mapping[str, np.ndarray], segments: Segments) -> Iterator[Note]:
    """A sentence for each two structures of a reference that agree far better with A and B the other way round."""
    for first, second in combinations(masks, 2):
        taken = _agreement(segments, {first: masks[first], second: masks[second]})
        swapped = _agreement(segments, {first: masks[second], second: masks[first]})
        if swapped - taken > _FAR_BETTER:
            yield (
                Note(
                    "reference-swapped",
                    f"the reference's {first} and {second} are probably exchanged: as its values are taken "
                    f"their mean Dice with A and B is {taken:.2f}, exchanged it would be {swapped:.2f}. Exchange the "
                    "two values in the reference, or name them (`reference_labels` of `compare` in Python).",
                    "warning",
                )
            )


def _of_another(masks: Mapping[str, np.ndarray], segments: Segments) -> Iterator[Note]:
    """A sentence on a reference of one structure that agrees far better with another structure of A and B."""
    ((name, mask),) = masks.items()
    agreements = {structure: _agreement(segments, {structure: mask}) for structure in segments.structures}
    best = max(agreements, key=agreements.__getitem__)
    if agreements[best] - agreements.get(name, 0.0) > _FAR_BETTER:
        yield (
            Note(
                "reference-structure",
                f"the reference is probably a mask of the {best}: its mean Dice with that of A and B is "
                f"{agreements[best]:.2f}, and {agreements.get(name, 0.0):.2f} with their {name}, as which it is taken. "
                "Give it the values of the results' labels, or name them (`reference_labels` of `compare` in Python).",
                "warning",
            )
        )


def unlikely_reference(
    reference: Volume, masks: Mapping[str, np.ndarray], segments: Segments, geometry: Geometry
) -> Iterator[Note]:
    """Warnings on a reference that is cut off, or may be of another structure or exam.

    `masks` are its structures on the grid of the results, by name.
    """
    inside = share_within(reference, geometry)
    if inside < MIN_COVERED:
        yield (
            Note(
                "reference-outside",
                f"{1 - inside:.0%} of what the reference marks lies outside of the results' grid and is "
                f"left out: all of it has {reference.volume_ml:.1f} ml. Check that it is of this exam.",
                "warning",
            )
        )
    mask, (low, high) = masks.get(Label.PROSTATE), GLAND_ML
    if mask is None:
        return
    ml = np.count_nonzero(mask) * geometry.voxel_volume_ml
    agreement = _agreement(segments, {str(Label.PROSTATE): mask})
    if not low <= ml <= high and agreement < _LIKE:
        yield (
            Note(
                "reference-volume",
                f"the reference's prostate has {ml:.1f} ml, and prostates have {low:.0f} to {high:.0f} ml; "
                "check that it is one.",
                "warning",
            )
        )
    elif ml and agreement < _UNLIKE and (segments.a.any() or segments.b.any()):
        yield (
            Note(
                "reference-overlap",
                f"the reference's prostate hardly overlaps what A and B mark: its mean Dice with them is "
                f"{agreement:.2f}. Check that it is of this exam.",
                "warning",
            )
        )


def _agreement(segments: Segments, masks: Mapping[str, np.ndarray]) -> float:
    """Mean Dice of both networks with a reference's structures; 0 where both masks are empty."""
    found = [dice(segments.mask(side, name), mask) for side in (segments.a, segments.b) for name, mask in masks.items()]
    return float(np.nan_to_num(found).mean())


def _by_value(reference: np.ndarray, segments: Segments, table: Mapping[str, int]) -> dict[str, np.ndarray]:
    return {name: reference == value for name, value in table.items() if name in segments.names}


def segmentation_measures(
    segments: Segments,
    geometry: Geometry,
    reference: dict[str, np.ndarray],
    covered: np.ndarray,
    lesions: tuple[str, ...] = (),
) -> tuple[Measure, ...]:
    """Volumes and overlap by structure, against the reference inside of what it covers only.

    `lesions` are the structures whose connected regions are counted one by one.
    """
    found: list[Measure] = []
    for structure in segments.structures:
        masks = {Between.A: segments.mask(segments.a, structure), Between.B: segments.mask(segments.b, structure)}
        pairs = {Between.A_B: masks}
        if structure in reference:
            masks[Between.REFERENCE] = reference[structure]
            inside = {who: mask & covered for who, mask in masks.items()}
            pairs |= {Between.A_REFERENCE: inside, Between.B_REFERENCE: inside}
        for who, mask in masks.items():
            found.append(measure("volume_ml", structure, who, int(mask.sum()) * geometry.voxel_volume_ml))
        for between, shown in pairs.items():
            (first, a), (second, b) = ((_NAMES[who], shown[who]) for who in map(Between, between.split("-")))
            empty = [name for name, mask in ((first, a), (second, b)) if not mask.any()]
            why = f"{' and '.join(empty)} {'are' if len(empty) > 1 else 'is'} empty" if empty else ""
            distance_mm = hausdorff95_mm(a, b, geometry.spacing_mm)
            difference_ml = volume_difference_ml(a, b, geometry.voxel_volume_ml)
            found += [
                measure("dice", structure, between, dice(a, b), why if len(empty) > 1 else ""),
                measure("hausdorff95_mm", structure, between, distance_mm, why),
                measure("volume_difference_ml", structure, between, difference_ml),
            ]
        for between, shown in pairs.items() if structure in lesions else ():
            paired = pair_regions(*(shown[who] for who in map(Between, between.split("-"))))
            found += [
                measure("lesions_matched", structure, between, len(paired.pairs)),
                measure("lesions_added", structure, between, paired.first_only),
                measure("lesions_missed", structure, between, paired.second_only),
            ]
    return tuple(found)


def expected_dice(a: Result, b: Result) -> tuple[Measure, ...]:
    """The Dice of the prostate that each network's result is expected to have, where it is known."""
    return tuple(
        measure("expected_dice", Label.PROSTATE, who, one.estimate.dice, f"{one.estimate.text}, ours")
        for who, one in ((Between.A, a), (Between.B, b))
        if one.estimate is not None
    )


def disagreements(
    segments: Segments, geometry: Geometry, frame: GlandFrame | None = None
) -> tuple[tuple[Disagreement, ...], int]:
    """Connected regions where A and B differ, largest first, at most `MAX_DISAGREEMENTS`; and how many there are.

    A region is joined through faces and holds one kind of difference, so that what A marks and B leaves out is never
    one region with the reverse. The frame is of the prostate on the same grid.
    """
    regions_found, count = [], 0
    differing = segments.a != segments.b
    for a_value, b_value in np.unique(np.stack([segments.a[differing], segments.b[differing]]), axis=1).T.tolist():
        regions, more = ndimage.label((segments.a == a_value) & (segments.b == b_value))
        count += more
        sizes = np.bincount(regions.ravel())
        sizes[BACKGROUND] = 0
        largest = np.argsort(-sizes, kind="stable")[:MAX_DISAGREEMENTS]
        boxes = ndimage.find_objects(regions)
        for number in (int(n) for n in largest if sizes[n]):
            box = boxes[number - 1]
            voxels = np.argwhere(regions[box] == number) + [s.start for s in box]
            regions_found.append((a_value, b_value, voxels))
    regions_found.sort(key=lambda region: -len(region[2]))
    names = (str(Label.BACKGROUND), *segments.names)
    found = []
    for index, (a_value, b_value, voxels) in enumerate(regions_found[:MAX_DISAGREEMENTS], start=1):
        slice_index = int(np.bincount(voxels[:, 0]).argmax())
        within = voxels[voxels[:, 0] == slice_index]  # (N, 3) in array order (z, y, x)
        nearest = np.linalg.norm((within - within.mean(axis=0)) * geometry.spacing_mm[::-1], axis=1).argmin()
        x, y, z = (int(v) for v in within[nearest][::-1])
        px, py, pz = (float(v) for v in geometry.to_world((x, y, z)))
        volume_ml = len(voxels) * geometry.voxel_volume_ml
        center = ((px, py, pz), (x, y, z))
        position = "" if frame is None else position_title(voxels, frame)
        found.append(Disagreement(index, names[a_value], names[b_value], volume_ml, *center, slice_index, position))
    return tuple(found), count


def slice_of_most_disagreement(segments: Segments) -> int:
    """Slice with most differing voxels; where A and B agree, the one with most marked voxels; else the middle."""
    for marked in (segments.a != segments.b, segments.a != BACKGROUND):
        per_slice = marked.sum(axis=(1, 2))
        if per_slice.any():
            return int(per_slice.argmax())
    return len(segments.a) // 2
