"""Estimates before fine-tuning: patches and their targets by hand, and estimators on cases whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from study_examples import FAMILIES, a_study, tiny_study_config, tiny_study_spec

from VFMTransferLib.core.placement import cut
from VFMTransferLib.core.terms import Label
from VFMTransferLib.encoders.base import ModelSpec
from VFMTransferLib.encoders.profound.network import encoder_in
from VFMTransferLib.encoders.provicnet.network import patch_tokens
from VFMTransferLib.encoders.weights import encoder_weights, pretrained_network
from VFMTransferLib.inference.windows import network_input
from VFMTransferLib.study import estimators
from VFMTransferLib.study.estimators import ESTIMATORS, Candidate, estimate, few_steps, logme, nearness, probe
from VFMTransferLib.study.features import ENCODER, PatchTable, encoder_features, feature_cases, patch_tables
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import LabeledCase
from VFMTransferLib.tasks.super_resolution.task import SUPER_RESOLVED
from VFMTransferLib.training.finetune import initial_network
from VFMTransferLib.training.samples import prepare_labeled

SEEDS = (0, 1, 2)
SOME_CELLS = [
    ("profound", "super-resolution"),
    ("profound", "classification"),
    ("provicnet", "lesion-segmentation"),
]
_CLASSES = ("PI-RADS 2", "PI-RADS 3", "PI-RADS 4", "PI-RADS 5")


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr(estimators, "TRIAL_STEPS", 2)


def patch_table(network: torch.nn.Module, spec: ModelSpec, studies: list[LabeledCase], seed: int = 0) -> PatchTable:
    """Patches of cases as one network sees them."""
    return patch_tables([network], spec, studies, seed)[0]


def studies_of(task):
    return [a_study(task, seed) for seed in SEEDS]


def random_weights(spec, seed):
    return encoder_weights(pretrained_network(spec, None, seed).state_dict(), spec)


def a_candidate(family, task, seed=40, **changes):
    config = tiny_study_config(family, task, **changes)
    return Candidate(config, studies_of(task), random_weights(config.model, seed))


def known_to(features, target):
    return PatchTable(features, target, np.arange(len(target)) // 10)


def a_known_candidate(pretrained_knows: bool, random_knows: bool):
    rng = np.random.default_rng(0)
    target = rng.normal(size=80)
    knows = np.column_stack([rng.normal(size=(80, 3)), target])
    nothing = [rng.normal(size=(80, 4)) for _ in range(4)]
    return SimpleNamespace(
        patches=[
            known_to(knows if pretrained_knows else nothing[0], target),
            *(known_to(knows if random_knows else other, target) for other in nothing[1:]),
        ],
        cases=[None] * 8,
    )


def test_features_that_contain_the_target_are_worth_what_random_ones_lack():
    assert probe(a_known_candidate(True, False)) == pytest.approx(1.0, abs=0.15)
    assert logme(a_known_candidate(True, False)) > 1
    for estimator in (probe, logme):
        assert estimator(a_known_candidate(True, True)) == 0  # no gain where a random encoder tells as much
        assert abs(estimator(a_known_candidate(False, False))) < 0.15
        assert estimator(a_known_candidate(False, True)) < -0.8


def test_what_random_encoders_tell_is_their_mean():
    candidate = a_known_candidate(True, False)
    candidate.patches[1] = candidate.patches[0]
    assert probe(candidate) == pytest.approx(2 / 3, abs=0.15)


def test_a_few_steps_of_the_same_start_gain_nothing():
    config = tiny_study_config("profound", "adc-translation")
    start = initial_network(config, None).state_dict()
    same = Candidate(config, studies_of("adc-translation"), encoder_weights(start, config.model))
    assert few_steps(same) == 0
    assert same.trial.pretrained == same.trial.scratch
    other = a_candidate("profound", "adc-translation")
    trial = other.trial
    assert few_steps(other) == pytest.approx(100 * (trial.scratch - trial.pretrained) / trial.scratch)
    assert few_steps(other) != 0


def test_the_trial_of_a_study_with_patience_needs_no_cases_that_validate():
    config = tiny_study_config("profound", "adc-translation")
    patient = replace(config, schedule=replace(config.schedule, patience=0.3))
    plain, other = (
        Candidate(one, studies_of("adc-translation"), random_weights(one.model, 40)) for one in (config, patient)
    )
    assert other.trial == plain.trial


def test_networks_too_large_for_a_trial_take_no_steps(monkeypatch):
    monkeypatch.setattr(estimators, "MAX_TRIAL_PARAMETERS", 10)
    monkeypatch.setattr(estimators, "finetune", lambda *_, **__: pytest.fail("a step was taken"))
    assert math.isnan(few_steps(a_candidate("profound", "classification")))


def test_cases_that_pretraining_has_seen_are_nearer_than_others():
    candidate = a_candidate("provicnet", "super-resolution")
    spec = candidate.config.model
    network = pretrained_network(spec, candidate.weights)
    own = encoder_features(network, spec, feature_cases(candidate.cases, spec))[ENCODER]
    near, far = (
        nearness(Candidate(candidate.config, candidate.cases, candidate.weights, own + shift)) for shift in (0.0, 3.0)
    )
    assert far < near
    assert far < -0.3
    assert math.isnan(nearness(candidate))  # pretraining's cases are not at hand


@pytest.mark.parametrize(("family", "task"), SOME_CELLS)
def test_every_estimator_has_a_finite_value_for_every_task_and_the_same_again(family, task):
    candidate = a_candidate(family, task)
    spec = candidate.config.model
    features = np.random.default_rng(0).normal(size=(5, spec.encoder.dims[-1] if family == "profound" else 16))
    if family == "provicnet":
        features = np.tile(features, len(spec.preprocess.sequences))
    first, again = (
        estimate(Candidate(candidate.config, candidate.cases, candidate.weights, features), family) for _ in range(2)
    )
    assert [row.estimator for row in first] == list(ESTIMATORS)
    assert [row.value for row in first] == [row.value for row in again]
    one_class = {"gbc"} if task == "classification" else set()  # these cases all have the same, so nothing to separate
    assert {row.estimator for row in first if not math.isfinite(row.value)} == one_class
    assert all(row.seconds >= 0 and row.task == task for row in first)


def test_too_few_cases_say_nothing():
    candidate = a_candidate("profound", "anatomy-segmentation")
    two = Candidate(candidate.config, candidate.cases[:2], candidate.weights)
    assert math.isnan(probe(two))
    assert math.isnan(logme(two))


def test_profounds_patches_hold_their_share_of_the_prostate_and_all_stages():
    study, spec = a_study("anatomy-segmentation"), tiny_study_spec("profound", "anatomy-segmentation")
    network = pretrained_network(spec, None)
    table, case = patch_table(network, spec, [study]), feature_cases([study], spec)[0]
    share = TASKS[study.task].training().targets(study, case.prepared, spec)[0]
    targets, features = [], []
    for start in case.starts:
        window = cut(np.stack([share, np.ones_like(share)]), start, (16, 32, 48))
        with torch.no_grad():
            maps = encoder_in(network).forward_features(torch.from_numpy(network_input(case.prepared, spec, start)[0]))
        for z in range(2):
            for y in range(4):
                for x in range(6):
                    patch = window[:, 8 * z : 8 * z + 8, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                    if patch[1].mean() < 0.5:
                        continue
                    targets.append(patch[0].sum() / patch[1].sum())
                    first = maps[0][0, :, 2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2, 3))
                    later = [maps[2][0, :, z // 2, y // 2, x // 2], maps[3][0, :, z // 2, y // 2, x // 2]]
                    features.append(torch.cat([first, maps[1][0, :, z, y, x], *later]))
    np.testing.assert_allclose(table.target, targets, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table.features, torch.stack(features), rtol=1e-4, atol=1e-6)
    assert table.target.max() > 0.5


def test_provicnets_patches_are_tokens_with_their_share_of_cancer_within_the_gland():
    study, spec = a_study("lesion-segmentation", seed=4), tiny_study_spec("provicnet", "lesion-segmentation")
    network = pretrained_network(spec, None)
    table, case = patch_table(network, spec, [study]), feature_cases([study], spec)[0]
    grid = case.prepared.geometry
    cancer = study.masks[Label.CSPCA]
    soft = cancer.with_array(cancer.array.astype(np.float32)).resample_to(grid).array
    gland = (study.gland.resample_to(grid, "nearest").array > 0).astype(np.float32)
    targets, features = [], []
    for start in case.starts:
        part, inside = (cut(array[None], start, (1, 64, 64))[0, 0] for array in (soft, gland))
        there = cut(np.ones((1, *grid.shape), np.float32), start, (1, 64, 64))[0, 0]
        inputs = [torch.from_numpy(array) for array in network_input(case.prepared, spec, start)]
        with torch.no_grad():
            tokens = patch_tokens(network, spec, inputs)[0]
        for row in range(8):
            for column in range(8):
                place = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                if inside[place].any() and there[place].mean() >= 0.5:
                    targets.append(part[place].mean())
                    features.append(tokens[8 * row + column])
    np.testing.assert_allclose(table.target, targets, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(table.features, torch.stack(features), rtol=1e-4, atol=1e-6)
    assert table.target.max() > 0.05
    assert table.features.shape[1] == 3 * 16


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_have_the_tasks_units(family):
    """Mean ADC of prostate in 1e-3 mm²/s; displacements of a few millimeters; what is lost of sharpness; classes."""
    tables = {}
    for task in TASKS:
        spec = tiny_study_spec(family, task)
        tables[task] = patch_table(pretrained_network(spec, None), spec, studies_of(task))
    adc = tables["adc-translation"].target
    assert 0.5 < adc.min() < adc.mean() < 2.5
    assert 0.1 < np.abs(tables["distortion-correction"].target).max() < 20
    assert (tables["super-resolution"].target > 0).all()
    classes = tables["classification"]
    assert classes.target.tolist() == [_CLASSES.index(study.category) for study in studies_of("classification")]
    assert classes.cases.tolist() == [0, 1, 2]


def test_what_halving_took_away_is_a_root_mean_square():
    study, spec = a_study("super-resolution"), tiny_study_spec("profound", "super-resolution")
    assert SUPER_RESOLVED in study.images
    prepared = prepare_labeled(study, spec)
    residual = TASKS[study.task].training().targets(study, prepared, spec)[0]
    table = patch_table(pretrained_network(spec, None), spec, [study])
    assert 0.3 * residual.std() < table.target.mean() < 3 * residual.std()


def test_very_many_patches_are_drawn_from(monkeypatch):
    from VFMTransferLib.study import features

    study, spec = a_study("anatomy-segmentation"), tiny_study_spec("provicnet", "anatomy-segmentation")
    network = pretrained_network(spec, None)
    everything = patch_table(network, spec, [study])
    monkeypatch.setattr(features, "MOST_PATCHES", 20)
    drawn = patch_table(network, spec, [study], seed=3)
    assert len(drawn.target) == len(drawn.cases) == 20
    assert set(map(tuple, drawn.features)) <= set(map(tuple, everything.features))
    np.testing.assert_array_equal(drawn.target, patch_table(network, spec, [study], seed=3).target)
