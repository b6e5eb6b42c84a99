"""Kill commands at random moments and run them again: `make kill`, or `python Testing/fuzz/kill.py --kills 20`.

Each command of `kill_commands.py` is disturbed once to eight times, and is then run again to its end:

    KILL TERM INT HUP   a signal at a random moment; INT and HUP also to the whole group, as a terminal sends them
    TWICE               INT, and soon another one
    CHILD               KILL to a process that the command started
    ORPHAN              KILL to the shell that started the command, which goes on alone
    DISK                a full disk of a random size, where this user may mount one
    FILE                files that may not grow beyond a random size
    MEMORY              an address space of a random size

What must hold: the exit code is that of the signal, stderr has at most one line, what is there is whole or not there;
the last run gives what an undisturbed one gives, nothing half-written is left, and no process goes on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
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
from collections.abc import Callable, Sequence
from pathlib import Path

from kill_commands import ROOT, Command, make_commands

CODES = {"KILL": -9, "TERM": 143, "INT": 130, "HUP": 129, "TWICE": 130}
LIMITS = ("DISK", "FILE", "MEMORY")
WAYS = (*CODES, "KILL", "CHILD", "ORPHAN", *LIMITS)
WITH_CHILDREN = ("dicom", "dask", "study", "worker")
TRAINING = ("finetune", "pretrain", "study")  # PyTorch ends the process itself where an allocation fails
STARTS = 4  # of an empty program in turn; until then Python itself starts, and no program can choose an exit code
PATIENCE_S = 900
ENDING_S = 20  # of a process whose parent was killed
MAX_DISTURBED = 8
MARK = "VFM_TRANSFER_KILL_MARK"  # in the environment of all that is started
MEMORY_GB = (0.3, 8.0)
PROGRESS = re.compile(r" *\d+% |\d+/\d+ ")
# Of a killed process Python's own tracker removes the semaphores, and reports it.
TRACKER = re.compile(r".*resource_tracker")
CACHES = re.compile(r"torchinductor_")  # of libraries, which they use again
CLOCK_KEYS = {"created", "date", "sha256"}
# Texts with times and durations in them; whether they are there is what counts.
UNCOMPARED = (".html", ".png", ".onnx", ".md", ".svg", ".pt")


def digest(out: Path) -> dict[str, str]:
    """File → what it holds, but for times."""
    found = {}
    for path in sorted(out.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(out).parts):
            continue  # what is half-written is looked for elsewhere
        name = str(path.relative_to(out))
        if path.suffix in UNCOMPARED or path.name == "running.lock":
            found[name] = "there"
        elif path.suffix == ".json":
            found[name] = json.dumps(_without_clock(json.loads(path.read_text("utf-8"))), sort_keys=True)
        elif path.suffix == ".csv":
            rows = csv.DictReader(io.StringIO(path.read_text("utf-8")))
            found[name] = json.dumps([_without_clock(row) for row in rows])
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _without_clock(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in CLOCK_KEYS and "second" not in k}
        return {k: _without_clock(v) for k, v in kept.items()}
    return [_without_clock(item) for item in value] if isinstance(value, list) else value


class Killer:
    """Runs commands in a folder, disturbed and undisturbed."""

    def __init__(self, work: Path, chance: random.Random, ways: Sequence[str] = WAYS) -> None:
        self.ways = ways
        self.work, self.chance, self.mark = work, chance, f"{os.getpid()}-{chance.random()}"
        self.commands = make_commands(work / "shared")
        self.temporary = work / "temporary"
        self.temporary.mkdir()
        self.can_mount = _can_mount(work)
        self.environment = {
            **os.environ,
            "VFM_TRANSFER_MODELS": str(work / "shared" / "models"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.temporary),
            MARK: self.mark,
        }
        self.expected: dict[str, tuple[dict[str, str], float, int]] = {}

    def start(
        self, command: Command, out: Path, limit: Callable[[], None] | None = None, shell: bool = False
    ) -> subprocess.Popen[str]:
        def begin() -> None:
            _listen()
            if limit is not None:
                limit()

        line = command.line(out)
        return subprocess.Popen(
            ["/bin/sh", "-c", '"$@" & wait', "sh", *line] if shell else line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            preexec_fn=begin,
            start_new_session=True,
        )

    def undisturbed(self, name: str) -> tuple[dict[str, str], float, int]:
        """What a command gives, the seconds that it takes, and the bytes of its output."""
        if name not in self.expected:
            out, begin = self.work / "undisturbed" / "out", time.monotonic()
            out.parent.mkdir()
            process = self.start(self.commands[name], out)
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, errors
            seconds = time.monotonic() - begin
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            self.expected[name] = digest(out), seconds, size
            shutil.rmtree(out.parent)
        return self.expected[name]

    def trial(self, name: str) -> tuple[Counter[tuple[str, str]], list[str]]:
        """Disturb a command some times, then let it end; what was hit how, and what is wrong."""
        command, (expected, _, size) = self.commands[name], self.undisturbed(name)
        place = self.work / "place"
        place.mkdir()
        hits: Counter[tuple[str, str]] = Counter()
        problems: list[str] = []
        done = False
        ways = [way for way in self.ways if way != "CHILD" or name in WITH_CHILDREN]
        ways = [way for way in ways if way != "MEMORY" or name not in TRAINING] or list(self.ways)
        mounted = self.can_mount and (set(ways) == {"DISK"} or self.chance.random() < 0.3)
        if mounted:
            _mount(place, size)
        try:
            for _ in range(self.chance.randint(1, MAX_DISTURBED)):
                way = self.chance.choice([w for w in ways if w != "DISK" or mounted])
                was_killed = any(before in ("KILL", "CHILD") for before, _ in hits)
                hit, done, found = self.disturb(name, place, way, was_killed)
                hits[way, "hit" if hit else "too late"] += 1
                problems += [f"{way}: {text}" for text in found]
                # A signal may come when all is written; most commands then replace it, `models import` never does.
                if done or (not command.resumes and not _differing(self.undisturbed(name)[0], digest(place / "out"))):
                    break
            out = place / "out"
            again = self.start(command, out)
            _, errors = again.communicate(timeout=PATIENCE_S)
            is_taken = "must not exist yet" in errors  # `models import` replaces nothing
            if again.returncode and not is_taken:
                problems.append(f"the last run failed: {errors[-400:]}")
            elif differing := _differing(expected, digest(out)):
                problems.append(f"the last run differs in {differing}")
            problems += [f"left over: {path.relative_to(place)}" for path in place.rglob(".*") if path != out]
            problems += [f"process goes on: {line}" for line in self.still_running()]
        finally:
            if mounted:
                subprocess.run(["umount", "-l", place], check=True)
            shutil.rmtree(place)
            shutil.rmtree(self.temporary)
            self.temporary.mkdir()
        return hits, problems

    def disturb(self, name: str, place: Path, way: str, was_killed: bool) -> tuple[bool, bool, list[str]]:
        """Disturb a command once: whether it was hit, whether it ended well all the same, and what is wrong."""
        command, (expected, duration_s, size) = self.commands[name], self.undisturbed(name)
        out, problems = place / "out", []
        start_s = STARTS * _python_start_s()
        moment_s = self.chance.uniform(start_s, max(duration_s, 2 * start_s))
        limit = None
        if way == "FILE":
            room = int(10 ** self.chance.uniform(2, 5.5))
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # noqa: E731
        elif way == "MEMORY":
            low, high = MEMORY_GB
            space = int(low * (high / low) ** self.chance.random() * 1e9)
            limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (space, space))  # noqa: E731
        elif way == "DISK":
            used = shutil.disk_usage(place).used
            _mount(place, used + int(self.chance.uniform(0.02, 1.2) * size) + 4096, "remount,")
        process = self.start(command, out, limit, shell=way == "ORPHAN")
        hit_child = False
        if way not in LIMITS:
            time.sleep(moment_s)
            hit_child = self._send(process, way)
        try:
            _, errors = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            for process_id in self.still_running(0).values():
                os.kill(process_id, signal.SIGKILL)
            process.communicate()
            return True, False, ["it went on for ever"]
        if way == "DISK":
            _mount(place, 1 << 30, "remount,")
        left = self.still_running()
        problems += [f"process goes on: {line}" for line in left]
        code = process.returncode
        if way == "ORPHAN":  # whose code nobody receives
            code = 0 if out.exists() and not _differing(expected, digest(out)) else 1
            allowed: tuple[int, ...] = (0,)
        else:
            allowed = (0, CODES[way]) if way in CODES else (0, 1)
            if way in ("INT", "TWICE"):  # Python ends itself so where C code was interrupted; a shell shows 130, too
                allowed = (*allowed, -signal.SIGINT)
            if CODES.get(way, 0) > 0 and out.exists() and not _differing(expected, digest(out)):
                allowed = (*allowed, 128 - CODES[way])  # all was done, and Python itself was ending
        if code not in allowed:
            problems.append(f"exit code {code}, not {allowed}: {errors[-400:]}")
        sentences = [line for line in errors.splitlines() if not PROGRESS.match(line)]
        if way in ("KILL", "ORPHAN"):
            sentences = [line for line in sentences if not TRACKER.match(line)]
        if "Traceback" in errors or "unexpected error" in errors or len(set(sentences)) > 1:
            problems.append(f"stderr: {errors[-4000:]!r}")
        if code and way not in ("KILL", "CHILD") and not was_killed:
            if not command.resumes and _differing(expected, digest(out)):
                problems += [f"left: {path.name}" for path in place.iterdir()]
            problems += [f"left: {path.relative_to(place)}" for path in place.rglob(".*.part")]
            problems += [
                f"left in the temporary folder: {path.name}"
                for path in self.temporary.iterdir()
                if not CACHES.match(path.name)
            ]
        if out.exists() and not command.resumes and digest(out) and _differing(expected, digest(out)):
            problems.append("what is there is not whole")
        hit = hit_child if way == "CHILD" else way == "ORPHAN" or code != 0
        return hit, code == 0, problems

    def _send(self, process: subprocess.Popen[str], way: str) -> bool:
        """Send the signal; whether there was a child to receive it."""
        if way == "CHILD":
            children = [one for one in self.still_running(0).values() if one != process.pid]
            if children:
                _signal(self.chance.choice(children), signal.SIGKILL)
            return bool(children)
        number = getattr(signal, "SIGINT" if way == "TWICE" else "SIGKILL" if way == "ORPHAN" else f"SIG{way}")
        to_all = way in ("INT", "HUP", "TWICE") and self.chance.random() < 0.5
        for pause_s in (0.0, self.chance.uniform(0.0, 0.5)) if way == "TWICE" else (0.0,):
            time.sleep(pause_s)
            _signal(process.pid, number, to_all)
        return False

    def still_running(self, patience_s: float = ENDING_S) -> dict[str, int]:
        """What bears the mark after a while: command line → process."""
        deadline = time.monotonic() + patience_s
        while True:
            found = {}
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit() and int(folder.name) != os.getpid():
                    try:
                        if self.mark.encode() in (folder / "environ").read_bytes():
                            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                            found[f"{folder.name} {words[-200:]}"] = int(folder.name)
                    except OSError:
                        continue
            if not found or time.monotonic() >= deadline:
                return found
            time.sleep(0.05)


def _differing(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)][:5]


def _python_start_s() -> float:
    """How long Python takes to start now, on a machine that others may use."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.monotonic() - begin


def _signal(process_id: int, number: int, to_all: bool = False) -> None:
    try:
        (os.killpg if to_all else os.kill)(process_id, number)
    except ProcessLookupError:
        return


def _listen() -> None:
    """A shell's background jobs, and all they start, ignore SIGINT; a user's command does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _mount(place: Path, size: int, how: str = "") -> None:
    """Make a folder a disk of its own; remounted for what must not fail, it has room for all."""
    room = max(size, 4096) if how else 1 << 30
    options = f"{how}size={room}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)


def _can_mount(work: Path) -> bool:
    place = work / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], capture_output=True).returncode:
        return False
    subprocess.run(["umount", place], check=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", help="commands (default: all)")
    parser.add_argument("--way", action="append", choices=sorted(set(WAYS)), help="only these (default: all)")
    args = parser.parse_args()
    chance, all_hits, wrong, begin = random.Random(args.seed), Counter(), 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-") as work:
        killer = Killer(Path(work), chance, args.way or WAYS)
        names = args.only or list(killer.commands)
        hits = tries = 0
        while hits < args.kills and tries < 3 * args.kills:
            # Each in turn, then each for about as long.
            weights = [killer.expected[one][1] ** -1 for one in names if one in killer.expected]
            name = names[tries] if tries < len(names) else chance.choices(names, weights)[0]
            tries += 1
            found, problems = killer.trial(name)
            hits += sum(count for (_, what), count in found.items() if what == "hit")
            all_hits.update({(name, *key): count for key, count in found.items()})
            wrong += bool(problems)
            print(f"{hits} kills, {(time.monotonic() - begin) / 60:.0f} minutes: {name}", file=sys.stderr, flush=True)
            for problem in problems:
                print(f"{name} ({tries}, {', '.join(way for way, _ in found)}): {problem}", flush=True)
        for (name, way, what), count in sorted(all_hits.items()):
            print(f"{name:10} {way:6} {what}: {count}")
    minutes = (time.monotonic() - begin) / 60
    print(
        f"{hits} kills and {tries} runs to the end in {minutes:.0f} minutes with seed {args.seed}; {wrong} went wrong."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
