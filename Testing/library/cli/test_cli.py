"""The command line: what it offers, its exit codes, and how fast it answers."""

import signal
import subprocess
import sys

import pytest

from VFMTransferLib.cli import main
from VFMTransferLib.cli.shared import sentence
from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.terms import RESEARCH_USE

COMMANDS = ("demo", "predict", "compare", "models", "finetune", "pretrain", "phantom", "doctor")


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


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals.")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_has_its_exit_code_and_leaves_nothing(a_study, tmp_path, number, code):
    program = (
        "import os, sys, time\nfrom VFMTransferLib.cli import main\nimport VFMTransferLib.inference.predict as p\n"
        f"p.predict = lambda *a, **k: [os.kill(os.getpid(), {int(number)}), time.sleep(9)]\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["predict", a_study, "--bundle", "profound-prostate-demo-scratch", "-o", tmp_path / "out"]
    run = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False)
    assert run.returncode == code, run.stderr
    assert run.stderr.count("\n") <= 1
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImageError("adc.nii.gz is\n\x1b[31m4D."), "adc.nii.gz is %1b[31m4D."),
        (MemoryError(), "memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (OSError(28, "No space left on device", "/somewhere/secret name/labels.nii.gz"), "labels.nii.gz"),
        (PermissionError(13, "Permission denied", "/somewhere/secret name/out"), "out"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "vfm-transfer[torch]"),
        (KeyError("x"), "--debug"),
    ],
)
def test_every_error_becomes_one_line(error, says):
    text = sentence(error)
    assert says in text
    assert "\n" not in text
    assert "secret" not in text
