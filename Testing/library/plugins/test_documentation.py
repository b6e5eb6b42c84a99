"""The code of the page on plug-ins runs as it stands there, with the plug-ins of these tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PAGE = (ROOT / "docs" / "developing.md").read_text(encoding="utf-8")


def test_the_code_of_the_page_runs(tmp_path):
    for name in ("bias_field_task", "residual_encoder", "my_plugins"):
        shutil.copyfile(HERE / f"{name}.py", tmp_path / f"{name}.py")
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert 5 < float(done.stdout.splitlines()[-1]) < 60
    assert (tmp_path / "bias-field-scratch" / "models" / "model.onnx").is_file()
