"""Make the pictures of `phantom-range.md`: `python docs/make_phantom_range.py [NAME...]`. A few minutes on one core.

Each shows one body by default, and under one condition, at the same slice; where diffusion matters, b 1400 below.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from VFMTransferLib.phantom import Conditions, Phantom, make_phantom

IMAGES = Path(__file__).parent / "images" / "phantom-range"
SEED, EDGE_PX, QUALITY = 15, 200, 70
GAP_PX = 4
OF_LESIONS = ("large-lesions", "transition-lesions")  # shown at the lesion
ZOOMED, ZOOM_MM = (
    ("hemorrhage", "motion", "siemens", "philips", "ge", "tesla", "misregistration", "off-resonance", *OF_LESIONS),
    110.0,
)
OTHER_SEEDS = {"hemorrhage": 3, "large-lesions": 27, "transition-lesions": 27, "off-resonance": 19}
# Name of the picture → conditions, sequences that are shown.
PICTURES: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "tesla": ({"tesla": 1.5}, ("t2w", "hbv")),
    "siemens": ({"vendor": "siemens"}, ("t2w",)),
    "philips": ({"vendor": "philips"}, ("t2w",)),
    "ge": ({"vendor": "ge"}, ("t2w",)),
    "endorectal-coil": ({"endorectal_coil": True}, ("t2w", "hbv")),
    "hip-implants": ({"hip_implants": 1}, ("t2w", "hbv")),
    "hemorrhage": ({"hemorrhage": 0.5}, ("t2w", "adc")),
    "large-gland": ({"gland_ml": 200.0}, ("t2w",)),
    "small-gland": ({"gland_ml": 12.0}, ("t2w",)),
    "thick-slices": ({"slice_mm": 6.0}, ("coronal",)),
    "isotropic": ({"isotropic_mm": 1.0}, ("coronal",)),
    "large-view": ({"field_of_view_mm": 260.0}, ("t2w",)),
    "small-view": ({"field_of_view_mm": 120.0}, ("t2w",)),
    "interleave": ({"interleave": 0.2}, ("coronal",)),
    "ghosts": ({"ghosts": 0.1}, ("t2w", "hbv")),
    "motion": ({"motion_mm": 1.5}, ("t2w",)),
    "surroundings": ({"surroundings": True}, ("hbv", "adc")),
    "large-lesions": ({"lesion_mm": 24.0}, ("t2w", "adc")),
    "off-resonance": ({"off_resonance": 4.0}, ("t2w", "hbv")),
    "misregistration": ({"misregistration_mm": 8.0}, ("t2w", "adc")),
    "transition-lesions": ({"lesions_in_transition": 1.0}, ("t2w", "adc")),
}


def main() -> None:
    """Write one picture for each condition."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    usual = make_phantom(SEED, lesions=1)
    for name in sys.argv[1:] or PICTURES:
        conditions, shown = PICTURES[name]
        seed, width_mm = OTHER_SEEDS.get(name, SEED), ZOOM_MM if name in ZOOMED else None
        default = usual if seed == SEED else make_phantom(seed, lesions=1)
        own = make_phantom(seed, lesions=1, conditions=Conditions(**conditions))  # type: ignore[arg-type]
        at_lesion = name in OF_LESIONS
        rows = [row([section(one, sequence, width_mm, at_lesion) for one in (default, own)]) for sequence in shown]
        stack = np.concatenate([part for r in rows for part in (r, np.full((GAP_PX, r.shape[1]), 255, np.uint8))][:-1])
        Image.fromarray(stack).save(IMAGES / f"{name}.jpg", quality=QUALITY, optimize=True)


def row(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures side by side."""
    gap = np.full((EDGE_PX, GAP_PX), 255, np.uint8)
    return np.concatenate([pictures[0], gap, pictures[1]], axis=1)


def section(phantom: Phantom, sequence: str, width_mm: float | None, at_lesion: bool) -> np.ndarray:
    """The middle of gland or lesion, (H, W), uint8: an axial slice, whole or a square around the gland; or coronal."""
    coronal = sequence == "coronal"
    volume = phantom.case["t2w" if coronal else sequence].to_nearest_lps()
    gland = phantom.gland.resample_to(volume.geometry, "nearest").array > 0
    axis = 1 if coronal else 0
    shown = phantom.lesion.resample_to(volume.geometry, "nearest").array > 0 if at_lesion else gland
    at = int(np.median(np.flatnonzero(shown.any(axis=tuple(a for a in range(3) if a != axis)))))
    picture = np.take(volume.array, at, axis=axis).astype(np.float32)
    bright = (
        float(np.percentile(picture, 99.5))
        if sequence != "hbv"
        else 1.6 * float(np.percentile(volume.array[gland], 90))
    )
    if width_mm is not None:
        rows, columns = (np.flatnonzero(gland[at].any(axis=1 - a)) for a in (0, 1))
        half = round(width_mm / volume.geometry.spacing_mm[0] / 2)
        top, left = (max((int(n[0]) + int(n[-1])) // 2 - half, 0) for n in (rows, columns))
        picture = picture[top : top + 2 * half, left : left + 2 * half]
    x, y, z = (n * s for n, s in zip(volume.geometry.size, volume.geometry.spacing_mm, strict=True))
    x, y = (x, y) if width_mm is None else (width_mm, width_mm)
    picture = picture[::-1] if coronal else picture
    height_mm = z if coronal else y
    scale = EDGE_PX / max(x, height_mm)
    image = Image.fromarray((np.clip(picture / max(bright, 1), 0, 1) * 255).astype(np.uint8))
    image = image.resize(
        (round(x * scale), round(height_mm * scale)), Image.Resampling.NEAREST if coronal else Image.Resampling.BICUBIC
    )
    square = Image.new("L", (EDGE_PX, EDGE_PX))
    square.paste(image, ((EDGE_PX - image.width) // 2, (EDGE_PX - image.height) // 2))
    return np.asarray(square)


if __name__ == "__main__":
    main()
