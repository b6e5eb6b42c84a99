"""Results on disk: names that stay, grids that are the input's, a documented result.json, all or nothing."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import a_small_case, ball

import VFMTransferLib
from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.result import Lesion, Provenance, Result
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.io import results
from VFMTransferLib.io.results import read_result, result_to_json, save_result

SOURCE = Provenance(
    "fake", "A fake network", "scratch", "0" * 64, "onnx", "cpu", "fp32", {"numpy": "2"}, {"infer": 0.5}
)
T2W_GRID = a_small_case()[Sequence.T2W].geometry


@pytest.fixture(scope="module")
def schema() -> dict:
    path = Path(VFMTransferLib.__file__).parent / "io" / "result.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def a_zones_result() -> Result:
    labels = ball(T2W_GRID, (0, 0, 0), 8)
    labels = labels.with_array((labels.array + ball(T2W_GRID, (0, 0, 0), 5).array).astype(np.uint8))
    probability = Volume(np.full(T2W_GRID.shape, 0.25, np.float32), T2W_GRID)
    return Result(
        "p001",
        "anatomy-segmentation",
        SOURCE,
        label_values={"peripheral-zone": 1, "transition-zone": 2},
        labels=labels,
        probabilities={
            "peripheral-zone": probability,
            "transition-zone": probability.with_array(probability.array * 2),
        },
        volumes_ml={"peripheral-zone": 1.0, "transition-zone": 0.5, "prostate": 1.5},
    )


def a_lesion_result() -> Result:
    labels = ball(T2W_GRID, (0, 0, 0), 4)
    return Result(
        "p001",
        "lesion-segmentation",
        SOURCE,
        label_values={"csPCa": 1},
        labels=labels,
        probabilities={"csPCa": labels.with_array(labels.array.astype(np.float32))},
        volumes_ml={"csPCa": labels.volume_ml},
        lesions=(Lesion(1, "csPCa", (0.0, 0.0, 0.0), labels.volume_ml, 1.0, 812.0),),
    )


def an_image_result() -> Result:
    hbv = a_small_case()[Sequence.HBV]
    field = np.broadcast_to(np.array([1, 2, 3], np.float32), (*hbv.geometry.shape, 3))
    return Result(
        "p001",
        "distortion-correction",
        SOURCE,
        images={"hbv-corrected": hbv, "adc-corrected": a_small_case()[Sequence.ADC]},
        displacement_mm=field,
    )


def a_class_result() -> Result:
    return Result("p001", "classification", SOURCE, class_probabilities={"PI-RADS 2": 0.4, "PI-RADS 3": 0.6})


@pytest.mark.parametrize("make", [a_zones_result, a_lesion_result, an_image_result, a_class_result])
def test_result_json_fits_its_schema_and_names_every_file(make, schema, tmp_path):
    folder = save_result(make(), tmp_path / "out")
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)
    assert {p.name for p in folder.iterdir()} == {"result.json", *document["files"]}
    assert document["seconds"]["infer"] == 0.5
    assert document["seconds"]["write"] > 0


def test_label_map_and_probability_lie_on_the_grid_of_the_input(tmp_path):
    folder = save_result(a_lesion_result(), tmp_path / "out")
    for name in ("labels.nii.gz", "probabilities.nii.gz", "segmentation.seg.nrrd"):
        geometry = Volume.from_sitk(sitk.ReadImage(str(folder / name))).geometry
        assert geometry.equals(T2W_GRID), name
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels.nii.gz")))
    np.testing.assert_array_equal(labels, a_lesion_result().labels.array)


def test_several_probabilities_follow_the_order_in_result_json(tmp_path):
    folder = save_result(a_zones_result(), tmp_path / "out")
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    stack = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "probabilities.nii.gz")))
    assert document["probabilities"] == ["peripheral-zone", "transition-zone"]
    assert stack.shape == (2, *T2W_GRID.shape)
    assert (stack[0].max(), stack[1].max()) == (0.25, 0.5)


def test_segmentation_shows_zones_and_the_prostate_they_make_up(tmp_path):
    folder = save_result(a_zones_result(), tmp_path / "out")
    header = (folder / "segmentation.seg.nrrd").read_bytes().split(b"\n\n")[0].decode()
    for name in ("Peripheral zone", "Transition zone", "Prostate"):
        assert f"_Name:={name}" in header


def test_displacement_is_a_vector_field_in_millimeters(tmp_path):
    folder = save_result(an_image_result(), tmp_path / "out")
    field = sitk.ReadImage(str(folder / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    point = a_small_case()[Sequence.HBV].geometry.center_mm
    np.testing.assert_allclose(transform.TransformPoint(point.tolist()), point + np.array([1, 2, 3]), atol=1e-4)


def test_code_is_given_where_a_label_has_a_meaning():
    rows = result_to_json(a_zones_result())["labels"]
    assert rows[0]["code"]["value"] == "279706003"
    assert rows[0]["title"] == "Peripheral zone"


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise OutputError("The disk is full.")

    monkeypatch.setattr(results, "write_segmentation", fail)
    with pytest.raises(OutputError, match="full"):
        save_result(a_lesion_result(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_the_earlier_output(tmp_path, monkeypatch):
    save_result(a_class_result(), tmp_path / "out")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_segmentation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_result(a_lesion_result(), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("files", ["../other.nii.gz"], "the name of a file in the result's folder"),
        ("files", ["/etc/passwd"], "the name of a file in the result's folder"),
        ("files", ["x" * 300], "the name of a file in the result's folder"),
        ("format", 2, "'result.json.format' must be 1, got 2"),
    ],
)
def test_a_result_that_was_changed_is_refused_by_what_cannot_be(tmp_path, key, value, words):
    folder = save_result(a_class_result(), tmp_path / "out")
    save_result(a_class_result(), tmp_path / "other.nii.gz")
    document = json.loads((folder / "result.json").read_text("utf-8"))
    (folder / "result.json").write_text(json.dumps({**document, key: value}), "utf-8")
    with pytest.raises(OutputError, match=f"damaged or was changed: .*{words}.* Predict again"):
        read_result(folder)


def test_of_a_comparison_the_results_of_its_networks_are_named(tmp_path):
    for name in "ab":
        (tmp_path / "both" / name).mkdir(parents=True)
        (tmp_path / "both" / name / "result.json").write_text("{}")
    with pytest.raises(OutputError, match=r"Name the result of one network: 'both/a' or 'both/b'\."):
        read_result(tmp_path / "both")
    with pytest.raises(OutputError, match=r"has no result\.json that can be read\. Predict again\."):
        read_result(tmp_path)
