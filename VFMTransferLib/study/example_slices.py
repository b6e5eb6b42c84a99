"""One slice of a case by each arm of a study, as small pictures, to be looked at side by side.

Which case and slice are shown follows from the truth alone: the first case by its name that has what the task is
about, and the slice that holds most of it. So all arms show the same, and none is chosen for looking well.

Pictures of real patients enter a study's folder, and with it reports and repositories: pass cases only whose license
lets their images be passed on (CC BY), under their public names, and none whose images are for non-commercial use.
Public marks of zones and lesions often may not be passed on (CC BY-NC), so that those of patients are drawn only when
asked for; the outline of the prostate is always drawn, so give one that may be passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..result import Result
from ..study_cases import StudyCase
from ..study_scores import score_case
from ..tasks import TASKS
from ..terms import LABEL_TERMS, Label, TaskId
from ..terms import Sequence as MRSequence
from ..volume import Volume
from .example_files import Color, Example, Picture, indexed_png, save_example
from .example_view import GRAYS, MM_PER_PIXEL, View, Window, has_finding, view_of, window_of
from .images import unit_of
from .public_cases import attribution
from .titles import SEQUENCE_TITLES, subject_title

Pair = tuple[Result, StudyCase]

TRUTH, DIFFERENCE = "truth.png", "difference"
TRUE_OUTLINE = "truth"
_TRUE_COLOR: Color = (126, 231, 135)
TOO_LOW: Color = (60, 200, 190)
TOO_HIGH: Color = (235, 100, 225)
DIFFERENCE_SHARE = 0.25
"""Of the gray window, from which on a difference has its full color."""
_STEPS = 21
_TRUE_PX, _FOUND_PX = 1, 2


def write_examples(
    folder: Path, encoder: str, arm: str, pairs: Iterable[Pair], *, patients_marks: bool = False
) -> tuple[Example, ...]:
    """Write one slice of a phantom and one of a real case, as far as the pairs hold them; see the module.

    What is written again is replaced. All pairs are of one task; they may come one by one, and only those that are
    shown are kept.

    Args:
        folder: The study's folder.
        encoder: As in the study's tables.
        arm: As in the study's tables.
        pairs: What the arm says of each test case, and what is true of it.
        patients_marks: Draw the true zones and lesions of real cases too: whoever marked them lets that be passed on.

    Raises:
        OutputError: The folder cannot be written.
        ValueError: A result is not of its case and task.
    """
    chosen: dict[bool, Pair] = {}
    for result, study in pairs:
        best = chosen.get(study.is_phantom)
        if best is None or _order(study) < _order(best[1]):
            chosen[study.is_phantom] = (result, study)
    return tuple(
        _write(folder, encoder, arm, *chosen[is_phantom], patients_marks)
        for is_phantom in (True, False)
        if is_phantom in chosen
    )


def difference_palette() -> tuple[Color, ...]:
    """Colors of a difference from `TOO_LOW` over black to `TOO_HIGH`."""
    shares = np.linspace(-1, 1, _STEPS)
    parts = [np.array(TOO_HIGH if share > 0 else TOO_LOW) * abs(share) for share in shares]
    return tuple((int(r), int(g), int(b)) for r, g, b in np.rint(parts))


def _order(study: StudyCase) -> tuple[bool, str]:
    return (not has_finding(study), study.case.id)


def _write(folder: Path, encoder: str, arm: str, result: Result, study: StudyCase, patients_marks: bool) -> Example:
    view, pictures = view_of(study), dict[str, bytes]()
    example = Example(
        encoder,
        str(study.task),
        arm,
        "phantom" if study.is_phantom else "real",
        study.case.id,
        view.slice_number,
        view.slices,
        MM_PER_PIXEL,
        dict(score_case(result, study).values),
        _inputs(study, view, pictures),
        attribution="" if study.is_phantom else attribution(study.case.id),
    )
    add = {"segmentation": _outlined, "image": _restored, "classification": _classified}
    if TASKS[study.task].output == "segmentation" and not (study.is_phantom or patients_marks):
        study = replace(study, masks={label: mask for label, mask in study.masks.items() if label is Label.PROSTATE})
    example = add[TASKS[study.task].output](example, result, study, view, pictures)
    save_example(example, pictures, folder)
    return example


def _inputs(study: StudyCase, view: View, pictures: dict[str, bytes]) -> tuple[Picture, ...]:
    """What the network sees, the task's own sequence first; a T2w to be doubled in the voxels that it has."""
    first = TASKS[study.task].reference
    how = "nearest" if study.task is TaskId.SUPER_RESOLUTION else "linear"
    found = []
    for sequence in sorted(study.case.sequences, key=lambda s: s != first):
        file = "input.png" if sequence == first else f"input-{sequence}.png"
        values = view.voxels(study.case[sequence], how)
        window = window_of(values)
        pictures[file] = _gray_png(view, values, window)
        found.append(Picture(file, f"Input: {SEQUENCE_TITLES[sequence]}", *window, unit_of(str(sequence))))
    return tuple(found)


def _outlined(example: Example, result: Result, study: StudyCase, view: View, pictures: dict[str, bytes]) -> Example:
    """The T2w with the truth's outlines, and with the result's over the truth's."""
    values = view.voxels(study.case[MRSequence.T2W])
    window, own = window_of(values), f"{example.name}.png"
    found, truth = _masks(result), {str(label): mask for label, mask in study.masks.items()}
    whole = truth.get(Label.PROSTATE) or truth.get(Label.CSPCA)
    if len(truth) > 1:
        truth.pop(Label.PROSTATE, None)  # its zones say where it is
    if truth:
        pictures[TRUTH] = _outlines_png(view, values, window, truth)
    shown = found if whole is None else {TRUE_OUTLINE: whole, **found}
    pictures[own] = _outlines_png(view, values, window, shown)
    unit = unit_of(str(MRSequence.T2W))
    return replace(
        example,
        truth=Picture(TRUTH, "Truth", *window, unit) if truth else None,
        picture=Picture(own, "Result", *window, unit),
        outlines={name: _color(name) for name in {**truth, **shown}},
    )


def _restored(example: Example, result: Result, study: StudyCase, view: View, pictures: dict[str, bytes]) -> Example:
    """The first of the images, in the window of the truth, and its difference from that."""
    output, true_image = next(iter(study.images.items()))
    truth, found = view.voxels(true_image), view.voxels(result.images[output])
    window = window_of(truth)
    limit = DIFFERENCE_SHARE * (window[1] - window[0])
    error = found - truth
    if study.task is TaskId.ADC_TRANSLATION:
        error[truth <= 0] = 0  # where nothing was measured, nothing is wrong
    own, other = f"{example.name}.png", f"{example.name}-{DIFFERENCE}.png"
    pictures[TRUTH] = _gray_png(view, truth, window)
    pictures[own] = _gray_png(view, found, window)
    pictures[other] = _difference_png(view, error, limit)
    title, unit = subject_title(output), unit_of(output)
    return replace(
        example,
        truth=Picture(TRUTH, f"Truth: {SEQUENCE_TITLES[MRSequence(output.split('-')[0])]}", *window, unit),
        picture=Picture(own, title, *window, unit),
        difference=Picture(other, "Result minus truth", -limit, limit, unit),
    )


def _classified(example: Example, result: Result, study: StudyCase, view: View, pictures: dict[str, bytes]) -> Example:
    truth = study.category or (str(Label.CSPCA) if study.is_significant else f"no {Label.CSPCA}")
    return replace(example, classes=dict(result.class_probabilities), true_class=truth)


def _masks(result: Result) -> dict[str, Volume]:
    """Label → what the result marks with it."""
    if result.labels is None:
        raise ValueError("A result of a segmentation must have labels.")
    labels = result.labels
    return {name: labels.with_array(labels.array == value) for name, value in result.label_values.items() if value}


def _gray_png(view: View, values: np.ndarray, window: Window) -> bytes:
    return indexed_png(view.grays(values, window), _gray_palette())


def _outlines_png(view: View, values: np.ndarray, window: Window, masks: Mapping[str, Volume]) -> bytes:
    codes, palette = view.grays(values, window), list(_gray_palette())
    for name, mask in masks.items():
        codes[view.outline(mask, _TRUE_PX if name == TRUE_OUTLINE else _FOUND_PX)] = len(palette)
        palette.append(_color(name))
    return indexed_png(codes, palette)


def _difference_png(view: View, error: np.ndarray, limit: float) -> bytes:
    share = np.clip(error / limit, -1, 1)
    scaled = view.grays(share, (-1.0, 1.0)).astype(np.float32) / (GRAYS - 1)
    return indexed_png(np.rint(scaled * (_STEPS - 1)).astype(np.uint8), difference_palette())


def _gray_palette() -> tuple[Color, ...]:
    return tuple((level,) * 3 for level in np.rint(np.linspace(0, 255, GRAYS)).astype(int).tolist())


def _color(name: str) -> Color:
    return _TRUE_COLOR if name == TRUE_OUTLINE else LABEL_TERMS[Label(name)].color
