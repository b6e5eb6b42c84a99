"""Prepared cases on disk: the same samples as from memory, each made once, read where they are shown."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from study_examples import CELLS, a_study, tiny_study_spec, write_case
from torch import Generator
from training_cases import tiny_config, tiny_dataset, tiny_labeled_case

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.training import prepared as module
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.cases import LabeledDataset, LazyCases, Split, folder_dataset
from VFMTransferLib.training.finetune import finetune, write_arm
from VFMTransferLib.training.loop import CHECKPOINT, read_checkpoint
from VFMTransferLib.training.prepared import case_identity, prepared_samples
from VFMTransferLib.training.samples import CropSamples, samples_of


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_every_network_is_shown_the_same_from_disk(tmp_path, monkeypatch, family, task):
    assert_shown_the_same_from_disk(a_study(task), tiny_study_spec(family, task), tmp_path, monkeypatch)


@pytest.mark.parametrize("family", ["profound", "provicnet"])
def test_a_scan_that_is_distorted_at_every_sample_is_the_same_from_disk(tmp_path, monkeypatch, family):
    task = "distortion-correction"
    scan = replace(a_study(task), is_phantom=False)  # whose own distortion is not known
    assert_shown_the_same_from_disk(scan, tiny_study_spec(family, task), tmp_path, monkeypatch)


def assert_shown_the_same_from_disk(study, spec, folder, monkeypatch) -> None:
    plain = samples_of(study, spec)
    stored = prepared_samples("a", {"a": study}, spec, folder)
    for _ in range(2):
        assert stored.category == plain.category
        for seed in range(2):
            found, expected = (s.sample(Generator().manual_seed(seed), Augmentation()) for s in (stored, plain))
            assert all(torch.equal(a, b) for a, b in zip(found.inputs, expected.inputs, strict=True))
            assert torch.equal(found.target, expected.target)
            assert found.phase_axis == expected.phase_axis
        monkeypatch.setattr(module, "samples_of", lambda *_: pytest.fail("the case was prepared again"))


def test_a_training_learns_the_same_and_prepares_each_case_once(tmp_path, monkeypatch):
    plain = finetune(tiny_config(), tiny_dataset(), tmp_path / "plain")
    first = finetune(tiny_config(), tiny_dataset(), tmp_path / "first", prepared=tmp_path / "prepared")
    monkeypatch.setattr(module, "samples_of", lambda *_: pytest.fail("a case was prepared again"))
    second = finetune(tiny_config(), tiny_dataset(), tmp_path / "second", prepared=tmp_path / "prepared")
    for name, tensor in plain.average.items():
        assert torch.equal(tensor, first.average[name])
        assert torch.equal(tensor, second.average[name])
    assert len(list((tmp_path / "prepared").iterdir())) == 2


def test_cases_are_read_when_they_are_first_shown(tmp_path):
    read = []

    def reading(seed):
        read.append(seed)
        return tiny_labeled_case(seed)

    cases = LazyCases({f"case-{seed}": (f"made {seed}", lambda seed=seed: reading(seed)) for seed in range(3)})
    dataset = LabeledDataset(tiny_config().split, cases)
    folder = tmp_path / "prepared"
    run = finetune(tiny_config(steps=1), dataset, tmp_path / "one", prepared=folder)
    assert len(read) == 1
    finetune(tiny_config(), dataset, tmp_path / "all", prepared=folder)
    assert sorted(read) == [0, 1]  # and never the one that tests
    plain = finetune(tiny_config(steps=1), tiny_dataset(), tmp_path / "plain")
    assert all(torch.equal(tensor, run.average[name]) for name, tensor in plain.average.items())


def test_a_bundle_is_written_without_holding_the_cases_that_trained_it(tmp_path):
    alive, most = [0], [0]

    def reading(seed):
        case = tiny_labeled_case(seed)
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        weakref.finalize(case, lambda: alive.__setitem__(0, alive[0] - 1))
        return case

    names = [f"case-{seed}" for seed in range(9)]
    config = replace(tiny_config(steps=1), split=Split(tuple(names[:8]), (), tuple(names[8:])))
    cases = LazyCases({name: (name, lambda seed=seed: reading(seed)) for seed, name in enumerate(names)})
    dataset = LabeledDataset(config.split, cases)
    run = finetune(config, dataset, tmp_path / "training", prepared=tmp_path / "prepared")
    bundle = write_arm(config, run, dataset, tmp_path / "bundle", data="phantoms", init=None, license="Apache-2.0")
    assert bundle.metrics["test"]["trivial"]["what"] == "mean-shape"
    assert most[0] < 4


def test_whatever_decides_a_case_changes_where_it_lies(tmp_path):
    case, spec = tiny_labeled_case(0), tiny_config().model

    def path(own=case, network=spec):
        return prepared_samples("a", {"a": own}, network, tmp_path).path

    assert path() == path(tiny_labeled_case(0))
    grid = replace(spec.preprocess, spacing_mm=(2.0, 1.0, 1.0))
    flipped = replace(case, gland=case.gland.with_array(case.gland.array[..., ::-1].copy()))
    others = [path(tiny_labeled_case(1)), path(flipped), path(network=replace(spec, preprocess=grid))]
    assert len({path(), *others}) == 4
    assert case_identity(case) != case_identity(replace(case, category="PI-RADS 3"))


def test_what_a_killed_process_left_half_prepared_is_removed(tmp_path):
    script = (
        "import os; from pathlib import Path; from VFMTransferLib.training import prepared; "
        "prepared._write_fields = lambda owner, folder: (folder.mkdir(parents=True), os.kill(os.getpid(), 9)); "
        f"prepared._write(None, Path({str(tmp_path / 'case')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".case.")
    module._write(samples_of(tiny_labeled_case(0), tiny_config().model), tmp_path / "case")
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_a_damaged_case_is_named(tmp_path):
    stored = prepared_samples("a", {"a": tiny_labeled_case(0)}, tiny_config().model, tmp_path)
    stored.open()
    (stored.path / "image.npy").write_bytes(b"half")
    with pytest.raises(DatasetError, match=r"must be whole, but cannot be read\. Remove it"):
        stored.open()


def test_a_folder_is_read_case_by_case_and_a_changed_file_is_another_case(tmp_path):
    for seed in range(3):
        write_case(tmp_path / f"p{seed}", seed, "gland")
    plain, lazy = (folder_dataset(tmp_path, "anatomy-segmentation", lazy=how) for how in (False, True))
    assert lazy.split == plain.split
    assert isinstance(lazy.cases, LazyCases)
    assert case_identity(lazy.cases["p1"]) == case_identity(plain.cases["p1"])
    before = {name: lazy.cases.identity(name) for name in lazy.cases}
    shutil.rmtree(tmp_path / "p1")
    write_case(tmp_path / "p1", 7, "gland")
    after = folder_dataset(tmp_path, "anatomy-segmentation", lazy=True).cases
    assert {name for name in before if after.identity(name) != before[name]} == {"p1"}


def test_samples_drawn_ahead_by_threads_teach_the_same(tmp_path):
    plain = finetune(tiny_config(steps=6), tiny_dataset(), tmp_path / "plain")
    for ahead in (1, 3, 9):
        run = finetune(
            tiny_config(steps=6), tiny_dataset(), tmp_path / f"{ahead}", prepared=tmp_path / "shared", ahead=ahead
        )
        assert run.history == plain.history
        assert all(torch.equal(tensor, run.average[name]) for name, tensor in plain.average.items())
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("samples")]


def test_what_fails_ahead_fails_in_its_own_step_and_resumes(tmp_path, monkeypatch):
    whole, plain, drawn = finetune(tiny_config(steps=6), tiny_dataset(), tmp_path / "whole"), CropSamples.sample, []

    def fail_in_the_fifth(samples, *rest):
        drawn.append(samples.id)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return plain(samples, *rest)

    monkeypatch.setattr(CropSamples, "sample", fail_in_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_config(steps=6), tiny_dataset(), tmp_path / "stopped", ahead=1)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "stopped" / CHECKPOINT)["step"] == 4
    resumed = finetune(tiny_config(steps=6), tiny_dataset(), tmp_path / "stopped", ahead=1)
    assert resumed.history == whole.history
