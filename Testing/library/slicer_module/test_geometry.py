"""What is said of a volume's place in space, on Slicer's real MRML."""

import numpy as np
import pytest
from images import COS, SIN, a_t2w
from slicer_scenes import a_scene, add_transform, add_volume, an_oblique_t2w, matrix_of, slicer
from specs import MODELS

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferSlicer.inputs.exporting import gridInWorld
from VFMTransferSlicer.inputs.geometry import describeGeometry, obliquenessDeg

ANATOMY = MODELS["profound-upernet-anatomy"]


@pytest.fixture
def scene():
    return a_scene()


def a_volume(array, spacing=(2.0, 2.0, 3.0), origin=(0.0, 0.0, 0.0)) -> Volume:
    return Volume(array, Geometry(tuple(reversed(array.shape)), spacing, origin))


def an_adc(scale=1.0, origin=(0.0, 0.0, 0.0)) -> Volume:
    rng = np.random.default_rng(1)
    tissue = rng.normal(1300, 200, (12, 20, 24))
    tissue[:, 8:12, 8:12] = 2900
    return a_volume((tissue * scale).astype(np.float32), origin=origin)


def a_long_t2w() -> Volume:
    return a_volume(np.arange(12 * 20 * 24, dtype=np.int16).reshape(12, 20, 24), (2.0, 2.0, 3.0))


def test_a_line_says_spacing_matrix_plane_obliqueness_and_the_networks_grid(scene):
    node = add_volume(scene, an_oblique_t2w(), "T2")
    line = describeGeometry(node, Sequence.T2W, ANATOMY).line
    assert line == "2 × 2.5 × 4 mm · 20 × 18 × 7 · axial, oblique by 30° · will be resampled to 0.5 × 0.5 × 1 mm"


def test_obliqueness_is_the_tilt_of_the_slices_not_their_turn_in_plane(scene):
    node = add_volume(scene, an_oblique_t2w(), "T2")
    assert obliquenessDeg(gridInWorld(node), 2) == pytest.approx(30)
    node.SetAndObserveTransformNodeID(add_transform(scene).GetID())  # turns about the axis of the body
    assert obliquenessDeg(gridInWorld(node), 2) == pytest.approx(30)


def test_a_parent_transform_counts_and_is_named(scene):
    node = add_volume(scene, a_t2w(), "T2")
    tilt = ((1, 0, 0, 0), (0, COS, -SIN, 0), (0, SIN, COS, 0), (0, 0, 0, 1))
    node.SetAndObserveTransformNodeID(add_transform(scene, tilt).GetID())
    line = describeGeometry(node, Sequence.T2W).line
    assert "oblique by 30°" in line
    assert line.endswith("moved by 'To the world'")


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("Bend", "Transform 'Bend' is nonlinear. Harden the transform (Transforms module) first."),
        (
            "T2 acquisition transform",
            "Its slices are not evenly spaced. Harden its acquisition transform (Transforms module) first.",
        ),
    ],
)
def test_a_transform_that_bends_must_be_hardened(scene, name, warning):
    node = add_volume(scene, a_t2w(), "T2")
    bend = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
    grid = slicer.vtkOrientedGridTransform()
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(2, 2, 2)
    image.AllocateScalars(11, 3)
    grid.SetDisplacementGridData(image)
    bend.SetAndObserveTransformFromParent(grid)
    node.SetAndObserveTransformNodeID(bend.GetID())
    assert describeGeometry(node, Sequence.T2W).warnings == (warning,)


def test_few_slices_another_plane_and_skewed_axes_are_told(scene):
    node = add_volume(scene, an_oblique_t2w(), "T2")
    assert describeGeometry(node, Sequence.T2W).warnings == ("It has only 7 slices; the prostate may not be whole.",)
    node.SetIJKToRASMatrix(matrix_of([[0, 0, 4, 0], [2, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0, 1]]))
    warnings = describeGeometry(node, Sequence.HBV).warnings
    assert warnings == (
        "Its axes are not at right angles; resample it first.",
        "It is sagittal, but networks need axial images.",
    )


def test_an_adc_map_in_another_unit_or_in_none_is_told(scene):
    def warnings(scale):
        return describeGeometry(add_volume(scene, an_adc(scale), "ADC"), Sequence.ADC).warnings

    assert warnings(1e-3) == ("Its values are in 1e-3 mm²/s by their range, and will be converted to 1e-6 mm²/s.",)
    assert warnings(40) == ("Its values are not those of an ADC map in any unit; check the choice.",)
    assert warnings(0) == ("Its values are not those of an ADC map in any unit; check the choice.",)


def test_a_field_of_view_far_from_the_t2ws_is_told(scene):
    t2w, adc = add_volume(scene, a_long_t2w(), "T2"), add_volume(scene, an_adc(origin=(40.0, 0.0, 0.0)), "ADC")
    assert describeGeometry(adc, Sequence.ADC, None, t2w).warnings == (
        "It shares only 17% of its field of view with 'T2'; are both of one case?",
    )
