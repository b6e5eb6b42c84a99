"""Masks are compared where they lie, and missing ones are no error."""

from __future__ import annotations

import numpy as np
import pytest
from training_cases import OBLIQUE

from VFMTransferLib.core.errors import GeometryError
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.evaluation.gland import agreement, read_gland_mask
from VFMTransferLib.io import write_volume

GRID = Geometry((8, 6, 4), (1.0, 2.0, 3.0), (5.0, -3.0, 1.0), OBLIQUE)


def a_mask(first_column: int) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    array[1:3, 2:5, first_column : first_column + 4] = 2
    return Volume(array, GRID, "mask")


def test_agreement_by_hand():
    # Four columns each, three of them shared, one millimeter apart.
    assert agreement(a_mask(1), a_mask(2)) == {"dice": 0.75, "hd95_mm": 1.0}


def test_an_empty_mask_has_no_distance():
    empty = a_mask(1).with_array(np.zeros(GRID.shape, np.uint8))
    assert agreement(empty, a_mask(1)) == {"dice": 0.0, "hd95_mm": None}


def test_masks_on_other_grids_are_refused():
    moved = Volume(a_mask(1).array, Geometry((8, 6, 4), (1.0, 2.0, 3.0)), "moved")
    with pytest.raises(GeometryError, match="must lie on the grid"):
        agreement(a_mask(1), moved)


def test_a_mask_is_one_wherever_its_file_is_not_zero(tmp_path):
    write_volume(a_mask(1), tmp_path / "gland.nii.gz")
    found = read_gland_mask(tmp_path, "gland")
    assert np.array_equal(found.array, a_mask(1).array > 0)
    assert set(np.unique(found.array)) == {0, 1}
    assert read_gland_mask(tmp_path, "zones") is None
