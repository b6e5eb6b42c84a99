"""The commands that are killed, each as small as it gets, and what they need in a folder that all share."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent / "library")]

# Exit codes of signals from the first line on, as `python -m VFMTransferLib` has them.
_EARLY = (
    "import os, signal, sys\n"
    "for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):\n"
    "    signal.signal(getattr(signal, name), lambda number, frame: os._exit(128 + number))\n"
    f"sys.path[:0] = [{str(ROOT)!r}, {str(HERE.parent / 'library')!r}]\n"
)
TINY = _EARLY + (
    "from tiny_commands import main, use_small_networks\nuse_small_networks()\nsys.exit(main(sys.argv[1:]))\n"
)
_STOPPABLE = _EARLY + (
    "from VFMTransferLib import cli\n"
    "from VFMTransferLib.cli.shared import require_address_space, sentence\n"
    "stop = cli._Stop()\n"
    "try:\n"
    "    with stop.listening():\n"
    "        require_address_space()\n"
    "%s"
    "except BaseException as error:\n"
    "    if not stop.received:\n"
    "        print(sentence(error), file=sys.stderr)\n"
    "    sys.exit(128 + stop.received if stop.received else 1)\n"
)
FETCH = _STOPPABLE % (
    "        from VFMTransferLib.bundles.fetching import fetch_bundle\n"
    "        _, url, sha256, out = sys.argv\n"
    "        fetch_bundle(url, sha256, out, accept_license=lambda text: True, allow_loopback=True, overwrite=True)\n"
)
# A program that asks a worker for both arms, as Slicer does. A job's folder is new, so that an old one goes first.
WORKER = _STOPPABLE % (
    "        import shutil\n"
    "        from pathlib import Path\n"
    "        from images import a_t2w\n"
    "        from job_files import a_job\n"
    "        from VFMTransferLib.core.errors import WorkerError\n"
    "        from VFMTransferLib.worker.client import WorkerClient\n"
    "        from VFMTransferLib.worker.messages import Error\n"
    "        out = Path(sys.argv[1])\n"
    "        shutil.rmtree(out, ignore_errors=True)\n"
    "        out.mkdir()\n"
    "        models = Path(os.environ['VFM_TRANSFER_MODELS'])\n"
    "        run = a_job(out, models, 'tiny-pretrained', 'tiny-scratch', compare=True, report=True)\n"
    "        with WorkerClient() as client:\n"
    "            for reply in client.run(run):\n"
    "                if isinstance(reply, Error):\n"
    "                    raise WorkerError(reply.sentence)\n"
)


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        words: Made from its output folder.
        program: Instead of the command line.
        again: Words that are added where its output is there already.
        resumes: What is done stays, so that a second run may take it.
    """

    words: Callable[[Path], list[object]]
    program: str = ""
    again: tuple[str, ...] = ()
    resumes: bool = False

    def line(self, out: Path) -> list[str]:
        start = ["-c", self.program] if self.program else ["-m", "VFMTransferLib"]
        more = self.again if out.exists() else ()
        return [sys.executable, *start, *map(str, self.words(out)), *more]


def make_commands(shared: Path) -> dict[str, Command]:
    """All commands by name, after their inputs were written into a new folder."""
    from bundles import make_anatomy_pair
    from images import a_t2w, an_adc, an_hbv
    from small_sweeps import a_document, write_config

    from VFMTransferLib.io import write_volume

    shared.mkdir()
    make_anatomy_pair(shared / "models")
    for name in ("p001", "p002", "p003"):
        (shared / "cohort" / name).mkdir(parents=True)
        for volume in (a_t2w(), an_hbv(), an_adc()):
            write_volume(volume, shared / "cohort" / name / f"{volume.name}.nii.gz")
    case = shared / "cohort" / "p001"
    _write_compressed(shared / "dicom")
    tasks = {"anatomy-segmentation": {"profound": {"steps": 2}}}
    document = a_document(tasks=tasks, seeds=[0, 1, 2], real=None)
    del document["encoders"]["provicnet"]
    config = write_config(shared, document)
    archive = Path(shutil.make_archive(str(shared / "net"), "zip", shared / "models", "tiny-scratch"))
    url, sha256 = _served(archive), hashlib.sha256(archive.read_bytes()).hexdigest()
    pair = ["--bundle", "tiny-pretrained", "--bundle", "tiny-scratch"]
    one = ["--bundle", "tiny-scratch"]
    few = ["--steps", "3", "--phantoms", "2", "--batch", "2"]
    tuned = ["finetune", "anatomy-segmentation", "--encoder", "profound", "--init", "scratch", *few]
    part = ["--only", "seed=0", "--only", "arm=scratch"]
    cohort = ["predict", "--cohort", shared / "cohort", *pair]
    return {
        "predict": Command(lambda out: ["predict", case, *one, "-o", out]),
        "dicom": Command(lambda out: ["predict", "--t2w", shared / "dicom", *one, "-o", out]),
        "compare": Command(lambda out: ["compare", case, *pair, "-o", out]),
        "cohort": Command(lambda out: [*cohort, "-o", out], resumes=True),
        "dask": Command(lambda out: [*cohort, "--workers", "2", "-o", out], resumes=True),
        "phantom": Command(lambda out: ["phantom", "-n", "1", "--no-full-resolution", "-o", out]),
        "import": Command(lambda out: ["models", "import", archive, "-o", out]),
        "fetch": Command(lambda out: [url, sha256, out], FETCH, resumes=True),
        "worker": Command(lambda out: [out], WORKER, resumes=True),
        "finetune": Command(lambda out: [*tuned, "--validation", "1", "-o", out], TINY, resumes=True),
        "pretrain": Command(lambda out: ["pretrain", "--pretext", "mae", *few, "-o", out], TINY, resumes=True),
        "study": Command(
            lambda out: ["study", "--config", config, "--workers", "2", *part, "-o", out],
            again=("--resume",),
            resumes=True,
        ),
    }


def _write_compressed(folder: Path) -> None:
    """A T2w series whose slices need a codec, so that a child process decodes them."""
    import pydicom
    from dicom_series import DicomSeries
    from images import a_t2w
    from pydicom.uid import RLELossless

    for path in DicomSeries(a_t2w().array, "t2_tse_tra", 4).write(folder):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless)
        dataset.save_as(path)


def _served(archive: Path) -> str:
    """The address of a file that a server of this process sends slowly, so that there is time to be killed."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    content = archive.read_bytes()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            try:
                for at in range(begin, len(content), max(len(content) // 20, 1)):
                    self.wfile.write(content[at : at + max(len(content) // 20, 1)])
                    time.sleep(0.03)
            except OSError:
                return

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/net.zip"
