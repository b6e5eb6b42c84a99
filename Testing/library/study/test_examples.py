"""Example slices: all arms show the same place, the right way up, with what they got wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from study_examples import a_study

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.result import Provenance, Result
from VFMTransferLib.core.terms import LABEL_TERMS, Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.study.config import CONFIG, read_config
from VFMTransferLib.study.examples import (
    TOO_HIGH,
    TOO_LOW,
    planned_examples,
    read_examples,
    write_examples,
)
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.adc_translation.task import ADC_SYNTHETIC
from VFMTransferLib.tasks.base import LabeledCase

SHIPPED = Path(__file__).parents[3] / "Resources" / "Study"
SOURCE = Provenance("b", "B", "", "", "none", "cpu")
# 48 x 40 mm in voxels that are longer than wide; z points to superior.
GRID = Geometry((48, 20, 7), (1.0, 2.0, 3.0), (-24.0, -20.0, 5.0))
TRUE = (126, 231, 135)
CSPCA, PROSTATE = LABEL_TERMS[Label.CSPCA].color, LABEL_TERMS[Label.PROSTATE].color
RIGHT_ANTERIOR = np.s_[:, 2:5, 4:10]


def volume(array: np.ndarray) -> Volume:
    return Volume(array, GRID, "t2w")


def box(*, z: slice, y: slice = slice(6, 14), x: slice = slice(12, 36)) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    array[z, y, x] = 1
    return volume(array)


def a_t2w() -> Volume:
    """Gray, with a bright place at the patient's right and front."""
    array = np.full(GRID.shape, 100.0, np.float32)
    array[RIGHT_ANTERIOR] = 500.0
    return volume(array)


def lesion_study(name: str = "case", lesion: Volume | None = None, **more) -> LabeledCase:
    images = {sequence: replace(a_t2w(), name=str(sequence)) for sequence in Sequence}
    lesion = lesion or box(z=slice(4, 6), x=slice(12, 20))
    gland = box(z=slice(1, 4))
    return LabeledCase("lesion-segmentation", Case(name, images), gland, {Label.CSPCA: lesion}, **more)


def lesion_result(marked: Volume, name: str = "case") -> Result:
    shown = {str(Label.CSPCA): marked.with_array(np.float32(0.7) * marked.array)}
    return Result(name, "lesion-segmentation", SOURCE, {str(Label.CSPCA): 1}, marked, shown)


def adc_study(truth: np.ndarray) -> LabeledCase:
    case = Case("case", {Sequence.T2W: a_t2w()})
    return LabeledCase("adc-translation", case, box(z=slice(2, 5)), images={ADC_SYNTHETIC: volume(truth)})


def adc_result(array: np.ndarray) -> Result:
    return Result("case", "adc-translation", SOURCE, images={ADC_SYNTHETIC: volume(array.astype(np.float32))})


def pixels(folder: Path, name: str, task: str = "lesion-segmentation", data: str = "phantom") -> np.ndarray:
    """Red, green and blue (H, W, 3) of a picture."""
    image = Image.open(folder / "examples" / task / data / name)
    return np.asarray(image.convert("RGB")).astype(int)


def is_of(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (picture == color).all(axis=-1)


def test_the_patients_right_is_on_the_left_and_front_is_up_however_the_axes_run(tmp_path):
    study = lesion_study()
    for orientation in ("LPS", "RAI", "ASL"):
        turned = Volume.from_sitk(sitk.DICOMOrient(study.case[Sequence.T2W].to_sitk(), orientation), "t2w")
        case = replace(study.case, volumes={**study.case.volumes, Sequence.T2W: turned})
        write_examples(tmp_path, "e", "scratch", [(lesion_result(box(z=slice(4, 6))), replace(study, case=case))])
        picture = pixels(tmp_path, "input.png")
        assert picture.shape == (80, 96, 3)  # 40 and 48 mm
        bright = np.argwhere(picture[..., 0] > 200)
        assert np.abs(bright.min(axis=0) - (8, 8)).max() <= 2
        assert np.abs(bright.max(axis=0) - (19, 19)).max() <= 2


def test_the_slice_is_where_most_of_the_lesion_is_and_arms_share_it(tmp_path):
    lesion = box(z=slice(3, 5), x=slice(12, 16))
    lesion.array[4, 6:14, 12:22] = 1
    pairs = {"scratch": box(z=slice(0, 2)), "pretrained": box(z=slice(4, 5))}
    found = [
        write_examples(tmp_path, "e", a, [(lesion_result(m), lesion_study(lesion=lesion))])[0] for a, m in pairs.items()
    ]
    assert [(example.slice_number, example.slices) for example in found] == [(5, 7), (5, 7)]
    assert found[0].inputs == found[1].inputs
    assert not is_of(pixels(tmp_path, "e-scratch.png"), CSPCA).any()
    assert is_of(pixels(tmp_path, "e-pretrained.png"), CSPCA).any()


def test_a_result_is_outlined_over_the_truth(tmp_path):
    write_examples(tmp_path, "e", "scratch", [(lesion_result(box(z=slice(4, 6), x=slice(24, 34))), lesion_study())])
    rows, columns = np.nonzero(is_of(pixels(tmp_path, "e-scratch.png"), CSPCA))
    # 10 mm wide and 16 mm high, at 2 pixels a millimeter
    assert (columns.min(), columns.max()) == pytest.approx((48, 67), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((24, 55), abs=1)
    inside = is_of(pixels(tmp_path, "e-scratch.png"), CSPCA)[30:50, 52:64]
    assert not inside.any()
    _, of_truth = np.nonzero(is_of(pixels(tmp_path, "truth.png"), CSPCA))
    assert (of_truth.min(), of_truth.max()) == pytest.approx((24, 39), abs=1)


def test_a_lesions_probability_is_white_where_the_case_has_its_highest(tmp_path):
    """Also where nothing reaches the threshold, so that the result itself shows nothing."""
    array = np.zeros(GRID.shape, np.float32)
    array[4, 8:12, 14:19], array[4, 8:12, 28:34], array[0, 8:12, 28:34] = 0.01, 0.02, 0.04
    result = replace(lesion_result(box(z=slice(0, 0))), probabilities={str(Label.CSPCA): volume(array)})
    (example,) = write_examples(tmp_path, "e", "scratch", [(result, lesion_study())])
    assert (example.probability.low, example.probability.high) == pytest.approx((0, 0.04))
    picture = pixels(tmp_path, example.probability.file)
    assert is_of(picture, TRUE).any()
    shares = picture[~is_of(picture, TRUE)].max(axis=1) / 255
    assert all(np.isclose(shares, share, atol=0.02).any() for share in (0, 0.25, 0.5))
    assert shares.max() < 0.7  # the highest lies in another slice
    nothing = lesion_result(box(z=slice(0, 0)))
    (example,) = write_examples(tmp_path, "e", "scratch", [(nothing, lesion_study())])
    assert example.probability is None
    patient = lesion_study(is_phantom=False)
    (example,) = write_examples(tmp_path, "e", "scratch", [(result, patient)])
    assert not is_of(pixels(tmp_path, example.probability.file, data="real"), TRUE).any()


def test_the_difference_is_black_where_there_is_none_and_says_which_way_it_goes(tmp_path):
    truth = np.tile(np.linspace(200, 1200, 48, dtype=np.float32), (7, 20, 1))
    truth[:, :4] = 0  # nothing was measured there
    wrong = truth.copy()
    wrong[:, :, :16] -= 900
    wrong[:, :, 32:] += 900
    (example,) = write_examples(tmp_path, "e", "scratch", [(adc_result(wrong), adc_study(truth))])
    shown = pixels(tmp_path, "e-scratch-difference.png", "adc-translation")
    assert is_of(shown[22:], TOO_LOW)[:, :28].all()
    assert (shown[22:, 38:58] == 0).all()
    assert is_of(shown[22:], TOO_HIGH)[:, 68:].all()
    assert (shown[:6] == 0).all()
    assert example.difference.high == pytest.approx(0.25 * (example.truth.high - example.truth.low))
    assert (example.truth.low, example.truth.high) == pytest.approx((200, 1200), abs=15)
    assert (example.picture.low, example.picture.high) == (example.truth.low, example.truth.high)
    assert example.truth.unit == "1e-6 mm²/s"


def test_the_first_case_with_a_finding_is_shown_whatever_the_order(tmp_path):
    healthy = [lesion_study(name, box(z=slice(0, 0))) for name in ("a", "d")]
    ill = [lesion_study(name) for name in ("c", "b")]
    real = [lesion_study(name, is_phantom=False) for name in ("f", "e")]
    for order in (1, -1):
        studies = [*healthy, *ill, *real][::order]
        pairs = ((lesion_result(box(z=slice(4, 6)), study.case.id), study) for study in studies)
        found = write_examples(tmp_path, "e", "scratch", pairs)
        assert [(example.data, example.case) for example in found] == [("phantom", "b"), ("real", "e")]


def test_lesions_that_readers_marked_in_patients_are_drawn_only_when_asked_for(tmp_path):
    study, result = lesion_study(is_phantom=False), lesion_result(box(z=slice(0, 2)))
    (example,) = write_examples(tmp_path, "e", "scratch", [(result, study)])
    assert example.truth is None
    assert not (example.folder(tmp_path) / "truth.png").exists()
    assert (pixels(tmp_path, "e-scratch.png", data="real") == pixels(tmp_path, "input.png", data="real")).all()
    assert (example.slice_number, example.scores["dice"]) == (5, 0)
    (example,) = write_examples(tmp_path, "e", "scratch", [(result, study)], patients_marks=True)
    assert is_of(pixels(tmp_path, "truth.png", data="real"), CSPCA).any()


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_can_be_shown_and_read_again(tmp_path, task):
    study = a_study(task)
    result = TASKS[task].naive_baseline([study])(study)
    written = write_examples(tmp_path, "baseline", "trivial", [(result, study)])
    assert read_examples(tmp_path) == written
    (example,) = written
    assert (example.picture is None) == (task == "classification")
    assert (example.true_class is None) == (task != "classification")
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.png")) < 120_000


def test_an_example_that_cannot_be_shown_is_named(tmp_path):
    (example,) = write_examples(tmp_path, "e", "scratch", [(lesion_result(box(z=slice(4, 6))), lesion_study())])
    (example.folder(tmp_path) / "truth.png").unlink()
    with pytest.raises(DatasetError, match=r"needs the picture 'truth\.png'"):
        read_examples(tmp_path)
    path = example.folder(tmp_path) / "e-scratch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "slice_number": "five"}))
    with pytest.raises(DatasetError, match=r"slice_number' must be a whole number"):
        read_examples(tmp_path)


@pytest.mark.parametrize("file", ["../../../secret.png", "{folder}/secret.png", "..\\secret.png", "link.png"])
def test_an_example_from_elsewhere_names_no_file_that_does_not_lie_beside_it(tmp_path, file):
    (example,) = write_examples(tmp_path, "e", "scratch", [(lesion_result(box(z=slice(4, 6))), lesion_study())])
    for folder in (tmp_path, example.folder(tmp_path)):
        (folder / "secret.png").write_bytes(b"secret")
    (example.folder(tmp_path) / "link.png").symlink_to(tmp_path / "secret.png")
    path = example.folder(tmp_path) / "e-scratch.json"
    document = json.loads(path.read_text())
    document["picture"]["file"] = file.format(folder=tmp_path)
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="needs the picture"):
        read_examples(tmp_path)


def names_in(study: Path) -> set[str]:
    return {str(path.relative_to(study / "examples")) for path in study.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("encoder", "arm", "case", "is_planned"),
    [
        ("profound", "scratch", "phantom-2000", True),
        ("profound", "scratch", "phantom-0000", False),
        ("another", "scratch", "phantom-2000", False),
        ("profound", "specialised", "phantom-2000", False),
        ("profound", "scratch", "ProstateX-0000", True),
        ("profound", "scratch", "ProstateX-0214", False),
    ],
)
def test_examples_are_of_arms_and_cases_that_the_configuration_names(tmp_path, encoder, arm, case, is_planned):
    written = write_examples(tmp_path, encoder, arm, [(lesion_result(box(z=slice(4, 6)), case), lesion_study(case))])
    assert planned_examples(written, read_config(SHIPPED / CONFIG)) == (written if is_planned else ())


def test_the_shipped_examples_are_all_planned():
    shipped = read_examples(SHIPPED)
    assert shipped
    assert planned_examples(shipped, read_config(SHIPPED / CONFIG)) == shipped
