"""What people really bring: the command line writes one sentence, exits with 1, and leaves nothing half-written."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from images import DWI_GRID, T2W_GRID, a_t2w

from VFMTransferLib.core.volume import Volume
from VFMTransferLib.io import write_volume

COMMAND = [sys.executable, "-m", "VFMTransferLib"]
STEP_S = 0.02
PATIENCE_S = 60


@dataclass(frozen=True)
class Bench:
    """A folder to break things in, with a good case and good bundles of its own.

    Attributes:
        folder: Holds nothing but the case, the models and what the command writes.
        case: A good case.
        models: The user's bundles.
    """

    folder: Path
    case: Path
    models: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def environment(self) -> dict[str, str]:
        return {**os.environ, "VFM_TRANSFER_MODELS": str(self.models), "OMP_NUM_THREADS": "1"}

    def run(self, *words: object, limit: Callable[[], None] | None = None) -> subprocess.CompletedProcess:
        command = [*COMMAND, *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environment(), preexec_fn=limit, check=False
        )

    def predict(self, *words: object, limit: Callable[[], None] | None = None) -> subprocess.CompletedProcess:
        """`predict` on the case, with a good bundle unless `words` name one."""
        bundle = [] if "--bundle" in words else ["--bundle", "tiny-scratch"]
        options = [*bundle, "-o", self.out, *words]
        return self.run("predict", self.case, *options, limit=limit)

    def require_refusal(self, done: subprocess.CompletedProcess, *expected: str) -> None:
        """Code 1, one line on stderr with the words, nothing on stdout, nothing written."""
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.rstrip().endswith((".", "'", "}")), done.stderr
        for words in expected:
            assert words in done.stderr
        self.require_nothing_written()

    def require_nothing_written(self) -> None:
        assert sorted(path.name for path in self.folder.iterdir()) == ["models", "p001"]


@pytest.fixture
def bench(tmp_path, a_study, tiny_models) -> Bench:
    shutil.copytree(a_study, tmp_path / "p001")
    shutil.copytree(tiny_models, tmp_path / "models")
    return Bench(tmp_path, tmp_path / "p001", tmp_path / "models")


def replace_t2w(bench: Bench, array: np.ndarray) -> None:
    write_volume(Volume(array, T2W_GRID), bench.case / "t2w.nii.gz")


def with_voxel(value: float) -> np.ndarray:
    array = a_t2w().array.astype(np.float32)
    array[3, 4, 5] = value
    return array


def test_a_good_study_is_predicted(bench):
    done = bench.predict()
    assert (done.returncode, done.stderr) == (0, "")
    assert (bench.out / "result.json").is_file()


def test_a_study_that_is_missing(bench):
    bench.require_refusal(bench.run("predict", "no-such", "--bundle", "tiny-scratch", "-o", bench.out), "no-such")


def test_an_image_that_is_missing(bench):
    bench.require_refusal(bench.predict("--t2w", bench.folder / "t2.nii.gz"), "t2.nii.gz")


def test_an_empty_folder(bench):
    for path in bench.case.iterdir():
        path.unlink()
    bench.require_refusal(bench.predict(), "p001", "t2w")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_truncated_image(bench, suffix):
    path = bench.case / f"t2w{suffix}"
    write_volume(a_t2w(), path)
    path.write_bytes(path.read_bytes()[:-700])
    if suffix != ".nii.gz":
        (bench.case / "t2w.nii.gz").unlink()
    bench.require_refusal(bench.predict(), f"t2w{suffix}")


def test_a_file_that_is_no_image(bench):
    (bench.case / "t2w.nii.gz").write_bytes(b"<html>please log in</html>" * 40)
    bench.require_refusal(bench.predict(), "t2w.nii.gz")


def test_a_4d_image_as_t2w(bench):
    image = sitk.JoinSeries([a_t2w(seed).to_sitk() for seed in range(3)])
    sitk.WriteImage(image, str(bench.case / "t2w.nii.gz"))
    bench.require_refusal(bench.predict(), "t2w.nii.gz", "4")


def test_a_color_image(bench):
    image = sitk.Compose([sitk.Cast(a_t2w(seed).to_sitk(), sitk.sitkUInt8) for seed in range(3)])
    (bench.case / "t2w.nii.gz").unlink()
    sitk.WriteImage(image, str(bench.case / "t2w.nrrd"))
    bench.require_refusal(bench.predict(), "t2w.nrrd", "color")


def test_a_constant_image(bench):
    replace_t2w(bench, np.full(T2W_GRID.shape, 7, np.float32))
    bench.require_refusal(bench.predict(), "t2w.nii.gz", "7")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(bench, value):
    image = a_t2w().with_array(with_voxel(value)).to_sitk()
    sitk.WriteImage(image, str(bench.case / "t2w.nii.gz"))
    bench.require_refusal(bench.predict(), "t2w.nii.gz", "finite")


def test_an_image_of_one_slice(bench):
    sitk.WriteImage(a_t2w().to_sitk()[:, :, 3:4], str(bench.case / "t2w.nii.gz"))
    bench.require_refusal(bench.predict(), "t2w.nii.gz", "slice")


def test_sequences_that_do_not_lie_in_one_space(bench):
    image = sitk.ReadImage(str(bench.case / "adc.nii.gz"))
    image.SetOrigin((400.0, 300.0, 900.0))
    sitk.WriteImage(image, str(bench.case / "adc.nii.gz"))
    bench.require_refusal(bench.predict(), "adc", "t2w")


def test_another_sequence_in_place_of_adc(bench):
    values = np.random.default_rng(0).integers(20_000, 60_000, DWI_GRID.shape).astype(np.uint16)
    write_volume(Volume(values, DWI_GRID), bench.case / "adc.nii.gz")
    named = ["--t2w", bench.case / "t2w.nii.gz", "--adc", bench.case / "adc.nii.gz"]
    bench.require_refusal(
        bench.run("predict", *named, "--bundle", "tiny-scratch", "-o", bench.out), "adc.nii.gz", "mm²/s"
    )
    in_a_folder = bench.predict()  # by a network that takes T2w alone
    assert in_a_folder.returncode == 0
    assert "Left out, since it could not be read whole and is not needed" in in_a_folder.stdout


def test_a_mask_in_place_of_an_image(bench):
    replace_t2w(bench, (a_t2w().array > 300).astype(np.uint8))
    bench.require_refusal(bench.predict(), "t2w.nii.gz", "mask")


def test_two_files_for_one_sequence(bench):
    shutil.copy(bench.case / "t2w.nii.gz", bench.case / "other_t2w.nii.gz")
    shutil.move(bench.case / "t2w.nii.gz", bench.case / "one_t2w.nii.gz")
    bench.require_refusal(bench.predict(), "one_t2w.nii.gz", "other_t2w.nii.gz", "select it as t2w")


def test_a_gland_mask_that_is_empty(bench):
    write_volume(Volume(np.zeros(T2W_GRID.shape, np.uint8), T2W_GRID), bench.folder / "p001" / "empty.nii.gz")
    bench.require_refusal(bench.predict("--gland", bench.case / "empty.nii.gz"), "empty.nii.gz")


def test_a_bundle_that_is_unknown(bench):
    bench.require_refusal(bench.predict("--bundle", "tiny"), "tiny", "tiny-pretrained", "tiny-scratch")


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx"])
def test_tampered_weights(bench, name):
    path = bench.models / "tiny-scratch" / "models" / name
    damaged = bytearray(path.read_bytes())
    damaged[-9] ^= 1
    path.write_bytes(damaged)
    bench.require_refusal(bench.predict(), name, "sha256")


def test_weights_that_are_missing(bench):
    (bench.models / "tiny-scratch" / "models" / "model.safetensors").unlink()
    bench.require_refusal(bench.predict(), "model.safetensors")


def test_metadata_that_are_no_json(bench):
    (bench.models / "tiny-scratch" / "configs" / "metadata.json").write_text('{"name": ', encoding="utf-8")
    bench.require_refusal(bench.predict("--bundle", bench.models / "tiny-scratch"), "metadata.json", "JSON")


@pytest.mark.parametrize(
    ("key", "value"),
    [("patch", [16, 32]), ("spacing_mm", [0, 2, 4]), ("sequences", ["t1w", None, None]), ("overlap", "half")],
)
def test_metadata_that_state_what_cannot_be(bench, key, value):
    edit_preprocessing(bench, **{key: value})
    bench.require_refusal(bench.predict("--bundle", bench.models / "tiny-scratch"), key)


def test_a_sequence_that_the_network_needs_and_the_case_lacks(bench):
    from bundles import make_bundle

    make_bundle(bench.models / "lesions", "profound-upernet-lesion")
    (bench.case / "adc.nii.gz").unlink()
    bench.require_refusal(bench.predict("--bundle", "lesions"), "lacks adc")


def test_a_network_for_another_task(bench):
    bench.require_refusal(bench.predict("--task", "lesion-segmentation"), "tiny-scratch", "anatomy-segmentation")


def test_two_networks_of_different_tasks(bench):
    from bundles import make_bundle

    make_bundle(bench.models / "lesions", "profound-upernet-lesion")
    bundles = ["--bundle", "tiny-scratch", "--bundle", "lesions"]
    bench.require_refusal(bench.run("compare", bench.case, *bundles, "-o", bench.out), "anatomy", "lesion")


def test_a_device_that_is_not_there(bench):
    bench.require_refusal(bench.predict("--device", "cuda:7"), "cuda")


def test_a_checkpoint_with_a_foreign_object(bench):
    import torch

    torch.save({"model": {}, "args": Path("anything")}, bench.case / "weights.pth")
    bench.require_refusal(bench.run("models", "import", bench.case / "weights.pth", "-o", bench.out), "weights.pth")


def test_an_output_folder_with_other_things(bench):
    done = bench.predict("-o", bench.case)
    bench.require_refusal(done, "p001")
    assert (bench.case / "t2w.nii.gz").is_file()


def test_an_output_folder_below_a_file(bench):
    bench.require_refusal(bench.predict("-o", bench.case / "t2w.nii.gz" / "out"), "Output")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="only Linux has a folder that nobody may write to")
def test_an_output_folder_that_may_not_be_written(bench):
    bench.require_refusal(bench.predict("-o", "/proc/out"), "out")


def test_a_disk_that_is_full(bench):
    """No file may grow past a size, which the system reports as a disk without room."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    bench.require_refusal(bench.predict(limit=limit), "disk")


def test_a_memory_that_is_too_small(bench):
    """An image of many centimeters on a grid of a hundredth of a millimeter is a terabyte."""
    edit_preprocessing(bench, spacing_mm=[0.01, 0.01, 0.01])
    bench.require_refusal(bench.predict(), "memory")


def test_a_process_that_may_take_little_memory(bench):
    limit = 500 * 2**20
    done = bench.predict(limit=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    bench.require_refusal(done, "memory")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_run_that_is_stopped_leaves_nothing(bench, name, code):
    process = start_long_run(bench)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert "Traceback" not in said
    assert said.count("\n") <= 1
    bench.require_nothing_written()


def test_a_run_that_is_killed_leaves_no_result(bench):
    process = start_long_run(bench)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    assert not bench.out.exists()


def edit_preprocessing(bench: Bench, **entries: object) -> None:
    """Give `tiny-scratch` another preprocessing."""
    path = bench.models / "tiny-scratch" / "configs" / "metadata.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["vfm_transfer"]["model"]["preprocess"] |= entries
    path.write_text(json.dumps(document), encoding="utf-8")


def listen_to_ctrl_c() -> None:
    """A shell's background jobs, and all they start, ignore SIGINT; a user's command does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start_long_run(bench: Bench) -> subprocess.Popen:
    """A run of ten seconds, one pass over a fine grid or thousands of windows, that has begun to work."""
    edit_preprocessing(bench, whole_volume=True, overlap=0.97, spacing_mm=[0.1, 0.1, 0.2])
    command = [*COMMAND, "predict", bench.case, "--bundle", "tiny-scratch", "-o", bench.out]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=bench.environment(), preexec_fn=listen_to_ctrl_c
    )
    deadline = time.monotonic() + PATIENCE_S
    while not list(bench.folder.glob(".out.*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "The run has not begun."
        time.sleep(STEP_S)
    time.sleep(0.5)
    assert process.poll() is None, process.stderr.read()
    return process
