"""Where in an encoder fine-tuning moved the features: the distance of each layer, as bars."""

from __future__ import annotations

import math
from collections import defaultdict
from html import escape

from ...study.grid_tables import StudyTables
from ...study.overview import encoders_of, mean, tasks_of
from ...study.transfer_summary import LAYER
from .plot import Axis, chart, minus
from .words import encoder_title, figure, task_title

_WIDTH, _HEIGHT = 300, 150
_LEFT, _RIGHT, _BOTTOM, _TOP = 48, _WIDTH - 8, _HEIGHT - 26, 10
_MOST_WIDTH, _FILLED = 48.0, 0.7
Layers = dict[str, float]  # layer → mean distance over seeds


def layers_part(tables: StudyTables) -> str:
    """A chart for each encoder and task; one scale for each encoder."""
    found = _by_cell(tables)
    if not found:
        return '<p class="missing">No distance of a single layer was measured.</p>'
    parts = ["<h3>Where in the encoder does fine-tuning move?</h3>"]
    for encoder in encoders_of(tables.runs):
        cells = {task: found[encoder, task] for task in tasks_of(tables.runs) if (encoder, task) in found}
        shown = [0.0, *(value for layers in cells.values() for value in layers.values())]
        ends = (min(shown), max(shown) if max(shown) > min(shown) else min(shown) + 1)
        axis = Axis(*ends, _BOTTOM, _TOP)
        charts = "".join(
            figure(_bars(f"{encoder_title(encoder)}, {task_title(task)}", layers, axis), escape(task_title(task)))
            for task, layers in cells.items()
        )
        parts.append(f'<h4>{escape(encoder_title(encoder))}</h4><div class="plots six">{charts}</div>')
    note = (
        "D2P of each layer's features from the input (left) to the output (right), mean over seeds. An encoder's charts"
    )
    return f'{"".join(parts)}<p class="muted">{note} share one scale.</p>'


def _by_cell(tables: StudyTables) -> dict[tuple[str, str], Layers]:
    """Encoder and task → its layers, in the order of the table."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in tables.distances:
        if row.layer != LAYER and math.isfinite(row.d2p):
            found[row.encoder, row.task][row.layer].append(row.d2p)
    return {cell: {layer: mean(values) for layer, values in layers.items()} for cell, layers in found.items()}


def _bars(who: str, layers: Layers, axis: Axis) -> str:
    step = (_RIGHT - _LEFT) / max(len(layers), 1)
    width, zero = min(_FILLED * step, _MOST_WIDTH), axis.at(0)
    parts = [f'<path class="zero" d="M{_LEFT} {zero:.1f}H{_RIGHT}"/>']
    for value in (0.0, axis.high):
        y = axis.at(value) + 3.5
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y:.1f}" text-anchor="end">{minus(f"{value:.2g}")}</text>')
    for i, (layer, value) in enumerate(layers.items()):
        middle, end = _LEFT + (i + 0.5) * step, axis.at(value)
        size = f'width="{width:.1f}" height="{max(abs(end - zero), 0.5):.1f}"'
        title = f"<title>{escape(layer)}: {value:.4g}</title>"
        place = f'x="{middle - width / 2:.1f}" y="{min(end, zero):.1f}"'
        parts.append(f'<rect class="column" {place} {size}>{title}</rect>')
        name = escape(layer.rpartition("-")[2])
        parts.append(f'<text class="tick" x="{middle:.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{name}</text>')
    told = ", ".join(f"{layer} {value:.3g}" for layer, value in layers.items())
    return chart("".join(parts), _WIDTH, _HEIGHT, f"D2P by layer of {who}: {told}", "small")
