"""Image files to volumes and back, the only code that opens them. Imports `core`.

`images` reads and writes one image: `nifti`, `nrrd` and `metaimage` read, by the checks of `grids`. `cases` finds the
images of one case; in DICOM `dicom` does so, by what `dicom_series` reads in the headers: whether a series is T2w, ADC
or diffusion; `acquisition` reads how it was acquired. `diffusion` computes the high-b image, `plausibility` checks what
images show. `segmentations` writes what Slicer opens as one, `results` a folder of results that appears whole or not at
all, `dicom_out` results as DICOM.
"""

from __future__ import annotations

from .cases import read_case, read_case_for
from .images import read_mask, read_volume, write_displacement, write_volume
from .results import output_folder
from .segmentations import SegmentLayer, write_segmentation

__all__ = [
    "SegmentLayer",
    "output_folder",
    "read_case",
    "read_case_for",
    "read_mask",
    "read_volume",
    "write_displacement",
    "write_segmentation",
    "write_volume",
]
