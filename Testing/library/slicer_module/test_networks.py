"""The networks of this computer: which are offered, their cards, their files, how long they take."""

import json
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
from VFMTransferLib.bundles.metadata import METADATA, WEIGHTS
from VFMTransferLib.core.terms import Arm
from VFMTransferLib.tasks import TASKS
from VFMTransferSlicer.setup import networks as networks_file
from VFMTransferSlicer.setup.networks import (
    FileChecks,
    RunTimes,
    brokenText,
    canDelete,
    cardOf,
    choiceUnavailableReason,
    defaultChoice,
    importedText,
    needsTorch,
    offered,
    parameterCount,
    sizeOf,
    taskTitle,
    trainedOn,
)
from VFMTransferSlicer.signals import Signal
from VFMTransferSlicer.workers.process import LibraryProcess

LESION, CLASSIFICATION = "lesion-segmentation", "classification"
PRETRAINED, SCRATCH = "profound-prostate-demo-pretrained", "profound-prostate-demo-scratch"


class AStore(dict):
    """Settings: text by key."""

    def value(self, key: str, default: str) -> str:
        return self.get(key, default)

    def setValue(self, key: str, value: str) -> None:  # noqa: N802  (Qt's name)
        self[key] = value

    def remove(self, key: str) -> None:
        self.pop(key, None)


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
    card = cardOf(shipped(PRETRAINED), "", None)
    assert card.text.splitlines() == [
        "Pretrained, demonstration network",
        "Trained on 11 cases and 160 phantoms",
        "2.9 MB, Apache-2.0, intact, not run here yet",
    ]
    assert "1.3 M parameters" in card.details
    assert "PROSTATEx" in card.details
    assert "research use only" in card.details
    assert cardOf(shipped(SCRATCH), None, (100.0, "cuda:0")).text.splitlines()[-1] == (
        "2.9 MB, Apache-2.0, not checked, took 2 min here (cuda:0)"
    )


def test_a_license_that_forbids_commercial_use_stands_alone(own):
    for license_ in ("CC BY-NC 4.0", "Non-commercial research only"):
        bundle = replace(shipped(PRETRAINED), license=license_)
        assert f"Non-commercial use only: {license_}" in cardOf(bundle, "", None).text.splitlines()
    assert "Non-commercial" not in cardOf(replace(bundle, license="INCITS open"), "", None).text


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


def test_size_and_parameters_are_those_of_the_files(own):
    bundle = make_bundle(own / "a", onnx=True)
    paths = (bundle.weights_path, bundle.onnx_path, bundle.cpu_onnx_path)
    assert len(set(paths)) == 3
    assert sizeOf(bundle) == sum(path.stat().st_size for path in paths)
    from networks import small_network

    state = small_network("profound-classifier").state_dict()
    assert parameterCount(bundle) == sum(tensor.numel() for tensor in state.values())


# ---- files


def test_small_files_are_checked_at_once_and_again_when_they_change(own):
    bundle, checks = make_bundle(own / "a"), FileChecks()
    assert checks.stateOf(bundle) == ""
    content = bytearray(bundle.weights_path.read_bytes())
    content[-1] ^= 1
    bundle.weights_path.write_bytes(content)
    assert WEIGHTS in checks.stateOf(bundle)
    assert cardOf(bundle, checks.stateOf(bundle), None).text.startswith(f"{WEIGHTS} of bundle 'a' must have sha256")
    bundle.weights_path.unlink()
    assert "is missing" in checks.stateOf(bundle)
    assert "parameters unknown" in cardOf(bundle, checks.stateOf(bundle), None).details


def test_large_files_are_not_read_until_somebody_asks(own, monkeypatch):
    monkeypatch.setattr(networks_file, "_CHECKED_AT_ONCE_BYTES", 10)
    bundle, checks = make_bundle(own / "a"), FileChecks()
    assert checks.stateOf(bundle) is None
    checks.note(bundle, "Damaged.")
    assert checks.stateOf(bundle) == "Damaged."


# ---- times


def numbers(bundle, device: str, seconds: float) -> dict:
    return {"model": {"sha256": bundle.weights_sha256, "device": device}, "seconds": {"infer": seconds, "write": 0.5}}


def test_the_last_run_on_a_device_is_remembered():
    store, bundle = AStore(), shipped(PRETRAINED)
    times = RunTimes(store)
    assert times.last(bundle) is None
    times.remember(numbers(bundle, "cpu", 8.0))
    times.remember(numbers(bundle, "cuda:0", 1.0))
    times.remember(numbers(bundle, "cpu", 9.0))
    assert RunTimes(store).last(bundle, "cpu") == (9.5, "cpu")
    assert times.last(bundle, "cuda") == (1.5, "cuda:0")
    assert times.last(bundle) == (9.5, "cpu")
    assert times.last(bundle, "openvino") is None
    assert times.last(shipped(SCRATCH)) is None


def test_the_times_of_a_network_can_be_forgotten():
    store, bundle = AStore(), shipped(PRETRAINED)
    times = RunTimes(store)
    times.forget(bundle)
    times.remember(numbers(bundle, "cpu", 8.0))
    times.remember(numbers(shipped(SCRATCH), "cpu", 7.0))
    times.forget(bundle)
    assert times.last(bundle) is None
    assert times.last(shipped(SCRATCH)) == (7.5, "cpu")
    assert len(store) == 1


def test_settings_that_somebody_broke_do_no_harm():
    bundle = shipped(PRETRAINED)
    times = RunTimes(AStore())
    times.remember(numbers(bundle, "cpu", 1.0))
    for text in ("no JSON", "[]", None):
        store = AStore(dict.fromkeys(times._store, text))
        assert RunTimes(store).last(bundle) is None


# ---- what is offered


def test_the_shipped_pair_is_the_usual_choice(own):
    assert defaultChoice(read_catalog(), "anatomy-segmentation") == (PRETRAINED, SCRATCH)


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


def test_a_task_without_networks_says_so(own, a_lesion_pair, monkeypatch):
    monkeypatch.setattr(catalog, "_SHIPPED", ())
    assert taskTitle(read_catalog(), LESION) == "Lesion segmentation"
    assert taskTitle(read_catalog(), CLASSIFICATION) == "Classification (no network installed)"


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


def test_checkpoints_need_torch_and_bundles_do_not(own, a_lesion_pair, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"x")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", own / "lesion-scratch")
    assert needsTorch([tmp_path / "model.pth"])
    assert not needsTorch([own / "lesion-scratch"])
    assert not needsTorch([tmp_path / packed])


def test_where_an_imported_network_is_is_said(own, a_lesion_pair):
    bundle = read_bundle(own / "lesion-scratch")
    assert "chose it" in importedText(bundle, LESION)
    assert "It is for Lesion segmentation" in importedText(bundle, CLASSIFICATION)
    assert importedText(bundle, None) == f"Imported '{bundle.title}'."


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
    section = NetworksSection(ui, logic, AStore())
    section.parameters = SomeParameters()
    section.setParameters(section.parameters)
    section.update()
    return section


def refresh(section, **choices) -> None:
    """Choices come with the scene."""
    section.setParameters(None)
    for name, value in choices.items():
        setattr(section.parameters, name, value)
    section.setParameters(section.parameters)
    section.update()


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


def test_b_may_be_none(section, ui):
    ui.bundleBComboBox.choose("")
    section.update()
    assert section.parameters.bundleB == ""
    assert section.parameters.bundleA == PRETRAINED
    assert ui.bundleBCardLabel.text == "Only A is run."


def test_a_saved_choice_that_is_not_here_is_shown_said_and_kept(section, ui):
    refresh(section, bundleA="elsewhere")
    assert section.parameters.bundleA == "elsewhere"
    assert ui.bundleAComboBox.items[ui.bundleAComboBox.currentIndex] == ("elsewhere (not here)", "elsewhere")
    assert ui.bundleACardLabel.text.startswith("Network 'elsewhere' is not on this computer.")
    assert section.unavailableReason() == ui.bundleACardLabel.text
    ui.bundleAComboBox.choose(PRETRAINED)
    section.update()
    assert section.unavailableReason() == ""


def test_a_task_of_another_version_is_said_and_replaced(section, ui):
    refresh(section, task="reading-of-tea-leaves")
    assert section.parameters.task == "anatomy-segmentation"
    assert "'reading-of-tea-leaves' is not known here" in ui.networksNoteLabel.text


def test_broken_networks_are_named(section, ui, own):
    make_bundle(own / "bad")
    (own / "bad" / METADATA).write_text("{", encoding="utf-8")
    refresh(section)
    assert "'bad' cannot be used" in ui.networksNoteLabel.text


def test_the_time_of_a_run_is_on_the_card_afterwards(section, ui, logic):
    logic.armLoaded.emit(SimpleNamespace(numbers=numbers(shipped(PRETRAINED), "cpu", 8.0)))
    section.update()
    assert ui.bundleACardLabel.text.endswith("took 8 s here (cpu)")
    logic.machine = {"default": {"runtime": "onnx", "device": "cuda"}}
    section.update()
    assert ui.bundleACardLabel.text.endswith("not run here yet")


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


def test_the_time_of_a_deleted_network_is_forgotten_unless_another_has_its_weights(section, ui, logic, own):
    twin = make_bundle(own / "gland", "profound-upernet-anatomy")
    shutil.copytree(own / "gland", own / "copy")
    metadata = own / "copy" / METADATA
    metadata.write_text(metadata.read_text(encoding="utf-8").replace('"gland"', '"copy"'), encoding="utf-8")
    logic.armLoaded.emit(SimpleNamespace(numbers=numbers(twin, "cpu", 8.0)))
    for name, time in (("copy", (8.5, "cpu")), ("gland", None)):
        refresh(section, bundleA=name)
        ui.bundleAMenuButton.choose("Delete…")
        assert section._times.last(twin) == time


def test_damage_is_found_by_the_check(section, ui, loop, own):
    bundle = make_bundle(own / "gland", "profound-upernet-anatomy")
    bundle.weights_path.write_bytes(bundle.weights_path.read_bytes()[:-4] + b"\0\0\0\1")
    refresh(section, bundleA="gland")
    ui.bundleAMenuButton.choose("Check files")
    wait_for(loop, ui, "must have sha256")
    assert "damaged" in ui.bundleACardLabel.text


def test_a_network_of_another_task_is_imported_and_said(section, ui, loop, tmp_path):
    source = make_bundle(tmp_path / "c", "profound-classifier", title="My classes").folder
    section._importing.importPaths([source])
    wait_for(loop, ui, "It is for Classification: choose that task")
    assert section.parameters.bundleA == PRETRAINED


def test_an_import_that_ends_in_another_module_is_told_all_the_same(section, ui, loop, tmp_path):
    source = make_bundle(tmp_path / "gland", "profound-upernet-anatomy", title="My gland").folder
    section._importing.importPaths([source])
    section.setParameters(None)
    loop.turn_until(lambda: len(ui.setupLogTextEdit.lines) == 2)
    assert ui.setupLogTextEdit.lines[-1] == "Imported 'My gland'."
    section.setParameters(section.parameters)
    section.update()
    assert "Imported 'My gland'." in ui.networksNoteLabel.text


def test_a_network_that_is_there_is_replaced_after_asking(section, ui, loop, own, asked, tmp_path):
    make_bundle(own / "gland", "profound-upernet-anatomy", title="Old")
    source = make_bundle(tmp_path / "gland", "profound-upernet-anatomy", title="New").folder
    section._importing.importPaths([source])
    wait_for(loop, ui, "Imported 'New'")
    assert asked == ["There is a network 'gland' already. Replace it?"]
    assert read_bundle(own / "gland").title == "New"


def test_what_is_no_network_says_why(section, ui, loop, own, tmp_path):
    source = make_bundle(tmp_path / "gland", "profound-upernet-anatomy").folder
    (source / WEIGHTS).write_bytes(b"no weights")
    section._importing.importPaths([source])
    wait_for(loop, ui, "must have sha256")
    assert list(own.iterdir()) == []


def test_a_checkpoint_without_torch_says_the_way(section, ui, logic, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"x")
    logic.machine = {"default": None, "runtimes": {"torch": {"error": "not installed"}}}
    section._importing.importPaths([tmp_path / "model.pth"])
    assert "press PyTorch… under Setup" in ui.networksNoteLabel.text


def test_shipped_networks_cannot_be_deleted_and_none_during_a_run(section, ui, logic, own):
    menu = ui.bundleAMenuButton.menu
    assert not menu.actions["Delete…"].enabled
    assert menu.actions["Delete…"].toolTip
    assert menu.toolTipsVisible
    make_bundle(own / "gland", "profound-upernet-anatomy")
    refresh(section, bundleA="gland")
    assert ui.bundleAMenuButton.menu.actions["Delete…"].enabled
    logic.isRunning = True
    section.update()
    assert not ui.bundleAMenuButton.menu.actions["Delete…"].enabled
    assert not ui.importFolderButton.enabled


def test_an_import_ends_with_the_panel(section, ui, loop, own, tmp_path):
    source = make_bundle(tmp_path / "gland", "profound-upernet-anatomy").folder
    section._importing.importPaths([source])
    section.close()
    loop.processEvents(1.0)
    assert "Imported" not in ui.networksNoteLabel.text


def test_the_command_line_checks_and_imports_for_programs(own, capsys, tmp_path):
    from VFMTransferLib.cli import main

    source = make_bundle(tmp_path / "gland", "profound-upernet-anatomy").folder
    assert main(["models", "import", "--json", str(source)]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(own / "gland")
    assert main(["models", "check", "gland"]) == 0
    (own / "gland" / WEIGHTS).write_bytes(b"x")
    assert main(["models", "check", "gland"]) == 1
    assert "must have sha256" in capsys.readouterr().err
