"""Losses of images, weights of classes, and targets in the unit that prediction takes an output for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from study_examples import FAMILIES, a_study, tiny_study_spec
from training_cases import decode_logits

from VFMTransferLib.metrics.agreement import ssim
from VFMTransferLib.tasks import TASKS, score_case
from VFMTransferLib.tasks.training import SSIM_WEIGHT, Batch, class_weights, image_loss
from VFMTransferLib.training.samples import prepare_labeled

IMAGE_TASKS = ("super-resolution", "distortion-correction", "adc-translation")


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
    counts = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(2, 1, 3, 4)
    target = torch.cat([torch.full((2, 2, 3, 4), 0.1), counts], dim=1)
    found = torch.full((2, 1, 3, 4), 0.3)
    found[..., 3] = 9.0  # a margin without truth
    training = TASKS["super-resolution"].training()
    assert float(training.loss(found, Batch((), target, (0, 0)), None, ())) == pytest.approx(4.0)


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


def test_similarity_keeps_its_precision_where_products_do_not():
    found, truth = (x + 40 for x in some_images())  # a bfloat16 has no place left for what differs here
    expected = image_loss(found, truth)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(image_loss(found, truth), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_network_that_gives_the_target_gives_the_truth(family, task):
    """The target's unit is what prediction takes the output for: far better than the naive baseline."""
    study, spec = a_study(task), tiny_study_spec(family, task)
    maps = TASKS[study.task].training().targets(study, prepare_labeled(study, spec), spec)
    found = score_case(decode_logits(study, spec, maps[:1]), study).values
    naive = score_case(TASKS[task].naive_baseline([study])(study), study).values
    if task == "adc-translation":
        assert found["mae gland"] < 0.2 * naive["mae gland"]
    elif task == "distortion-correction":
        assert found["displacement_mm gland"] < 0.1 * naive["displacement_mm gland"]
        assert found["psnr_db gland"] > naive["psnr_db gland"] + 3
    else:
        assert found["psnr_db gland"] > naive["psnr_db gland"] + 10


def test_rare_classes_count_as_much_as_common_ones():
    assert class_weights([0, 0, 0, 2], 4) == (4 / 6, 0.0, 4 / 2, 0.0)


def test_rare_classes_count_as_much_in_small_batches():
    """A batch of one class weighs it too: the mean over batches is the loss of all cases together."""
    training, weights = TASKS["classification"].training(), class_weights([0, 0, 0, 2], 4)
    logits, target = torch.zeros(4, 4), torch.tensor([0, 0, 0, 2])

    def cost(cases: slice) -> float:
        return float(training.loss(logits[cases], Batch((), torch.zeros(1, 0), (0,), target[cases]), None, weights))

    assert cost(slice(3, 4)) == pytest.approx(3 * cost(slice(0, 1)))
    assert np.mean([cost(slice(0, 2)), cost(slice(2, 4))]) == pytest.approx(cost(slice(0, 4)))
