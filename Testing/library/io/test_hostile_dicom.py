"""DICOM that was damaged, states no geometry, mixes exams, or is compressed; and the child that decodes it."""

import numpy as np
import pydicom
import pytest
from dicom_series import AXIAL, DicomSeries
from images import a_t2w, an_adc
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from VFMTransferLib.core.errors import GeometryError, ImageError, MixedExamsError
from VFMTransferLib.io import read_case

ADC = {
    "image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"),
    "scanning_sequence": "EP",
    "echo_time_ms": 63.0,
    "spacing_mm": (3.0, 3.5, 5.0),
}


def t2w_series(**changes) -> DicomSeries:
    return DicomSeries(a_t2w().array, "t2_tse_tra", 4, **changes)


def adc_series(**changes) -> DicomSeries:
    return DicomSeries(an_adc().array, "ep2d_diff_tra_ADC", 7, **(ADC | changes))


def changed(folder, **values) -> None:
    """Set elements of every slice; None removes one."""
    for path in sorted(folder.iterdir()):
        ds = pydicom.dcmread(path)
        for keyword, value in values.items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        ds.save_as(path)


@pytest.fixture
def folder(tmp_path):
    t2w_series().write(tmp_path / "t2")
    return tmp_path / "t2"


# Pixels


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, DeflatedExplicitVRLittleEndian]
)
def test_slices_of_any_transfer_syntax_give_the_same_volume(folder, syntax):
    expected = read_case(t2w=folder)["t2w"]
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        if syntax is RLELossless:
            ds.compress(RLELossless)
        if syntax is ExplicitVRBigEndian:
            ds.PixelData = ds.pixel_array.astype(">u2").tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
        is_implicit, is_little = syntax is ImplicitVRLittleEndian, syntax is not ExplicitVRBigEndian
        pydicom.dcmwrite(path, ds, implicit_vr=is_implicit, little_endian=is_little, force_encoding=True)
    np.testing.assert_array_equal(read_case(t2w=folder)["t2w"].array, expected.array)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("RescaleSlope", "DS", b"0 "),
        ("RescaleSlope", "DS", b"nan "),
        ("RescaleSlope", "DS", b"abcd"),
        ("RescaleIntercept", "DS", b"inf "),
        ("BitsAllocated", "US", b"\1\0"),
    ],
)
def test_pixels_whose_values_are_not_known_are_refused(folder, keyword, vr, value):
    last = sorted(folder.iterdir())[-1]
    ds = pydicom.dcmread(last)
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    ds.save_as(last)
    with pytest.raises(ImageError, match="pixels"):
        read_case(folder)


def _mapping(slope: float, intercept: float = 0.0) -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, intercept
    return pydicom.Sequence([item])


def _table() -> pydicom.Sequence:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [2, 0, 16], "US"
    item.LUTData = b"\0\0\1\0"
    return pydicom.Sequence([item])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"BitsStored": 12, "HighBit": 15}, r"12 bits of which the highest is number 15 \(HighBit\)"),
        ({"ModalityLUTSequence": _table(), "RescaleSlope": None, "RescaleIntercept": None}, "a table for them"),
        (
            {"RealWorldValueMappingSequence": _mapping(0.7), "RescaleSlope": None, "RescaleIntercept": None},
            "them in a Real World Value Mapping alone",
        ),
    ],
)
def test_pixels_that_are_scaled_in_a_way_that_is_not_read_are_refused(folder, values, words):
    changed(folder, **values)
    with pytest.raises(ImageError, match=words):
        read_case(t2w=folder)


@pytest.mark.parametrize(
    ("slope", "intercept", "is_noted"), [(1.0, 0.0, False), (1e-6, 0.0, False), (3.0, 0.0, True), (1.0, 5.0, True)]
)
def test_real_world_values_of_an_adc_map_that_differ_are_noted_but_for_their_unit(tmp_path, slope, intercept, is_noted):
    adc_series().write(tmp_path / "adc")
    changed(tmp_path / "adc", RealWorldValueMappingSequence=_mapping(slope, intercept))
    case = read_case(adc=tmp_path / "adc")
    np.testing.assert_array_equal(case["adc"].array, an_adc().array)
    assert ("Real World Value Mapping states other values" in case.notes[0].text) == is_noted
    changed(tmp_path / "adc", RescaleSlope=None, RescaleIntercept=None)
    if not is_noted:
        np.testing.assert_array_equal(read_case(adc=tmp_path / "adc")["adc"].array, an_adc().array)


def test_frames_of_one_file_are_refused_by_that_name(folder):
    changed(folder, NumberOfFrames=len(a_t2w().array), PixelData=a_t2w().array.astype(np.uint16).tobytes())
    with pytest.raises(ImageError, match="multi-frame"):
        read_case(t2w=folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"PixelSpacing": [0, 0]}, "spacings"),
        ({"PixelSpacing": [1.5, -1.5]}, "spacings"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "sheared|positi"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "sheared|positi"),
        ({"ImagePositionPatient": ["1e30", "0", "0"]}, "gaps|sideways|position"),
    ],
)
def test_geometry_that_is_not_stated_is_not_made_up(folder, values, words):
    changed(folder, **values)
    with pytest.raises(GeometryError, match=words):
        read_case(t2w=folder)


def test_color_is_refused(folder):
    changed(folder, PhotometricInterpretation="RGB")
    with pytest.raises(ImageError, match="colors"):
        read_case(t2w=folder)


def test_inverted_gray_values_are_noted(folder):
    changed(folder, PhotometricInterpretation="MONOCHROME1")
    assert "stored with inverted gray values (MONOCHROME1)" in read_case(t2w=folder).notes[0].text


def test_a_b_value_that_cannot_be_is_noted(tmp_path):
    trace = DicomSeries(an_adc().array, "dwi", 6, **ADC, tags={"DiffusionBValue": 50000.0})
    trace.image_type = ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW")
    trace.write(tmp_path / "dwi")
    assert "b value of 50000 s/mm² is beyond what scanners measure" in read_case(hbv=tmp_path / "dwi").notes[0].text


# Exams


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientID": "MRN-4712"}, "t2w and adc are of two patients"),
        ({"FrameOfReferenceUID": generate_uid()}, "t2w and adc are of two frames of reference"),
    ],
)
def test_series_of_two_exams_are_refused_and_allowed_explicitly(tmp_path, tags, words):
    t2w_series(tags={"FrameOfReferenceUID": "1.2.3"}).write(tmp_path / "t2")
    adc_series(tags={"FrameOfReferenceUID": "1.2.3", **tags}).write(tmp_path / "adc")
    with pytest.raises(MixedExamsError, match=words) as caught:
        read_case(tmp_path)
    assert "MRN" not in str(caught.value)
    assert "1.2.3" not in str(caught.value)
    case = read_case(tmp_path, allow_mixed_exams=True)
    assert f"Not one exam: {words}. They were taken together as asked." in map(str, case.notes)


def test_named_series_of_two_studies_are_refused(tmp_path):
    t2w_series().write(tmp_path / "a")
    adc_series(study_uid=generate_uid()).write(tmp_path / "b")
    with pytest.raises(MixedExamsError, match="t2w and adc are of two studies"):
        read_case(t2w=tmp_path / "a", adc=tmp_path / "b")
    assert len(read_case(t2w=tmp_path / "a", adc=tmp_path / "b", allow_mixed_exams=True).sequences) == 2
    both = read_case(tmp_path, allow_mixed_exams=True)
    assert len(both.sequences) == 2


def test_slices_of_two_patients_in_one_series_are_refused(folder):
    for path in sorted(folder.iterdir())[3:]:
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.PatientName = "other", "Other"
        ds.save_as(path)
    with pytest.raises(MixedExamsError, match="t2w are of two patients"):
        read_case(t2w=folder)


def test_identifiers_that_an_anonymizer_took_differ_in_nothing(tmp_path):
    t2w_series(tags={"PatientID": "", "PatientName": ""}).write(tmp_path / "t2")
    adc_series(orientation=AXIAL).write(tmp_path / "adc")
    assert len(read_case(tmp_path).sequences) == 2


@pytest.mark.parametrize("kept", [0, 144, 300, -100])
def test_a_file_that_broke_off_is_refused(folder, kept):
    path = sorted(folder.iterdir())[2]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises((ImageError, GeometryError)):
        read_case(folder)


def test_hidden_files_and_other_kinds_of_dicom_do_no_harm(folder):
    expected = read_case(folder)["t2w"].array
    (folder / "._IM1.dcm").write_bytes(b"of a Mac")
    report = pydicom.dcmread(sorted(folder.glob("[!.]*"))[0])
    for keyword in ("PixelData", "Rows", "Columns"):
        delattr(report, keyword)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.save_as(folder / "report.dcm")
    np.testing.assert_array_equal(read_case(folder)["t2w"].array, expected)
