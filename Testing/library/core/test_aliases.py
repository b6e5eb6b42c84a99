"""Module names of version 1 still import, with a warning, and lead to modules that exist."""

import subprocess
import sys

import pytest

from VFMTransferLib.core.aliases import MOVED

NEEDS_TORCH = {"checkpoint", "export", "importing", "models.network", "weights"}


@pytest.mark.parametrize("name", sorted(MOVED))
def test_an_old_name_leads_to_its_new_home(name):
    if name in NEEDS_TORCH:
        pytest.importorskip("torch")
    code = (
        f"import importlib, warnings\nwith warnings.catch_warnings(record=True) as seen:\n"
        f"    warnings.simplefilter('always')\n    importlib.import_module('VFMTransferLib.{name}')\n"
        f"print(any('is now VFMTransferLib.{MOVED[name]}' in str(one.message) for one in seen))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "True", run.stderr
