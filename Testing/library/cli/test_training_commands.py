"""`pretrain` and `finetune` by command: on DICOM, image files and phantoms, on several devices, in each precision."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study_examples import write_case
from tiny_commands import use_small_networks

from VFMTransferLib.bundles.bundle import read_bundle, verify
from VFMTransferLib.bundles.weights import read_weights
from VFMTransferLib.cli import main
from VFMTransferLib.io import read_mask, write_volume

PRETEXT_TASKS = ("mae", "contrastive")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    use_small_networks(monkeypatch.setattr)


def pretrained(data: Path, pretext: str, out: Path, *options: str):
    assert main(["pretrain", str(data), "--pretext", pretext, "--steps", "2", "-o", str(out), *options]) == 0
    bundle = read_bundle(out)
    verify(bundle)
    assert bundle.training["pretext"] == pretext
    return bundle


def in_new_process(*arguments: str) -> subprocess.CompletedProcess:
    here = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(here.parents[1]), str(here)])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "tiny_commands.py"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("pretext", PRETEXT_TASKS)
def test_pretraining_reads_image_files_under_no_license(tmp_path, pretext):
    for seed in range(2):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland", "lesion")
    bundle = pretrained(tmp_path / "cases", pretext, tmp_path / "start", "--batch", "4", "--accumulate", "2")
    assert bundle.training["accumulation"] == 2
    assert bundle.training["config"]["batch"] == 4
    assert bundle.training["cases"] == ["p0", "p1"]
    assert (bundle.training["data"], bundle.license) == ("cases", "unknown")


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "anatomy-segmentation", "--init", "scratch"]])
def test_a_training_takes_the_place_of_nothing_but_a_bundle(tmp_path, capsys, command):
    for seed in range(2):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    data = str(tmp_path / "cases")
    options = [data, "--pretext", "mae"] if command == ["pretrain"] else ["--encoder", "profound", "--data", data]
    assert main([*command, *options, "--steps", "1", "-o", data]) == 1
    assert "not a bundle" in capsys.readouterr().err
    assert main([*command, *options, "--steps", "1", "-o", str(tmp_path / "cases" / "out")]) == 1
    assert "'cases'" in capsys.readouterr().err
    prepared = ["--prepared", str(tmp_path / "cases" / "prepared")]
    assert main([*command, *options, "--steps", "1", "-o", str(tmp_path / "out"), *prepared]) == 1
    assert "'cases'" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")} == before


def test_a_training_does_not_replace_the_bundle_that_it_starts_from(tmp_path, capsys):
    for seed in range(3):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland")
    start = tmp_path / "start"
    pretrained(tmp_path / "cases", "mae", start)
    before = read_bundle(start)
    tune = ["finetune", "anatomy-segmentation", "--encoder", "profound", "--data", str(tmp_path / "cases")]
    again = [*tune, "--steps", "1", "--init", str(start), "-o", str(start)]
    assert main(again) == 1
    capsys.readouterr()
    shutil.rmtree(tmp_path / "start.training")
    assert main(again) == 1
    assert "another bundle" in capsys.readouterr().err
    assert main(["pretrain", str(tmp_path / "cases"), "--pretext", "mae", "--steps", "1", "-o", str(start)]) == 1
    verify(read_bundle(start))
    assert read_bundle(start) == before


def test_an_unfit_case_that_tests_is_an_error_before_the_first_step(tmp_path, capsys):
    for part, seed in (("train", 0), ("validation", 1), ("test", 2)):
        write_case(tmp_path / "cases" / part / f"p{seed}", seed, "gland")
    mask = tmp_path / "cases" / "test" / "p2" / "gland.nii.gz"
    aside = mask.rename(tmp_path / "gland.nii.gz")
    tune = ["finetune", "anatomy-segmentation", "--encoder", "profound", "--init", "scratch", "--steps", "1"]
    tune += ["--data", str(tmp_path / "cases"), "-o", str(tmp_path / "out")]
    assert main(tune) == 1
    assert "p2" in capsys.readouterr().err
    assert not (tmp_path / "out.training").exists()
    aside.rename(mask)
    assert main(tune) == 0
    assert list(read_bundle(tmp_path / "out").metrics["test"]["cases"]) == ["p2"]


def test_cases_that_pretrained_the_start_are_known_of_the_network_and_cannot_test_it(tmp_path, capsys):
    for part, seeds in (("train", (0, 1)), ("test", (2,))):
        for seed in seeds:
            write_case(tmp_path / "cases" / part / f"p{seed}", seed, "gland")
    write_case(tmp_path / "others" / "p2", 2, "gland")
    write_case(tmp_path / "others" / "p7", 3, "gland")
    tune = ["finetune", "anatomy-segmentation", "--encoder", "profound", "--steps", "1"]
    tune += ["--data", str(tmp_path / "cases")]
    assert pretrained(tmp_path / "others", "mae", tmp_path / "start").was_trained_on("p7")
    assert main([*tune, "--init", str(tmp_path / "start"), "-o", str(tmp_path / "out")]) == 1
    assert "test" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "cases" / "test" / "p2").rename(tmp_path / "cases" / "test" / "p3")
    assert main([*tune, "--init", str(tmp_path / "start"), "-o", str(tmp_path / "out")]) == 0
    bundle = read_bundle(tmp_path / "out")
    assert bundle.training["start"]["cases"] == ["p2", "p7"]
    assert {name for name in ("p0", "p1", "p2", "p3", "p7") if bundle.was_trained_on(name)} == {"p0", "p1", "p2", "p7"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "--encoder", "provicnet", "--batch", "8", "--accumulate", "3"], "multiple"),
        (["finetune", "--encoder", "profound", "--batch", "1"], "2 or more"),
        (["finetune", "--encoder", "profound", "--accumulate", "4"], "batch of 4"),
        (["pretrain", "--batch", "8", "--accumulate", "3"], "multiple"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_before_phantoms_are_made(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.setattr("VFMTransferLib.training.cases.make_phantom", None)  # a call would be another error
    command, *options = words
    what = ["--pretext", "mae"] if command == "pretrain" else ["classification", "--init", "scratch"]
    assert main([command, *what, *options, "-o", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


def test_a_name_that_no_bundle_may_have_is_refused_before_the_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("VFMTransferLib.training.cases.make_phantom", None)  # a call would be another error
    assert main(["pretrain", "--pretext", "mae", "-o", str(tmp_path / "My Run")]) == 1
    assert "name" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "anatomy-segmentation", "--init", "scratch"]])
def test_a_training_does_not_go_on_with_masks_that_were_changed(tmp_path, capsys, command):
    for seed in range(3):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland")
    data = str(tmp_path / "cases")
    options = [data, "--pretext", "mae"] if command == ["pretrain"] else ["--encoder", "profound", "--data", data]
    run = [*command, *options, "--steps", "1", "-o", str(tmp_path / "out")]
    assert main(run) == 0
    gland = tmp_path / "cases" / "p0" / "gland.nii.gz"
    mask = read_mask(gland, "gland")
    write_volume(mask.with_array(np.roll(mask.array, 1, axis=1)), gland)
    capsys.readouterr()
    assert main(run) == 1
    assert "cases" in capsys.readouterr().err


def test_pretraining_reads_dicom(tmp_path, shared_data):
    assert pretrained(shared_data / "dicom", "mae", tmp_path / "start").training["cases"]


@pytest.mark.long
def test_two_devices_make_one_bundle_as_one_device_does(tmp_path):
    shared = ("finetune", "distortion-correction", "--encoder", "profound", "--init", "scratch", "--steps", "2")
    shared += ("--phantoms", "2", "--validation", "1", "--batch", "2", "-o")
    done = in_new_process(*shared, str(tmp_path / "two"), "--devices", "2", "--accelerator", "cpu")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "two"), done.stderr
    assert done.stdout.count("two\n") == 2  # name and folder, of the first process alone
    assert main([*shared, str(tmp_path / "one")]) == 0
    two, one = (read_bundle(tmp_path / name) for name in ("two", "one"))
    assert (two.training["devices"], two.training["accumulation"]) == (2, 1)
    weights = read_weights(one.weights_path)
    for name, tensor in read_weights(two.weights_path).items():
        np.testing.assert_allclose(tensor.float(), weights[name].float(), atol=2e-3, err_msg=name)


@pytest.mark.parametrize("command", [["pretrain", "data"], ["finetune", "data", "--arm", "scratch"]])
@pytest.mark.parametrize(
    "option", [["--devices", "2"], ["--precision", "float32"], ["--steps", "400"], ["--phantoms", "24"]]
)
def test_a_recipe_states_itself_how_it_is_trained(command, option, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--recipe", "r.json", "-o", "x", *option])
    assert option[0] in capsys.readouterr().err
