"""Runs that are stopped at any moment, names and places that do harm: one sentence, the right code, nothing left."""

import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dicom_series import DicomSeries
from images import a_gland, a_t2w

from VFMTransferLib.cli import main
from VFMTransferLib.cli.shared import sentence
from VFMTransferLib.core.errors import ImageError
from VFMTransferLib.core.files import atomic_folder
from VFMTransferLib.io import write_volume

COMMAND = [sys.executable, "-m", "VFMTransferLib"]
PATIENCE_S = 90
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has other signals and names.")


@pytest.fixture
def run(tiny_models):
    def _run(*words: object) -> subprocess.CompletedProcess:
        environment = {**os.environ, "VFM_TRANSFER_MODELS": str(tiny_models), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*COMMAND, *map(str, words)], capture_output=True, text=True, env=environment, check=False
        )

    return _run


@posix
def test_a_folder_whose_name_is_no_text_is_a_case_like_any_other(run, a_study, tmp_path):
    case = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff"))
    shutil.copytree(a_study, case)
    done = run("predict", case, "--bundle", "tiny-scratch", "-o", tmp_path / "out", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"case": "p%ff"' in done.stdout


@posix
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_nothing(tiny_models, a_study, tmp_path, closed):
    words = [
        *COMMAND,
        "predict",
        str(a_study),
        "--bundle",
        str(tiny_models / "tiny-scratch"),
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "result.json").is_file()


@posix
@pytest.mark.parametrize("odd", [{"HOME": None}, {"HOME": "/dev/null"}, {"TMPDIR": "/nowhere"}, {"LC_ALL": "C"}])
def test_an_odd_environment_stops_nothing(tiny_models, a_study, tmp_path, odd):
    case = tmp_path / "fäll"
    shutil.copytree(a_study, case)
    environment = {key: value for key, value in {**os.environ, **odd}.items() if value is not None}
    words = ["predict", case, "--bundle", tiny_models / "tiny-scratch", "-o", tmp_path / "öut"]
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "öut" / "result.json").is_file()


@posix
def test_a_cohort_goes_on_after_cases_that_do_harm(run, a_study, tmp_path):
    cohort = tmp_path / "cohort"
    for name in ("p001", os.fsdecode(b"p002\xff"), "p003", "=p004"):
        shutil.copytree(a_study, cohort / name)
    (cohort / "p003" / "t2w.nii.gz").write_bytes(b"\x1f\x8b\x08" + bytes(300))
    done = run("predict", "--cohort", cohort, "--bundle", "tiny-scratch", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "1 of 4 cases failed" in done.stderr
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        rows = {row["case"]: row["status"] for row in csv.DictReader(file)}
    assert rows == {"'=p004": "done", "p001": "done", "p002%ff": "done", "p003": "failed"}


def everything_in(folder: Path) -> str:
    return "".join(
        f"{f.relative_to(folder)} {f.read_bytes().decode('latin-1')}" for f in folder.rglob("*") if f.is_file()
    )


def test_file_names_and_series_descriptions_enter_no_result_report_or_log(tiny_models, a_study, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    named, dicom = tmp_path / "p001", tmp_path / "dicom"
    shutil.copytree(a_study, named)
    for role in ("t2w", "hbv", "adc"):
        (named / f"{role}.nii.gz").rename(named / f"PETERSEN_{role}.nii.gz")
    write_volume(a_gland(), named / "PETERSEN_gland.nii.gz")
    DicomSeries(a_t2w().array, "t2_tse_tra PETERSEN", 4).write(dicom)
    pair = ("--bundle", str(tiny_models / "tiny-pretrained"), "--bundle", str(tiny_models / "tiny-scratch"))
    for case in (named, dicom):
        assert main(["compare", str(case), *pair, "-o", str(tmp_path / f"out-{case.name}")]) == 0
    cohort = tmp_path / "cohort"
    shutil.copytree(named, cohort / "p001")
    (cohort / "p001" / "PETERSEN_t2w.nii.gz").write_bytes(b"no image")
    shutil.copytree(dicom, cohort / "p002")
    DicomSeries(a_t2w().array, "t2_tse_tra PETERSEN", 5).write(cohort / "p002")
    assert main(["predict", "--cohort", str(cohort), *pair, "-o", str(tmp_path / "out-cohort")]) == 1
    for out in tmp_path.glob("out-*"):
        assert "PETERSEN" not in everything_in(out)
    assert "'*.nii.gz' must" in everything_in(tmp_path / "out-cohort")
    assert "series 5 (7 images, such as *.dcm)" in everything_in(tmp_path / "out-cohort")
    assert "PETERSEN" not in caplog.text


@posix
def test_an_output_whose_name_is_no_text_is_refused(run, a_study, tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/out\xff")
    done = run("predict", a_study, "--bundle", "tiny-scratch", "-o", out)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "names that are text" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["predict", "compare"])
def test_a_damaged_image_that_nobody_needs_stops_nothing(tiny_models, a_study, tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tiny_models))
    case = tmp_path / "p001"
    shutil.copytree(a_study, case)
    (case / "adc.nii.gz").write_bytes(b"no image")
    bundles = ["--bundle", "tiny-scratch"] + (["--bundle", "tiny-pretrained"] if command == "compare" else [])
    assert main([command, str(case), *bundles, "-o", str(tmp_path / "out"), "--json"]) == 0
    assert "could not be read whole and is not needed: adc." in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "compare"])
def test_an_output_inside_of_the_case_is_refused(tiny_models, a_study, tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tiny_models))
    case = tmp_path / "p001"
    shutil.copytree(a_study, case)
    before = sorted(case.iterdir())
    bundles = ["--bundle", "tiny-scratch"] + (["--bundle", "tiny-pretrained"] if command == "compare" else [])
    assert main([command, str(case), *bundles, "-o", str(case / "out")]) == 1
    assert "must lie outside of the case's folder 'p001'" in capsys.readouterr().err
    assert sorted(case.iterdir()) == before


@pytest.mark.parametrize("words", [["IN"], ["--t2w", "IN/t2w.nii.gz"], ["CASE", "--gland", "IN/t2w.nii.gz"]])
@pytest.mark.parametrize("command", ["predict", "compare"])
def test_an_input_inside_of_the_output_is_refused(tiny_models, a_study, tmp_path, monkeypatch, capsys, command, words):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tiny_models))
    inside = tmp_path / "out" / "p001"
    shutil.copytree(a_study, inside)
    before = sorted(inside.iterdir())
    given = [word.replace("IN", str(inside)).replace("CASE", str(a_study)) for word in words]
    bundles = ["--bundle", "tiny-scratch"] + (["--bundle", "tiny-pretrained"] if command == "compare" else [])
    # Whatever an output is known by.
    monkeypatch.setattr("VFMTransferLib.cli.side_by_side.output_folder", lambda path, marks: atomic_folder(path, True))
    assert main([command, *given, *bundles, "-o", str(tmp_path / "out")]) == 1
    assert "must lie outside of output 'out'" in capsys.readouterr().err
    assert sorted(inside.iterdir()) == before


@posix
def test_an_output_that_is_a_link_to_itself_is_refused(tiny_models, a_study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VFM_TRANSFER_MODELS", str(tiny_models))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert main(["predict", str(a_study), "--bundle", "tiny-scratch", "-o", str(tmp_path / "loop")]) == 1
    assert "Output 'loop' must be a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--threshold=0,5", "must be a number from 0 to 1, e.g. 0.5, got '0,5'"),
        ("--psa=\u0664", "must be a number in ng/ml"),
        ("--workers=0", "--workers and --scheduler need --cohort"),
    ],
)
def test_options_that_cannot_be_are_refused(a_study, tmp_path, capsys, option, words):
    with pytest.raises(SystemExit):
        main(["predict", str(a_study), "--bundle", "tiny-scratch", "-o", str(tmp_path / "out"), option])
    assert words in capsys.readouterr().err


@posix
def test_phantoms_into_a_pipe_are_refused_before_they_are_made(tmp_path, monkeypatch, capsys):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("VFMTransferLib.phantom.phantom.make_phantom", None)  # a call would be another error
    assert main(["phantom", "-o", str(tmp_path / "pipe")]) == 1
    assert "'pipe' must be a folder to hold 'phantom', but is a file" in capsys.readouterr().err


def test_a_sentence_shows_no_control_characters():
    assert sentence(ImageError("'\x1b[31mred\udcff' must be an image.")) == "'%1b[31mred%ff' must be an image."


def _without_inherited_handlers() -> None:
    """As in a terminal; under nohup, for one, a closed terminal is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3])
def test_a_signal_while_modules_load_has_its_own_exit_code(a_study, tmp_path, name, code, delay_s):
    """The command is given a signal as soon as its first module is there."""
    program = (
        "import sys, VFMTransferLib.__main__ as entry\n"
        "sys.argv = ['vfm-transfer', *sys.argv[1:]]\n"
        "original = entry.signal.signal\n"
        "seen = []\n"
        "def note(number, handler):\n"
        "    original(number, handler)\n"
        "    seen.append(number)\n"
        "    len(seen) == 3 and print('ready', flush=True)\n"
        "entry.signal.signal = note\n"
        "sys.exit(entry.main())\n"
    )
    words = ["predict", str(a_study), "--bundle", "profound-prostate-demo-scratch", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_without_inherited_handlers,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay_s)
    process.send_signal(getattr(signal, name))
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, (out, errors)
    assert "Traceback" not in errors
    assert errors.count("\n") <= 1
    assert list(tmp_path.iterdir()) == []


_SWALLOWED_BY = {
    "a bare except": "    try:\n        wait()\n    except:\n        pass\n",
    "a handler of another error": (
        "    try:\n        1 / 0\n    except ZeroDivisionError:\n"
        "        try:\n            wait()\n        except:\n            pass\n        wait()\n"
    ),
    "compiled code": "    ctypes.CFUNCTYPE(None)(wait)()\n",
    "an error of its own": (
        "    try:\n        try:\n            wait()\n        except:\n            raise ImportError\n"
        "    except ImportError:\n        pass\n"
    ),
}


@posix
@pytest.mark.parametrize("swallowing", _SWALLOWED_BY.values(), ids=_SWALLOWED_BY)
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_that_a_library_swallows_still_ends_the_command(name, code, swallowing):
    """As libraries do while they load; what is cleaned up after the signal is cleaned up to its end."""
    program = (
        "import ctypes, sys, time\n"
        "from VFMTransferLib import cli\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(200):\n"
        "        time.sleep(0.05)\n"
        "def run(args):\n"
        "    try:\n"
        "        swallow()\n"
        "        wait()\n"
        "        print('not stopped')\n"
        "    finally:\n"
        "        for _ in range(20):\n"
        "            time.sleep(0.02)\n"
        "        print('cleaned up', flush=True)\n"
        f"def swallow():\n{swallowing}"
        "cli.COMMANDS = (lambda commands: commands.add_parser('wait').set_defaults(run=run, debug=False),)\n"
        "sys.exit(cli.main(['wait']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_without_inherited_handlers,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, (out, errors)
    assert out.splitlines()[-1] == "cleaned up"
    assert "not stopped" not in out
    assert "Traceback" not in errors
    assert errors.count("\n") <= 1
