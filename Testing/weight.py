"""Lines of each room against the budgets of `pyproject.toml`: `make lint` fails where one is exceeded."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"library": ("VFMTransferLib", ".py"), "module": ("VFMTransfer", ".py"), "tests": ("Testing", ".py")}


def tracked(folder: str, suffix: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name.endswith(suffix) and (path := ROOT / name).is_file()]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def long_functions(path: Path, limit: int) -> list[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, functions)]
    return [
        f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
        for node in nodes
        if (length := (node.end_lineno or 0) - node.lineno + 1) > limit
    ]


def main() -> int:
    budget = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["vfm-transfer"]["lines"]
    found = {part: sum(map(lines, tracked(folder, suffix))) for part, (folder, suffix) in PARTS.items()}
    found["docs"] = sum(map(lines, tracked("docs", ".md")))
    rooms: Counter[str] = Counter()
    problems: list[str] = []
    for path in tracked("VFMTransferLib", ".py"):
        rooms[path.relative_to(ROOT).parts[1]] += lines(path)
        problems += long_functions(path, budget["function"])
    for room, count in sorted(rooms.items(), key=lambda item: -item[1]):
        if not room.endswith(".py"):
            print(f"{count:6} VFMTransferLib/{room}")
            problems += [f"{room} has {count} lines of {budget['room']}"] if count > budget["room"] else []
    for part, count in found.items():
        print(f"{count:6} {part} (budget {budget[part]})")
        problems += [f"{part} has {count} lines of {budget[part]}"] if count > budget[part] else []
    print(*problems, sep="\n", file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
