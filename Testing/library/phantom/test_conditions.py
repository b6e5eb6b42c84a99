"""The phantom's range: each condition does what it states, and nothing else; ranges are drawn, read and named."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import ndimage

from VFMTransferLib.cli import main
from VFMTransferLib.core.decoding import from_json, to_json
from VFMTransferLib.phantom import Conditions, PhantomRange, PhantomSplit, PhantomStore, make_phantom
from VFMTransferLib.phantom.artifacts import Artifacts
from VFMTransferLib.phantom.canvas import Lattice
from VFMTransferLib.phantom.pelvis import draw_habitus

SEED = 5
COARSE = {"t2w_spacing_mm": (2.5, 2.5, 3.0), "lesions": 0}
T2W_ONLY = {**COARSE, "sequences": ["t2w"]}
# Of each image of `make_phantom(5, lesions=2, t2w_spacing_mm=(2.5, 2.5, 3.0))`, as before there was a range, masks
# as of version 0.3.0: mean and deviation, and the voxels on the middle row of the middle slice, at columns 20, 30, 40,
# 50 and 60.
DEFAULT_IMAGES = {
    "t2w": (145.8383, 125.99977, (28, 105, 136, 66, 142)),
    "hbv": (16.805785, 19.199588, (41, 74, 60, 63, 31)),
    "adc": (672.41494, 684.05584, (1067, 1072, 1312, 1339, 1181)),
    "gland": (0.020891151, 0.14301997, (0, 1, 1, 0, 0)),
    "zones": (0.035043469, 0.24923896, (0, 2, 2, 0, 0)),
    "lesion": (0.00055198638, 0.033221500, (0, 0, 0, 0, 0)),
    "hbv_undistorted": (16.773546, 19.0747, (42, 65, 59, 61, 29)),
    "adc_undistorted": (667.82742, 686.07001, (1096, 1019, 1375, 1371, 1151)),
    "adc_true": (664.25825, 674.82467, (1055, 1142, 1307.1, 1342.5, 1288.3)),
    "field_map_hz": (-3.4266575, 15.399246, (-23.346, -26.851, -20.792, -13.142, -4.4668)),
    "displacement_mm": (0.26616358, 1.1961272, (1.8134, 2.0856, 1.615, 1.0208, 0.34695)),
}
SCANNED = ("t2w", "hbv", "adc", "hbv_undistorted", "adc_undistorted")  # rounded to whole numbers, as a scanner's
MASKS = ("gland", "zones", "lesion")


def conditioned(options=T2W_ONLY, **conditions):
    return make_phantom(SEED, conditions=Conditions(**conditions), **options)


@pytest.fixture(scope="module")
def the_default():
    return make_phantom(SEED, **COARSE)


@pytest.fixture(scope="module")
def the_t2w():
    return make_phantom(SEED, **T2W_ONLY)


def inside(phantom, sequence="t2w"):
    volume = phantom.case[sequence]
    return volume.array[phantom.gland.resample_to(volume.geometry, "nearest").array > 0].astype(float)


def test_default_phantoms_are_those_that_shipped_tables_were_made_of():
    """But for rounding, which differs between processors: it moves a few voxels in ten thousand by one number."""
    phantom = make_phantom(SEED, lesions=2, t2w_spacing_mm=(2.5, 2.5, 3.0))
    assert list(phantom.images) == list(DEFAULT_IMAGES)
    for name, (mean, deviation, voxels) in DEFAULT_IMAGES.items():
        image = phantom.images[name].array.astype(np.float64)
        rounding = 1e-3 if name in MASKS else 1e-5  # a voxel of the gland is a three thousandth of it
        assert (image.mean(), image.std()) == pytest.approx((mean, deviation), rel=rounding), name
        row = image[image.shape[0] // 2, image.shape[1] // 2, [20, 30, 40, 50, 60]]
        np.testing.assert_allclose(row, voxels, rtol=1e-4, atol=1.01 if name in SCANNED else 0, err_msg=name)
    assert "conditions" not in phantom.acquisition


def test_conditions_that_deviate_in_nothing_change_no_voxel(the_default):
    same = conditioned(COARSE)
    for name, volume in the_default.images.items():
        np.testing.assert_array_equal(same.images[name].array, volume.array)


def test_half_the_field_has_twice_the_noise_and_half_the_displacement(the_default):
    weak = conditioned(COARSE, tesla=1.5)
    assert weak.acquisition["t2w"]["noise"] == 2 * the_default.acquisition["t2w"]["noise"]
    there, here = (np.abs(p.diffusion.field_map_hz.array) for p in (the_default, weak))
    assert here[there < 40].mean() == pytest.approx(there[there < 40].mean() / 2, rel=0.1)  # below the limit
    np.testing.assert_array_equal(weak.gland.array, the_default.gland.array)


def test_each_vendor_has_its_contrast_and_numbers(the_t2w):
    scale = {}
    for vendor in ("siemens", "philips", "ge"):
        made = conditioned(vendor=vendor)
        np.testing.assert_array_equal(made.gland.array, the_t2w.gland.array)
        scale[vendor] = np.median(inside(made))
    assert scale["siemens"] < scale["philips"] < scale["ge"]


def test_an_endorectal_coil_is_bright_close_by_and_pushes_a_flattened_gland_forward(the_t2w):
    coil = conditioned(endorectal_coil=True)
    gland = coil.gland.array > 0
    rows = np.flatnonzero(gland.any(axis=(0, 2)))
    image = np.where(gland, coil.case["t2w"].array, np.nan)
    back, front = (np.nanmean(image[:, part]) for part in (rows[-3:], rows[:3]))
    assert back > 2 * front
    before, after = (p.acquisition["gland"] for p in (the_t2w, coil))
    assert after["center_mm"][1] + after["half_mm"][1] < before["center_mm"][1] + before["half_mm"][1] - 3
    assert after["half_mm"][1] < 0.85 * before["half_mm"][1]


def test_a_hip_implant_leaves_a_void_on_its_side_alone(the_default):
    hip = conditioned(COARSE, hip_implants=1)
    change = the_default.case["t2w"].to_nearest_lps().array - hip.case["t2w"].to_nearest_lps().array
    middle = change.shape[2] // 2
    left, right = change[:, :, middle + 20 :], change[:, :, : middle - 20]
    assert (left > 60).mean() > 5 * (right > 60).mean()
    lost = (the_default.case["hbv"].array > 0) & (hip.case["hbv"].array == 0)
    assert lost.mean() > 0.02
    both = conditioned(hip_implants=2).case["t2w"].to_nearest_lps().array
    assert (the_default.case["t2w"].to_nearest_lps().array - both > 60)[:, :, : middle - 20].mean() > 0.05


def test_the_field_of_an_implant_is_that_of_a_dipole():
    body, rng = draw_habitus(np.random.default_rng(0)), np.random.default_rng(1)
    artifacts = Artifacts(Conditions(hip_implants=1), Lattice((2, 2, 2), (1.0,) * 3), rng, None, body, None)
    center = np.array([86.0, -2.0, 10.0]) * body.scale
    along, across = (
        artifacts_hz(artifacts, center + offset, np.random.default_rng(3)) for offset in ([0, 0, 60.0], [0, -60.0, 0])
    )
    assert along > 0 > across
    assert along == pytest.approx(-2 * across, rel=0.3)  # the stem adds some


def artifacts_hz(artifacts, point, rng):
    x, y, z = (np.full((1, 1, 1), value, np.float32) for value in point)
    return float(replace(artifacts, rng=rng).metal_hz(x, y, z)[0, 0, 0])


def test_hemorrhage_darkens_part_of_the_peripheral_zone_and_is_no_lesion(the_default):
    bled = conditioned(COARSE, hemorrhage=0.5)
    zone = the_default.zones.array == 1
    np.testing.assert_array_equal(bled.zones.array, the_default.zones.array)
    assert not bled.lesion.array.any()
    before, after = (p.case["t2w"].array[zone].astype(float) for p in (the_default, bled))
    assert (after < 0.8 * before).mean() > 0.2
    assert np.median(bled.case["t2w"].array[the_default.zones.array == 2]) == pytest.approx(
        np.median(the_default.case["t2w"].array[the_default.zones.array == 2]), rel=0.02
    )


@pytest.mark.parametrize("volume_ml", [12.0, 200.0])
def test_glands_may_be_very_small_and_very_large(volume_ml):
    made = conditioned(gland_ml=volume_ml)
    assert made.volume_ml == pytest.approx(volume_ml, rel=0.3)
    faces = [made.gland.array[[0, -1]], made.gland.array[:, [0, -1]], made.gland.array[:, :, [0, -1]]]
    assert not any(face.any() for face in faces)


def test_slices_may_be_thick_and_voxels_isotropic():
    assert conditioned(slice_mm=6.0).case["t2w"].geometry.spacing_mm == (2.5, 2.5, 6.0)
    isotropic = conditioned(isotropic_mm=2.0)
    assert isotropic.case["t2w"].geometry.spacing_mm == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="got both"):
        Conditions(slice_mm=5.0, isotropic_mm=1.0)


def test_a_narrow_view_shows_the_whole_gland_and_leaves_diffusion_whole(the_default):
    narrow, wide = (conditioned(COARSE, field_of_view_mm=view) for view in (110.0, 260.0))
    assert narrow.case["t2w"].geometry.extent_mm[0] < 130
    assert wide.case["t2w"].geometry.extent_mm[0] == pytest.approx(260, abs=2.5)
    assert narrow.gland.volume_ml == pytest.approx(the_default.gland.volume_ml)
    assert narrow.case["t2w"].geometry == narrow.gland.geometry == narrow.zones.geometry == narrow.lesion.geometry
    np.testing.assert_array_equal(narrow.case["hbv"].array, the_default.case["hbv"].array)


def test_a_narrow_twin_covers_the_narrow_t2w():
    made = conditioned({**T2W_ONLY, "full_resolution": True, "tissue_maps": True}, field_of_view_mm=110.0)
    assert made.tissues.pd.geometry == made.gland.geometry
    coarse, fine = made.case["t2w"].geometry, made.t2w_full_resolution.geometry
    assert fine.equals(coarse.refined((2, 2, 1)))


def test_every_other_slice_is_darker(the_t2w):
    shaded = conditioned(interleave=0.3)
    ratio = shaded.case["t2w"].array.mean(axis=(1, 2)) / the_t2w.case["t2w"].array.mean(axis=(1, 2))
    even, odd = ratio[0::2].mean(), ratio[1::2].mean()
    assert min(even, odd) == pytest.approx(0.7, abs=0.06)
    assert max(even, odd) == pytest.approx(1.0, abs=0.01)


def test_ghosts_and_motion_put_signal_where_there_is_none(the_t2w):
    made = make_phantom(SEED, noise=0.0, **T2W_ONLY)
    air = made.case["t2w"].array < 2
    assert air.sum() > 500
    for conditions in ({"ghosts": 0.15}, {"motion_mm": 2.0}):
        corrupted = make_phantom(SEED, noise=0.0, conditions=Conditions(**conditions), **T2W_ONLY).case["t2w"].array
        assert corrupted[air].mean() > 3
        assert np.corrcoef(corrupted.ravel(), made.case["t2w"].array.ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("seed", "conditions"), [(8, {"motion_mm": 2.0}), (9, {"motion_mm": 2.0}), (7, {"hip_implants": 2})]
)
def test_t2w_lies_where_its_labels_do(seed, conditions):
    """Moved by up to 2 mm either way it is nowhere much more like what neither motion nor metal has touched."""
    options = {"t2w_spacing_mm": (1.0, 1.0, 3.0), "sequences": ["t2w"], "noise": 0.0, "lesions": 0}
    made = make_phantom(seed, **options)
    changed = make_phantom(seed, conditions=Conditions(**conditions), **options)
    np.testing.assert_array_equal(changed.gland.array, made.gland.array)
    around = ndimage.binary_dilation(made.gland.array > 0, iterations=8)
    pure, image = (phantom.case["t2w"].array.astype(float) for phantom in (made, changed))
    alike = {
        (dy, dx): np.corrcoef(pure[around], np.roll(image, (dy, dx), (1, 2))[around])[0, 1]
        for dy in range(-2, 3)
        for dx in range(-2, 3)
    }
    assert alike[0, 0] > 0.97 * max(alike.values())


def test_of_the_surroundings_more_is_as_bright_as_cancer_at_a_high_b(the_default):
    made = conditioned(COARSE, surroundings=True)
    np.testing.assert_array_equal(made.gland.array, the_default.gland.array)
    outside = {}
    for name, phantom in (("default", the_default), ("as scanned", made)):
        hbv, gland = phantom.case["hbv"], phantom.gland.resample_to(phantom.case["hbv"].geometry, "nearest").array > 0
        outside[name] = (hbv.array[~gland] > np.percentile(hbv.array[gland], 75)).sum()
    assert outside["as scanned"] > 1.5 * outside["default"]


def test_lesions_may_be_large_and_lie_in_either_zone_alone(the_default):
    with_lesions = {**T2W_ONLY, "lesions": 2}
    usual, large, front, back = (
        conditioned(with_lesions, **more)
        for more in ({}, {"lesion_mm": 24.0}, {"lesions_in_transition": 1.0}, {"lesions_in_transition": 0.0})
    )
    assert [one.diameter_mm for one in large.lesions] == pytest.approx([2 * one.diameter_mm for one in usual.lesions])
    assert sum(one.volume_ml for one in large.lesions) > 2 * sum(one.volume_ml for one in usual.lesions)
    for made, zone in ((front, 2), (back, 1)):
        there = made.lesion.array > 0
        assert (made.zones.array[there] == zone).mean() > 0.9
    for made in (large, front, back):
        np.testing.assert_array_equal(made.gland.array, the_default.gland.array)


def test_diffusion_may_lie_beside_t2w_by_as_much_as_is_stated(the_default):
    """Where the default's diffusion, moved as stated, is most alike: there, and not where T2w and labels stay."""
    far_mm = 8.0
    made = conditioned(COARSE, misregistration_mm=far_mm)
    for name in ("t2w", "gland", "lesion"):
        np.testing.assert_array_equal(made.images[name].array, the_default.images[name].array)
    here, there = (p.diffusion.adc_true for p in (the_default, made))
    assert here.geometry == there.geometry
    still = ndimage.gaussian_filter(here.array, (0.5, 1, 1))
    steps = range(-5, 6)  # voxels of 2 mm, of 3 mm between slices
    unlike = {
        (z, y, x): np.abs(np.roll(still, (z, y, x), (0, 1, 2))[5:-5, 8:-8, 8:-8] - there.array[5:-5, 8:-8, 8:-8]).mean()
        for z in range(-3, 4)
        for y in steps
        for x in steps
    }
    best = np.multiply(min(unlike, key=unlike.get), here.geometry.spacing_mm[::-1])
    assert np.linalg.norm(best) == pytest.approx(far_mm, abs=1.5)


def test_a_stronger_field_distorts_diffusion_by_more(the_default):
    strong = conditioned(COARSE, off_resonance=2.5)
    for name in ("t2w", "gland", "hbv_undistorted", "adc_true"):
        np.testing.assert_array_equal(strong.images[name].array, the_default.images[name].array)
    usual, found = (np.abs(p.diffusion.displacement_mm.array) for p in (the_default, strong))
    weak = usual < np.percentile(usual, 50)  # far below the limit
    assert found[weak].mean() == pytest.approx(2.5 * usual[weak].mean(), rel=0.05)
    assert (found >= usual - 1e-5).all()


def test_a_range_draws_each_condition_about_as_often_as_it_states():
    drawn = [PhantomRange().draw(np.random.default_rng(seed)) for seed in range(400)]
    assert {c.tesla for c in drawn} == {1.5, 3.0}
    assert {c.vendor for c in drawn} == {"siemens", "philips", "ge"}
    for name, share in (("endorectal_coil", 0.12), ("hemorrhage", 0.2), ("ghosts", 0.25), ("surroundings", 0.8)):
        assert np.mean([bool(getattr(c, name)) for c in drawn]) == pytest.approx(share, abs=0.07), name
    for name, share in (
        ("lesion_mm", 0.25),
        ("lesions_in_transition", 0.3),
        ("misregistration_mm", 0.3),
        ("off_resonance", 0.3),
    ):
        usual = getattr(Conditions(), name)
        assert np.mean([getattr(c, name) != usual for c in drawn]) == pytest.approx(share, abs=0.07), name
        assert min(getattr(c, name) for c in drawn) == usual, name
    for field in fields(Conditions):  # none is forgotten
        assert len({getattr(c, field.name) for c in drawn}) > 1, field.name


@pytest.mark.parametrize(
    ("share", "condition"),
    [
        ("ghosts", "ghosts"),
        ("large_lesions", "lesion_mm"),
        ("transition_lesions", "lesions_in_transition"),
        ("misregistration", "misregistration_mm"),
        ("strong_distortion", "off_resonance"),
    ],
)
def test_a_share_of_one_condition_leaves_the_others_alone(share, condition):
    changed = 0
    for seed in range(20):
        plain, without = (PhantomRange(**more).draw(np.random.default_rng(seed)) for more in ({}, {share: 0.0}))
        usual = getattr(Conditions(), condition)
        assert replace(plain, **{condition: usual}) == without
        changed += plain != without
    assert changed


def test_one_seed_of_a_range_gives_one_phantom():
    first, second = (make_phantom(3, conditions=PhantomRange(), **T2W_ONLY) for _ in range(2))
    np.testing.assert_array_equal(first.case["t2w"].array, second.case["t2w"].array)
    assert first.acquisition["conditions"] == second.acquisition["conditions"]


def test_a_recipe_names_a_range_and_its_phantoms_are_kept_apart(tmp_path):
    group = {"first_seed": 0, "count": 1}
    document = {"spacing_mm": [3, 3, 4], "train": group, "validation": group, "test": group}
    named = from_json(PhantomSplit, {**document, "conditions": {"tesla": [1.5], "hip_implants": 0}}, "phantoms")
    assert named.conditions == PhantomRange(tesla=(1.5,), hip_implants=0.0)
    assert from_json(PhantomSplit, to_json(named), "phantoms") == named
    assert from_json(PhantomSplit, document, "phantoms").conditions is None
    for conditions in (None, named.conditions):
        store = PhantomStore(tmp_path, (3.0, 3.0, 4.0), full_resolution=False, conditions=conditions)
        (phantom,) = store.phantoms([2])
        assert ("conditions" in phantom.acquisition) == (conditions is not None)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tesla": [7.0]}, "1.5, 3"),
        ({"gland_ml": [90, 20]}, "smaller to a larger"),
        ({"hips": 1}, "hips"),
        ({"gland_ml": [2, 90]}, "gland_ml.* must be 8 or more"),
        ({"lesion_mm": [10, 60]}, "lesion_mm.* must be 40 or less"),
        ({"misregistration_mm": [4, 1]}, "smaller to a larger"),
    ],
)
def test_a_range_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        from_json(PhantomRange, wrong, "range")


def test_the_command_makes_phantoms_under_a_condition(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("VFMTransferLib.phantom.make_phantoms", lambda *a, **how: made.append(how["conditions"]) or [])
    for words in (["--condition", "vendor=ge", "--condition", "endorectal_coil"], ["--range", "wide"], []):
        main(["phantom", *words, "-o", str(tmp_path)])
    (tmp_path / "range.json").write_text(json.dumps({"vendors": ["ge"]}))
    main(["phantom", "--range", str(tmp_path / "range.json"), "-o", str(tmp_path)])
    assert made == [Conditions(vendor="ge", endorectal_coil=True), PhantomRange(), None, PhantomRange(vendors=("ge",))]
