"""The networks of this computer: which are offered, their cards, their files, how long they take."""

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from bundles import make_bundle
from panel_stand_ins import AComboBox, ATextEdit, AWidget, SomeParameters, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from qt_stand_ins import AnEventLoop
from slicer_scenes import slicer  # noqa: F401  (brings the module's folder)

from VFMTransferLib.bundles import catalog
from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.bundles.catalog import read_catalog, shipped_folder
from VFMTransferLib.bundles.metadata import METADATA
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.tasks import TASKS
from VFMTransferSlicer.setup.networks import (
    brokenText,
    canDelete,
    cardOf,
    choiceUnavailableReason,
    defaultChoice,
    offered,
    trainedOn,
)
from VFMTransferSlicer.signals import Signal
from VFMTransferSlicer.workers.process import LibraryProcess

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
    assert brokenText(found).startswith("'bad' cannot be used: configs/metadata.json must be JSON")


def test_only_own_networks_can_be_deleted(own, a_lesion_pair):
    assert "stays" in canDelete(shipped(PRETRAINED))
    assert canDelete(read_bundle(own / "lesion-scratch")) == ""


# ---- the section


class AMenuButton(AWidget):
    """With the actions of its menu."""

    __slots__ = ("menu",)

    def setMenu(self, menu) -> None:  # noqa: N802  (Qt's names, here and below)
        self.menu = menu

    def setPopupMode(self, mode) -> None:  # noqa: N802
        pass

    def choose(self, title: str) -> None:
        action = self.menu.actions[title]
        assert action.enabled
        action.slots["triggered(bool)"](False)


class AMenu:
    def __init__(self, parent) -> None:
        self.actions = {}
        self.toolTipsVisible = False

    def addAction(self, title: str) -> AWidget:  # noqa: N802
        self.actions[title] = AWidget()
        self.actions[title].enabled = True
        return self.actions[title]


@pytest.fixture
def ui():
    combos = {f"{name}ComboBox": AComboBox() for name in ("task", "bundleA", "bundleB")}
    labels = ("bundleACardLabel", "bundleBCardLabel", "networksNoteLabel", "importFileButton", "importFolderButton")
    menus = {f"bundle{letter}MenuButton": AMenuButton() for letter in "AB"}
    return SimpleNamespace(**combos, **menus, **{name: AWidget() for name in labels}, setupLogTextEdit=ATextEdit())


@pytest.fixture
def loop():
    return AnEventLoop()


@pytest.fixture
def asked(monkeypatch):
    """What the user was asked; the answer is yes."""
    return []


@pytest.fixture
def logic():
    return SimpleNamespace(armLoaded=Signal(), isRunning=False, machine=None)


@pytest.fixture
def section(in_qt, own, ui, logic, loop, asked, monkeypatch):  # noqa: F811
    qt: ModuleType = sys.modules["qt"]
    qt.QMenu, qt.QToolButton = AMenu, SimpleNamespace(InstantPopup=2)
    from VFMTransferSlicer.panel.networks import Importing, NetworkMenu, NetworksSection

    child = partial(LibraryProcess, makeProcess=loop.make_process, python=sys.executable)
    ask = lambda question: not asked.append(question)  # noqa: E731
    for kind in (NetworkMenu, Importing):
        monkeypatch.setattr(kind.__init__, "__defaults__", (child, ask))
    section = NetworksSection(ui, logic)
    section.parameters = SomeParameters()
    section.setParameters(section.parameters)
    section.update()
    return section


def wait_for(loop, ui, words: str) -> None:
    loop.turn_until(lambda: words in ui.networksNoteLabel.text)


def test_the_usual_pair_is_chosen_and_shown(section, ui):
    assert (section.parameters.bundleA, section.parameters.bundleB) == (PRETRAINED, SCRATCH)
    assert ui.bundleACardLabel.text.startswith("Pretrained, demonstration")
    assert ui.bundleBCardLabel.text.startswith("From scratch")
    assert len(ui.taskComboBox.items) == len(TASKS)
    assert [value for _, value in ui.bundleAComboBox.items].count("") == 0
    assert ui.bundleBComboBox.items[0] == ("None", "")


def test_a_task_brings_its_networks_and_none_is_said(section, ui, own, a_lesion_pair, monkeypatch):
    monkeypatch.setattr(catalog, "_SHIPPED", ())
    section.rereadCatalog()
    ui.taskComboBox.choose(str(LESION))
    section.update()
    assert (section.parameters.bundleA, section.parameters.bundleB) == ("lesion-pretrained", "lesion-scratch")
    ui.taskComboBox.choose(str(CLASSIFICATION))
    section.update()
    assert section.parameters.bundleA == ""
    assert ui.bundleACardLabel.text == "No network for this task is on this computer. Import one under Setup."
    assert not ui.bundleAMenuButton.enabled


def test_a_bundle_is_imported_chosen_checked_and_deleted(section, ui, loop, own, asked, tmp_path):
    source = make_bundle(tmp_path / "gland", "profound-upernet-anatomy", arm=Arm.SCRATCH, title="My gland").folder
    section._importing.importPaths([source])
    assert not ui.importFileButton.enabled
    wait_for(loop, ui, "Imported 'My gland', and chose it.")
    assert ui.setupLogTextEdit.lines == ["Importing gland", "Imported 'My gland', and chose it."]
    assert section.parameters.bundleB == "gland"
    assert ui.importFileButton.enabled
    section.update()
    ui.bundleBMenuButton.choose("Check files")
    wait_for(loop, ui, "The files of 'My gland' are intact.")
    ui.bundleBMenuButton.choose("Delete…")
    assert asked == ["Delete the network 'My gland' from this computer?"]
    assert not (own / "gland").exists()
    assert section.parameters.bundleB == SCRATCH
    assert "Deleted 'My gland'." in ui.networksNoteLabel.text
