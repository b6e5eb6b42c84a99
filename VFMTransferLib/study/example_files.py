"""Example slices of a study as files: small pictures, and beside each arm's what they show.

    examples/<task>/<phantom|real>/input.png, input-adc.png, ...      what a network sees
                                   truth.png                          what it should give
                                   <encoder>-<arm>.png                what it gives
                                   <encoder>-<arm>-difference.png     of images: minus the truth
                                   <encoder>-<arm>.json               an `Example`

Each arm has a file of its own, so that trainings that end at the same time do not write over each other.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import atomic_file, writing
from ..errors import DatasetError
from ..strict_json import from_json

EXAMPLES = "examples"
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        file: Its name, in the folder of its example.
        title: What it shows.
        low: Value shown as black; of a difference the one at the lower end of its colors.
        high: Value shown as white, or at the upper end.
        unit: Of both.
    """

    file: str
    title: str
    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class Example:
    """What one arm says of one case, in one slice; all arms of a task show the same one.

    Attributes:
        encoder, task, arm: As in the study's tables.
        data: `phantom` or `real`.
        case: Name of the case.
        slice_number: Counted from 1 at the inferior end.
        slices: How many there are.
        mm_per_pixel: Of all its pictures, in both directions.
        scores: Measure → this arm's value on this case.
        inputs: What the network sees.
        truth: What it should give; None of a classification.
        picture: What it gives; None of a classification.
        difference: `picture` minus `truth`, of images.
        outlines: What is outlined → its color, of segmentations.
        classes: Class → probability, of a classification.
        true_class: The case's, of a classification.
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
    outlines: dict[str, Color] = field(default_factory=dict)
    classes: dict[str, float] = field(default_factory=dict)
    true_class: str | None = None
    attribution: str = ""

    @property
    def name(self) -> str:
        """Stem of the arm's own files."""
        return f"{self.encoder}-{self.arm}"

    def folder(self, study: Path) -> Path:
        """Where its files lie, below the study's folder."""
        return study / EXAMPLES / self.task / self.data


def save_example(example: Example, pictures: Mapping[str, bytes], study: Path) -> None:
    """Write an example and its pictures, each whole or not at all.

    Args:
        example: What is shown.
        pictures: File name → PNG.
        study: The study's folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    folder = example.folder(study)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, png in pictures.items():
        with atomic_file(folder / name) as part:
            part.write_bytes(png)
    text = json.dumps(asdict(example), indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_file(folder / f"{example.name}.json") as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_examples(study: Path) -> tuple[Example, ...]:
    """All examples of a study's folder, by task, data, encoder and arm; none where it has no such folder.

    Raises:
        DatasetError: A file cannot be understood, or a picture is missing.
    """
    return tuple(_read(path) for path in sorted((study / EXAMPLES).glob("*/*/*.json")))


def indexed_png(codes: np.ndarray, palette: Sequence[Color]) -> bytes:
    """A PNG of numbered colors, as small as that makes it.

    Args:
        codes: Number of each pixel's color (H, W), uint8.
        palette: The colors.
    """
    image = Image.fromarray(codes)
    image.putpalette([part for color in palette for part in color])
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _read(path: Path) -> Example:
    try:
        example: Example = from_json(Example, json.loads(path.read_text(encoding="utf-8")), path.stem)
    except (ValueError, UnicodeDecodeError) as error:
        raise DatasetError(f"Example '{path.name}' cannot be understood: {error}") from error
    shown = (*example.inputs, example.truth, example.picture, example.difference)
    for picture in shown:
        if picture is not None and not (path.parent / Path(picture.file).name).is_file():
            raise DatasetError(f"Example '{path.name}' needs the picture '{picture.file}', which is missing.")
    return example
