"""Make `VFMTransferLib/io/pelvis.json`: python docs/make_pelvis.py CASES [CASE …].

The mean of the T2w of these cases on a coarse grid, made symmetric. Without names of cases nothing is written: each
case of the folder is compared with the mean of all others, as it lies and turned, which gives the limits that
`VFMTransferLib/io/plausibility.py` states.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np

from VFMTransferLib.io import read_volume
from VFMTransferLib.io.plausibility import PELVIS, PELVIS_SIZE, PELVIS_STEP_MM, coarse_pelvis, pelvis_likeness

ATTRIBUTION = (
    "Mean of T2w images of PROSTATEx (https://doi.org/10.7937/K9TCIA.2017.MURS5CL) and Prostate-3T "
    "(https://doi.org/10.7937/K9/TCIA.2015.QJTV5IL5), CC BY 3.0, resampled, averaged and made symmetric."
)
OUTSIDE = 0.3  # where no case has been seen


def mean_pelvis(coarse: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The symmetric mean (D, H, W), 0..1, of images on the coarse grid and where each has been seen."""
    both = [*coarse, *((levels[:, :, ::-1], seen[:, :, ::-1]) for levels, seen in coarse)]
    count = sum(seen.astype(np.float32) for _, seen in both)
    total = sum(np.where(seen, levels, 0) for levels, seen in both)
    return np.where(count > 0, total / np.maximum(count, 1), OUTSIDE).astype(np.float32)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    files = sorted(file for file in folder.glob("*/t2w.nii.gz") if not names or file.parent.name in names)
    volumes = {file.parent.name: read_volume(file, "t2w") for file in files}
    coarse = {name: coarse_pelvis(volume) for name, volume in volumes.items()}
    if not names:
        for name, volume in volumes.items():
            others = mean_pelvis([image for other, image in coarse.items() if other != name])
            print(name, {way: round(found, 2) for way, found in pelvis_likeness(volume, others).items()})
        return
    half = mean_pelvis(list(coarse.values()))[:, :, : (PELVIS_SIZE[0] + 1) // 2]
    levels = base64.b64encode(np.round(half * 255).astype(np.uint8).tobytes()).decode("ascii")
    document = {"made_from": ATTRIBUTION, "size": PELVIS_SIZE, "spacing_mm": PELVIS_STEP_MM, "levels": levels}
    PELVIS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
