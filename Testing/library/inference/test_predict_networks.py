"""Real small networks with made-up weights, on disk, through both runtimes: one answer."""

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import a_small_case, ball, predict, with_preprocess
from specs import prepare

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from networks import SMALL_SPECS, with_made_up_weights

from VFMTransferLib.bundles.bundle import Bundle, write_bundle
from VFMTransferLib.bundles.onnx_export import export_onnx
from VFMTransferLib.bundles.weights import load_network
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.result import Result
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.encoders import build_network
from VFMTransferLib.inference.predict import ONE_PASS_NOTE
from VFMTransferLib.inference.runtimes import open_session
from VFMTransferLib.inference.windows import infer
from VFMTransferLib.io.results import result_to_json, save_result

# One of each kind of input and output; a window that is smaller than the case in plane, and larger in depth.
NAMES = (
    "profound-classifier",
    "profound-upernet-anatomy",
    "profound-restoration-distortion-correction",
    "provicnet-anatomy",
    "provicnet-classifier",
    "provicnet-fusion",
    "provicnet-restoration-distortion-correction",
)


@pytest.fixture(scope="module")
def a_case() -> Case:
    case = a_small_case()
    return replace(case, gland=ball(case[Sequence.T2W].geometry, (1, 2, 0), 9))


@pytest.fixture(scope="module", params=NAMES)
def bundle(request, tmp_path_factory) -> Bundle:
    spec = SMALL_SPECS[request.param]
    if spec.family == "profound":
        spec = with_preprocess(spec, patch=(32, 48, 48))
    weights = with_made_up_weights(build_network(spec)).state_dict()
    folder = tmp_path_factory.mktemp("bundles") / spec.name
    return export_onnx(write_bundle(Bundle(folder, spec.name, spec.title, "1.0.0", spec), weights))


def test_both_runtimes_give_one_result(bundle, a_case, tmp_path):
    onnx, torch = (predict(a_case, bundle, runtime=runtime) for runtime in ("onnx", "torch"))
    assert (onnx.provenance.runtime, torch.provenance.runtime) == ("onnx", "torch")
    assert onnx.class_probabilities == pytest.approx(torch.class_probabilities, abs=1e-4)
    for first, second in zip(volumes_of(onnx), volumes_of(torch), strict=True):
        assert first.geometry == second.geometry
        scale = max(1.0, np.abs(first.array).max())
        np.testing.assert_allclose(first.array / scale, second.array / scale, atol=1e-3)
    assert save_result(onnx, tmp_path / "out").is_dir()


def test_a_correction_that_does_harm_is_withheld_from_the_user(bundle, a_case):
    result = predict(a_case, bundle)
    if result.displacement_mm is None:
        pytest.skip("the network corrects no distortion")
    # Made-up weights find nothing.
    assert any(note.text.startswith("The correction was withheld") for note in result.provenance.notes)
    np.testing.assert_array_equal(result.images["hbv-corrected"].array, a_case[Sequence.HBV].array)
    assert result_to_json(result)["withheld"]


@pytest.fixture(scope="module", params=["upernet", "unetr"])
def anatomy(request, tmp_path_factory) -> Bundle:
    """A network that its authors run on the whole volume, in which GRN and pooling see all of the input."""
    spec = with_preprocess(SMALL_SPECS[f"profound-{request.param}-anatomy"], patch=(16, 32, 32))
    weights = with_made_up_weights(build_network(spec)).state_dict()
    folder = tmp_path_factory.mktemp("anatomy") / spec.name
    return export_onnx(write_bundle(Bundle(folder, spec.name, spec.title, "1.0.0", spec), weights))


@pytest.mark.parametrize("graph", ["model.onnx", "model-cpu.onnx"])
def test_a_whole_volume_goes_through_at_once_as_in_plain_pytorch(anatomy, a_case, graph, monkeypatch):
    import torch

    used = anatomy.folder / "models" / graph
    monkeypatch.setattr(Bundle, "cpu_onnx_path", property(lambda self: used))
    session, seen = open_session(anatomy, "onnx", "cpu"), []

    def run(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return session.run(x)

    prepared = prepare(a_case, anatomy.spec, one_pass=True)
    logits = infer(run, prepared, anatomy.spec)
    depth, height, width = prepared.geometry.shape
    assert (depth, height, width) == (27, 65, 72)
    assert [x.shape[2:] for x in seen] == [(32, 80, 80) if anatomy.spec.head.kind == "unetr" else (27, 65, 72)]
    z, y, x = ((padded - n) // 2 for padded, n in zip(seen[0].shape[2:], prepared.geometry.shape, strict=True))
    np.testing.assert_array_equal(seen[0][0, :, z : z + depth, y : y + height, x : x + width], prepared.array)
    with torch.inference_mode():
        expected = load_network(anatomy)(torch.from_numpy(seen[0])).numpy()[0]
    expected = expected[:, z : z + depth, y : y + height, x : x + width]
    np.testing.assert_allclose(logits, expected, atol=5e-5 * np.abs(expected).max())


def test_a_whole_volume_is_predicted_in_one_pass_where_memory_allows(anatomy, a_case):
    result = predict(a_case, anatomy, runtime="onnx")
    expected = predict(a_case, anatomy, runtime="torch")
    assert ONE_PASS_NOTE in result.provenance.notes
    assert result.label_values == expected.label_values
    for one, other in zip(volumes_of(result), volumes_of(expected), strict=True):
        np.testing.assert_allclose(one.array, other.array, atol=1e-4)


def volumes_of(result: Result):
    return [*result.probabilities.values(), *result.images.values()]


def test_a_folder_stands_for_its_bundle(a_case, bundle):
    assert type(load_network(str(bundle.folder))) is type(load_network(bundle))
    by_folder, by_bundle = predict(a_case, bundle.folder), predict(a_case, bundle)
    assert by_folder.provenance.sha256 == by_bundle.provenance.sha256 != ""
