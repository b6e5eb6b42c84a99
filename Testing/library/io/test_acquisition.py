import numpy as np
import pytest
from dicom_series import AXIAL, CORONAL, DicomSeries

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.io import read_case

VOXELS = np.random.default_rng(0).integers(100, 900, (6, 30, 40)).astype(float)
MATRIX = {"AcquisitionMatrix": [0, 50, 20, 0], "InPlanePhaseEncodingDirection": "ROW"}


def a_t2w(**more) -> DicomSeries:
    return DicomSeries(VOXELS, "t2_tse_tra", 1, spacing_mm=(1.0, 1.5, 3.0), orientation=AXIAL, **more)


def test_acquired_voxel_is_the_view_through_the_matrix(tmp_path):
    a_t2w(tags=MATRIX).write(tmp_path / "t2")
    about = read_case(tmp_path).acquisitions[Sequence.T2W]
    assert about.phase_mm == pytest.approx(40 * 1.0 / 20)  # phase along the rows: 40 columns of 1 mm
    assert about.frequency_mm == pytest.approx(30 * 1.5 / 50)
    assert about.thickness_mm == 3.0
    assert about.phase_axis == "left-right"
    assert about.is_study


@pytest.mark.parametrize(
    ("orientation", "phase", "axis"),
    [
        (AXIAL, "ROW", "left-right"),
        (AXIAL, "COL", "anterior-posterior"),
        ((0.0, 1.0, 0.0, -1.0, 0.0, 0.0), "ROW", "anterior-posterior"),
        ((0.94, 0.342, 0.0, -0.342, 0.94, 0.0), "COL", "anterior-posterior"),
    ],
)
def test_the_phase_axis_is_the_patients_axis_nearest_to_the_encoding(orientation, phase, axis, tmp_path):
    series = a_t2w(tags={"InPlanePhaseEncodingDirection": phase})
    series.orientation = orientation
    series.write(tmp_path / "t2")
    assert read_case(tmp_path).acquisitions[Sequence.T2W].phase_axis == axis


def test_what_is_not_stated_stays_unknown(tmp_path):
    a_t2w().write(tmp_path / "t2")
    about = read_case(tmp_path).acquisitions[Sequence.T2W]
    assert (about.phase_mm, about.frequency_mm, about.phase_axis, about.is_phase_positive) == (None,) * 4


def test_other_planes_and_b_values_are_those_of_the_exam(tmp_path):
    a_t2w().write(tmp_path / "t2")
    DicomSeries(VOXELS, "t2_tse_cor", 2, orientation=CORONAL).write(tmp_path / "cor")
    for number, b in enumerate((50, 800), start=3):
        tags = {"DiffusionBValue": float(b)}
        kind = ("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")
        DicomSeries(VOXELS / (1 + b / 800), f"dwi b{b}", number, kind, "EP", orientation=AXIAL, tags=tags).write(
            tmp_path / f"b{b}"
        )
    case = read_case(tmp_path)
    assert case.acquisitions[Sequence.T2W].other_planes == ("coronal",)
    assert case.acquisitions[Sequence.HBV].b_values == (50.0, 800.0)
    assert case.acquisitions[Sequence.HBV].highest_b == 800.0


def test_files_follow_the_slices_of_the_volume(tmp_path):
    import pydicom

    a_t2w().write(tmp_path / "t2")
    case = read_case(tmp_path)
    volume = case[Sequence.T2W]
    assert len(case.files[Sequence.T2W]) == volume.geometry.size[2]
    for index, file in enumerate(case.files[Sequence.T2W]):
        stated = [float(v) for v in pydicom.dcmread(file).ImagePositionPatient]
        np.testing.assert_allclose(volume.geometry.to_world((0, 0, index)), stated, atol=1e-3)
    assert str(tmp_path) not in repr(case)


def test_the_exam_states_its_phase_axis_and_its_b_values(shared_data):
    folder = shared_data / "dicom" / "ProstateX-0000"
    about = read_case(folder).acquisitions
    assert about[Sequence.HBV].phase_axis == "left-right"  # as the data's index states
    assert about[Sequence.HBV].b_values == (50.0, 400.0, 800.0)
    assert about[Sequence.T2W].other_planes == ("coronal", "sagittal")
    assert about[Sequence.T2W].phase_mm == pytest.approx(0.5)


@pytest.mark.parametrize(("orientation", "stated", "towards_left"), [(AXIAL, 1, True), (AXIAL, -1, False)])
def test_the_vendors_polarity_is_one_of_the_patients_ways(orientation, stated, towards_left, tmp_path):
    series = a_t2w(tags={"InPlanePhaseEncodingDirection": "ROW"})
    series.private = ((0x0021, "SIEMENS MR SDI 02", 0x1C, "IS", str(stated)),)
    series.write(tmp_path / "t2")
    assert read_case(tmp_path).acquisitions[Sequence.T2W].is_phase_positive is towards_left


def test_polarity_turns_with_an_image_that_runs_the_other_way(tmp_path):
    series = a_t2w(tags={"InPlanePhaseEncodingDirection": "ROW"})
    series.orientation = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    series.private = ((0x0021, "SIEMENS MR SDI 02", 0x1C, "IS", "1"),)
    series.write(tmp_path / "t2")
    assert read_case(tmp_path).acquisitions[Sequence.T2W].is_phase_positive is False
