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
from VFMTransferLib.bundles.metadata import METADATA, ONNX, WEIGHTS, spec_from_json, spec_to_json
from VFMTransferLib.core.errors import BundleError, ChecksumError, OutputError
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
        ({"config": {"split": {"train": "p1", "validation": None}}}, set()),
        ({"config": {"split": ["p1"]}}, set()),
        ({"config": ["p1"]}, set()),
        ({"cases": ["p1", "phantom-0007"]}, {"p1"}),
        ({"config": {"split": {"train": ["p2"]}}, "start": {"bundle": "b", "cases": ["p3"]}}, {"p2", "p3"}),
        ({"cases": [["p1"], 3], "start": "scratch"}, set()),
        ({}, set()),
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
    with pytest.raises(BundleError, match=r"min_confidence' must be from 0 to 1, got 1\.5"):
        read_bundle(bundle.folder)
    with pytest.raises(BundleError, match="operating_point' must be absent, since the network finds no lesions"):
        make_bundle(tmp_path / "b", operating_point=point)


def test_the_layout_is_monais(a_bundle):
    for name in (METADATA, "configs/inference.json", WEIGHTS, "docs/README.md", "LICENSE"):
        assert (a_bundle.folder / name).is_file(), name


def test_the_model_card_states_what_a_demonstration_is(a_bundle):
    card = a_bundle.card_path.read_text(encoding="utf-8")
    assert "Demonstration network" in card
    assert "research use only" in card
    assert "scratch" in card


@pytest.mark.parametrize("spec", [*MODELS.values(), PROFOUND_ENCODER], ids=lambda spec: spec.name)
def test_every_registry_row_survives_json(spec):
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


@pytest.mark.parametrize("name", SMALL_SPECS)
def test_every_network_fits_the_schema(tmp_path, name):
    schema = json.loads(files("VFMTransferLib.bundles").joinpath("bundle.schema.json").read_text(encoding="utf-8"))
    metadata = json.loads((make_bundle(tmp_path / "b", name).folder / METADATA).read_text(encoding="utf-8"))
    jsonschema.validate(metadata, schema)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("vfm_transfer"), "block vfm_transfer"),
        (lambda d: d["vfm_transfer"].pop("sha256"), "'vfm_transfer' must hold .* but lacks sha256"),
        (lambda d: d["vfm_transfer"].update(extra=1), "'vfm_transfer' must hold only .* also holds 'extra'"),
        (lambda d: d["vfm_transfer"].update(format=2), "'vfm_transfer.format' must be 1, got 2"),
        (lambda d: d["vfm_transfer"].update(arm="both"), "vfm_transfer.arm"),
        (lambda d: d["vfm_transfer"].update(demonstration="yes"), "'vfm_transfer.demonstration' must be true or false"),
        (lambda d: d["vfm_transfer"].update(name="../up"), "'vfm_transfer.name' must be a short name"),
        (lambda d: d["vfm_transfer"].update(sha256={}), "models/model.safetensors"),
        (lambda d: d["vfm_transfer"].update(sha256={WEIGHTS: "12"}), "64 hex digits"),
        (
            lambda d: d["vfm_transfer"]["sha256"].update({"../x": "0" * 64}),
            "must be one of models/model",
        ),
        (lambda d: d["vfm_transfer"].update(labels=[]), "vfm_transfer.labels"),
        (lambda d: d["vfm_transfer"].update(model=[]), "'vfm_transfer.model' must be an object"),
        (lambda d: d["vfm_transfer"]["model"].pop("threshold"), "model' must hold .* but lacks threshold"),
        (lambda d: d["vfm_transfer"]["model"].update(threshold="0.5"), "model.threshold' must be a finite number"),
        (lambda d: d["vfm_transfer"]["model"].update(threshold=True), "model.threshold' must be a finite number"),
        (lambda d: d["vfm_transfer"]["model"].update(colour="red"), "model' must hold only .* also holds 'colour'"),
        (lambda d: d["vfm_transfer"]["model"].update(task="dancing"), "model.task' must be one of"),
        (lambda d: d["vfm_transfer"]["model"].update(activation="relu"), "model.activation' must be one of"),
        (lambda d: d["vfm_transfer"]["model"]["encoder"].update(kind="cnn"), "model.encoder.kind"),
        (lambda d: d["vfm_transfer"]["model"]["encoder"].update(dims=[8, 12]), "model.encoder.dims"),
        (lambda d: d["vfm_transfer"]["model"]["head"].update(width=1.5), "model.head.width' must be a whole number"),
        (
            lambda d: d["vfm_transfer"]["model"]["head"].update(auxiliary_width=-1),
            "head.auxiliary_width' must be 0 or more, got -1",
        ),
        (
            lambda d: d["vfm_transfer"]["model"]["encoder"].update(in_channels=-1),
            "model.encoder.in_channels' must be positive, got -1",
        ),
        (
            lambda d: d["vfm_transfer"]["model"]["preprocess"].update(spacing_mm=[1, 1]),
            "spacing_mm' must be a list of 3",
        ),
        (lambda d: d["vfm_transfer"]["model"]["preprocess"].update(patch=[0, 8, 8]), "patch' must be positive"),
        (
            lambda d: d["vfm_transfer"]["model"]["preprocess"].update(sequences=["t1"]),
            r"sequences\[0\]' must be one of",
        ),
        (lambda d: d.update(version=3), "'version' must be text"),
    ],
)
def test_broken_metadata_are_refused_by_the_name_of_the_key(a_bundle, change_metadata, edit, message):
    change_metadata(edit)
    with pytest.raises(BundleError, match=message):
        read_bundle(a_bundle.folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\ufffd"])
def test_metadata_that_are_no_object_are_refused(a_bundle, content):
    (a_bundle.folder / METADATA).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=r"metadata.json must be"):
        read_bundle(a_bundle.folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(a_bundle, change_metadata, number):
    change_metadata(lambda d: d["vfm_transfer"]["model"]["preprocess"].update(spacing_mm=[0.5, number, 3.0]))
    with pytest.raises(BundleError, match=r"must be JSON, but is not \(it holds (NaN|Infinity)\)"):
        read_bundle(a_bundle.folder)


def test_metadata_of_another_encoding_are_refused(a_bundle):
    (a_bundle.folder / METADATA).write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(BundleError, match="must be JSON"):
        read_bundle(a_bundle.folder)


def test_a_folder_without_metadata_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="must be a bundle"):
        read_bundle(tmp_path)


def test_tampered_weights_are_refused(a_bundle):
    content = bytearray(a_bundle.weights_path.read_bytes())
    content[-1] ^= 1
    a_bundle.weights_path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"model\.safetensors of bundle 'a-network' must have sha256"):
        verify(a_bundle)


def test_missing_weights_are_refused(a_bundle):
    a_bundle.weights_path.unlink()
    with pytest.raises(BundleError, match=r"must contain models/model\.safetensors"):
        verify(a_bundle)


def test_an_onnx_graph_without_a_checksum_is_refused(a_bundle):
    a_bundle.onnx_path.write_bytes(b"graph")
    with pytest.raises(BundleError, match=r"must state the checksum of models/model\.onnx"):
        verify(a_bundle)
    assert ONNX not in a_bundle.sha256


def test_weights_are_stored_in_half_precision_when_asked(tmp_path):
    whole = make_bundle(tmp_path / "whole")
    half = make_bundle(tmp_path / "half", half=True)
    assert {t.dtype for n, t in read_index(whole.weights_path).items() if "batches" not in n} == {"F32"}
    assert {t.dtype for n, t in read_index(half.weights_path).items() if "batches" not in n} == {"F16"}


def test_weights_too_large_for_half_precision_are_refused_and_nothing_is_left(tmp_path):
    bundle = Bundle(tmp_path / "big", "big", "Big", "1.0.0", SMALL_SPECS["profound-classifier"])
    with pytest.raises(BundleError, match="'w' must be finite in half precision"):
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
    with pytest.raises(OutputError, match="must not exist yet"):
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


def test_a_truncated_file_of_weights_is_named(a_bundle):
    content = a_bundle.weights_path.read_bytes()
    a_bundle.weights_path.write_bytes(content[:-10])
    with pytest.raises(BundleError, match="bytes by its header"):
        read_index(a_bundle.weights_path)
    a_bundle.weights_path.write_bytes(content[:5])
    with pytest.raises(BundleError, match="header is damaged"):
        read_index(a_bundle.weights_path)


def test_monai_runs_a_bundle_on_a_case(tmp_path, a_study):
    config = pytest.importorskip("monai.bundle").ConfigParser()
    bundle = make_bundle(tmp_path / "b", ANATOMY)
    config.read_config(bundle.folder / "configs" / "inference.json")
    config["bundle_root"], config["case"], config["output_dir"] = (
        str(bundle.folder),
        str(a_study),
        str(tmp_path / "out"),
    )
    config.get_parsed_content("run")
    assert (tmp_path / "out" / "result.json").is_file()


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
