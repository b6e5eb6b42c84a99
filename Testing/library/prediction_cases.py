"""A small oblique study, and networks that are plain functions, for the tests of the prediction path."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from specs import MODELS

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.placement import NetworkInput
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.inference import predict as prediction
from VFMTransferLib.tasks import task_of
from VFMTransferLib.tasks.base import DecodeOptions, NetworkOutput

SOURCE = Provenance("fake", "A fake network", "", "0" * 64, "onnx", "cpu")
CENTER_MM = (2.0, -1.0, 0.5)


def tilted(size, spacing_mm, angles=(0.2, -0.1, 0.15), flip=(1, -1, 1)) -> Geometry:
    """An oblique grid around the scanner's middle; `flip` turns axes as dcm2niix does with y."""
    rotation = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3)) * np.asarray(flip)
    origin = -rotation @ ((np.asarray(size) - 1) / 2 * spacing_mm)
    return Geometry(size, spacing_mm, tuple(origin), tuple(rotation.ravel()))


def points_mm(geometry: Geometry) -> np.ndarray:
    """LPS millimeters (D, H, W, 3) of a grid's voxels."""
    return geometry.to_world(np.indices(geometry.shape)[::-1].transpose(1, 2, 3, 0))


def smooth_volume(geometry: Geometry, name: str, scale: float = 100) -> Volume:
    """Intensities that are a smooth function of position, so that every grid must show the same."""
    x, y, z = np.moveaxis(points_mm(geometry), -1, 0)
    return Volume((scale * (2 + np.sin(x / 9) + np.cos(y / 11 + z / 7))).astype(np.float32), geometry, name)


def a_small_case() -> Case:
    """T2w and diffusion on different oblique grids, the y axis of T2w towards anterior."""
    diffusion = tilted((25, 21, 11), (2.0, 2.0, 3.3), (0.1, 0.05, -0.1), (1, 1, 1))
    volumes = {
        Sequence.T2W: smooth_volume(tilted((40, 36, 9), (0.9, 0.9, 3.0)), "t2w"),
        Sequence.HBV: smooth_volume(diffusion, "hbv", 30),
        Sequence.ADC: smooth_volume(diffusion, "adc", 900),
    }
    return Case("p001", volumes)


def ball(geometry: Geometry, center_mm, radius_mm: float, name: str = "gland") -> Volume:
    """A mask of all voxels within a distance of a point."""
    inside = np.linalg.norm(points_mm(geometry) - np.asarray(center_mm), axis=-1) < radius_mm
    return Volume(inside.astype(np.uint8), geometry, name)


def with_preprocess(spec: ModelSpec | str, **changes) -> ModelSpec:
    """A registry row with other preprocessing."""
    spec = MODELS[spec] if isinstance(spec, str) else spec
    return replace(spec, preprocess=replace(spec.preprocess, **changes))


LESIONS = with_preprocess("profound-upernet-lesion", patch=(16, 32, 40), whole_volume=True)
CROP = with_preprocess("profound-upernet-lesion", patch=(32, 48, 48))


def an_anatomy_spec(labels, activation: str = "softmax") -> ModelSpec:
    """A network of small windows that sees the whole volume, with other classes."""
    spec = with_preprocess("profound-upernet-anatomy", patch=(32, 72, 80), whole_volume=True)
    return replace(spec, labels=labels, activation=activation)


def predict(case: Case, bundle: Bundle | Path, *, gland=None, roi=None, open_network=None, on_progress=None, **options):
    """`prediction.predict` of a case with these masks, by options that are named one by one."""
    case = replace(case, gland=case.gland if gland is None else gland, roi=roi)
    return prediction.predict(case, bundle, Options(**options), on_progress, open_network=open_network)


def a_gland_of(case: Case, radius_mm: float = 14.0) -> Volume:
    """A ball within the T2w of `a_small_case`."""
    return ball(case[Sequence.T2W].geometry, CENTER_MM, radius_mm)


def as_is(x: np.ndarray) -> np.ndarray:
    """A network that returns its own first channel."""
    return x[:, :1]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks, by its definition."""
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def decode(logits, prepared: NetworkInput | None, case: Case, spec: ModelSpec, source: Provenance, **options) -> Result:
    return task_of(spec).decode(NetworkOutput(logits, prepared, case, spec, source, DecodeOptions(**options)))


def distance_mm(prepared: NetworkInput, center=CENTER_MM) -> np.ndarray:
    """Distance of the network's voxels (D, H, W) from a point."""
    return np.linalg.norm(points_mm(prepared.region) - np.asarray(center), axis=-1)


@dataclass
class FakeSession:
    """A network that is a plain function of its input arrays; it remembers what it was given."""

    network: Callable[..., np.ndarray]
    runtime: str = "onnx"
    device: str = "cpu"
    precision: str = "fp32"
    versions: dict = field(default_factory=lambda: {"fake": "1"})
    notes: tuple = (Note("fake", "A fake network."),)
    seen: list = field(default_factory=list)
    takes_box: bool = False

    def run(self, *arrays: np.ndarray) -> np.ndarray:
        self.seen.append(arrays)
        return self.network(*arrays)


def a_bundle(spec: ModelSpec, name: str = "fake") -> Bundle:
    """A bundle of which only the description is there."""
    return Bundle(Path("nowhere"), name, "A fake network", "1.0.0", spec, None, {"models/model.safetensors": "0" * 64})
