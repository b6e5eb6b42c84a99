"""What teaches a classifier: its class, by the worst slice, and lesions, where they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from study_examples import a_phantom, a_study, tiny_study_spec, write_case
from torch import Generator

from VFMTransferLib.core.terms import Label
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.pretext import TISSUES
from VFMTransferLib.encoders.provicnet.network import OrderedClasses
from VFMTransferLib.inference.windows import infer
from VFMTransferLib.io import write_volume
from VFMTransferLib.layers.blocks import tissue_loss
from VFMTransferLib.metrics.classification import auroc
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.training import AUXILIARY_WEIGHT, Batch, Objective, collate
from VFMTransferLib.training.cases import folder_dataset
from VFMTransferLib.training.config import NO_AUGMENTATION
from VFMTransferLib.training.samples import SLICES_A_CASE, prepare_labeled, samples_of

TRAINING = TASKS["classification"].training()


def a_batch(study, spec, samples: int = 2) -> Batch:
    drawn = samples_of(study, spec)
    return collate([drawn.sample(Generator().manual_seed(k), NO_AUGMENTATION) for k in range(samples)])


def a_case_with_cancer():
    phantoms = (TASKS["classification"].from_phantom(a_phantom(seed)) for seed in range(20))
    return next(study for study in phantoms if study.is_significant)


def test_slices_come_with_what_is_known_of_their_lesions():
    study, spec = a_case_with_cancer(), tiny_study_spec("provicnet", "classification")
    batch = a_batch(study, spec)
    assert batch.target.shape == (2 * SLICES_A_CASE, 1, *spec.preprocess.patch[1:])
    assert batch.category.tolist() == 2 * [spec.labels.index(study.category)]
    grid, maps = prepare_labeled(study, spec).geometry, samples_of(study, spec).maps[0].numpy()
    cancer, gland = (mask.resample_to(grid, "nearest").array > 0 for mask in (study.masks[Label.CSPCA], study.gland))
    assert cancer.any()
    np.testing.assert_array_equal(maps == TISSUES.index(Label.CSPCA), cancer)
    np.testing.assert_array_equal(maps > 0, gland | cancer)


def test_a_slice_of_each_case_shows_its_cancer():
    """Of this case few slices do: by chance most samples would show none."""
    study, spec = a_case_with_cancer(), tiny_study_spec("provicnet", "classification")
    samples = samples_of(study, spec)
    shown = (samples.maps[0] == TISSUES.index(Label.CSPCA)).any(dim=(1, 2)).nonzero().flatten().tolist()
    assert samples.worst == tuple(shown)
    assert len(shown) < len(samples.marked) / 2
    for seed in range(8):
        slices = samples.sample(Generator().manual_seed(seed), NO_AUGMENTATION).inputs[-1][:, 0].tolist()
        assert slices[0] in shown
        assert set(slices) <= set(samples.marked)


def test_a_more_suspicious_slice_has_a_higher_expected_class():
    head = OrderedClasses(features=4, classes=4)
    torch.manual_seed(0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=2)
    features = torch.randn(50, 4)
    more = features.clone()
    more[:, 2] += 1
    with torch.no_grad():
        less_severe, severe = (head(x).softmax(dim=1) @ torch.arange(4.0) for x in (features, more))
    assert (severe > less_severe).all()


def test_lesions_teach_the_places_that_show_them():
    """Gradient descent on one phantom: pixels that show its cancer become more suspicious than others."""
    spec = tiny_study_spec("provicnet", "classification")
    torch.manual_seed(0)
    network, objective = build_network(spec).train(), Objective(spec, (1.0,) * 4)
    batch = a_batch(a_case_with_cancer(), spec, samples=5)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        objective.loss(network, batch).backward()
        optimizer.step()
    with torch.no_grad():
        _, tissue = network(*batch.inputs)
    suspicion = torch.nn.functional.interpolate(tissue, batch.target.shape[2:]).softmax(dim=1)
    cancer = TISSUES.index(Label.CSPCA)
    there = batch.target[:, 0] == cancer
    assert 0 < there.sum() < there.numel() / 4
    assert auroc(suspicion[:, cancer].flatten().tolist(), there.flatten().tolist()) > 0.8


def test_the_class_of_a_case_is_that_of_its_worst_slice():
    """Of two cases with three slices each: the first's last slice and the second's first are the worst."""
    mild, severe = [4.0, 2.0, 0.0, -1.0], [-2.0, 0.0, 1.0, 3.0]
    logits = torch.tensor([mild, mild, severe, severe, mild, mild], requires_grad=True)
    batch = Batch((), torch.zeros(6, 0, 8, 8), (0, 0), torch.tensor([3, 0]))
    loss = TRAINING.loss(logits, batch, None, (1.0,) * 4)
    loss.backward()
    expected = torch.nn.functional.cross_entropy(torch.tensor([severe, severe]), batch.category)
    assert float(loss.detach()) == pytest.approx(float(expected))
    assert logits.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [2, 3]


def test_prediction_takes_the_worst_slice_as_training_does():
    study, spec = a_case_with_cancer(), tiny_study_spec("provicnet", "classification")
    torch.manual_seed(0)
    network = build_network(spec).eval()
    prepared = prepare_labeled(study, spec)
    each = []

    def run(*inputs):
        with torch.no_grad():
            each.append(network(*map(torch.from_numpy, inputs)).numpy())
        return each[-1]

    found = infer(run, prepared, spec)
    slices = np.concatenate(each)
    assert len(slices) > 3
    batch = Batch((), torch.zeros(len(slices), 0, 8, 8), (0,), torch.tensor([2]))
    of_case = TRAINING.loss(torch.from_numpy(slices), batch, spec, (1.0,) * 4)
    assert float(of_case) == pytest.approx(-float(torch.from_numpy(found).log_softmax(0)[2]), rel=1e-5)
    severity = torch.from_numpy(slices).softmax(dim=1) @ torch.arange(4.0)
    np.testing.assert_array_equal(found, slices[int(severity.argmax())])


def test_a_slice_without_any_suspicion_has_a_class():
    spec = tiny_study_spec("provicnet", "classification")
    network, batch = build_network(spec).eval(), a_batch(a_case_with_cancer(), spec)
    output = network.segmentation[-1]
    torch.nn.init.zeros_(output.weight)
    with torch.no_grad():
        output.bias.copy_(torch.tensor([200.0, 0.0, 0.0, 0.0]))
    with torch.no_grad():
        assert network(*batch.inputs).isfinite().all()


def test_where_lesions_are_not_known_the_class_alone_teaches():
    output, target = torch.randn(4, 4, 8, 8), torch.zeros(4, 1, 8, 8)
    target[0, 0, 3, 3] = 3
    known = 10 / AUXILIARY_WEIGHT * tissue_loss(output[:2], target[:2, 0].long())
    target[2:] = -1
    assert float(TRAINING.loss(output, Batch((), target, (0,)), None, ())) == pytest.approx(float(known))
    for nothing in (torch.full_like(target, -1), torch.zeros(4, 0, 8, 8)):
        assert float(TRAINING.loss(output, Batch((), nothing, (0,)), None, ())) == 0


@pytest.mark.parametrize(
    ("pirads", "grade", "is_known"), [(5, 3, True), (5, 1, False), (2, 3, False), (2, 1, True), (3, 0, True)]
)
def test_a_mask_teaches_where_it_agrees_with_the_class(tmp_path, pirads, grade, is_known):
    """A mask without grades, 1 where there is cancer, does not state where a PI-RADS 5 lies."""
    for seed in range(2):
        write_case(tmp_path / f"p{seed}", seed, "gland")
        gland = a_phantom(seed).gland
        write_volume(gland.with_array(gland.array * np.uint8(grade)), tmp_path / f"p{seed}" / "lesion.nii.gz")
    (tmp_path / "labels.csv").write_text(f"case,pirads\np0,{pirads}\np1,{pirads}\n")
    study = folder_dataset(tmp_path, "classification").cases["p0"]
    assert study.category == f"PI-RADS {pirads}"
    assert (Label.CSPCA in study.masks) == is_known


def test_a_network_of_volumes_learns_from_the_class_alone():
    batch = a_batch(a_study("classification"), tiny_study_spec("profound", "classification"))
    assert batch.target.shape == (2, 0)
    assert batch.category.shape == (2,)
