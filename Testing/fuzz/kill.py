"""Kill commands at random moments and run them again: `make kill`, or `python Testing/fuzz/kill.py --kills 20`.

Each command is started, receives KILL, TERM, INT or HUP, or has too small a disk, and is then run again to its end.
What must hold: the exit code is that of the signal, stderr has at most one line, what is there is whole or not there;
the second run gives what an undisturbed one gives, nothing half-written is left, and no process goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent / "library")]

CODES = {"KILL": -9, "TERM": 143, "INT": 130, "HUP": 129}
START_S = 0.2  # Python itself starts; no program can choose an exit code before
PATIENCE_S = 300
CLOCK_KEYS = {"seconds", "created", "date"}
# Texts with times and durations in them; whether they are there is what counts.
UNCOMPARED = (".html", ".png", ".csv", ".onnx", ".md", ".svg")
_EARLY = (
    "import os, signal, sys\n"
    "for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):\n"
    "    signal.signal(getattr(signal, name), lambda number, frame: os._exit(128 + number))\n"
)
TINY = _EARLY + (
    f"sys.path[:0] = [{str(ROOT)!r}, {str(HERE.parent / 'library')!r}]\n"
    "from tiny_commands import main, use_small_networks\n"
    "use_small_networks()\n"
    "sys.exit(main(sys.argv[1:]))\n"
)
FETCH = _EARLY + (
    f"sys.path[:0] = [{str(ROOT)!r}]\n"
    "from VFMTransferLib import cli\n"
    "from VFMTransferLib.bundles.fetching import fetch_bundle\n"
    "_, url, sha256, out = sys.argv\n"
    "stop = cli._Stop()\n"
    "try:\n"
    "    with stop.listening():\n"
    "        fetch_bundle(url, sha256, out, accept_license=lambda text: True, allow_loopback=True, overwrite=True)\n"
    "except BaseException:\n"
    "    sys.exit(128 + stop.received if stop.received else 1)\n"
)


@dataclass(frozen=True)
class Scenario:
    """A command.

    Attributes:
        words: Made from its output folder.
        program: Instead of the command line.
        resumes: What is done stays, so that a second run may take it.
    """

    words: Callable[[Path], list[object]]
    program: str = ""
    resumes: bool = False

    def command(self, out: Path) -> list[str]:
        start = ["-c", self.program] if self.program else ["-m", "VFMTransferLib"]
        return [sys.executable, *start, *map(str, self.words(out))]


def scenarios(shared: Path) -> dict[str, Scenario]:
    """The commands, and what they need in a folder that all share."""
    from bundles import make_anatomy_pair
    from images import a_t2w, an_adc, an_hbv

    from VFMTransferLib.io import write_volume

    make_anatomy_pair(shared / "models")
    for name in ("p001", "p002", "p003"):
        (shared / "cohort" / name).mkdir(parents=True)
        for volume in (a_t2w(), an_hbv(), an_adc()):
            write_volume(volume, shared / "cohort" / name / f"{volume.name}.nii.gz")
    archive = Path(shutil.make_archive(str(shared / "net"), "zip", shared / "models", "tiny-scratch"))
    case = shared / "cohort" / "p001"
    url, sha256 = _served(archive), hashlib.sha256(archive.read_bytes()).hexdigest()
    pair = ["--bundle", "tiny-pretrained", "--bundle", "tiny-scratch"]
    few = ["--steps", "3", "--phantoms", "2", "--batch", "2"]
    tuned = [
        "finetune",
        "anatomy-segmentation",
        "--encoder",
        "profound",
        "--init",
        "scratch",
        "--validation",
        "1",
        *few,
    ]
    return {
        "predict": Scenario(lambda out: ["predict", case, "--bundle", "tiny-scratch", "-o", out]),
        "compare": Scenario(lambda out: ["compare", case, *pair, "-o", out]),
        "cohort": Scenario(lambda out: ["predict", "--cohort", shared / "cohort", *pair, "-o", out], resumes=True),
        "phantom": Scenario(lambda out: ["phantom", "-n", "1", "--no-full-resolution", "-o", out]),
        "import": Scenario(lambda out: ["models", "import", archive, "-o", out]),
        "fetch": Scenario(lambda out: [url, sha256, out], FETCH, resumes=True),
        "finetune": Scenario(lambda out: [*tuned, "-o", out], TINY, resumes=True),
        "pretrain": Scenario(lambda out: ["pretrain", "--pretext", "mae", *few, "-o", out], TINY, resumes=True),
    }


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


def digest(out: Path) -> dict[str, str]:
    """File → what it holds, but for times."""
    found = {}
    for path in sorted(out.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(out))
        if path.suffix in UNCOMPARED:
            found[name] = "there"
        elif path.suffix == ".json":
            found[name] = json.dumps(_without_clock(json.loads(path.read_text("utf-8"))), sort_keys=True)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _without_clock(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in CLOCK_KEYS and "second" not in k and k != "sha256"}
        return {k: _without_clock(v) for k, v in kept.items()}
    return [_without_clock(item) for item in value] if isinstance(value, list) else value


class Killer:
    """Runs commands in a folder, disturbed and undisturbed."""

    def __init__(self, work: Path, chance: random.Random) -> None:
        self.work, self.chance = work, chance
        (work / "shared").mkdir()
        self.scenarios = scenarios(work / "shared")
        self.environment = {
            **os.environ,
            "VFM_TRANSFER_MODELS": str(work / "shared" / "models"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.wanted: dict[str, tuple[dict[str, str], float]] = {}

    def run(self, scenario: Scenario, out: Path, limit: Callable[[], None] | None = None) -> subprocess.Popen:
        return subprocess.Popen(
            scenario.command(out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            preexec_fn=limit or _listen,
        )

    def undisturbed(self, name: str) -> tuple[dict[str, str], float]:
        """What a command gives, and the seconds that it takes."""
        if name not in self.wanted:
            out, begin = self.work / "undisturbed" / "out", time.monotonic()
            out.parent.mkdir()
            process = self.run(self.scenarios[name], out)
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, errors
            self.wanted[name] = digest(out), time.monotonic() - begin
            shutil.rmtree(out.parent)
        return self.wanted[name]

    def kill(self, name: str, how: str) -> tuple[bool, list[str]]:
        """Disturb a command once and run it again: whether it was hit, and what is wrong."""
        scenario, (wanted, duration_s) = self.scenarios[name], self.undisturbed(name)
        place = self.work / "place"
        place.mkdir()
        out, problems, limit = place / "out", [], None
        if how == "DISK":
            room = int(10 ** self.chance.uniform(2, 5.5))
            limit = lambda: (_listen(), resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))  # noqa: E731
        process = self.run(scenario, out, limit)
        if how in CODES:
            time.sleep(self.chance.uniform(START_S, max(duration_s, 2 * START_S)))
            process.send_signal(getattr(signal, f"SIG{how}"))
        try:
            _, errors = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return True, ["it went on after the signal"]
        allowed = (0, CODES[how]) if how in CODES else (0, 1)
        if process.returncode not in allowed:
            problems.append(f"exit code {process.returncode}, not {allowed}: {errors[-300:]}")
        sentences = [line for line in errors.splitlines() if not re.match(r" *\d+% ", line)]  # but for progress
        if "Traceback" in errors or "unexpected error" in errors or len(sentences) > 1:
            problems.append(f"stderr: {errors[-300:]!r}")
        if process.returncode and how != "KILL" and not scenario.resumes:
            problems += [f"left: {path.name}" for path in place.iterdir()]
        if out.exists() and not scenario.resumes and digest(out) != wanted:
            problems.append("what is there is not whole")
        again = self.run(scenario, out)
        _, errors = again.communicate(timeout=PATIENCE_S)
        is_taken = "must not exist yet" in errors and process.returncode == 0  # `models import` replaces nothing
        if again.returncode and not is_taken:
            problems.append(f"the second run failed: {errors[-300:]}")
        elif digest(out) != wanted:
            other = digest(out)
            differing = [key for key in wanted.keys() | other.keys() if wanted.get(key) != other.get(key)]
            problems.append(f"the second run differs in {differing[:5]}")
        problems += [f"left over: {path.relative_to(place)}" for path in place.rglob(".*")]
        problems += [f"process goes on: {line}" for line in _processes(str(self.work))]
        shutil.rmtree(place)
        return process.returncode != 0, problems


def _listen() -> None:
    """A shell's background jobs, and all they start, ignore SIGINT; a user's command does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _processes(folder: str) -> list[str]:
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if folder in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[-200:])
        except psutil.Error:
            continue
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", help="commands (default: all)")
    args = parser.parse_args()
    chance, kinds, wrong, begin = random.Random(args.seed), Counter(), 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-") as work:
        killer = Killer(Path(work), chance)
        names = args.only or list(killer.scenarios)
        hits = tries = 0
        while hits < args.kills and tries < 3 * args.kills:
            name, how = names[tries % len(names)], chance.choice([*CODES, "KILL", "DISK"])
            tries += 1
            was_hit, problems = killer.kill(name, how)
            hits += was_hit
            kinds[name, how, "hit" if was_hit else "too late"] += 1
            wrong += bool(problems)
            for problem in problems:
                print(f"{name} {how} ({tries}): {problem}", flush=True)
        for (name, how, what), count in sorted(kinds.items()):
            print(f"{name:10} {how:5} {what}: {count}")
    print(f"{hits} kills in {time.monotonic() - begin:.0f} s with seed {args.seed}; {wrong} went wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
