"""The first run, from a phantom or a study to the report."""

import json

import pytest

from VFMTransferLib.bundles import catalog
from VFMTransferLib.cli import main
from VFMTransferLib.cli.side_by_side import ZONE_VALUES, truth_for
from VFMTransferLib.phantom import make_phantom


@pytest.fixture
def shipped_pair(tiny_models, monkeypatch):
    """The tiny pair in place of the shipped one."""
    monkeypatch.setattr(catalog, "_SHIPPED", (tiny_models,))


def test_the_demo_ends_with_the_path_of_its_report_and_can_be_run_again(shipped_pair, a_study, tmp_path, capsys):
    for _ in range(2):
        assert main(["demo", "--case", str(a_study), "-o", str(tmp_path / "demo")]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "demo" / "report.html")
        assert (tmp_path / "demo" / "report.html").is_file()
        for side in "ab":
            assert (tmp_path / "demo" / side / "segmentation.seg.nrrd").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_phantom_is_compared_with_its_truth(shipped_pair, tmp_path):
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0
    document = json.loads((tmp_path / "demo" / "comparison.json").read_text(encoding="utf-8"))
    assert document["has_reference"]
    assert {row["between"] for row in document["measures"]} >= {"a-b", "a-reference", "b-reference"}


def test_without_a_shipped_pair_the_demo_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(catalog, "_SHIPPED", (tmp_path / "nothing",))
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(tmp_path / "no bundles"))
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 1
    assert "anatomy-segmentation" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_truth_is_the_zones_for_a_network_that_knows_them():
    from bundles import tiny_anatomy

    phantom = make_phantom(3, sequences=["t2w"], t2w_spacing_mm=(2, 2, 6))
    assert truth_for(phantom, tiny_anatomy()) == (phantom.zones, ZONE_VALUES)
