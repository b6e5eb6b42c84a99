"""From a recipe and a folder of real cases to both arms' bundles, with what was measured beside the naive baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import make_bundle
from study_examples import SPACING_MM, a_study, write_case
from tiny_commands import use_small_networks
from training_cases import tiny_case, tiny_spec

from VFMTransferLib.bundles.bundle import read_bundle, verify
from VFMTransferLib.bundles.catalog import shipped_folder
from VFMTransferLib.bundles.metadata import spec_to_json
from VFMTransferLib.bundles.weights import read_weights
from VFMTransferLib.cli import main
from VFMTransferLib.core.decoding import to_json
from VFMTransferLib.core.errors import CheckpointError, DatasetError
from VFMTransferLib.core.terms import Arm, Label, Sequence
from VFMTransferLib.inference.predict import predict
from VFMTransferLib.io import read_volume, write_volume
from VFMTransferLib.metrics.operating_point import OperatingPoint
from VFMTransferLib.phantom import Phantoms, PhantomSplit
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import MaskNames
from VFMTransferLib.training import recipes
from VFMTransferLib.training.cases import Split
from VFMTransferLib.training.config import TrainConfig
from VFMTransferLib.training.recipes import (
    Recipe,
    RecipePretraining,
    References,
    pretrain_by_recipe,
    read_recipe,
    recipe_data,
    train_arm,
)

SHIPPED = Path(__file__).resolve().parents[3] / "Resources" / "Training"
GROUPS = (Phantoms(0, 1), Phantoms(1, 1), Phantoms(2, 1))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    use_small_networks(monkeypatch.setattr)


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for name, seed in (("a", 5), ("b", 6)):
        write_case(folder / name, seed, "gland", "lesion")
        (folder / name / "gland.nii.gz").rename(folder / name / "gland_net.nii.gz")
    return folder


def a_recipe(task: str = "super-resolution", **changes) -> Recipe:
    recipe = Recipe(
        format=3,
        name="tiny",
        title="Tiny network",
        task=task,
        encoder="profound",
        train=TrainConfig(steps=2, seed=3, phantom_share=0.5),
        split=Split(("a",), (), ("b",)),
        masks=MaskNames(gland=("gland_drawn", "gland_net")),
        phantoms=PhantomSplit(SPACING_MM, *GROUPS),
        license="Apache-2.0",
        attribution="Images: none but phantoms.",
        limits=("Says nothing.",),
    )
    return replace(recipe, **changes)


def a_whole_recipe() -> Recipe:
    """A pair with a network and a pretraining of its own, as the shipped one of the prostate."""
    return a_recipe(
        "anatomy-segmentation",
        split=Split(("case-0", "case-1"), (), ("case-2",)),
        masks=MaskNames(),
        phantoms=PhantomSplit(SPACING_MM, Phantoms(0, 1), Phantoms(0, 0), Phantoms(0, 0), full_resolution=False),
        network=tiny_spec(),
        pretraining=RecipePretraining("mae", TrainConfig(steps=2, checkpoint_every=2, seed=3), {"decoder_width": 8}),
        references=References(("case-1", "case-2"), ("gland", "gland_other"), notes=("A note on the masks.",)),
    )


def written(recipe: Recipe, path: Path, **changes) -> Path:
    document = to_json(recipe)
    if recipe.network is not None:
        document["network"] = spec_to_json(recipe.network)
    path.write_text(json.dumps({**document, **changes}))
    return path


def test_a_recipe_is_read_as_it_was_written(tmp_path):
    for recipe in (a_recipe(), a_whole_recipe()):
        assert read_recipe(written(recipe, tmp_path / "r.json")) == recipe


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"encoder": "resnet"}, "recipe.encoder"),
        ({"name": "My pair"}, "My pair"),
        ({"train": {"steps": "many"}}, "train.steps"),
        ({"train": {"steps": 2, "speed": 1}}, "speed"),
        ({"train": {"steps": 2, "augmentation": {"flip": 7.0}}}, "augmentation.flip"),
        ({"train": {"steps": 2, "drop_path": 1.0}}, "drop_path"),
        ({"format": 1}, "format"),
        ({"split": {"train": ["a"], "validation": [], "test": ["a"]}}, "once in the split"),
        ({"task": "adc-translation", "acquisitions": 2}, "acquisitions"),
        ({"phantoms": to_json(PhantomSplit(SPACING_MM, *GROUPS, False))}, "full_resolution"),
        ({"phantoms": to_json(PhantomSplit(SPACING_MM, *GROUPS[:2], Phantoms(0, 2)))}, "different seeds"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_wrong(tmp_path, changes, word):
    with pytest.raises(DatasetError, match=word):
        read_recipe(written(a_recipe(), tmp_path / "r.json", **changes))


def test_a_recipe_that_is_not_there_or_no_json_is_refused(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name in ("none.json", "bad.json"):
        with pytest.raises(DatasetError, match=name):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_the_shipped_recipes_can_be_read(path):
    recipe = read_recipe(path)
    name = "prostate" if path.stem == "anatomy-segmentation" else path.stem
    assert (recipe.task, recipe.name) == (path.stem, f"{recipe.encoder}-{name}-demo")
    assert "ProstateX-0214" not in recipe.split.train  # its image is CC BY-NC
    for arm in Arm:
        bundle = read_bundle(shipped_folder() / f"{recipe.name}-{arm}")
        assert bundle.training["attribution"] == recipe.attribution
        assert bundle.caveats == recipe.caveats
    if recipe.task == "anatomy-segmentation":  # and so are all masks whose names end so
        assert not any(name.endswith("_nc") for name in (*recipe.masks.gland, recipe.masks.zones))
    groups = recipe.phantoms
    assert not set(groups.train.seeds) & {*groups.validation.seeds, *groups.test.seeds}


def test_a_bundle_of_lesions_has_the_operating_point_of_its_validation_cases(cases, tmp_path, monkeypatch):
    """Two steps teach nothing: what is fitted is put in, and what is measured is seen to be measured with it."""
    recipe = a_recipe("lesion-segmentation", split=Split((), (), ()))
    data = recipe_data(recipe, cases, tmp_path)
    task, fitted_on, used = type(TASKS["lesion-segmentation"]), [], []
    mark = task.mark

    def fit(_task, results):
        fitted_on.extend(labeled.case.id for _, labeled in results)
        return OperatingPoint(0.99, len(fitted_on))

    def marking(self, probabilities, output):
        used.append((output.case.id, output.options.operating_point))
        return mark(self, probabilities, output)

    monkeypatch.setattr(task, "fit_operating_point", fit)
    monkeypatch.setattr(task, "mark", marking)
    bundle = train_arm(recipe, data, Arm.SCRATCH, tmp_path, None)
    assert tuple(fitted_on) == data.dataset.split.validation
    assert read_bundle(bundle.folder).operating_point == OperatingPoint(0.99, 1)
    tested = [point for case, point in used if case in data.dataset.split.test]
    assert tested == [OperatingPoint(0.99, 1)] * len(data.dataset.split.test)


def test_a_scan_that_trains_is_acquired_as_often_as_the_recipe_states(cases, tmp_path):
    data = recipe_data(a_recipe(acquisitions=3), cases, tmp_path).dataset
    assert data.split.train == ("a", "a, acquisition 2", "a, acquisition 3")
    assert data.split.test[0] == "b"
    inputs = [one.case[Sequence.T2W].array for one in data.select(data.split.train)]
    truths = [one.images["t2w-super-resolved"].array for one in data.select(data.split.train)]
    for other in (1, 2):
        assert not np.allclose(inputs[0], inputs[other])
        np.testing.assert_array_equal(truths[0], truths[other])
    once = recipe_data(a_recipe(), cases, tmp_path).dataset
    np.testing.assert_array_equal(inputs[0], once.select(["a"])[0].case[Sequence.T2W].array)


def test_a_cards_means_are_over_the_cases_that_network_and_baseline_have(tmp_path):
    found = {
        "a": {"dice": 0.8, "hd95_mm": 4.0},
        "b": {"dice": 0.0},  # where nothing is marked no distance is defined
        "c": {"dice": 0.7, "hd95_mm": 6.0},
    }
    naive = {case: {"dice": 0.5, "hd95_mm": distance} for case, distance in (("a", 10.0), ("b", 40.0), ("c", 12.0))}
    trivial = {"what": "the mean shape", "cohort": {"dice": 0.5, "hd95_mm": 20.7}, "cases": naive}
    metrics = {"test": {"cohort": {"dice": 0.5, "hd95_mm": 5.0}, "cases": found, "trivial": trivial}}
    training = {"start": "scratch", "data": "three cases"}
    bundle = replace(make_bundle(tmp_path / "b", training=training), metrics=metrics)
    recipe = a_recipe("anatomy-segmentation")
    card = recipe.card(bundle)
    assert "| b | 0 | 0.5 |  | 40 |" in card
    assert "| mean | 0.5 | 0.5 | 5 (2 of 3) | 11 (2 of 3) |" in card
    without = {"what": "none: it needs three cases that train"}
    card = recipe.card(replace(bundle, metrics={"test": {**metrics["test"], "trivial": without}}))
    assert "| mean | 0.5 |  | 5 (2 of 3) |  |" in card


@pytest.fixture
def a_data_folder(tmp_path) -> Path:
    for seed in range(3):
        case, mask = tiny_case(seed)
        folder = tmp_path / "data" / case.id
        folder.mkdir(parents=True)
        write_volume(case[Sequence.T2W], folder / "t2w.nii.gz")
        write_volume(mask, folder / "gland.nii.gz")
    return tmp_path / "data"


def test_by_recipe_a_training_does_not_go_on_with_masks_that_were_changed(a_data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "write_arm", lambda *_, **__: None)
    recipe = a_whole_recipe()

    def go_on():
        pretrain_by_recipe(recipe, a_data_folder, tmp_path)
        train_arm(recipe, recipe_data(recipe, a_data_folder, tmp_path), Arm.SCRATCH, tmp_path, None)

    go_on()
    (a_data_folder / "case-1" / ".DS_Store").write_bytes(b"of a file manager")
    (a_data_folder / "case-2" / "note.txt").write_bytes(b"of a case that tests")
    go_on()
    gland = a_data_folder / "case-1" / "gland.nii.gz"
    mask = read_volume(gland)
    write_volume(mask.with_array(np.roll(mask.array, 1, axis=1)), gland)
    with pytest.raises(CheckpointError, match="of other cases"):
        pretrain_by_recipe(recipe, a_data_folder, tmp_path)
    with pytest.raises(CheckpointError, match="of other cases"):
        train_arm(recipe, recipe_data(recipe, a_data_folder, tmp_path), Arm.SCRATCH, tmp_path, None)


@pytest.mark.long
def test_both_arms_are_written_by_command_with_what_they_reach(tmp_path, cases, capsys):
    recipe = a_recipe(caveats=("It invents detail.",))
    path = written(recipe, tmp_path / "r.json")
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
    study = a_study("super-resolution")
    result = predict(study.case, bundles[0])
    assert result.images
    assert tuple(map(str, result.provenance.caveats)) == recipe.caveats


@pytest.mark.long
def test_by_prepared_cases_a_recipe_learns_the_same(a_data_folder, tmp_path):
    path = written(a_whole_recipe(), tmp_path / "r.json")
    found = []
    for options in ([], ["--prepared", str(tmp_path / "prepared"), "--ahead", "1"]):
        work = tmp_path / f"work-{len(options)}"
        assert main(["pretrain", str(a_data_folder), "--recipe", str(path), "-o", str(work), *options]) == 0
        encoder = ["--encoder", str(work / "encoder.safetensors")]
        words = ["finetune", str(a_data_folder), "--recipe", str(path), "-o", str(work), "--arm", "pretrained"]
        assert main([*words, *encoder, *options]) == 0
        found.append((read_weights(work / "encoder.safetensors"), read_bundle(work / "tiny-pretrained")))
    (plain, plain_arm), (mapped, mapped_arm) = found
    assert all(torch.equal(tensor, mapped[name]) for name, tensor in plain.items())
    assert mapped_arm.weights_sha256 == plain_arm.weights_sha256
    assert mapped_arm.metrics == plain_arm.metrics
    assert len(list((tmp_path / "prepared").iterdir())) > 3


@pytest.mark.long
def test_another_seed_trains_another_network_by_the_same_recipe(a_data_folder, tmp_path):
    path = written(a_whole_recipe(), tmp_path / "r.json")
    arms = []
    for options in ([], ["--seed", "3"], ["--seed", "0"]):
        work = tmp_path / f"work{len(arms)}"
        words = ["finetune", str(a_data_folder), "--recipe", str(path), "-o", str(work), "--arm", "scratch"]
        assert main([*words, *options]) == 0
        arms.append(read_bundle(work / "tiny-scratch"))
    stated, same, other = arms
    assert a_whole_recipe().train.seed == 3
    assert same.weights_sha256 == stated.weights_sha256 != other.weights_sha256
    assert [arm.training["config"]["seed"] for arm in arms] == [3, 3, 0]


def test_pretraining_and_both_arms_by_command(a_data_folder, tmp_path, capsys):
    path = written(a_whole_recipe(), tmp_path / "r.json")
    work = tmp_path / "work"
    assert main(["pretrain", str(a_data_folder), "--recipe", str(path), "-o", str(work)]) == 0
    encoder = work / "encoder.safetensors"
    assert capsys.readouterr().out.strip() == str(encoder)
    names = set(read_weights(encoder))
    assert "downsample_layers.0.0.weight" in names
    assert not any(name.startswith("encoder.") for name in names)
    words = ["finetune", str(a_data_folder), "--recipe", str(path), "-o", str(work), "--arm"]
    assert main([*words, "scratch"]) == 0
    assert main([*words, "pretrained", "--encoder", str(encoder)]) == 0
    for arm in Arm:
        bundle = read_bundle(work / f"tiny-{arm}")
        verify(bundle)
        assert (bundle.arm, bundle.onnx_path.is_file()) == (arm, True)
        assert bundle.training["attribution"] == "Images: none but phantoms."
        assert list(bundle.metrics) == ["test", "gland, training cases", "gland, unseen cases"]
        assert list(bundle.metrics["gland, unseen cases"]["cases"]) == ["case-2"]
        assert "dice" in bundle.metrics["gland, unseen cases"]["cases"]["case-2"]
        card = (bundle.folder / "docs" / "README.md").read_text(encoding="utf-8")
        for text in ("A note on the masks.", "case-0, case-1", "Limits"):
            assert text in card
        assert predict(tiny_case(5)[0], bundle).labels is not None


def test_references_may_have_zones_that_no_training_case_is_given(a_data_folder, tmp_path):
    for name in ("case-0", "case-2"):
        mask = read_volume(a_data_folder / name / "gland.nii.gz")
        write_volume(mask.with_array((mask.array > 0).astype(np.uint8)), a_data_folder / name / "zones_read.nii.gz")
    recipe = replace(a_whole_recipe(), references=References(("case-0", "case-2"), ("gland",), "zones_read"))
    data = recipe_data(recipe, a_data_folder, tmp_path)
    measured = [one for cases in data.references.values() for one in cases]
    assert {one.case.id for one in measured} == {"case-0", "case-2"}
    assert all(Label.PERIPHERAL_ZONE in one.masks for one in measured)
    assert all(Label.PERIPHERAL_ZONE not in one.masks for one in data.dataset.select(("case-0", "case-1", "case-2")))


def test_real_cases_train_with_phantoms_mixed_in(cases, tmp_path):
    data = recipe_data(a_recipe(), cases, tmp_path)
    assert data.dataset.split == Split(("a",), ("phantom-0001",), ("b", "phantom-0002"))
    assert [study.case.id for study in data.mixed_in] == ["phantom-0000"]
    alone = recipe_data(a_recipe("lesion-segmentation", split=Split((), (), ("a", "b"))), cases, tmp_path)
    assert alone.dataset.split.train == ("phantom-0000",)
    assert alone.mixed_in == ()


def test_a_recipe_that_cannot_be_followed_names_what_is_missing(a_data_folder, tmp_path):
    recipe = a_whole_recipe()
    for call, changed, word in (
        (pretrain_by_recipe, {"pretraining": None}, "no pretraining"),
        (pretrain_by_recipe, {"split": Split(("case-0", "case-7"))}, "case-7"),
        (recipe_data, {"masks": MaskNames(("gland_drawn",))}, "gland_drawn"),
    ):
        with pytest.raises(DatasetError, match=word):
            call(replace(recipe, **changed), a_data_folder, tmp_path)
