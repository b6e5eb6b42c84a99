"""The gland's size, the sector map and the list of lesions on the page."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from browsers import Listener, needs_chromium
from comparison_cases import (
    T2W_GRID,
    a_case,
    anatomy_pair,
    classification_pair,
    ellipse,
    image_pair,
    lesion_pair,
    translation_pair,
)
from ellipsoids import Ellipsoid, a_scan
from PIL import Image

from VFMTransferLib.core.measurements import GlandMeasurements
from VFMTransferLib.core.result import Result
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.evaluation.comparison import Comparison, compare
from VFMTransferLib.radiology.gland import GlandFrame
from VFMTransferLib.radiology.lesions import measure_lesions
from VFMTransferLib.radiology.quality import measure_quality
from VFMTransferLib.radiology.sectors import LEVELS, SECTORS, map_sectors
from VFMTransferLib.report import write_report
from VFMTransferLib.report.case_report import AGREEMENT, facts, measure_tables
from VFMTransferLib.report.figure import CAPTION_PX, PANEL_PX, figure_png
from VFMTransferLib.report.radiology import gland_table, key_images, lesion_rows, quality_rows, sector_map
from VFMTransferLib.report.scene import build_scene, panels, scene_document

CASE = a_case(gland=True)
GLAND = GlandMeasurements(14.0, 14.4, 15.0, 1.6, 2.5, "as given")
PSA = ("psa_ng_ml", "psa_density_ellipsoid", "psa_density_segmented")


def measured(result: Result, psa: float | None = None) -> Result:
    """A result with all that prediction measures."""
    densities = {} if psa is None else dict(zip(PSA, (psa, psa / 1.6, psa / 2.5), strict=True))
    lesions = measure_lesions(result.labels, result.lesions, gland=CASE.gland, adc=CASE["adc"], hbv=CASE["hbv"])
    return replace(result, lesions=lesions, gland=replace(GLAND, **densities))


def a_comparison(psa: float | None = None) -> Comparison:
    a, b = (measured(result, psa) for result in lesion_pair())
    return compare(CASE, a, b)


def test_the_gland_is_shown_with_its_psa_density_where_there_is_a_psa():
    rows = {what: a for what, a, _ in gland_table(a_comparison(psa=4.0))}
    assert rows["PSA density, 4 ng/ml by the mask"] == "1.60 ng/ml²"
    assert rows["PSA density by the ellipsoid"] == "2.50 ng/ml²"
    assert rows["volume of the prostate's mask (as given)"] == "2.5 ml"
    assert rows["diameters: transverse x AP x longitudinal"] == "14 x 14 x 15 mm"
    assert not any("PSA" in what for what, _, _ in gland_table(a_comparison()))


def test_a_diameter_that_was_not_measured_is_shown_as_such_and_the_density_by_the_mask_stays():
    comparison = a_comparison(psa=4.0)
    unknown = dict.fromkeys(("anteroposterior_mm", "longitudinal_mm", "ellipsoid_ml", "psa_density_ellipsoid"))
    a = replace(comparison.a, gland=replace(comparison.a.gland, **unknown))
    rows = {what: (first, second) for what, first, second in gland_table(replace(comparison, a=a))}
    assert rows["diameters: transverse x AP x longitudinal"] == ("14 x n/a x n/a mm", "14 x 14 x 15 mm")
    assert rows["PSA density, 4 ng/ml by the mask"] == ("1.60 ng/ml²", "1.60 ng/ml²")
    assert rows["PSA density by the ellipsoid"] == ("–", "2.50 ng/ml²")


def test_without_a_known_prostate_nothing_is_shown_of_it(tmp_path):
    page = write_report(compare(a_case(), *anatomy_pair()), tmp_path).read_text(encoding="utf-8")
    assert "<h2>Prostate</h2>" not in page
    assert sector_map(compare(a_case(), *lesion_pair())) is None


def test_a_lesions_place_in_the_gland_comes_before_the_scanners_coordinates():
    row = lesion_rows(a_comparison())[0]
    assert row["where"].startswith("right, ")
    page_order = list(row)
    assert page_order.index("where") < page_order.index("center")


@pytest.mark.parametrize(
    ("mm", "ml", "texts"),
    [
        (15.04, 1.2, ("15.0 mm", "1.20 ml")),
        (14.87, 0.005, ("14.9 mm", "0.01 ml")),
        (0.5, 0.001, ("0.5 mm", "< 0.01 ml")),
    ],
)
def test_the_size_of_a_lesion_shows_on_which_side_of_15_mm_it_is_and_never_nothing(mm, ml, texts):
    comparison = a_comparison()
    lesion = replace(comparison.a.lesions[0], diameter_mm=mm, volume_ml=ml)
    row = lesion_rows(replace(comparison, a=replace(comparison.a, lesions=(lesion,))))[0]
    assert (row["diameter"], row["volume"]) == texts


def test_the_map_has_each_sector_once_and_each_lesion_where_it_lies():
    comparison = a_comparison()
    shown = sector_map(comparison)
    assert sorted(sector.name for sector in shown.sectors) == sorted(sector.name for sector in SECTORS)
    assert shown.svg().count("data-sector=") == len(SECTORS)
    lesions = {lesion.key: lesion for lesion in shown.lesions}
    assert set(lesions) == {"a1", "b1"}
    middles = {
        level: np.mean([s.corners[:, 0].mean() for s in shown.sectors if s.name.startswith(level)]) for level in LEVELS
    }
    for key, result, sign in (("a1", comparison.a, -1), ("b1", comparison.b, 1)):
        level = min(middles, key=lambda level: abs(middles[level] - lesions[key].x))
        assert level.lower() in result.lesions[0].position.split(", ")
        assert sign * (lesions[key].x - middles[level]) > 0  # the patient's right is on the left


def is_inside(corners: np.ndarray, x: float, y: float) -> bool:
    """Whether a polygon (N, 2) holds a point: a ray from it crosses its edges an odd number of times."""
    ends = np.roll(corners, -1, axis=0)
    crosses = (corners[:, 1] > y) != (ends[:, 1] > y)
    rise = np.where(crosses, ends[:, 1] - corners[:, 1], 1)
    where = corners[:, 0] + (y - corners[:, 1]) / rise * (ends[:, 0] - corners[:, 0])
    return bool((crosses & (where > x)).sum() % 2)


@pytest.mark.parametrize(
    "place", [(-0.7, 0.7, 0.5), (0.2, 0.9, 0.5), (-0.85, 0.4, 0.5), (0.3, 0.3, 0.5), (0.2, 0.1, 0.5)]
)
def test_the_drawing_has_the_borders_of_the_rules(place):
    """A place that the rules put into a sector lies in that sector's shape, unless the drawn zone covers it."""
    a, b = (measured(result) for result in lesion_pair())
    a = replace(a, lesions=(replace(a.lesions[0], place=place, position="left, mid, anterior"),))
    drawing = sector_map(compare(CASE, a, b))
    (shown,) = (lesion for lesion in drawing.lesions if lesion.key == "a1")
    hit = {s.name for s in drawing.sectors if is_inside(s.corners, shown.x, shown.y)}
    scan, gland = a_scan(), Ellipsoid()
    found = map_sectors(GlandFrame.from_mask(gland.gland(scan)), gland.zones(scan))
    x = round((place[0] + 1) / 2 * 104 + 18)  # the gland is 104 by 72 voxels in the middle of 140 by 120
    y = round(place[1] * 72 + 24)
    assert found.names[found.numbers[10, y, x] - 1] in hit


def test_the_page_names_the_scheme_and_is_for_research_only(tmp_path):
    page = write_report(a_comparison(psa=4.0), tmp_path).read_text(encoding="utf-8")
    assert "since the zones are not known" in page
    assert "Not for clinical decisions" in page
    assert not re.search(r'style="', page)  # which the page's own policy forbids


@needs_chromium
def test_a_click_on_the_map_or_the_list_goes_to_the_lesion(chromium, tmp_path):
    path = write_report(a_comparison(), tmp_path)
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    heard = Listener(page)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    page.evaluate("document.querySelector('#slice').value = 0")
    page.locator("g[data-lesion=b1]").click()
    page.wait_for_selector("tr[data-lesion-row=b1][aria-current]")
    assert page.locator("#readout dd").first.inner_text() == "R 3.0 P 17.8 S 38.9 mm"  # the voxel at the middle
    page.locator("button[data-lesion=a1]").click()
    page.wait_for_selector("tr[data-lesion-row=a1][aria-current]")
    page.locator("g[data-lesion=b1]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("tr[data-lesion-row=b1][aria-current]")
    assert heard.messages == []
    page.close()


def with_quality(comparison: Comparison) -> Comparison:
    criteria = measure_quality(CASE)
    return replace(comparison, a=replace(comparison.a, quality=criteria))


def test_each_criterion_of_quality_is_on_the_page_with_threshold_and_source(tmp_path):
    comparison = with_quality(a_comparison())
    rows = quality_rows(comparison)
    assert {row["title"] for row in rows} >= {"T2w, field of view", "Diffusion, highest b value"}
    assert all(row["threshold"] and row["source"] and row["sentence"] for row in rows)
    page = write_report(comparison, tmp_path).read_text(encoding="utf-8")
    unmet = sum(row["css"] == "unmet" for row in rows)
    assert f"there is no score. Not met: {unmet} of {len(rows)}." in page


def test_image_tasks_show_the_naive_result_and_the_difference_to_it():
    a, b = image_pair("super-resolution", "t2w-super-resolved", T2W_GRID, 600.0)
    scene = build_scene(compare(a_case(), a, b))
    np.testing.assert_allclose(scene.images["naive:t2w-super-resolved"], scene.images["t2w"])  # the case's own grid
    assert [(p["title"], p["subtitle"]) for p in panels(scene)][3] == ("Zero-filled", "naive result")
    limits = scene_document(scene)["outputs"][0]["limits"]
    assert {"ab", "an", "bn"} == set(limits)


def test_a_withheld_correction_is_stated_above_the_images(tmp_path):
    grid = a_case()["hbv"].geometry
    a, b = (
        replace(result, displacement_mm=np.full((*grid.shape, 3), moved_mm, np.float32))
        for result, moved_mm in zip(
            image_pair("distortion-correction", "hbv-corrected", grid, 90.0), (0, 2), strict=True
        )
    )
    comparison = compare(a_case(), a, b)
    badges = {panel["id"]: panel["badge"] for panel in panels(build_scene(comparison)) if panel["badge"]}
    assert badges == {"a": "UNCORRECTED", "b": "SYNTHETIC", "compare": "SYNTHETIC"}
    page = write_report(comparison, tmp_path).read_text(encoding="utf-8")
    above = page[page.index("<main>") : page.index('id="viewer"')]
    assert "A: The correction was withheld: these images are uncorrected." in above
    assert "B: The correction" not in above


@pytest.mark.parametrize(("moved_mm", "first"), [((0, 0), "withheld"), ((0, 2), None), ((2, 2), None)])
def test_where_both_corrections_are_withheld_no_agreement_is_shown(moved_mm, first):
    grid = a_case()["hbv"].geometry
    a, b = (
        replace(result, displacement_mm=np.full((*grid.shape, 3), moved, np.float32))
        for result, moved in zip(
            image_pair("distortion-correction", "hbv-corrected", grid, 90.0), moved_mm, strict=True
        )
    )
    comparison = compare(a_case(), a, b)
    tiles = facts(comparison)
    assert any("A vs B" in text for _, text in tiles) == (first is None)
    groups = {group for table in measure_tables(comparison) for group, _ in table.groups}
    assert (AGREEMENT in groups) == (first is None)
    assert first is None or tiles == [(first, "A and B: the images are uncorrected, and the same")]


def test_without_a_prostate_the_naive_adc_is_the_mean_over_all_tissue():
    scene = build_scene(compare(a_case(), *translation_pair()))  # the measured ADC is the reference
    (value,) = np.unique(scene.images["naive:adc-synthetic"])
    measured_adc = a_case()["adc"].array
    assert value == pytest.approx(measured_adc[measured_adc > 0].mean(), rel=1e-4)


def test_the_naive_adc_is_by_region_as_the_baseline_gives_it():
    zones = {
        str(label): Volume(ellipse((24, y), (8, 5), slice(1, 6)).astype(np.uint8), T2W_GRID)
        for label, y in ((Label.TRANSITION_ZONE, 14), (Label.PERIPHERAL_ZONE, 26))
    }
    case = replace(CASE, zones=zones)
    comparison = compare(case, *translation_pair())
    naive = build_scene(comparison).images["naive:adc-synthetic"]
    adc, tissue = case["adc"].array, case["adc"].array > 0
    inside = [mask.resample_to(case["adc"].geometry, "nearest").array > 0 for mask in (case.gland, *zones.values())]
    shown = [mask.array > 0 for mask in (case.gland, *zones.values())]
    for region, where in ((~inside[0], ~shown[0]), *zip(inside[1:], shown[1:], strict=True)):
        (value,) = np.unique(naive[where])
        assert value == pytest.approx(adc[tissue & region].mean(), rel=1e-4)
    task = comparison.task
    masks = {Label(name): zone for name, zone in zones.items()}
    labeled = replace(task.labeled(case, gland=case.gland), masks=masks, images={"adc-synthetic": case["adc"]})
    baseline = task.naive_baseline([])(labeled).images["adc-synthetic"].array
    np.testing.assert_array_equal(naive, baseline)


def test_the_naive_image_that_is_shown_is_the_one_that_was_measured():
    comparison = compare(CASE, *translation_pair())
    shown = build_scene(comparison).images["naive:adc-synthetic"]
    measured_error = comparison.value("mae", "adc-synthetic", "naive-reference")
    reference = comparison.reference["adc-synthetic"]
    region = comparison.task.region_on(CASE["adc"], reference.geometry)
    assert np.abs(shown - reference.array)[region].mean() == pytest.approx(measured_error)


def test_there_is_no_naive_adc_without_a_measured_one():
    without = compare(replace(a_case(), volumes={Sequence.T2W: a_case()["t2w"]}), *translation_pair())
    assert not any(name.startswith("naive:") for name in build_scene(without).images)


def test_high_b_images_are_windowed_around_the_prostate():
    bright = CASE["hbv"].array.copy()
    bright[:, :1] = 5000.0  # such as a bladder, out of the gland
    case = replace(CASE, volumes={**CASE.volumes, Sequence.HBV: CASE["hbv"].with_array(bright)})
    for pair in (lesion_pair(), classification_pair()):
        layers = scene_document(build_scene(compare(case, *pair)))["layers"]
        assert layers["hbv"]["window"][1] < 200
    unknown = scene_document(build_scene(compare(replace(case, gland=None), *lesion_pair())))["layers"]
    assert unknown["hbv"]["window"][1] > 1000
    found = scene_document(build_scene(compare(replace(case, gland=None), *anatomy_pair())))["layers"]
    assert found["hbv"]["window"][1] < 200


def test_the_tile_of_the_classification_is_in_plain_words():
    whats = [what for _, what in facts(compare(CASE, *classification_pair()))]
    assert "total variation distance, 0 to 1" in whats
    a, b = (
        replace(one, derived_probabilities={str(Label.CSPCA): p})
        for one, p in zip(classification_pair(), (0.7, 0.3), strict=True)
    )
    assert facts(compare(CASE, a, b))[0] == ("0.70 / 0.30", "probability of clinically significant cancer, A / B")


def test_the_slices_that_decide_the_classes_are_shown_with_their_numbers():
    a, b = classification_pair()
    grid = CASE["t2w"].geometry
    assert grid.orientation == "LPS"
    a, b = (replace(one, decided_at_mm=tuple(grid.to_world((3, 3, z)).tolist())) for one, z in ((a, 1), (b, 4)))
    comparison = compare(CASE, a, b)
    depth = grid.size[2]
    assert ("2 / 5", f"most suspicious slice of {depth}, A / B; its classes are the case's") in facts(comparison)
    assert [text for text, _ in key_images(build_scene(comparison))] == [f"Slice 5 of {depth}: most suspicious for B"]
    same = compare(CASE, a, replace(b, decided_at_mm=a.decided_at_mm))
    assert key_images(build_scene(same)) == []
    assert not any("suspicious" in what for _, what in facts(compare(CASE, *classification_pair())))


def test_measures_inside_the_gland_come_first():
    comparison = compare(CASE, *translation_pair())
    assert [name for name, _ in measure_tables(comparison)[0].rows] == ["ADC synthetic, gland", "ADC synthetic"]
    shown = [what for _, what in facts(comparison)]
    assert shown[0] == "MAE against the reference in the gland, A / B"  # before A with B, which may be wrong alike
    assert "MAE A vs B in the gland" in shown


@needs_chromium
def test_the_page_prints_on_one_sheet_with_measurements_sectors_quality_and_notice(chromium, tmp_path):
    path = write_report(with_quality(a_comparison(psa=4.0)), tmp_path)
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    pdf = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    page.emulate_media(media="print")
    for shown in (".research", ".gland", ".sectors", ".quality", ".lesions table"):
        assert page.locator(shown).first.is_visible(), shown
    for left_out in (".viewer", ".networks", ".measures"):
        assert not page.locator(left_out).first.is_visible(), left_out
    page.close()


@needs_chromium
@pytest.mark.parametrize("media", ["screen", "print"])
def test_no_column_of_the_lesions_is_cut_off(chromium, tmp_path, media):
    comparison = a_comparison()
    sectors = tuple(sector.name for sector in SECTORS[:3])
    long = tuple(replace(lesion, sectors=sectors) for lesion in comparison.a.lesions)
    path = write_report(replace(comparison, a=replace(comparison.a, lesions=long)), tmp_path)
    page = chromium.new_page(viewport={"width": 1000 if media == "screen" else 726, "height": 900})  # A4 less margins
    page.emulate_media(media=media)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    widths = page.evaluate("(s => [s.scrollWidth, s.clientWidth])(document.querySelector('.lesions .scroll'))")
    assert widths[0] <= widths[1]
    page.close()


@needs_chromium
@pytest.mark.parametrize("pair", [classification_pair, translation_pair])
def test_pages_without_lesions_print_on_one_sheet_with_their_numbers(chromium, tmp_path, pair):
    a, b = (replace(result, gland=GLAND, quality=measure_quality(CASE)) for result in pair())
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    page.goto(write_report(compare(CASE, a, b), tmp_path).as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    pdf = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    page.emulate_media(media="print")
    assert page.locator(".measures").is_visible()
    page.close()


@needs_chromium
def test_the_difference_to_the_naive_result_is_a_click_away(chromium, tmp_path):
    a, b = image_pair("super-resolution", "t2w-super-resolved", T2W_GRID, 600.0)
    page = chromium.new_page(viewport={"width": 1400, "height": 900})
    heard = Listener(page)
    page.goto(write_report(compare(a_case(), a, b), tmp_path).as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    assert not page.locator("label[for=pair-ar]").is_visible()
    page.locator("label[for=pair-bn]").click()
    page.locator(".panel[data-panel=compare] .subtitle", has_text="B − naive").wait_for()
    assert heard.messages == []
    page.close()


def panels_of(comparison: Comparison) -> int:
    """How many panels the still figure has room for."""
    width, height = Image.open(io.BytesIO(figure_png(build_scene(comparison)))).size
    return (width // PANEL_PX) * (height // (PANEL_PX + CAPTION_PX))


def test_the_still_figure_shows_what_the_result_is_judged_by():
    assert panels_of(a_comparison()) == 6  # with ADC and high-b, on which lesions are seen
    assert panels_of(compare(CASE, *translation_pair())) == 6  # with the naive result and the measured ADC
    assert panels_of(compare(CASE, *anatomy_pair())) == 4


def test_key_images_are_the_slices_of_the_lesions_after_the_opening_one(tmp_path):
    comparison = a_comparison()
    scene = build_scene(comparison)
    slices = [scene.display.index_of(lesion.center_mm)[2] for lesion in (*comparison.a.lesions, *comparison.b.lesions)]
    expected = [z for z in dict.fromkeys(slices) if z != scene.focus_slice]
    texts = [text for text, _ in key_images(scene)]
    assert [int(text.split()[1]) - 1 for text in texts] == expected
    a, b = image_pair("super-resolution", "t2w-super-resolved", T2W_GRID, 600.0)
    scene = build_scene(compare(a_case(), a, b))
    texts = [text for text, _ in key_images(scene)]
    assert 1 <= len(texts) <= 3
    assert all("A and B differ" in text for text in texts)
    page = write_report(compare(a_case(), a, b), tmp_path).read_text(encoding="utf-8")
    assert page.count('class="key-images"') == 1
