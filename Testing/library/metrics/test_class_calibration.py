"""Calibration on cases whose answer is known, and that it goes from validation cases through the bundle to results."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from bundles import make_bundle
from prediction_cases import predict
from scipy.optimize import approx_fprime
from study_examples import FAMILIES, a_study, tiny_study_config
from tiny_commands import use_small_networks

from VFMTransferLib.bundles.bundle import model_card, read_bundle
from VFMTransferLib.bundles.metadata import METADATA
from VFMTransferLib.core.errors import BundleError
from VFMTransferLib.metrics.calibration import Calibration
from VFMTransferLib.metrics.classification import expected_calibration_error, fit_calibration, penalized_loss
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import CaseScore
from VFMTransferLib.training.cases import LabeledDataset, Split
from VFMTransferLib.training.finetune import finetune, write_arm

MANY = 20_000
A_CALIBRATION = Calibration(2.0, (0.5, -0.5, 0.25, -0.25), 6)


def drawn(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Classes as frequent as the softmax of logits (N, C) says, as (N, C) flags."""
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    place = (np.random.default_rng(seed).random((len(logits), 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return np.eye(logits.shape[1], dtype=bool)[place]


def some_logits(count: int = MANY, classes: int = 4) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1.5, (count, classes))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=0)


def test_a_network_that_is_three_times_too_sure_gets_a_temperature_of_three():
    logits = some_logits()
    found = fit_calibration(3 * logits, drawn(logits))
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.bias == pytest.approx([0] * 4, abs=0.08)
    assert found.cases == MANY


def test_a_network_taught_that_all_classes_are_alike_gets_the_frequencies_as_bias():
    logits, prior = some_logits(), np.array([0.5, 0.3, 0.15, 0.05])
    found = fit_calibration(logits, drawn(logits + np.log(prior)))
    assert np.array(found.bias) - found.bias[0] == pytest.approx(np.log(prior / prior[0]), abs=0.1)
    assert found.temperature == pytest.approx(1, abs=0.05)


def test_that_a_case_has_one_of_several_classes_is_enough():
    logits = some_logits()
    pairs = drawn(logits).reshape(MANY, 2, 2).any(axis=2).repeat(2, axis=1)
    assert fit_calibration(2 * logits, pairs).temperature == pytest.approx(2, rel=0.06)


def test_the_gradient_is_that_of_the_loss():
    logits, parameters = some_logits(7), np.array([0.3, 0.1, -0.2, 0.4, 0.0])
    possible = drawn(logits) | drawn(logits, seed=5)
    _, gradient = penalized_loss(parameters, logits, possible)
    numeric = approx_fprime(parameters, lambda p: penalized_loss(p, logits, possible)[0], 1e-7)
    assert gradient == pytest.approx(numeric, abs=1e-5)


def test_few_cases_that_are_all_right_do_not_make_a_network_certain():
    """Without the penalty the temperature would go to zero."""
    logits = np.tile(np.eye(4), (2, 1))
    found = fit_calibration(logits, logits > 0)
    assert 0.3 < found.temperature < 1
    assert found.bias == pytest.approx([0] * 4, abs=1e-4)
    assert fit_calibration(logits, logits > 0) == found


def test_one_case_by_hand():
    """Two classes, logits ±z: with s the log of the scale, the loss is log(1 + e^(-2 (e^s z + b))) + 2 s² + b²."""
    found = fit_calibration(np.array([[1.0, -1.0]]), np.array([[True, False]]))
    s = b = 0.0
    for _ in range(500):  # a fixed point of the gradient's zero
        missing = 1 / (1 + np.exp(2 * (np.exp(s) + b)))
        s, b = missing * np.exp(s) / 2, missing
    assert (np.log(1 / found.temperature), *found.bias) == pytest.approx((s, b, -b), abs=1e-4)


def test_calibrated_logits_keep_the_axes_behind_the_class():
    logits = np.ones((4, 2, 3), np.float32)
    calibrated = A_CALIBRATION.apply(logits)
    assert calibrated.dtype == np.float32
    assert calibrated[:, 1, 2].tolist() == [1.0, 0.0, 0.75, 0.25]


def test_the_error_of_calibration_by_hand():
    said, happened = [0.05, 0.02, 0.95, 1.0, 0.52, 0.58], [False, True, True, True, False, True]
    expected = (2 * abs(0.035 - 0.5) + 2 * abs(0.975 - 1.0) + 2 * abs(0.55 - 0.5)) / 6
    assert expected_calibration_error(said, happened) == pytest.approx(expected)
    assert np.isnan(expected_calibration_error([], []))


def test_cases_without_a_class_are_refused():
    with pytest.raises(ValueError, match="must have a class"):
        fit_calibration(np.zeros((2, 4)), np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match="must have a class"):
        fit_calibration(np.zeros((0, 4)), np.zeros((0, 4), bool))


def a_score(case: str, truth: str | None, is_significant: bool) -> CaseScore:
    names = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")
    return CaseScore(case, {}, truth, is_significant, dict(zip(names, (0.1, 0.2, 0.3, 0.4), strict=True)))


def test_cases_teach_by_their_class_or_by_csPCa_alone():  # noqa: N802
    def found(*cases: CaseScore) -> Calibration | None:
        return TASKS["classification"].fit_calibration(cases)

    logits = np.log([[0.1, 0.2, 0.3, 0.4]])
    by_class = found(a_score("a", "PI-RADS 2", False))
    assert by_class == fit_calibration(logits, np.array([[True, False, False, False]]))
    by_lesion = found(a_score("a", None, True))
    assert by_lesion == fit_calibration(logits, np.array([[False, False, True, True]]))
    assert found() is None
    assert TASKS["lesion-segmentation"].fit_calibration((a_score("a", None, True),)) is None


@pytest.fixture(scope="module")
def a_calibrated_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "calibrated"
    return make_bundle(folder, "profound-classifier", onnx=True, calibration=A_CALIBRATION)


def test_a_bundle_states_its_calibration(a_calibrated_bundle):
    assert read_bundle(a_calibrated_bundle.folder).calibration == A_CALIBRATION
    metadata = json.loads((a_calibrated_bundle.folder / METADATA).read_text(encoding="utf-8"))
    schema = json.loads(files("VFMTransferLib.bundles").joinpath("bundle.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(metadata, schema)
    assert "calibrated on 6 validation cases: temperature 2.00" in model_card(a_calibrated_bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"bias": [0.0] * 3}, "biases"),
        ({"more": 1}, "calibration' must hold only .*, but also holds 'more'"),
        ({"temperature": "warm"}, "calibration.temperature' must be a finite number"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(tmp_path, change, message):
    bundle = make_bundle(tmp_path / "b", "profound-classifier", calibration=A_CALIBRATION)
    path = bundle.folder / METADATA
    document = json.loads(path.read_text(encoding="utf-8"))
    document["vfm_transfer"]["calibration"].update(change)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        read_bundle(bundle.folder)


def test_a_segmentation_has_no_calibration(tmp_path):
    with pytest.raises(BundleError, match="calibration"):
        make_bundle(tmp_path / "b", "profound-upernet-anatomy", calibration=A_CALIBRATION)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_both_runtimes_give_calibrated_probabilities_and_say_so(a_calibrated_bundle, runtime):
    study = a_study("classification")
    plain = predict(study.case, replace(a_calibrated_bundle, calibration=None), runtime=runtime, gland=study.gland)
    result = predict(study.case, a_calibrated_bundle, runtime=runtime, gland=study.gland)
    expected = softmax(A_CALIBRATION.apply(np.log(list(plain.class_probabilities.values()))))
    assert list(result.class_probabilities.values()) == pytest.approx(expected, abs=1e-5)
    assert result.derived_probabilities["csPCa"] == pytest.approx(expected[2:].sum(), abs=1e-5)
    assert A_CALIBRATION.note in result.provenance.notes
    assert A_CALIBRATION.note not in plain.provenance.notes


def an_arm(tmp_path, family: str, name: str, test_seed: int):
    """An arm with two validation cases and one test case."""
    cases = {study.case.id: study for study in (a_study("classification", seed) for seed in (0, 1, 2, test_seed))}
    names = tuple(cases)
    config = replace(tiny_study_config(family, "classification"), split=Split(names[:2], names[2:3], names[3:]))
    studies = LabeledDataset(config.split, cases)
    run = finetune(config, studies, tmp_path / f"{name}.training")
    return write_arm(config, run, studies, tmp_path / name, data="four", init=None, license="CC0-1.0")


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_calibrates_on_validation_cases_and_never_on_test_cases(tmp_path, monkeypatch, family):
    use_small_networks(monkeypatch.setattr)
    first, second = (an_arm(tmp_path, family, f"arm-{seed}", seed) for seed in (3, 4))
    assert first.calibration == second.calibration == read_bundle(first.folder).calibration
    assert first.calibration.cases == 1
    before, after = first.metrics["test"]["uncalibrated"], first.metrics["test"]["cohort"]
    assert set(before) == {"brier", "log_loss", "ece"}
    assert all(name in after for name in before)
    validation = first.metrics["validation"]
    assert validation["cohort"]["log_loss"] < validation["uncalibrated"]["log_loss"]  # what it was fitted on
    study = a_study("classification", 3)
    scored = first.metrics["test"]["cases"][study.case.id]["log_loss"]
    said = predict(study.case, first, gland=study.gland).class_probabilities[study.category]
    assert -np.log(said) == pytest.approx(scored, abs=0.02)  # the bundle holds fp16 weights
