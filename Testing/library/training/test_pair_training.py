"""From a recipe of a pair and a folder of real cases to both arms' bundles, with what was measured beside nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from study_examples import SPACING_MM, a_study, tiny_study_spec, write_case

from VFMTransferLib.bundles.bundle import read_bundle, verify
from VFMTransferLib.bundles.metadata import to_json
from VFMTransferLib.cli import main
from VFMTransferLib.core.errors import DatasetError
from VFMTransferLib.core.terms import Arm, TaskId
from VFMTransferLib.inference.predict import predict
from VFMTransferLib.study.config import Phantoms, PhantomSplit
from VFMTransferLib.training import arms as study_training
from VFMTransferLib.training.cases import MaskNames
from VFMTransferLib.training.dataset import Split
from VFMTransferLib.training.pair import pair_data
from VFMTransferLib.training.recipes import PairRecipe, is_pair_recipe, read_pair_recipe

SHIPPED = Path(__file__).resolve().parents[3] / "Resources" / "Training"
GROUPS = (Phantoms(0, 1), Phantoms(1, 1), Phantoms(2, 1))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setattr(study_training, "demonstration", tiny_study_spec)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for name, seed in (("a", 5), ("b", 6)):
        write_case(folder / name, seed, "gland", "lesion")
        (folder / name / "gland.nii.gz").rename(folder / name / "gland_net.nii.gz")
    return folder


def a_recipe(task: TaskId = TaskId.SUPER_RESOLUTION, **changes) -> PairRecipe:
    recipe = PairRecipe(
        format=2,
        name="tiny",
        title="Tiny network",
        task=task,
        encoder="profound",
        seed=3,
        steps=2,
        precision="float32",
        split=Split(("a",), (), ("b",)),
        masks=MaskNames(gland=("gland_drawn", "gland_net")),
        phantoms=PhantomSplit(SPACING_MM, *GROUPS),
        phantom_share=0.5,
        license="Apache-2.0",
        attribution="Images: none but phantoms.",
        limits=("Says nothing.",),
    )
    return replace(recipe, **changes)


def written(recipe: PairRecipe, path: Path, **changes) -> Path:
    path.write_text(json.dumps({**to_json(recipe), **changes}))
    return path


def test_a_recipe_is_read_as_it_was_written(tmp_path):
    path = written(a_recipe(), tmp_path / "r.json")
    assert is_pair_recipe(path)
    assert read_pair_recipe(path) == a_recipe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet"}, "encoder must be one of profound, provicnet, got 'resnet'"),
        ({"steps": "many"}, "'recipe.steps' must be a whole number"),
        ({"speed": 1}, "'recipe' must hold only .* also holds 'speed'"),
        ({"split": {"train": ["a"], "validation": [], "test": ["a"]}}, "must stand once in a split"),
        ({"phantom_share": 1.0}, "below 1, got 1"),
        ({"phantoms": to_json(PhantomSplit(SPACING_MM, *GROUPS, False))}, "full_resolution must be true"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        read_pair_recipe(written(a_recipe(), tmp_path / "r.json", **changes))


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_the_shipped_recipes_can_be_read(path):
    if path.stem == "anatomy":
        assert not is_pair_recipe(path)
        return
    recipe = read_pair_recipe(path)
    assert (recipe.task, recipe.name) == (TaskId(path.stem), f"{recipe.encoder}-{path.stem}-demo")
    groups = recipe.phantoms
    assert not set(groups.train.seeds) & {*groups.validation.seeds, *groups.test.seeds}


def test_real_cases_train_with_phantoms_between_them(cases, tmp_path):
    data = pair_data(a_recipe(), cases, tmp_path)
    assert data.studies.split == Split(("a",), ("phantom-0001",), ("b", "phantom-0002"))
    assert [study.case.id for study in data.shown] == ["phantom-0000"]
    assert not data.studies.cases["a"].is_phantom


def test_where_no_real_case_may_train_phantoms_do(cases, tmp_path):
    recipe = a_recipe(TaskId.LESION_SEGMENTATION, split=Split((), (), ("a", "b")))
    data = pair_data(recipe, cases, tmp_path)
    assert data.studies.split.train == ("phantom-0000",)
    assert data.shown == ()


def test_a_lacking_case_is_named(cases, tmp_path):
    with pytest.raises(DatasetError, match="lacks z"):
        pair_data(a_recipe(split=Split(("a", "z"))), cases, tmp_path)


def test_both_arms_are_written_by_command_with_what_they_reach(tmp_path, cases, capsys):
    path = written(a_recipe(), tmp_path / "r.json")
    scratch = ["finetune", str(cases), "--recipe", str(path), "--arm", "scratch", "-o", str(tmp_path)]
    assert main(scratch) == 0
    start = str(tmp_path / "tiny-scratch")  # any bundle with the same encoder may be the start
    assert main([*scratch[:-4], "--arm", "pretrained", "--init", start, "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[::2] == ["tiny-scratch", "tiny-pretrained"]
    bundles = [read_bundle(tmp_path / f"tiny-{arm}") for arm in (Arm.SCRATCH, Arm.PRETRAINED)]
    for bundle in bundles:
        verify(bundle)
        assert list(bundle.metrics) == ["validation", "test, phantoms", "test, real cases"]
        found = bundle.metrics["test, real cases"]
        assert list(found["cases"]) == ["b"]
        assert found["trivial"]["what"] == "zero-filled"
        card = (bundle.folder / "docs" / "README.md").read_text(encoding="utf-8")
        for words in (
            "Tiny network",
            "Images: none but phantoms.",
            "Says nothing.",
            f"{found['cohort']['psnr_db']:.4g}",
        ):
            assert words in card
    assert bundles[0].spec == bundles[1].spec
    study = a_study(TaskId.SUPER_RESOLUTION)
    assert predict(study.case, bundles[0]).images


def test_a_start_belongs_to_the_pretrained_arm_alone(tmp_path, cases, capsys):
    path = written(a_recipe(), tmp_path / "r.json")
    for options in (
        ["--arm", "pretrained"],
        ["--arm", "scratch", "--init", "x"],
        ["--arm", "scratch", "--encoder", "e"],
    ):
        with pytest.raises(SystemExit):
            main(["finetune", str(cases), "--recipe", str(path), *options, "-o", str(tmp_path)])
        assert "this recipe takes --init" in capsys.readouterr().err
