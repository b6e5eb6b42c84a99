"""The page on extending the library shows the very plug-ins of these tests, and its code runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_shows_the_plugins_of_these_tests():
    assert BLOCKS[0] == (HERE / "bias_field_task.py").read_text(encoding="utf-8")
    assert BLOCKS[1] == (HERE / "residual_encoder.py").read_text(encoding="utf-8")
    assert BLOCKS[2] == (HERE / "my_plugins.py").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs(tmp_path):
    names = ("bias_field_task", "residual_encoder", "my_plugins", "script")
    for name, text in zip(names, BLOCKS, strict=True):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert 5 < float(done.stdout.splitlines()[-1]) < 60
    assert (tmp_path / "bias-field-scratch" / "models" / "model.onnx").is_file()
