"""Image files in and out: the only code that opens them.

`images` reads and writes one image, `cases` finds the images of one study, `dicom` does so among
DICOM series, `segments` writes a segmentation that Slicer opens, `outputs` lets a folder of results
appear whole or not at all.
"""

from __future__ import annotations

from .cases import read_case
from .images import read_mask, read_volume, write_displacement, write_volume
from .results import output_folder
from .segmentations import SegmentLayer, write_segmentation

__all__ = [
    "SegmentLayer",
    "output_folder",
    "read_case",
    "read_mask",
    "read_volume",
    "write_displacement",
    "write_segmentation",
    "write_volume",
]
