"""The contrast of tissues: what a patch is, and what the loss demands."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

from VFMTransferLib.encoders.provicnet.pretraining import contrastive_loss, draw_patches, patch_classes
from VFMTransferLib.layers.blocks import tissue_loss


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
    torch.testing.assert_close(contrastive_loss(tokens, labels), expected)


def test_separate_classes_cost_nothing_and_one_class_alone_is_no_error():
    tokens = torch.eye(2).repeat_interleave(3, dim=0)
    assert float(contrastive_loss(tokens, torch.tensor([0, 0, 0, 1, 1, 1]))) == pytest.approx(0, abs=1e-6)
    assert float(contrastive_loss(tokens[:1], torch.tensor([0]))) == 0


def test_pairs_are_drawn_evenly_from_the_classes():
    labels = torch.tensor([0] * 500 + [3] * 5 + [1] * 40)
    drawn = labels[draw_patches(labels, 16, Generator().manual_seed(0))]
    assert torch.bincount(drawn, minlength=4).tolist() == [16, 16, 0, 5]


def test_the_right_answer_costs_least():
    classes = torch.randint(4, (2, 8, 8), generator=Generator().manual_seed(0))
    right = 20.0 * nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2)
    assert float(tissue_loss(right, classes)) < 1e-3
    assert float(tissue_loss(right.roll(1, dims=1), classes)) > 1
