"""How quantities are written."""

import pytest

from VFMTransferLib.evaluation.measures import Between, measure, quantity_title


def test_a_power_of_ten_is_a_factor_and_a_missing_value_has_no_unit():
    assert quantity_title("115.6", "1e-6 mm²/s") == "115.6 × 10⁻⁶ mm²/s"
    assert quantity_title("1.18", "mm") == "1.18 mm"
    assert quantity_title("n/a", "mm") == "n/a"
    assert quantity_title("0.824", "") == "0.824"


@pytest.mark.parametrize("value", [-0.0, -0.04, 0.04])
def test_a_difference_that_is_rounded_to_nothing_has_no_sign(value):
    assert measure("mean_difference", "t2w", Between.A_B, value).text == "0.0"
