"""Losses of images and displacements, by hand and by a second implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from VFMTransferLib.metrics.arrays import ssim
from VFMTransferLib.phantom import distort
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.distortion_correction.training import IMAGE_WEIGHT, displacement_loss, undistorted
from VFMTransferLib.tasks.training import SSIM_WEIGHT, Batch, image_loss


def some_images(shape: tuple[int, ...] = (2, 1, 3, 16, 20)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(shape, generator=generator)
    return truth + 0.1 * torch.randn(shape, generator=generator), truth


def test_an_images_loss_is_its_error_and_its_dissimilarity():
    found, truth = some_images()
    span = float(truth.max() - truth.min())
    similar = [ssim(f[0].numpy(), t[0].numpy(), span) for f, t in zip(found, truth, strict=True)]
    expected = float((found - truth).abs().mean()) + SSIM_WEIGHT * (1 - np.mean(similar))
    assert float(image_loss(found, truth)) == pytest.approx(expected, rel=1e-3)


def test_places_count_by_their_weight():
    found, truth, weight = (
        torch.tensor([[[[1.0, 5.0, 0.0]]]]),
        torch.zeros(1, 1, 1, 3),
        torch.tensor([[[[3.0, 1.0, 0.0]]]]),
    )
    assert float(image_loss(found, truth, weight)) == pytest.approx((3 * 1 + 5) / 4)


def test_detail_costs_its_squared_error():
    batch = Batch((), torch.full((2, 2, 3, 4), 0.1), (0, 0))
    training = TASKS["super-resolution"].training()
    assert float(training.loss(torch.full((2, 1, 3, 4), 0.3), batch, None, ())) == pytest.approx(4.0)


def test_a_volume_and_its_slices_cost_the_same():
    found, truth = some_images()
    slices = [x.transpose(1, 2).flatten(0, 1) for x in (found, truth)]
    torch.testing.assert_close(image_loss(found, truth), image_loss(*slices))


def test_what_is_not_looked_at_costs_nothing():
    _, truth = some_images()
    weight = torch.zeros_like(truth)
    weight[..., :10] = 1
    wrong = truth.clone()
    wrong[..., 10:] += 3
    assert float(image_loss(wrong, truth, weight)) == pytest.approx(0, abs=1e-5)
    wrong[..., :10] += 0.5
    assert float(image_loss(wrong, truth, weight)) >= 0.5


@pytest.mark.parametrize("axis", [-1, -2])
def test_the_true_displacement_undoes_the_distortion(axis):
    place = np.indices((3, 30, 40))[axis].astype(np.float32)
    image = np.exp(-(((place - 18) / 6) ** 2)).astype(np.float32)
    shift = 1.5 * np.sin(place / 7).astype(np.float32)
    seen = torch.from_numpy(distort(image, shift, 3 + axis))
    found = undistorted(seen, torch.from_numpy(2.0 * shift), axis, step_mm=2.0)
    middle = (slice(None), slice(5, -5), slice(5, -5))
    assert float((found - torch.from_numpy(image))[middle].abs().max()) < 0.1 * float(
        (seen - torch.from_numpy(image))[middle].abs().max()
    )


def test_a_displacements_loss_by_hand():
    """A constant displacement by a voxel of 2 mm, found to half: the field is 1 mm off, the ramp half a step."""
    ramp = torch.arange(8.0).expand(2, 8)
    truth_mm, found_mm = torch.full((2, 8), 2.0), torch.full((2, 8), 1.0)
    tissue = torch.zeros(2, 8)
    tissue[:, 1:6] = 1
    loss = displacement_loss(found_mm, torch.stack([truth_mm, ramp, ramp + 1, tissue]), -1, 2.0)
    assert float(loss) == pytest.approx(1 + IMAGE_WEIGHT * 0.5)


def test_a_displacement_can_be_learned_from_the_image_alone():
    place = torch.arange(40.0).expand(2, 40)
    truth, seen = (torch.exp(-(((place - middle) / 5) ** 2)) for middle in (18, 19.5))
    along = torch.zeros(1, requires_grad=True)  # one number for all places
    optimizer = torch.optim.Adam([along], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (undistorted(seen, along.expand(2, 40), -1, 1.0) - truth).abs().mean().backward()
        optimizer.step()
    assert float(along.detach()) == pytest.approx(1.5, abs=0.15)


def test_similarity_keeps_its_precision_where_products_do_not():
    found, truth = (x + 40 for x in some_images())  # a bfloat16 has no place left for what differs here
    expected = image_loss(found, truth)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(image_loss(found, truth), expected)
