"""What the page shows, as data: layers of voxels, panels, places where A and B differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..result import Result
from ..study.comparison import Comparison
from ..study.images import sequence_of, unit_of
from ..study.titles import SEQUENCE_TITLES, arm_title, label_title, subject_title, unit_title
from ..terms import Label, Sequence
from ..volume import Volume
from .colors import ARM_A, ARM_B, NEUTRAL, OTHER_LABEL, REFERENCE, label_color
from .display import FIRST_FIELD_MM, Display, display_of
from .encoding import encode_image, encode_labels
from .probability import probability_label, probability_layers

AGREE, FIRST_ONLY, SECOND_ONLY, OTHER = range(4)
_WINDOW_PERCENTILES = (1.0, 99.5)
_DIFFERENCE_PERCENTILE = 99.5


@dataclass(frozen=True)
class Scene:
    """A comparison on the grid that is shown.

    Attributes:
        comparison: What is shown.
        display: The grid.
        images: Layer name → image (D, H, W): sequences, and `a:`, `b:`, `reference:` outputs.
        labels: Layer name → label map (D, H, W), uint8: `a`, `b`, `reference` in `label_names`,
            and `diff-ab`, `diff-ar`, `diff-br` as `AGREE`, `FIRST_ONLY`, `SECOND_ONLY`, `OTHER`.
        label_names: Label that value i + 1 stands for.
        focus_slice: Slice of `display` to start at.
    """

    comparison: Comparison
    display: Display
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    label_names: tuple[str, ...]
    focus_slice: int

    @property
    def kind(self) -> str:
        return self.comparison.task.output


def build_scene(comparison: Comparison) -> Scene:
    """Bring all that is shown onto one grid."""
    volumes = dict(_image_volumes(comparison))
    display = display_of(comparison, len(volumes))
    names = _label_names(comparison)
    center = comparison.geometry.to_world(
        ((comparison.geometry.size[0] - 1) / 2, (comparison.geometry.size[1] - 1) / 2, comparison.focus_slice)
    )
    return Scene(
        comparison,
        display,
        {name: display.image(volume) for name, volume in volumes.items()},
        dict(_label_layers(comparison, display, names)),
        names,
        display.index_of(center)[2],
    )


def scene_document(scene: Scene) -> dict[str, Any]:
    """The scene as JSON takes it, voxels included."""
    geometry = scene.display.geometry
    return {
        "kind": scene.kind,
        "size": geometry.size,
        "spacing": geometry.spacing_mm,
        "affine": geometry.affine.tolist(),
        "focus": scene.focus_slice,
        "center": scene.display.center[:2],
        "field": FIRST_FIELD_MM,
        "layers": {
            **{name: _image_layer(name, array) for name, array in scene.images.items()},
            **{f"labels:{name}": encode_labels(array) for name, array in scene.labels.items()},
            **probability_layers(scene.comparison, scene.display),
        },
        "labels": [
            {"name": name, "title": label_title(name), "color": label_color(name, i)}
            for i, name in enumerate(scene.label_names)
        ],
        "probability": label_title(probability_label(scene.comparison) or ""),
        "outputs": [_output(scene, name) for name in scene.comparison.a.images],
        "colors": {"a": ARM_A, "b": ARM_B, "reference": REFERENCE, "other": OTHER_LABEL, "neutral": NEUTRAL},
        "panels": panels(scene),
        "disagreements": [
            {"index": d.index, "at": scene.display.index_of(d.center_mm)} for d in scene.comparison.disagreements
        ],
        "strip": strip(scene),
    }


def panels(scene: Scene) -> list[dict[str, Any]]:
    """Panels in reading order: T2w, A, B and their comparison first, then the other sequences."""
    found: list[dict[str, Any]] = []
    sequences = shown_sequences(scene.comparison)
    first = sequences[0]
    found.append(_sequence_panel(first))
    if scene.kind != "classification":
        for who in ("a", "b"):
            found.append(
                {
                    "id": who,
                    "role": who,
                    "image": first if scene.kind == "segmentation" else who,
                    "title": who.upper(),
                    "subtitle": arm_title(getattr(scene.comparison, who)),
                }
            )
        found.append({"id": "compare", "role": "compare", "image": first, "title": "Difference", "subtitle": ""})
    found += [_sequence_panel(sequence) for sequence in sequences[1:]]
    if scene.kind == "image" and scene.comparison.reference:
        found.append(
            {"id": "reference", "role": "reference", "image": "reference", "title": "Reference", "subtitle": ""}
        )
    return found


def shown_sequences(comparison: Comparison) -> list[Sequence]:
    """T2w first. For an image task only what its networks see, so that more of the outputs fits on the page."""
    wanted = comparison.task.sequences if comparison.task.output == "image" else tuple(Sequence)
    return [s for s in (Sequence.T2W, Sequence.ADC, Sequence.HBV) if s in comparison.case and s in wanted]


def strip(scene: Scene) -> dict[str, Any] | None:
    """How much A and B differ in each slice, for the bar above the slider."""
    if scene.kind == "segmentation":
        area = scene.display.geometry.voxel_volume_ml
        codes = {"a": FIRST_ONLY, "b": SECOND_ONLY, "other": OTHER}
        difference = scene.labels["diff-ab"]
        series = {key: ((difference == code).sum(axis=(1, 2)) * area).tolist() for key, code in codes.items()}
        return {"series": series, "unit": "ml"}
    if scene.kind == "image":
        output = next(iter(scene.comparison.a.images))
        difference = np.abs(scene.images[f"a:{output}"] - scene.images[f"b:{output}"])
        if scene.comparison.case.gland is not None:
            difference = difference * (scene.display.labels(scene.comparison.case.gland) != 0)
        return {"series": {"neutral": difference.mean(axis=(1, 2)).tolist()}, "unit": unit_of(output)}
    return None


def _image_volumes(comparison: Comparison) -> Iterator[tuple[str, Volume]]:
    for sequence in shown_sequences(comparison):
        yield str(sequence), comparison.case[sequence]
    if comparison.task.output == "image":
        for output in comparison.a.images:
            yield f"a:{output}", comparison.a.images[output]
            yield f"b:{output}", comparison.b.images[output]
            if output in comparison.reference:
                yield f"reference:{output}", comparison.reference[output]


def _label_names(comparison: Comparison) -> tuple[str, ...]:
    if comparison.task.output != "segmentation":
        return ()
    tables = [comparison.a.label_values, comparison.b.label_values, _leaves(comparison)]
    return tuple(dict.fromkeys(str(name) for table in tables for name in table if name != Label.BACKGROUND))


def _label_layers(comparison: Comparison, display: Display, names: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if comparison.segments is None:
        return
    for who, result in (("a", comparison.a), ("b", comparison.b)):
        yield who, display.labels(_renamed(result, names))
    segments, grid = comparison.segments, comparison.geometry
    yield "diff-ab", display.labels(Volume(_difference(segments.a, segments.b), grid))
    if comparison.reference:
        structures = _leaves(comparison)
        truth = _stacked([comparison.reference[s].array for s in structures])
        codes = np.array([0, *(names.index(s) + 1 for s in structures)], np.uint8)
        yield "reference", display.labels(Volume(codes[truth], grid))
        for key, array in (("diff-ar", segments.a), ("diff-br", segments.b)):
            arm = _stacked([segments.mask(array, s) for s in structures])
            yield key, display.labels(Volume(_difference(arm, truth), grid))


def _leaves(comparison: Comparison) -> list[str]:
    """Structures of the reference that do not contain each other: the zones, or else the gland."""
    zones = [name for name in comparison.reference if name != Label.PROSTATE]
    return zones or list(comparison.reference)


def _stacked(masks: list[np.ndarray]) -> np.ndarray:
    out = np.zeros(masks[0].shape, np.uint8)
    for i, mask in enumerate(masks):
        out[mask] = i + 1
    return out


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    out = np.where(first != second, OTHER, AGREE).astype(np.uint8)
    out[(first != 0) & (second == 0)] = FIRST_ONLY
    out[(first == 0) & (second != 0)] = SECOND_ONLY
    return out


def _renamed(result: Result, names: tuple[str, ...]) -> Volume:
    """A result's label map with value i + 1 for `names[i]`."""
    assert result.labels is not None  # a segmentation has one; `compare` has looked
    out = np.zeros(result.labels.array.shape, np.uint8)
    for name, value in result.label_values.items():
        if name != Label.BACKGROUND:
            out[result.labels.array == value] = names.index(str(name)) + 1
    return result.labels.with_array(out)


def _image_layer(name: str, array: np.ndarray) -> dict[str, Any]:
    sequence = sequence_of(name.split(":")[-1])
    shown = array[array != 0]
    low, high = np.percentile(shown if shown.size else array, _WINDOW_PERCENTILES)
    return {
        **encode_image(array),
        "group": str(sequence),
        "unit": unit_of(str(sequence)),
        "window": [float(low), float(max(high, low + 1e-6))],
    }


def _output(scene: Scene, name: str) -> dict[str, Any]:
    pairs = {"ab": ("a", "b"), "ar": ("a", "reference"), "br": ("b", "reference")}
    limits = {}
    for key, (first, second) in pairs.items():
        if f"{second}:{name}" in scene.images:
            difference = np.abs(scene.images[f"{first}:{name}"] - scene.images[f"{second}:{name}"])
            limits[key] = float(np.percentile(difference, _DIFFERENCE_PERCENTILE)) or 1.0
    return {
        "name": name,
        "title": subject_title(name),
        "unit": unit_title(unit_of(name)),
        "limits": limits,
    }


def _sequence_panel(sequence: Sequence) -> dict[str, Any]:
    return {
        "id": str(sequence),
        "role": "sequence",
        "image": str(sequence),
        "title": SEQUENCE_TITLES[sequence],
        "subtitle": "",
    }
