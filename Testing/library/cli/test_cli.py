"""The command line: what it offers, its exit codes, and how fast it answers."""

import json
import os
import subprocess
import sys

import pytest

from VFMTransferLib.cli import build_parser, main
from VFMTransferLib.cli.shared import sentence
from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.terms import RESEARCH_USE

COMMANDS = ("demo", "predict", "compare", "models", "finetune", "pretrain", "phantom", "doctor")
SLOWEST_START_S = 0.3


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([command, "--help"])
    assert leaving.value.code == 0
    assert command in capsys.readouterr().out


def test_help_says_that_it_is_for_research_only(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert RESEARCH_USE in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["no-such-command"],
        ["predict", "-o", "out"],
        ["predict", "--bundle", "b", "-o", "out"],
        ["predict", "case", "--bundle", "b", "-o", "out", "--threshold", "1.5"],
        ["predict", "case", "--bundle", "b", "-o", "out", "--runtime", "tensorflow"],
        ["compare", "case", "--bundle", "only-one", "-o", "out"],
        ["compare", "a", "b", "--reference", "one.nii.gz", "-o", "out"],
        ["compare", "a", "b", "--t2w", "t2w.nii.gz", "-o", "out"],
        ["compare", "x/study", "y/study", "-o", "out"],
        ["phantom", "-n", "0", "-o", "out"],
        ["phantom", "--range", "wide", "--condition", "vendor=ge", "-o", "out"],
        ["phantom", "--condition", "vendor=acme", "-o", "out"],
        ["phantom", "--condition", "endorectal_coil=maybe", "-o", "out"],
        ["phantom", "--condition", "vendor=ge", "--condition", "vendor=siemens", "-o", "out"],
        ["phantom", "--range", "no-such-file.json", "-o", "out"],
        ["finetune", "data", "--recipe", "r.json", "--arm", "pretrained", "-o", "out"],
        ["finetune", "data", "--recipe", "r.json", "--arm", "scratch", "--encoder", "e.safetensors", "-o", "out"],
        ["models"],
    ],
)
def test_wrong_usage_leaves_with_2(words, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_failure_is_one_sentence_and_code_1(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "nowhere"), "--bundle", "none", "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(Exception, match="none"):
        main(["predict", str(tmp_path), "--bundle", "none", "-o", str(tmp_path / "out"), "--debug"])


def test_models_list_answers_programs_in_json(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tmp_path))
    assert main(["models", "list", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"bundles", "broken"}


@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
def test_json_is_json_on_a_pipe_of_any_code_page(encoding):
    program = "from VFMTransferLib.cli.shared import print_json; print_json({'unit': 'mm²'})"
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:backslashreplace"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert json.loads(run.stdout.decode(encoding)) == {"unit": "mm²"}


def test_the_module_runs_as_the_command_does():
    run = subprocess.run(
        [sys.executable, "-m", "VFMTransferLib", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("vfm-transfer ")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom VFMTransferLib.cli import build_parser\nbuild_parser().format_help()\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded.isdisjoint({"torch", "onnxruntime", "numpy", "scipy", "SimpleITK", "rich", "PIL", "jsonschema"})


def test_help_answers_at_once():
    """Measured in the processor's time, since other work on the machine must not decide."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "VFMTransferLib", "--help"], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    taken_s = after.children_user - before.children_user + after.children_system - before.children_system
    assert taken_s < SLOWEST_START_S


def test_a_study_can_be_given_file_by_file():
    words = ["predict", "--t2w", "t.nii.gz", "--adc", "a.nii.gz", "--bundle", "b", "-o", "out"]
    args = build_parser().parse_args(words)
    assert args.case is None
    assert (args.t2w.name, args.adc.name, args.hbv) == ("t.nii.gz", "a.nii.gz", None)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImageError("adc.nii.gz must be 3D,\nbut is 4D."), "adc.nii.gz must be 3D, but is 4D."),
        (MemoryError(), "memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (
            OSError(28, "No space left on device", "/somewhere/secret name/labels.nii.gz"),
            "labels.nii.gz, but it is full",
        ),
        (PermissionError(13, "Permission denied", "/somewhere/secret name/out"), "out must be readable"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "vfm-transfer[torch]"),
        (KeyError("x"), "--debug"),
    ],
)
def test_every_error_becomes_one_line(error, says):
    text = sentence(error)
    assert says in text
    assert "\n" not in text
    assert "secret" not in text
