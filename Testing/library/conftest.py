"""Fixtures that read as words: small cases, the real studies where they are at hand."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real studies; it is no part of the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("The real studies are not beside this clone; phantoms test the same behavior.")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Numbers of the authors' networks; they are no part of the repository."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("The reference numbers are not beside this clone.")
    return folder
