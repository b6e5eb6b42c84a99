"""`pretrain` and `finetune` by command: on DICOM, image files and phantoms, on several devices, in each precision."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study_examples import a_phantom, write_case
from tiny_commands import use_small_networks

from VFMTransferLib.bundles.bundle import read_bundle, verify
from VFMTransferLib.bundles.weights import read_weights
from VFMTransferLib.cli import main
from VFMTransferLib.io import read_mask, write_volume
from VFMTransferLib.phantom import write_phantom

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
def test_pretraining_reads_folders_that_phantoms_were_written_to(tmp_path, pretext):
    for seed in range(2):
        write_phantom(a_phantom(seed), tmp_path / "phantoms" / f"phantom-{seed}")
    bundle = pretrained(tmp_path / "phantoms", pretext, tmp_path / "start")
    assert bundle.training["cases"] == ["phantom-0", "phantom-1"]


@pytest.mark.parametrize("pretext", PRETEXT_TASKS)
def test_pretraining_reads_image_files(tmp_path, pretext):
    for seed in range(2):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland", "lesion")
    bundle = pretrained(tmp_path / "cases", pretext, tmp_path / "start", "--batch", "4", "--accumulate", "2")
    assert bundle.training["accumulation"] == 2
    assert bundle.training["config"]["batch"] == 4


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "anatomy-segmentation", "--init", "scratch"]])
def test_a_training_takes_the_place_of_nothing_but_a_bundle(tmp_path, capsys, command):
    for seed in range(2):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.nii.gz")}
    data = str(tmp_path / "cases")
    options = [data, "--pretext", "mae"] if command == ["pretrain"] else ["--encoder", "profound", "--data", data]
    assert main([*command, *options, "--steps", "1", "-o", data]) == 1
    assert "'cases' must be a bundle to be replaced, but holds something else" in capsys.readouterr().err
    assert main([*command, *options, "--steps", "1", "-o", str(tmp_path / "cases" / "out")]) == 1
    assert "must lie outside of the case's folder 'cases'" in capsys.readouterr().err
    prepared = ["--prepared", str(tmp_path / "cases" / "prepared")]
    assert main([*command, *options, "--steps", "1", "-o", str(tmp_path / "out"), *prepared]) == 1
    assert "must lie outside of the case's folder 'cases'" in capsys.readouterr().err
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
    assert "'start' must be free, or hold this training's own bundle, with 'start.training'" in capsys.readouterr().err
    assert main(["pretrain", str(tmp_path / "cases"), "--pretext", "mae", "--steps", "1", "-o", str(start)]) == 1
    verify(read_bundle(start))
    assert read_bundle(start) == before


@pytest.mark.parametrize("options", [[], ["--prepared"]])
def test_an_unfit_case_that_tests_is_an_error_before_the_first_step(tmp_path, capsys, options):
    for part, seed in (("train", 0), ("validation", 1), ("test", 2)):
        write_case(tmp_path / "cases" / part / f"p{seed}", seed, "gland")
    mask = tmp_path / "cases" / "test" / "p2" / "gland.nii.gz"
    aside = mask.rename(tmp_path / "gland.nii.gz")
    tune = ["finetune", "anatomy-segmentation", "--encoder", "profound", "--init", "scratch", "--steps", "1"]
    tune += ["--data", str(tmp_path / "cases"), "-o", str(tmp_path / "out")]
    tune += [*options, *([str(tmp_path / "prepared")] if options else [])]
    assert main(tune) == 1
    assert "Case 'p2' must have a mask gland" in capsys.readouterr().err
    assert not (tmp_path / "out.training").exists()
    aside.rename(mask)
    assert main(tune) == 0
    assert list(read_bundle(tmp_path / "out").metrics["test"]["cases"]) == ["p2"]


def test_a_case_that_tests_does_not_decide_the_training(tmp_path, capsys):
    for part, seed in (("train", 0), ("validation", 1), ("test", 2)):
        write_case(tmp_path / "cases" / part / f"p{seed}", seed, "gland")
    tune = ["finetune", "anatomy-segmentation", "--encoder", "profound", "--init", "scratch", "--steps", "1"]
    tune += ["--data", str(tmp_path / "cases"), "-o", str(tmp_path / "out")]
    assert main(tune) == 0
    weights, before = (read_bundle(tmp_path / "out").sha256, read_bundle(tmp_path / "out").metrics)
    mask = tmp_path / "cases" / "test" / "p2" / "gland.nii.gz"
    drawn = read_mask(mask, "gland")
    half = np.where(np.arange(drawn.array.shape[0])[:, None, None] % 2, drawn.array, 0)
    write_volume(drawn.with_array(half.astype(np.uint8)), mask)
    assert main(tune) == 0
    after = read_bundle(tmp_path / "out")
    assert after.sha256 == weights
    assert after.metrics["validation"] == before["validation"]
    assert after.metrics["test"] != before["test"]
    write_volume(drawn.with_array(half.astype(np.uint8)), tmp_path / "cases" / "train" / "p0" / "gland.nii.gz")
    assert main(tune) == 1
    assert "must be of a training with these data" in capsys.readouterr().err


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
    assert "Cases that test must be new to the network" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "cases" / "test" / "p2").rename(tmp_path / "cases" / "test" / "p3")
    assert main([*tune, "--init", str(tmp_path / "start"), "-o", str(tmp_path / "out")]) == 0
    bundle = read_bundle(tmp_path / "out")
    assert bundle.training["start"]["cases"] == ["p2", "p7"]
    assert {name for name in ("p0", "p1", "p2", "p3", "p7") if bundle.was_trained_on(name)} == {"p0", "p1", "p2", "p7"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "--encoder", "provicnet", "--batch", "8", "--accumulate", "3"], "must be a multiple of 3"),
        (["finetune", "--encoder", "profound", "--batch", "1"], "must see 2 or more samples at a time"),
        (["finetune", "--encoder", "profound", "--accumulate", "4"], "sees 1 (a batch of 4 in 4)"),
        (["pretrain", "--batch", "8", "--accumulate", "3"], "must be a multiple of 3"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_before_phantoms_are_made(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.setattr("VFMTransferLib.training.cases.make_phantom", None)  # a call would be another error
    command, *options = words
    what = ["--pretext", "mae"] if command == "pretrain" else ["classification", "--init", "scratch"]
    assert main([command, *what, *options, "-o", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["MyRun", "my run"])
@pytest.mark.parametrize(
    "command",
    [["pretrain", "--pretext", "mae"], ["finetune", "classification", "--encoder", "profound", "--init", "scratch"]],
)
def test_a_name_that_no_bundle_may_have_is_refused_before_the_training(tmp_path, capsys, monkeypatch, command, name):
    monkeypatch.setattr("VFMTransferLib.training.cases.make_phantom", None)  # a call would be another error
    assert main([*command, "-o", str(tmp_path / name)]) == 1
    assert "The 'name of a bundle' must be a short name of lower-case letters" in capsys.readouterr().err


def test_a_seed_below_0_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--pretext", "mae", "--seed", "-1", "-o", str(tmp_path / "out")])
    assert "argument --seed: must be a whole number of 0 or more, got -1" in capsys.readouterr().err


def test_weights_of_ones_own_cases_are_under_no_license_of_ours(tmp_path):
    for seed in range(2):
        write_case(tmp_path / "pelvic phantoms" / f"p{seed}", seed)
    assert pretrained(tmp_path / "pelvic phantoms", "mae", tmp_path / "start").license == "unknown"


@pytest.mark.parametrize("command", [["pretrain"], ["finetune", "anatomy-segmentation", "--init", "scratch"]])
def test_a_training_does_not_go_on_with_masks_that_were_changed(tmp_path, capsys, command):
    for seed in range(3):
        write_case(tmp_path / "cases" / f"p{seed}", seed, "gland")
    data = str(tmp_path / "cases")
    options = [data, "--pretext", "mae"] if command == ["pretrain"] else ["--encoder", "profound", "--data", data]
    run = [*command, *options, "--steps", "1", "-o", str(tmp_path / "out")]
    assert main(run) == 0
    (tmp_path / "cases" / "p0" / ".DS_Store").write_bytes(b"of a file manager")
    assert main(run) == 0
    gland = tmp_path / "cases" / "p0" / "gland.nii.gz"
    mask = read_mask(gland, "gland")
    write_volume(mask.with_array(np.roll(mask.array, 1, axis=1)), gland)
    capsys.readouterr()
    assert main(run) == 1
    assert "must be of a training with these data, but is of one with other cases" in capsys.readouterr().err


def test_a_pretraining_does_not_go_on_with_phantoms_of_another_version(tmp_path, capsys, monkeypatch):
    run = ["pretrain", "--pretext", "mae", "--phantoms", "1", "--steps", "1", "-o", str(tmp_path / "out")]
    assert main(run) == 0
    monkeypatch.setattr("VFMTransferLib.phantom.VERSION", "0.0.1")
    assert main(run) == 1
    assert "is of one with other phantoms" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["pretrain", "phantoms", "--pretext", "mae"], ["finetune", "classification", "--data", "phantoms"]]
)
def test_a_folder_that_bears_the_name_of_the_built_in_phantoms_is_no_silent_guess(
    tmp_path, capsys, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantoms").mkdir()
    with pytest.raises(SystemExit):
        main([*command, "-o", "out"])
    assert "give ./phantoms for the folder, or leave it out" in capsys.readouterr().err


def test_pretraining_reads_dicom(tmp_path, shared_data):
    assert pretrained(shared_data / "dicom", "mae", tmp_path / "start").training["cases"]


def test_contrast_reads_dicom_beside_masks(tmp_path, shared_data):
    """The gland's front half stands for a lesion, which nobody has drawn here."""
    (study,) = [path for path in (shared_data / "dicom").iterdir() if path.is_dir()]
    gland = read_mask(shared_data / "cases" / study.name / "gland_taps.nii.gz", "gland")
    inside = gland.array > 0
    front = inside & (np.arange(inside.shape[1])[:, None] < np.nonzero(inside)[1].mean())
    case = shutil.copytree(study, tmp_path / "cases" / "one")
    write_volume(gland, case / "gland.nii.gz")
    write_volume(gland.with_array(2 * front.astype(np.uint8)), case / "lesion.nii.gz")
    assert pretrained(tmp_path / "cases", "contrastive", tmp_path / "start").training["cases"] == ["one"]


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
    sentence = f"a --recipe states all but the seed itself, and is trained by one process: no {option[0]}"
    assert sentence in capsys.readouterr().err
