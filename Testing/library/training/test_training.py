"""From a recipe and a folder of cases to a pair of bundles that predict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_cases import tiny_case, tiny_spec

from VFMTransferLib.bundles.bundle import Bundle, read_bundle, verify
from VFMTransferLib.bundles.metadata import spec_to_json, to_json
from VFMTransferLib.bundles.weights import load_network, read_weights
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.terms import Arm, Sequence
from VFMTransferLib.io import write_volume
from VFMTransferLib.training.anatomy import (
    finetune_arm,
    phantom_cases,
    pretrain_encoder,
    read_training_cases,
    write_arm,
)
from VFMTransferLib.training.augmentation import Augmentation
from VFMTransferLib.training.crossfit import CrossFit
from VFMTransferLib.training.dataset import Split
from VFMTransferLib.training.optimization import Schedule
from VFMTransferLib.training.recipes import (
    Evaluation,
    FinetunePart,
    PhantomSource,
    PretrainPart,
    Recipe,
    read_recipe,
)
from VFMTransferLib.training.record import training_card

SHIPPED = Path(__file__).resolve().parents[3] / "Resources" / "Training" / "anatomy.json"


@pytest.fixture
def a_recipe() -> Recipe:
    schedule = Schedule(2, checkpoint_every=2)
    return Recipe(
        format=1,
        name="tiny",
        title="Tiny",
        model=tiny_spec(),
        split=Split(("case-0", "case-1"), (), ("case-2",)),
        labels="gland",
        seed=1,
        phantoms=PhantomSource(0, (1.0, 1.0, 3.0)),
        pretrain=PretrainPart(schedule, Augmentation(), 0.6, 8, 0.0),
        crossfit=CrossFit(2, 0.5, 0.7, schedule),
        finetune=FinetunePart(schedule, Augmentation(), 0.0, 0.0, 2),
        evaluation=Evaluation(("case-1", "case-2"), ("gland", "gland_other"), ("A note on the masks.",)),
        license="Apache-2.0",
        attribution="Images: made up for this test.",
    )


@pytest.fixture
def a_data_folder(tmp_path) -> Path:
    for seed in range(3):
        case, mask = tiny_case(seed)
        folder = tmp_path / "data" / case.id
        folder.mkdir(parents=True)
        write_volume(case[Sequence.T2W], folder / "t2w.nii.gz")
        write_volume(mask, folder / "gland.nii.gz")
    return tmp_path / "data"


def written(recipe: Recipe, path: Path, **changes) -> Path:
    document = {**to_json(recipe), "model": spec_to_json(recipe.model), **changes}
    path.write_text(json.dumps(document))
    return path


def test_a_recipe_is_read_as_it_was_written(a_recipe, tmp_path):
    assert read_recipe(written(a_recipe, tmp_path / "r.json")) == a_recipe


def test_the_shipped_recipe_can_be_read_and_keeps_its_promises():
    recipe = read_recipe(SHIPPED)
    assert recipe.model.preprocess.sequences == (Sequence.T2W, None, None)
    assert "ProstateX-0214" not in recipe.split.train  # its image is CC BY-NC
    assert recipe.labels == "gland_taps"
    assert set(recipe.pretrain_config.cases) == set(recipe.split.train)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "one"}, "'recipe.seed' must be a whole number"),
        ({"surprise": 1}, "'recipe' must hold only .* also holds 'surprise'"),
        ({"format": 2}, "must have format 1, but has 2"),
        ({"split": {"train": ["a"], "validation": ["a"], "test": []}}, "must stand once"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_key(a_recipe, tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        read_recipe(written(a_recipe, tmp_path / "r.json", **changes))


def test_a_recipe_that_is_not_there_or_no_json_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no file is there"):
        read_recipe(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DatasetError, match="must be readable JSON"):
        read_recipe(tmp_path / "bad.json")


def test_a_recipe_and_a_folder_become_a_pair_of_bundles(a_recipe, a_data_folder, tmp_path):
    work = tmp_path / "work"
    encoder = pretrain_encoder(a_recipe, a_data_folder, work)
    bundles = {}
    for arm, start in ((Arm.PRETRAINED, encoder), (Arm.SCRATCH, None)):
        run = finetune_arm(a_recipe, arm, a_data_folder, work, encoder=start)
        bundles[arm] = write_arm(a_recipe, arm, run, a_data_folder, tmp_path / "bundles")
    for arm, bundle in bundles.items():
        found = read_bundle(bundle.folder)
        verify(found)
        assert found.arm is arm
        assert found.name == f"tiny-{arm}"
        assert found.demonstration
        assert found.onnx_path.is_file()
        assert found.training["recipe"]["split"]["train"] == ["case-0", "case-1"]
        assert found.metrics["cases"]["case-2"]["gland"].keys() == {"dice", "hd95_mm"}
        network = load_network(found)
        assert network(torch.zeros(1, 3, 16, 32, 48)).shape == (1, 2, 16, 32, 48)
    assert bundles[Arm.PRETRAINED].spec == bundles[Arm.SCRATCH].spec


def test_a_card_says_who_trained_it_and_how_good_it_is(a_recipe):
    bundle = Bundle(Path("b"), "b", "B", "1", a_recipe.model, license="Apache-2.0")
    values = {"dice": 0.9, "hd95_mm": 4.0}
    cases = {"case-1": {"volume_ml": 40.2, "gland": values}, "case-2": {"volume_ml": 31.0, "gland_other": values}}
    card = training_card(replace(bundle, metrics={"cases": cases, "notes": ["A note on the masks."]}), a_recipe)
    assert "| case-1 | training | 40 | 0.900 | 4.0 |  |  |" in card
    assert "| case-2 | unseen | 31 |  |  | 0.900 | 4.0 |" in card
    for text in ("made up for this test", "A note on the masks.", "case-0, case-1", "Limits"):
        assert text in card


def test_the_pretrained_encoder_has_the_encoders_own_names(a_recipe, a_data_folder, tmp_path):
    names = set(read_weights(pretrain_encoder(a_recipe, a_data_folder, tmp_path / "work")))
    assert "downsample_layers.0.0.weight" in names
    assert not any(name.startswith("encoder.") for name in names)


def test_a_missing_case_or_mask_is_named(a_recipe, a_data_folder):
    with pytest.raises(DatasetError, match="lacks case-7"):
        read_training_cases(a_data_folder, ["case-0", "case-7"], a_recipe.model)
    with pytest.raises(DatasetError, match="'case-0' must have a mask zones"):
        read_training_cases(a_data_folder, ["case-0"], a_recipe.model, "zones")


def test_phantoms_come_with_gland_and_zones(a_recipe):
    case = phantom_cases(PhantomSource(1, (2.0, 2.0, 5.0)), replace(a_recipe.model))[0]
    assert case.labels.shape[0] == 3
    assert (case.labels[1:].float().sum(0) <= case.labels[0].float() + 1e-3).all()
