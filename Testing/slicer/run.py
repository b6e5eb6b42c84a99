"""Runs the tests beside it inside Slicer, and ends Slicer with their outcome.

    Slicer --testing --additional-module-paths <clone>/VFMTransfer --python-script <this file> [PATTERN ...]

A pattern chooses files, as in `test_console.py`; by default all run. `make test-slicer` runs all with a main window,
and what needs none without.
"""

import sys
import unittest
from pathlib import Path

import slicer

FOLDER = Path(__file__).resolve().parent


def main(patterns: list[str]) -> int:
    """Run the files, and return an exit code; no test at all is a failure too."""
    sys.path.insert(0, str(FOLDER))
    suite = unittest.TestSuite(
        unittest.TestLoader().discover(str(FOLDER), pattern) for pattern in patterns or ["test_*.py"]
    )
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    sys.stdout.flush()
    isPassed = result.wasSuccessful() and result.testsRun > 0
    return slicer.util.EXIT_SUCCESS if isPassed else slicer.util.EXIT_FAILURE


slicer.util.exit(main(sys.argv[1:]))
