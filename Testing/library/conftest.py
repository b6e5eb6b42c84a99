"""Fixtures that read as words: small cases, the real studies where they are at hand."""

import hashlib
import os
import shutil
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


@pytest.fixture
def no_home(monkeypatch):
    """No home folder is known, as for a container's user whose number has no name."""
    for variable in ("HOME", "USERPROFILE", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("VFM_TRANSFER_MODELS", "VFM_TRANSFER_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    if os.name == "posix":
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])


@pytest.fixture(scope="session", autouse=True)
def trace(tmp_path_factory) -> Iterator:
    """The exporter's tracing. Equal networks are traced once, whichever process of the tests does it.

    A trace takes seconds and depends on no weight. The graphs are the exporter's own, and those of each bundle are
    compared with its network as ever.
    """
    try:
        import onnx

        from VFMTransferLib.bundles import onnx_export
    except ImportError:
        yield None
        return
    folder = of_all_processes(tmp_path_factory)
    original = onnx_export._traced

    def trace_once(network, spec, for_processors):
        tensors = [(name, tensor.shape) for name, tensor in network.state_dict().items()]
        grid = spec.preprocess
        parts = (spec.encoder, spec.head, grid.sequences, grid.spacing_mm, tensors, for_processors)
        key = hashlib.sha256(repr(parts).encode()).hexdigest()
        path = folder / f"trace-{key}.onnx"
        if not path.is_file():
            part = path.with_name(f"{path.name}.{os.getpid()}")
            part.write_bytes(original(network, spec, for_processors).SerializeToString())
            part.replace(path)
        return onnx.load_model_from_string(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "_traced", trace_once)
        yield original


@pytest.fixture(scope="session", autouse=True)
def phantoms_made_once(tmp_path_factory) -> Iterator[None]:
    """Equal phantoms of a `PhantomStore` are made once, whichever process of the tests does it, and copied after that.

    The name of a phantom's file changes with anything that decides it.
    """
    from VFMTransferLib.phantom import PhantomStore, phantom

    folder = of_all_processes(tmp_path_factory) / "phantoms"
    folder.mkdir(exist_ok=True)
    original, make_phantom = PhantomStore.make_missing, phantom.make_phantom

    def make_missing(store, seeds, on_progress=None):
        if phantom.make_phantom is not make_phantom:  # a test makes others
            original(store, seeds, on_progress)
            return
        seeds = list(seeds)
        own = {store.name_of(seed): store.folder / store.name_of(seed) for seed in seeds}
        for name, path in own.items():
            if (folder / name).is_file() and not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                copy_whole(folder / name, path)
        missing = [name for name, path in own.items() if not path.is_file()]
        original(store, seeds, on_progress)
        for name in missing:
            copy_whole(own[name], folder / name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhantomStore, "make_missing", make_missing)
        yield


def copy_whole(source: Path, target: Path) -> None:
    """Another process sees all of it or nothing; no link, since tests damage such files."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, part)
    part.replace(target)


def of_all_processes(tmp_path_factory) -> Path:
    """A folder that all processes of one run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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
