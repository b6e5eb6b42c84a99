"""Tables of a whole study, made up: 2 encoders, 6 tasks, 2 arms, 3 seeds, and what stands beside them."""

from __future__ import annotations

import math

import numpy as np

from VFMTransferLib.study.tables import CurveRow, DistanceRow, MetricRow, RunRow, StudyTables
from VFMTransferLib.tasks import TASKS

ENCODERS = ("profound", "provicnet")
SEEDS = (0, 1, 2)
PHANTOMS = tuple(f"phantom-{9000 + i}" for i in range(8))
PATIENTS = tuple(f"ProstateX-{i:04d}" for i in range(5))
STEPS = (0, 50, 100, 150, 200)
LAYERS = {
    "profound": ("stage-1", "stage-2", "stage-3", "stage-4", "encoder"),
    "provicnet": ("block-1", "block-2", "block-3", "block-4", "block-5", "block-6", "encoder"),
}
# Value from scratch, relative gain by encoder in percent, trivial value and its name, spread over cases.
_TASKS = {
    "anatomy-segmentation": (0.82, (1.5, 6.0), 0.55, "mean-shape", 0.05),
    "lesion-segmentation": (0.21, (-6.0, 38.0), 0.0, "no-lesion", 0.15),
    "classification": (0.71, (0.4, 9.0), 0.5, "adc-hbv-rule", 0.0),
    "super-resolution": (31.2, (2.4, -0.3), 30.1, "zero-filled", 1.5),
    "distortion-correction": (26.4, (4.2, 0.8), 24.0, "uncorrected", 2.0),
    "adc-translation": (228.0, (12.0, -1.5), 310.0, "zone-adc", 30.0),
}
_MORE = {
    "segmentation": {"hd95_mm": 4.0},
    "classification": {"log_loss": 1.1, "brier": 0.2, "p_cspca": 0.5},
    "image": {"ssim": 0.8},
}


def a_grid(seed: int = 0) -> StudyTables:
    """The whole study."""
    rng = np.random.default_rng(seed)
    runs: list[RunRow] = []
    metrics: list[MetricRow] = []
    curves: list[CurveRow] = []
    distances: list[DistanceRow] = []
    for task, (scratch, gains, trivial, name, spread) in _TASKS.items():
        difficulty = rng.normal(0, spread, len(PHANTOMS))
        difficulty -= difficulty.mean()
        sign = 1 if TASKS[task].higher_is_better else -1
        for i, encoder in enumerate(ENCODERS):
            for s in SEEDS:
                for arm in ("pretrained", "scratch"):
                    gain = gains[i] / 100 if arm == "pretrained" else 0.0
                    value = scratch * (1 + sign * gain) * (1 + rng.normal(0, 0.01))
                    runs.append(_run(encoder, task, arm, s, value, 40 + 15 * i + rng.normal(0, 2)))
                    metrics += _cases(encoder, task, arm, s, value + difficulty, rng)
                    curves += _curve(encoder, task, arm, s, value, 60 if gain > 0.01 else 95, rng)
                distances += _distances(encoder, task, s, (0.4 - gains[i] / 100) * 0.2, rng)
        special = "resnet" if task == "classification" else "dynunet"
        for s in SEEDS:
            value = scratch * (1 + sign * 0.02) * (1 + rng.normal(0, 0.01))
            runs.append(_run(special, task, "specialised", s, value, 30.0))
            metrics += _cases(special, task, "specialised", s, value + difficulty, rng)
        runs.append(_run(name, task, "trivial", 0, trivial, 0.0, steps=0))
        metrics += _cases(name, task, "trivial", 0, trivial + difficulty, rng)
    return StudyTables(tuple(runs), tuple(metrics), tuple(curves), tuple(distances))


def _run(encoder: str, task: str, arm: str, seed: int, value: float, seconds: float, steps: int = 200) -> RunRow:
    metric = TASKS[task]
    best = steps and 150
    return RunRow(
        encoder,
        str(task),
        arm,
        seed,
        metric.metric,
        metric.higher_is_better,
        float(value),
        steps,
        best,
        seconds,
        8,
    )


def _cases(
    encoder: str, task: str, arm: str, seed: int, values: np.ndarray, rng: np.random.Generator
) -> list[MetricRow]:
    """The primary measure of each phantom and patient, its statistic where it is one, and a few others."""
    head = (encoder, str(task), arm, seed)
    level, primary = float(values.mean()), TASKS[task].metric
    rows = [MetricRow(*head, "phantom", "", primary, level)]
    if task == "classification":
        rows.append(MetricRow(*head, "real", "", primary, level - 0.1))
    else:
        rows += [MetricRow(*head, "phantom", case, primary, float(v)) for case, v in zip(PHANTOMS, values, strict=True)]
        loss = 0.93 if arm != "trivial" else 1.0
        rows += [
            MetricRow(*head, "real", case, primary, float(level * loss * (1 + 0.01 * i + rng.normal(0, 0.05))))
            for i, case in enumerate(PATIENTS)
        ]
    for metric, typical in _MORE[TASKS[task].output.name].items():
        rows += [MetricRow(*head, "phantom", case, metric, typical * (1 + rng.normal(0, 0.1))) for case in PHANTOMS]
        rows += [MetricRow(*head, "real", case, metric, typical * (1 + rng.normal(0, 0.2))) for case in PATIENTS]
    return rows


def _curve(
    encoder: str, task: str, arm: str, seed: int, end: float, slowness: float, rng: np.random.Generator
) -> list[CurveRow]:
    begin = end * (0.3 if TASKS[task].higher_is_better else 2.5)
    values = [end + (begin - end) * math.exp(-step / slowness) * (1 + rng.normal(0, 0.05)) for step in STEPS]
    return [CurveRow(encoder, str(task), arm, seed, step, value) for step, value in zip(STEPS, values, strict=True)]


def _distances(encoder: str, task: str, seed: int, d2p: float, rng: np.random.Generator) -> list[DistanceRow]:
    layers = LAYERS[encoder]
    rows = []
    for i, layer in enumerate(layers):
        own = d2p * (1 if layer == "encoder" else (i + 1) / len(layers)) * (1 + rng.normal(0, 0.05))
        rows.append(DistanceRow(encoder, str(task), seed, layer, own, 0.001 * (1 + i), 1.4 * own, 0.4 * own, 8))
    return rows
