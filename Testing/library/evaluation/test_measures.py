"""How quantities are written."""

from VFMTransferLib.evaluation.measures import quantity_title


def test_a_power_of_ten_is_a_factor_and_a_missing_value_has_no_unit():
    assert quantity_title("115.6", "1e-6 mm²/s") == "115.6 × 10⁻⁶ mm²/s"
    assert quantity_title("1.18", "mm") == "1.18 mm"
    assert quantity_title("n/a", "mm") == "n/a"
    assert quantity_title("0.824", "") == "0.824"
