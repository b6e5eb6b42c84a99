"""How good an outline of the prostate probably is: signs by hand, the shipped networks, and where warnings show."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from comparison_cases import a_case as a_compared_case
from comparison_cases import anatomy_pair
from prediction_cases import FakeSession, a_bundle, a_small_case, predict, with_preprocess

from VFMTransferLib.bundles.catalog import default_pair
from VFMTransferLib.cli.predict import summary
from VFMTransferLib.core.measurements import DiceEstimate
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.encoders.inputs import prepare
from VFMTransferLib.evaluation.comparison import compare, comparison_document
from VFMTransferLib.inference import estimate
from VFMTransferLib.inference import predict as prediction
from VFMTransferLib.inference.estimate import (
    ARMS,
    DiceModel,
    Line,
    Passes,
    dice_model,
    has_estimate,
    with_agreement,
    with_estimate,
)
from VFMTransferLib.io.results import read_result, save_result
from VFMTransferLib.metrics.agreement import dice
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.report import write_report
from VFMTransferLib.tasks import task_of

_ANATOMY = with_preprocess("profound-upernet-anatomy", patch=(16, 24, 24), whole_volume=False, shift_voxels=2)
SPEC = replace(
    _ANATOMY,
    head=replace(_ANATOMY.head, out_channels=2),
    labels=(Label.BACKGROUND, Label.PROSTATE),
    threshold=0.5,
)
SIGNS = {"shifted": 5.0, "certainty": 3.0}
HALF = Line(("shifted",), (5.0,), (1.0,), (1.0,), 0.0, (1.0, 1.0), (2.0, 3.0))


def odds(share: float) -> float:
    return math.log(share / (1 - share))


def logits_of(mask: np.ndarray, height: float = 3.0) -> np.ndarray:
    """Of background and prostate (2, D, H, W)."""
    gland = np.where(mask, height, -height)
    return np.stack([np.zeros_like(gland), gland]).astype(np.float32)


@pytest.fixture
def a_model(monkeypatch) -> DiceModel:
    """One line by the signs of a network, and a better one where the arms are known too."""
    both = Line(("shifted", ARMS), (5.0, 0.0), (1.0, 1.0), (0.0, 1.0), 2.0, (1.0, 1.0), (2.0, 3.0))
    model = DiceModel(1, "", "", ("0" * 64, "1" * 64), 0.8, 0.9, (HALF, both))
    monkeypatch.setattr(estimate, "dice_model", lambda: model)
    return model


def test_a_line_gives_the_dice_with_an_interval_that_is_wider_below_the_level():
    low, high = HALF.estimate({"shifted": 5.0}, 0.8, 0.9), HALF.estimate({"shifted": 8.0}, 0.8, 0.9)
    assert (low.dice, odds(low.low), odds(low.high)) == pytest.approx((0.5, -2, 3))
    assert [odds(v) for v in (high.dice, high.low, high.high)] == pytest.approx([3, 2, 4])
    assert low.is_low
    assert "expected Dice is 0.50 (0.12 to 0.95), below 0.80" in low.warning
    assert high.warning == ""


def test_windows_that_agree_and_a_cube_have_the_signs_computed_by_hand():
    prepared = prepare(a_small_case(), SPEC, task_of(SPEC))
    assert len(prepared.starts) == 4
    start, size = prepared.box
    organ = np.zeros(size, bool)
    organ[4:10, 8:14, 8:14] = True
    passes = Passes(SPEC, prepared)
    offset = np.subtract(prepared.starts, start)
    for window, (z, y, x) in zip(prepared.starts, offset, strict=True):
        whole = np.pad(organ, 8)[z + 8 :, y + 8 :, x + 8 :]
        passes.add(logits_of(whole[:16, :24, :24]), window)
    signs = passes.signs(logits_of(organ))
    assert signs["shifted"] == pytest.approx(odds(0.995))  # all agree: the highest share that counts
    assert signs["certainty"] == pytest.approx(3.0, abs=1e-4)
    dz, dy, dx = prepared.geometry.spacing_mm[::-1]
    volume, surface = 216 * dx * dy * dz, 72 * (dy * dx + dz * dx + dz * dy)
    assert signs["compactness"] == pytest.approx(10 * volume ** (2 / 3) / surface)
    assert signs["roughness"] == 0
    assert signs["height"] == pytest.approx(math.log(5 * dz / 35))


def test_windows_that_disagree_have_the_mean_dice_of_their_pairs():
    prepared = prepare(a_small_case(), SPEC, task_of(SPEC))
    passes, masks = Passes(SPEC, prepared), []
    first, end = np.max(prepared.starts, axis=0), np.min(prepared.starts, axis=0) + SPEC.preprocess.patch
    for number, start in enumerate(prepared.starts):
        mask = np.zeros(SPEC.preprocess.patch, bool)
        mask[4:10, 4 : 18 + number, 4:20] = True
        passes.add(logits_of(mask), start)
        masks.append(mask[tuple(slice(a, b) for a, b in zip(first - start, end - start, strict=True))])
    signs = passes.signs(logits_of(np.pad(np.ones((4, 4, 4), bool), [(2, n - 6) for n in prepared.box[1]])))
    pairs = [dice(masks[i], masks[j]) for i in range(4) for j in range(i)]
    assert 0.5 < np.mean(pairs) < 0.95
    assert signs["shifted"] == pytest.approx(odds(np.mean(pairs)))


def test_nothing_marked_has_no_estimate(a_model):
    bundle, case = a_bundle(SPEC), a_small_case()
    empty = FakeSession(lambda x: np.concatenate([x[:, :1] * 0 + 5, x[:, :1] * 0], axis=1))
    result = predict(case, bundle, open_network=lambda b: empty)
    assert result.estimate is None
    assert "No voxel was marked as prostate." in map(str, result.provenance.notes)


def test_an_outline_that_is_empty_has_no_estimate_whatever_its_signs(a_model):
    a, _ = anatomy_pair()
    empty = replace(a, labels=a.labels.with_array(np.zeros_like(a.labels.array)))
    assert with_estimate(a, SIGNS).estimate is not None
    assert with_estimate(empty, SIGNS).estimate is None


def a_session() -> FakeSession:
    """Marks a block in the middle of its window."""
    mask = np.zeros(SPEC.preprocess.patch, bool)
    mask[4:10, 8:16, 8:16] = True
    return FakeSession(lambda x: logits_of(mask)[None])


def test_an_estimate_costs_no_pass_and_changes_no_voxel(a_model, monkeypatch):
    bundle, case, session = a_bundle(SPEC), a_small_case(), a_session()
    result = predict(case, bundle, open_network=lambda b: session)
    assert result.estimate is not None
    assert set(result.estimate.signs) == {"shifted", "certainty", "compactness", "roughness", "height"}
    assert len(session.seen) == 4
    monkeypatch.setattr(estimate, "dice_model", lambda: replace(a_model, weights=()))
    plain = predict(case, bundle, open_network=lambda b: a_session())
    assert plain.estimate is None
    np.testing.assert_array_equal(plain.labels.array, result.labels.array)


@pytest.mark.parametrize("what", ["roi", "threshold"])
def test_an_outline_that_was_asked_for_otherwise_has_no_estimate(a_model, what):
    case = a_small_case()
    value = (
        0.7 if what == "threshold" else case[Sequence.T2W].with_array(np.ones(case[Sequence.T2W].array.shape, np.uint8))
    )
    result = predict(case, a_bundle(SPEC), **{what: value}, open_network=lambda b: a_session())
    assert result.estimate is None


def test_networks_of_other_weights_or_tasks_have_no_estimate(a_model):
    assert has_estimate(a_bundle(SPEC))
    assert not has_estimate(replace(a_bundle(SPEC), sha256={"models/model.safetensors": "2" * 64}))
    assert not has_estimate(a_bundle(with_preprocess(SPEC, whole_volume=True)))
    assert not has_estimate(
        a_bundle(with_preprocess("profound-upernet-lesion", patch=(16, 24, 24), whole_volume=False))
    )


def test_a_gland_that_another_network_relies_on_carries_the_warning(a_model, monkeypatch):
    monkeypatch.setattr(estimate, "dice_model", lambda: replace(a_model, lines=(replace(HALF, intercept=-9.0),)))
    monkeypatch.setattr(prediction, "default_pair", lambda task: (a_bundle(SPEC, "gland"),) * 2)
    lesions = with_preprocess("profound-upernet-lesion", patch=(16, 24, 24), whole_volume=False)
    sessions = {"gland": a_session(), "lesions": FakeSession(lambda x: x[:, :1])}
    result = predict(a_small_case(), a_bundle(lesions, "lesions"), open_network=lambda bundle: sessions[bundle.name])
    (note,) = [
        note for note in result.provenance.notes if note.text.startswith("The gland was marked by bundle 'gland'")
    ]
    assert "This outline of the prostate may be wrong" in note.text
    assert result.estimate is None


def estimated(level: float = 0.8) -> tuple:
    """A pair whose outlines agree to some degree, with estimates by the signs of each alone."""
    pair = anatomy_pair()
    return tuple(
        replace(
            one,
            estimate=DiceEstimate(0.9, 0.85, 0.95, 0.9, level, SIGNS),
            provenance=replace(one.provenance, sha256=digit * 64),
        )
        for one, digit in zip(pair, "01", strict=True)
    )


def test_two_arms_are_estimated_by_their_agreement_too(a_model):
    a, b = estimated()
    agreement = odds(dice(a.labels.array > 0, b.labels.array > 0))
    first, second = with_agreement(a, b)
    assert odds(first.estimate.dice) == pytest.approx(2 + agreement)
    assert first.estimate.dice == second.estimate.dice
    assert first.estimate.signs[ARMS] == pytest.approx(agreement)


def test_the_same_network_twice_is_no_agreement(a_model):
    a, _ = estimated()
    assert with_agreement(a, a) == (a, a)
    assert with_agreement(a, replace(a, estimate=None))[0] is a


@pytest.mark.parametrize(
    ("dice_below", "words"), [(0.8287, "0.829 (0.60 to 0.91), below 0.830"), (0.82, "0.82 (0.60 to 0.91), below 0.83")]
)
def test_a_warning_states_a_dice_below_its_level_however_near(dice_below, words):
    assert f"expected Dice is {words}." in DiceEstimate(dice_below, 0.6, 0.91, 0.9, 0.83).warning


def test_a_low_estimate_stands_above_all_else_in_comparison_report_and_on_the_command_line(
    monkeypatch, tmp_path, a_model
):
    monkeypatch.setattr(estimate, "dice_model", lambda: replace(a_model, lines=(replace(HALF, intercept=-1.0),)))
    a, b = estimated()
    comparison = compare(a_compared_case(), a, b)
    assert comparison.value("expected_dice", "prostate", "a") == pytest.approx(1 / (1 + math.e))
    assert set(comparison_document(comparison)["cautions"]) == {"A", "B"}
    page = write_report(comparison, tmp_path).read_text(encoding="utf-8")
    warning = "This outline of the prostate may be wrong: its expected Dice is 0.27"
    assert page.index(warning) < page.index("<figure")
    assert "expected Dice (interval that contained 90% of unseen results)" in page
    assert any(line.startswith(f"WARNING: {warning}") for line in summary(comparison.a))


def test_a_high_estimate_is_shown_without_a_warning(a_model):
    comparison = compare(a_compared_case(), *estimated())
    assert comparison.cautions == {}
    (line,) = [line for line in summary(estimated()[0]) if "Dice" in line]
    assert line == (
        "expected Dice of the prostate: 0.90 (0.85 to 0.95), interval that contained 90% of unseen results, "
        "estimated without a reference"
    )


def test_an_estimate_comes_back_from_disk(tmp_path):
    result, _ = estimated()
    save_result(result, tmp_path / "out")
    assert read_result(tmp_path / "out").estimate == result.estimate
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["estimate"]["dice"] == 0.9


def test_the_shipped_pair_is_the_one_that_was_fitted():
    pair = default_pair("anatomy-segmentation")
    assert set(dice_model().weights) == {bundle.weights_sha256 for bundle in pair}
    assert all(has_estimate(bundle) for bundle in pair)


def test_the_shipped_network_is_sure_of_a_phantom_and_warns_on_noise():
    bundle = default_pair("anatomy-segmentation")[0]
    phantom = make_phantom(4321, t2w_spacing_mm=(1.0, 1.0, 3.0))
    good = predict(phantom.case, bundle)
    truth = phantom.gland.array > 0
    assert abs(good.estimate.dice - dice(good.labels.array > 0, truth)) < 0.1
    assert not good.estimate.is_low
    t2w = phantom.case[Sequence.T2W]
    inverted = replace(phantom.case, volumes={Sequence.T2W: t2w.with_array(t2w.array.max() - t2w.array)})
    bad = predict(inverted, bundle)
    assert dice(bad.labels.array > 0, truth) < 0.7
    assert bad.estimate is None or bad.estimate.is_low
