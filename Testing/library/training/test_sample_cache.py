"""Samples cached on disk: the same as from memory, each made once, read where they are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from study_examples import CELLS, a_study, tiny_study_spec
from torch import Generator
from training_cases import tiny_config, tiny_dataset, tiny_labeled_case

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.training import sample_cache as module
from VFMTransferLib.training.cases import LabeledDataset, LazyCases
from VFMTransferLib.training.config import Augmentation
from VFMTransferLib.training.finetune import finetune
from VFMTransferLib.training.sample_cache import cache_path, case_identity, case_samples
from VFMTransferLib.training.samples import samples_of

DISTORTED = [(family, "distortion-correction", False) for family in ("profound", "provicnet")]


@pytest.mark.parametrize(("family", "task", "is_phantom"), [*((*cell, True) for cell in CELLS), *DISTORTED])
def test_every_network_is_shown_the_same_from_disk(tmp_path, monkeypatch, family, task, is_phantom):
    study, spec = replace(a_study(task), is_phantom=is_phantom), tiny_study_spec(family, task)
    plain, stored = samples_of(study, spec), case_samples(study, spec, tmp_path)
    for _ in range(2):
        assert stored.category == plain.category
        for seed in range(2):
            found, expected = (s.sample(Generator().manual_seed(seed), Augmentation()) for s in (stored, plain))
            assert all(torch.equal(a, b) for a, b in zip(found.inputs, expected.inputs, strict=True))
            assert torch.equal(found.target, expected.target)
            assert found.phase_axis == expected.phase_axis
        monkeypatch.setattr(module, "samples_of", lambda *_: pytest.fail("the case was prepared again"))


def test_a_training_learns_the_same_and_reads_each_case_once_when_it_is_shown(tmp_path):
    read = []

    def reading(seed):
        read.append(seed)
        return tiny_labeled_case(seed)

    cases = LazyCases({f"case-{seed}": (f"made {seed}", lambda seed=seed: reading(seed)) for seed in range(3)})
    dataset, cache = LabeledDataset(tiny_config().split, cases), tmp_path / "cache"
    finetune(tiny_config(steps=1), dataset, tmp_path / "one", prepared=cache)
    assert len(read) == 1
    run = finetune(tiny_config(), dataset, tmp_path / "all", prepared=cache, prefetch=1)
    finetune(tiny_config(), dataset, tmp_path / "again", prepared=cache)
    assert sorted(read) == [0, 1]  # and never the one that tests
    plain = finetune(tiny_config(), tiny_dataset(), tmp_path / "plain")
    assert run.history == plain.history
    assert all(torch.equal(tensor, run.average[name]) for name, tensor in plain.average.items())


def test_whatever_decides_a_case_changes_where_it_lies(tmp_path):
    case, spec = tiny_labeled_case(0), tiny_config().model
    grid = replace(spec.preprocess, spacing_mm=(2.0, 1.0, 1.0))
    flipped = replace(case, gland=case.gland.with_array(case.gland.array[..., ::-1].copy()))
    cases = [case, tiny_labeled_case(1), flipped, replace(case, category="PI-RADS 3")]
    paths = {cache_path(tmp_path, case_identity(one), spec) for one in [*cases, tiny_labeled_case(0)]}
    paths.add(cache_path(tmp_path, case_identity(case), replace(spec, preprocess=grid)))
    assert len(paths) == len(cases) + 1


def test_a_damaged_case_is_named(tmp_path):
    stored = case_samples(tiny_labeled_case(0), tiny_config().model, tmp_path)
    stored.open()
    (path,) = tmp_path.iterdir()
    (path / "image.npy").write_bytes(b"half")
    with pytest.raises(DatasetError, match=path.name):
        stored.open()
