"""Run every measurement and print a table: `python -m benchmarks [-o FILE.json] [NAME...]`."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from .measure import Measurement

BENCHMARKS = (
    "startup",
    "stages",
    "runtimes",
    "networks",
    "published",
    "convolutions",
    "workers",
    "cohort",
    "tasks",
    "growth",
    "gpu",
)


def main() -> None:
    """Run the named benchmarks, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the numbers as JSON")
    args = parser.parse_args()
    if unknown := set(args.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    measured: dict[str, list[Measurement]] = {}
    for name in args.names or BENCHMARKS:
        print(f"\n{name}")
        measured[name] = []
        for measurement in import_module(f".{name}", __package__).measure():
            measured[name].append(measurement)
            print(f"  {measurement}", flush=True)
    if args.output:
        write(measured, args.output)


def write(measured: dict[str, list[Measurement]], path: Path) -> None:
    """The numbers and the machine, for comparison with another run."""
    rows = {name: [asdict(m) | {"ratio": m.ratio} for m in many] for name, many in measured.items()}
    machine = {"system": platform.system(), "machine": platform.machine(), "python": platform.python_version()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "measurements": rows}, indent=2) + "\n", encoding="utf-8")
    print(f"\n{path}")


if __name__ == "__main__":
    main()
