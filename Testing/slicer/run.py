"""Runs the tests beside it inside Slicer, and ends Slicer with their outcome.

    Slicer --testing --additional-module-paths <clone>/VFMTransfer --python-script <this file> [NAME ...]

A name chooses a file, as in `test_console`; by default all run. With its suffix Slicer would take it for the script.
`make test-slicer` runs all with a main window, and what needs none without.
"""

import sys
import unittest
from pathlib import Path

import slicer

FOLDER = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    """Run the files, and return an exit code; no test at all is a failure too."""
    sys.path.insert(0, str(FOLDER))
    loader = unittest.TestLoader()
    suite = unittest.TestSuite(loader.discover(str(FOLDER), f"{name}.py") for name in names or ["test_*"])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    sys.stdout.flush()
    isPassed = result.wasSuccessful() and result.testsRun > 0
    return slicer.util.EXIT_SUCCESS if isPassed else slicer.util.EXIT_FAILURE


slicer.util.exit(main(sys.argv[1:]))
