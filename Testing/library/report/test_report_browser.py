"""The page in a real headless Chromium: scrolled, clicked, typed at, and looked at pixel by pixel."""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsers import Listener, needs_chromium
from comparison_cases import (
    DIFFUSION_GRID,
    T2W_GRID,
    a_case,
    anatomy,
    anatomy_pair,
    classification_pair,
    image_pair,
    lesion_pair,
    mri,
    translation_pair,
    zones,
)
from PIL import Image

from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.evaluation.comparison import compare
from VFMTransferLib.evaluation.measures import MIN_DIFFERENCE_ML
from VFMTransferLib.report import write_report

pytestmark = needs_chromium
READ_PICTURE = "(id) => document.querySelector(`.panel[data-panel=${id}] canvas`).toDataURL('image/png')"
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Reader:
    """A person before the page: acts, then looks."""

    def __init__(self, page) -> None:
        self.page = page
        self.heard = Listener(page)

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)
        self.settle()

    def settle(self) -> None:
        self.page.evaluate(TWO_FRAMES)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def slide(self, control: str, value: float) -> None:
        self.page.locator(control).evaluate(
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
        )
        self.settle()

    def choose(self, label_for: str) -> None:
        self.page.locator(f"label[for={label_for}]").click()
        self.settle()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def pixels(self, panel: str) -> np.ndarray:
        """Red, green and blue (H, W, 3) of a panel's canvas."""
        picture = base64.b64decode(self.page.evaluate(READ_PICTURE, panel).partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)

    def all_pixels(self) -> dict[str, np.ndarray]:
        names = self.page.locator(".panel").evaluate_all("(all) => all.map((e) => e.dataset.panel)")
        return {name: self.pixels(name) for name in names}

    def box(self, panel: str) -> tuple[float, float, float, float]:
        box = self.page.locator(f".panel[data-panel={panel}] canvas").bounding_box()
        return box["x"], box["y"], box["width"], box["height"]


def share_of(pixels: np.ndarray, color: tuple[int, int, int], tolerance: int = 70) -> float:
    return float((np.abs(pixels - color).sum(axis=-1) < tolerance).mean())


@pytest.fixture
def reader_of(chromium) -> Iterator[Callable[..., Reader]]:
    """Opens a page; at the end it must have loaded nothing else and complained of nothing."""
    readers: list[Reader] = []

    def open_page(path: Path, width: int = 1400, scheme: str = "light") -> Reader:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        readers.append(Reader(page))
        readers[-1].open(path)
        return readers[-1]

    yield open_page
    for reader in readers:
        assert reader.heard.messages == []
        assert len(reader.heard.requests) == 1
        assert reader.heard.requests[0].startswith("file:")
        reader.page.close()


@pytest.fixture(scope="module")
def anatomy_page(tmp_path_factory) -> Path:
    a, b = zones(), zones(3)
    reference = Volume(zones(1), T2W_GRID)
    comparison = compare(a_case(), anatomy("pretrained", a), anatomy("scratch", b), reference)
    return write_report(comparison, tmp_path_factory.mktemp("anatomy"))


@pytest.fixture(scope="module")
def translation_page(tmp_path_factory) -> Path:
    return write_report(compare(a_case(), *translation_pair()), tmp_path_factory.mktemp("translation"))


@pytest.fixture(scope="module")
def classification_page(tmp_path_factory) -> Path:
    return write_report(compare(a_case(), *classification_pair()), tmp_path_factory.mktemp("classes"))


@pytest.fixture
def anatomy_reader(anatomy_page: Path, reader_of) -> Reader:
    return reader_of(anatomy_page)


def test_it_starts_where_a_and_b_differ_most(anatomy_reader: Reader):
    assert anatomy_reader.text("#slice-text") == "Slice 6 of 7"
    panels = anatomy_reader.page.locator(".panel").evaluate_all("(all) => all.map((e) => e.dataset.panel)")
    assert panels == ["t2w", "a", "b", "compare", "adc", "hbv"]


def test_one_slider_moves_every_panel(anatomy_reader: Reader):
    before = anatomy_reader.all_pixels()
    anatomy_reader.slide("#slice", 2)
    after = anatomy_reader.all_pixels()
    assert anatomy_reader.text("#slice-text") == "Slice 3 of 7"
    assert all((before[name] != after[name]).mean() > 0.1 for name in before)


def test_the_wheel_over_one_panel_moves_all_of_them_by_one_slice(anatomy_reader: Reader):
    before = anatomy_reader.all_pixels()
    x, y, width, height = anatomy_reader.box("adc")
    anatomy_reader.page.locator(".panel[data-panel=adc]").scroll_into_view_if_needed()
    x, y, width, height = anatomy_reader.box("adc")
    anatomy_reader.page.mouse.move(x + width / 2, y + height / 2)
    anatomy_reader.page.mouse.wheel(0, 100)
    anatomy_reader.page.wait_for_function("document.querySelector('#slice').value === '4'")
    anatomy_reader.settle()
    after = anatomy_reader.all_pixels()
    assert all((before[name] != after[name]).any() for name in before)


def test_arrow_keys_home_and_end_go_through_the_stack(anatomy_reader: Reader):
    anatomy_reader.press("ArrowUp")
    assert anatomy_reader.text("#slice-text") == "Slice 7 of 7"
    anatomy_reader.press("ArrowUp", "ArrowLeft", "ArrowDown")
    assert anatomy_reader.text("#slice-text") == "Slice 5 of 7"
    anatomy_reader.press("Home")
    assert anatomy_reader.text("#slice-text") == "Slice 1 of 7"
    anatomy_reader.press("End")
    assert anatomy_reader.text("#slice-text") == "Slice 7 of 7"


def test_a_click_on_a_disagreement_goes_there(anatomy_reader: Reader):
    anatomy_reader.press("Home")
    anatomy_reader.page.locator("[data-jump='2']").click()
    anatomy_reader.settle()
    row = anatomy_reader.page.locator("tr[data-region='2']")
    assert row.get_attribute("aria-current") is not None
    wanted = row.locator("td").nth(4).inner_text()
    assert anatomy_reader.text("#slice-text") == f"Slice {wanted} of 7"
    readout = anatomy_reader.text("#readout")
    a, b = (readout.split("\n")[readout.split("\n").index(arm) + 1] for arm in "AB")
    assert a != b


def test_n_and_p_step_through_the_disagreements(anatomy_reader: Reader):
    anatomy_reader.press("n", "n")
    assert anatomy_reader.page.locator("tr[aria-current]").get_attribute("data-region") == "2"
    anatomy_reader.press("p")
    assert anatomy_reader.page.locator("tr[aria-current]").get_attribute("data-region") == "1"


def test_small_differences_are_folded_until_one_is_looked_at(tmp_path, reader_of):
    a, b = zones(), zones()
    a[1:5, 2:6, 2:8] = 1  # 0.09 ml in a corner, and a voxel in another
    b[3, 36, 44] = 2
    page = write_report(compare(a_case(), anatomy("pretrained", a), anatomy("scratch", b)), tmp_path)
    reader = reader_of(page)
    assert reader.text("summary") == f"1 below {MIN_DIFFERENCE_ML} ml"
    assert reader.page.locator("[data-jump='1']").is_visible()
    assert not reader.page.locator("[data-jump='2']").is_visible()
    reader.press("n", "n")
    assert reader.page.locator("[data-jump='2']").is_visible()
    assert "0.001 ml" in reader.page.locator("tr[aria-current]").inner_text()


def test_the_flicker_key_swaps_a_and_b_in_place(anatomy_reader: Reader):
    anatomy_reader.press("ArrowDown", "x", "f")
    showing_b = anatomy_reader.pixels("compare")
    anatomy_reader.press("f")
    showing_a = anatomy_reader.pixels("compare")
    anatomy_reader.press("f")
    assert (showing_a != showing_b).any()
    assert np.array_equal(anatomy_reader.pixels("compare"), showing_b)


def test_fill_changes_a_and_b_and_leaves_the_plain_image_alone(anatomy_reader: Reader):
    anatomy_reader.press("ArrowDown")
    before = anatomy_reader.all_pixels()
    anatomy_reader.choose("fill")
    after = anatomy_reader.all_pixels()
    assert all((before[name] != after[name]).any(axis=-1).mean() > 0.05 for name in "ab")
    assert np.array_equal(before["t2w"], after["t2w"])
    anatomy_reader.press("o")
    assert np.array_equal(anatomy_reader.pixels("a"), before["a"])


def test_opacity_makes_the_fill_stronger(anatomy_reader: Reader):
    anatomy_reader.press("ArrowDown", "o")
    anatomy_reader.slide("#opacity", 10)
    weak = anatomy_reader.pixels("a")
    anatomy_reader.slide("#opacity", 90)
    assert (anatomy_reader.pixels("a") != weak).any(axis=-1).mean() > 0.05


def test_the_fade_slider_goes_from_a_to_b(anatomy_reader: Reader):
    anatomy_reader.press("ArrowDown", "x", "r")
    seen = []
    for percent in (0, 50, 100):
        anatomy_reader.slide("#fade", percent)
        seen.append(anatomy_reader.pixels("compare"))
    blue, orange = (76, 184, 255), (255, 168, 38)
    assert share_of(seen[0], blue) > 0.002
    assert share_of(seen[0], orange) == 0
    assert share_of(seen[2], orange) > 0.002
    assert share_of(seen[2], blue) == 0
    assert (seen[0] != seen[1]).any()


def test_the_checkerboard_is_neither_a_nor_b(anatomy_reader: Reader):
    anatomy_reader.choose("checkerboard")
    board = anatomy_reader.pixels("compare")
    anatomy_reader.press("f")
    b = anatomy_reader.pixels("compare")
    anatomy_reader.press("f")
    a = anatomy_reader.pixels("compare")
    assert (board != a).any()
    assert (board != b).any()


def test_the_difference_can_be_taken_from_the_reference(anatomy_reader: Reader):
    anatomy_reader.press("ArrowDown")
    before = anatomy_reader.pixels("compare")
    anatomy_reader.choose("pair-br")
    assert (anatomy_reader.pixels("compare") != before).any()
    assert "reference" in anatomy_reader.text(".panel[data-panel=compare] figcaption")


def test_the_reference_outline_comes_and_goes(anatomy_reader: Reader):
    anatomy_reader.press("ArrowDown")
    green = (126, 231, 135)
    assert share_of(anatomy_reader.pixels("t2w"), green) > 0.001
    anatomy_reader.press("r")
    assert share_of(anatomy_reader.pixels("t2w"), green) == 0


def test_dragging_changes_the_window_of_all_panels_with_that_sequence(anatomy_reader: Reader):
    before = anatomy_reader.all_pixels()
    x, y, width, height = anatomy_reader.box("t2w")
    anatomy_reader.page.mouse.move(x + width / 2, y + height / 3)
    anatomy_reader.page.mouse.down()
    anatomy_reader.page.mouse.move(x + width / 2, y + height / 3 - 60, steps=4)
    anatomy_reader.page.mouse.up()
    anatomy_reader.settle()
    after = anatomy_reader.all_pixels()
    assert all(after[name].mean() > before[name].mean() + 3 for name in ("t2w", "a", "b"))
    assert np.array_equal(after["adc"], before["adc"])
    anatomy_reader.page.locator("#reset").click()
    anatomy_reader.settle()
    assert np.array_equal(anatomy_reader.pixels("t2w"), before["t2w"])


def test_the_level_slider_darkens_the_image(anatomy_reader: Reader):
    before = anatomy_reader.pixels("t2w").mean()
    anatomy_reader.slide("#level", 600)
    assert anatomy_reader.pixels("t2w").mean() < before - 5
    assert "T2w" in anatomy_reader.text("#window-text")


def test_zoom_and_crosshair_are_shared_by_all_panels(anatomy_reader: Reader):
    before = anatomy_reader.all_pixels()
    anatomy_reader.press("+", "+")
    zoomed = anatomy_reader.all_pixels()
    assert all((before[name] != zoomed[name]).mean() > 0.1 for name in before)
    x, y, width, height = anatomy_reader.box("b")
    anatomy_reader.page.mouse.click(x + width * 0.3, y + height * 0.6)
    anatomy_reader.settle()
    for pixels in anatomy_reader.all_pixels().values():
        column = pixels[:, round(pixels.shape[1] * 0.3) - 8 : round(pixels.shape[1] * 0.3) + 8]
        assert share_of(column, (255, 235, 90), 200) > 0.015  # half as yellow where it lies between pixels


def test_the_readout_gives_the_place_and_the_value_at_the_crosshair(anatomy_reader: Reader):
    x, y, width, height = anatomy_reader.box("t2w")
    anatomy_reader.page.mouse.click(x + width * 0.35, y + height * 0.6)
    anatomy_reader.settle()
    lines = anatomy_reader.text("#readout").split("\n")
    words = lines[lines.index("Position") + 1].split()
    signs = {"L": 1, "R": -1, "P": 1, "A": -1, "S": 1, "I": -1}
    point_mm = [signs[side] * float(value) for side, value in zip(words[0:6:2], words[1:6:2], strict=True)]
    index = T2W_GRID.to_index(point_mm)
    assert np.abs(index - np.rint(index)).max() < 0.2  # a voxel's center, to the 0.1 mm that are shown
    i, j, k = np.rint(index).astype(int)
    assert k == 5
    assert float(lines[lines.index("T2w") + 1]) == pytest.approx(a_case()["t2w"].array[k, j, i], abs=0.3)


def test_the_patients_right_is_on_the_left_and_anterior_is_up(tmp_path: Path, reader_of):
    array = np.full(T2W_GRID.shape, 50.0, np.float32)
    array[:, 4:12, 4:14] = 900.0  # low x is the patient's right, low y is anterior
    case = replace(a_case(), volumes={Sequence.T2W: Volume(array, T2W_GRID)})
    reader = reader_of(write_report(compare(case, *anatomy_pair()), tmp_path))
    reader.press("x")
    pixels = reader.pixels("t2w").mean(axis=-1)
    middle_y, middle_x = pixels.shape[0] // 2, pixels.shape[1] // 2
    quarters = {
        "anterior right": pixels[:middle_y, :middle_x],
        "anterior left": pixels[:middle_y, middle_x:],
        "posterior right": pixels[middle_y:, :middle_x],
        "posterior left": pixels[middle_y:, middle_x:],
    }
    assert max(quarters, key=lambda name: quarters[name].mean()) == "anterior right"


def test_pixels_are_square_in_millimeters(tmp_path: Path, reader_of):
    array = np.full(T2W_GRID.shape, 50.0, np.float32)
    array[:, 10:30, 12:36] = 900.0  # 20 x 0.6 mm by 24 x 0.5 mm: a square of 12 mm
    case = replace(a_case(), volumes={Sequence.T2W: Volume(array, T2W_GRID)})
    reader = reader_of(write_report(compare(case, *anatomy_pair()), tmp_path))
    reader.press("x")
    bright = reader.pixels("t2w").mean(axis=-1) > 200
    bright[: bright.shape[0] // 10] = False
    bright[-bright.shape[0] // 8 :] = False
    rows, columns = np.flatnonzero(bright.mean(axis=1) > 0.2), np.flatnonzero(bright.mean(axis=0) > 0.2)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.05)


def test_a_double_click_shows_one_panel_alone_and_back(anatomy_reader: Reader):
    anatomy_reader.page.locator(".panel[data-panel=b] canvas").dblclick()
    anatomy_reader.settle()
    assert anatomy_reader.page.locator(".panel:visible").count() == 1
    anatomy_reader.page.locator(".panel[data-panel=b] canvas").dblclick()
    anatomy_reader.settle()
    assert anatomy_reader.page.locator(".panel:visible").count() == 6


def test_a_question_mark_opens_the_help_and_escape_closes_it(anatomy_reader: Reader):
    anatomy_reader.press("?")
    assert anatomy_reader.page.locator("#help").is_visible()
    anatomy_reader.press("Escape")
    assert not anatomy_reader.page.locator("#help").is_visible()


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(anatomy_reader: Reader):
    unnamed = anatomy_reader.page.locator("input, select, button").evaluate_all(
        """(all) => all.filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
                       .map((e) => e.id)"""
    )
    assert unnamed == []
    anatomy_reader.page.locator("#slice").focus()
    anatomy_reader.press("ArrowLeft")
    assert anatomy_reader.text("#slice-text") == "Slice 5 of 7"
    assert anatomy_reader.page.locator(".panel[data-panel=a] canvas").get_attribute("aria-label").startswith("A, Pretr")


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_the_page_follows_light_and_dark_and_the_viewer_stays_dark(anatomy_page, reader_of, scheme, is_dark):
    reader = reader_of(anatomy_page, scheme=scheme)

    def brightness(selector: str) -> int:
        color = reader.page.locator(selector).evaluate("(e) => getComputedStyle(e).backgroundColor")
        return sum(int(v) for v in color.removeprefix("rgb(").removesuffix(")").split(","))

    assert (brightness("body") < 150) == is_dark
    assert brightness("#viewer") < 100


@pytest.mark.parametrize("width", [1400, 900, 420])
def test_nothing_runs_out_of_the_window(anatomy_page, reader_of, width):
    reader = reader_of(anatomy_page, width=width)
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_gets_the_still_figure_instead_of_the_controls(anatomy_reader: Reader):
    anatomy_reader.page.emulate_media(media="print")
    assert anatomy_reader.page.locator(".still img").is_visible()
    assert not anatomy_reader.page.locator("#viewer").is_visible()
    assert anatomy_reader.page.locator(".still img").evaluate("(e) => e.naturalWidth") > 1000


def test_lesions_can_be_seen_by_their_probability(tmp_path: Path, reader_of):
    reader = reader_of(write_report(compare(a_case(), *lesion_pair()), tmp_path))
    before = reader.all_pixels()
    reader.choose("probability")
    after = reader.all_pixels()
    assert all((before[name] != after[name]).any(axis=-1).mean() > 0.2 for name in "ab")  # 0.1 outside the lesion
    assert np.array_equal(before["t2w"], after["t2w"])
    lines = reader.text("#readout").split("\n")
    assert sorted(lines[lines.index(f"{arm}, probability") + 1] for arm in "AB") == ["0.10", "0.80"]
    reader.press("o")
    assert np.array_equal(reader.pixels("a"), before["a"])


def test_synthetic_images_say_so_and_their_difference_has_both_signs(translation_page, reader_of):
    reader = reader_of(translation_page)
    assert not reader.page.locator("#probability").is_visible()
    reader.press("x")
    for panel in ("a", "b"):
        pixels = reader.pixels(panel)
        corner = pixels[:30, pixels.shape[1] // 2 :]
        assert share_of(corner, (255, 211, 61), 90) > 0.005
    assert share_of(reader.pixels("t2w")[:30], (255, 211, 61), 90) == 0
    difference = reader.pixels("compare")
    reader.press("ArrowUp")
    assert (difference != reader.pixels("compare")).any()
    assert "10⁻⁶ mm²/s" in reader.text(".tables")


def test_an_output_without_a_reference_shows_what_it_has(tmp_path: Path, reader_of):
    a, b = image_pair("distortion-correction", "hbv-corrected", DIFFUSION_GRID, 90.0)
    a, b = (
        replace(r, images={**r.images, "adc-corrected": mri(DIFFUSION_GRID, 3 + i, 1200.0)})
        for i, r in enumerate((a, b))
    )
    page = reader_of(write_report(compare(a_case(), a, b, mri(DIFFUSION_GRID, 9, 90.0)), tmp_path))
    with_reference = page.page.locator(".panel:visible").count()
    page.choose("pair-ar")
    page.page.select_option("#output", "1")
    page.settle()
    assert page.page.locator(".panel:visible").count() == with_reference - 1
    assert not page.page.locator("label[for=pair-ar]").is_visible()
    page.press("End")
    first, last = page.text("#slice-text").removeprefix("Slice ").split(" of ")
    assert first == last
    page.page.select_option("#output", "0")
    page.settle()
    assert page.page.locator("label[for=pair-ar]").is_visible()
    assert page.page.locator(".panel:visible").count() == with_reference


def test_a_classification_has_no_arms_to_compare_in_the_images(classification_page, reader_of):
    reader = reader_of(classification_page)
    panels = reader.page.locator(".panel").evaluate_all("(all) => all.map((e) => e.dataset.panel)")
    assert panels == ["t2w", "adc", "hbv"]
    assert not reader.page.locator("#fade").is_visible()
    reader.press("f", "d", "ArrowUp")
    assert reader.text("#slice-text") == "Slice 5 of 7"
    assert reader.page.locator("svg.bars").is_visible()
