"""Damaged files end in an error that a user can read: no other exception, no crash, no hang.

`make fuzz` does the same with many more inputs (`FUZZ_INPUTS` for each reader).
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import DicomSeries
from images import a_t2w

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.core.errors import VFMTransferError
from VFMTransferLib.io import read_case, read_volume
from VFMTransferLib.study.config import read_config
from VFMTransferLib.training.recipes import read_recipe
from VFMTransferLib.worker.messages import read_request

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no timer that interrupts a reader.")

RESOURCES = Path(__file__).resolve().parents[2] / "Resources"
INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
SLOW_S = 20
WORDS = (b"-1", b"0", b"1e30", b"nan", b"99999999999", b"\xff\xfe", b"\n", b"\0", b"null", b"[]", b'{"a":', b"&a [*a]")


def image_seed(name: str) -> Callable[[Path], bytes]:
    def seed(folder: Path) -> bytes:
        image = sitk.GetImageFromArray(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6))
        image.SetSpacing((0.5, 0.75, 3.0))
        sitk.WriteImage(image, str(folder / name), name.endswith("gz"))
        return (folder / name).read_bytes()

    return seed


def read_image(content: bytes, folder: Path, name: str) -> None:
    (folder / name).write_bytes(content)
    volume = read_volume(folder / name)
    assert np.isfinite(volume.array).all()
    assert np.isfinite(volume.geometry.affine).all()


def dicom_seed(folder: Path) -> bytes:
    return DicomSeries(a_t2w().array, "t2_tse_tra", 4).write(folder)[1].read_bytes()


def read_dicom(content: bytes, folder: Path) -> None:
    """A damaged slice among good ones."""
    paths = DicomSeries(a_t2w().array, "t2_tse_tra", 4).write(folder)
    paths[1].write_bytes(content)
    read_case(t2w=folder)


def bundle_seed(folder: Path) -> bytes:
    return min((RESOURCES / "Bundles").glob("*/configs/metadata.json")).read_bytes()


def read_metadata(content: bytes, folder: Path) -> None:
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "metadata.json").write_bytes(content)
    read_bundle(folder)


def message_seed(folder: Path) -> bytes:
    grid = {
        "size": [20, 18, 7],
        "spacing_mm": [2, 2.5, 4],
        "origin_mm": [0, 0, 0],
        "direction": np.eye(3).ravel().tolist(),
    }
    images = {"t2w": {"file": "t2w.npy", "grid": grid}}
    run = {"protocol": 1, "type": "run", "job": "1", "case": "p1", "folder": "job", "images": images, "bundles": ["a"]}
    return json.dumps(run).encode()


def read_text(reader: Callable[[Path], object], name: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        reader(folder / name)

    return read


READERS: dict[str, tuple[Callable[[Path], bytes], Callable[[bytes, Path], object]]] = {
    **{
        name: (image_seed(f"t2w.{name}"), lambda content, folder, name=name: read_image(content, folder, f"t2w.{name}"))
        for name in ("nii", "nii.gz", "nrrd", "mha")
    },
    "dicom": (dicom_seed, read_dicom),
    "bundle": (bundle_seed, read_metadata),
    "message": (message_seed, lambda content, folder: read_request(content)),
    "study configuration": (
        lambda folder: (RESOURCES / "Study" / "config.yaml").read_bytes(),
        read_text(read_config, "config.yaml"),
    ),
    "recipe": (
        lambda folder: min((RESOURCES / "Training").glob("*.json")).read_bytes(),
        read_text(read_recipe, "recipe.json"),
    ),
}


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """The seed with one to eight changes, most of them in its header."""
    content = bytearray(seed)
    for _ in range(1 << chance.randrange(4)):
        at = chance.randrange(min(len(content), 600) if chance.random() < 0.7 else len(content))
        match chance.randrange(5):
            case 0:
                content[at] ^= 1 << chance.randrange(8)
            case 1:
                content[at : at + 4] = chance.randrange(2**32).to_bytes(4, "little")
            case 2:
                content[at:at] = chance.choice(WORDS)
            case 3:
                content[at : at + chance.randrange(1, 64)] = b""
            case 4 if chance.random() < 0.3:
                content = content[: at + 1]
        if not content:
            break
    return bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_plain_words(name, tmp_path):
    make_seed, read = READERS[name]
    chance = random.Random(f"{name} 1")
    (tmp_path / "seed").mkdir()
    seed = make_seed(tmp_path / "seed")
    for number in range(INPUTS // (4 if name in ("dicom", "study configuration") else 1)):
        content = mutated(seed, chance)
        folder = tmp_path / str(number)
        folder.mkdir()
        refusal = "refused"
        signal.alarm(SLOW_S)
        try:
            read(content, folder)
        except VFMTransferError as error:
            refusal = str(error)
        finally:
            signal.alarm(0)
        assert refusal.strip()
        assert str(tmp_path) not in refusal
