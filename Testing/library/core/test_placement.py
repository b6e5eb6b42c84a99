"""Back from the network's grid to the scanned one, against SimpleITK's own resampling; regions of interest."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from prediction_cases import FakeSession, a_bundle, a_small_case, ball, predict, tilted, with_preprocess
from specs import MODELS, network_grid, place_on_grid, prepare

from VFMTransferLib.cli import main
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.placement import (
    REFERENCE_NOTE,
    RESTORED_NOTE,
    RIM_NOTE,
    Blend,
    Bounds,
    ZScore,
    centered_start,
    confine,
    covered_box,
    cut,
    gaussian_weight,
    shifted_starts,
    to_reference,
    window_starts,
    within_roi,
)
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.inference import predict as inputs
from VFMTransferLib.io import read_case, read_mask, write_volume

WINDOWS = with_preprocess("profound-upernet-lesion", patch=(16, 16, 16), whole_volume=True)
CROP = with_preprocess("profound-upernet-lesion", patch=(16, 24, 24))
SLICES = with_preprocess("provicnet-t2w", patch=(1, 32, 32), normalization="zscore-nonzero")
RESTORED = with_preprocess("profound-restoration-super-resolution", patch=(16, 24, 24))
# On a grid of its own, tilted otherwise than T2w and diffusion.
ROI_GRID = tilted((44, 44, 24), (1.0, 1.0, 1.5), (-0.1, 0.2, 0.4), (1, 1, 1))


@pytest.fixture
def a_case():
    return a_small_case()


def test_whole_volume_comes_back_as_simpleitk_resamples_it(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 32, 32), whole_volume=True)
    prepared = prepare(a_case, spec)
    on_network_grid = place_on_grid(a_case, spec)[Sequence.T2W]
    back = to_reference(on_network_grid.array, prepared, "t2w")
    reference = a_case[Sequence.T2W]
    expected = sitk.Resample(on_network_grid.to_sitk(), reference.to_sitk(), sitk.Transform(), sitk.sitkLinear)
    assert back.geometry == reference.geometry
    # Half a network voxel around the field of view is continued, where SimpleITK would fill with zeros.
    inside = sitk.GetArrayFromImage(expected) != 0
    assert inside.mean() > 0.9
    np.testing.assert_allclose(back.array[inside], sitk.GetArrayFromImage(expected)[inside], rtol=1e-5)
    # 0.9 mm → 0.5 mm → 0.9 mm, twice linear: within 1 of what was scanned (4 to 400), axes in their old order.
    np.testing.assert_allclose(back.array, reference.array, atol=1)


def test_outside_of_the_crop_is_the_fill_value(a_case):
    spec = with_preprocess("profound-upernet-lesion", patch=(16, 24, 24))
    prepared = prepare(a_case, spec)
    back = to_reference(np.ones(prepared.region.shape, np.float32), prepared, "ones", fill=-7.0)
    index = prepared.region.to_index(a_case[Sequence.T2W].geometry.to_world((0, 0, 0)))
    assert (np.abs(index - 8) > 12).any()
    assert back.array[0, 0, 0] == -7.0
    assert back.array[4, 18, 20] == 1.0


def test_last_voxels_of_a_coarser_network_grid_are_not_lost(a_case):
    spec = with_preprocess("profound-upernet-anatomy", spacing_mm=(1.8, 1.8, 6.0), patch=(16, 32, 32))
    prepared = prepare(a_case, spec)
    assert network_grid(a_case, spec).size == (20, 18, 4)
    back = to_reference(np.ones(prepared.region.shape, np.float32), prepared, "ones")
    # 9 slices of 3 mm on 4 of 6 mm: the last of the nine lies a whole slice beyond, the others within half a voxel.
    assert (back.to_nearest_lps().array[:8] == 1).all()


def test_output_on_the_reference_grid_comes_back_untouched(a_case):
    spec = with_preprocess("profound-upernet-anatomy", spacing_mm=(0.9, 0.9, 3.0), patch=(9, 36, 40))
    flat = a_case[Sequence.T2W].to_nearest_lps()
    prepared = prepare(type(a_case)("p002", {Sequence.T2W: flat}), spec)
    noise = np.random.default_rng(3).normal(size=prepared.region.shape).astype(np.float32)
    np.testing.assert_array_equal(to_reference(noise, prepared, "noise").array, noise)


def test_zscore_is_undone():
    scale = ZScore.fit(np.array([1.0, 5.0]))
    assert (scale.mean, scale.std) == (3.0, 2.0)
    np.testing.assert_allclose(scale.undo(scale.apply(np.array([1.0, 5.0, 9.0]))), [1, 5, 9])


def test_center_crop_starts_where_the_published_one_does():
    # n // 2 - roi // 2 by hand: 57 < 64 pads 3 before; 385 // 2 - 112 = 80; 240 // 2 - 112 = 8.
    assert centered_start((57, 385, 240), (64, 224, 224)) == (-3, 80, 8)


def test_window_around_a_center_stays_inside_the_volume():
    assert centered_start((80, 300, 300), (64, 224, 224), (5.0, 150.4, 290.0)) == (0, 38, 76)


def test_shifted_windows_lie_on_the_diagonals_of_the_plane():
    assert shifted_starts((5, 80, 8), 6) == ((5, 74, 2), (5, 74, 14), (5, 86, 2), (5, 86, 14))
    assert shifted_starts((5, 80, 8), 0) == ((5, 80, 8),)


def test_volume_that_fits_has_one_padded_window():
    assert window_starts((9, 20, 33), (16, 20, 40), 0.5) == ((-3, 0, -3),)


def test_windows_overlap_and_end_where_the_volume_ends():
    starts = window_starts((10, 20, 41), (10, 10, 20), 0.5)
    assert sorted({s[1] for s in starts}) == [0, 5, 10]
    assert sorted({s[2] for s in starts}) == [0, 10, 20, 21]


def test_overlap_of_one_is_refused():
    with pytest.raises(ValueError, match="below 1"):
        window_starts((10, 10, 10), (5, 5, 5), 1.0)


def test_cut_pads_with_zeros_symmetrically():
    array = np.arange(1, 4, dtype=np.float32).reshape(1, 1, 1, 3)
    assert cut(array, (0, 0, -1), (1, 1, 6)).ravel().tolist() == [0, 1, 2, 3, 0, 0]


@pytest.mark.parametrize(("size", "patch"), [((7, 30, 19), (5, 12, 8)), ((3, 9, 31), (8, 12, 10))])
def test_blended_windows_give_back_the_volume(size, patch):
    array = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    starts = window_starts(size, patch, 0.5)
    start, box = covered_box(size, starts, patch)
    blend = Blend(start, box, gaussian_weight(patch))
    for window in starts:
        blend.add(cut(array, window, patch), window)
    np.testing.assert_allclose(blend.mean(), array, atol=1e-5)
    assert start == (0, 0, 0)
    assert box == size


def test_blend_is_the_weighted_mean_by_hand():
    blend = Blend((0, 0, 0), (1, 1, 3), np.array([[[1.0, 3.0]]], np.float32))
    blend.add(np.full((1, 1, 1, 2), 2.0, np.float32), (0, 0, 0))
    blend.add(np.full((1, 1, 1, 2), 6.0, np.float32), (0, 0, 1))
    # Middle voxel: second of the first window (weight 3), first of the second (weight 1).
    np.testing.assert_allclose(blend.mean().ravel(), [2.0, (3 * 2 + 1 * 6) / 4, 6.0])


def test_weight_is_largest_in_the_middle_and_never_zero():
    weight = gaussian_weight((5, 7, 9))
    assert np.unravel_index(weight.argmax(), weight.shape) == (2, 3, 4)
    assert weight.min() > 0


def as_is(x: np.ndarray) -> np.ndarray:
    """A network that returns its own first channel."""
    return x[:, :1]


@pytest.fixture
def an_roi() -> Volume:
    """A box away from the middle of the images."""
    mask = np.zeros(ROI_GRID.shape, np.uint8)
    mask[9:15, 22:32, 24:36] = 1
    return Volume(mask, ROI_GRID, "region of interest")


@pytest.fixture(autouse=True)
def no_gland_network(monkeypatch):
    """Where the user draws a region, no network is asked for the gland."""
    monkeypatch.setattr(inputs, "default_pair", lambda task: pytest.fail("The gland network was asked."))


def inside_of(roi: Volume, result) -> np.ndarray:
    return roi.resample_to(result.labels.geometry, "nearest").array > 0


def run(case: Case, spec, roi: Volume | None, **options):
    session = FakeSession(options.pop("network", as_is))
    return predict(case, a_bundle(spec), open_network=lambda bundle: session, roi=roi, **options), session


def test_inside_the_region_the_result_is_that_of_the_whole_run(a_case, an_roi):
    """Windows that are left out have no say inside, so that nothing but time is saved."""
    by_window = lambda x: x[:, :1] - x[:, :1].mean()  # noqa: E731  (a voxel's value depends on its window)
    whole, all_windows = run(a_case, WINDOWS, None, network=by_window)
    part, fewer = run(a_case, WINDOWS, an_roi, network=by_window)
    inside = inside_of(an_roi, whole)
    assert 0 < len(fewer.seen) < 0.6 * len(all_windows.seen)
    assert inside.any()
    np.testing.assert_allclose(part.probabilities["csPCa"].array[inside], whole.probabilities["csPCa"].array[inside])
    np.testing.assert_array_equal(part.labels.array, np.where(inside, whole.labels.array, 0))


def test_nothing_is_marked_outside_and_numbers_follow(a_case, an_roi):
    result, _ = run(a_case, WINDOWS, an_roi)
    inside = inside_of(an_roi, result)
    assert result.labels.array[inside].any()
    assert not result.labels.array[~inside].any()
    assert not result.probabilities["csPCa"].array[~inside].any()
    assert result.volumes_ml["csPCa"] == pytest.approx(result.labels.volume_ml)
    assert sum(lesion.volume_ml for lesion in result.lesions) == pytest.approx(result.labels.volume_ml)
    assert f"Nothing was marked outside the region of interest ({an_roi.volume_ml:.1f} ml)." in map(
        str, result.provenance.notes
    )


def test_outside_the_region_all_is_background(a_case, an_roi):
    spec = replace(
        WINDOWS, labels=("background", "csPCa"), activation="softmax", head=replace(WINDOWS.head, out_channels=2)
    )
    result, _ = run(a_case, spec, an_roi, network=lambda x: np.concatenate([-x[:, :1], x[:, :1]], axis=1))
    assert not result.labels.array[~inside_of(an_roi, result)].any()


def test_the_only_window_lies_around_the_region(a_case, an_roi):
    prepared = prepare(a_case, CROP, roi=an_roi)
    voxels = np.argwhere(an_roi.array)
    middle_mm = ROI_GRID.to_world((voxels.min(axis=0) + voxels.max(axis=0))[::-1] / 2)
    assert prepared.centered_on == "region of interest"
    first, size = prepared.box
    middle = np.array(first) + (np.array(size) - 1) / 2
    assert np.abs(middle - network_grid(a_case, CROP).to_index(middle_mm)[::-1]).max() <= 1.5


@pytest.mark.parametrize("crop", ["auto", "gland", "center"])
def test_the_region_goes_before_gland_and_crop(a_case, an_roi, crop):
    gland = ball(a_case[Sequence.T2W].geometry, (-8, -8, 0), 5)
    assert prepare(a_case, CROP, crop=crop, roi=an_roi, gland=gland).starts == prepare(a_case, CROP, roi=an_roi).starts


def test_a_network_of_slices_sees_those_that_reach_the_region(a_case, an_roi):
    bounds = Bounds.from_mask(an_roi, network_grid(a_case, SLICES))
    seen = [z for z, _, _ in prepare(a_case, SLICES, roi=an_roi).starts]
    depth = network_grid(a_case, SLICES).shape[0]
    assert seen == list(range(max(bounds.first[0] - 1, 0), min(bounds.last[0] + 2, depth)))
    assert len(seen) < depth


def test_an_image_is_restored_whole_and_that_is_said(a_case, an_roi):
    whole, _ = run(a_case, RESTORED, None)
    part, _ = run(a_case, RESTORED, an_roi)
    for name, volume in whole.images.items():
        np.testing.assert_array_equal(part.images[name].array, volume.array)
    assert RESTORED_NOTE in part.provenance.notes


def test_a_classifier_gets_the_region(a_case, an_roi):
    spec = with_preprocess(MODELS["profound-classifier"], patch=(16, 24, 24))
    result, session = run(a_case, spec, an_roi, network=lambda x: np.zeros((1, 4), np.float32))
    assert len(session.seen) == 1
    assert "The input window was centered on: region of interest." in map(str, result.provenance.notes)


def test_a_region_larger_than_the_window_is_told(a_case):
    everything = Volume(np.ones(ROI_GRID.shape, np.uint8), ROI_GRID)
    assert RIM_NOTE in run(a_case, CROP, everything)[0].provenance.notes
    assert RIM_NOTE not in run(a_case, WINDOWS, everything)[0].provenance.notes


def test_a_region_that_sticks_out_counts_as_far_as_it_lies_inside(a_case):
    grid = replace(ROI_GRID, origin_mm=tuple(np.add(ROI_GRID.origin_mm, (20, 0, 0))))
    bounds = Bounds.from_mask(Volume(np.ones(grid.shape, np.uint8), grid), network_grid(a_case, CROP))
    assert (bounds.first >= 0).all()
    assert (bounds.last < network_grid(a_case, CROP).shape).all()


@pytest.mark.parametrize("spec", [WINDOWS, CROP, SLICES, RESTORED], ids=lambda spec: spec.name)
def test_a_region_outside_of_the_images_or_empty_is_refused(a_case, an_roi, spec):
    far = replace(ROI_GRID, origin_mm=(500.0, 0.0, 0.0))
    with pytest.raises(ImageError, match="must lie inside the images, but lies outside"):
        run(a_case, spec, replace(an_roi, geometry=far))
    with pytest.raises(ImageError, match="must hold at least one voxel, but is empty"):
        run(a_case, spec, an_roi.with_array(np.zeros_like(an_roi.array)))


def test_a_thin_region_between_two_slices_reaches_both_or_one():
    grid = Geometry((8, 8, 4), (1.0, 1.0, 5.0))
    thin = Volume(np.ones((1, 8, 8), np.uint8), Geometry((8, 8, 1), (1.0, 1.0, 0.2), (0.0, 0.0, 7.5)))
    bounds = Bounds.from_mask(thin, grid)
    assert (bounds.first[0], bounds.last[0]) == (1, 2)


def test_a_part_too_thin_to_hold_a_voxel_counts_beside_a_larger_one():
    grid, fine = Geometry((8, 8, 4), (4.0, 4.0, 5.0)), Geometry((32, 32, 20))
    drawn = np.zeros(fine.shape, np.uint8)
    drawn[3:8, 2:10, 2:10] = 1  # a block, and a line between the voxels' middles
    drawn[13, 18, 4:20] = 1
    probable = Volume(np.ones(grid.shape, np.float32), grid)
    kept = confine({"csPCa": probable}, Volume(drawn, fine))["csPCa"].array > 0
    block, line = kept[:2], kept[2:]
    assert block.sum() == 4
    assert line.sum() == line[1, 4, 1:6].sum() == 5


def test_a_reference_counts_inside_the_region_only(a_case, an_roi):
    truth = ball(a_case[Sequence.T2W].geometry, (0, 0, 0), 12)
    case, confined = within_roi(replace(a_case, roi=an_roi), truth)
    inside = an_roi.resample_to(truth.geometry, "nearest").array > 0
    np.testing.assert_array_equal(confined.array, np.where(inside, truth.array, 0))
    assert case.notes == (*a_case.notes, REFERENCE_NOTE)


def a_thin_region(z_mm: float) -> Volume:
    """A sheet of 1 mm, across the slices of `THICK_SLICES`."""
    return Volume(np.ones((1, 4, 5), np.uint8), Geometry((5, 4, 1), (1.0, 1.0, 1.0), (3.0, 2.0, z_mm)))


THICK_SLICES = Geometry((12, 10, 6), (1.0, 1.0, 3.0))  # at 0, 3, ... 15 mm, from -1.5 to 16.5 mm


# Between two slices, and at the ends, where the middle of the last sheets lies beyond the grid and a face within.
@pytest.mark.parametrize(("z_mm", "slice_"), [(4.6, 2), (4.4, 1), (-1.2, 0), (16.3, 5), (-1.9, 0), (16.9, 5)])
def test_a_region_too_thin_to_hold_a_slice_counts_as_the_nearest_one(z_mm, slice_):
    roi = a_thin_region(z_mm)
    expected = np.zeros(THICK_SLICES.shape)
    expected[slice_, 2:6, 3:8] = 1
    everything = Volume(np.ones(THICK_SLICES.shape, np.float32), THICK_SLICES)
    np.testing.assert_array_equal(confine({"csPCa": everything}, roi)["csPCa"].array, expected)
    _, reference = within_roi(Case("p001", {}, roi=roi), everything.with_array(np.ones(THICK_SLICES.shape, np.uint8)))
    np.testing.assert_array_equal(reference.array, expected)


@pytest.mark.parametrize("z_mm", [-2.1, 17.1])
def test_a_thin_region_beside_a_reference_leaves_nothing_of_it(z_mm):
    truth = Volume(np.ones(THICK_SLICES.shape, np.uint8), THICK_SLICES)
    assert not within_roi(Case("p001", {}, roi=a_thin_region(z_mm)), truth)[1].array.any()
    with pytest.raises(ImageError, match="must lie inside the images, but lies outside"):
        Bounds.from_mask(a_thin_region(z_mm), THICK_SLICES)


def test_the_command_line_takes_a_region(a_study, tiny_models, tmp_path, capsys):
    t2w = read_case(a_study)[Sequence.T2W]
    mask = np.zeros(t2w.geometry.shape, np.uint8)
    mask[2:5, 4:12, 5:15] = 1
    write_volume(t2w.with_array(mask), tmp_path / "roi.nii.gz")
    network = [
        "--bundle",
        str(tiny_models / "tiny-scratch"),
        "--roi",
        str(tmp_path / "roi.nii.gz"),
        "--threshold",
        "0.01",
    ]
    assert main(["predict", str(a_study), *network, "-o", str(tmp_path / "one"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert any("outside the region of interest" in note["text"] for note in answer["notes"])
    labels = read_mask(tmp_path / "one" / "labels.nii.gz")
    assert labels.array[mask > 0].any()
    assert not labels.array[mask == 0].any()


def test_a_region_belongs_to_one_case(a_study, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", str(a_study), str(tmp_path), "--roi", "roi.nii.gz", "-o", str(tmp_path / "out")])
    assert "--roi belong to one case" in capsys.readouterr().err
