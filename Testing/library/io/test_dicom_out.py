"""Results as DICOM, of a phantom written as DICOM and of a real exam: valid, and read back with equal numbers."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_series import PATIENT_ID, PATIENT_NAME, DicomSeries

from VFMTransferLib.core.errors import GeometryError, ImageError
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.io import read_case
from VFMTransferLib.io.dicom import read_series
from VFMTransferLib.io.dicom_out import (
    MEASUREMENTS,
    PROSTATE_MEASUREMENTS,
    SEGMENTATION,
    lesion_masks,
    require_dicom,
    require_dicom_of_outputs,
    write_dicom,
)
from VFMTransferLib.io.results import read_result, save_result
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.radiology.gland import measure_gland
from VFMTransferLib.radiology.lesions import measure_lesions
from VFMTransferLib.radiology.sectors import SECTOR_CODES
from VFMTransferLib.tasks.anatomy_segmentation.task import TASK as ANATOMY
from VFMTransferLib.tasks.lesions import find_lesions

hd = pytest.importorskip("highdicom", reason="highdicom is not installed: pip install 'vfm-transfer[dicom]'.")
SOURCE = Provenance("a-bundle", "A network, pretrained", "pretrained", "0" * 64, "onnx", "cpu")
needs_dciodvfy = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed: apt-get install dicom3tools."
)


def as_series(volume: Volume, description: str, number: int, **more) -> DicomSeries:
    """A volume as the series of a scanner."""
    axes = np.reshape(volume.geometry.direction, (3, 3))
    return DicomSeries(
        volume.array.astype(float),
        description,
        number,
        orientation=(*axes[:, 0], *axes[:, 1]),
        spacing_mm=volume.geometry.spacing_mm,
        origin_mm=volume.geometry.origin_mm,
        **more,
    )


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    """A phantom, and the case that was read from its DICOM files."""
    folder = tmp_path_factory.mktemp("exam")
    phantom = make_phantom(9, t2w_spacing_mm=(1.0, 1.0, 3.0), lesions=3)
    frame = {"FrameOfReferenceUID": "1.2.3.4", "AccessionNumber": "ACC-99", "PatientPosition": "HFS"}
    case = phantom.case
    as_series(case["t2w"], "t2_tse_tra", 1, tags=frame).write(folder / "t2")
    kind = ("DERIVED", "PRIMARY", "DIFFUSION", "ADC")
    as_series(case["adc"], "adc", 2, image_type=kind, scanning_sequence="EP", tags=frame).write(folder / "adc")
    high = {**frame, "DiffusionBValue": 1400.0}
    kind = ("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW")
    as_series(case["hbv"], "dwi b1400", 3, image_type=kind, scanning_sequence="EP", tags=high).write(folder / "hbv")
    return phantom, read_case(folder)


@pytest.fixture(scope="module")
def lesion_result(exam) -> Result:
    phantom, case = exam
    labels = phantom.lesion.with_array((phantom.lesion.array > 0).astype(np.uint8))
    probability = labels.with_array(labels.array.astype(np.float32) * np.float32(0.8))
    zones = {str(name): mask for name, mask in ANATOMY.from_phantom(phantom).masks.items() if name != Label.PROSTATE}
    lesions = find_lesions(labels, {str(Label.CSPCA): probability}, case["adc"], zones)
    lesions = measure_lesions(labels, lesions, adc=case["adc"], hbv=case["hbv"], gland=phantom.gland, zones=zones)
    return Result(
        case.id,
        "lesion-segmentation",
        SOURCE,
        {str(Label.CSPCA): 1},
        labels,
        lesions=lesions,
        gland=measure_gland(phantom.gland, "phantom", psa_ng_ml=6.5),
    )


@pytest.fixture(scope="module")
def anatomy_result(exam) -> Result:
    phantom, case = exam
    values = {str(Label.PERIPHERAL_ZONE): 1, str(Label.TRANSITION_ZONE): 2}
    volumes = {str(Label.PROSTATE): phantom.volume_ml}
    gland = measure_gland(phantom.gland, "phantom", psa_ng_ml=6.5)
    return Result(case.id, "anatomy-segmentation", SOURCE, values, phantom.zones, volumes_ml=volumes, gland=gland)


@pytest.fixture(scope="module")
def image_result(exam) -> Result:
    _, case = exam
    t2w = case["t2w"]
    fine = replace(t2w.geometry, size=(384, 384, t2w.geometry.size[2]), spacing_mm=(0.5, 0.5, 3.0))
    images = {
        "t2w-super-resolved": t2w.resample_to(fine),
        "hbv-corrected": case["hbv"].with_array(case["hbv"].array * np.float32(1.1)),
        "adc-corrected": case["adc"].with_array(case["adc"].array + np.float32(0.25)),
        "adc-synthetic": t2w.with_array(t2w.array * np.float32(1.5)),
    }
    return Result(case.id, "super-resolution", SOURCE, images=images, grid=t2w.geometry)


@pytest.fixture(scope="module")
def written(exam, lesion_result, anatomy_result, image_result, tmp_path_factory) -> dict[str, Path]:
    """Each result's folder."""
    folders = {}
    for name, result in (("lesions", lesion_result), ("anatomy", anatomy_result), ("images", image_result)):
        folders[name] = tmp_path_factory.mktemp(name)
        write_dicom(result, exam[1], folders[name], SECTOR_CODES)
    return folders


def errors_of(file: Path) -> list[str]:
    found = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False)
    return [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]


@needs_dciodvfy
def test_dciodvfy_finds_no_error(written):
    files = [file for folder in written.values() for file in sorted(folder.rglob("*.dcm"))]
    assert {SEGMENTATION, MEASUREMENTS, "adc-synthetic.dcm", "0001.dcm"} <= {file.name for file in files}
    assert {file.name: errors for file in files if (errors := errors_of(file))} == {}


def test_segments_are_the_lesions_voxel_by_voxel(written, lesion_result):
    segmentation = hd.seg.segread(written["lesions"] / SEGMENTATION)
    masks = lesion_masks(lesion_result.labels, lesion_result.lesions)
    assert segmentation.number_of_segments == len(masks)
    volume = segmentation.get_volume(combine_segments=False)
    for number, (lesion, mask) in enumerate(masks):
        found = volume.array[..., number].astype(bool)
        assert int(found.sum()) == int(mask.sum()), lesion.index
        spots = np.argwhere(found)
        center = (volume.affine[:3, :3] @ spots.mean(axis=0)) + volume.affine[:3, 3]
        np.testing.assert_allclose(center, lesion.center_mm, atol=1e-2)
    description = segmentation.get_segment_description(1)
    assert description.algorithm_identification.name == SOURCE.title
    assert description.segmented_property_type.value == "4147007"


def test_zones_and_the_prostate_have_their_codes_and_voxels(written, anatomy_result):
    segmentation = hd.seg.segread(written["anatomy"] / SEGMENTATION)
    descriptions = [segmentation.get_segment_description(n) for n in segmentation.segment_numbers]
    kinds = {d.segmented_property_type.value: d.segment_number for d in descriptions}
    assert set(kinds) == {"41216001", "279706003", "399384005"}
    volume = segmentation.get_volume(combine_segments=False)
    counts = {kind: int(volume.array[..., number - 1].sum()) for kind, number in kinds.items()}
    labels = anatomy_result.labels.array
    assert counts == {
        "41216001": int((labels > 0).sum()),
        "279706003": int((labels == 1).sum()),
        "399384005": int((labels == 2).sum()),
    }


def numbers_of(group) -> dict[str, float]:
    return {
        measurement.name.meaning + (f", {measurement.derivation.meaning}" if measurement.derivation else ""): float(
            measurement.value
        )
        for measurement in group.get_measurements()
    }


def test_the_report_has_every_lesions_numbers_sites_and_segment(written, lesion_result):
    report = hd.sr.srread(written["lesions"] / MEASUREMENTS)
    segmentation = hd.seg.segread(written["lesions"] / SEGMENTATION)
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(lesion_result.lesions)
    for group, lesion in zip(groups, lesion_result.lesions, strict=True):
        found = numbers_of(group)
        expected = {
            "Volume": lesion.volume_ml,
            "Long Axis": lesion.diameter_mm,
            "Apparent Diffusion Coefficient, Mean": lesion.mean_adc,
            "Apparent Diffusion Coefficient, 10th percentile": lesion.adc_p10,
            "High-b signal ratio, lesion to contralateral zone": lesion.high_b_ratio,
            "Distance to capsule": lesion.capsule_distance_mm,
            "Length of capsular contact": lesion.capsule_contact_mm,
            "Maximum network probability": lesion.confidence,
        }
        assert found == pytest.approx({k: v for k, v in expected.items() if v is not None}, rel=1e-6)
        sites = {
            site.topography.value if hasattr(site, "topography") else site.value.value for site in group.finding_sites
        }
        assert sites == {SECTOR_CODES[name].value for name in lesion.sectors}
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert group.tracking_uid == segmentation.get_segment_description(lesion.index).tracking_uid


def test_findings_of_a_report_have_the_same_measures_and_follow_the_segments(exam, lesion_result, written, tmp_path):
    """As Slicer's reader of TID 1500 takes them: columns from the first, segments by their number."""
    (prostate,) = hd.sr.srread(written["lesions"] / PROSTATE_MEASUREMENTS).content.get_image_measurement_groups()
    assert numbers_of(prostate)["Volume"] == pytest.approx(lesion_result.gland.segmented_ml)
    first, *rest = lesion_result.lesions
    odd = replace(first, capsule_distance_mm=None, capsule_contact_mm=None)
    write_dicom(replace(lesion_result, lesions=(odd, *rest)), exam[1], tmp_path, SECTOR_CODES)
    reports = sorted(tmp_path.glob("measurements*.dcm"))
    assert [file.name for file in reports] == ["measurements-2.dcm", PROSTATE_MEASUREMENTS, MEASUREMENTS]
    for file in (tmp_path / MEASUREMENTS, tmp_path / "measurements-2.dcm"):
        groups = hd.sr.srread(file).content.get_volumetric_roi_measurement_groups()
        assert len({tuple(numbers_of(group)) for group in groups}) == 1, file.name
    groups = hd.sr.srread(written["lesions"] / MEASUREMENTS).content.get_volumetric_roi_measurement_groups()
    segmentation = hd.seg.segread(written["lesions"] / SEGMENTATION)
    tracked = [segmentation.get_segment_description(n).tracking_uid for n in segmentation.segment_numbers]
    assert [group.tracking_uid for group in groups] == tracked


def test_the_report_has_the_size_of_the_prostate_and_the_psa_density(written, anatomy_result):
    report = hd.sr.srread(written["anatomy"] / MEASUREMENTS)
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    gland = anatomy_result.gland
    assert numbers_of(group) == pytest.approx(
        {
            "Transverse diameter, axial": gland.transverse_mm,
            "Anteroposterior diameter, mid-sagittal": gland.anteroposterior_mm,
            "Longitudinal diameter, mid-sagittal": gland.longitudinal_mm,
            "Volume": gland.segmented_ml,
            "Volume of the ellipsoid": gland.ellipsoid_ml,
            "Prostate-specific antigen as entered": 6.5,
            "PSA density by the mask": gland.psa_density_segmented,
            "PSA density by the ellipsoid": gland.psa_density_ellipsoid,
        },
        rel=1e-6,
    )
    stated = {str(element.value) for element in report.iterall() if element.VR != "SQ"}
    assert {SOURCE.title, "Artificial Intelligence", f"weights SHA-256 {SOURCE.sha256}"} <= stated


def test_an_adc_map_is_a_parametric_map_in_its_unit(written, image_result):
    import pydicom

    for name in ("adc-synthetic", "adc-corrected"):
        image = pydicom.dcmread(written["images"] / f"{name}.dcm")
        expected = image_result.images[name]
        frames = np.frombuffer(image.FloatPixelData, "<f4").reshape(-1, image.Rows, image.Columns)
        assert len(frames) == expected.geometry.size[2]
        for frame, about in zip(frames, image.PerFrameFunctionalGroupsSequence, strict=True):
            index = expected.geometry.to_index([float(v) for v in about.PlanePositionSequence[0].ImagePositionPatient])
            np.testing.assert_allclose(index, (0, 0, np.rint(index[2])), atol=1e-3)
            np.testing.assert_array_equal(frame, expected.array[round(index[2])])
        units = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0]
        assert (units.CodeValue, units.CodingSchemeDesignator) == ("um2/s", "UCUM")
        assert image.SeriesDescription.startswith("SYNTHETIC")


@pytest.mark.parametrize(("name", "role"), [("t2w-super-resolved", Sequence.T2W), ("hbv-corrected", Sequence.HBV)])
def test_a_derived_series_is_read_back_where_it_lies(written, image_result, name, role):
    import pydicom

    found, expected = read_series(written["images"] / name, role).volume, image_result.images[name]
    assert found.geometry.equals(expected.geometry)
    step = (expected.array.max() - expected.array.min()) / 4095
    np.testing.assert_allclose(found.array, expected.array, atol=step)
    header = pydicom.dcmread(written["images"] / name / "0001.dcm")
    assert list(header.ImageType) == ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]
    assert "SYNTHETIC" in header.SeriesDescription
    assert header.DerivationDescription
    assert header.SourceImageSequence


@pytest.mark.parametrize("is_read_back", [False, True])
def test_images_of_a_withheld_correction_are_uncorrected_and_not_synthetic(exam, tmp_path, is_read_back):
    """As `predict --dicom` writes them, and as `dicom` does from the folder of a result."""
    import pydicom

    _, case = exam
    hbv, adc = case["hbv"], case["adc"]
    result = Result(
        case.id,
        "distortion-correction",
        SOURCE,
        images={"hbv-corrected": hbv, "adc-corrected": adc},
        displacement_mm=np.zeros((*hbv.geometry.shape, 3), np.float32),
        grid=hbv.geometry,
    )
    if is_read_back:
        result = read_result(save_result(result, tmp_path / "result"))
        assert result.is_withheld
    (tmp_path / "dicom").mkdir()
    files = write_dicom(result, case, tmp_path / "dicom")
    assert {file.name for file in files} >= {"0001.dcm", "adc-corrected.dcm"}
    for file in files:
        made = pydicom.dcmread(file)
        assert made.SeriesDescription.startswith("UNCORRECTED (correction withheld)")
        stated = " ".join(str(element.value) for element in made.iterall() if element.VR != "SQ").upper()
        assert "SYNTHETIC" not in stated
        assert "NETWORK" not in stated
    if shutil.which("dciodvfy"):
        assert {file.name: errors for file in files if (errors := errors_of(file))} == {}


def test_identity_is_taken_over_and_other_identifiers_are_new(written, exam):
    import pydicom

    source = pydicom.dcmread(exam[1].files[Sequence.T2W][0])
    seen = set()
    for folder in written.values():
        for file in folder.rglob("*.dcm"):
            made = pydicom.dcmread(file, stop_before_pixels=True)
            assert (made.PatientID, str(made.PatientName)) == (PATIENT_ID, PATIENT_NAME)
            assert made.StudyInstanceUID == source.StudyInstanceUID
            assert made.AccessionNumber == "ACC-99"
            assert made.SeriesInstanceUID != source.SeriesInstanceUID
            assert made.SOPInstanceUID not in seen
            seen.add(made.SOPInstanceUID)
            if "FrameOfReferenceUID" in made:
                assert made.FrameOfReferenceUID == "1.2.3.4"


def test_nothing_of_the_patient_is_logged(exam, lesion_result, tmp_path, caplog, capsys, recwarn):
    with caplog.at_level("DEBUG"):
        write_dicom(lesion_result, exam[1], tmp_path, SECTOR_CODES)
    shown = caplog.text + "".join(capsys.readouterr()) + "".join(str(w.message) for w in recwarn)
    assert PATIENT_ID not in shown
    assert "Doe" not in shown


def test_a_case_of_image_files_is_refused(exam, lesion_result, tmp_path):
    phantom, _ = exam
    with pytest.raises(ImageError, match="must be read from DICOM, but was read from an image file"):
        require_dicom(phantom.case, Sequence.T2W)
    with pytest.raises(ImageError, match="must be read from DICOM"):
        write_dicom(lesion_result, phantom.case, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_each_image_that_outputs_derive_from_is_asked_for_before_the_network_runs(exam):
    _, exam = exam
    outputs = ("hbv-corrected", "adc-corrected")
    require_dicom_of_outputs(exam, Sequence.HBV, outputs)
    partly = replace(exam, files={s: files for s, files in exam.files.items() if s is not Sequence.ADC})
    require_dicom_of_outputs(partly, Sequence.T2W, ("adc-synthetic",))  # which is made from T2w
    with pytest.raises(ImageError, match=r"adc of case .* must be read from DICOM"):
        require_dicom_of_outputs(partly, Sequence.HBV, outputs)


def test_an_exam_without_a_frame_of_reference_is_refused_before_the_network_runs(exam, tmp_path):
    import pydicom

    _, exam = exam
    path = tmp_path / "slice.dcm"
    header = pydicom.dcmread(exam.files[Sequence.T2W][0])
    del header.FrameOfReferenceUID
    header.save_as(path)
    with pytest.raises(GeometryError, match="must state its frame of reference"):
        require_dicom_of_outputs(replace(exam, files={Sequence.T2W: (path,)}), Sequence.T2W, ())


def changed(case, folder: Path, **tags):
    """The case with elements of its T2w's slices changed, or removed where None."""
    import pydicom

    files = []
    for path in case.files[Sequence.T2W]:
        with pydicom.config.disable_value_validation():
            header = pydicom.dcmread(path)
            for keyword, value in tags.items():
                if value is None:
                    del header[keyword]
                else:
                    setattr(header, keyword, value)
            files.append(folder / path.name)
            header.save_as(files[-1])
    return replace(case, files={**case.files, Sequence.T2W: tuple(files)})


@pytest.mark.parametrize(
    ("tags", "error", "words"),
    [
        ({"FrameOfReferenceUID": ""}, GeometryError, "must state its frame of reference"),
        ({"SOPInstanceUID": "1.2.3.4"}, ImageError, "must have an identifier of its own .SOPInstanceUID., but several"),
        ({"SOPInstanceUID": None}, ImageError, "each slice must have SOPInstanceUID, to which results refer"),
        ({"SeriesInstanceUID": ""}, ImageError, "each slice must have SeriesInstanceUID"),
        ({"SpecificCharacterSet": "ISO_IR 999"}, ImageError, "must state a character set of the standard"),
    ],
)
def test_what_results_must_refer_to_is_known_before_the_network_runs(exam, tmp_path, tags, error, words):
    _, case = exam
    with pytest.raises(error, match=words):
        require_dicom_of_outputs(changed(case, tmp_path, **tags), Sequence.T2W, ())


def test_odd_values_of_the_header_are_left_out_and_not_repeated(
    exam, anatomy_result, tmp_path, caplog, capsys, recwarn
):
    import pydicom

    odd = {
        "PatientBirthDate": "1950", "StudyDate": "01.02.2020", "StudyTime": "noon", "PatientSex": "male",
        "PatientAge": "70",
    }  # fmt: skip
    case = changed(exam[1], tmp_path, **odd)
    require_dicom_of_outputs(case, Sequence.T2W, ())
    (tmp_path / "out").mkdir()
    for file in write_dicom(anatomy_result, case, tmp_path / "out"):
        written = pydicom.dcmread(file)
        assert not any((written.PatientBirthDate, written.StudyDate, written.StudyTime, written.PatientSex))
    shown = caplog.text + "".join(capsys.readouterr()) + "".join(str(w.message) for w in recwarn)
    assert not any(value in shown for value in odd.values())


def test_an_error_of_the_library_that_writes_does_not_repeat_what_it_met(exam, anatomy_result, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("Unable to convert '1950' to 'DA' object")

    monkeypatch.setattr(hd.seg, "Segmentation", broken)
    with pytest.raises(ImageError, match="headers of the exam must hold values as the standard has them") as error:
        write_dicom(anatomy_result, exam[1], tmp_path)
    assert "1950" not in str(error.value)


@pytest.mark.parametrize("is_withheld", [True, False])
def test_a_high_b_image_that_was_computed_is_not_called_a_copy(exam, tmp_path, is_withheld):
    import pydicom

    _, case = exam
    about = replace(case.acquisitions[Sequence.HBV], computed_b=1400.0)
    case = replace(case, acquisitions={**case.acquisitions, Sequence.HBV: about})
    field_mm = np.full((*case["hbv"].geometry.shape, 3), 0.0 if is_withheld else 1.0, np.float32)
    images = {"hbv-corrected": case["hbv"]}
    result = Result(case.id, "distortion-correction", SOURCE, images=images, displacement_mm=field_mm)
    first = pydicom.dcmread(write_dicom(replace(result, grid=case["hbv"].geometry), case, tmp_path)[0])
    assert first.DerivationDescription.startswith("Computed for b 1400 from the exam's diffusion images; not measured.")
    assert ("correction was withheld" in first.DerivationDescription) == is_withheld
    assert "Copied" not in first.DerivationDescription
    assert first.DiffusionBValue == 1400


def test_an_exam_whose_files_have_no_preamble_can_be_written(exam, anatomy_result, tmp_path):
    _, case = exam
    (tmp_path / "out").mkdir()
    for file in case.files[Sequence.T2W]:
        (tmp_path / file.name).write_bytes(file.read_bytes()[132:])
    bare = read_case(tmp_path)
    require_dicom_of_outputs(bare, Sequence.T2W, ())
    assert {f.name for f in write_dicom(anatomy_result, bare, tmp_path / "out")} == {SEGMENTATION, MEASUREMENTS}


def test_a_result_of_another_exam_is_refused(exam, lesion_result, image_result, tmp_path):
    _, case = exam
    there = case["t2w"].geometry
    elsewhere = replace(there, origin_mm=(there.origin_mm[0] + 2.0, *there.origin_mm[1:]))
    measured = Result(case.id, "classification", SOURCE, gland=lesion_result.gland, grid=there)
    write_dicom(measured, case, tmp_path)
    assert (tmp_path / MEASUREMENTS).is_file()
    moved = lesion_result.labels.array
    for result in (measured, image_result, replace(lesion_result, labels=Volume(moved, elsewhere))):
        folder = tmp_path / result.task
        folder.mkdir()
        with pytest.raises(GeometryError, match="it is of another exam, or of the same one stored with other axes"):
            write_dicom(replace(result, grid=elsewhere), case, folder)
        assert not list(folder.iterdir())
    with pytest.raises(GeometryError, match="must state its grid"):
        write_dicom(replace(measured, grid=None), case, tmp_path)


def test_a_result_of_another_study_on_the_same_grid_is_refused(exam, lesion_result, tmp_path):
    import pydicom

    _, case = exam
    folder = tmp_path / "other"
    folder.mkdir()
    for index, path in enumerate(case.files[Sequence.T2W]):
        header = pydicom.dcmread(path)
        header.StudyInstanceUID, header.PatientID = "1.2.3.9", "somebody else"
        header.save_as(folder / f"{index}.dcm")
    other, out = read_case(folder), tmp_path / "out"
    out.mkdir()
    for given in (other, replace(other, id="study")):  # as read, and as a program exported it
        with pytest.raises(GeometryError, match=f"must be of the exam that is given, but is of '{case.id}'"):
            write_dicom(lesion_result, given, out)
        assert not list(out.iterdir())
    for own in (case.id, "study", "p001"):
        write_dicom(replace(lesion_result, case_id=own), replace(case, id="study"), out)


def test_a_result_without_a_lesion_has_no_segmentation(exam, lesion_result, tmp_path):
    labels = lesion_result.labels
    nothing = replace(lesion_result, labels=labels.with_array(np.zeros_like(labels.array)), lesions=())
    files = write_dicom(nothing, exam[1], tmp_path)
    assert [file.name for file in files] == [MEASUREMENTS]  # of the prostate


def dcmqi(program: str) -> str:
    """One of the programs that Slicer's plugins call, beside this Python or on the path; skips without it."""
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if found is None:
        pytest.skip("dcmqi, whose programs Slicer's plugins call, is not installed: pip install dcmqi.")
    return found


def test_slicers_reader_of_segmentations_finds_the_voxels(written, lesion_result, tmp_path):
    import SimpleITK as sitk

    command = [dcmqi("segimage2itkimage"), "--inputDICOM", written["lesions"] / SEGMENTATION, "--mergeSegments"]
    subprocess.run([*command, "--outputDirectory", tmp_path], check=True, capture_output=True)
    (image,) = (sitk.ReadImage(str(file)) for file in tmp_path.glob("*.nrrd"))
    array = sitk.GetArrayFromImage(image)
    counts = [int((array == number).sum()) for number in range(1, len(lesion_result.lesions) + 1)]
    assert counts == [int(mask.sum()) for _, mask in lesion_masks(lesion_result.labels, lesion_result.lesions)]
    (attributes,) = json.loads((tmp_path / "meta.json").read_text("utf-8"))["segmentAttributes"]
    assert [segment["SegmentLabel"] for segment in attributes] == [f"Lesion {n + 1}" for n in range(len(counts))]


def test_slicers_reader_of_reports_finds_the_numbers(written, lesion_result, anatomy_result, tmp_path):
    found = {}
    for name in ("lesions", "anatomy"):
        command = [dcmqi("tid1500reader"), "--inputDICOM", written[name] / MEASUREMENTS]
        subprocess.run([*command, "--outputMetadata", tmp_path / f"{name}.json"], check=True, capture_output=True)
        groups = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["Measurements"]
        found |= {
            (name, group["TrackingIdentifier"], item["quantity"]["CodeMeaning"]): float(item["value"])
            for group in groups
            for item in group["measurementItems"]
        }
    gland = anatomy_result.gland
    assert found["anatomy", "Prostate", "Volume"] == pytest.approx(gland.segmented_ml, rel=1e-6)
    assert found["anatomy", "Prostate", "Transverse diameter, axial"] == pytest.approx(gland.transverse_mm, rel=1e-6)
    for lesion in lesion_result.lesions:
        name = f"Lesion {lesion.index}"
        assert found["lesions", name, "Volume"] == pytest.approx(lesion.volume_ml, rel=1e-6)
        assert found["lesions", name, "Long Axis"] == pytest.approx(lesion.diameter_mm, rel=1e-6)
        if lesion.capsule_distance_mm is not None:
            distance = found["lesions", name, "Distance to capsule"]
            assert distance == pytest.approx(lesion.capsule_distance_mm, rel=1e-6)


@needs_dciodvfy
def test_a_real_exams_results_are_valid(shared_data, tmp_path):
    case = read_case(shared_data / "dicom" / "ProstateX-0000")
    t2w, adc = case["t2w"], case["adc"]
    array = np.zeros(t2w.geometry.shape, np.uint8)
    array[5:14, 140:240, 130:250] = 1
    array[7:9, 200:210, 160:170] = 2
    gland = t2w.with_array((array > 0).astype(np.uint8))
    labels = t2w.with_array((array == 2).astype(np.uint8))
    probability = {"csPCa": labels.with_array(labels.array.astype(np.float32))}
    lesions = measure_lesions(labels, find_lesions(labels, probability, adc), adc=adc, hbv=case["hbv"], gland=gland)
    result = Result(
        case.id,
        "lesion-segmentation",
        SOURCE,
        {"csPCa": 1},
        labels,
        images={"adc-synthetic": t2w, "hbv-corrected": case["hbv"]},
        lesions=lesions,
        gland=measure_gland(gland, "as given"),
    )
    files = write_dicom(result, case, tmp_path, SECTOR_CODES)
    assert {file.name: errors for file in files if (errors := errors_of(file))} == {}
    (group,) = hd.sr.srread(tmp_path / MEASUREMENTS).content.get_volumetric_roi_measurement_groups()
    assert numbers_of(group)["Volume"] == pytest.approx(lesions[0].volume_ml)
