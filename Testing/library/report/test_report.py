"""The page, the figure and the tables as files, without a browser."""

import base64
import hashlib
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from comparison_cases import (
    T2W_GRID,
    a_case,
    anatomy,
    anatomy_pair,
    classification_pair,
    ellipse,
    image_pair,
    lesion_pair,
    translation_pair,
    zones,
)
from PIL import Image
from specs import MODELS

from VFMTransferLib.bundles.bundle import Bundle
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import OutputError
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.result import TRAINED_NOTE
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.evaluation.comparison import compare
from VFMTransferLib.report import write_report
from VFMTransferLib.report.case_report import facts, measure_tables
from VFMTransferLib.report.figure import figure_png
from VFMTransferLib.report.scene import (
    ARM_A,
    ARM_B,
    FIRST_ONLY,
    LEVELS,
    MARGIN_MM,
    OTHER,
    SECOND_ONLY,
    build_scene,
    encode_image,
    encode_labels,
)


def decoded(layer: dict, shape: tuple[int, int, int]) -> np.ndarray:
    """What the page's script makes of a layer, step by step."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(layer["data"])), np.uint8).astype(int)
    if layer["bits"] == 8:
        return planes.reshape(shape)
    low, high = planes.reshape(2, *shape)
    folded = low + 256 * high
    steps = (folded >> 1) ^ -(folded & 1)
    return layer["offset"] + layer["scale"] * (np.cumsum(steps, axis=-1) % 65536)


def page_of(comparison, folder: Path) -> str:
    return write_report(comparison, folder).read_text(encoding="utf-8")


@pytest.fixture
def a_page(tmp_path: Path) -> str:
    reference = Volume(zones(1), T2W_GRID)
    return page_of(compare(a_case(), *anatomy_pair(), reference), tmp_path / "report")


# Voxels as text


def test_whole_numbers_survive_the_page_exactly():
    array = np.random.default_rng(0).integers(-1000, 3000, (3, 7, 11)).astype(np.int16)
    assert np.array_equal(decoded(encode_image(array), array.shape), array)


def test_fractions_survive_to_a_step_of_their_range():
    array = np.random.default_rng(0).normal(0.2, 1.0, (3, 7, 11)).astype(np.float32)
    step = float(array.max() - array.min()) / LEVELS
    assert np.abs(decoded(encode_image(array), array.shape) - array).max() <= 0.51 * step


def test_a_constant_image_survives():
    array = np.full((2, 3, 4), 0.25, np.float32)
    assert np.all(decoded(encode_image(array), array.shape) == 0.25)


def test_labels_survive_exactly():
    array = np.random.default_rng(0).integers(0, 255, (3, 7, 11)).astype(np.uint8)
    assert np.array_equal(decoded(encode_labels(array), array.shape), array)


# The scene


def test_t2w_voxels_are_cut_and_not_interpolated():
    scene = build_scene(compare(a_case(), *anatomy_pair()))
    assert np.array_equal(scene.images["t2w"], a_case()["t2w"].array)
    assert scene.images["adc"].shape == scene.images["t2w"].shape


def test_what_a_adds_and_what_b_adds_have_codes_of_their_own():
    a, b = zones(), zones()
    a[5], b[1] = 0, 0
    b[3][b[3] == 2] = 1
    scene = build_scene(compare(a_case(), anatomy("pretrained", a), anatomy("scratch", b)))
    codes = scene.labels["diff-ab"]
    assert set(np.unique(codes[5])) == {0, SECOND_ONLY}
    assert set(np.unique(codes[1])) == {0, FIRST_ONLY}
    assert set(np.unique(codes[3])) == {0, OTHER}


def test_a_scan_stored_upside_down_is_shown_the_right_way_up():
    def flipped(volume: Volume) -> Volume:
        return Volume.from_sitk(sitk.DICOMOrient(volume.to_sitk(), "RAI"), volume.name)

    a, b = anatomy_pair()
    case = a_case()
    turned = replace(case, volumes={key: flipped(volume) for key, volume in case.volumes.items()})
    scene = build_scene(compare(turned, replace(a, labels=flipped(a.labels)), replace(b, labels=flipped(b.labels))))
    straight = build_scene(compare(case, a, b))
    assert np.array_equal(scene.images["t2w"], straight.images["t2w"])
    assert np.array_equal(scene.labels["a"], straight.labels["a"])
    assert scene.focus_slice == straight.focus_slice


def test_a_gland_as_reference_of_zones_is_compared_as_a_whole():
    gland = Volume((zones() != 0).astype(np.uint8), T2W_GRID)
    scene = build_scene(compare(a_case(), *anatomy_pair(), gland))
    assert not scene.labels["diff-ar"].any()
    assert scene.labels["diff-br"].any()
    assert scene.label_names == ("peripheral-zone", "transition-zone", "prostate")


def test_a_large_study_is_cropped_around_what_is_marked_and_says_so(tmp_path: Path):
    grid = Geometry((500, 480, 24), (0.4, 0.4, 3.0))
    rng = np.random.default_rng(1)
    case = Case("large", {Sequence.T2W: Volume(rng.normal(300, 15, grid.shape).astype(np.int16), grid)})
    mask = ellipse((400, 100), (50, 40), slice(8, 16), grid).astype(np.uint8)
    pair = [replace(anatomy(arm, mask, {"prostate": 1}, grid), case_id="large") for arm in ("pretrained", "scratch")]
    scene = build_scene(compare(case, *pair))
    assert scene.display.is_cropped
    assert scene.labels["a"].sum() == mask.sum()
    page = write_report(scene.comparison, tmp_path)
    assert page.stat().st_size < 8e6
    assert "Cropped to" in page.read_text(encoding="utf-8")


def test_thin_slices_do_not_cost_the_gland_its_edge():
    grid = Geometry((200, 190, 220), (0.5, 0.5, 0.5))
    case = Case("thin", {Sequence.T2W: Volume(np.indices(grid.shape).sum(axis=0, dtype=np.int16), grid)})
    left, right = (ellipse((x, 90), (55, 40), slice(20, 200), grid).astype(np.uint8) for x in (90, 110))
    pair = (anatomy("pretrained", left, {"prostate": 1}, grid), anatomy("scratch", right, {"prostate": 1}, grid))
    scene = build_scene(compare(case, *(replace(result, case_id="thin") for result in pair)))
    assert scene.display.is_cropped
    assert (scene.labels["a"].sum(), scene.labels["b"].sum()) == (left.sum(), right.sum())
    assert scene.display.geometry.extent_mm[0] >= 65 + 2 * MARGIN_MM


# The page


def test_the_report_is_four_files(tmp_path: Path):
    write_report(compare(a_case(), *anatomy_pair()), tmp_path / "new" / "folder")
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["comparison.csv", "comparison.json", "comparison.png", "report.html"]


def test_the_page_loads_nothing_from_elsewhere(a_page: str):
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", a_page)
    assert "url(" not in a_page
    assert "@import" not in a_page
    assert "default-src 'none'" in a_page


def test_the_page_may_run_its_own_script_only(a_page: str):
    script = re.search(r'<script type="module">(.*?)</script>', a_page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in a_page


def test_the_page_says_what_it_is_and_where_it_comes_from(a_page: str):
    for words in ("research use only", "0123456789abcdef" * 4, "onnxruntime 1.32.0", "1.45 s", "anatomy-scratch"):
        assert words in a_page


def test_the_cards_say_how_the_bundles_were_trained_and_licensed(tmp_path: Path):
    spec = MODELS["profound-upernet-anatomy"]
    common = {"folder": tmp_path / "hidden-folder", "version": "3.2.1", "spec": spec}
    a = Bundle(name="a", title="A", training={"steps": 4000, "data": {"not": "shown"}}, license="CC-BY-4.0", **common)
    b = Bundle(name="b", title="B", demonstration=True, metrics={"dice": 0.87654}, **common)
    text = write_report(compare(a_case(), *anatomy_pair()), tmp_path, (a, b)).read_text(encoding="utf-8")
    for words in ("steps: 4000", "CC-BY-4.0", "3.2.1", "dice: 0.8765", "Demonstration network", spec.title):
        assert words in text
    assert "hidden-folder" not in text


def test_the_card_of_an_arm_states_its_operating_point(tmp_path: Path):
    a, b = anatomy_pair()
    a = replace(a, provenance=replace(a.provenance, min_confidence=0.62))
    text = page_of(compare(a_case(), a, b), tmp_path)
    assert text.count("Places whose largest probability is below 0.62 are no marks") == 1


def test_agreement_is_never_called_accuracy(a_page: str):
    assert "Agreement of A with B is no accuracy" in a_page
    assert "Against the reference" in a_page


def test_without_a_reference_the_page_says_so(tmp_path: Path):
    text = page_of(compare(a_case(), *anatomy_pair()), tmp_path)
    assert "No reference is known" in text
    assert "Against the reference" not in text


def test_a_caveat_of_the_networks_stands_once_above_the_images(tmp_path: Path):
    a, b = (
        replace(
            one, provenance=replace(one.provenance, caveats=(Note("network-caveat", "Zones are a guess.", "caution"),))
        )
        for one in anatomy_pair()
    )
    page = page_of(compare(a_case(), a, b), tmp_path / "report")
    assert 0 < page.index("<b>Caveat</b>: Zones are a guess.</p>") < page.index('<section id="viewer"')
    assert page.count("Zones are a guess.") == 3  # and on the card of each arm


def test_that_a_case_of_this_name_trained_a_network_stands_above_the_images(tmp_path: Path):
    a, b = anatomy_pair()
    page = page_of(compare(a_case(), a, replace(b, provenance=b.provenance.with_notes(TRAINED_NOTE))), tmp_path / "one")
    assert 0 < page.index(TRAINED_NOTE.text) < page.index('<section id="viewer"')
    assert page.count(TRAINED_NOTE.text) == 2  # and on the card of B
    assert TRAINED_NOTE.text not in page_of(compare(a_case(), a, b), tmp_path / "none")


def test_where_neither_marks_a_lesion_the_page_does_not_rule_one_out(tmp_path: Path):
    sentence = "Nowhere: neither marks a lesion. That does not rule one out."
    a, b = lesion_pair()
    none = [
        replace(one, labels=replace(one.labels, array=np.zeros_like(one.labels.array)), lesions=()) for one in (a, b)
    ]
    assert sentence in page_of(compare(a_case(), *none), tmp_path / "none")
    assert sentence not in page_of(compare(a_case(), a, a), tmp_path / "equal")
    assert sentence not in page_of(
        compare(a_case(), *(anatomy("scratch", np.zeros_like(zones())),) * 2), tmp_path / "gland"
    )


def test_a_missing_value_has_its_reason_on_the_page(tmp_path: Path):
    b = anatomy("scratch", np.zeros_like(zones()))
    text = page_of(compare(a_case(), anatomy("pretrained", zones()), b), tmp_path)
    assert "<b>HD95</b> of Prostate has no value: B is empty." in text


def test_names_cannot_break_out_of_the_page(tmp_path: Path):
    evil = "</script><img src=x onerror=alert(1)>"
    case = replace(a_case(), id=evil, notes=(Note("evil", evil),))
    a, b = (
        replace(result, case_id=evil, provenance=replace(result.provenance, title=evil)) for result in anatomy_pair()
    )
    text = page_of(compare(case, a, b), tmp_path)
    assert evil not in text
    assert text.count("</script>") == 2


def test_no_folder_is_named_on_the_page(tmp_path: Path):
    comparison = compare(a_case(), *anatomy_pair())
    text = page_of(comparison, tmp_path / "secret-patient-folder")
    assert "secret-patient-folder" not in text


def test_the_scene_on_the_page_is_json_with_the_voxels(a_page: str):
    text = re.search(r'<script type="application/json" id="scene">(.*?)</script>', a_page, re.DOTALL).group(1)
    scene = json.loads(text)
    width, height, depth = scene["size"]
    labels = decoded(scene["layers"]["labels:a"], (depth, height, width))
    assert np.array_equal(labels, zones())
    assert scene["focus"] == 5


@pytest.mark.parametrize(
    "pair",
    [
        lesion_pair,
        translation_pair,
        classification_pair,
        lambda: image_pair("super-resolution", "t2w-super-resolved", T2W_GRID.with_spacing((0.25, 0.3, 3.0)), 600.0),
        lambda: image_pair("distortion-correction", "hbv-corrected", a_case()["hbv"].geometry, 90.0),
    ],
    ids=["lesions", "translation", "classification", "super-resolution", "distortion"],
)
def test_every_kind_of_task_has_a_page(pair, tmp_path: Path):
    text = page_of(compare(a_case(gland=True), *pair()), tmp_path)
    assert 'id="scene"' in text
    assert (tmp_path / "comparison.png").stat().st_size > 1000


def test_a_result_needs_no_diffusion_for_its_page(tmp_path: Path):
    case = replace(a_case(), volumes={Sequence.T2W: a_case()["t2w"]})
    assert "High-b DWI" not in page_of(compare(case, *anatomy_pair()), tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_to_act_on(tmp_path: Path):
    taken = tmp_path / "file"
    taken.write_text("here")
    with pytest.raises(OutputError):
        write_report(compare(a_case(), *anatomy_pair()), taken / "report")


# The figure


def test_the_figure_shows_four_panels_with_both_arms_colors(tmp_path: Path):
    scene = build_scene(compare(a_case(), *anatomy_pair()))
    scene = replace(scene, focus_slice=2)
    (tmp_path / "f.png").write_bytes(figure_png(scene))
    pixels = np.asarray(Image.open(tmp_path / "f.png")).astype(int)
    last = pixels[:, -pixels.shape[1] // 4 :]
    for color in (ARM_A, ARM_B):
        assert (np.abs(last[40:-40] - color).sum(axis=-1) < 60).sum() > 20


def test_the_first_numbers_are_of_significant_cancer_where_indolent_is_marked_too():
    """Networks that know both list the indolent first, which is often marked nowhere."""
    both = {str(Label.INDOLENT_CANCER): 1, str(Label.CSPCA): 2}
    pair = []
    for result in lesion_pair():
        cancer = result.probabilities[str(Label.CSPCA)]
        none = cancer.with_array(np.zeros_like(cancer.array))
        labels = result.labels.with_array(result.labels.array * 2)
        probabilities = {str(Label.INDOLENT_CANCER): none, str(Label.CSPCA): cancer}
        pair.append(replace(result, label_values=both, labels=labels, probabilities=probabilities))
    comparison = compare(a_case(), *pair)
    assert [table.rows[0][0] for table in measure_tables(comparison)] == ["Clinically significant cancer"] * 2
    shown = " ".join(text for _, text in facts(comparison))
    assert "csPCa volume, A / B" in shown
    assert "indolent" not in shown
    assert "0.00 / 0.00 ml" not in shown
