"""The table of results: what stands in which column, from the library's own comparisons."""

from dataclasses import replace

from comparison_cases import (
    T2W_GRID,
    a_case,
    anatomy_pair,
    classification_pair,
    lesion_pair,
    translation_pair,
    zones,
)
from slicer_results import a_run
from slicer_scenes import a_scene, add_volume, an_oblique_t2w

from VFMTransferLib.core.measurements import DiceEstimate
from VFMTransferLib.core.notes import Note
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.evaluation.measures import Between
from VFMTransferSlicer.results.numbers import AGREEMENT, CALIBRATION, numbersOf, ofAnotherCase


def named(row) -> str:
    return f"{row.group}: {row.title}" if row.group else row.title


def texts(table) -> dict[str, dict[str, str]]:
    return {named(row): {str(column): cell.text for column, cell in row.cells.items()} for row in table.rows}


def test_a_segmentation_has_volume_dice_and_distance_of_each_structure():
    table = numbersOf(a_run(*anatomy_pair()))
    assert list(texts(table)) == [
        f"{structure}: {measure}"
        for structure in ("Prostate", "Peripheral zone", "Transition zone")
        for measure in ("Volume, ml", "Dice", "HD95, mm")
    ]
    assert table.columns == (Between.A, Between.B, Between.A_B)
    rows = texts(table)
    a, b, difference = (float(rows["Prostate: Volume, ml"][column]) for column in ("a", "b", "a-b"))
    assert abs(a - b - difference) < 0.011
    assert rows["Prostate: Volume, ml"]["a-b"].startswith("+")
    assert list(rows["Prostate: Dice"]) == ["a-b"]


def test_agreement_is_said_to_be_no_accuracy():
    assert AGREEMENT in numbersOf(a_run(*anatomy_pair())).notes[0]
    assert "accuracy" not in " ".join(numbersOf(a_run(anatomy_pair()[0])).notes)


def test_a_reference_brings_its_own_columns():
    truth = Volume(zones(1).astype("uint8"), T2W_GRID)
    table = numbersOf(a_run(*anatomy_pair(), reference=truth))
    dice = texts(table)["Transition zone: Dice"]
    assert set(dice) == {"a-b", "a-reference", "b-reference"}
    assert Between.REFERENCE in table.columns
    assert "against the reference" in table.notes[0]


def test_one_arm_alone_shows_its_volumes():
    table = numbersOf(a_run(anatomy_pair()[0]))
    assert table.columns == (Between.A,)
    assert {named(row) for row in table.rows} == {f"{name}: Volume, ml" for name in _STRUCTURES}


def test_two_arms_show_their_volumes_before_they_are_compared():
    assert numbersOf(a_run(*anatomy_pair(), compared=False)).columns == (Between.A, Between.B)


def test_images_have_their_measures_everywhere_and_in_the_gland():
    table = numbersOf(a_run(*translation_pair(), case=a_case(gland=True)))
    rows = texts(table)
    for where in ("", ", gland"):
        assert f"ADC synthetic{where}: MAE, 10⁻⁶ mm²/s" in rows
        assert f"ADC synthetic{where}: PSNR, dB" in rows
        assert f"ADC synthetic{where}: SSIM" in rows
    assert Between.A not in table.columns
    assert Between.A_REFERENCE in table.columns  # the case's own ADC


def test_lesions_are_counted_and_their_mean_adc_is_weighted_by_volume():
    a, b = lesion_pair()
    lesion = a.lesions[0]
    second = replace(lesion, index=2, volume_ml=lesion.volume_ml / 3, mean_adc=1160.0)
    unknown = replace(lesion, index=3, mean_adc=None)
    rows = texts(numbersOf(a_run(replace(a, lesions=(lesion, second, unknown)), b)))
    assert rows["All lesions: Count"] == {"a": "3", "b": "1"}
    assert rows["All lesions: Mean ADC, 10⁻⁶ mm²/s"] == {"a": "860", "b": "760"}
    assert "Clinically significant cancer: Lesions matched" in rows


def test_a_classification_shows_probabilities_and_what_is_not_known_of_them():
    table = numbersOf(a_run(*classification_pair(), reference="PI-RADS 4"))
    rows = texts(table)
    assert rows["P(PI-RADS 5)"] == {"a": "0.400", "b": "0.100", "a-b": "+0.300"}
    assert set(rows["Log loss"]) == {"a-reference", "b-reference"}
    assert CALIBRATION in table.notes


def test_what_must_be_known_of_each_network_is_stated_once():
    def noted(result, *notes, caveats=("A guess.",)):
        notes, caveats = (tuple(Note("test", text) for text in given) for given in (notes, caveats))
        return replace(result, provenance=replace(result.provenance, notes=notes, caveats=caveats))

    first, second = anatomy_pair()
    alone = numbersOf(a_run(noted(first, "The gland was marked by another."))).notes
    assert alone[-2:] == ("A guess.", "The gland was marked by another.")
    both = numbersOf(a_run(noted(first, "Left-right was assumed."), noted(second, "PSA was not used."))).notes
    assert [note for note in both if "guess" in note] == ["A guess."]
    assert {"A: Left-right was assumed.", "B: PSA was not used."} <= set(both)


def test_results_of_another_case_than_the_chosen_one_are_called_so():
    scene = a_scene()
    one, other = (add_volume(scene, an_oblique_t2w(), name) for name in ("T2 of one", "T2 of another"))
    run = a_run(*anatomy_pair(), about=one)
    assert ofAnotherCase(run, one) == ofAnotherCase(run, None) == ""
    assert "results of 'T2 of one', not of the case that is chosen now" in ofAnotherCase(run, other)


_STRUCTURES = ("Peripheral zone", "Transition zone", "Prostate")


def test_an_expected_dice_has_a_row_and_a_low_one_a_warning():
    estimate = DiceEstimate(0.55, 0.1, 0.9, 0.9, 0.8)
    run = a_run(replace(anatomy_pair()[0], estimate=estimate))
    table = numbersOf(run)
    assert texts(table)["Prostate: Expected Dice"] == {"a": "0.550"}
    assert table.warnings == (f"WARNING, A: {estimate.warning}",)
    sure = replace(anatomy_pair()[0], estimate=replace(estimate, dice=0.9))
    assert numbersOf(a_run(sure)).warnings == ()
    assert numbersOf(a_run(*anatomy_pair())).warnings == ()


def test_a_warning_about_the_images_is_shown_once_and_apart_from_the_notes():
    case = replace(
        a_case(), notes=(Note("oblique", "t2w is oblique."), Note("swapped", "hbv looks as T2w does.", "warning"))
    )
    arms = [replace(one, provenance=one.provenance.with_notes(*case.notes)) for one in anatomy_pair()]
    for run in (a_run(*arms, case=case), a_run(*arms, compared=False), a_run(arms[0])):
        table = numbersOf(run)
        assert table.warnings == ("WARNING, images: hbv looks as T2w does.",)
        assert case.notes[0].text in table.notes
        assert not any("hbv looks" in note for note in table.notes)
