"""Where to look first: differences and lesions by size."""

from dataclasses import replace

import pytest
from comparison_cases import anatomy_pair, lesion_pair
from slicer_results import a_run

from VFMTransferLib.core.measurements import GlandMeasurements
from VFMTransferLib.evaluation.measures import MIN_DIFFERENCE_ML, Between
from VFMTransferSlicer.results.numbers import (
    DIFFERENCE,
    LESION_OF,
    MAX_FINDINGS,
    SHARED_LESION,
    findingsOf,
    numbersOf,
)


def a_lesion_pair_apart():
    """A lesion of A and another one of B, farther from each other than they are wide."""
    a, b = lesion_pair()
    x, y, z = b.lesions[0].center_mm
    return a, replace(b, lesions=(replace(b.lesions[0], center_mm=(x + 40, y, z)),))


def test_differences_come_largest_first_with_what_each_says():
    run = a_run(*anatomy_pair())
    findings = findingsOf(run)
    found = findings.shown + findings.folded
    assert [finding.volumeMl for finding in found] == sorted((f.volumeMl for f in found), reverse=True)
    assert {finding.kind for finding in found} == {DIFFERENCE}
    assert {"PZ", "nothing"} <= {said for finding in found for said in (finding.a, finding.b)}
    assert all(finding.a != finding.b for finding in found)


def test_a_position_is_turned_from_lps_to_ras_and_named_by_directions():
    run = a_run(*anatomy_pair())
    run.comparison["disagreements"] = [{**run.comparison["disagreements"][0], "center_mm": [12.5, -30.0, 7.25]}]
    (finding,) = findingsOf(run).shown
    assert finding.positionRas == (-12.5, 30.0, 7.25)
    assert finding.place.replace("\u00a0", " ") == "L 12.5 A 30.0 S 7.2"


def test_differences_that_seldom_matter_are_folded_away_and_lesions_are_not():
    a, b = lesion_pair()
    run = a_run(replace(a, lesions=(replace(a.lesions[0], volume_ml=MIN_DIFFERENCE_ML / 2),)), b)
    one = run.comparison["disagreements"][0]
    sizes = (0.9 * MIN_DIFFERENCE_ML, MIN_DIFFERENCE_ML)
    run.comparison["disagreements"] = [{**one, "volume_ml": size} for size in sizes]
    found = findingsOf(run)
    assert [finding.kind for finding in found.shown] == [SHARED_LESION, DIFFERENCE]
    assert [finding.volumeMl for finding in found.folded] == [sizes[0]]


def test_a_lesion_that_both_mark_is_one_row():
    a, b = lesion_pair()
    (x, y, z), size = a.lesions[0].center_mm, 9.0
    near = replace(b.lesions[0], center_mm=(x + 4.4, y, z), diameter_mm=size, volume_ml=0.4)
    a = replace(a, lesions=(replace(a.lesions[0], diameter_mm=5.0),))
    (found,) = (one for one in findingsOf(a_run(a, replace(b, lesions=(near,)))).shown if one.kind != DIFFERENCE)
    assert (found.kind, found.a, found.b, found.other.volumeMl) == (SHARED_LESION, "csPCa", "csPCa", 0.4)
    far = replace(near, center_mm=(x + 4.6, y, z))
    kinds = [one.kind for one in findingsOf(a_run(a, replace(b, lesions=(far,)))).shown if one.kind != DIFFERENCE]
    assert sorted(kinds) == sorted(LESION_OF)


def test_lesions_of_both_arms_stand_before_the_differences():
    a, b = a_lesion_pair_apart()
    a = replace(a, lesions=(replace(a.lesions[0], zone="peripheral-zone"),))
    lesions = [finding for finding in findingsOf(a_run(a, b)).shown if finding.kind in LESION_OF]
    assert [finding.kind for finding in lesions] == ["Lesion of A", "Lesion of B"]
    first, second = lesions
    assert (first.a, first.b) == ("csPCa", "")
    assert (second.a, second.b) == ("", "csPCa")
    assert (first.meanAdc, first.confidence, first.zone) == (760.0, 0.8, "PZ")
    assert second.zone == ""


@pytest.mark.parametrize(("many", "note"), [(MAX_FINDINGS, ""), (MAX_FINDINGS + 3, "3 smaller ones are not listed.")])
def test_specks_are_counted_not_listed(many, note):
    a, _ = lesion_pair()
    specks = tuple(replace(a.lesions[0], index=i, volume_ml=1.0 / i) for i in range(1, many + 1))
    found = findingsOf(a_run(replace(a, lesions=specks)))
    assert len(found.shown) == MAX_FINDINGS
    assert found.note == note
    assert found.shown[0].volumeMl == 1.0


def test_the_size_of_the_prostate_stands_among_the_numbers():
    a, b = anatomy_pair()
    gland = GlandMeasurements(48.0, 30.0, 42.0, 31.67, 33.0, "as given", 6.5, 0.205, 0.197)
    rows = {
        row.title: row.cells for row in numbersOf(a_run(replace(a, gland=gland), b)).rows if row.group == "Prostate"
    }
    assert {cell.text for cell in rows["Transverse, mm"].values()} == {"48"}
    assert list(rows["PSA density, ng/ml²"]) == [Between.A]
    assert rows["PSA density, ng/ml²"][Between.A].text == "0.20"
