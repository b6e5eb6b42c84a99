"""Fuzz the readers: `make fuzz`, or `python Testing/fuzz/fuzz.py --seconds 60 --target nifti --seed 7`.

Inputs come from the seeds of each target by mutation with a fixed seed, so that a run can be repeated; `--atheris` lets
libFuzzer choose them by coverage instead, where the package atheris is installed. An input that raises what its reader
does not promise, that takes longer than two seconds, or whose sentence is none, is a finding: it is kept in
`build/fuzz/`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_targets import TARGETS, Target

from VFMTransferLib.core.errors import VFMTransferError

SLOW_S = 2  # of computing
WAITING_S = 60
MAX_ADDRESSES = 8 << 30  # PyTorch alone reserves some
PREDICT_SHARE = 0.45  # of the time of all targets
MAX_KEPT = 20  # findings of a target
SLOWEST_RUN_S = 120
PREDICTED = {"nifti": "t2w.nii", "nifti-gz": "t2w.nii.gz", "nrrd": "t2w.nrrd", "metaimage": "t2w.mha"}
_INTERESTING = (
    0,
    1,
    2,
    7,
    16,
    32,
    64,
    100,
    127,
    128,
    255,
    256,
    1000,
    1024,
    4096,
    32767,
    32768,
    65535,
    1 << 31,
    -1,
    -128,
)
_LARGEST_CHANGE = 64


@dataclass
class Outcome:
    """What came of a target's inputs."""

    inputs: int = 0
    seconds: float = 0.0
    kinds: Counter = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


class _HangError(BaseException):
    """An input takes too long."""


def mutated(seeds: list[bytes], words: tuple[bytes, ...], chance: random.Random) -> bytes:
    """A seed with one to eight changes."""
    content = bytearray(chance.choice(seeds))
    for _ in range(1 << chance.randrange(4)):
        if not content:
            break
        # Headers lie at the front, where a change matters most.
        at = chance.randrange(min(len(content), 600) if chance.random() < 0.7 else len(content))
        what = chance.randrange(8)
        if what == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            content[at] = chance.choice(_INTERESTING) & 0xFF
        elif what == 2:
            size = chance.choice((2, 4, 8))
            value = chance.choice(_INTERESTING) & ((1 << 8 * size) - 1)
            content[at : at + size] = value.to_bytes(size, chance.choice(("little", "big")))
        elif what == 3:
            del content[at : at + chance.randrange(1, _LARGEST_CHANGE)]
        elif what == 4:
            content[at:at] = content[at : at + chance.randrange(1, _LARGEST_CHANGE)] * chance.choice((1, 2, 50))
        elif what == 5 and words:
            word = chance.choice(words)
            content[at : at + chance.choice((0, len(word)))] = word
        elif what == 6:
            other = chance.choice(seeds)
            content[at:] = other[min(at, len(other)) :]
        elif chance.random() < 0.2:
            del content[at:]
    return bytes(content)


def attempt(target: Target, content: bytes, folder: Path) -> str:
    """How a reader takes an input, in a word; begins with `!` where that is a finding."""
    try:
        target.read(content, folder)
    except VFMTransferError as error:
        text = str(error)
        if "\n" in text.strip() or not text.rstrip().endswith((".", "'")) or len(text) > 1500 or str(folder) in text:
            return f"!sentence: {text[:200]!r}"
        return type(error).__name__
    except _HangError:
        return "!hang"
    except MemoryError:
        return "!memory"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"!{type(error).__name__}: {str(error)[:100]} at {Path(where.filename).name}:{where.lineno}"
    return "accepted"


def fuzz(
    name: str, seed: int, *, inputs: int | None = None, seconds: float | None = None, keep: Path | None = None
) -> Outcome:
    """Try a target with so many inputs, or for so long; findings are written to `keep`."""
    target, chance, outcome = TARGETS[name], random.Random(f"{name} {seed}"), Outcome()
    seeds = target.seeds()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as work:
        for content in seeds:  # which loads what the reader imports when it is first called
            attempt(target, content, Path(work))
        begin = time.monotonic()
        while (inputs is None or outcome.inputs < inputs) and (seconds is None or time.monotonic() - begin < seconds):
            content = mutated(seeds, target.words, chance)
            outcome.inputs += 1
            try:
                how = timed(target, content, Path(work))
            except _HangError:  # at the last moment
                how = "!hang"
            outcome.kinds[re.sub(r"(?<=^!sentence).*", "", how)] += 1
            if how.startswith("!"):
                outcome.findings.append(how)
                if keep is not None and len(outcome.findings) <= MAX_KEPT:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name}-{seed}-{outcome.inputs}").write_bytes(content)
    outcome.seconds = time.monotonic() - begin
    return outcome


def timed(target: Target, content: bytes, folder: Path) -> str:
    """As `attempt`, with limits on computing time, and on waiting."""
    signal.setitimer(signal.ITIMER_PROF, SLOW_S)
    signal.setitimer(signal.ITIMER_REAL, WAITING_S)
    try:
        return attempt(target, content, folder)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def fuzz_predict(seed: int, seconds: float, keep: Path) -> Outcome:
    """Damaged cases through the command line, in a child process whose death is a finding."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    chance, outcome = random.Random(f"predict {seed}"), Outcome()
    from bundles import make_anatomy_pair

    seeds = {name: TARGETS[name].seeds() for name in PREDICTED}
    models = tempfile.TemporaryDirectory(prefix="fuzz-models-")
    make_anatomy_pair(Path(models.name))
    os.environ["VFM_TRANSFER_MODELS"] = models.name
    pool, begin = ProcessPoolExecutor(1), time.monotonic()
    while time.monotonic() - begin < seconds:
        name = chance.choice(list(PREDICTED))
        content = mutated(seeds[name], TARGETS[name].words, chance)
        outcome.inputs += 1
        try:
            how = pool.submit(predict, PREDICTED[name], content).result(timeout=SLOWEST_RUN_S)
        except BrokenProcessPool:
            how, pool = "!crash", ProcessPoolExecutor(1)
        except TimeoutError:
            how = "!hang"
            for process in list(pool._processes.values()):
                process.kill()
            pool = ProcessPoolExecutor(1)
        outcome.kinds[how[:40]] += 1
        if how.startswith("!"):
            outcome.findings.append(how)
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"predict-{seed}-{outcome.inputs}-{PREDICTED[name]}").write_bytes(content)
    outcome.seconds = time.monotonic() - begin
    pool.shutdown()
    models.cleanup()
    return outcome


def predict(name: str, content: bytes) -> str:
    """One damaged image through `vfm-transfer predict`; what came of it, in a word."""
    import contextlib
    import io

    from VFMTransferLib.cli import main as command

    with tempfile.TemporaryDirectory() as work:
        case = Path(work) / "p001"
        case.mkdir()
        (case / name).write_bytes(content)
        words = [
            "predict",
            str(case),
            "--bundle",
            os.environ["VFM_TRANSFER_MODELS"] + "/tiny-scratch",
            "-o",
            f"{work}/out",
        ]
        errors = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
                code = command(words)
        except BaseException as error:
            return f"!{type(error).__name__}: {error}"
        lines = errors.getvalue().splitlines()
        left = sorted(path.name for path in Path(work).iterdir())
        if code == 0:
            return "predicted" if not lines and left == ["out", "p001"] else f"!{lines} {left}"
        is_sentence = code == 1 and len(lines) == 1 and "unexpected" not in lines[0] and work not in lines[0]
        return "refused" if is_sentence and left == ["p001"] else f"!{code} {lines} {left}"


def _hang(number: int, frame: object) -> None:
    raise _HangError


def fuzz_by_coverage(name: str, rest: list[str]) -> None:
    """Let libFuzzer choose the inputs; it ends the process at the first finding."""
    import atheris

    target, seeds = TARGETS[name], TARGETS[name].seeds()
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for i, seed in enumerate(seeds):
        (corpus / str(i)).write_bytes(seed)
    work = Path(tempfile.mkdtemp(prefix="fuzz-work-"))

    def one(content: bytes) -> None:
        how = attempt(target, content, work)
        if how.startswith("!"):
            raise RuntimeError(how)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-timeout={SLOW_S}", *rest, str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=[*TARGETS, "predict"], action="append", help="only these (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where findings go")
    parser.add_argument("--atheris", action="store_true", help="by coverage; one --target")
    args, rest = parser.parse_known_args()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)  # so that an input that takes all memory is a finding, too
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESSES, hard))
    names = args.target or [*TARGETS, "predict"]
    if args.atheris:
        fuzz_by_coverage(names[0], rest)
        return 0
    found = total = 0
    for name in names:
        others = len(names) - ("predict" in names)
        of_predict = 0.0 if "predict" not in names else PREDICT_SHARE if others else 1.0
        share = args.seconds * (of_predict if name == "predict" else (1 - of_predict) / others)
        if name == "predict":
            outcome = fuzz_predict(args.seed, share, args.keep)
        else:
            outcome = fuzz(name, args.seed, seconds=share, keep=args.keep)
        rate = outcome.inputs / outcome.seconds
        kinds = ", ".join(f"{kind} {count}" for kind, count in outcome.kinds.most_common(6))
        found_here = len(outcome.findings)
        print(f"{name}: {outcome.inputs} inputs, {rate:.0f} a second, {found_here} findings. {kinds}", flush=True)
        for finding in sorted(set(outcome.findings))[:10]:
            print(f"    {finding}", flush=True)
        total, found = total + outcome.inputs, found + found_here
    print(f"{total} inputs with seed {args.seed}, {found} findings" + (f", kept in {args.keep}." if found else "."))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
