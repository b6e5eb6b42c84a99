"""Small cases and results for the tests of comparison and report: unequal axes, anisotropic, oblique."""

from __future__ import annotations

import numpy as np

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.result import Lesion, Provenance, Result
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume

ANGLE = np.radians(12)
OBLIQUE = (
    1.0,
    0.0,
    0.0,
    0.0,
    float(np.cos(ANGLE)),
    float(-np.sin(ANGLE)),
    0.0,
    float(np.sin(ANGLE)),
    float(np.cos(ANGLE)),
)
T2W_GRID = Geometry((48, 40, 7), (0.5, 0.6, 3.0), (-12.0, 5.0, 30.0), OBLIQUE)
DIFFUSION_GRID = Geometry((20, 16, 6), (1.5, 1.6, 3.5), (-14.0, 4.0, 29.0))
ZONES = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}


def provenance(arm: str) -> Provenance:
    return Provenance(
        bundle=f"anatomy-{arm}",
        title=f"Anatomy, {arm}",
        arm=arm,
        sha256="0123456789abcdef" * 4,
        runtime="onnx",
        device="cpu",
        versions={"numpy": "2.4.6", "onnxruntime": "1.32.0"},
        seconds={"preprocess": 0.2, "network": 1.25},
        notes=(Note("crop", "The crop is centred on the image."),),
    )


def mri(geometry: Geometry, seed: int, level: float) -> Volume:
    """Smooth bright shapes with noise, all positive."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    image = level * (0.3 + np.exp(-2 * (x**2 + y**2 + z**2))) + rng.normal(0, level / 30, geometry.shape)
    return Volume(np.clip(image, 0, None).astype(np.float32), geometry, "image")


def ellipse(
    center_xy: tuple[float, float], radii_xy: tuple[float, float], slices: slice, grid: Geometry = T2W_GRID
) -> np.ndarray:
    y, x = np.indices(grid.shape[1:])
    inside = ((x - center_xy[0]) / radii_xy[0]) ** 2 + ((y - center_xy[1]) / radii_xy[1]) ** 2 <= 1
    mask = np.zeros(grid.shape, bool)
    mask[slices] = inside
    return mask


def a_case(gland: bool = False) -> Case:
    volumes = {
        Sequence.T2W: mri(T2W_GRID, 0, 600.0),
        Sequence.HBV: mri(DIFFUSION_GRID, 1, 90.0),
        Sequence.ADC: mri(DIFFUSION_GRID, 2, 1400.0),
    }
    mask = Volume(ellipse((24, 20), (14, 12), slice(1, 6)).astype(np.uint8), T2W_GRID, "gland") if gland else None
    return Case("case-1", volumes, mask)


def anatomy(arm: str, labels: np.ndarray, values: dict[str, int] = ZONES, grid: Geometry = T2W_GRID) -> Result:
    volumes = {name: float((labels == v).sum()) * grid.voxel_volume_ml for name, v in values.items()}
    volumes[str(Label.PROSTATE)] = float((labels != 0).sum()) * grid.voxel_volume_ml
    volume = Volume(labels.astype(np.uint8), grid, "labels")
    return Result("case-1", "anatomy-segmentation", provenance(arm), values, volume, volumes_ml=volumes)


def zones(shift: int = 0) -> np.ndarray:
    """A gland of 14x12 px in slices 1..5, its transition zone above; B's is shifted and one slice shorter."""
    gland = ellipse((24 + shift, 20), (14, 12), slice(1, 6 - (shift > 0)))
    transition = ellipse((24 + shift, 16), (8, 6), slice(2, 5)) & gland
    return gland.astype(np.uint8) + transition


def anatomy_pair() -> tuple[Result, Result]:
    return anatomy("pretrained", zones()), anatomy("scratch", zones(3))


def lesion_pair() -> tuple[Result, Result]:
    values = {str(Label.CSPCA): 1}
    a, b = ellipse((18, 26), (4, 3), slice(2, 4)), ellipse((31, 25), (3, 3), slice(3, 5))
    results = []
    for arm, mask in (("pretrained", a), ("scratch", b)):
        labels = Volume(mask.astype(np.uint8), T2W_GRID, "labels")
        probability = Volume(np.where(mask, 0.8, 0.1).astype(np.float32), T2W_GRID, "csPCa")
        lesion = Lesion(1, str(Label.CSPCA), (-3.0, 18.0, 38.0), labels.volume_ml, 0.8, 760.0)
        results.append(
            Result(
                "case-1",
                "lesion-segmentation",
                provenance(arm),
                values,
                labels,
                {str(Label.CSPCA): probability},
                lesions=(lesion,),
            )
        )
    return results[0], results[1]


def image_pair(task: str, output: str, grid: Geometry, level: float) -> tuple[Result, Result]:
    a = mri(grid, 5, level)
    b = a.with_array((a.array * 1.02).astype(np.float32))
    b.array[2] += np.float32(level / 10)
    return tuple(  # type: ignore[return-value]
        Result("case-1", task, provenance(arm), images={output: image})
        for arm, image in (("pretrained", a), ("scratch", b))
    )


def translation_pair() -> tuple[Result, Result]:
    return image_pair("adc-translation", "adc-synthetic", T2W_GRID, 1300.0)


def classification_pair() -> tuple[Result, Result]:
    names = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")
    probabilities = {"pretrained": (0.1, 0.2, 0.3, 0.4), "scratch": (0.4, 0.3, 0.2, 0.1)}
    return tuple(  # type: ignore[return-value]
        Result(
            "case-1",
            "classification",
            provenance(arm),
            class_probabilities=dict(zip(names, values, strict=True)),
        )
        for arm, values in probabilities.items()
    )
