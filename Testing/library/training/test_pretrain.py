"""Each pretext task is learned by the one loop, goes on where it stopped, and gives encoders that fine-tuning takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from slice_cases import SPEC, a_tissue_case
from training_cases import tiny_case
from training_divisions import a_pretext_config

from VFMTransferLib.core.errors import CheckpointError, DatasetError
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.pretext import PretextTask, pretext_task, pretext_tasks
from VFMTransferLib.training.augmentation import NO_AUGMENTATION, Augmentation
from VFMTransferLib.training.loop import Schedule
from VFMTransferLib.training.pretrain import PretrainConfig, pretrain

IMAGES = [tiny_case(seed)[0] for seed in range(2)]
CASES = {"mae": IMAGES, "contrastive": [a_tissue_case(0), a_tissue_case(1)]}


@pytest.mark.parametrize("name", pretext_tasks())
def test_a_stopped_run_ends_as_an_unbroken_one(tmp_path, name):
    class StopError(Exception):
        pass

    def stop(_line: str, part: float) -> None:
        if part < 1:
            raise StopError

    whole = pretrain(a_pretext_config(name), CASES[name], tmp_path / "whole")
    with pytest.raises(StopError):
        pretrain(a_pretext_config(name), CASES[name], tmp_path / "stopped", on_progress=stop)
    resumed = pretrain(a_pretext_config(name), CASES[name], tmp_path / "stopped")
    assert resumed.history == whole.history
    for tensor_name, tensor in whole.average.items():
        assert torch.equal(tensor, resumed.average[tensor_name]), tensor_name


@pytest.mark.parametrize(("name", "setting"), [("mae", {"hidden": 0.5}), ("contrastive", {"pairs": 7})])
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, name, setting):
    pretrain(a_pretext_config(name, 1), CASES[name], tmp_path)
    with pytest.raises(CheckpointError, match="is of another"):
        pretrain(a_pretext_config(name, 1, **setting), CASES[name], tmp_path)
    with pytest.raises(CheckpointError, match="is of another"):
        pretrain(a_pretext_config(name, 1), CASES[name][:1], tmp_path)


def test_the_encoders_weights_bear_the_encoders_own_names(tmp_path):
    config = a_pretext_config("mae", 1)
    run = pretrain(config, IMAGES, tmp_path)
    found = config.pretext.pretrained(run.average)
    assert set(found) == set(run.network.encoder.state_dict())
    assert "downsample_layers.0.0.weight" in found


def test_contrast_learns_and_changes_every_encoder(tmp_path):
    config = replace(a_pretext_config("contrastive", 40, drop_path=0.0), augmentation=NO_AUGMENTATION)
    run = pretrain(config, CASES["contrastive"][:1], tmp_path)
    losses = [point["loss"] for point in run.history]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    fresh = pretrain(
        a_pretext_config("contrastive", 1, drop_path=0.0), CASES["contrastive"][:1], tmp_path / "fresh"
    ).average
    for stream in ("t2w", "adc", "dwi"):
        name = f"{stream}.backbone.blocks.0.attn.qkv.weight"
        assert not torch.equal(run.average[name], fresh[name])


@pytest.mark.parametrize("name", pretext_tasks())
def test_without_cases_there_is_nothing_to_learn(tmp_path, name):
    with pytest.raises(DatasetError, match="at least one case"):
        pretrain(a_pretext_config(name), [], tmp_path)


def test_contrast_needs_masks_of_prostate_and_lesions(tmp_path):
    for case in (IMAGES[0], replace(a_tissue_case(), gland=None)):
        with pytest.raises(DatasetError, match="must have masks of prostate and lesions"):
            pretrain(a_pretext_config("contrastive"), [case], tmp_path)


@dataclass(frozen=True)
class Brightness(PretextTask):
    """A pretext task of slices that needs no tissues: the mean of each sequence."""

    name = "brightness"
    batch = 2

    def build(self):
        return build_network(self.spec)

    def sample(self, view, generator):
        assert view.tissues is None
        return view.image, view.position

    def loss(self, network, generator, images, positions):
        return (network(*images.unbind(1), positions).mean() - images.mean()) ** 2

    def pretrained(self, weights):
        return dict(weights)


@pytest.mark.parametrize("task", [SPEC.task, None])
def test_slices_can_be_learned_from_images_alone(tmp_path, task):
    grid = replace(SPEC.preprocess, normalization="zscore-nonzero")
    pretext = Brightness(replace(SPEC, task=task, preprocess=grid))
    config = PretrainConfig(pretext, Schedule(2, checkpoint_every=2), Augmentation(), seed=2, batch=2)
    images, labeled = a_tissue_case(0).case, a_tissue_case(1)
    run = pretrain(config, [images, labeled], tmp_path)
    assert run.history[-1]["loss"] > 0


def test_tissues_of_windows_are_refused(tmp_path):
    config = a_pretext_config("mae")
    config = replace(config, pretext=replace(a_pretext_config("contrastive").pretext, spec=config.pretext.spec))
    with pytest.raises(ValueError, match="needs the tissues of slices"):
        pretrain(config, [a_tissue_case()], tmp_path)


def test_pretext_tasks_and_settings_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="must be one of mae, contrastive, got 'jigsaw'"):
        pretext_task("jigsaw")
    with pytest.raises(ValueError, match="mae has the settings hidden, decoder_width, but not pairs"):
        pretext_task("mae", pairs=3)
