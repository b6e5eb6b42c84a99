"""Fixtures of the views' tests. Slicer's MRML is imported when they are used, since it may not be installed."""

import pytest


@pytest.fixture
def scene():
    """A scene with Slicer's color tables."""
    from slicer_views import a_colored_scene

    return a_colored_scene()


@pytest.fixture
def t2w(scene):
    """An oblique volume with a display, under a transform that turns and moves it."""
    from slicer_scenes import add_transform, add_volume, an_oblique_t2w

    node = add_volume(scene, an_oblique_t2w(), "T2")
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())
    return node


@pytest.fixture
def views(scene):
    """Slice views of the scene."""
    from slicer_views import Views

    views = Views(scene)
    yield views
    views.close()


@pytest.fixture
def side_by_side(views):
    """The comparison's layout on these views."""
    from VFMTransferSlicer.views.layout import SideBySide

    side_by_side = SideBySide(views.node, views.application, views.renderer)
    yield side_by_side
    side_by_side.restore()
