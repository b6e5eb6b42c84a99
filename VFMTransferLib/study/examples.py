"""Example slices of a study: one slice of a case by each arm, as small pictures side by side.

Which case and slice are shown follows from the truth alone: the first case by its name that has what the task is about,
and the slice that holds most of it. So all arms show the same, and none is chosen for looking well.

    examples/<task>/<phantom|real>/input.png, input-adc.png, ...      what a network sees
                                   truth.png                          what it should give
                                   <encoder>-<arm>.png                what it gives
                                   <encoder>-<arm>-difference.png     of images: minus the truth
                                   <encoder>-<arm>-probability.png    of lesions: what candidates are ranked by
                                   <encoder>-<arm>.json               an `Example`

Each arm has a file of its own, so that trainings that end at the same time do not write over each other.

Pictures of real patients enter a study's folder, and with it reports and repositories: pass cases only whose license
lets their images be passed on (CC BY), under their public names, and none whose images are for non-commercial use.
Public marks of zones and lesions often may not be passed on (CC BY-NC), so that those of patients are drawn only when
asked for; the outline of the prostate is always drawn, so give one that may be passed on.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..core.decoding import from_json
from ..core.errors import DatasetError
from ..core.files import write_file
from ..core.result import Result
from ..core.terms import LABEL_TERMS, Label
from ..core.terms import Sequence as MRSequence
from ..core.volume import Geometry, Volume
from ..evaluation.measures import SEQUENCE_TITLES, subject_title
from ..tasks import TASKS, score_case
from ..tasks.base import LabeledCase
from ..tasks.image_to_image import ImageTask, unit_of
from ..tasks.segmentation import labels_of
from .config import REAL, StudyConfig, planned_runs, split_arm
from .workspace import split_of

EXAMPLES = "examples"
FIELD_MM = 80.0
MM_PER_PIXEL = 0.5
GRAYS = 40  # levels of a picture; fewer would show as steps, more would only keep a file's noise
TRUTH, DIFFERENCE, PROBABILITY = "truth.png", "difference", "probability"
TRUE_OUTLINE = "truth"
DIFFERENCE_SHARE = 0.25  # of the gray window, from which on a difference has its full color
_HALF = 0.5
_WINDOW_PERCENTILES = (1.0, 99.5)
_DIGITS = 3
_STEPS = 21
_TRUE_PX, _FOUND_PX = 1, 2

Window = tuple[float, float]
Color = tuple[int, int, int]
Pair = tuple[Result, LabeledCase]

TOO_LOW: Color = (60, 200, 190)
TOO_HIGH: Color = (235, 100, 225)
_TRUE_COLOR: Color = (126, 231, 135)
_LICENSE = "CC BY 3.0; cut to a slice, and shown in a few gray levels"
_COLLECTIONS = {
    "ProstateX-": (
        "SPIE-AAPM PROSTATEx Challenge Data, Litjens et al., The Cancer Imaging Archive 2017, "
        "doi.org/10.7937/K9TCIA.2017.MURS5CL"
    ),
    "Prostate3T-": (
        "Prostate-3T, Litjens et al., The Cancer Imaging Archive 2015, doi.org/10.7937/K9/TCIA.2015.QJTV5IL5"
    ),
}


def attribution(case: str) -> str:
    """What the license of a public case requires beside its pictures; empty of a case that is not known."""
    return next((f"{text}, {_LICENSE}." for start, text in _COLLECTIONS.items() if case.startswith(start)), "")


@dataclass(frozen=True)
class View:
    """One slice around the prostate, as a grid of the truth's own voxels and its number from 1 at the inferior end.

    Columns run to the patient's left, rows to posterior.
    """

    geometry: Geometry
    slice_number: int
    slices: int

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of pictures; their pixels are square, whatever the voxels are."""
        width_mm, height_mm, _ = self.geometry.extent_mm
        return round(width_mm / MM_PER_PIXEL), round(height_mm / MM_PER_PIXEL)

    def voxels(self, volume: Volume, interpolation: str = "linear") -> np.ndarray:
        """A volume's values in the slice (H, W), float32; those of the truth's own grid stay what they are."""
        placed = volume.to_nearest_lps().resample_to(self.geometry, interpolation)
        return placed.array[0].astype(np.float32)

    def grays(self, values: np.ndarray, window: Window) -> np.ndarray:
        """Values (H, W) as numbers of `GRAYS` gray levels, in a picture's pixels."""
        low, high = window
        share = np.clip((values - low) / (high - low), 0, 1)
        return np.rint(np.clip(self._enlarged(share), 0, 1) * (GRAYS - 1)).astype(np.uint8)

    def outline(self, mask: Volume, width_px: int) -> np.ndarray:
        """Border of a mask, inside of it, in a picture's pixels."""
        share = self.voxels(mask.with_array((mask.array > 0).astype(np.float32)))
        inside = self._enlarged(share, Image.Resampling.BILINEAR) > _HALF
        return np.asarray(inside & ~ndimage.binary_erosion(inside, iterations=width_px))

    def _enlarged(self, values: np.ndarray, how: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(values, np.float32))
        return np.asarray(image.resize(self.size_px, how))


def view_of(labeled: LabeledCase) -> View:
    """The slice that holds most of what the task is about: csPCa where it is marked, else the prostate.

    Without either the middle one. Its center is the prostate's, so that it can be made out where a lesion lies.
    """
    base = (next(iter(labeled.images.values()), None) or labeled.case[MRSequence.T2W]).to_nearest_lps().geometry
    gland = _on(labeled.gland, base)
    lesion = _on(labeled.masks.get(Label.CSPCA), base)
    shown = next((mask for mask in (lesion, gland) if mask.any()), None)
    z = len(gland) // 2 if shown is None else int(shown.sum(axis=(1, 2)).argmax())
    around = next((mask[z] for mask in (gland, lesion) if mask[z].any()), np.ones(gland.shape[1:], bool))
    rows, columns = np.nonzero(around)
    x, nx = _cut((columns.min() + columns.max()) / 2, base.size[0], base.spacing_mm[0])
    y, ny = _cut((rows.min() + rows.max()) / 2, base.size[1], base.spacing_mm[1])
    return View(base.crop((x, y, z), (nx, ny, 1)), z + 1, base.size[2])


def window_of(values: np.ndarray) -> Window:
    """Values shown as black and white: nearly all of an image that is not empty lies between them."""
    shown = values[values != 0]
    low, high = (float(v) for v in np.percentile(shown if shown.size else values, _WINDOW_PERCENTILES))
    if not high > low:
        return low, low + 1.0
    digits = _DIGITS - 1 - math.floor(math.log10(high - low))  # so that the numbers below a picture are short
    return round(low, digits) + 0.0, round(high, digits)


def _on(mask: Volume | None, grid: Geometry) -> np.ndarray:
    if mask is None:
        return np.zeros(grid.shape, bool)
    return mask.to_nearest_lps().resample_to(grid, "nearest").array > 0


def _cut(center: float, count: int, spacing_mm: float) -> tuple[int, int]:
    """First index and number of voxels that show `FIELD_MM` around a center, inside of the image."""
    wanted = min(round(FIELD_MM / spacing_mm), count)
    return int(np.clip(round(center - (wanted - 1) / 2), 0, count - wanted)), wanted


@dataclass(frozen=True)
class Picture:
    """One picture in its example's folder, and the values shown as black and white, or at the ends of its colors."""

    file: str
    title: str
    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class Example:
    """What one arm yields for one case, in one slice; all arms of a task show the same one.

    Attributes:
        encoder, task, arm, data: As in the study's tables.
        slice_number: Counted from 1 at the inferior end.
        mm_per_pixel: Of all its pictures, in both directions.
        scores: Measure → this arm's value on this case.
        truth, picture: What it should give, and what it gives; None of a classification.
        difference: `picture` minus `truth`, of images.
        probability: Of lesions, white where it is highest in the whole case, since thresholds often find nothing.
        outlines: What is outlined → its color, of segmentations.
        classes, true_class: Class → probability, and the case's own, of a classification.
        attribution: Whom to name beside its pictures, of a public case.
    """

    encoder: str
    task: str
    arm: str
    data: str
    case: str
    slice_number: int
    slices: int
    mm_per_pixel: float
    scores: dict[str, float]
    inputs: tuple[Picture, ...]
    truth: Picture | None = None
    picture: Picture | None = None
    difference: Picture | None = None
    probability: Picture | None = None
    outlines: dict[str, Color] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    true_class: str | None = None
    attribution: str = ""

    @property
    def name(self) -> str:
        """Stem of the arm's own files."""
        return f"{self.encoder}-{self.arm}"

    @property
    def pictures(self) -> tuple[Picture, ...]:
        shown = (*self.inputs, self.truth, self.picture, self.difference, self.probability)
        return tuple(picture for picture in shown if picture is not None)

    def folder(self, study: Path) -> Path:
        """Where its files lie, below the study's folder."""
        return study / EXAMPLES / self.task / self.data


def read_examples(study: Path) -> tuple[Example, ...]:
    """All examples of a study, by task, data, encoder and arm.

    Raises:
        DatasetError: A file is damaged, or a picture does not lie beside its example.
    """
    found = []
    for path in sorted((study / EXAMPLES).glob("*/*/*.json")):
        try:
            example: Example = from_json(Example, json.loads(path.read_text(encoding="utf-8")), path.stem)
        except (ValueError, UnicodeDecodeError) as error:
            raise DatasetError(f"Example '{path.name}' cannot be understood: {error}") from error
        for picture in example.pictures:
            place = path.parent / picture.file
            if not place.is_file() or place.resolve().parent != path.parent.resolve():  # nor a link to elsewhere
                raise DatasetError(f"Example '{path.name}' needs the picture '{picture.file}' beside it.")
        found.append(example)
    return tuple(found)


def planned_examples(examples: Iterable[Example], config: StudyConfig) -> tuple[Example, ...]:
    """Those of arms and cases that a configuration names; of real cases those that may be shown."""

    def arm_of(task: str, encoder: str, arm: str) -> tuple[str, str, str]:
        return task, "" if arm == "trivial" else encoder, arm  # a task's naive baseline may have had another name

    runs = (run for run in planned_runs(config) if run.task and not run.labelled_cases)
    arms = {arm_of(run.task, run.label, split_arm(run.arm)[0]) for run in runs}
    cases = {
        task: {*split_of(config.groups_of(task)).test, *set(config.real_of(task)).intersection(config.shown)}
        for task in config.tasks
    }
    return tuple(
        one for one in examples if arm_of(one.task, one.encoder, one.arm) in arms and one.case in cases[one.task]
    )


def write_examples(
    folder: Path, encoder: str, arm: str, pairs: Iterable[Pair], *, patients_marks: bool = False
) -> tuple[Example, ...]:
    """Write one slice of a phantom and one of a real case, as far as the pairs hold them.

    What is written again is replaced. All pairs are of one task; they may come one by one, and only those that are
    shown are kept.

    Args:
        pairs: The arm's result for each test case, and its truth.
        patients_marks: Draw the true zones and lesions of real cases too: whoever marked them lets that be passed on.

    Raises:
        OutputError: The folder cannot be written.
        ValueError: A result is not of its case and task.
    """
    chosen: dict[bool, Pair] = {}
    for result, labeled in pairs:
        best = chosen.get(labeled.is_phantom)
        if best is None or _order(labeled) < _order(best[1]):
            chosen[labeled.is_phantom] = (result, labeled)
    shown = [chosen[is_phantom] for is_phantom in (True, False) if is_phantom in chosen]
    return tuple(_write(folder, encoder, arm, *pair, patients_marks) for pair in shown)


def _order(labeled: LabeledCase) -> tuple[bool, str]:
    """Cases with csPCa first, where that is what their task is about."""
    has_finding = bool(labeled.is_significant) or labeled.category in ("PI-RADS 4", "PI-RADS 5")
    return not has_finding, labeled.case.id


def _write(folder: Path, encoder: str, arm: str, result: Result, labeled: LabeledCase, patients_marks: bool) -> Example:
    view, pictures = view_of(labeled), dict[str, bytes]()
    example = Example(
        encoder,
        str(labeled.task),
        arm,
        "phantom" if labeled.is_phantom else REAL,
        labeled.case.id,
        view.slice_number,
        view.slices,
        MM_PER_PIXEL,
        dict(score_case(result, labeled).values),
        _inputs(labeled, view, pictures),
        attribution="" if labeled.is_phantom else attribution(labeled.case.id),
    )
    if result.class_probabilities:
        truth = labeled.category or (str(Label.CSPCA) if labeled.is_significant else f"no {Label.CSPCA}")
        example = replace(example, classes=dict(result.class_probabilities), true_class=truth)
    elif result.images:
        example = _restored(example, result, labeled, view, pictures)
    else:
        if not (labeled.is_phantom or patients_marks):
            gland: dict[Label, Volume] = {k: mask for k, mask in labeled.masks.items() if k is Label.PROSTATE}
            labeled = replace(labeled, masks=gland)
        example = _outlined(example, result, labeled, view, pictures)
    for name, png in pictures.items():
        write_file(example.folder(folder) / name, png)
    text = json.dumps(asdict(example), indent=1, ensure_ascii=False, allow_nan=False)
    write_file(example.folder(folder) / f"{example.name}.json", text + "\n")
    return example


def _inputs(labeled: LabeledCase, view: View, pictures: dict[str, bytes]) -> tuple[Picture, ...]:
    """What the network sees, the task's own sequence first; a T2w to be doubled in the voxels that it has."""
    first = TASKS[labeled.task].reference
    how = "nearest" if TASKS[labeled.task].works_within_slices else "linear"
    found = []
    for sequence in sorted(labeled.case.sequences, key=lambda s: s != first):
        file = "input.png" if sequence == first else f"input-{sequence}.png"
        values = view.voxels(labeled.case[sequence], how)
        window = window_of(values)
        pictures[file] = _gray_png(view, values, window)
        found.append(Picture(file, f"Input: {SEQUENCE_TITLES[sequence]}", *window, unit_of(str(sequence))))
    return tuple(found)


def _outlined(
    example: Example, result: Result, labeled: LabeledCase, view: View, pictures: dict[str, bytes]
) -> Example:
    """The T2w with the truth's outlines, and with the result's over the truth's."""
    values = view.voxels(labeled.case[MRSequence.T2W])
    window, own = window_of(values), f"{example.name}.png"
    labels, truth = labels_of(result), {str(label): mask for label, mask in labeled.masks.items()}
    found = {name: labels.with_array(labels.array == value) for name, value in result.label_values.items() if value}
    whole = truth.get(Label.PROSTATE) or truth.get(Label.CSPCA)
    if len(truth) > 1:
        truth.pop(Label.PROSTATE, None)  # its zones show where it is
    if truth:
        pictures[TRUTH] = _outlines_png(view, values, window, truth)
    shown = found if whole is None else {TRUE_OUTLINE: whole, **found}
    pictures[own] = _outlines_png(view, values, window, shown)
    unit = unit_of(str(MRSequence.T2W))
    if TASKS[labeled.task].finds_lesions:
        example = _with_probability(example, result, view, {} if whole is None else {TRUE_OUTLINE: whole}, pictures)
    return replace(
        example,
        truth=Picture(TRUTH, "Truth", *window, unit) if truth else None,
        picture=Picture(own, "Result", *window, unit),
        outlines={name: _color(name) for name in {**truth, **shown}},
    )


def _with_probability(
    example: Example, result: Result, view: View, truth: Mapping[str, Volume], pictures: dict[str, bytes]
) -> Example:
    """The probability of a lesion with the truth's outline, up to the highest of the case, wherever that lies."""
    probability = result.probabilities[Label.CSPCA]
    window, file = (0.0, float(probability.array.max())), f"{example.name}-{PROBABILITY}.png"
    if window[1] <= 0:  # a baseline that marks nothing
        return example
    pictures[file] = _outlines_png(view, view.voxels(probability), window, truth)
    return replace(example, probability=Picture(file, f"Probability of {Label.CSPCA}", *window, ""))


def _restored(
    example: Example, result: Result, labeled: LabeledCase, view: View, pictures: dict[str, bytes]
) -> Example:
    """The first of the images, in the window of the truth, and its difference from that."""
    output, true_image = next(iter(labeled.images.items()))
    truth, found = view.voxels(true_image), view.voxels(result.images[output])
    window = window_of(truth)
    limit = DIFFERENCE_SHARE * (window[1] - window[0])
    error = found - truth
    task = TASKS[labeled.task]
    assert isinstance(task, ImageTask)
    measured = task.measured_region(true_image.to_nearest_lps().resample_to(view.geometry))[0]
    error[~measured] = 0  # where nothing was measured, nothing is wrong
    own, other = f"{example.name}.png", f"{example.name}-{DIFFERENCE}.png"
    pictures[TRUTH] = _gray_png(view, truth, window)
    pictures[own] = _gray_png(view, found, window)
    scaled = view.grays(np.clip(error / limit, -1, 1), (-1.0, 1.0)).astype(np.float32) / (GRAYS - 1)
    shares = np.linspace(-1, 1, _STEPS)  # from `TOO_LOW` over black to `TOO_HIGH`
    colors = np.rint([np.array(TOO_HIGH if share > 0 else TOO_LOW) * abs(share) for share in shares]).astype(int)
    pictures[other] = _indexed_png(np.rint(scaled * (_STEPS - 1)).astype(np.uint8), colors.tolist())
    title, unit = subject_title(output), unit_of(output)
    return replace(
        example,
        truth=Picture(TRUTH, f"Truth: {SEQUENCE_TITLES[MRSequence(output.split('-')[0])]}", *window, unit),
        picture=Picture(own, title, *window, unit),
        difference=Picture(other, "Result minus truth", -limit, limit, unit),
    )


def _gray_png(view: View, values: np.ndarray, window: Window) -> bytes:
    return _indexed_png(view.grays(values, window), _gray_palette())


def _outlines_png(view: View, values: np.ndarray, window: Window, masks: Mapping[str, Volume]) -> bytes:
    codes, palette = view.grays(values, window), _gray_palette()
    for name, mask in masks.items():
        codes[view.outline(mask, _TRUE_PX if name == TRUE_OUTLINE else _FOUND_PX)] = len(palette)
        palette.append(_color(name))
    return _indexed_png(codes, palette)


def _indexed_png(codes: np.ndarray, palette: Iterable[Color]) -> bytes:
    """A PNG of the number of each pixel's color (H, W), uint8, as small as that makes it."""
    image = Image.fromarray(codes)
    image.putpalette([part for color in palette for part in color])
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _gray_palette() -> list[Color]:
    return [(level,) * 3 for level in np.rint(np.linspace(0, 255, GRAYS)).astype(int).tolist()]


def _color(name: str) -> Color:
    return _TRUE_COLOR if name == TRUE_OUTLINE else LABEL_TERMS[Label(name)].color
