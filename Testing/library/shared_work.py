"""A folder for what is the same in all tests, whichever process of the tests makes it first."""

import os
from pathlib import Path

VARIABLE = "VFM_TRANSFER_TESTS_SHARED"  # names it; set by `conftest`


def shared_folder() -> Path:
    return Path(os.environ[VARIABLE])
