"""DICOM that was damaged, states no geometry, mixes exams, or is compressed; and the child that decodes it."""

import os
import signal
import struct
import subprocess
import sys
import zlib

import numpy as np
import pydicom
import pytest
from dicom_series import AXIAL, DicomSeries
from images import a_t2w, an_adc
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from VFMTransferLib.core.errors import GeometryError, ImageError, MixedExamsError, VFMTransferError
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.io import guarded, read_case, read_case_for
from VFMTransferLib.io.dicom_series import read_headers

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
    "values",
    [
        {},
        {"RescaleSlope": "0.37", "RescaleIntercept": "-12.5"},
        {"RescaleSlope": "2", "RescaleIntercept": "-1024"},
        {"RescaleSlope": "2.4417582417582", "RescaleIntercept": "0"},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"BitsStored": 12, "HighBit": 11},
        {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1},
        {"PixelRepresentation": 1, "RescaleSlope": "0.1"},
    ],
)
def test_slices_that_are_not_compressed_are_decoded_as_the_toolkit_does(folder, values):
    changed(folder, **values)
    headers = read_headers(sorted(folder.iterdir()))
    assert all(h.pixels is not None for h in headers)
    ours = read_case(t2w=folder)["t2w"].array
    ordered = sorted(headers, key=lambda h: float(np.dot(h.position_mm, h.normal)))
    np.testing.assert_array_equal(ours, guarded.read_slices([h.path for h in ordered], ours.shape, "series"))


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


def compressed(folder) -> None:
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.compress(RLELossless)
        ds.save_as(path)


def test_a_child_that_hangs_is_ended_and_started_again(folder, monkeypatch):
    compressed(folder)
    expected = read_case(t2w=folder)["t2w"].array
    child = guarded._READER._process
    monkeypatch.setattr(guarded, "START_S", 0.2)
    monkeypatch.setattr(guarded, "READ_S", 0.2)
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(ImageError, match="crashed or took too long: it is damaged"):
        read_case(t2w=folder)
    assert child.poll() is not None
    monkeypatch.undo()
    np.testing.assert_array_equal(read_case(t2w=folder)["t2w"].array, expected)


@pytest.mark.parametrize(("taken_mib", "seconds"), [(400, 60.0), (1, 1.0)])
def test_a_child_that_takes_too_much_memory_or_time_is_killed(taken_mib, seconds):
    program = f"import time; taken = b'1' * ({taken_mib} << 20); time.sleep(60)"
    with (
        subprocess.Popen([sys.executable, "-c", program]) as child,
        guarded._watched(child, seconds, 200 << 20),
    ):
        assert child.wait(30) == -signal.SIGKILL


def test_no_file_of_the_current_folder_stands_in_for_a_module(folder, tmp_path, monkeypatch):
    compressed(folder)
    expected = read_case(t2w=folder)["t2w"].array
    (tmp_path / "disc").mkdir()
    for module in ("SimpleITK", "numpy", "json"):
        (tmp_path / "disc" / f"{module}.py").write_text(
            "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nraise SystemExit\n", encoding="utf-8"
        )
    monkeypatch.chdir(tmp_path / "disc")
    guarded._READER.stop()
    np.testing.assert_array_equal(read_case(t2w=folder)["t2w"].array, expected)
    assert not (tmp_path / "disc" / "ran").exists()


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_child_that_died_is_started_again(folder, number):
    compressed(folder)
    expected = read_case(t2w=folder)["t2w"].array
    child = guarded._READER._process
    os.kill(child.pid, getattr(signal, number))
    child.wait()
    np.testing.assert_array_equal(read_case(t2w=folder)["t2w"].array, expected)


def test_the_toolkit_gets_no_name_that_is_no_text(folder):
    compressed(folder)
    expected = read_case(t2w=folder)["t2w"].array
    other = os.fsdecode(os.fsencode(folder) + b"\xff")
    folder.rename(other)
    np.testing.assert_array_equal(read_case(t2w=other)["t2w"].array, expected)


def test_damaged_slices_give_one_sentence(folder):
    compressed(folder)
    random = np.random.default_rng(0)
    paths = sorted(folder.iterdir())
    whole = [path.read_bytes() for path in paths]
    sentences = []
    for _ in range(25):
        which = int(random.integers(len(paths)))
        content = bytearray(whole[which])
        for at in random.integers(0, len(content), 6):
            content[at] = int(random.integers(256))
        paths[which].write_bytes(content)
        try:
            read_case(t2w=folder)
        except VFMTransferError as error:
            sentences.append(str(error))
        paths[which].write_bytes(whole[which])
    assert sentences
    for sentence in sentences:
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert str(folder) not in sentence


@pytest.mark.parametrize("kept", [0, 100, 131, 144, 160, 300])
def test_a_file_that_broke_off_does_not_make_its_series_shorter(folder, kept):
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:kept])
    with pytest.raises(ImageError, match=rf"'{last.name}' must be .* Export it again"):
        read_case(folder)


def test_a_sequence_that_never_ends_does_not_make_its_series_shorter(folder):
    last = sorted(folder.iterdir())[-1]
    content = last.read_bytes()
    at = content.index(b"\x08\0\x60\0CS")
    last.write_bytes(
        content[:at] + b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + content[at:]
    )
    with pytest.raises(ImageError, match="so that a slice may be missing"):
        read_case(folder)


def test_hidden_files_and_other_kinds_of_dicom_do_no_harm(folder):
    report = pydicom.dcmread(min(folder.iterdir()))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    del report.PixelData
    report.save_as(folder / "report.dcm")
    (folder / "._IM1.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))
    (folder / "notes.txt").write_text("no image")
    assert read_case(folder).volumes[Sequence.T2W].geometry.size[2] == len(a_t2w().array)


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
    with pytest.raises(ImageError, match=r"must state what its pixels' values are, but has .* Export it again"):
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
    with pytest.raises(ImageError, match=rf"must state what its pixels' values are, but has {words}.* Export it again"):
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
    with pytest.raises(ImageError, match=r"one slice a file, but is multi-frame \(enhanced\)"):
        read_case(t2w=folder)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_a_slice_whose_place_is_damaged_does_not_make_its_series_shorter(folder, keyword):
    last = sorted(folder.iterdir())[-1]
    place = "\\".join(map(str, pydicom.dcmread(last)[keyword].value)).encode()
    content = last.read_bytes()
    assert content.count(place) == 1
    last.write_bytes(content.replace(place, b"x" * len(place)))
    with pytest.raises(ImageError, match=r"must be a DICOM slice whose header can be read.*Export it again"):
        read_case(folder)


def test_a_slice_that_states_no_place_does_not_make_its_series_shorter(folder):
    last = sorted(folder.iterdir())[-1]
    ds = pydicom.dcmread(last)
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    ds.save_as(last)
    with pytest.raises(ImageError, match=r"must state where its slice lies .* as the other slices of its series do"):
        read_case(folder)


def _truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _lose_its_place(path) -> None:
    ds = pydicom.dcmread(path)
    del ds.ImagePositionPatient
    ds.save_as(path)


def _damage_its_place(path) -> None:
    place = "\\".join(map(str, pydicom.dcmread(path).ImagePositionPatient)).encode()
    path.write_bytes(path.read_bytes().replace(place, b"x" * len(place)))


DAMAGES = [_truncate, _lose_its_place, _damage_its_place, os.remove]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_slice_of_a_series_that_is_no_sequence_does_no_harm(tmp_path, damage):
    t2w_series().write(tmp_path / "t2")
    perfusion = DicomSeries(a_t2w(5).array, "t1_dce", 9, scanning_sequence="GR", echo_time_ms=2.0)
    damage(perfusion.write(tmp_path / "dce")[2])
    assert read_case(tmp_path).sequences == (Sequence.T2W,)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_series_with_a_damaged_slice_is_left_out_where_it_is_not_needed(tmp_path, damage):
    t2w_series().write(tmp_path / "t2")
    damage(adc_series().write(tmp_path / "adc")[2])
    with pytest.raises(ImageError, match="Export"):
        read_case(tmp_path)
    with pytest.raises(ImageError, match="Export"):
        read_case_for([Sequence.ADC], tmp_path)
    case = read_case_for([Sequence.T2W], tmp_path)
    assert case.sequences == (Sequence.T2W,)
    assert case.notes[-1].text == "Left out, since it could not be read whole and is not needed: adc."


def test_a_series_of_which_every_slice_is_truncated_is_not_passed_over(folder):
    for path in folder.iterdir():
        _truncate(path)
    adc_series().write(folder.parent / "adc")
    with pytest.raises(ImageError, match="must be a whole DICOM slice, but is truncated"):
        read_case(folder.parent)


def test_images_of_which_none_states_a_place_are_no_slices(folder):
    screenshot = pydicom.dcmread(min(folder.iterdir()))
    screenshot.SeriesInstanceUID = generate_uid()
    del screenshot.ImagePositionPatient, screenshot.ImageOrientationPatient
    screenshot.save_as(folder / "screenshot.dcm")
    assert len(read_headers(sorted(folder.iterdir()))) == len(list(folder.iterdir())) - 1


@pytest.mark.parametrize("is_far", [False, True])
def test_a_deflated_dataset_is_inflated_up_to_the_limit_only(folder, monkeypatch, is_far):
    path = min(folder.iterdir())
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path)
    start = path.read_bytes()
    meta = b"\2\0\1\0OB\0\0" + struct.pack("<I", 6000) + bytes(6000) if is_far else b""  # before the transfer syntax
    meta += start[144 : 144 + int.from_bytes(start[140:144], "little")]
    count = b"" if is_far else start[132:144]  # of its bytes, which may be left out
    bomb = zlib.compressobj(9, wbits=-15)
    path.write_bytes(start[:132] + count + meta + bomb.compress(bytes(8 << 20)) + bomb.flush())
    monkeypatch.setenv("VFM_TRANSFER_MAX_IMAGE_MB", "4")
    with pytest.raises(ImageError, match="must take at most 4 MB"):
        read_case(t2w=folder)


# Geometry


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"PixelSpacing": None}, r"must state a pixel spacing above 0 mm \(PixelSpacing\), but states none"),
        ({"PixelSpacing": [0, 0]}, "but states 0 x 0"),
        ({"PixelSpacing": [1.5, -1.5]}, "but states -1.5 x 1.5"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two perpendicular directions"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "two perpendicular directions"),
        ({"ImagePositionPatient": ["1e30", "0", "0"]}, "a position is infinite or huge"),
    ],
)
def test_geometry_that_is_not_stated_is_not_made_up(folder, values, words):
    changed(folder, **values)
    with pytest.raises(GeometryError, match=words):
        read_case(t2w=folder)


def test_color_is_refused(folder):
    changed(folder, PhotometricInterpretation="RGB")
    with pytest.raises(ImageError, match="one gray value a pixel"):
        read_case(t2w=folder)


def test_inverted_gray_values_are_noted(folder):
    changed(folder, PhotometricInterpretation="MONOCHROME1")
    assert "stored with inverted gray values (MONOCHROME1)" in read_case(t2w=folder).notes[0].text


def test_inverted_gray_values_that_are_compressed_are_refused(folder):
    """The toolkit would return them otherwise than we read them without compression."""
    changed(folder, PhotometricInterpretation="MONOCHROME1")
    compressed(folder)
    with pytest.raises(ImageError, match="must not be compressed where gray values are stored inverted"):
        read_case(t2w=folder)


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize("way", ["link", "empty"])
def test_a_slice_at_the_end_is_not_lost_unnoticed(folder, suffix, way):
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"IM_{number:04d}{suffix}")
    (folder / "VERSION").touch()  # as discs have it
    last = sorted(folder.glob("IM_*"))[-1]
    assert read_case(t2w=folder)["t2w"].array.any()
    last.unlink()
    last.symlink_to(folder / "annex" / "gone") if way == "link" else last.touch()
    with pytest.raises(ImageError, match="so that a slice may be missing"):
        read_case(t2w=folder)


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


@pytest.mark.parametrize("keyword", ["ImageOrientationPatient", "ImagePositionPatient"])
def test_an_exam_without_orientation_or_position_is_refused_in_a_sentence(tmp_path, keyword):
    for dataset in DicomSeries(np.full((3, 6, 8), 100.0), "t2_tse_tra").datasets():
        delattr(dataset, keyword)
        dataset.save_as(tmp_path / f"{dataset.InstanceNumber}.dcm", enforce_file_format=True)
    with pytest.raises(GeometryError, match=r"must state where they lie .*, but those in the folder do not: 3\."):
        read_case(tmp_path)
