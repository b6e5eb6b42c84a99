"""Bundles on disk: written whole, read strictly, checked before use, readable by MONAI."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import torch
from bundles import make_bundle
from networks import SMALL_SPECS, small_network
from specs import MODELS, PROFOUND_ENCODER

from VFMTransferLib.bundles.bundle import Bundle, read_bundle, read_index, verify, write_bundle
from VFMTransferLib.bundles.metadata import METADATA, WEIGHTS, spec_from_json, spec_to_json
from VFMTransferLib.bundles.weights import load_network
from VFMTransferLib.core.errors import BundleError, ChecksumError, OutputError
from VFMTransferLib.core.files import file_sha256
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.metrics.operating_point import OperatingPoint

ANATOMY = "profound-upernet-anatomy"


@pytest.fixture
def a_bundle(tmp_path) -> Bundle:
    return make_bundle(
        tmp_path / "a-network",
        arm=Arm.SCRATCH,
        training={"seed": 7, "split": {"train": ["p1"], "test": ["p2"]}},
        metrics={"dice": 0.9},
        license="CC-BY-4.0",
        demonstration=True,
    )


@pytest.fixture
def change_metadata(a_bundle):
    def change(edit) -> None:
        path = a_bundle.folder / METADATA
        document = json.loads(path.read_text(encoding="utf-8"))
        edit(document)
        path.write_text(json.dumps(document), encoding="utf-8")

    return change


def test_what_is_written_is_read(a_bundle):
    assert read_bundle(a_bundle.folder) == a_bundle


@pytest.mark.parametrize(
    ("training", "was"),
    [
        ({"config": {"split": {"train": ["p1"], "validation": ["p2"], "test": ["p3"]}}}, {"p1", "p2"}),
        ({"config": {"split": {"train": ["phantom-0007", "phantom-of-our-lab"]}}}, {"phantom-of-our-lab"}),
        ({"config": {"split": {"train": ["p2"]}}, "start": {"bundle": "b", "cases": ["p3"]}}, {"p2", "p3"}),
        ({"config": ["p1"], "cases": "p1", "start": "scratch"}, set()),
    ],
)
def test_a_bundle_names_the_cases_that_it_was_learned_from_but_phantoms(a_bundle, training, was):
    bundle = replace(a_bundle, training=training)
    names = ("p1", "p2", "p3", "p", "phantom-0007", "phantom-of-our-lab")
    assert {name for name in names if bundle.was_trained_on(name)} == was


def test_an_operating_point_is_kept_and_is_of_networks_that_find_lesions(tmp_path):
    lesions = next(name for name, spec in SMALL_SPECS.items() if spec.task == "lesion-segmentation")
    point = OperatingPoint(0.82, 24)
    bundle = read_bundle(make_bundle(tmp_path / "a", lesions, operating_point=point).folder)
    assert bundle.operating_point == point
    assert point.note in bundle.card_path.read_text(encoding="utf-8")
    path = bundle.folder / METADATA
    document = json.loads(path.read_text(encoding="utf-8"))
    schema = json.loads(files("VFMTransferLib").joinpath("bundles/bundle.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)
    document["vfm_transfer"]["operating_point"]["min_confidence"] = 1.5
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match="operating_point"):
        read_bundle(bundle.folder)
    with pytest.raises(BundleError, match="operating_point"):
        make_bundle(tmp_path / "b", operating_point=point)


@pytest.mark.parametrize("spec", [*MODELS.values(), PROFOUND_ENCODER], ids=lambda spec: spec.name)
def test_every_registry_row_survives_json(spec):
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


@pytest.mark.parametrize("name", SMALL_SPECS)
def test_every_network_fits_the_schema(tmp_path, name):
    schema = json.loads(files("VFMTransferLib.bundles").joinpath("bundle.schema.json").read_text(encoding="utf-8"))
    metadata = json.loads((make_bundle(tmp_path / "b", name).folder / METADATA).read_text(encoding="utf-8"))
    jsonschema.validate(metadata, schema)


def in_model(*keys: str, **values: object):
    """An edit of the network's specification in the metadata."""

    def edit(document) -> None:
        place = document["vfm_transfer"]["model"]
        for key in keys:
            place = place[key]
        place.update(values)

    return edit


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda d: d.pop("vfm_transfer"), "vfm_transfer"),
        (lambda d: d["vfm_transfer"].pop("sha256"), "sha256"),
        (lambda d: d["vfm_transfer"].update(extra=1), "extra"),
        (lambda d: d["vfm_transfer"].update(format=2), "format"),
        (lambda d: d["vfm_transfer"].update(arm="both"), "arm"),
        (lambda d: d["vfm_transfer"].update(demonstration="yes"), "demonstration"),
        (lambda d: d["vfm_transfer"].update(name="../up"), "name"),
        (lambda d: d["vfm_transfer"].update(sha256={}), "sha256"),
        (lambda d: d["vfm_transfer"].update(sha256={WEIGHTS: "12"}), "64 hex digits"),
        (lambda d: d["vfm_transfer"]["sha256"].update({"../x": "0" * 64}), "sha256"),
        (lambda d: d["vfm_transfer"].update(labels=[]), "labels"),
        (lambda d: d["vfm_transfer"].update(model=[]), "model"),
        (in_model(threshold=True), "threshold"),
        (in_model(colour="red"), "colour"),
        (in_model(task="dancing"), "task"),
        (in_model("encoder", kind="cnn"), "encoder.kind"),
        (in_model("encoder", in_channels=-1), "encoder.in_channels"),
        (in_model("head", auxiliary_width=-1), "head"),
        (in_model("preprocess", spacing_mm=[1, 1]), "spacing_mm"),
        (in_model("preprocess", spacing_mm=[0.5, float("nan"), 3.0]), "NaN"),
        (in_model("preprocess", patch=[0, 8, 8]), "patch"),
        (in_model("preprocess", sequences=["t1"]), "sequences"),
        (lambda d: d.update(version=3), "version"),
    ],
)
def test_broken_metadata_are_refused_by_the_name_of_the_key(a_bundle, change_metadata, edit, key):
    change_metadata(edit)
    with pytest.raises(BundleError, match=key):
        read_bundle(a_bundle.folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe\x00{", b"[" * 100_000])
def test_metadata_that_are_no_object_are_refused(a_bundle, content):
    (a_bundle.folder / METADATA).write_bytes(content)
    with pytest.raises(BundleError, match=r"metadata\.json"):
        read_bundle(a_bundle.folder)


def test_a_folder_without_metadata_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="not a bundle"):
        read_bundle(tmp_path)


def test_tampered_missing_and_unlisted_files_are_refused(a_bundle):
    content = bytearray(a_bundle.weights_path.read_bytes())
    a_bundle.weights_path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ChecksumError, match="damaged"):
        load_network(a_bundle)
    a_bundle.weights_path.write_bytes(content)
    a_bundle.onnx_path.write_bytes(b"graph")
    with pytest.raises(BundleError, match="checksum"):
        load_network(a_bundle)
    a_bundle.onnx_path.unlink()
    a_bundle.weights_path.unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        load_network(a_bundle)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_weights_that_are_not_finite_or_huge_are_refused(a_bundle, change_metadata, value):
    path = a_bundle.weights_path
    tensor = next(t for t in read_index(path).values() if t.dtype == "F32")
    content = bytearray(path.read_bytes())
    content[tensor.offset : tensor.offset + 4] = np.array(value, "<f4").tobytes()
    path.write_bytes(content)
    change_metadata(lambda d: d["vfm_transfer"]["sha256"].update({WEIGHTS: file_sha256(path)}))
    with pytest.raises(BundleError, match="finite"):
        verify(read_bundle(a_bundle.folder))


def test_weights_are_stored_in_half_precision_when_asked(tmp_path):
    whole = make_bundle(tmp_path / "whole")
    half = make_bundle(tmp_path / "half", half=True)
    assert {t.dtype for n, t in read_index(whole.weights_path).items() if "batches" not in n} == {"F32"}
    assert {t.dtype for n, t in read_index(half.weights_path).items() if "batches" not in n} == {"F16"}


def test_weights_too_large_for_half_precision_are_refused_and_nothing_is_left(tmp_path):
    bundle = Bundle(tmp_path / "big", "big", "Big", "1.0.0", SMALL_SPECS["profound-classifier"])
    with pytest.raises(BundleError, match="finite"):
        write_bundle(bundle, {"w": torch.tensor([1e6])}, half=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_may_be_arrays(tmp_path):
    bundle = Bundle(tmp_path / "b", "b", "B", "1.0.0", SMALL_SPECS["profound-classifier"])
    weights = {"w": np.arange(6, dtype=np.float64).reshape(2, 3).T}
    index = read_index(write_bundle(bundle, weights).weights_path)
    assert index["w"].shape == (3, 2)
    assert index["w"].dtype == "F32"


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(a_bundle):
    weights = small_network("profound-classifier").state_dict()
    with pytest.raises(OutputError, match="exist"):
        write_bundle(a_bundle, weights)
    newer = write_bundle(replace(a_bundle, version="2.0.0"), weights, overwrite=True)
    assert read_bundle(a_bundle.folder) == newer
    assert [path.name for path in a_bundle.folder.parent.iterdir()] == ["a-network"]


def test_a_failed_replacement_keeps_the_old_bundle(a_bundle):
    broken = replace(a_bundle, version="not a version")
    with pytest.raises(BundleError, match="version"):
        write_bundle(broken, small_network("profound-classifier").state_dict(), overwrite=True)
    assert read_bundle(a_bundle.folder) == a_bundle
    assert [path.name for path in a_bundle.folder.parent.iterdir()] == ["a-network"]


@pytest.mark.parametrize("spoil", [lambda c: c[:-10], lambda c: c[:5], lambda c: c[:8] + b"\xff" + c[9:]])
def test_a_damaged_file_of_weights_is_refused(a_bundle, spoil):
    a_bundle.weights_path.write_bytes(spoil(a_bundle.weights_path.read_bytes()))
    with pytest.raises(BundleError, match="safetensors"):
        read_index(a_bundle.weights_path)


def test_monai_reads_the_metadata_and_builds_and_runs_the_network(tmp_path):
    config = pytest.importorskip("monai.bundle").ConfigParser()
    bundle = make_bundle(tmp_path / "b", ANATOMY)
    config.read_config(bundle.folder / "configs" / "inference.json")
    config.read_meta(bundle.folder / METADATA)
    config["bundle_root"] = str(bundle.folder)
    x = torch.randn(1, 3, 16, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = config.get_parsed_content("network")(x)
        expected = small_network(ANATOMY)(x)
    assert torch.equal(logits, expected)
    assert config.get_parsed_content("network_def").training
    assert config["_meta_#network_data_format#inputs#image#num_channels"] == 3
    assert config["_meta_#vfm_transfer#name"] == "b"


@pytest.mark.parametrize("spec", ["profound-unetr-lesion", "profound-restoration-super-resolution"])
def test_monai_verifies_inputs_and_outputs(tmp_path, spec):
    verify_net_in_out = pytest.importorskip("monai.bundle").verify_net_in_out
    bundle = make_bundle(tmp_path / "b", spec)
    verify_net_in_out(
        net_id="network",
        meta_file=str(bundle.folder / METADATA),
        config_file=str(bundle.folder / "configs" / "inference.json"),
        device="cpu",
        **{"bundle_root": str(bundle.folder), "_meta_#network_data_format#inputs#image#spatial_shape": [16, 32, 32]},
    )
