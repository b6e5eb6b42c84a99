"""What is fuzzed: each reader of bytes that come from elsewhere, with a corpus that the project makes itself.

A target takes bytes and returns; it raises what the reader promises to raise. Everything else is a finding.
"""

from __future__ import annotations

import gzip
import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "library")]

import numpy as np  # noqa: E402
from image_files import an_odd_volume, encoded, meta_bytes, nifti_bytes, nrrd_bytes, quaternion_fields  # noqa: E402

from VFMTransferLib.bundles.bundle import read_bundle, read_index  # noqa: E402
from VFMTransferLib.bundles.graphs import require_plain_graph  # noqa: E402
from VFMTransferLib.core.errors import VFMTransferError  # noqa: E402
from VFMTransferLib.io import read_case, read_volume  # noqa: E402
from VFMTransferLib.worker.messages import read_reply, read_request  # noqa: E402

RESOURCES = HERE.parents[1] / "Resources"


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        seeds: Good inputs, small.
        read: Takes bytes, and a folder to write them to.
        words: Pieces that mutations insert.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], None]
    words: tuple[bytes, ...] = ()


_NUMBERS = (b"-1", b"0", b"1e30", b"nan", b"inf", b"99999999999", b"%n%s", b"\xff\xfe", b" ", b"\n", b"\0")


def _image(name: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(content)
        (folder / "voxels.raw").write_bytes(_RAW)
        volume = read_volume(path)
        # What is accepted must be an image in space.
        assert np.isfinite(volume.array).all()
        assert np.isfinite(volume.geometry.affine).all()
        assert abs(np.linalg.det(volume.geometry.affine[:3, :3])) > 0

    return read


_RAW = encoded(an_odd_volume().array, "raw")


def _nifti_seeds() -> list[bytes]:
    volume = an_odd_volume()
    return [
        nifti_bytes(volume),
        nifti_bytes(an_odd_volume("f4"), ">", scl_slope=0.5, scl_inter=2),
        nifti_bytes(volume, **{**quaternion_fields(volume), "sform_code": 0}),
        nifti_bytes(volume, version=2),
    ]


def _nrrd_seeds() -> list[bytes]:
    volume = an_odd_volume("u1")
    return [nrrd_bytes(volume, encoding) for encoding in ("raw", "gzip", "ascii", "hex")] + [
        nrrd_bytes(an_odd_volume(), data_file="voxels.raw", space="RAS")
    ]


def _meta_seeds() -> list[bytes]:
    volume = an_odd_volume()
    return [
        meta_bytes(volume),
        meta_bytes(an_odd_volume("u1"), compressed=True),
        meta_bytes(volume, binary=False),
        meta_bytes(volume, ElementDataFile="voxels.raw"),
    ]


def _dicom_seeds() -> list[bytes]:
    import tempfile

    import pydicom
    from dicom_series import DicomSeries
    from images import a_t2w
    from pydicom.uid import ImplicitVRLittleEndian, RLELossless

    with tempfile.TemporaryDirectory() as folder:
        paths = DicomSeries(a_t2w().array[:2], "t2_tse_tra", 4).write(Path(folder))
        seeds = [paths[0].read_bytes()]
        dataset = pydicom.dcmread(paths[0])
        dataset.compress(RLELossless)
        dataset.save_as(paths[0])
        seeds.append(paths[0].read_bytes())
        dataset = pydicom.dcmread(paths[1])
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        pydicom.dcmwrite(paths[1], dataset, implicit_vr=True, little_endian=True)
        seeds.append(paths[1].read_bytes())
    return seeds


def _dicom_series(content: bytes, folder: Path) -> None:
    """The damaged slice among good ones, as a whole case."""
    for i, seed in enumerate(_good_slices()):
        (folder / f"{i}.dcm").write_bytes(seed)
    (folder / "1.dcm").write_bytes(content)
    read_case(t2w=folder)


_SLICES: list[bytes] = []


def _good_slices() -> list[bytes]:
    if not _SLICES:
        import tempfile

        from dicom_series import DicomSeries
        from images import a_t2w

        with tempfile.TemporaryDirectory() as folder:
            paths = DicomSeries(a_t2w().array, "t2_tse_tra", 4).write(Path(folder))
            _SLICES.extend(path.read_bytes() for path in paths)
    return _SLICES


def _bundle_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((RESOURCES / "Bundles").glob("*/configs/metadata.json"))[:4]]


def _bundle(content: bytes, folder: Path) -> None:
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "metadata.json").write_bytes(content)
    read_bundle(folder)


def _safetensors_seeds() -> list[bytes]:
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}
    header["b"] = {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}
    text = json.dumps(header).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(32)]


def _safetensors(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    read_index(folder / "model.safetensors")


def _graph_seeds() -> list[bytes]:
    return [min((RESOURCES / "Bundles").glob("*/models/model.onnx"), key=lambda p: p.stat().st_size).read_bytes()]


def _graph(content: bytes, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(content)
    require_plain_graph(folder / "model.onnx", "net")


def _message_seeds() -> list[bytes]:
    grid = {
        "size": [20, 18, 7],
        "spacing_mm": [2, 2.5, 4],
        "origin_mm": [0, 0, 0],
        "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    }
    run = {
        "protocol": 1, "type": "run", "job": "1", "case": "p001", "task": "anatomy-segmentation", "folder": "/tmp/x",
        "images": {"t2w": {"file": "t2w.npy", "grid": grid}}, "bundles": ["a", "b"],
    }  # fmt: skip
    return [
        json.dumps(one).encode() for one in (run, {"protocol": 1, "type": "hello"}, {"protocol": 1, "type": "ping"})
    ]


def _message(content: bytes, folder: Path) -> None:
    for read in (read_request, read_reply):
        try:
            read(content)
        except VFMTransferError:
            continue


def _config_seeds() -> list[bytes]:
    return [(RESOURCES / "Study" / "config.yaml").read_bytes()]


def _config(content: bytes, folder: Path) -> None:
    from VFMTransferLib.study.config import read_config

    (folder / "config.yaml").write_bytes(content)
    read_config(folder / "config.yaml")


def _recipe_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((RESOURCES / "Training").glob("*.json"))[:3]]


def _recipe(content: bytes, folder: Path) -> None:
    from VFMTransferLib.training.recipes import read_recipe

    (folder / "recipe.json").write_bytes(content)
    read_recipe(folder / "recipe.json")


_JSON_WORDS = (b"null", b"true", b"[]", b"{}", b"1e999", b"-0", b'"', b"[[[[[[[[", b'{"a":', *_NUMBERS)
TARGETS: dict[str, Target] = {
    "nifti": Target(_nifti_seeds, _image("t2w.nii")),
    "nifti-gz": Target(lambda: [gzip.compress(seed, mtime=0) for seed in _nifti_seeds()], _image("t2w.nii.gz")),
    "nrrd": Target(_nrrd_seeds, _image("t2w.nrrd"), (b"none", b"(0,0,0)", b"data file: ", *_NUMBERS)),
    "metaimage": Target(_meta_seeds, _image("t2w.mha"), (b"LIST", b"LOCAL", b"True", b" = ", *_NUMBERS)),
    "dicom": Target(_dicom_seeds, _dicom_series),
    "bundle": Target(_bundle_seeds, _bundle, _JSON_WORDS),
    "safetensors": Target(_safetensors_seeds, _safetensors, _JSON_WORDS),
    "onnx-graph": Target(_graph_seeds, _graph, (b"Loop", b"location", b"/etc/passwd")),
    "message": Target(_message_seeds, _message, _JSON_WORDS),
    "study-config": Target(_config_seeds, _config, (b"&a [*a]", b"!!python/object:os.system", b"- ", b": ", *_NUMBERS)),
    "recipe": Target(_recipe_seeds, _recipe, _JSON_WORDS),
}
