"""Six tasks, two families, one engine: targets in the registry's units, arms that differ in one thing, learning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from study_examples import CELLS, FAMILIES, a_phantom, a_study, tiny_study_config, tiny_study_spec, unvaried
from torch import Generator, nn

from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.result import Provenance
from VFMTransferLib.core.terms import Arm, Label, TaskId
from VFMTransferLib.encoders import build_network
from VFMTransferLib.encoders.weights import encoder_weights
from VFMTransferLib.inference.windows import infer
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import DecodeOptions, NetworkOutput
from VFMTransferLib.tasks.lesions import class_map
from VFMTransferLib.tasks.scores import score_case
from VFMTransferLib.tasks.training import Objective, class_weights, collate
from VFMTransferLib.training.augmentation import NO_AUGMENTATION, Augmentation
from VFMTransferLib.training.cases import Split, StudySet
from VFMTransferLib.training.finetune import Initialization, averaged_network, finetune, initial_network
from VFMTransferLib.training.samples import SLICES_A_CASE, TARGET_STRIDE, prepare_labeled, samples_of
from VFMTransferLib.training.validation import NetworkSession, ValidationCases

SOURCE = Provenance("b", "B", "", "", "none", "cpu")
IMAGE_TASKS = (TaskId.SUPER_RESOLUTION, TaskId.DISTORTION_CORRECTION, TaskId.ADC_TRANSLATION)


def a_dataset(task: TaskId) -> StudySet:
    cases = {study.case.id: study for study in (a_study(task, 0), a_study(task, 1))}
    return StudySet(Split(tuple(cases)), cases)


def an_encoder(family: str) -> Initialization:
    """As pretraining leaves it: of ProFound one, of ProViCNet one a sequence."""
    spec = tiny_study_spec(family, TaskId.LESION_SEGMENTATION)
    torch.manual_seed(99)
    weights = encoder_weights(build_network(spec).state_dict(), spec)
    return Initialization({name: torch.randn_like(tensor) * 0.1 for name, tensor in weights.items()})


def given_back(study, spec, logits):
    """The result of a network that gives `logits` (C, D, H, W) on the whole network grid."""
    prepared = prepare_labeled(study, spec)
    (z, y, x), (depth, height, width) = prepared.box
    inside = np.ascontiguousarray(logits[:, z : z + depth, y : y + height, x : x + width], np.float32)
    options = DecodeOptions(phase_axis=study.phase_axis)
    return TASKS[study.task].decode(NetworkOutput(inside, prepared, study.case, spec, SOURCE, options))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", IMAGE_TASKS)
def test_a_network_that_gives_the_target_gives_the_truth(family, task):
    """The target's unit is what prediction takes the output for: far better than the trivial baseline."""
    study, spec = a_study(task), tiny_study_spec(family, task)
    maps = TASKS[study.task].training().targets(study, prepare_labeled(study, spec), spec)
    found = score_case(given_back(study, spec, maps[:1]), study).values
    trivial = score_case(TASKS[task].naive_baseline([study])(study), study).values
    if task == TaskId.ADC_TRANSLATION:
        assert found["mae gland"] < 0.2 * trivial["mae gland"]
    elif task == TaskId.DISTORTION_CORRECTION:
        assert found["displacement_mm gland"] < 0.1 * trivial["displacement_mm gland"]
        assert found["psnr_db gland"] > trivial["psnr_db gland"] + 3
    else:
        assert found["psnr_db gland"] > trivial["psnr_db gland"] + 10


@pytest.mark.parametrize("family", FAMILIES)
def test_anatomys_target_marks_the_gland_and_its_zones(family):
    study, spec = a_study(TaskId.ANATOMY_SEGMENTATION), tiny_study_spec(family, TaskId.ANATOMY_SEGMENTATION)
    prostate, peripheral, transition = TASKS[study.task].training().targets(study, prepare_labeled(study, spec), spec)
    logits = 20 * np.stack([1 - prostate, peripheral, transition])
    found = score_case(given_back(study, replace(spec, threshold=0.5), logits), study).values
    assert found["dice"] > 0.9
    assert found["dice transition-zone"] > 0.85


def test_zones_that_nobody_knows_are_unknown_and_only_the_gland_counts():
    study, spec = a_study(TaskId.ANATOMY_SEGMENTATION), tiny_study_spec("provicnet", TaskId.ANATOMY_SEGMENTATION)
    gland_alone = replace(study, masks={Label.PROSTATE: study.masks[Label.PROSTATE]})
    maps = TASKS[gland_alone.task].training().targets(gland_alone, prepare_labeled(study, spec), spec)
    assert (maps[1:] == -1).all()
    lesson, other = samples_of(study, spec), samples_of(gland_alone, spec)
    samples = [one.sample(Generator().manual_seed(3), NO_AUGMENTATION) for one in (lesson, other)]
    network = build_network(spec).eval()
    both = Objective(spec).loss(network, collate(samples))
    apart = [Objective(spec).loss(network, collate([sample])) for sample in samples]
    torch.testing.assert_close(both, (apart[0] + apart[1]) / 2)


def test_voxels_of_lesions_have_the_gravest_class():
    study, spec = a_study(TaskId.LESION_SEGMENTATION), tiny_study_spec("provicnet", TaskId.LESION_SEGMENTATION)
    classes, grade = class_map(study, spec).array, a_phantom(0).lesion.array
    assert (classes[grade >= 2] == spec.labels.index(Label.CSPCA)).all()
    assert (classes[grade == 1] == spec.labels.index(Label.INDOLENT_CANCER)).all()
    assert (classes[(grade == 0) & (study.gland.array > 0)] == spec.labels.index(Label.PROSTATE)).all()
    assert not classes[(grade == 0) & (study.gland.array == 0)].any()


@pytest.mark.parametrize("task", [TaskId.SUPER_RESOLUTION, TaskId.ADC_TRANSLATION])
def test_an_unvaried_window_is_one_of_predictions(task):
    study, spec = a_study(task), tiny_study_spec("profound", task)
    prepared = prepare_labeled(study, spec)
    sample = samples_of(study, spec).sample(Generator().manual_seed(0), NO_AUGMENTATION)
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(1, 1, *x.shape[2:])

    infer(NetworkSession(Recorder()).run, prepared, spec)
    assert min(float((sample.inputs[0] - window).abs().max()) for window in seen) < 0.02  # kept as fp16


@pytest.mark.parametrize("task", [TaskId.LESION_SEGMENTATION, TaskId.CLASSIFICATION])
def test_an_unvaried_view_is_predictions_crop_around_the_gland(task):
    study, spec = a_study(task), tiny_study_spec("profound", task)
    prepared = prepare_labeled(study, spec)
    assert prepared.centered_on == "gland"
    sample = samples_of(study, spec).sample(Generator(), NO_AUGMENTATION)
    z, y, x = prepared.starts[0]
    shown = np.s_[:, max(z, 0) : z + 16, max(y, 0) : y + 32, max(x, 0) : x + 48]
    expected = prepared.array[shown]
    given = sample.inputs[0][0][:, : expected.shape[1], : expected.shape[2], : expected.shape[3]].numpy()
    middle = np.s_[:, 2:-2, 2:-2, 2:-2]  # at the scan's own edge the two interpolate differently
    assert np.corrcoef(given[0][middle[1:]].ravel(), expected[0][middle[1:]].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("family", FAMILIES)
def test_in_the_mirror_a_displacement_to_the_left_points_to_the_right(family):
    study, spec = a_study(TaskId.DISTORTION_CORRECTION), tiny_study_spec(family, TaskId.DISTORTION_CORRECTION)
    study = replace(study, phase_axis="left-right")
    always, never = replace(NO_AUGMENTATION, flip=1.0), NO_AUGMENTATION
    lesson = samples_of(study, spec)
    plain, flipped = (lesson.sample(Generator().manual_seed(2), how).target[0] for how in (never, always))
    torch.testing.assert_close(flipped[0], -plain[0].flip(-1))
    torch.testing.assert_close(flipped[1:], plain[1:].flip(-1))
    along_y = samples_of(replace(study, phase_axis="anterior-posterior"), spec)
    plain, turned = (along_y.sample(Generator().manual_seed(2), how).target[0] for how in (never, always))
    torch.testing.assert_close(turned, plain.flip(-1))


def test_a_classifier_of_slices_is_trained_on_the_mean_that_prediction_takes():
    study, spec = a_study(TaskId.CLASSIFICATION), tiny_study_spec("provicnet", TaskId.CLASSIFICATION)
    lesson = samples_of(study, spec)
    assert lesson.marked == tuple(z for z, _, _ in prepare_labeled(study, spec).starts)
    sample = lesson.sample(Generator().manual_seed(0), NO_AUGMENTATION)
    assert sample.inputs[0].shape == (SLICES_A_CASE, 3, 64, 64)
    network = build_network(spec).eval()
    logits = network(*sample.inputs).mean(dim=0, keepdim=True)
    weights = (1.0, 1.0, 1.0, 1.0)
    expected = nn.functional.cross_entropy(logits, torch.tensor([lesson.category]))
    torch.testing.assert_close(Objective(spec, weights).loss(network, collate([sample])), expected)


def test_rare_classes_count_as_much_as_common_ones():
    assert class_weights([0, 0, 0, 2], 4) == (4 / 6, 0.0, 4 / 2, 0.0)


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_the_arms_differ_in_the_encoders_initial_weights_alone(family, task):
    config, encoder = tiny_study_config(family, task), an_encoder(family)
    arms = {arm: initial_network(config, encoder if arm is Arm.PRETRAINED else None).state_dict() for arm in Arm}
    own = encoder_weights(arms[Arm.PRETRAINED], config.model)
    of_encoder = {id(tensor) for tensor in own.values()}
    for name, tensor in own.items():
        assert torch.equal(tensor, encoder.weights[name]), name
    for name, tensor in arms[Arm.SCRATCH].items():
        if id(arms[Arm.PRETRAINED][name]) not in of_encoder:
            assert torch.equal(tensor, arms[Arm.PRETRAINED][name]), name  # batch norm's state too


@pytest.mark.parametrize("family", FAMILIES)
def test_the_arms_are_shown_the_same_at_the_same_rates(monkeypatch, tmp_path, family):
    task = TaskId.DISTORTION_CORRECTION
    config, shown = tiny_study_config(family, task), {}
    plain = Objective.loss
    for arm, init in ((Arm.SCRATCH, None), (Arm.PRETRAINED, an_encoder(family))):
        batches = shown[arm] = []
        monkeypatch.setattr(
            Objective, "loss", lambda self, n, batch, to=batches: (to.append(batch), plain(self, n, batch))[1]
        )
        run = finetune(config, a_dataset(task), tmp_path / arm, init=init)
        shown[arm] = [*batches, run.optimizer.param_groups[0]["lr"]]
    *first, first_rate = shown[Arm.SCRATCH]
    *second, second_rate = shown[Arm.PRETRAINED]
    assert len(first) == len(second) == 4
    assert first_rate == second_rate
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))
        assert torch.equal(a.target, b.target)


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_each_network_learns(tmp_path, family, task):
    # Little of the detail that super-resolution is asked for can be foretold, and it takes longer to be found.
    steps, bound = {TaskId.SUPER_RESOLUTION: (150, 0.95), TaskId.DISTORTION_CORRECTION: (24, 0.995)}.get(
        task, (24, 0.9)
    )
    config, dataset = unvaried(tiny_study_config(family, task, steps=steps)), a_dataset(task)
    lessons = [samples_of(case, config.model) for case in dataset.cases.values()]
    batch = collate([lesson.sample(Generator().manual_seed(7), NO_AUGMENTATION) for lesson in lessons])
    run = finetune(config, dataset, tmp_path)
    networks = (initial_network(config, None), run.network.train())
    objective = Objective(config.model, (0.5, 0.5, 1.0, 1.0))
    with torch.no_grad():
        before, after = (float(objective.loss(network, batch)) for network in networks)
    assert after < bound * before
    assert run.seconds > 0


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_a_network_is_examined_as_a_user_predicts(family, task):
    config = tiny_study_config(family, task)
    network = initial_network(config, None).eval()
    scores = ValidationCases(config.model, [a_study(task)]).scores(network)
    assert scores.task == task
    assert scores.cases[0].values


def test_varied_samples_repeat_with_their_seed_and_differ_with_another():
    for family in FAMILIES:
        lesson = samples_of(a_study(TaskId.ADC_TRANSLATION), tiny_study_spec(family, TaskId.ADC_TRANSLATION))
        a, again, b = (lesson.sample(Generator().manual_seed(seed), Augmentation()).inputs[0] for seed in (1, 1, 2))
        assert torch.equal(a, again)
        assert not torch.equal(a, b)


def test_a_stopped_run_of_slices_ends_as_an_unbroken_one(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(line, part):
        if part == 0.5:
            raise StoppedError

    task = TaskId.CLASSIFICATION
    config, dataset = tiny_study_config("provicnet", task), a_dataset(task)
    with pytest.raises(StoppedError):
        finetune(config, dataset, tmp_path / "stopped", on_progress=stop)
    resumed = finetune(config, dataset, tmp_path / "stopped")
    whole = finetune(config, dataset, tmp_path / "whole")
    for name, tensor in averaged_network(whole, config.model).state_dict().items():
        assert torch.equal(tensor, resumed.average[name]), name


def test_a_case_of_another_task_is_refused():
    with pytest.raises(DatasetError, match="must be for adc-translation, but is for super-resolution"):
        samples_of(a_study(TaskId.SUPER_RESOLUTION), tiny_study_spec("profound", TaskId.ADC_TRANSLATION))


def test_targets_of_lesions_are_half_as_fine_as_the_input():
    spec = tiny_study_spec("profound", TaskId.LESION_SEGMENTATION)
    sample = samples_of(a_study(TaskId.LESION_SEGMENTATION), spec).sample(Generator(), NO_AUGMENTATION)
    assert sample.target.shape == (1, 1, *(n // TARGET_STRIDE for n in spec.preprocess.patch))
    assert sample.target.max() > 0.2


@pytest.mark.parametrize("task", [TaskId.SUPER_RESOLUTION, TaskId.CLASSIFICATION])
def test_unvaried_slices_are_those_of_prediction_also_where_windows_share_a_slice(task):
    study, spec = a_study(task), tiny_study_spec("provicnet", task)
    prepared = prepare_labeled(study, spec)
    several = len({start[1:] for start in prepared.starts}) > 1
    assert several == (task == TaskId.SUPER_RESOLUTION)
    seen = []

    class Recorder(nn.Module):
        def forward(self, *inputs):
            seen.append(inputs)
            return torch.zeros((1, 4) if task == TaskId.CLASSIFICATION else (1, 1, 64, 64))

    infer(NetworkSession(Recorder()).run, prepared, spec)
    for seed in range(4):
        sample = samples_of(study, spec).sample(Generator().manual_seed(seed), NO_AUGMENTATION)
        first = [part[:1] for part in sample.inputs]
        nearest = min(max(float((a - b).abs().max()) for a, b in zip(first, shown, strict=True)) for shown in seen)
        assert nearest < 0.02  # kept as fp16
