import numpy as np
import pytest
from images import a_gland, a_t2w, an_adc, an_hbv

from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.io.sequence_values import adc_unit, checked_sequence


@pytest.mark.parametrize(("factor", "unit"), [(1.0, "1e-6 mm²/s"), (1e-3, "1e-3 mm²/s"), (1e-6, "mm²/s")])
def test_an_adc_map_comes_out_in_one_unit_whatever_it_was_in(factor, unit):
    given = an_adc().with_array(an_adc().array * np.float32(factor))
    volume, notes = checked_sequence(given, Sequence.ADC, "adc.nii.gz")
    np.testing.assert_allclose(volume.array, an_adc().array, rtol=1e-5)
    assert notes == ([] if factor == 1 else [f"'adc.nii.gz' was in {unit} by its range; converted to 1e-6 mm²/s."])


def test_zeros_around_the_body_do_not_disguise_the_unit():
    array = an_adc().array.copy()
    array[:, :3] = 0
    array[:, :, :4] = 0
    assert adc_unit(array) == "1e-6 mm²/s"


@pytest.mark.parametrize("factor", [0.01, 10.0, 1e-4, 1e4])
def test_an_adc_map_in_no_known_unit_is_refused(factor):
    given = an_adc().with_array(an_adc().array * np.float32(factor))
    with pytest.raises(ImageError, match=r"must be an ADC map in mm²/s, 1e-3 mm²/s or 1e-6 mm²/s .* has median"):
        checked_sequence(given, Sequence.ADC, "adc.nii.gz")


@pytest.mark.parametrize("image", [a_t2w(), an_hbv()])
def test_another_sequence_is_no_adc_map(image):
    dim = image.with_array(image.array // 2)
    with pytest.raises(ImageError, match="Select the ADC map"):
        checked_sequence(dim, Sequence.ADC, "adc.nii.gz")


@pytest.mark.parametrize("sequence", list(Sequence))
def test_a_label_map_is_no_image(sequence):
    with pytest.raises(ImageError, match=f"must be a {sequence} image, but has only 2 different values"):
        checked_sequence(a_gland(), sequence, "gland.nii.gz")


def test_an_image_without_signal_is_refused():
    with pytest.raises(ImageError, match="must hold signal above 0"):
        checked_sequence(a_t2w().with_array(-a_t2w().array), Sequence.T2W, "t2w.nii.gz")


@pytest.mark.parametrize("sequence", [Sequence.T2W, Sequence.HBV])
def test_a_ct_is_no_mr_image(sequence):
    hounsfield = a_t2w().array - np.int16(600)
    hounsfield[:, :3] = -1000
    with pytest.raises(
        ImageError, match=f"must be a {sequence} image of MR, but [0-9]+% .* below -500, as air does in CT"
    ):
        checked_sequence(a_t2w().with_array(hounsfield), sequence, "ct.nii.gz")


def test_a_small_offset_makes_no_ct():
    shifted = a_t2w().array - np.int16(400)
    volume, notes = checked_sequence(a_t2w().with_array(shifted), Sequence.T2W, "t2w.nii.gz")
    assert (volume.array.min() < 0, notes) == (True, [])


def test_a_t2w_with_the_values_of_an_adc_map_is_taken_with_a_doubt():
    _, notes = checked_sequence(an_adc(), Sequence.T2W, "t2w.nii.gz")
    assert notes == ["'t2w.nii.gz' was given as t2w, but its values could be those of an ADC map; check it."]


def test_the_given_volume_stays_as_it_was():
    given = an_adc().with_array(an_adc().array * np.float32(1e-6))
    before = given.array.copy()
    checked_sequence(given, Sequence.ADC, "adc.nii.gz")
    np.testing.assert_array_equal(given.array, before)
