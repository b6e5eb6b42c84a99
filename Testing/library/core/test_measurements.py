"""The axes of phase encoding; PSA and its units are tested with the commands that take them."""

import pytest

from VFMTransferLib.core.measurements import PHASE_AXES, nearest_phase_axis


@pytest.mark.parametrize(
    ("direction", "axis"),
    [
        ((1.0, 0.0, 0.0), "left-right"),
        ((-0.9, 0.4, 0.1), "left-right"),
        ((0.3, -0.94, 0.0), "anterior-posterior"),
        ((0.0, 0.1, -0.99), None),
    ],
)
def test_the_phase_axis_is_the_one_nearest_to_a_direction(direction, axis):
    assert nearest_phase_axis(direction) == axis


def test_axes_are_numbered_as_a_grid_that_runs_to_left_posterior_and_superior():
    assert PHASE_AXES == {"left-right": 0, "anterior-posterior": 1}
