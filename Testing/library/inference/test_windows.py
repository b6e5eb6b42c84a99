"""Windows and slices through a network that is a plain function."""

import numpy as np
import pytest
from prediction_cases import FakeSession, ball, with_preprocess
from specs import MODELS, prepare

from VFMTransferLib.core.errors import BundleError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders.inputs import neighbor_slices, scale_slices
from VFMTransferLib.inference.windows import infer


@pytest.mark.parametrize("whole_volume", [True, False])
def test_network_that_returns_its_first_channel_gives_back_the_input(a_case, whole_volume):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 32, 48), whole_volume=whole_volume)
    prepared = prepare(a_case, spec)
    session = FakeSession(lambda x: x[:, :1])
    (z, y, x), (depth, height, width) = prepared.box
    logits = infer(session.run, prepared, spec)
    expected = prepared.array[:1, z : z + depth, y : y + height, x : x + width]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert {a[0].shape for a in session.seen} == {(1, 3, 16, 32, 48)}
    assert len(session.seen) == len(prepared.starts)


def test_shifted_crops_count_alike_wherever_they_lie(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 16, 16), shift_voxels=4)
    prepared = prepare(a_case, spec)
    outputs = iter([1.0, 2.0, 3.0, 4.0])
    logits = infer(FakeSession(lambda x: np.full((1, 1, 16, 16, 16), next(outputs))).run, prepared, spec)
    assert logits.shape == (1, 16, 24, 24)
    # By hand: the middle lies in all four, a corner in one, the middle of an edge in two.
    assert logits[0, 8, 12, 12] == 2.5
    assert [logits[0, 8, y, x] for y, x in ((0, 0), (0, 23), (23, 0), (23, 23))] == [1, 2, 3, 4]
    assert [logits[0, 8, y, x] for y, x in ((0, 12), (12, 0))] == [1.5, 2]


def test_classifier_gives_one_vector(a_case):
    spec = with_preprocess("profound-classifier", patch=(16, 32, 48))
    logits = infer(FakeSession(lambda x: np.array([[1.0, 2.0, 3.0, 4.0]])).run, prepare(a_case, spec), spec)
    assert logits.tolist() == [1, 2, 3, 4]


def test_fraction_grows_to_one(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 32, 48), whole_volume=True)
    fractions = []
    infer(FakeSession(lambda x: x[:, :1]).run, prepare(a_case, spec), spec, fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_provicnet_sees_each_sequence_with_its_neighbors_and_its_place(a_case):
    spec = with_preprocess("provicnet-fusion", patch=(1, 32, 32))
    prepared = prepare(a_case, spec, gland=ball(a_case[Sequence.T2W].geometry, (0, 0, 0), 8))
    session = FakeSession(lambda t2w, adc, hbv, positions: np.repeat(t2w[:, 1:2, ::14, ::14], 4, axis=1))
    logits = infer(session.run, prepared, spec)
    assert logits.shape == (4, 9, 32, 32)
    assert [arrays[-1].tolist() for arrays in session.seen] == [[[z, 9]] for z in range(9)]
    _, y, x = prepared.starts[0]
    for stream in range(3):
        for z in (0, 1, 5, 8):
            neighbors = prepared.array[stream, list(neighbor_slices(z, 9)), y : y + 32, x : x + 32]
            np.testing.assert_allclose(session.seen[z][stream][0], scale_slices(neighbors, 448), atol=1e-5)


@pytest.mark.parametrize("count", [2, 4])
def test_few_slices_give_as_many_outputs(a_case, count):
    spec = with_preprocess("provicnet-t2w", patch=(1, 32, 32))
    t2w = a_case[Sequence.T2W]
    few = type(t2w)(t2w.array[:count], t2w.geometry.crop((0, 0, 0), (40, 36, count)), "t2w")
    case = type(a_case)("p002", {Sequence.T2W: few})
    gland = ball(few.geometry, few.geometry.center_mm, 8)
    prepared = prepare(case, spec, gland=gland)
    session = FakeSession(lambda image, positions: np.zeros((1, 4, 32, 32), np.float32))
    assert infer(session.run, prepared, spec).shape == (4, count, 32, 32)


def test_output_of_another_size_is_refused(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 32, 48))
    with pytest.raises(BundleError, match="does not describe its weights"):
        infer(FakeSession(lambda x: x).run, prepare(a_case, spec), spec)
    assert MODELS["profound-upernet-lesion"].head.out_channels == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_that_is_no_number_is_refused(a_case, value):
    spec = with_preprocess("profound-classifier", patch=(16, 32, 48))
    session = FakeSession(lambda x: np.array([[1.0, value, 3.0, 4.0]]))
    with pytest.raises(BundleError, match=r"must give finite numbers.*fp32"):
        infer(session.run, prepare(a_case, spec), spec)
