"""A study over plug-ins on real worker processes, which import the modules that its configuration names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_sweeps import a_document, write_config

from VFMTransferLib.core.errors import ConfigError
from VFMTransferLib.study.config import read_config
from VFMTransferLib.study.tables import read_tables
from VFMTransferLib.tasks import TASKS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
(OF_THE_PAGE,) = re.findall(
    r"```yaml\n(.*?)```", (ROOT / "docs" / "developing.md").read_text(encoding="utf-8"), re.DOTALL
)
SIZE = {"width": 6, "blocks": 1, "spacing_mm": [3.0, 3.0, 4.0], "patch": [12, 32, 32]}


def a_small_study_of_the_page() -> dict:
    document = a_document(real=None, around_gland_mm=None, measurements=1, **yaml.safe_load(OF_THE_PAGE))
    document["encoders"]["residual"]["size"] = SIZE
    document["encoders"]["residual"]["pretraining"] |= {"steps": 2, "phantoms": {"first_seed": 100_000, "count": 1}}
    document["tasks"]["bias-field-correction"]["residual"]["steps"] = 2
    return document


def command(*words: object, modules: Path | None = HERE) -> subprocess.CompletedProcess[str]:
    """A command of a user whose modules lie in a folder."""
    folders = [str(ROOT), *([] if modules is None else [str(modules)])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "VFMTransferLib", "study", *map(str, words)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=900)


def test_a_study_over_plugins_runs_on_worker_processes(tmp_path):
    config, folder = write_config(tmp_path, a_small_study_of_the_page()), tmp_path / "study"
    done = command("run", "--config", config, "--workers", 1, "--only", "seed=0", "-o", folder)
    assert done.returncode == 0, done.stderr
    assert {(run.encoder, run.task, run.arm) for run in read_tables(folder).runs} == {
        ("unchanged", "bias-field-correction", "trivial"),
        ("residual", "bias-field-correction", "scratch"),
        ("residual", "bias-field-correction", "pretrained"),
    }
    page = command("report", folder)
    assert page.returncode == 0, page.stderr
    assert "Bias-field correction" in (folder / "report.html").read_text(encoding="utf-8")
    assert "bias-field-correction" not in TASKS  # this process has nothing to do with it

    without = command("run", "--resume", "-o", folder, modules=None)
    assert without.returncode == 1
    assert "'config.yaml.plugins' must name modules that can be imported, but 'my_plugins' cannot" in without.stderr
    assert "Traceback" not in without.stderr


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        (["no_such_module"], "'no_such_module' cannot: ModuleNotFoundError: No module named 'no_such_module'"),
        (["broken_plugin"], "'broken_plugin' cannot: ZeroDivisionError: division by zero. Correct it, install it, or"),
        (["../broken_plugin"], r"'study.yaml.plugins\[0\]' must be the name of a module, as my_package.tasks, got"),
        ("broken_plugin", "'study.yaml.plugins' must be a list"),
        ([3], r"'study.yaml.plugins\[0\]' must be text"),
    ],
)
def test_plugins_that_cannot_be_imported_are_named(tmp_path, monkeypatch, plugins, message):
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        read_config(write_config(tmp_path, a_document(plugins=plugins)))
