from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from images import a_t2w, an_adc, an_hbv

pytest.importorskip("pydicom", reason="pydicom is not installed; the dev extra brings it.")
from dicom_series import AXIAL, CORONAL, PATIENT_ID, PATIENT_NAME, SAGITTAL, STUDY_UID, DicomSeries
from pydicom.dataelem import DataElement
from pydicom.uid import BasicTextSRStorage, ImplicitVRLittleEndian

from VFMTransferLib.core.errors import AmbiguousInputError, GeometryError, ImageError, MissingSequenceError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.io import read_case
from VFMTransferLib.io.dicom import read_b_values

SIEMENS_MR = "SIEMENS MR HEADER"
ADC_TYPE = ("DERIVED", "PRIMARY", "DIFFUSION", "ADC", "DIS2D")
TRACE_TYPE = ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "DIS2D")


def t2w_series(**changes) -> DicomSeries:
    return DicomSeries(a_t2w().array, "t2_tse_tra", 4, **changes)


def adc_series(**changes) -> DicomSeries:
    fields = {"image_type": ADC_TYPE, "scanning_sequence": "EP", "echo_time_ms": 63.0} | changes
    description = fields.pop("description", "ep2d_diff_tra_ADC")
    return DicomSeries(an_adc().array, description, 7, spacing_mm=(3.0, 3.5, 5.0), **fields)


def trace_series(b: float, number: int = 6, **changes) -> DicomSeries:
    """One b value's trace images, with signal by ADC 1e-3 mm²/s and b as Siemens writes it."""
    fields = {
        "image_type": TRACE_TYPE,
        "scanning_sequence": "EP",
        "echo_time_ms": 63.0,
        "private": ((0x19, SIEMENS_MR, 0x0C, "IS", str(int(b))),),
        "description": "ep2d_diff_tra",
    } | changes
    description = fields.pop("description")
    return DicomSeries(trace_at(b), description, number, spacing_mm=(3.0, 3.5, 5.0), **fields)


def trace_at(b: float) -> np.ndarray:
    return (an_hbv().array + 50) * 20 * np.exp(-b * 1e-3)


def write_multi_b(folder, b_values, **changes):
    """One series that holds every b value at each position."""
    shared = trace_series(b_values[0], **changes)
    for index, b in enumerate(b_values):
        part = trace_series(b, **changes)
        replace(part, series_uid=shared.series_uid, instance_start=1 + 100 * index).write(folder)


@pytest.fixture
def a_study(tmp_path):
    """A whole study as it comes from the archive: all planes and helpers beside what is needed."""
    root = tmp_path / "DOE_JOHN"
    t2w_series().write(root / "t2")
    adc_series().write(root / "adc")
    write_multi_b(root / "dwi", (50, 400, 1500))
    DicomSeries(a_t2w(5).array, "t2_tse_sag", 3, orientation=SAGITTAL).write(root / "sag")
    DicomSeries(a_t2w(6).array, "t2_tse_cor", 5, orientation=CORONAL).write(root / "cor")
    DicomSeries(a_t2w(7).array, "PD ref_tra", 9, scanning_sequence="GR", echo_time_ms=1.5).write(root / "pd")
    DicomSeries(a_t2w(8).array, "t1_tse_tra", 10, echo_time_ms=12.0).write(root / "t1")
    DicomSeries(a_t2w(9).array, "localizer", 1, scanning_sequence="GR", echo_time_ms=4.0).write(root / "loc")
    return root


def test_series_are_recognized_among_those_of_a_whole_study(a_study):
    case = read_case(a_study)
    assert case.sequences == tuple(Sequence)
    np.testing.assert_array_equal(case[Sequence.T2W].array, a_t2w().array)
    np.testing.assert_array_equal(case[Sequence.ADC].array, an_adc().array)
    np.testing.assert_array_equal(case[Sequence.HBV].array, np.round(trace_at(1500)))


def test_the_grid_is_the_one_that_the_tags_give(a_study):
    series = t2w_series()
    grid = read_case(a_study)[Sequence.T2W].geometry
    assert grid.spacing_mm == pytest.approx((1.5, 2.0, 4.0))
    np.testing.assert_allclose(grid.origin_mm, series.origin_mm)
    np.testing.assert_allclose(grid.to_world((0, 0, 6)), series.positions_mm[6], atol=1e-6)
    np.testing.assert_allclose(grid.affine[:3, 1] / 2.0, series.orientation[3:], atol=1e-9)


def test_nothing_of_the_patient_is_kept(a_study, caplog):
    caplog.set_level("INFO")
    case = read_case(a_study)
    shown = " ".join([case.id, *map(str, case.notes), caplog.text, *(v.name for v in case.volumes.values())])
    for secret in (PATIENT_NAME, PATIENT_ID, STUDY_UID, "DOE", str(a_study)):
        assert secret not in shown
    assert case.id.startswith("study-")


def test_files_without_suffix_and_in_one_folder_are_read(tmp_path):
    t2w_series().write(tmp_path, suffix="")
    adc_series().write(tmp_path, suffix="")
    (tmp_path / "readme.txt").write_text("from the archive", encoding="utf-8")
    assert read_case(tmp_path).sequences == (Sequence.T2W, Sequence.ADC)


def test_slices_in_any_order_are_stacked_by_position(tmp_path):
    series = t2w_series()
    for index, dataset in enumerate(reversed(series.datasets())):
        dataset.InstanceNumber = index + 1
        dataset.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_case(tmp_path)[Sequence.T2W].array, a_t2w().array)


def test_rescaled_values_are_read(tmp_path):
    adc_series(slope=0.5).write(tmp_path)
    np.testing.assert_allclose(read_case(tmp_path)[Sequence.ADC].array, an_adc().array, atol=0.26)


def b_written(vendor: str, b: float) -> dict:
    """How each make writes a b value."""
    number = str(int(b))
    return {
        "standard": {"tags": {"DiffusionBValue": b}, "private": ()},
        "siemens": {"private": ((0x19, SIEMENS_MR, 0x0C, "IS", number),)},
        "siemens-anonymized": {"private": ((0x19, SIEMENS_MR, 0x0C, "OB", number.ljust(4).encode()),)},
        "siemens-by-name": {"tags": {"SequenceName": f"*ep_b{number}t"}, "private": ()},
        "ge": {"private": ((0x43, "GEMS_PARM_01", 0x39, "IS", [str(1_000_000_000 + int(b)), "8", "0", "0"]),)},
        "philips": {"private": ((0x2001, "Philips Imaging DD 001", 0x03, "FL", b),)},
        "description": {"private": (), "description": f"Ax DWI b={number}"},
    }[vendor]


VENDORS = ["standard", "siemens", "siemens-anonymized", "siemens-by-name", "ge", "philips", "description"]


@pytest.mark.parametrize("vendor", VENDORS)
def test_b_values_are_read_as_each_make_writes_them(tmp_path, vendor):
    for number, b in ((6, 800.0), (7, 1400.0)):
        trace_series(b, number, image_type=("ORIGINAL", "PRIMARY"), **b_written(vendor, b)).write(tmp_path)
    case = read_case(tmp_path)
    np.testing.assert_array_equal(case[Sequence.HBV].array, np.round(trace_at(1400)))
    assert "b 1400 as measured" in case.notes[0].text
    assert case.acquisitions[Sequence.HBV].computed_b is None


def test_b_values_are_read_where_types_are_implicit(tmp_path):
    for dataset in trace_series(1400).datasets():
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(tmp_path / f"{dataset.InstanceNumber}.dcm", enforce_file_format=True)
    assert "b 1400 as measured" in read_case(tmp_path).notes[0].text


@pytest.mark.parametrize(
    ("role", "series"),
    [
        (Sequence.T2W, DicomSeries(a_t2w().array, "T2W_TSE_ax", 301, manufacturer="Philips", orientation=AXIAL)),
        (Sequence.T2W, DicomSeries(a_t2w().array, "Ax T2 FRFSE", 4, manufacturer="GE MEDICAL SYSTEMS")),
        (
            Sequence.T2W,
            DicomSeries(a_t2w().array, "Ax T2", 4, private=((0x43, "GEMS_PARM_01", 0x39, "IS", ["0"] * 4),)),
        ),
        (Sequence.T2W, DicomSeries(a_t2w().array, "AX T2 PROPELLER", 4, scanning_sequence="RM", echo_time_ms=None)),
        (Sequence.T2W, DicomSeries(a_t2w().array, "Prostate high resolution", 4)),
        (Sequence.ADC, adc_series(image_type=("DERIVED", "SECONDARY"), description="dADC map")),
        (Sequence.ADC, adc_series(image_type=("DERIVED",), description="Apparent Diffusion Coefficient (mm2/s)")),
        (Sequence.ADC, adc_series(description="processed")),
    ],
)
def test_a_series_is_known_by_its_tags_or_else_by_its_name(tmp_path, role, series):
    series.write(tmp_path)
    assert read_case(tmp_path).sequences == (role,)


@pytest.mark.parametrize(
    "changes",
    [{"description": "resolve_trace_adc"}, {"description": "DWI_ADC_b1400", "image_type": ("ORIGINAL", "PRIMARY")}],
)
def test_a_measured_series_whose_name_has_adc_is_no_adc_map(tmp_path, changes):
    trace_series(1400, **changes).write(tmp_path / "dwi")
    adc_series().write(tmp_path / "adc")
    case = read_case(tmp_path)
    assert case.sequences == (Sequence.HBV, Sequence.ADC)
    np.testing.assert_array_equal(case[Sequence.HBV].array, np.round(trace_at(1400)))


def test_an_exponential_adc_is_none(tmp_path):
    adc_series().write(tmp_path / "adc")
    replace(adc_series(description="eADC", image_type=("DERIVED", "PRIMARY")), number=8).write(tmp_path / "eadc")
    np.testing.assert_array_equal(read_case(tmp_path)[Sequence.ADC].array, an_adc().array)


def test_a_series_of_several_b_values_is_split_and_extrapolated(tmp_path):
    write_multi_b(tmp_path, (50, 400, 800))
    case = read_case(tmp_path)
    np.testing.assert_allclose(case[Sequence.HBV].array, trace_at(1400), rtol=5e-3)
    assert case.acquisitions[Sequence.HBV].computed_b == 1400
    assert case.notes[0].text == (
        "High-b image: b 1400 computed by a mono-exponential fit to b 50, 400, 800 "
        "(series 6 (15 images)); it was not measured."
    )


PHILIPS_SCALE = "Philips MR Imaging DD 001"


def philips_series(b: float, number: int, scale: float | None, **changes) -> DicomSeries:
    """A trace image whose stored numbers are the signal times a scale slope that its private element states."""
    private = ((0x2001, "Philips Imaging DD 001", 0x03, "FL", b),)
    if scale is not None:
        private = (*private, (0x2005, PHILIPS_SCALE, 0x0E, "FL", scale))
    series = trace_series(b, number, private=private, manufacturer="Philips", **changes)
    return replace(series, voxels=series.voxels * (scale or 1.0))


def test_philips_images_are_fitted_by_the_signal_whatever_the_scale_of_each(tmp_path):
    for number, (b, scale) in enumerate(((50.0, 2.0), (400.0, 2.0), (800.0, 0.5)), start=6):
        philips_series(b, number, scale).write(tmp_path)
    by_b, _ = read_b_values(tmp_path)
    for b in (50.0, 400.0, 800.0):
        np.testing.assert_allclose(by_b[b].array, trace_at(b) / 2, atol=1)


def test_one_series_of_two_scales_is_extrapolated_by_its_signal(tmp_path):
    shared = philips_series(50.0, 6, 2.0)
    for index, (b, scale) in enumerate(((50.0, 2.0), (800.0, 0.5))):
        one = philips_series(b, 6, scale)
        replace(one, series_uid=shared.series_uid, instance_start=1 + 100 * index).write(tmp_path)
    np.testing.assert_allclose(read_case(tmp_path)[Sequence.HBV].array, trace_at(1400) / 2, rtol=2e-2, atol=2)


def test_a_scale_that_only_some_images_state_is_refused(tmp_path):
    philips_series(50.0, 6, 2.0).write(tmp_path)
    philips_series(800.0, 7, None).write(tmp_path)
    with pytest.raises(ImageError, match="b 50, 800 must have values of one scale to be fitted together"):
        read_b_values(tmp_path)


def test_images_of_two_echo_times_are_not_fitted_together(tmp_path):
    trace_series(50, 6).write(tmp_path)
    trace_series(400, 7, echo_time_ms=63.4).write(tmp_path)
    assert set(read_b_values(tmp_path)[0]) == {50, 400}
    trace_series(800, 8, echo_time_ms=95.0).write(tmp_path)
    with pytest.raises(ImageError, match=r"b 50 at 63 ms; b 400 at 63\.4 ms; b 800 at 95 ms\. Name a folder"):
        read_b_values(tmp_path)


def test_one_series_of_two_echo_times_is_not_extrapolated(tmp_path):
    shared = trace_series(50)
    replace(trace_series(800, echo_time_ms=95.0), series_uid=shared.series_uid, instance_start=101).write(tmp_path)
    shared.write(tmp_path)
    with pytest.raises(ImageError, match="one echo time to be fitted together"):
        read_case(tmp_path)


def test_the_image_that_the_scanner_calculated_goes_before_an_own_fit(tmp_path):
    write_multi_b(tmp_path / "dwi", (50, 400, 800))
    trace_series(1000, 8, description="ep2d_diff_tra_CALC_BVAL").write(tmp_path / "calc")
    case = read_case(tmp_path)
    np.testing.assert_array_equal(case[Sequence.HBV].array, np.round(trace_at(1000)))
    assert "calculated by the scanner, b 1000 by its tag" in case.notes[0].text


def test_a_measured_high_b_goes_before_a_calculated_one(tmp_path):
    write_multi_b(tmp_path / "dwi", (50, 1500))
    trace_series(2000, 8, description="ep2d_diff_tra_CALC_BVAL").write(tmp_path / "calc")
    assert "b 1500 as measured" in read_case(tmp_path).notes[0].text


def test_trace_images_are_told_from_single_directions(tmp_path):
    shared = trace_series(1400)
    for index, direction in enumerate(("DIRECTIONAL", "DIRECTIONAL", "ISOTROPIC")):
        part = replace(shared, instance_start=1 + 100 * index, tags={"DiffusionDirectionality": direction})
        replace(part, voxels=shared.voxels if direction == "ISOTROPIC" else shared.voxels * 0.5).write(tmp_path)
    np.testing.assert_array_equal(read_case(tmp_path)[Sequence.HBV].array, np.round(trace_at(1400)))


def test_a_low_b_value_alone_gives_no_high_b_image(tmp_path):
    t2w_series().write(tmp_path / "t2")
    trace_series(50).write(tmp_path / "dwi")
    assert read_case(tmp_path).sequences == (Sequence.T2W,)


def test_two_series_for_one_sequence_are_listed(tmp_path):
    t2w_series().write(tmp_path / "a")
    replace(t2w_series(), description="t2_tse_tra_repeat", number=11).write(tmp_path / "b")
    with pytest.raises(AmbiguousInputError) as caught:
        read_case(tmp_path)
    assert "series 4 't2_tse_tra' (7 images, such as IM04001.dcm)" in str(caught.value)
    assert "series 11 't2_tse_tra_repeat' (7 images, such as IM11001.dcm)" in str(caught.value)
    assert "--t2w" in str(caught.value)


def synthetic(series: DicomSeries, **changes) -> DicomSeries:
    """A series as a network's result is written."""
    return replace(series, image_type=("DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"), number=9003, **changes)


def test_a_synthetic_series_is_not_chosen_beside_a_measured_one(tmp_path):
    t2w_series().write(tmp_path / "exam")
    synthetic(t2w_series(), voxels=a_t2w(5).array).write(tmp_path / "exam" / "derived")
    case = read_case(tmp_path / "exam")
    np.testing.assert_array_equal(case[Sequence.T2W].array, a_t2w().array)
    assert not any("synthetic" in note.text for note in case.notes)


def test_a_synthetic_series_alone_is_used_only_where_it_is_named(tmp_path):
    synthetic(t2w_series()).write(tmp_path / "t2")
    with pytest.raises(MissingSequenceError, match=r"could be t2w is synthetic, .* name it with --t2w"):
        read_case(tmp_path)
    case = read_case(t2w=tmp_path / "t2")
    assert "It is synthetic by its Image Type, made by an algorithm and not measured" in case.notes[0].text
    adc_series().write(tmp_path / "adc")
    case = read_case(tmp_path)
    assert case.sequences == (Sequence.ADC,)
    assert any("could be t2w is synthetic" in note.text for note in case.notes)


@pytest.mark.parametrize("choice", ["b", "b/IM11003.dcm"])
def test_a_folder_or_a_file_of_a_series_chooses_it(tmp_path, choice):
    t2w_series().write(tmp_path / "a")
    adc_series().write(tmp_path / "adc")
    replace(t2w_series(), voxels=a_t2w(5).array, description="repeat", number=11).write(tmp_path / "b")
    case = read_case(tmp_path, t2w=tmp_path / choice)
    np.testing.assert_array_equal(case[Sequence.T2W].array, a_t2w(5).array)
    assert case.sequences == (Sequence.T2W, Sequence.ADC)


def test_a_diffusion_series_named_by_option_gives_its_high_b_image(tmp_path):
    write_multi_b(tmp_path / "DOE_JOHN" / "dwi", (50, 400, 800))
    case = read_case(hbv=tmp_path / "DOE_JOHN" / "dwi")
    assert "b 1400 computed" in case.notes[0].text
    assert case.id == "study"


def test_two_studies_in_one_folder_are_refused(tmp_path):
    t2w_series().write(tmp_path / "a")
    t2w_series(study_uid="1.2.3.4").write(tmp_path / "b")
    with pytest.raises(AmbiguousInputError, match="must hold one study, but holds 2") as caught:
        read_case(tmp_path)
    assert "1.2.3.4" not in str(caught.value)


def test_series_that_are_all_something_else_are_listed(tmp_path):
    DicomSeries(a_t2w(5).array, "t2_tse_sag", 3, orientation=SAGITTAL).write(tmp_path)
    with pytest.raises(MissingSequenceError, match="none was recognized among series 3 't2_tse_sag'"):
        read_case(tmp_path)


def written(tmp_path, change) -> None:
    """Write a T2w series after a change of its datasets."""
    datasets = t2w_series().datasets()
    change(datasets)
    for index, dataset in enumerate(datasets):
        dataset.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)


def _drop_a_slice(datasets):
    del datasets[3]


def _repeat_a_slice(datasets):
    datasets[3].ImagePositionPatient = datasets[2].ImagePositionPatient


def _move_a_slice_up(datasets):
    normal = np.cross(datasets[3].ImageOrientationPatient[:3], datasets[3].ImageOrientationPatient[3:])
    datasets[3].ImagePositionPatient = list(np.round(np.array(datasets[3].ImagePositionPatient) + normal, 6))


def _move_a_slice_sideways(datasets):
    x, y, z = datasets[3].ImagePositionPatient
    datasets[3].ImagePositionPatient = [x + 2, y, z]


def _turn_a_slice(datasets):
    datasets[3].ImageOrientationPatient = list(AXIAL)


def _scale_a_slice(datasets):
    datasets[3].PixelSpacing = [3.0, 3.0]


def _crop_a_slice(datasets):
    rows = datasets[3].Rows // 2
    datasets[3].PixelData = datasets[3].PixelData[: rows * datasets[3].Columns * 2]
    datasets[3].Rows = rows


def _leave_one_slice(datasets):
    del datasets[1:]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_drop_a_slice, "missing"),
        (_repeat_a_slice, "position"),
        (_move_a_slice_up, r"gaps"),
        (_move_a_slice_sideways, "sideways"),
        (_turn_a_slice, "mixes"),
        (_scale_a_slice, "mixes"),
        (_crop_a_slice, "mixes"),
        (_leave_one_slice, "has a single slice"),
    ],
)
def test_slices_that_make_no_volume_are_refused(tmp_path, change, problem):
    written(tmp_path, change)
    with pytest.raises(GeometryError, match=problem):
        read_case(tmp_path)


def _store_an_instance_twice(datasets):
    copy = deepcopy(datasets[3])
    copy.PixelData = copy.PixelData[::-1]
    datasets.append(copy)


@pytest.mark.parametrize("index", [0, 3, 6])
def test_a_truncated_slice_is_refused_wherever_it_lies(tmp_path, index):
    path = t2w_series().write(tmp_path)[index]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match="truncated"):
        read_case(tmp_path)


def test_other_dicom_objects_are_passed_over(tmp_path):
    t2w_series().write(tmp_path)
    report = t2w_series().datasets()[0]
    for keyword in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(report, keyword)
    report.Modality = "SR"
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert read_case(tmp_path).sequences == (Sequence.T2W,)


def write_enhanced(folder) -> None:
    dataset = t2w_series().datasets()[0]
    dataset.NumberOfFrames = 2
    dataset.add(DataElement("PixelData", "OW", dataset.PixelData * 2))
    dataset.save_as(folder / "enhanced.dcm", enforce_file_format=True)


def test_a_multi_frame_series_alone_is_named(tmp_path):
    write_enhanced(tmp_path)
    with pytest.raises(MissingSequenceError, match=r"series 4 \(1 image\) is multi-frame \(enhanced\). Export it as"):
        read_case(tmp_path)


def test_what_was_not_read_is_stated_where_a_sequence_lacks(tmp_path):
    adc_series().write(tmp_path / "adc")
    write_multi_b(tmp_path, (50, 400, 600))
    write_enhanced(tmp_path)
    case = read_case(tmp_path)
    unread = [note for note in case.notes if note.text.startswith("Not read: ")]
    assert unread[0].text.startswith("Not read: series 4 (1 image) is multi-frame (enhanced).")
    assert unread[1].text == (
        "Not read: series 6 (15 images), diffusion of b 600 at most; a high-b image needs b 800 or higher."
    )
    with pytest.raises(MissingSequenceError) as error:
        case.require(["t2w", "adc"])
    assert str(error.value).endswith(" ".join(["Select an image for each.", *map(str, unread)]))


def test_the_real_study_equals_its_converted_files_voxel_by_voxel(shared_data):
    from_dicom = read_case(shared_data / "dicom" / "ProstateX-0000")
    from_files = read_case(shared_data / "cases" / "ProstateX-0000")
    for sequence in Sequence:
        a, b = from_dicom[sequence].to_nearest_lps(), from_files[sequence].to_nearest_lps()
        assert a.geometry.equals(b.geometry)
        np.testing.assert_array_equal(a.array, b.array)
