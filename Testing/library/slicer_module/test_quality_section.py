"""Image quality on the panel with stand-ins for Qt's widgets, on real MRML, checked by the real command."""

from types import SimpleNamespace

import pytest
from panel_stand_ins import AWidget, SomeLogic, SomeParameters, clipboard, in_qt, settings  # noqa: F401  (fixtures)
from qt_stand_ins import AnEventLoop
from slicer_scenes import a_scene, add_volume, an_oblique_t2w


@pytest.fixture
def scene():
    return a_scene()


@pytest.fixture
def ui():
    names = ("qualityButton", "qualityLabel", "qualityCollapsibleButton", "qualityNoteLabel")
    return SimpleNamespace(**{name: AWidget() for name in names})


@pytest.fixture
def loop():
    return AnEventLoop()


@pytest.fixture
def logic():
    return SomeLogic()


@pytest.fixture
def section(in_qt, scene, ui, logic, loop):  # noqa: F811
    from VFMTransferSlicer.panel.radiology import QualitySection

    section = QualitySection(ui, logic, lambda ms, slot: loop.callLater(min(ms, 50), slot), loop.make_process)
    yield section
    section.close()


@pytest.fixture
def panel(section, scene, ui, logic):
    from VFMTransferSlicer.widget import Panel

    panel = Panel(ui, logic, [section])
    panel.setParameterNode(SomeParameters())
    return panel


def add(scene, name):
    return add_volume(scene, an_oblique_t2w(), name)


def is_checked(ui) -> bool:
    return "criteria not met" in ui.qualityCollapsibleButton.text


def test_images_are_checked_when_their_choice_has_settled_and_again_when_it_comes_back(panel, scene, ui, loop):
    one, other = add(scene, "one"), add(scene, "other")
    for node in (one, other, one):
        panel.parameters.t2w = node
        assert not is_checked(ui)
        assert ui.qualityNoteLabel.text == "Not checked yet."
        loop.turn_until(lambda: is_checked(ui))
