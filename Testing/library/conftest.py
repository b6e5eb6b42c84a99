"""Fixtures that read as words: small cases, the real studies where they are at hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[None]:
    """A cache of the tests' own, also of the processes that they start; the user's is neither read nor written."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VFM_TRANSFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real studies; it is no part of the repository."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("The real studies are not beside this clone; phantoms test the same behavior.")
    return folder


@pytest.fixture(scope="session")
def reference_numbers() -> Path:
    """The folder of the numbers that the authors' networks give."""
    return ROOT / "Testing" / "reference"


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A real headless browser, one for the tests of a module."""
    from browsers import a_chromium

    with a_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory) -> Path:
    """A folder with the bundles `tiny-pretrained` and `tiny-scratch`."""
    pytest.importorskip("torch")
    from bundles import make_anatomy_pair

    folder = tmp_path_factory.mktemp("models")
    make_anatomy_pair(folder)
    return folder


@pytest.fixture(scope="session")
def a_study(tmp_path_factory) -> Path:
    """A folder with t2w, hbv and adc of a small synthetic study."""
    from images import a_t2w, an_adc, an_hbv

    from VFMTransferLib.io import write_volume

    folder = tmp_path_factory.mktemp("studies") / "study"
    folder.mkdir()
    for volume in (a_t2w(), an_hbv(), an_adc()):
        write_volume(volume, folder / f"{volume.name}.nii.gz")
    return folder
