"""The networks of this computer: which are offered, their cards, their files, how long they take."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import make_bundle
from panel_stand_ins import AComboBox, ATextEdit, AWidget, SomeParameters, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from slicer_scenes import slicer  # noqa: F401  (brings the module's folder)

from VFMTransferLib.bundles import catalog
from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.catalog import read_catalog, shipped_folder
from VFMTransferLib.bundles.metadata import METADATA
from VFMTransferLib.core.terms import Arm
from VFMTransferSlicer.setup.networks import (
    brokenText,
    canDelete,
    cardOf,
    choiceUnavailableReason,
    defaultChoice,
    offered,
    trainedOn,
)

LESION, CLASSIFICATION = "lesion-segmentation", "classification"
PRETRAINED, SCRATCH = "profound-prostate-demo-pretrained", "profound-prostate-demo-scratch"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The user's folder of networks, with spaces in its path; the shipped ones are as they are."""
    folder = tmp_path / "my networks, ü"
    folder.mkdir()
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(folder))
    return folder


@pytest.fixture
def a_lesion_pair(own):
    for arm in Arm:
        make_bundle(own / f"lesion-{arm}", "profound-upernet-lesion", arm=arm, title=f"Lesions, {arm}")


def shipped(name: str):
    return read_bundle(shipped_folder() / name)


# ---- cards


def test_a_card_is_short_and_says_where_the_network_comes_from():
    card = cardOf(shipped(PRETRAINED))
    assert card.text.splitlines() == [
        "Pretrained, demonstration network",
        "Trained on 11 cases and 160 phantoms",
        "2.9 MB, Apache-2.0",
    ]
    assert "1.3 M parameters" in card.details
    assert "PROSTATEx" in card.details
    assert "research use only" in card.details


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({}, "Training data: see its card"),
        ({"config": {"split": {"train": ["a"]}}}, "Trained on 1 case"),
        (
            {"config": {"split": {"train": ["a", "b"]}}, "data": "a, b; 20 phantoms"},
            "Trained on 2 cases and 20 phantoms",
        ),
        ({"config": {"split": {"train": ["phantom-0000"]}}}, "Trained on 1 phantom"),
        ({"split": {"train": ["a", "b"]}, "phantoms": {"count": 1}}, "Trained on 2 cases and 1 phantom"),
        ({"config": "odd", "split": 3}, "Training data: see its card"),
        ({"phantoms": {"count": 300}, "split": {"train": []}}, "Trained on 300 phantoms"),
    ],
)
def test_the_training_data_are_counted_as_far_as_they_are_stated(training, words):
    assert trainedOn(replace(shipped(PRETRAINED), training=training)) == words


# ---- files


# ---- times


# ---- what is offered


def test_without_a_shipped_pair_the_first_of_each_arm_is(own, a_lesion_pair, monkeypatch):
    monkeypatch.setattr(catalog, "_SHIPPED", ())
    assert defaultChoice(read_catalog(), LESION) == ("lesion-pretrained", "lesion-scratch")
    shutil.rmtree(own / "lesion-pretrained")
    assert defaultChoice(read_catalog(), LESION) == ("", "lesion-scratch")
    make_bundle(own / "without-arm", "profound-upernet-lesion")
    assert defaultChoice(read_catalog(), LESION) == ("without-arm", "lesion-scratch")
    assert defaultChoice(read_catalog(), CLASSIFICATION) == ("", "")


def test_two_networks_of_one_name_are_told_apart_by_their_folders(own):
    for folder in ("a", "b"):
        make_bundle(own / folder, "profound-upernet-lesion", name="twin")
    twins = {name for name in offered(read_catalog(), LESION) if Path(name).is_absolute()}
    assert twins == {str(own / "a"), str(own / "b")}
    assert choiceUnavailableReason(read_catalog(), LESION, str(own / "a")) == ""


def test_a_choice_that_is_not_here_is_said_and_why(own, a_lesion_pair):
    make_bundle(own / "bad")
    (own / "bad" / METADATA).write_text("{", encoding="utf-8")
    found = read_catalog()
    assert "is not on this computer" in choiceUnavailableReason(found, LESION, "elsewhere")
    assert "is not for Classification" in choiceUnavailableReason(found, CLASSIFICATION, "lesion-scratch")
    assert "cannot be used" in choiceUnavailableReason(found, LESION, "bad")
    assert choiceUnavailableReason(found, LESION, "") == ""
    assert brokenText(found).startswith("'bad' cannot be used:")


def test_only_own_networks_can_be_deleted(own, a_lesion_pair):
    assert "stays" in canDelete(shipped(PRETRAINED))
    assert canDelete(read_bundle(own / "lesion-scratch")) == ""
