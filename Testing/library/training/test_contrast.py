"""Pretraining by contrast: what a patch is, what the loss asks for, and that a run goes on where it stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import SMALL_SPECS
from torch import Generator, nn

from VFMTransferLib.core.case import Case
from VFMTransferLib.core.errors import CheckpointError, DatasetError
from VFMTransferLib.core.terms import Label, Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.encoders.base import ViTSpec
from VFMTransferLib.encoders.preparation import neighbor_slices, prepare, scale_slices
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.training.augmentation import NO_AUGMENTATION, Augmentation
from VFMTransferLib.training.contrastive import (
    ContrastConfig,
    contrast_loss,
    draw_patches,
    patch_classes,
    pretrain_contrast,
    tissue_loss,
)
from VFMTransferLib.training.optimization import Schedule
from VFMTransferLib.training.slices import cancer_classes, sample_slice, slice_case

# 8 x 8 patches; a window of 64 voxels of 2 mm.
TINY_VIT = ViTSpec(depth=1, dim=16, heads=2, registers=1, patch_px=4, image_px=32, pretrained_image_px=32)
SPEC = SMALL_SPECS["provicnet-fusion"]
SPEC = replace(
    SPEC,
    encoder=TINY_VIT,
    head=replace(SPEC.head, width=4),
    preprocess=replace(SPEC.preprocess, spacing_mm=(2.0, 2.0, 4.0), patch=(1, 64, 64)),
)
GRID = Geometry((50, 44, 7), (2.0, 2.5, 4.0), (-40.0, -50.0, -12.0))


def a_case(seed: int = 0):
    """Three sequences in which the classes can be seen."""
    z, y, x = np.indices(GRID.shape)
    classes = np.zeros(GRID.shape, np.uint8)
    classes[((x - 25) / 14) ** 2 + ((y - 22) / 10) ** 2 + ((z - 3) / 2.6) ** 2 < 1] = 1
    classes[((x - 30) / 5) ** 2 + ((y - 25) / 4) ** 2 + (z - 3) ** 2 < 1] = 3
    classes[((x - 19) / 5) ** 2 + ((y - 19) / 4) ** 2 + (z - 3) ** 2 < 1] = 2
    rng = np.random.default_rng(seed)
    images = {s: 100 + 40.0 * classes * (-1) ** i + rng.normal(0, 5, GRID.shape) for i, s in enumerate(Sequence)}
    volumes = {s: Volume(np.float32(array), GRID, str(s)) for s, array in images.items()}
    gland = Volume((classes > 0).astype(np.uint8), GRID, "gland")
    return Case(f"case-{seed}", volumes), gland, Volume(classes, GRID, "classes")


def a_slice_case(seed: int = 0):
    case, gland, classes = a_case(seed)
    return slice_case(case, SPEC, gland, classes)


def a_config(steps: int = 4, **changes) -> ContrastConfig:
    schedule = Schedule(steps, learning_rate=5e-3, checkpoint_every=2)
    return replace(ContrastConfig(SPEC, schedule, Augmentation(), seed=3, batch=2, pairs=8, drop_path=0.1), **changes)


def test_an_unvaried_sample_is_what_prediction_shows_the_network():
    case, gland, classes = a_case()
    sample = sample_slice(slice_case(case, SPEC, gland, classes), SPEC, Generator().manual_seed(1), NO_AUGMENTATION)
    prepared = prepare(case, SPEC, gland=gland)
    z = int(sample.positions[0])
    assert sample.positions.tolist() == [z, 7]
    _, y, x = prepared.starts[z]
    padded = np.pad(prepared.array, ((0, 0), (0, 0), (64, 64), (64, 64)))
    window = padded[:, list(neighbor_slices(z, 7)), y + 64 : y + 128, x + 64 : x + 128]
    np.testing.assert_allclose(sample.windows.numpy(), scale_slices(window, 32), atol=0.01)  # images are kept as fp16
    truth = np.pad(classes.resample_to(prepared.geometry, "nearest").array, ((0, 0), (64, 64), (64, 64)))
    np.testing.assert_array_equal(sample.classes.numpy(), truth[z, y + 64 : y + 128, x + 64 : x + 128])


def test_most_samples_hold_gland_and_the_ends_come_too():
    case = a_slice_case()
    drawn = [sample_slice(case, SPEC, Generator().manual_seed(i), Augmentation()) for i in range(60)]
    assert sum(bool(sample.classes.any()) for sample in drawn) > 40
    assert {int(sample.positions[0]) for sample in drawn} == set(range(7))


def test_a_phantom_says_which_cancer_is_significant():
    phantom = make_phantom(4, t2w_spacing_mm=(2.0, 2.0, 4.0), lesions=3)
    classes = cancer_classes(phantom, SPEC.labels).array
    grade = phantom.lesion.array
    assert (classes[grade >= 2] == SPEC.labels.index(Label.CSPCA)).all()
    assert (classes[grade == 1] == SPEC.labels.index(Label.INDOLENT_CANCER)).all()
    assert (classes[(grade == 0) & (phantom.gland.array > 0)] == SPEC.labels.index(Label.PROSTATE)).all()
    assert not classes[(grade == 0) & (phantom.gland.array == 0)].any()


def test_a_class_that_the_network_does_not_know_is_refused():
    case, gland, classes = a_case()
    with pytest.raises(DatasetError, match="must be below 4, but one is 9"):
        slice_case(case, SPEC, gland, classes.with_array(classes.array * 3))


def test_a_patch_is_what_most_of_it_is():
    classes = torch.zeros(1, 4, 4, dtype=torch.long)
    classes[0, :2, :2] = torch.tensor([[3, 3], [3, 1]])
    classes[0, 2:, 2:] = torch.tensor([[0, 0], [2, 2]])
    assert patch_classes(classes, 2, 4).tolist() == [[3, 0, 0, 2]]


def test_the_contrast_equals_pytorchs_cosine_embedding_loss():
    tokens, labels = torch.randn(7, 5, generator=Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1, 1, 3, 0])
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    kinds = {True: [], False: []}
    for i, j in pairs:
        same = bool(labels[i] == labels[j])
        sign = torch.tensor([1 if same else -1])
        kinds[same].append(nn.functional.cosine_embedding_loss(tokens[i : i + 1], tokens[j : j + 1], sign, margin=0.5))
    expected = (torch.stack(kinds[True]).mean() + torch.stack(kinds[False]).mean()) / 2
    torch.testing.assert_close(contrast_loss(tokens, labels), expected)


def test_separate_classes_cost_nothing_and_one_class_alone_is_no_error():
    tokens = torch.eye(2).repeat_interleave(3, dim=0)
    assert float(contrast_loss(tokens, torch.tensor([0, 0, 0, 1, 1, 1]))) == pytest.approx(0, abs=1e-6)
    assert float(contrast_loss(tokens[:1], torch.tensor([0]))) == 0


def test_pairs_are_drawn_evenly_from_the_classes():
    labels = torch.tensor([0] * 500 + [3] * 5 + [1] * 40)
    drawn = labels[draw_patches(labels, 16, Generator().manual_seed(0))]
    assert torch.bincount(drawn, minlength=4).tolist() == [16, 16, 0, 5]


def test_the_right_answer_costs_least():
    classes = torch.randint(4, (2, 8, 8), generator=Generator().manual_seed(0))
    right = 20.0 * nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2)
    assert float(tissue_loss(right, classes)) < 1e-3
    assert float(tissue_loss(right.roll(1, dims=1), classes)) > 1


def test_contrast_learns_and_changes_every_encoder(tmp_path):
    run = pretrain_contrast(a_config(40, augmentation=NO_AUGMENTATION, drop_path=0.0), [a_slice_case()], tmp_path)
    losses = [point["loss"] for point in run.history]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    fresh = pretrain_contrast(a_config(1, drop_path=0.0), [a_slice_case()], tmp_path / "fresh").average
    for stream in ("t2w", "adc", "dwi"):
        name = f"{stream}.backbone.blocks.0.attn.qkv.weight"
        assert not torch.equal(run.average[name], fresh[name])


def test_a_stopped_run_ends_where_an_unbroken_one_does(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(line, fraction):
        if fraction == 0.5:
            raise StoppedError

    cases = [a_slice_case(0), a_slice_case(1)]
    with pytest.raises(StoppedError):
        pretrain_contrast(a_config(), cases, tmp_path / "stopped", on_progress=stop)
    resumed = pretrain_contrast(a_config(), cases, tmp_path / "stopped")
    unbroken = pretrain_contrast(a_config(), cases, tmp_path / "unbroken")
    for name, tensor in unbroken.average.items():
        torch.testing.assert_close(resumed.average[name], tensor, rtol=0, atol=0)
    with pytest.raises(CheckpointError):
        pretrain_contrast(a_config(seed=4), cases, tmp_path / "stopped")


def test_without_cases_there_is_nothing_to_learn(tmp_path):
    with pytest.raises(DatasetError, match="at least one case"):
        pretrain_contrast(a_config(), [], tmp_path)
