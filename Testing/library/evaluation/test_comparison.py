"""Two results of one case, and each against a reference: segmentation, images, classification, cohorts."""

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from comparison_cases import (
    DIFFUSION_GRID,
    T2W_GRID,
    a_case,
    anatomy,
    anatomy_pair,
    classification_pair,
    ellipse,
    image_pair,
    lesion_pair,
    mri,
    translation_pair,
    zones,
)
from scipy import ndimage

from VFMTransferLib.core.errors import BundleError, GeometryError, ImageError
from VFMTransferLib.core.measurements import DiceEstimate
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.result import TRAINED_NOTE
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.evaluation import comparison as comparison_of_two
from VFMTransferLib.evaluation.comparison import (
    NO_LESION_NOTE,
    cohort_document,
    compare,
    compare_cohort,
    comparison_document,
    save_cohort,
    save_comparison,
)
from VFMTransferLib.evaluation.measures import Between
from VFMTransferLib.metrics import agreement as metrics
from VFMTransferLib.report import write_report


def gland_reference(grid: Geometry = T2W_GRID) -> Volume:
    return Volume(ellipse((24, 20), (14, 12), slice(1, 6)).astype(np.uint8), T2W_GRID, "reference").resample_to(
        grid, "nearest"
    )


# Segmentation


def test_agreement_is_measured_by_structure_and_for_the_whole_gland():
    comparison = compare(a_case(), *anatomy_pair())
    a, b = zones(), zones(3)
    assert comparison.value("dice", "peripheral-zone", "a-b") == pytest.approx(metrics.dice(a == 1, b == 1))
    assert comparison.value("dice", "prostate", "a-b") == pytest.approx(metrics.dice(a, b))
    expected = metrics.hausdorff95_mm(a, b, T2W_GRID.spacing_mm)
    assert comparison.value("hausdorff95_mm", "prostate", "a-b") == pytest.approx(expected)
    assert comparison.value("volume_ml", "prostate", "a") == pytest.approx((a != 0).sum() * 0.9e-3)


def test_without_a_reference_nothing_is_measured_against_one():
    comparison = compare(a_case(), *anatomy_pair())
    assert not comparison.has_reference
    assert {m.between for m in comparison.measures} == {Between.A, Between.B, Between.A_B}


def test_caveats_of_the_networks_stand_first_among_the_notes_each_once():
    caveats = (Note("network-caveat", "The zones are a guess.", "caution"),)
    a, b = (replace(one, provenance=replace(one.provenance, caveats=caveats)) for one in anatomy_pair())
    assert compare(a_case(), a, b).notes == (*caveats, *compare(a_case(), *anatomy_pair()).notes)


def test_a_reference_with_one_value_is_a_mask_of_the_whole_gland_and_the_notes_say_so():
    comparison = compare(a_case(), *anatomy_pair(), gland_reference())
    assert comparison.value("dice", "prostate", "a-reference") == 1.0
    assert comparison.value("dice", "prostate", "b-reference") < 1.0
    assert any("one value" in note.text for note in comparison.notes)
    with pytest.raises(KeyError):
        comparison.value("dice", "peripheral-zone", "a-reference")


def test_a_reference_with_the_results_own_values_is_compared_by_zone():
    comparison = compare(a_case(), *anatomy_pair(), Volume(zones(), T2W_GRID))
    assert comparison.value("dice", "transition-zone", "a-reference") == 1.0
    assert comparison.value("dice", "transition-zone", "b-reference") < 1.0


def test_notes_state_as_what_the_values_of_a_reference_are_taken():
    notes = compare(a_case(), *anatomy_pair(), Volume(zones(), T2W_GRID)).notes
    assert "The reference's values are taken as 1 peripheral-zone, 2 transition-zone." in map(str, notes)
    assert not any(note.severity == "warning" for note in notes)


def test_a_reference_of_zones_in_the_other_order_gets_a_warning():
    exchanged = np.array([0, 2, 1], np.uint8)[zones()]
    notes = compare(a_case(), *anatomy_pair(), Volume(exchanged, T2W_GRID)).notes
    (warning,) = [note.text for note in notes if note.severity == "warning"]
    assert "peripheral-zone and transition-zone are probably exchanged" in warning


def test_a_lesion_given_as_the_reference_of_the_prostate_gets_a_warning():
    lesion = np.zeros_like(zones())
    lesion[3, 9:11, 9:12] = 1
    comparison = compare(a_case(), *anatomy_pair(), Volume(lesion, T2W_GRID))
    assert comparison.cautions["reference"].startswith("the reference's prostate has 0.0 ml, and prostates have 8 to")
    assert "reference" not in compare(a_case(), *anatomy_pair(), gland_reference()).cautions


def test_a_reference_of_one_zone_is_of_that_zone():
    only = np.where(zones() == 2, 2, 0).astype(np.uint8)
    comparison = compare(a_case(), *anatomy_pair(), Volume(only, T2W_GRID))
    assert comparison.value("dice", "transition-zone", "a-reference") == 1.0
    assert "The reference has the value 2 alone, which is taken as transition-zone." in map(str, comparison.notes)
    with pytest.raises(KeyError):
        comparison.value("dice", "prostate", "a-reference")
    assert not comparison.cautions


@pytest.mark.parametrize(
    ("value", "marks", "best"),
    [(1, (2,), "transition-zone"), (255, (2,), "transition-zone"), (2, (1, 2), "prostate")],
)
def test_a_reference_of_one_value_that_is_of_another_structure_gets_a_warning(value, marks, best):
    reference = np.where(np.isin(zones(), marks), value, 0).astype(np.uint8)
    warning = compare(a_case(), *anatomy_pair(), Volume(reference, T2W_GRID)).cautions["reference"]
    assert f"the reference is probably a mask of the {best}" in warning


def test_an_empty_reference_is_called_empty():
    notes = compare(a_case(), *anatomy_pair(), Volume(np.zeros_like(zones()), T2W_GRID)).notes
    assert "The reference is empty." in map(str, notes)
    assert not any("one value" in note.text for note in notes)


def test_a_reference_beyond_the_results_gets_a_warning_with_its_whole_volume():
    wider = replace(T2W_GRID, size=(48, 50, 7), origin_mm=T2W_GRID.to_world((0, -10, 0)))
    array = np.pad((zones() > 0).astype(np.uint8), ((0, 0), (10, 0), (0, 0)))
    assert "reference" not in compare(a_case(), *anatomy_pair(), Volume(array, wider)).cautions
    array[:, :10, 10:30] = 1
    reference = Volume(array, wider)
    warning = compare(a_case(), *anatomy_pair(), reference).cautions["reference"]
    outside = array[:, :10].sum() / array.sum()
    assert f"{outside:.0%} of what the reference marks lies outside of the results' grid" in warning
    assert f"all of it has {reference.volume_ml:.1f} ml" in warning


def test_a_reference_of_another_exam_gets_a_warning_though_its_volume_is_usual():
    coarse = Geometry((48, 40, 7), (1.0, 1.2, 6.0))
    pair = anatomy("pretrained", zones(), grid=coarse), anatomy("scratch", zones(3), grid=coarse)
    beside = np.roll(zones() > 0, (20, 24), axis=(1, 2)).astype(np.uint8)
    warning = compare(a_case(), *pair, Volume(beside, coarse)).cautions["reference"]
    assert warning.startswith(
        "the reference's prostate hardly overlaps what A and B mark: its mean Dice with them is 0.0"
    )
    assert "reference" not in compare(a_case(), *pair, Volume((zones() > 0).astype(np.uint8), coarse)).cautions


def test_against_a_reference_of_a_part_a_note_states_which_volumes_are_whole():
    part = replace(T2W_GRID, size=(48, 40, 3), origin_mm=T2W_GRID.to_world((0, 0, 2)))
    (note,) = [n for n in compare(a_case(), *anatomy_pair(), Volume(zones()[2:5], part)).notes if "are whole" in n.text]
    assert note.text.startswith("Against the reference, overlap, distance and volume difference are of the part")
    assert not any("are whole" in n.text for n in compare(a_case(), *anatomy_pair(), Volume(zones(), T2W_GRID)).notes)


def test_a_reference_with_values_of_its_own_needs_a_table():
    reference = Volume(zones() * 4, T2W_GRID)
    with pytest.raises(ImageError, match="has \\[4, 8\\]"):
        compare(a_case(), *anatomy_pair(), reference)
    table = {"peripheral-zone": 4, "transition-zone": 8}
    comparison = compare(a_case(), *anatomy_pair(), reference, reference_labels=table)
    assert comparison.value("dice", "peripheral-zone", "a-reference") == 1.0
    assert comparison.value("dice", "prostate", "a-reference") == 1.0


def test_a_table_of_a_part_of_the_prostate_says_nothing_of_the_whole():
    reference = Volume(zones(), T2W_GRID)
    for table in ({"transition-zone": 2}, {"peripheral-zone": 1}):
        comparison = compare(a_case(), *anatomy_pair(), reference, reference_labels=table)
        assert comparison.value("dice", next(iter(table)), "a-reference") == 1.0
        with pytest.raises(KeyError):
            comparison.value("dice", "prostate", "a-reference")
        assert "The reference's prostate is not known, since reference_labels names only a part of it." in map(
            str, comparison.notes
        )
    whole = compare(a_case(), *anatomy_pair(), gland_reference(), reference_labels={"prostate": 1})
    assert whole.value("dice", "prostate", "a-reference") == 1.0
    with pytest.raises(ValueError, match=r"must name prostate, peripheral-zone, .* but names PZ"):
        compare(a_case(), *anatomy_pair(), reference, reference_labels={"PZ": 1, "transition-zone": 2})


def test_a_reference_on_another_grid_is_resampled_by_position_and_said_so():
    finer = T2W_GRID.with_spacing((0.25, 0.3, 3.0))
    comparison = compare(a_case(), *anatomy_pair(), gland_reference(finer))
    assert comparison.value("dice", "prostate", "a-reference") > 0.97
    assert any("resampled by position (nearest)" in note.text for note in comparison.notes)


def test_a_grid_that_differs_by_less_than_its_words_is_told_by_how_far_it_lies_away():
    x, y, z = T2W_GRID.origin_mm
    moved = replace(T2W_GRID, origin_mm=(x + 0.2, y, z))
    notes = compare(a_case(), *anatomy_pair(), gland_reference(moved)).notes
    assert any("from one of the same size 0.2 mm away" in note.text for note in notes)


def test_voxels_outside_the_reference_are_left_out_against_it():
    upper = gland_reference(T2W_GRID.crop((0, 0, 0), (48, 40, 4)))
    comparison = compare(a_case(), *anatomy_pair(), upper)
    assert comparison.value("dice", "prostate", "a-reference") == 1.0
    assert any("left out" in note.text for note in comparison.notes)


def test_a_reference_somewhere_else_is_refused():
    far = replace(T2W_GRID, origin_mm=(500.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match=r"The reference must overlap the results.*513 mm away"):
        compare(a_case(), *anatomy_pair(), Volume(zones(), far))


@pytest.mark.parametrize("pair", [anatomy_pair, translation_pair, classification_pair])
def test_a_gland_mask_somewhere_else_is_not_called_a_reference(pair):
    far = Volume(zones(), replace(T2W_GRID, origin_mm=(500.0, 0.0, 0.0)))
    with pytest.raises(GeometryError, match="The gland mask must overlap the results"):
        compare(replace(a_case(), gland=far), *pair())


def test_every_voxel_of_a_reference_lesion_counts_whatever_its_grade():
    a, b = lesion_pair()
    reference = Volume((a.labels.array * 3).astype(np.uint8), T2W_GRID)
    comparison = compare(a_case(), a, b, reference)
    assert comparison.value("dice", "csPCa", "a-reference") == 1.0
    assert comparison.value("dice", "csPCa", "b-reference") == 0.0
    (note,) = [note for note in comparison.notes if "values [3]" in note.text]
    assert "grade group 1" not in note.text
    (note,) = [n for n in compare(a_case(), a, b, a.labels.with_array(a.labels.array)).notes if "values [1]" in n.text]
    assert note.text.endswith("In masks that train, 1 is ISUP grade group 1, which is not clinically significant.")


def test_an_empty_mask_gives_no_distance_but_a_reason():
    a = anatomy("pretrained", zones())
    b = anatomy("scratch", np.zeros_like(zones()))
    comparison = compare(a_case(), a, b)
    found = next(m for m in comparison.measures if m.kind == "hausdorff95_mm" and m.subject == "prostate")
    assert math.isnan(found.value)
    assert found.note == "B is empty"
    assert found.text == "n/a"


def test_different_label_tables_are_compared_by_what_they_share():
    gland_only = anatomy("scratch", (zones() != 0) * 7, {"prostate": 7})
    comparison = compare(a_case(), anatomy("pretrained", zones()), gland_only)
    assert comparison.value("dice", "prostate", "a-b") == 1.0
    assert not comparison.disagreements
    assert any("only prostate is compared" in note.text for note in comparison.notes)


def test_label_values_that_differ_between_a_and_b_are_matched_by_name():
    swapped = anatomy("scratch", np.choose(zones(), [0, 2, 1]), {"transition-zone": 1, "peripheral-zone": 2})
    comparison = compare(a_case(), anatomy("pretrained", zones()), swapped)
    assert comparison.value("dice", "peripheral-zone", "a-b") == 1.0
    assert not comparison.disagreements


def test_disagreements_are_listed_by_size_with_place_and_slice():
    a, b = zones(), zones()
    b[5] = 0
    b[2, 20, 36] = 0
    comparison = compare(a_case(), anatomy("pretrained", a), anatomy("scratch", b))
    first, second = comparison.disagreements
    assert (first.index, first.a_label, first.b_label) == (1, "peripheral-zone", "background")
    assert first.slice_index == comparison.focus_slice == 5
    assert first.volume_ml == pytest.approx((a[5] != 0).sum() * 0.9e-3)
    assert second.center_index == (36, 20, 2)
    assert second.center_mm == pytest.approx(tuple(T2W_GRID.to_world((36, 20, 2))))


def test_what_a_adds_is_never_one_region_with_what_b_adds():
    comparison = compare(a_case(), *anatomy_pair())
    kinds = {(d.a_label, d.b_label) for d in comparison.disagreements}
    assert ("peripheral-zone", "background") in kinds
    assert ("background", "peripheral-zone") in kinds
    sizes = [d.volume_ml for d in comparison.disagreements]
    assert sizes == sorted(sizes, reverse=True)


def test_a_case_stored_upside_down_gives_the_same_numbers_and_places():
    def flipped(volume: Volume) -> Volume:
        return Volume.from_sitk(sitk.DICOMOrient(volume.to_sitk(), "LAI"), volume.name)

    a, b = anatomy_pair()
    straight = compare(a_case(), a, b)
    turned = compare(a_case(), replace(a, labels=flipped(a.labels)), replace(b, labels=flipped(b.labels)))
    assert turned.focus_slice == straight.focus_slice
    assert turned.measures == straight.measures
    assert turned.disagreements[0].center_mm == pytest.approx(straight.disagreements[0].center_mm)


def test_results_of_two_cases_are_refused():
    a, b = anatomy_pair()
    with pytest.raises(ValueError, match="one case and task"):
        compare(a_case(), a, replace(b, case_id="case-2"))


def test_results_of_another_case_than_the_images_are_refused():
    with pytest.raises(ValueError, match="must be of case 'case-2', got results of 'case-1'"):
        compare(replace(a_case(), id="case-2"), *anatomy_pair())


def test_results_of_another_exam_of_one_name_are_refused():
    x, y, z = T2W_GRID.origin_mm
    a, b = (replace(result, grid=T2W_GRID) for result in anatomy_pair())
    assert compare(a_case(), a, b).case.id == "case-1"
    with pytest.raises(ValueError, match=r"'anatomy-scratch' is of another.*1 mm away"):
        compare(a_case(), a, replace(b, grid=replace(T2W_GRID, origin_mm=(x + 1.0, y, z))))


def test_results_on_two_grids_are_refused():
    a, _ = anatomy_pair()
    other = anatomy("scratch", zones(), grid=replace(T2W_GRID, spacing_mm=(0.5, 0.6, 3.2)))
    with pytest.raises(GeometryError, match="must lie on the grid"):
        compare(a_case(), a, other)


def test_results_that_share_no_structure_are_refused():
    a, b = lesion_pair()
    with pytest.raises(BundleError, match="must share a structure"):
        compare(a_case(), a, replace(b, label_values={"indolent-cancer": 1}))


def test_lesions_are_matched_one_by_one():
    a, b = lesion_pair()
    comparison = compare(a_case(), a, b, a.labels)
    counts = {
        between: [comparison.value(f"lesions_{kind}", "csPCa", between) for kind in ("matched", "added", "missed")]
        for between in ("a-b", "a-reference", "b-reference")
    }
    assert counts == {"a-b": [0, 1, 1], "a-reference": [1, 0, 0], "b-reference": [0, 1, 1]}


def test_a_comparison_in_which_nothing_is_marked_does_not_rule_a_lesion_out():
    a, b = lesion_pair()
    a_none, b_none = (
        replace(one, labels=one.labels.with_array(np.zeros_like(one.labels.array)), lesions=()) for one in (a, b)
    )
    assert asdict(NO_LESION_NOTE) in comparison_document(compare(a_case(), a_none, b_none))["notes"]
    assert NO_LESION_NOTE not in compare(a_case(), a, b_none).notes
    empty = anatomy("scratch", np.zeros_like(zones()))
    assert NO_LESION_NOTE not in compare(a_case(), empty, empty).notes


def test_a_cohort_names_the_cases_without_any_mark():
    a, b = lesion_pair()
    nothing = [
        replace(one, labels=one.labels.with_array(np.zeros_like(one.labels.array)), lesions=()) for one in (a, b)
    ]
    each = []
    for number, pair in enumerate([(a, b), *12 * [nothing], (a, nothing[1])]):
        case = replace(a_case(), id=f"case-{number:02}")
        each.append(compare(case, *(replace(one, case_id=case.id) for one in pair)))
    cohort = compare_cohort(each)
    assert cohort_document(cohort)["without_lesions"] == [f"case-{number:02}" for number in range(1, 13)]
    named = ", ".join(f"case-{number:02}" for number in range(1, 11))
    text = f"In 12 of 14 cases ({named}, …): {NO_LESION_NOTE}"
    assert cohort.notes == (replace(NO_LESION_NOTE, text=text),)
    assert compare_cohort(each[:1]).notes == ()
    assert compare_cohort(cohort_of(2)).notes == ()


def test_cases_whose_names_trained_a_network_are_named():
    a, b = lesion_pair()
    known = replace(b, provenance=b.provenance.with_notes(TRAINED_NOTE))
    each = []
    for number, pair in enumerate([(a, b), (a, known), (known, b)]):
        case = replace(a_case(), id=f"case-{number}")
        each.append(compare(case, *(replace(one, case_id=case.id) for one in pair)))
    assert [one.notes.count(TRAINED_NOTE) for one in each] == [0, 1, 1]
    cohort = compare_cohort(each)
    assert cohort_document(cohort)["trained_on"] == ["case-1", "case-2"]
    (note,) = cohort.notes
    assert note.text.startswith("In 2 of 3 cases (case-1, case-2): A case of this name trained or validated a network.")


def test_a_noisy_difference_lists_its_largest_regions_and_counts_all(tmp_path: Path):
    noise = (np.random.default_rng(0).random(T2W_GRID.shape) < 0.2).astype(np.uint8)
    b = anatomy("scratch", zones() * (1 - noise))
    comparison = compare(a_case(), anatomy("pretrained", zones()), b)
    found = comparison.disagreements
    assert len(found) == 25
    assert found[0].volume_ml >= found[-1].volume_ml > 0
    expected = sum(ndimage.label((zones() == zone) & (noise > 0))[1] for zone in (1, 2))
    assert comparison.disagreement_count == comparison_document(comparison)["disagreement_count"] == expected > 25
    assert f"The 25 largest of {expected} connected regions" in write_report(comparison, tmp_path).read_text("utf-8")


def test_two_sources_of_a_real_gland_agree_as_their_index_says(shared_data: Path):
    def gland(name: str) -> Volume:
        return Volume.from_sitk(sitk.ReadImage(shared_data / "cases" / "ProstateX-0000" / f"{name}.nii.gz"), name)

    taps, reference = gland("gland_taps"), gland("gland_nc")
    case = replace(a_case(), id="ProstateX-0000")
    a, b = (
        replace(anatomy(arm, array, {"prostate": 1}, taps.geometry), case_id=case.id)
        for arm, array in (("pretrained", taps.array), ("scratch", np.zeros_like(taps.array)))
    )
    comparison = compare(case, a, b, reference)
    assert comparison.value("dice", "prostate", "a-reference") == pytest.approx(0.83, abs=0.005)
    assert comparison.value("dice", "prostate", "b-reference") == 0.0


# Images


def test_images_are_compared_in_their_unit_and_in_the_gland():
    a, b = translation_pair()
    comparison = compare(replace(a_case(gland=True), volumes={Sequence.T2W: a_case()["t2w"]}), a, b)
    difference = a.images["adc-synthetic"].array.astype(float) - b.images["adc-synthetic"].array
    found = next(m for m in comparison.measures if m.kind == "mean_difference")
    assert found.value == pytest.approx(difference.mean())
    assert found.unit == "1e-6 mm²/s"
    gland = a_case(gland=True).gland.array != 0
    expected = np.abs(difference)[gland].mean()
    assert comparison.value("mae", "adc-synthetic, gland", "a-b") == pytest.approx(expected)
    assert comparison.focus_slice == 2
    assert not comparison.has_reference


def test_the_measured_adc_is_the_reference_of_a_synthetic_one():
    comparison = compare(a_case(), *translation_pair())
    assert comparison.has_reference
    assert comparison.value("mae", "adc-synthetic", "a-reference") > 0
    assert any("own measured ADC" in note.text for note in comparison.notes)
    assert comparison.value("mae", "adc-synthetic", "naive-reference") > 0
    assert "Naive is mean ADC by region, made of the reference itself." in map(str, comparison.notes)


def test_super_resolution_is_set_against_the_interpolated_input():
    fine = T2W_GRID.with_spacing((0.25, 0.3, 3.0))
    a, b = image_pair("super-resolution", "t2w-super-resolved", fine, 600.0)
    comparison = compare(a_case(), a, b, a.images["t2w-super-resolved"])
    assert math.isinf(comparison.value("psnr_db", "t2w-super-resolved", "a-reference"))
    assert comparison.value("ssim", "t2w-super-resolved", "a-reference") == pytest.approx(1.0)
    assert comparison.value("psnr_db", "t2w-super-resolved", "input-reference") > 10


def test_displacement_fields_are_compared_by_length():
    a, b = image_pair("distortion-correction", "hbv-corrected", DIFFUSION_GRID, 90.0)
    still = np.zeros((*DIFFUSION_GRID.shape, 3), np.float32)
    moved = still + np.array([3.0, 4.0, 0.0], np.float32)
    comparison = compare(a_case(), replace(a, displacement_mm=still), replace(b, displacement_mm=moved))
    assert comparison.value("displacement_difference_mm", "displacement", "a-b") == pytest.approx(5.0)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_reference_is_brought_to_the_unit_of_what_it_is_of(by_name):
    a, b = translation_pair()
    native = a_case()[Sequence.ADC]
    case = replace(a_case(), volumes={Sequence.T2W: a_case()["t2w"]})
    expected, found = (
        compare(case, a, b, {"adc-synthetic": given} if by_name else given)
        for given in (native, native.with_array(native.array * np.float32(1e-6)))
    )
    for kind in ("mae", "psnr_db"):
        value = expected.value(kind, "adc-synthetic", "a-reference")
        assert found.value(kind, "adc-synthetic", "a-reference") == pytest.approx(value, rel=1e-3)
    note = "Reference of adc-synthetic: adc was in mm²/s by its range; converted to 1e-6 mm²/s."
    assert note in map(str, found.notes)
    assert note not in map(str, expected.notes)


def test_a_label_map_is_no_reference_of_an_image():
    with pytest.raises(ImageError, match="'reference of adc-synthetic' must be a adc image"):
        compare(a_case(), *translation_pair(), gland_reference())


def test_a_single_reference_of_several_outputs_is_said_to_be_the_firsts():
    a, b = image_pair("distortion-correction", "hbv-corrected", DIFFUSION_GRID, 90.0)
    two = [replace(r, images={**r.images, "adc-corrected": mri(DIFFUSION_GRID, 3, 1200.0)}) for r in (a, b)]
    comparison = compare(a_case(), *two, mri(DIFFUSION_GRID, 1, 90.0))
    assert "The reference is taken as that of hbv-corrected." in map(str, comparison.notes)
    with pytest.raises(KeyError):
        comparison.value("mae", "adc-corrected", "a-reference")


def test_references_under_unknown_names_are_refused():
    with pytest.raises(ValueError, match="must be named as the outputs"):
        compare(a_case(), *translation_pair(), {"adc": mri(T2W_GRID, 1, 1.0)})


# Classification


def test_class_probabilities_and_their_distance():
    comparison = compare(a_case(), *classification_pair())
    assert comparison.value("probability", "PI-RADS 5", "a") == 0.4
    assert comparison.value("probability_difference", "PI-RADS 5", "a-b") == pytest.approx(0.3)
    assert comparison.value("total_variation", "all classes", "a-b") == pytest.approx(0.4)
    assert not comparison.has_reference


def test_a_classification_opens_at_the_slice_that_decides_the_classes_of_a():
    case, (a, b) = a_case(gland=True), classification_pair()
    grid = case["t2w"].geometry
    assert grid.orientation == "LPS"
    widest = compare(case, a, b).focus_slice
    for z in {0, 1, 3} - {widest}:
        a = replace(a, decided_at_mm=tuple(grid.to_world((2, 2, z + 0.3)).tolist()))
        assert compare(case, a, b).focus_slice == z


def test_a_known_class_gives_a_loss_for_each_arm():
    comparison = compare(a_case(), *classification_pair(), "PI-RADS 5")
    assert comparison.value("log_loss", "all classes", "a-reference") == pytest.approx(-math.log(0.4))
    assert comparison.value("log_loss", "all classes", "b-reference") == pytest.approx(-math.log(0.1))
    with pytest.raises(ImageError, match="must be one of"):
        compare(a_case(), *classification_pair(), "PI-RADS 1")


def test_a_reference_of_the_wrong_kind_is_refused():
    with pytest.raises(ValueError, match="name of a class"):
        compare(a_case(), *classification_pair(), gland_reference())
    with pytest.raises(ValueError, match="a label map"):
        compare(a_case(), *anatomy_pair(), "PI-RADS 5")


# Cohorts


def cohort_of(count: int):
    for i in range(count):
        a, b = anatomy("pretrained", zones()), anatomy("scratch", np.roll(zones(), i + 1, axis=2))
        case = replace(a_case(), id=f"case-{i}")
        a, b = replace(a, case_id=case.id), replace(b, case_id=case.id)
        yield compare(case, a, b, gland_reference())


def test_a_cohort_pairs_a_with_b_by_case():
    each = list(cohort_of(4))
    cohort = compare_cohort(each)
    row = next(r for r in cohort.rows if (r.measure, r.between) == ("dice", "a-reference minus b-reference"))
    differences = [
        c.value("dice", "prostate", "a-reference") - c.value("dice", "prostate", "b-reference") for c in each
    ]
    assert row.mean == pytest.approx(np.mean(differences))
    assert min(differences) <= row.low < row.mean < row.high <= max(differences)
    assert (row.cases, row.left_out, row.higher_is_better) == (4, 0, True)


def test_a_case_without_a_value_is_counted_as_left_out():
    first, second, third = cohort_of(3)
    kept = tuple(found for found in second.measures if (found.kind, found.between) != ("volume_ml", "b"))
    rows = compare_cohort([first, replace(second, measures=kept), replace(third, measures=())]).rows
    row = next(r for r in rows if (r.measure, r.between) == ("volume_ml", "a minus b"))
    assert (row.cases, row.left_out) == (1, 2)


def test_agreement_has_no_better_and_no_worse():
    rows = compare_cohort(cohort_of(2)).rows
    directed = {row.between for row in rows if row.higher_is_better is not None}
    assert directed == {"a-reference minus b-reference"}


def test_warnings_about_the_images_come_before_the_numbers():
    case = replace(
        a_case(), notes=(Note("oblique", "t2w is oblique."), Note("swapped", "hbv looks as T2w does.", "warning"))
    )
    comparison = compare(case, *anatomy_pair())
    assert comparison.cautions == {"images": "hbv looks as T2w does."}
    assert comparison_document(comparison)["cautions"] == comparison.cautions


def test_a_cohort_states_the_cautions_of_its_cases_and_the_caveats_of_the_networks_once():
    low = DiceEstimate(0.5, 0.3, 0.7, 0.9, 0.83)
    first, second = cohort_of(2)
    provenance = replace(second.a.provenance, caveats=(Note("network-caveat", "The zones are a guess.", "caution"),))
    first = replace(first, a=replace(first.a, provenance=provenance))
    second = replace(second, a=replace(second.a, provenance=provenance, estimate=low))
    document = cohort_document(compare_cohort([first, second]))
    assert document["cautions"] == {"case-1": {"A": low.warning}}
    assert [note["text"] for note in document["caveats"]] == ["The zones are a guess."]


def test_an_interval_of_few_cases_says_that_it_is_too_narrow():
    few, enough = (compare_cohort(cohort_of(count)).rows[0] for count in (9, 10))
    assert "too narrow" in few.note
    assert enough.note == ""


def test_a_cohort_is_the_same_for_the_same_seed():
    first, second = (compare_cohort(cohort_of(3), seed=5) for _ in range(2))
    assert [(r.low, r.high) for r in first.rows] == [(r.low, r.high) for r in second.rows]


def test_an_interval_is_the_same_however_many_resamples_are_held_at_once(monkeypatch):
    values = np.random.default_rng(1).normal(size=13)
    whole = comparison_of_two._interval(values, 5)
    monkeypatch.setattr(comparison_of_two, "_MAX_DRAWN", 7 * 13)
    assert comparison_of_two._interval(values, 5) == whole


def test_one_case_has_no_interval_but_a_reason():
    row = compare_cohort(cohort_of(1)).rows[0]
    assert math.isnan(row.low)
    assert "2 cases" in row.note


def test_a_case_that_comes_twice_is_refused():
    comparison = next(cohort_of(1))
    with pytest.raises(ValueError, match="comes twice"):
        compare_cohort([comparison, comparison])


# Files


def test_a_saved_comparison_reads_back_with_reasons_for_what_is_missing(tmp_path: Path):
    b = anatomy("scratch", np.zeros_like(zones()))
    comparison = compare(a_case(), anatomy("pretrained", zones()), b, gland_reference())
    json_path, csv_path = save_comparison(comparison, tmp_path / "out")
    document = json.loads(json_path.read_text(encoding="utf-8"))
    assert document["b"]["arm"] == "scratch"
    assert document["disagreements"][0]["a_label"] == "peripheral-zone"
    missing = [m for m in document["measures"] if m["value"] is None]
    assert missing
    assert all(m["note"] for m in missing)
    with csv_path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(document["measures"])
    assert rows[0]["case"] == "case-1"


def test_a_saved_cohort_reads_back(tmp_path: Path):
    json_path, _ = save_cohort(compare_cohort(cohort_of(2)), tmp_path)
    document = json.loads(json_path.read_text(encoding="utf-8"))
    assert document["cases"] == ["case-0", "case-1"]
    assert document["rows"][0]["measure"]
