"""Voxels as text that a browser can read exactly: quantized, delta-coded, deflated, base64.

Not as pictures, although a browser decodes those itself: reading pixels back from a canvas is
rounded or blurred on purpose by browsers that guard against fingerprinting, which would turn a
label into another one. `templates/decode.js` is the other half.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..core.result import Result
from ..core.terms import LABEL_TERMS, Label, Sequence
from ..core.volume import Geometry, IntTriple, Volume, bounding_box
from ..evaluation.comparison import Comparison
from ..evaluation.measures import SEQUENCE_TITLES, arm_title, label_title, subject_title, unit_title
from ..tasks.image_to_image import ImageTask, sequence_of, unit_of
from ..tasks.outputs import OutputKind

SYNTHETIC = "synthetic"

# Colors that mean something in views, tables and figures: arms apart from labels, safe for the color-blind.
Color = tuple[int, int, int]

ARM_A: Color = (76, 184, 255)
ARM_B: Color = (255, 168, 38)
REFERENCE: Color = (126, 231, 135)
OTHER_LABEL: Color = (214, 112, 255)
NEUTRAL: Color = (140, 160, 182)
_PALETTE: tuple[Color, ...] = (
    (240, 228, 66),
    (86, 180, 233),
    (0, 190, 140),
    (230, 120, 60),
    (204, 121, 167),
    (160, 160, 255),
    (180, 220, 110),
    (255, 130, 130),
)

LEVELS = 2047
"""Steps between the smallest and the largest value of an image that is rounded (11 bit)."""
LARGEST_EXACT_RANGE = 4095
"""Whole numbers within this range are kept as they are; most scanners store 12 bit."""
_DEFLATE_LEVEL = 6


def label_color(name: str, index: int) -> Color:
    """A label's own color, or one of a neutral palette where its meaning is unknown."""
    terms = {str(label): term.color for label, term in LABEL_TERMS.items()}
    return terms.get(name, _PALETTE[index % len(_PALETTE)])


def encode_image(array: np.ndarray) -> dict[str, Any]:
    """An image (D, H, W) as codes of 16 bit; a value is `offset + code * scale`.

    Whole numbers within a range of 4095 stay exact. Others are rounded to 1/2047 of their range,
    which a screen cannot show, so that the noise of a float does not fill the page.
    """
    low, high = float(array.min()), float(array.max())
    whole = high - low <= LARGEST_EXACT_RANGE and bool(np.all(array == np.rint(array)))
    scale = 1.0 if whole or high == low else (high - low) / LEVELS
    codes = np.rint((array - low) / scale).astype(np.uint16)
    steps = np.diff(codes, axis=-1, prepend=np.uint16(0)).astype(np.int16)  # modulo 2^16, along each row
    folded = ((steps << 1) ^ (steps >> 15)).astype(np.uint16)  # small steps of either sign become small codes
    planes = np.concatenate([(folded & 0xFF).astype(np.uint8).ravel(), (folded >> 8).astype(np.uint8).ravel()])
    return {"bits": 16, "offset": low, "scale": scale, "data": _deflated(planes)}


def encode_labels(array: np.ndarray) -> dict[str, Any]:
    return {"bits": 8, "offset": 0, "scale": 1, "data": _deflated(array.astype(np.uint8))}


def _deflated(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.tobytes(), level=_DEFLATE_LEVEL)).decode("ascii")


MAX_VOXELS = 4_500_000
"""Voxels of all images on a page together: 4 to 6 MB as text, by how noisy they are."""
MIN_SIDE_PX = 64
MARGIN_MM = 10.0
"""Shown around what is marked, however many voxels that takes: a thin-sliced scan must not lose the gland's edge."""
FIRST_FIELD_MM = 110.0
"""Field of view that the page starts with; the whole window is a zoom away."""


@dataclass(frozen=True)
class Display:
    """A window of a grid; everything on the page lies on it.

    Attributes:
        base: The whole grid, axes nearest L, P, S.
        start: First voxel (x, y, z) of the window on `base`.
        center: Voxel (x, y, z) of the window in the middle of what matters.
    """

    base: Geometry
    start: IntTriple
    geometry: Geometry
    center: IntTriple

    @property
    def is_cropped(self) -> bool:
        return self.geometry.size != self.base.size

    def image(self, volume: Volume, interpolation: str = "linear") -> np.ndarray:
        """An image's voxels (D, H, W), interpolated where it lies on another grid."""
        volume = volume.to_nearest_lps()
        if volume.geometry.equals(self.base):  # cut, so that voxels stay what they are to the last bit
            x, y, z = (slice(s, s + n) for s, n in zip(self.start, self.geometry.size, strict=True))
            return volume.array[z, y, x]
        return volume.resample_to(self.geometry, interpolation).array

    def labels(self, volume: Volume) -> np.ndarray:
        return self.image(volume, "nearest")

    def index_of(self, point_mm: tuple[float, ...] | np.ndarray) -> IntTriple:
        """Voxel (x, y, z) of the window that is nearest to a point (LPS)."""
        return self.geometry.nearest_voxel(point_mm)


def display_of(comparison: Comparison, images: int) -> Display:
    """The grid, T2w's, or the results' where they are finer in plane, for as many images, which share `MAX_VOXELS`."""
    base = comparison.geometry
    if Sequence.T2W in comparison.case:
        t2w = comparison.case[Sequence.T2W].to_nearest_lps().geometry
        if np.prod(t2w.spacing_mm[:2]) < np.prod(base.spacing_mm[:2]) * 0.999:
            base = t2w
    low, high = _box_of_interest(comparison, base)
    center = (low + high) / 2
    shown_mm = np.minimum((high - low + 1) * base.spacing_mm + 2 * MARGIN_MM, FIRST_FIELD_MM)
    least = np.ceil(shown_mm / base.spacing_mm).astype(int)
    side = max(int(np.sqrt(MAX_VOXELS / max(images, 1) / base.size[2])), MIN_SIDE_PX)
    size = (min(base.size[0], max(side, int(least[0]))), min(base.size[1], max(side, int(least[1]))), base.size[2])
    x, y = (
        int(np.clip(round(c - n / 2), 0, whole - n)) for c, n, whole in zip(center, size, base.size[:2], strict=False)
    )
    middle = (round(center[0]) - x, round(center[1]) - y, round(center[2]))
    return Display(base, (x, y, 0), base.crop((x, y, 0), size), middle)


def _box_of_interest(comparison: Comparison, base: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """First and last index (x, y, z) on a grid of what A or B marks, or of the gland, or twice its middle."""
    marked = [result.labels for result in (comparison.a, comparison.b)]
    for volumes in (marked, [comparison.case.gland]):
        corners = []
        for volume in volumes:
            if volume is not None and volume.array.any():
                found = np.argwhere(volume.array)[:, ::-1]
                ends = np.array(list(product(*zip(found.min(axis=0), found.max(axis=0), strict=True))))
                corners.append(base.to_index(volume.geometry.to_world(ends)))
        if corners:
            return np.concatenate(corners).min(axis=0), np.concatenate(corners).max(axis=0)
    middle = base.to_index(comparison.geometry.center_mm)
    return middle, middle


def _prostate_box(comparison: Comparison, display: Display) -> tuple[slice, ...] | None:
    """Where the prostate lies on what is shown (D, H, W); None where it is not known.

    The case's own mask counts, else what A and B mark where their task is to find the prostate.
    """
    masks = [] if comparison.case.gland is None else [comparison.case.gland]
    if not masks and comparison.task.finds_gland:
        masks = [result.labels for result in (comparison.a, comparison.b) if result.labels is not None]
    prostate = np.zeros(display.geometry.shape, bool)
    for mask in masks:
        prostate |= display.labels(mask) != 0
    return bounding_box(prostate) if prostate.any() else None


AGREE, FIRST_ONLY, SECOND_ONLY, OTHER = range(4)
_WINDOW_PERCENTILES = (1.0, 99.5)
_DIFFERENCE_PERCENTILE = 99.5


@dataclass(frozen=True)
class Scene:
    """A comparison on the grid that is shown.

    Attributes:
        images: Layer name → image (D, H, W): sequences, and `a:`, `b:`, `reference:`, `naive:` outputs.
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
    def kind(self) -> OutputKind:
        return self.comparison.task.output


def build_scene(comparison: Comparison) -> Scene:
    volumes = dict(_image_volumes(comparison))
    display = display_of(comparison, len(volumes))
    names: tuple[str, ...] = ()
    if comparison.segments is not None:
        tables = [comparison.a.label_values, comparison.b.label_values, _leaves(comparison)]
        names = tuple(dict.fromkeys(str(name) for table in tables for name in table if name != Label.BACKGROUND))
    width, height, _ = comparison.geometry.size
    center = comparison.geometry.to_world(((width - 1) / 2, (height - 1) / 2, comparison.focus_slice))
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
        "kind": scene.kind.name,
        "size": geometry.size,
        "spacing": geometry.spacing_mm,
        "affine": geometry.affine.tolist(),
        "focus": scene.focus_slice,
        "center": scene.display.center[:2],
        "field": FIRST_FIELD_MM,
        "layers": {
            **{name: _image_layer(scene, name) for name in scene.images},
            **{f"labels:{name}": encode_labels(array) for name, array in scene.labels.items()},
            **probability_layers(scene.comparison, scene.display),
        },
        "labels": [
            {"name": name, "title": label_title(name), "color": label_color(name, i)}
            for i, name in enumerate(scene.label_names)
        ],
        "probability": label_title(probability_label(scene.comparison) or ""),
        "outputs": [_output(scene, name) for name in scene.comparison.a.images],
        "colors": {
            "a": ARM_A,
            "b": ARM_B,
            "reference": REFERENCE,
            "naive": NEUTRAL,
            "other": OTHER_LABEL,
            "neutral": NEUTRAL,
        },
        "panels": panels(scene),
        "disagreements": [
            {"index": d.index, "at": scene.display.index_of(d.center_mm)} for d in scene.comparison.disagreements
        ],
        "strip": strip(scene),
    }


def image_origin(task: ImageTask, result: Result) -> str:
    """What an arm's images are: synthetic, unless the network's were withheld and these are the naive result's."""
    return task.naive_title.lower() if result.is_withheld else SYNTHETIC


def panels(scene: Scene) -> list[dict[str, Any]]:
    """Panels in reading order: T2w, A, B and their comparison first, then the other sequences."""
    first, *others = shown_sequences(scene.comparison)
    rows = [(str(first), "sequence", str(first), SEQUENCE_TITLES[first], "")]
    if scene.kind.has_voxels:
        for who, result in (("a", scene.comparison.a), ("b", scene.comparison.b)):
            image = str(first) if scene.kind.marks_voxels else who
            rows.append((who, who, image, who.upper(), arm_title(result)))
        if any(name.startswith("naive:") for name in scene.images):
            assert isinstance(scene.comparison.task, ImageTask)
            rows.append(("naive", "sequence", "naive", scene.comparison.task.naive_title, "naive result"))
        rows.append(("compare", "compare", str(first), "Difference", ""))
    rows += [(str(sequence), "sequence", str(sequence), SEQUENCE_TITLES[sequence], "") for sequence in others]
    if scene.kind.gives_images and scene.comparison.reference:
        rows.append(("reference", "reference", "reference", "Reference", ""))
    badges: dict[str, str] = {}
    if isinstance(scene.comparison.task, ImageTask):
        task, a, b = scene.comparison.task, scene.comparison.a, scene.comparison.b
        badges = {"a": image_origin(task, a), "b": image_origin(task, b)}
        badges["compare"] = SYNTHETIC if SYNTHETIC in badges.values() else badges["a"]
    found = [dict(zip(("id", "role", "image", "title", "subtitle"), row, strict=True)) for row in rows]
    return [{**panel, "badge": badges.get(panel["role"], "").upper()} for panel in found]


def shown_sequences(comparison: Comparison) -> list[Sequence]:
    """T2w first. For an image task only what its networks see, so that more of the outputs fits on the page."""
    wanted = comparison.task.sequences if comparison.task.output.gives_images else tuple(Sequence)
    return [s for s in (Sequence.T2W, Sequence.ADC, Sequence.HBV) if s in comparison.case and s in wanted]


def strip(scene: Scene) -> dict[str, Any] | None:
    """How much A and B differ in each slice, for the bar above the slider."""
    if scene.kind.marks_voxels:
        area = scene.display.geometry.voxel_volume_ml
        codes = {"a": FIRST_ONLY, "b": SECOND_ONLY, "other": OTHER}
        difference = scene.labels["diff-ab"]
        series = {key: ((difference == code).sum(axis=(1, 2)) * area).tolist() for key, code in codes.items()}
        return {"series": series, "unit": "ml"}
    if scene.kind.gives_images:
        output = next(iter(scene.comparison.a.images))
        difference = np.abs(scene.images[f"a:{output}"] - scene.images[f"b:{output}"])
        if scene.comparison.case.gland is not None:
            difference = difference * (scene.display.labels(scene.comparison.case.gland) != 0)
        return {"series": {"neutral": difference.mean(axis=(1, 2)).tolist()}, "unit": unit_of(output)}
    return None


def _image_volumes(comparison: Comparison) -> Iterator[tuple[str, Volume]]:
    for sequence in shown_sequences(comparison):
        yield str(sequence), comparison.case[sequence]
    if comparison.task.output.gives_images:
        for output in comparison.a.images:
            yield f"a:{output}", comparison.a.images[output]
            yield f"b:{output}", comparison.b.images[output]
            if output in comparison.reference:
                yield f"reference:{output}", comparison.reference[output]
            if output in comparison.naive:
                yield f"naive:{output}", comparison.naive[output]


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


def window_of(scene: Scene, name: str) -> tuple[float, float]:
    """Values of an image that are shown black and white.

    Those of a high-b image are taken around the prostate: bladder, vessels and the coil's near field outshine lesions.
    """
    array = scene.images[name]
    if sequence_of(name.split(":")[-1]) is Sequence.HBV:
        box = _prostate_box(scene.comparison, scene.display)
        array = array if box is None else array[box]
    shown = array[array != 0]
    low, high = np.percentile(shown if shown.size else array, _WINDOW_PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def _image_layer(scene: Scene, name: str) -> dict[str, Any]:
    sequence = sequence_of(name.split(":")[-1])
    return {
        **encode_image(scene.images[name]),
        "group": str(sequence),
        "unit": unit_of(str(sequence)),
        "window": window_of(scene, name),
    }


def _output(scene: Scene, name: str) -> dict[str, Any]:
    pairs = {"ab": ("a", "b"), "ar": ("a", "reference"), "br": ("b", "reference")}
    pairs |= {"an": ("a", "naive"), "bn": ("b", "naive")}
    limits = {}
    for key, (first, second) in pairs.items():
        if f"{second}:{name}" in scene.images:
            difference = np.abs(scene.images[f"{first}:{name}"] - scene.images[f"{second}:{name}"])
            limits[key] = float(np.percentile(difference, _DIFFERENCE_PERCENTILE)) or 1.0
    return {"name": name, "title": subject_title(name), "unit": unit_title(unit_of(name)), "limits": limits}


STEPS = 255
_FIRST_CHOICE = (Label.CSPCA, Label.PROSTATE)


def probability_label(comparison: Comparison) -> str | None:
    """The label whose probability is shown: of those of both arms cancer, the prostate, or the first but background."""
    names = [str(name) for name in comparison.a.probabilities if name in comparison.b.probabilities]
    others = [name for name in names if name != Label.BACKGROUND]
    return next((str(name) for name in (*_FIRST_CHOICE, *others) if name in names), None)


def probability_layers(comparison: Comparison, display: Display) -> dict[str, Any]:
    """Layers of 0..255 for probabilities of 0..1, by arm; none where the arms give no probability."""
    label = probability_label(comparison)
    if label is None:
        return {}
    layers = {}
    for who, result in (("a", comparison.a), ("b", comparison.b)):
        share = np.clip(display.image(result.probabilities[label]), 0.0, 1.0)
        layers[f"probability:{who}"] = {**encode_labels(np.rint(share * STEPS)), "scale": 1 / STEPS}
    return layers
