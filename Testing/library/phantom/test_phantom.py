"""Synthetic cases: what is drawn, how it is scanned, that truth and scan agree, and the same again from disk."""

import json

import numpy as np
import pytest

from VFMTransferLib.core.errors import DatasetError, OutputError
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry
from VFMTransferLib.io import read_case
from VFMTransferLib.phantom import (
    VERSION,
    PhantomStore,
    distort,
    make_phantom,
    make_phantoms,
    tissues,
    truncate_k_space,
    write_phantom,
)
from VFMTransferLib.phantom import phantom as phantom_module
from VFMTransferLib.phantom.canvas import EVERYWHERE, Canvas, Lattice, smooth_field
from VFMTransferLib.phantom.phantom import ZONE_PERIPHERAL, ZONE_TRANSITION, read_phantom, store_phantom
from VFMTransferLib.phantom.scanner import (
    AIR_TISSUE_PPM,
    GYROMAGNETIC_MHZ_PER_T,
    EchoPlanar,
    Scanner,
    SpinEcho,
    apodize,
    field_of_air_hz,
    image_diffusion,
    image_t2w,
)
from VFMTransferLib.tasks import TASKS

COARSE = {"t2w_spacing_mm": (2.5, 2.5, 3.0)}
T2W_ONLY = {"t2w_spacing_mm": (3.0, 3.0, 3.0), "sequences": ["t2w"]}
STORED_SPACING_MM = (3.0, 3.0, 4.0)
ZONE_VALUES = {Label.PERIPHERAL_ZONE: ZONE_PERIPHERAL, Label.TRANSITION_ZONE: ZONE_TRANSITION}


@pytest.fixture(scope="module")
def a_phantom():
    return make_phantom(5, lesions=2, **COARSE)


def a_canvas_of(tissue, shape=(4, 6, 8)) -> Canvas:
    canvas = Canvas(Lattice(shape, (1.5, 1.0, 1.0)), np.random.default_rng(0), variation=0.0)
    canvas.paint(tissue, np.ones(shape, np.float32), EVERYWHERE)
    return canvas


def test_tissue_maps_change_nothing_else_and_agree_with_the_masks(a_phantom, tmp_path):
    found = make_phantom(5, lesions=2, tissue_maps=True, **COARSE)
    for name, volume in a_phantom.images.items():
        np.testing.assert_array_equal(volume.array, found.images[name].array)
    maps, inside = found.tissues, found.gland.array > 0
    assert a_phantom.tissues is None
    assert maps.pd.geometry.equals(found.case["t2w"].geometry)
    np.testing.assert_array_equal(maps.capsule_mm.array < 0, inside)
    assert np.abs(maps.capsule_mm.array).max() == 10
    peripheral, transition = (np.median(maps.t2_ms.array[found.zones.array == zone]) for zone in (1, 2))
    assert 60 < transition < peripheral < 260
    assert 900 < np.median(maps.adc.array[inside]) < 1900
    assert np.median(maps.adc.array[found.lesion.array > 1]) < np.median(maps.adc.array[found.zones.array == 1])
    # A T2w without shading and noise follows from them, but for the mean over a voxel's points.
    echo = found.acquisition["t2w"]["echo"]
    signal = SpinEcho(**echo).signal(maps.pd.array, maps.t1_ms.array, maps.t2_ms.array)[inside]
    assert np.corrcoef(signal, found.case["t2w"].array[inside])[0, 1] > 0.8
    # They come back from disk, and a written one is no scan.
    store_phantom(found, tmp_path / "phantom.npz")
    np.testing.assert_array_equal(read_phantom(tmp_path / "phantom.npz").tissues.t2_ms.array, maps.t2_ms.array)
    write_phantom(found, tmp_path / "phantom")
    np.testing.assert_allclose(read_case(tmp_path / "phantom")["adc"].array, found.case["adc"].array)


def test_one_seed_gives_one_study(a_phantom):
    again = make_phantom(5, lesions=2, **COARSE)
    for sequence in Sequence:
        np.testing.assert_array_equal(a_phantom.case[sequence].array, again.case[sequence].array)
    for name, volume in a_phantom.truths.items():
        np.testing.assert_array_equal(volume.array, again.truths[name].array)


def test_another_seed_gives_another_study():
    first, second = (make_phantom(seed, **T2W_ONLY) for seed in (1, 2))
    assert first.volume_ml != second.volume_ml


def test_t2w_is_the_same_with_and_without_diffusion(a_phantom):
    alone = make_phantom(5, lesions=2, sequences=["t2w"], **COARSE)
    assert alone.case.sequences == (Sequence.T2W,)
    np.testing.assert_array_equal(alone.case["t2w"].array, a_phantom.case["t2w"].array)
    np.testing.assert_array_equal(alone.zones.array, a_phantom.zones.array)


def test_glands_lie_within_20_to_150_ml_and_vary():
    volumes = [make_phantom(seed, **T2W_ONLY).volume_ml for seed in range(6)]
    assert all(20 <= volume <= 150 for volume in volumes)
    assert max(volumes) > 1.5 * min(volumes)


def test_the_whole_gland_is_in_view_and_every_voxel_of_it_in_a_zone(a_phantom):
    gland = a_phantom.gland.array > 0
    faces = [gland[[0, -1]], gland[:, [0, -1]], gland[:, :, [0, -1]]]
    assert gland.any()
    assert not any(face.any() for face in faces)
    np.testing.assert_array_equal(a_phantom.zones.array > 0, gland)
    assert set(np.unique(a_phantom.zones.array)) == {0, ZONE_PERIPHERAL, ZONE_TRANSITION}


def test_lesions_lie_in_the_zone_they_claim_with_their_grade():
    for seed in (5, 8):
        phantom = make_phantom(seed, lesions=1, **T2W_ONLY)
        (lesion,) = phantom.lesions
        marked = phantom.lesion.array
        assert set(np.unique(marked)) <= {0, lesion.isup_grade}
        assert (phantom.zones.array[marked > 0] == ZONE_VALUES[lesion.zone]).all()
        assert phantom.lesion.volume_ml == pytest.approx(lesion.volume_ml, rel=0.2, abs=0.03)


def test_masks_are_as_large_as_what_was_painted():
    """Also in thick slices, where one of a voxel's two points is often inside and the other is not."""
    phantoms = [
        make_phantom(seed, lesions=2, sequences=["t2w"], t2w_spacing_mm=(1.0, 1.0, 3.0), tissue_maps=True)
        for seed in (1, 3, 5, 8)
    ]
    painted = sum(lesion.volume_ml for phantom in phantoms for lesion in phantom.lesions)
    assert sum(phantom.lesion.volume_ml for phantom in phantoms) == pytest.approx(painted, rel=0.1)
    for phantom in phantoms:
        capsule = phantom.tissues.capsule_mm.array
        between = [capsule[:-1] * (1 - t) + capsule[1:] * t for t in (np.arange(8) + 0.5) / 8]
        finer = np.mean([(part < 0).sum() for part in between])
        assert (phantom.gland.array > 0).sum() == pytest.approx(finer, rel=0.01)


def test_a_case_without_lesions_is_said_to_be_one():
    phantom = make_phantom(5, lesions=0, **T2W_ONLY)
    assert phantom.lesions == ()
    assert not phantom.lesion.array.any()
    assert phantom.pirads == 2
    assert not phantom.clinically_significant


def test_cancer_of_higher_grade_has_lower_adc_and_t2():
    grades = [tissues.cancer(grade) for grade in range(1, 6)]
    assert [g.adc for g in grades] == sorted((g.adc for g in grades), reverse=True)
    assert [g.t2_ms for g in grades] == sorted((g.t2_ms for g in grades), reverse=True)


def test_t2w_and_diffusion_lie_on_different_oblique_grids(a_phantom):
    t2w, adc, hbv = (a_phantom.case[s].geometry for s in ("t2w", "adc", "hbv"))
    assert adc == hbv
    assert t2w.obliqueness_deg > 0.5
    assert adc.obliqueness_deg > 0.5
    assert not np.allclose(t2w.direction, adc.direction, atol=1e-3)
    assert adc.spacing_mm == (2.0, 2.0, 3.0)


def test_t2w_signal_is_that_of_the_spin_echo_equation():
    canvas = a_canvas_of(tissues.PERIPHERAL_ZONE)
    scanner = Scanner(SpinEcho(tr_ms=5000, te_ms=100), noise=0.0, shading=0.0, kept=(1.0, 1.0))
    t2w, _ = image_t2w(canvas, scanner, (2, 1, 1), np.random.default_rng(0))
    # 0.90 · (1 − exp(−5000/1900)) · exp(−100/165) = 0.4555, times the full scale of 700
    by_hand = 700 * 0.90 * (1 - np.exp(-5000 / 1900)) * np.exp(-100 / 165)
    assert t2w.shape == (2, 6, 8)
    np.testing.assert_allclose(t2w, by_hand, atol=0.51)


def test_noise_of_the_magnitude_image_is_rician():
    canvas = a_canvas_of(tissues.AIR, (2, 100, 120))
    scanner = Scanner(SpinEcho(5000, 100), noise=0.1, shading=0.0, kept=(1.0, 1.0))
    t2w, _ = image_t2w(canvas, scanner, (1, 1, 1), np.random.default_rng(0))
    # Without signal: Rayleigh, of mean σ·√(π/2)
    assert t2w.mean() == pytest.approx(70 * np.sqrt(np.pi / 2), rel=0.02)


def test_diffusion_of_a_uniform_tissue_gives_its_adc_and_the_signal_at_high_b():
    fine = Geometry((24, 20, 16), (1.0, 1.0, 1.5))
    grid = Geometry((6, 5, 4), (2.0, 2.0, 3.0), (5.0, 5.0, 6.0))
    canvas = a_canvas_of(tissues.TRANSITION_ZONE, fine.shape)
    protocol = EchoPlanar(SpinEcho(4000, 65), 0.0, 0.045, phase_axis=1, sign=1, field_strength=0.0)
    study = image_diffusion(canvas.maps, fine, grid, protocol, np.random.default_rng(0))
    signal = 0.86 * (1 - np.exp(-4000 / 1600)) * np.exp(-65 / 78) * np.exp(-1400 * 1350e-6)
    np.testing.assert_allclose(study.adc_true.array, 1350, rtol=1e-3)
    np.testing.assert_allclose(study.adc.array, 1350, atol=1)
    np.testing.assert_allclose(study.hbv.array, 1200 * signal, atol=0.6)


def test_without_a_field_nothing_is_distorted():
    phantom = make_phantom(5, field_strength=0.0, **COARSE)
    np.testing.assert_allclose(phantom.case["hbv"].array, phantom.truths["hbv_undistorted"].array, atol=1)
    assert not phantom.truths["displacement_mm"].array.any()


def test_a_field_distorts_and_leaves_the_twin_alone(a_phantom):
    straight = make_phantom(5, lesions=2, field_strength=0.0, **COARSE)
    assert np.abs(a_phantom.case["hbv"].array - a_phantom.truths["hbv_undistorted"].array).max() > 20
    np.testing.assert_array_equal(straight.truths["hbv_undistorted"].array, a_phantom.truths["hbv_undistorted"].array)


def test_displacement_is_field_times_readout_time_times_voxel(a_phantom):
    protocol = a_phantom.acquisition["diffusion"]
    voxel_mm = a_phantom.case["hbv"].geometry.spacing_mm[protocol["phase_axis"]]
    by_hand = a_phantom.truths["field_map_hz"].array * protocol["total_readout_s"] * protocol["sign"] * voxel_mm
    np.testing.assert_allclose(a_phantom.truths["displacement_mm"].array, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [1, 2])
def test_distortion_makes_and_loses_no_signal_along_the_phase_axis(axis):
    rng = np.random.default_rng(0)
    image = rng.random((3, 12, 17), dtype=np.float32)
    shift = smooth_field(Lattice(image.shape, (3.0, 2.0, 2.0)), rng, 12.0) * 2
    moved = distort(image, shift, axis)
    np.testing.assert_allclose(moved.sum(axis), image.sum(axis), rtol=1e-5)
    assert not np.allclose(moved, image, atol=0.05)


def test_a_uniform_field_moves_the_signal_as_far_as_it_states():
    image = np.random.default_rng(0).random((2, 7, 9), dtype=np.float32)
    np.testing.assert_allclose(distort(image, np.full(image.shape, -3.0), 1), np.roll(image, -3, axis=1), rtol=1e-6)
    between = (np.roll(image, 2, axis=2) + np.roll(image, 3, axis=2)) / 2
    np.testing.assert_allclose(distort(image, np.full(image.shape, 2.5), 2), between, rtol=1e-6)


def test_signal_piles_up_where_the_field_brings_it_together():
    image = np.ones((1, 1, 40), np.float32)
    shift = -0.5 * np.clip(np.arange(40) - 19.5, -10, 10).reshape(1, 1, 40)  # compresses the middle to half
    assert distort(image, shift, 2)[0, 0, 17:23] == pytest.approx(2.0, abs=0.01)


def test_air_in_tissue_makes_the_field_of_a_dipole():
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in (41, 37, 33)), indexing="ij")
    radius = 5.0
    hertz = field_of_air_hz((z**2 + y**2 + x**2 <= radius**2).astype(np.float32), (1.0, 1.0, 1.0), tesla=3.0)
    # Outside a sphere: Δχ/3 · (a/r)³ · (3·cos²θ − 1) · B0
    scale = AIR_TISSUE_PPM / 3 * GYROMAGNETIC_MHZ_PER_T * 3.0 * (radius / 11) ** 3
    assert hertz[20 + 11, 18, 16] == pytest.approx(2 * scale, rel=0.1)
    assert hertz[20, 18 + 11, 16] == pytest.approx(-scale, rel=0.1)


def test_truncated_k_space_equals_a_plain_fourier_sum():
    image = np.random.default_rng(0).random((1, 8, 12))
    rows, columns = np.arange(-2, 2), np.arange(-3, 3)  # half of each axis
    forward_y = np.exp(-2j * np.pi * np.outer(rows, np.arange(8)) / 8)
    forward_x = np.exp(-2j * np.pi * np.outer(columns, np.arange(12)) / 12)
    middle = forward_y @ image[0] @ forward_x.T
    # A coarse voxel's middle lies a quarter of it behind the first fine voxel's.
    back_y = np.exp(2j * np.pi * np.outer(np.arange(4) + 0.25, rows) / 4) / 8
    back_x = np.exp(2j * np.pi * np.outer(np.arange(6) + 0.25, columns) / 6) / 12
    np.testing.assert_allclose(truncate_k_space(image, 0.5, crop=True)[0], back_y @ middle @ back_x.T, atol=1e-10)
    filled = (forward_y.conj().T / 8) @ middle @ (forward_x.conj() / 12)
    np.testing.assert_allclose(truncate_k_space(image, 0.5)[0], filled, atol=1e-10)


def test_a_coarser_matrix_shows_the_image_at_its_own_voxels_middles():
    def bump(x):
        return np.exp(-(((x - 30.3) / 6) ** 2))

    fine = np.broadcast_to(bump(np.arange(64)), (1, 48, 64))
    coarse = truncate_k_space(fine, 0.5, crop=True).real
    np.testing.assert_allclose(coarse[0, 7], bump(2 * np.arange(32) + 0.5), atol=1e-6)


def test_the_filter_keeps_what_is_coarse_and_dampens_what_is_finest():
    fast, slow = np.broadcast_to([1.0, -1.0] * 16, (1, 24, 32)), np.cos(2 * np.pi * np.arange(32) / 8)
    np.testing.assert_allclose(apodize(fast.astype(complex)), 0.35 * fast, atol=1e-12)
    coarse = np.broadcast_to(3 + slow, (1, 24, 32)).astype(complex)
    np.testing.assert_allclose(apodize(coarse), coarse, atol=1e-12)


def test_the_true_adc_is_unknown_where_fat_is_saturated():
    fine = Geometry((24, 20, 16), (1.0, 1.0, 1.5))
    grid = Geometry((6, 5, 4), (2.0, 2.0, 3.0), (5.0, 5.0, 6.0))
    protocol = EchoPlanar(SpinEcho(4000, 65), 0.004, 0.045, phase_axis=1, sign=1, field_strength=0.0)
    for tissue, is_seen in ((tissues.FAT, False), (tissues.MUSCLE, True), (tissues.PERIPHERAL_ZONE, True)):
        canvas = a_canvas_of(tissue, fine.shape)
        truth = image_diffusion(canvas.maps, fine, grid, protocol, np.random.default_rng(0)).adc_true
        assert (truth.array > 0).all() == is_seen == (truth.array > 0).any()


def test_the_full_resolution_twin_shows_the_same_field_of_view_with_twice_the_matrix():
    phantom = make_phantom(6, full_resolution=True, noise=0.0, sequences=["t2w"], t2w_spacing_mm=(3.0, 3.0, 3.0))
    t2w, twin = phantom.case["t2w"], phantom.truths["t2w_full_resolution"]
    assert twin.geometry.size == (*(2 * n for n in t2w.geometry.size[:2]), t2w.geometry.size[2])
    np.testing.assert_allclose(twin.geometry.extent_mm, t2w.geometry.extent_mm)
    np.testing.assert_allclose(twin.geometry.center_mm, t2w.geometry.center_mm, atol=1e-6)
    means = twin.array.reshape(len(twin.array), 64, 2, 64, 2).mean(axis=(2, 4))
    assert np.corrcoef(means.ravel(), t2w.array.ravel())[0, 1] > 0.97


def test_random_fields_have_unit_deviation_and_are_smooth():
    field = smooth_field(Lattice((40, 60, 80), (1.0, 1.0, 1.0)), np.random.default_rng(0), 8.0)
    assert field.std() == pytest.approx(1.0, abs=0.1)
    assert np.abs(np.diff(field, axis=2)).mean() < 0.5


def test_a_written_phantom_reads_as_a_case_with_its_truth_beside_it(a_phantom, tmp_path):
    folder = write_phantom(a_phantom, tmp_path / a_phantom.case.id)
    case = read_case(folder)
    for sequence in Sequence:
        np.testing.assert_array_equal(case[sequence].array, a_phantom.case[sequence].array)
        assert case[sequence].geometry.equals(a_phantom.case[sequence].geometry)
    names = {path.name for path in folder.iterdir()}
    assert {
        "zones.nii.gz",
        "lesion.nii.gz",
        "adc-true.nii.gz",
        "field-map-hz.nii.gz",
        "hbv-undistorted.nii.gz",
    } <= names
    record = json.loads((folder / "phantom.json").read_text(encoding="utf-8"))
    assert (record["seed"], record["version"]) == (5, VERSION)
    assert [lesion["isup_grade"] for lesion in record["lesions"]] == [x.isup_grade for x in a_phantom.lesions]


def test_an_earlier_phantom_is_replaced_but_nothing_else(tmp_path):
    (path,) = make_phantoms(1, 4, tmp_path, **T2W_ONLY)
    assert make_phantoms(1, 4, tmp_path, **T2W_ONLY) == [path]
    mine = tmp_path / "phantom-0005"
    mine.mkdir()
    (mine / "notes.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(OutputError, match="phantom-0005"):
        make_phantoms(1, 5, tmp_path, **T2W_ONLY)
    assert (mine / "notes.txt").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize("options", [{"full_resolution": True, "phase_axis": 0}, {"sequences": ["t2w"]}])
def test_a_phantom_comes_back_as_it_was_made(tmp_path, options):
    made = make_phantom(3, t2w_spacing_mm=STORED_SPACING_MM, lesions=2, **options)
    store_phantom(made, tmp_path / "one.npz")
    read = read_phantom(tmp_path / "one.npz")
    assert (read.case.id, read.seed, read.lesions, read.pirads) == (made.case.id, 3, made.lesions, made.pirads)
    assert read.images.keys() == made.images.keys()
    for name, volume in made.images.items():
        again = read.images[name]
        assert again.geometry == volume.geometry
        assert again.name == volume.name
        assert again.array.dtype == volume.array.dtype
        assert np.array_equal(again.array, volume.array)


def test_one_phantom_serves_every_task_and_is_made_once(tmp_path, monkeypatch):
    made = []
    plain = phantom_module.make_phantom
    monkeypatch.setattr(phantom_module, "make_phantom", lambda seed, **how: made.append(seed) or plain(seed, **how))
    store = PhantomStore(tmp_path / "phantoms", STORED_SPACING_MM)
    for task in TASKS:
        (phantom,) = store.phantoms([5])
        assert TASKS[task].from_phantom(phantom).case.id == "phantom-0005"
    assert made == [5]
    PhantomStore(tmp_path / "phantoms", STORED_SPACING_MM, for_tasks=False, full_resolution=False).phantoms([5])
    assert made == [5, 5]
    assert len(list((tmp_path / "phantoms").iterdir())) == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_damaged_phantom_is_named(tmp_path, share):
    store_phantom(make_phantom(3, **T2W_ONLY), tmp_path / "one.npz")
    whole = (tmp_path / "one.npz").read_bytes()
    for damaged in (whole[: int(len(whole) * share)], b"PK broken", whole[:200] + bytes(400) + whole[600:]):
        (tmp_path / "one.npz").write_bytes(damaged)
        require_named(tmp_path)


def require_named(tmp_path):
    with pytest.raises(DatasetError, match=r"Phantom one\.npz must be whole"):
        read_phantom(tmp_path / "one.npz")
