"""Each pretext task is learned by the one loop, goes on where it stopped, and gives encoders that fine-tuning takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from slice_cases import SPEC, a_tissue_case
from training_cases import changed, tiny_case, tiny_config
from training_divisions import a_pretext_config

from VFMTransferLib.bundles.bundle import read_bundle
from VFMTransferLib.core.errors import CheckpointError, DatasetError
from VFMTransferLib.encoders import FAMILIES, build_network, pretrained_families
from VFMTransferLib.encoders.pretext import PretextTask, pretext_task, pretext_tasks
from VFMTransferLib.encoders.weights import encoder_weights
from VFMTransferLib.phantom import make_phantom
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.training.cases import LazyCase
from VFMTransferLib.training.config import NO_AUGMENTATION, TrainConfig
from VFMTransferLib.training.finetune import Initialization, initial_network
from VFMTransferLib.training.pretrain import PretrainConfig, pretrain, write_pretrained

IMAGES = [tiny_case(seed)[0] for seed in range(2)]
CASES = {"mae": IMAGES, "contrastive": [a_tissue_case(0), a_tissue_case(1)]}
PAIRS = [(family, name) for family in pretrained_families() for name in FAMILIES[family].pretext_tasks]
SIZES = {
    "profound": {"depths": [1, 1, 1, 1], "dims": [4, 6, 8, 10], "spacing_mm": [3.0, 3.0, 4.0], "patch": [16, 32, 48]},
    "provicnet": {
        **{"depth": 1, "dim": 16, "heads": 2, "registers": 1, "patch_px": 4, "image_px": 32},
        **{"spacing_mm": [3.0, 3.0, 4.0], "patch": [1, 64, 64]},
    },
}
# The last norm of ConvNeXt serves the pooled features, and the mask token a masked autoencoder.
UNUSED = {"profound": ("norm.weight", "norm.bias"), "provicnet": ("backbone.mask_token",)}


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(seed, t2w_spacing_mm=(3.0, 3.0, 4.0), tissue_maps=True) for seed in range(2)]


def of_family(family: str, name: str, steps: int = 3) -> PretrainConfig:
    spec = FAMILIES[family].resized(FAMILIES[family].pretraining_network(), SIZES[family])
    pretext = pretext_task(name, spec)
    if pretext.needs_maps:
        pretext = replace(pretext, diffusion_missing=0.0, missing=0.0)
    batch = 2 if family == "provicnet" else 1
    train = TrainConfig(steps=steps, checkpoint_every=2, seed=1, batch=batch)
    return PretrainConfig(pretext, train)


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_every_family_learns_every_pretext_task_for_a_fine_tuning(tmp_path, phantoms, family, name):
    class StopError(Exception):
        pass

    def stop(_line: str, part: float) -> None:
        if part < 1:
            raise StopError

    config = of_family(family, name)
    whole = pretrain(config, phantoms, tmp_path / "whole")
    assert all(np.isfinite(point["loss"]) for point in whole.history)
    with pytest.raises(StopError):
        pretrain(config, phantoms, tmp_path / "stopped", on_progress=stop)
    resumed = pretrain(config, phantoms, tmp_path / "stopped")
    assert resumed.history == whole.history
    for tensor_name, tensor in whole.average.items():
        assert torch.equal(tensor, resumed.average[tensor_name]), tensor_name
    # Whatever is kept of the network learned in the last step.
    bundle = write_pretrained(config, whole, tmp_path / name, data="2 phantoms", cases=phantoms)
    assert read_bundle(bundle.folder).spec == config.pretext.spec
    init = Initialization.from_bundle(bundle)
    learned = {n: p for n, p in whole.network.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    for own, tensor in init.weights.items():
        unused = any(own == end or own.endswith(f".{end}") for end in UNUSED[family]) and name != "mae"
        if (family, own) in {("profound", end) for end in UNUSED["profound"]} or unused:
            continue
        ends = own.split(".", 1)[1] if family == "provicnet" else own
        shaped = [n for n, p in learned.items() if n.endswith(ends) and p.shape == tensor.shape]
        assert shaped, f"{own} did not learn"
    for task in TASKS.values():
        spec = FAMILIES[family].resized(FAMILIES[family].network_for(task), SIZES[family])
        tuned = replace(tiny_config(), model=spec)
        found = encoder_weights(initial_network(tuned, init).state_dict(), spec)
        assert all(torch.equal(tensor, init.weights[own]) for own, tensor in found.items())
        assert len(found) > 10


def test_the_task_that_an_encoder_is_known_by_is_learned_by_it_unless_another_is_named():
    known = {"mae": "profound", "contrastive": "provicnet", "synthetic": "profound"}
    assert {name: pretext_task(name).spec.family for name in known} == known
    spec = FAMILIES["provicnet"].pretraining_network()
    assert {pretext_task(name, spec).spec.family for name in pretext_tasks()} == {"provicnet"}


def test_an_image_without_known_tissue_is_refused(tmp_path):
    for cases, words in (
        ([IMAGES[0]], "needs phantoms"),
        ([make_phantom(0, t2w_spacing_mm=(3.0, 3.0, 4.0))], "must come with its tissue maps"),
    ):
        with pytest.raises(DatasetError, match=words):
            pretrain(of_family("profound", "synthetic"), cases, tmp_path)


@pytest.mark.parametrize(("name", "setting"), [("mae", {"hidden": 0.5}), ("contrastive", {"pairs": 7})])
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, name, setting):
    pretrain(a_pretext_config(name, 1), CASES[name], tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        pretrain(a_pretext_config(name, 1, **setting), CASES[name], tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        pretrain(a_pretext_config(name, 1), CASES[name][:1], tmp_path)


def test_a_checkpoint_of_a_pretext_task_that_has_changed_since_is_refused(tmp_path, monkeypatch):
    config = a_pretext_config("mae", 1)
    pretrain(config, CASES["mae"], tmp_path)
    monkeypatch.setattr(type(config.pretext), "version", config.pretext.version + 1)
    with pytest.raises(CheckpointError, match="another configuration"):
        pretrain(config, CASES["mae"], tmp_path)


def test_the_encoders_weights_bear_the_encoders_own_names(tmp_path):
    config = a_pretext_config("mae", 1)
    run = pretrain(config, IMAGES, tmp_path)
    found = config.pretext.pretrained(run.average)
    assert set(found) == set(run.network.encoder.state_dict())
    assert "downsample_layers.0.0.weight" in found


def test_contrast_learns_and_changes_every_encoder(tmp_path):
    config = changed(a_pretext_config("contrastive", 40, drop_path=0.0), augmentation=NO_AUGMENTATION)
    run = pretrain(config, CASES["contrastive"][:1], tmp_path)
    losses = [point["loss"] for point in run.history]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    fresh = pretrain(
        a_pretext_config("contrastive", 1, drop_path=0.0), CASES["contrastive"][:1], tmp_path / "fresh"
    ).average
    for stream in ("t2w", "adc", "dwi"):
        name = f"{stream}.backbone.blocks.0.attn.qkv.weight"
        assert not torch.equal(run.average[name], fresh[name])


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_without_cases_there_is_nothing_to_learn(tmp_path, family, name):
    with pytest.raises(DatasetError, match="at least one case"):
        pretrain(of_family(family, name), [], tmp_path)


def test_contrast_needs_masks_of_prostate_and_lesions(tmp_path):
    for case in (IMAGES[0], replace(a_tissue_case(), gland=None)):
        with pytest.raises(DatasetError, match="lacks masks of prostate and lesions"):
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
    config = PretrainConfig(pretext, TrainConfig(steps=2, checkpoint_every=2, seed=2, batch=2))
    images, labeled = a_tissue_case(0).case, a_tissue_case(1)
    run = pretrain(config, [images, labeled], tmp_path)
    assert run.history[-1]["loss"] > 0


def test_pretext_tasks_and_settings_that_are_not_known_are_refused():
    with pytest.raises(
        ValueError, match="must be one of mae, contrastive, synthetic, synthetic-contrastive, got 'jigsaw'"
    ):
        pretext_task("jigsaw")
    with pytest.raises(ValueError, match="mae has the settings hidden, decoder_width, but not pairs"):
        pretext_task("mae", pairs=3)


@pytest.mark.parametrize(
    ("name", "family", "setting", "limits"),
    [
        ("mae", "profound", {"hidden": 0.0}, "from 0.05 to 0.95, got 0"),
        ("mae", "provicnet", {"hidden": 1.5}, "from 0.05 to 0.95, got 1.5"),
        ("contrastive", "profound", {"pairs": 0}, "at least 1, got 0"),
        ("contrastive", "profound", {"pairs": 1.9}, "a whole number, got 1.9"),
        ("mae", "profound", {"decoder_width": 64.9}, "a whole number, got 64.9"),
        ("contrastive", "provicnet", {"drop_path": -0.1}, "from 0 to 0.9, got -0.1"),
        ("synthetic", "profound", {"noise": 0.0}, "from 0.005 to 1, got 0"),
        ("synthetic-contrastive", "provicnet", {"missing": 2.0}, "from 0 to 1, got 2"),
        ("synthetic-contrastive", "profound", {"temperature": 0.0}, "at least 0.001, got 0"),
    ],
)
def test_settings_outside_of_their_limits_are_refused(name, family, setting, limits):
    (key,) = setting
    with pytest.raises(ValueError, match=f"^{key} of the pretext task {name} must be {limits}"):
        pretext_task(name, FAMILIES[family].pretraining_network(), **setting)


def test_the_least_noise_is_allowed(phantoms):
    pretext = pretext_task("synthetic", of_family("profound", "synthetic").pretext.spec, noise=0.005)
    maps = torch.ones(7, *pretext.spec.preprocess.patch)
    assert torch.isfinite(pretext.appearance(maps, torch.Generator().manual_seed(0))).all()


def test_a_masked_autoencoder_hides_whole_cubes_of_a_crop_or_none():
    family = FAMILIES["profound"]
    spec = family.resized(family.pretraining_network(), {**SIZES["profound"], "patch": [24, 32, 48]})
    with pytest.raises(ValueError, match="must be a multiple of 16 voxels along each axis, got 24 x 32 x 48"):
        pretext_task("mae", spec)
    assert pretext_task("synthetic", spec).learned.preprocess.patch == (24, 32, 48)


@pytest.mark.parametrize("name", FAMILIES["provicnet"].pretext_tasks)
@pytest.mark.parametrize("size", [{"patch_px": 8, "image_px": 64}, {"image_px": 48}])
def test_slices_of_any_size_are_learned_from(tmp_path, phantoms, name, size):
    """Logits may be coarser or finer than the classes, of which a window of 64 x 64 pixels has one each."""
    family = FAMILIES["provicnet"]
    spec = family.resized(family.pretraining_network(), {**SIZES["provicnet"], **size})
    config = replace(of_family("provicnet", name, steps=1), pretext=pretext_task(name, spec))
    assert np.isfinite(pretrain(config, phantoms[:1], tmp_path).history[-1]["loss"])


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in pretrained_families() for n in FAMILIES[f].pretext_tasks])
def test_prepared_on_disk_every_pretext_task_learns_the_same(tmp_path, phantoms, family, name):
    config = of_family(family, name, steps=2)
    plain = pretrain(config, phantoms, tmp_path / "plain")
    read = []

    def lazily(phantom):
        return LazyCase(phantom.case.id, f"phantom {phantom.seed}", lambda: read.append(phantom.seed) or phantom)

    prepared, lazy = tmp_path / "prepared", [lazily(phantom) for phantom in phantoms]
    first = pretrain(config, lazy, tmp_path / "first", prepared=prepared, prefetch=1)
    assert sorted(read) == sorted(set(read))  # each once, and none before it is shown
    assert len(list(prepared.iterdir())) == len(read)
    of_memory = pretrain(config, phantoms, tmp_path / "memory", prepared=tmp_path / "other")
    again = pretrain(config, lazy, tmp_path / "again", prepared=prepared)
    assert len(set(read)) == len(read)
    for run in (first, of_memory, again):
        assert run.history == plain.history
        assert all(torch.equal(tensor, run.average[key]) for key, tensor in plain.average.items())
