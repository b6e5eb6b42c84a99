"""Draw the ratios of the published networks as one figure: `python -m benchmarks.figure build/benchmarks.json OUT.svg`.

A bar is ours over the same architecture in plain PyTorch, the line at 1; a thin line spans the repeats.
"""

from __future__ import annotations

import argparse
import json
from html import escape
from pathlib import Path
from typing import Any

from VFMTransferLib.core.files import write_file

from .published import PLAIN

WIDTH, ROW, TOP, LEFT, RIGHT = 900, 24, 56, 420, 60
TIME, MEMORY = "#3b7dd8", "#9a9fa8"
_STYLE = "text{font:13px sans-serif;fill:#222} .small{font-size:11px;fill:#555} .end{text-anchor:end}"


def figure(measurements: list[dict[str, Any]]) -> str:
    """An SVG with a bar for each measurement against plain PyTorch, times first, then memory; ValueError of none."""
    rows = [row for row in measurements if row["against"] == PLAIN]
    if not rows:
        raise ValueError("The measurements must hold the benchmark 'published', but do not. Run it.")
    rows.sort(key=lambda row: row["unit"] != "s")
    largest = max(1.1, *(max(row["ratio"], *(row["spread"] or [0])) for row in rows))
    height = TOP + ROW * len(rows) + 20

    def x(ratio: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * ratio / largest, 1)

    bars = []
    for i, row in enumerate(rows):
        y, color = TOP + ROW * i, TIME if row["unit"] == "s" else MEMORY
        bars.append(f'<text class="end" x="{LEFT - 8}" y="{y + 15}">{escape(row["name"])}</text>')
        bars.append(f'<rect x="{LEFT}" y="{y + 3}" width="{x(row["ratio"]) - LEFT:.1f}" height="16" fill="{color}"/>')
        end = row["ratio"]
        if row["spread"]:
            low, end = row["spread"]
            bars.append(f'<path d="M{x(low)} {y + 11}H{x(end)}" stroke="#111"/>')
        bars.append(f'<text class="small" x="{x(max(end, row["ratio"])) + 6}" y="{y + 15}">{row["ratio"]:.2f}</text>')
    title = "Ours over the same architecture in plain PyTorch, one thread"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
        f'<style>{_STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="12" y="22">{title}</text>'
        f'<text class="small" x="12" y="40">processor time blue, peak memory gray; below 1 is less</text>'
        f'{"".join(bars)}<path d="M{x(1)} {TOP - 6}V{height - 14}" stroke="#c0392b" stroke-dasharray="4 3"/>'
        f'<text class="small" x="{x(1) - 3}" y="{TOP - 10}">1</text></svg>\n'
    )


def main() -> None:
    """Write the figure of a file that `python -m benchmarks -o FILE.json` wrote."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figure", description=__doc__)
    parser.add_argument("measured", type=Path, metavar="FILE.json")
    parser.add_argument("figure", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    measured = json.loads(args.measured.read_text(encoding="utf-8"))["measurements"]
    write_file(args.figure, figure(measured.get("published", [])))


if __name__ == "__main__":
    main()
