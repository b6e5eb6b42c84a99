"""Import: the authors' files and foreign bundles become bundles of the user's, whole or not at all."""

import argparse
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import make_bundle
from networks import inputs, small_network

from VFMTransferLib.bundles import importing
from VFMTransferLib.bundles.bundle import Bundle, read_bundle
from VFMTransferLib.bundles.catalog import find_bundle, read_catalog
from VFMTransferLib.bundles.importing import bundle_name, import_files
from VFMTransferLib.bundles.metadata import METADATA, WEIGHTS
from VFMTransferLib.bundles.weights import load_network
from VFMTransferLib.core.errors import BundleError, CheckpointError, ChecksumError, OutputError, RuntimeUnavailableError
from VFMTransferLib.core.terms import Arm, Sequence
from VFMTransferLib.inference.runtimes import open_session

SIZE = (16, 32, 48)


def profound_file(path: Path, name: str) -> Path:
    """A file in ProFound's container."""
    state = small_network(name).state_dict()
    args = argparse.Namespace(lr=1e-3, output_dir="runs")
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3, "scaler": {}, "args": args}, path)
    return path


def provicnet_files(folder: Path) -> list[Path]:
    """ProViCNet's four files, as tables of tensors."""
    state = small_network("provicnet-fusion").state_dict()
    names = {"t2w.": "T2_best.pth", "adc.": "ADC_best.pth", "dwi.": "DWI_best.pth", "fusion.": "mpMRI_Fusion_best.pth"}
    for prefix, name in names.items():
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        torch.save(part, folder / name)
    return [folder / name for name in names.values()]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "out" / "imported"


@pytest.fixture
def a_bundle(tmp_path) -> Bundle:
    return make_bundle(tmp_path / "source", name="their-network", onnx=True)


@pytest.fixture
def a_zip(a_bundle, tmp_path):
    """Makes a zip of the bundle, its members changed by a function."""

    def make(edit=lambda members: members, prefix: str = "") -> Path:
        members = {prefix + name: (a_bundle.folder / name).read_bytes() for name in files_in(a_bundle.folder)}
        path = tmp_path / "bundle.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in edit(members).items():
                archive.writestr(name, content)
        return path

    return make


@pytest.mark.parametrize("name", ["profound-classifier", "profound-upernet-anatomy"])
def test_a_profound_file_becomes_a_bundle_that_both_runtimes_run(tmp_path, target, name):
    bundle = import_files([profound_file(tmp_path / "model.pth.tar", name)], target)
    x = inputs(bundle.spec, SIZE)[0]
    with torch.inference_mode():
        expected = small_network(name)(x).numpy()
    for runtime in ("onnx", "torch"):
        np.testing.assert_allclose(open_session(bundle, runtime, "cpu").run(x.numpy()), expected, rtol=1e-3, atol=1e-4)
    assert bundle == read_bundle(target)
    assert (bundle.name, bundle.arm) == ("imported", Arm.PRETRAINED)
    assert bundle.license == "not stated by the authors"
    assert bundle.training["source"][0]["file"] == "model.pth.tar"
    assert not bundle.demonstration


def test_the_sequence_of_a_provicnet_file_is_in_its_name_or_stated(tmp_path, target):
    adc = provicnet_files(tmp_path)[1]
    assert import_files([adc], target, export=False).spec.name == "provicnet-adc"
    unnamed = adc.rename(tmp_path / "best.pth")
    with pytest.raises(CheckpointError, match="State the sequence"):
        import_files([unnamed], tmp_path / "other", export=False)
    bundle = import_files([unnamed], tmp_path / "other", sequence="hbv", export=False)
    assert bundle.spec.preprocess.sequences == (Sequence.HBV,)
    assert bundle.license == "MIT"


@pytest.mark.parametrize("option", [{"sequence": "adc"}, {"keep_fusion_streams": True}, {"export": False}])
def test_a_bundle_is_taken_as_it_is(a_zip, target, option):
    with pytest.raises(CheckpointError, match="taken as it is"):
        import_files([a_zip()], target, **option)
    assert not target.exists()


def test_four_provicnet_files_become_one_fusion(tmp_path, target):
    bundle = import_files(provicnet_files(tmp_path), target)
    arrays = inputs(bundle.spec, SIZE)
    with torch.inference_mode():
        expected = load_network(bundle)(*arrays).numpy()
    found = open_session(bundle, "onnx", "cpu").run(*(array.numpy() for array in arrays))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert bundle.spec.name == "provicnet-fusion"
    assert "upstream" in bundle.training["fusion_streams_from"]


def test_the_fusions_own_streams_are_kept_when_asked(tmp_path, target):
    files = provicnet_files(tmp_path)
    own = load_network(import_files(files, target, keep_fusion_streams=True, export=False)).state_dict()
    copied = load_network(import_files(files, tmp_path / "copied", export=False)).state_dict()
    key = "fusion.Stream_ADC.UpsampleModule.1.weight"
    assert torch.equal(own[key], torch.load(files[3], weights_only=True)[key.removeprefix("fusion.")])
    assert torch.equal(copied[key], copied["adc.head.segmentation_conv.1.weight"])
    assert not torch.equal(own[key], copied[key])


def test_without_a_folder_the_bundle_joins_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tmp_path / "mine"))
    bundle = import_files([profound_file(tmp_path / "c.pth.tar", "profound-classifier")], export=False)
    assert bundle.folder == tmp_path / "mine" / "profound-classifier"


class Planted:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_shipped_name_is_refused_among_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tmp_path))
    shipped = read_catalog().bundles[0]
    with pytest.raises(BundleError, match=f"'{shipped.name}' came with the product"):
        import_files([shipped.folder])
    assert import_files([shipped.folder], name="mine").folder == tmp_path / "mine"
    assert find_bundle(shipped.name).folder == shipped.folder


def test_a_file_with_another_object_is_refused_and_nothing_of_it_runs(tmp_path, target):
    planted = tmp_path / "planted"
    torch.save({"model": small_network("profound-classifier").state_dict(), "x": Planted(planted)}, tmp_path / "f.pth")
    with pytest.raises(CheckpointError, match="refused"):
        import_files([tmp_path / "f.pth"], target)
    assert not planted.exists()
    assert not target.exists()


def test_a_failed_export_leaves_nothing(tmp_path, target, monkeypatch):
    def fail(bundle):
        raise BundleError("The ONNX graph must agree.")

    monkeypatch.setattr("VFMTransferLib.bundles.onnx_export.export_onnx", fail)
    with pytest.raises(BundleError, match="must agree"):
        import_files([profound_file(tmp_path / "c.pth.tar", "profound-classifier")], target)
    assert not target.parent.exists()


def test_a_folder_in_use_is_kept(tmp_path, target):
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("mine", encoding="utf-8")
    file = profound_file(tmp_path / "c.pth.tar", "profound-classifier")
    with pytest.raises(OutputError, match="exist"):
        import_files([file], target, export=False)
    assert files_in(target) == {"notes.txt"}


def test_only_a_bundle_is_replaced(a_bundle, target):
    import_files([a_bundle.folder], target)
    assert import_files([a_bundle.folder], target, name="renamed", overwrite=True).name == "renamed"
    with pytest.raises(OutputError, match="not a bundle"):
        import_files([a_bundle.folder], target.parent, overwrite=True)
    assert read_bundle(target).name == "renamed"


def test_without_torch_the_authors_files_cannot_be_read(tmp_path, target, monkeypatch):
    monkeypatch.setattr(importing, "missing_reason", lambda *_, **__: "not installed: torch.")
    with pytest.raises(RuntimeUnavailableError, match="Checkpoints are read with PyTorch, which is not installed"):
        import_files([profound_file(tmp_path / "c.pth.tar", "profound-classifier")], target)


def test_a_bundles_folder_is_copied(a_bundle, target):
    bundle = import_files([a_bundle.folder], target)
    assert files_in(target) == files_in(a_bundle.folder)
    assert (bundle.name, bundle.sha256) == ("their-network", a_bundle.sha256)


@pytest.mark.parametrize("prefix", ["", "their-network/"])
def test_a_bundles_zip_is_extracted(a_zip, a_bundle, target, prefix):
    bundle = import_files([a_zip(prefix=prefix)], target, name="renamed")
    assert bundle == read_bundle(target)
    assert (bundle.name, bundle.sha256) == ("renamed", a_bundle.sha256)
    assert bundle.onnx_path.read_bytes() == a_bundle.onnx_path.read_bytes()


def test_only_what_a_bundle_holds_is_taken_over(a_zip, target):
    evil = {"configs/inference.json": b'{"run": "$__import__(\'os\').abort()"}', "scripts/run.py": b"1"}
    import_files([a_zip(lambda members: {**members, **evil})], target)
    assert "scripts/run.py" not in files_in(target)
    assert b"abort" not in (target / "configs" / "inference.json").read_bytes()


def test_nothing_of_a_zip_is_written_outside_the_target(a_zip, target):
    names = ("../outside.txt", "/tmp/outside.txt", "a/../../outside.txt", "..\\outside.txt")
    bundle = import_files([a_zip(lambda members: {**members, **dict.fromkeys(names, b"x")})], target)
    assert [path.name for path in target.parent.iterdir()] == ["imported"]
    assert files_in(target) == {*bundle.sha256, METADATA, "configs/inference.json", "docs/README.md", "LICENSE"}


def test_a_zip_that_would_fill_the_disk_is_refused(a_zip, target, monkeypatch):
    monkeypatch.setattr(importing, "_SMALL_BYTES", 2**20)
    with pytest.raises(BundleError, match="unpack"):
        import_files([a_zip(lambda members: {**members, "docs/zeros": bytes(200 * 2**20)})], target)
    assert not target.exists()


def test_a_zip_with_tampered_weights_is_refused(a_zip, target):
    def flip(members):
        return {**members, WEIGHTS: members[WEIGHTS][:-1] + b"\x55"}

    with pytest.raises(ChecksumError):
        import_files([a_zip(flip)], target)
    assert not target.exists()


def test_a_zip_that_lacks_its_weights_is_refused(a_zip, target):
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        import_files([a_zip(lambda members: {n: c for n, c in members.items() if n != WEIGHTS})], target)


def test_a_zip_cut_off_is_no_bundle(a_zip, target):
    path = a_zip()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match="cut off"):
        import_files([path], target)


def test_a_zip_that_was_damaged_inside_is_refused(a_zip, target):
    path = a_zip()
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("docs/README.md")
    content = bytearray(path.read_bytes())
    begin = place.header_offset + 30 + len(place.filename)  # of the packed data, after a header of 30 bytes
    content[begin : begin + place.compress_size] = b"\xff" * place.compress_size
    path.write_bytes(content)
    with pytest.raises(BundleError, match="whole zip"):
        import_files([path], target)
    assert not target.exists()


def test_a_zip_of_two_bundles_is_refused(a_zip, target):
    def twice(members):
        return {f"{place}/{name}": content for place in "ab" for name, content in members.items()}

    with pytest.raises(BundleError, match="2 bundles"):
        import_files([a_zip(twice)], target)


def test_a_folder_with_a_link_is_refused(a_bundle, target, tmp_path):
    moved = a_bundle.weights_path.rename(tmp_path / "elsewhere.safetensors")
    a_bundle.weights_path.symlink_to(moved)
    with pytest.raises(BundleError, match="is a link"):
        import_files([a_bundle.folder], target)


def test_any_text_becomes_a_name():
    assert bundle_name("My Network (v2)") == "my-network-v2"
    assert bundle_name("…") == "bundle"
