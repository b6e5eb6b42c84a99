"""Fit and judge the estimate of how good a segmentation of the prostate is.

    python -m benchmarks.estimate DATA -o WORK [--folds FOLDER] [--fit VFMTransferLib/inference/dice_estimate.json]

DATA holds a folder for each real exam with `t2w` and a mask of the prostate. Both shipped networks mark phantoms of the
whole range and of hard conditions, and real exams as they are, degraded, and severely degraded; signs and true Dice are
kept in WORK, so that a stopped run goes on. Phantoms and the exams that trained the networks fit the lines; the other
exams fit and choose nothing, and are reported.

A network marks the exams that trained it better than others, and with the same signs. FOLDER holds pairs of networks of
the same recipe, each trained without some of these exams: what such a pair lacked it marks in place of the shipped one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage, stats

from VFMTransferLib.bundles.bundle import Bundle, read_bundle
from VFMTransferLib.bundles.catalog import default_pair
from VFMTransferLib.core.case import Case
from VFMTransferLib.core.decoding import to_json
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Volume
from VFMTransferLib.inference import estimate
from VFMTransferLib.inference.estimate import ARMS, DiceModel, Line, _log_odds
from VFMTransferLib.inference.predict import CasePredictor
from VFMTransferLib.inference.runtimes import Session, open_session
from VFMTransferLib.io import read_case
from VFMTransferLib.metrics.agreement import dice
from VFMTransferLib.phantom import PhantomRange, make_phantom
from VFMTransferLib.tasks import gland_task
from VFMTransferLib.tasks.base import read_label_map

SIGNS = ("shifted", "certainty", "compactness", "roughness", "height")
PHANTOM_SEED, PHANTOM_SPACING_MM = 400_000, (0.6, 0.6, 3.0)
MASKS = ("gland_taps", "gland_nc", "gland")
LINES = (SIGNS, (*SIGNS, ARMS))
# Intervals are made for COVERAGE on cases left out of the fit; what they cover on unseen exams is what is written.
COVERAGE, RIDGE = 0.9, 3.0
BAD, GOOD = 0.7, 0.8  # true Dice below which a warning is due, and from which it is a false one
Degraded = tuple[np.ndarray, np.ndarray, Any]  # image and mask (D, H, W), grid
Row = dict[str, Any]


def phantom(seed: int) -> tuple[Case, Volume]:
    """Of every other seed a phantom under hard conditions."""
    # The range that the shipped fit was made of.
    usual = PhantomRange(large_lesions=0, transition_lesions=0, misregistration=0, strong_distortion=0)
    hard = replace(usual, endorectal_coil=0.4, hip_implants=0.25, unusual_gland=0.5, other_view=0.6)
    made = make_phantom(seed, t2w_spacing_mm=PHANTOM_SPACING_MM, phase_axis=0, conditions=usual if seed % 2 else hard)
    return made.case, made.gland


def mild(image: np.ndarray, mask: np.ndarray, grid: Any, rng: np.random.Generator) -> Degraded:
    """Another size of the patient, a coil, contrast, noise, blur, thick slices, a cut stack, a view off center."""
    z, y, x = np.indices(image.shape, sparse=True)
    spacing = grid.spacing_mm
    if rng.random() < 0.5:
        factor = float(np.exp(rng.uniform(-0.45, 0.45)))
        grid = replace(grid, spacing_mm=tuple(s * factor for s in grid.spacing_mm))
    if rng.random() < 0.35:
        center, back, side = _back(mask, grid)
        place = back + side * 8 / spacing[1]
        away = np.sqrt(
            ((z - center[0]) * spacing[2] * 0.5) ** 2
            + ((y - place) * spacing[1]) ** 2
            + ((x - center[2]) * spacing[0]) ** 2
        )
        height, reach = rng.uniform(3, 15), rng.uniform(10, 30)
        image = image * (1 + height * np.exp(-away / reach))
        if rng.random() < 0.6:
            radius = rng.uniform(14, 22)
            middle = back + side * (radius + 1) / spacing[1]
            away = np.sqrt(((y - middle) * spacing[1]) ** 2 + ((x - center[2]) * spacing[0]) ** 2) + 0 * z
            image = np.where((away < radius) & ~mask, image.min() + 0.02 * image.max(), image)
    if rng.random() < 0.3:
        power, top = float(np.exp(rng.uniform(-0.9, 0.9))), np.percentile(image, 99.5)
        image = np.clip(image / top, 0, None) ** power * top
    if rng.random() < 0.3:
        level = rng.uniform(0.1, 0.6)
        image = np.abs(image + rng.normal(size=image.shape) * image.mean() * level)
    if rng.random() < 0.3:
        sigma = rng.uniform(1, 4)
        image = ndimage.gaussian_filter(image, (0, sigma, sigma))
    if rng.random() < 0.25:
        step = int(rng.integers(2, 4))
        image, mask = image[::step], mask[::step]
        width, height, _ = grid.size
        grid = replace(
            grid, size=(width, height, len(image)), spacing_mm=(*grid.spacing_mm[:2], grid.spacing_mm[2] * step)
        )
    elif rng.random() < 0.25:
        slices = np.flatnonzero(mask.any((1, 2)))
        lost = int(rng.uniform(0.2, 0.6) * len(slices))
        first, end = (0, slices[-1] - lost + 1) if rng.random() < 0.5 else (slices[0] + lost, len(image))
        if end - first >= 6:
            grid = grid.crop((0, 0, int(first)), (*grid.size[:2], int(end - first)))
            image, mask = image[first:end], mask[first:end]
    if rng.random() < 0.3:
        dx, dy = int(rng.integers(0, image.shape[2] // 4)), int(rng.integers(0, image.shape[1] // 4))
        sx, sy = (dx if rng.random() < 0.5 else 0), (dy if rng.random() < 0.5 else 0)
        size = (image.shape[2] - dx, image.shape[1] - dy, image.shape[0])
        grid = grid.crop((sx, sy, 0), size)
        part = np.s_[:, sy : sy + size[1], sx : sx + size[0]]
        image, mask = image[part], mask[part]
    return image, mask, grid


def severe(image: np.ndarray, mask: np.ndarray, grid: Any, rng: np.random.Generator) -> Degraded:
    """A coil that squeezes the gland, inverted contrast, half or twice the size, noise, a turn, half a view."""
    z, y, x = np.indices(image.shape, sparse=True)
    spacing, kind = grid.spacing_mm, int(rng.integers(6))
    center, back, side = _back(mask, grid)
    if kind == 0 or rng.random() < 0.3:
        squeeze, rows = rng.uniform(0.6, 0.85), np.argwhere(mask)[:, 1]
        front = rows.min() if side > 0 else rows.max()
        moved, at, last = front + (back - front) * squeeze, np.arange(image.shape[1], dtype=float), image.shape[1] - 1
        knots = ([0, front, moved, last], [0, front, back, last])
        if side < 0:
            knots = ([0, moved, front, last], [0, back, front, last])
        source = np.interp(at, *knots)
        low = np.clip(source.astype(int), 0, last - 1)
        share = (source - low)[None, :, None]
        image = image[:, low] * (1 - share) + image[:, low + 1] * share
        mask = mask[:, np.rint(source).astype(int)]
        radius = rng.uniform(16, 24)
        middle = moved + side * (radius + 2) / spacing[1]
        away = np.sqrt(((y - middle) * spacing[1]) ** 2 + ((x - center[2]) * spacing[0]) ** 2) + 0 * z
        height, reach = rng.uniform(8, 50), rng.uniform(6, 18)
        image = image * (1 + height * np.exp(-np.maximum(away - radius, 0) / reach))
        image = np.where((away < radius) & ~mask, 0.01 * image.max(), image)
    if kind == 1:
        image = np.percentile(image, 99.5) - np.minimum(image, np.percentile(image, 99.5))
    if kind == 2:
        factor = float(np.exp(rng.choice([-1, 1]) * rng.uniform(0.45, 0.8)))
        grid = replace(grid, spacing_mm=tuple(s * factor for s in grid.spacing_mm))
    if kind == 3 or rng.random() < 0.2:
        level = rng.uniform(0.6, 1.6)
        image = np.abs(image + rng.normal(size=image.shape) * image.mean() * level)
    if kind == 4:
        turn = rng.uniform(25, 90) * rng.choice([-1, 1])
        image = ndimage.rotate(image, turn, axes=(1, 2), reshape=False, order=1)
        mask = ndimage.rotate(mask.astype(np.float32), turn, axes=(1, 2), reshape=False, order=1) > 0.5
    if kind == 5:
        width, height, depth = grid.size
        middle_x = int(center[2])
        first, size = (middle_x, width - middle_x) if int(rng.integers(2)) else (0, middle_x)
        grid = grid.crop((first, 0, 0), (size, height, depth))
        image, mask = image[:, :, first : first + size], mask[:, :, first : first + size]
    if rng.random() < 0.3:
        sigma = rng.uniform(2, 6)
        image = ndimage.gaussian_filter(image, (0, sigma, sigma))
    return image, mask, grid


def _back(mask: np.ndarray, grid: Any) -> tuple[np.ndarray, int, int]:
    """Middle of the gland (z, y, x), its last row towards the back, and whether rows run there (1) or not (-1)."""
    voxels = np.argwhere(mask)
    side = 1 if np.reshape(grid.direction, (3, 3))[1, 1] > 0 else -1
    return voxels.mean(axis=0), int(voxels[:, 1].max() if side > 0 else voxels[:, 1].min()), side


def degraded(case: Case, gland: Volume, how: Callable[..., Degraded], rng: np.random.Generator) -> tuple[Case, Volume]:
    volume = case[Sequence.T2W]
    image, mask, grid = how(volume.array.astype(np.float32), gland.array > 0, volume.geometry, rng)
    t2w = Volume(np.ascontiguousarray(image, np.float32), grid, "t2w")
    return replace(case, volumes={Sequence.T2W: t2w}), Volume(np.ascontiguousarray(mask, np.uint8), grid, "gland")


def cases(
    data: Path, phantoms: int, mild_count: int, severe_count: int
) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, kind, and what makes the case with its mask."""
    for name in sorted(path.name for path in data.iterdir() if path.is_dir()):
        yield name, "plain", lambda name=name: exam(data / name)
        number = sum(map(ord, name))
        for kind, how, count, seeds in (
            ("mild", mild, mild_count, [number]),
            ("severe", severe, severe_count, [number]),
        ):
            for k in range(count):
                seed = [k, *seeds] if kind == "mild" else [77, k, *seeds]
                label = f"{name}+{'' if kind == 'mild' else 's'}{k}"
                yield (
                    label,
                    kind,
                    lambda name=name, how=how, seed=seed: degraded(
                        *exam(data / name), how, np.random.default_rng(seed)
                    ),
                )
    for seed in range(PHANTOM_SEED, PHANTOM_SEED + phantoms):
        yield f"p{seed}", "phantom" if seed % 2 else "hard phantom", lambda seed=seed: phantom(seed)


def exam(folder: Path) -> tuple[Case, Volume]:
    case = read_case(folder, sequences=[Sequence.T2W])
    masks = (read_label_map(folder, stem) for stem in MASKS)
    gland = next(mask for mask in masks if mask is not None)
    return replace(case, id=folder.name, gland=None, volumes={Sequence.T2W: case[Sequence.T2W]}), gland


def fold_pairs(folder: Path) -> list[tuple[frozenset[str], tuple[Bundle, Bundle]]]:
    """The exams that trained each pair of networks in a folder, and the pair."""
    by_split: dict[frozenset[str], list[Bundle]] = {}
    for path in sorted(folder.rglob("metadata.json")):
        bundle = read_bundle(path.parents[1])
        by_split.setdefault(frozenset(trained_on(bundle)), []).append(bundle)
    pairs = []
    for split, found in by_split.items():
        if len(found) != 2:
            names = ", ".join(bundle.name for bundle in found)
            raise SystemExit(f"{folder.name} must hold two networks that the same exams trained, but holds {names}.")
        pairs.append((split, (found[0], found[1])))
    return pairs


def trained_on(bundle: Bundle) -> tuple[str, ...]:
    """The exams that trained a network."""
    return tuple((bundle.training.get("recipe") or bundle.training["config"])["split"]["train"])


def measured(
    name: str, kind: str, case: Case, gland: Volume, pair: tuple[Bundle, Bundle], sessions: dict[str, Session]
) -> list[Row]:
    """A row for each network: its Dice and the signs, those of the agreement too."""
    predictor = CasePredictor(case, open_network=lambda bundle: sessions[bundle.weights_sha256])
    results = [predictor.predict(bundle) for bundle in pair]
    masks = [result.labels.array > 0 for result in results if result.labels is not None]
    truth = gland.resample_to(case[Sequence.T2W].geometry, "nearest").array > 0
    agreement = _log_odds(float(np.nan_to_num(dice(*masks))))
    return [
        {
            "case": name,
            "kind": kind,
            "arm": str(bundle.arm),
            "dice": float(np.nan_to_num(dice(mask, truth))),
            "signs": {} if result.estimate is None else {**result.estimate.signs, ARMS: agreement},
        }
        for bundle, mask, result in zip(pair, masks, results, strict=True)
    ]


def fit(rows: list[Row], names: tuple[str, ...], level: float) -> Line:
    """A line by ridge regression, and how far intervals reach on cases that were left out, above and below a level."""
    mean, deviation, found = _solve(*_table(rows, names))
    odds, left_out = _table(rows, names)[1], _log_odds_left_out(rows, names)
    edge = 100 * (1 - COVERAGE) / 2

    def reach(kept: np.ndarray) -> tuple[float, float]:
        low, high = np.percentile((odds - left_out)[kept], (edge, 100 - edge))
        return max(-float(low), 0.0), max(float(high), 0.0)

    is_fine = left_out >= _log_odds(level)
    rounded = (tuple(float(f"{v:.6g}") for v in part) for part in (mean, deviation, found[1:]))
    return Line(names, *rounded, float(f"{found[0]:.6g}"), reach(is_fine), reach(~is_fine))


def estimates_left_out(rows: list[Row], names: tuple[str, ...]) -> np.ndarray:
    """The estimate of each row by a line that was fitted without its case."""
    return 1 / (1 + np.exp(-_log_odds_left_out(rows, names)))


def warning_level(rows: list[Row]) -> float:
    """The lowest level, in hundredths, at which each line flags every bad result of the fit, left out of its line."""
    is_bad = np.array([row["dice"] < BAD for row in rows])
    worst = max(float(estimates_left_out(rows, names)[is_bad].max()) for names in LINES)
    return math.floor(100 * worst + 1) / 100


def _log_odds_left_out(rows: list[Row], names: tuple[str, ...]) -> np.ndarray:
    signs, odds = _table(rows, names)
    groups = np.array([row["case"].split("+")[0] for row in rows])
    left_out = np.empty(len(rows))
    for group in set(groups):
        own = groups == group
        mean, deviation, found = _solve(signs[~own], odds[~own])
        left_out[own] = found[0] + ((signs[own] - mean) / deviation) @ found[1:]
    return left_out


def _table(rows: list[Row], names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Signs (N, S), and logarithms of the odds of the true Dice (N,)."""
    signs = np.array([[row["signs"][name] for name in names] for row in rows])
    return signs, np.array([_log_odds(min(max(row["dice"], 0.02), 0.98)) for row in rows])


def _solve(signs: np.ndarray, odds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and deviation of each sign, then intercept and weights of the standardized signs."""
    mean, deviation = signs.mean(axis=0), signs.std(axis=0) + 1e-9
    inputs = np.column_stack([np.ones(len(signs)), (signs - mean) / deviation])
    penalty = RIDGE * np.diag([0.0, *np.ones(signs.shape[1])])
    return mean, deviation, np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ odds)


def judged(title: str, estimates: np.ndarray, truth: np.ndarray, level: float, inside: np.ndarray | None = None) -> str:
    """A line of the report: rank correlation, warnings that were due and given, false ones, coverage."""
    bad, good, warned = truth < BAD, truth >= GOOD, estimates < level
    rho = stats.spearmanr(estimates, truth).statistic if len(truth) > 2 else float("nan")
    covered = "" if inside is None else f", within the interval {inside.mean():.0%}"
    error = np.abs(estimates - truth).mean()
    return (
        f"{title}: {len(truth)} results, rank correlation {rho:.2f}, mean error {error:.3f}; of {bad.sum()} below {BAD}"
        f" {(warned & bad).sum()} flagged, of {good.sum()} from {GOOD} on {(warned & good).sum()}{covered}"
    )


def report(rows: list[Row], trained: set[str], weights: tuple[str, ...], *, is_by_folds: bool) -> DiceModel:
    """Fit both lines and print how good they are, on left-out cases of the fit and on exams that were no part of it."""

    def is_unseen(row: Row) -> bool:
        return row["kind"] not in ("phantom", "hard phantom") and row["case"].split("+")[0] not in trained

    marked = [row for row in rows if row["signs"]]
    fitted, unseen = ([row for row in marked if is_unseen(row) is kind] for kind in (False, True))
    print(f"{len(rows) - len(marked)} of {len(rows)} results mark nothing and have no estimate")
    level = warning_level(fitted)
    print(f"a warning is given below {level:.2f}")
    lines, held = [], [COVERAGE]
    for names in LINES:
        line, left_out = fit(fitted, names, level), estimates_left_out(fitted, names)
        lines.append(line)
        print(f"\n{', '.join(names)}")
        truth = np.array([row["dice"] for row in fitted])
        is_phantom = np.array(["phantom" in row["kind"] for row in fitted])
        print(judged("left out of the fit, phantoms", left_out[is_phantom], truth[is_phantom], level))
        print(judged("left out of the fit, exams", left_out[~is_phantom], truth[~is_phantom], level))
        for kinds in (("plain",), ("mild",), ("severe",), ("plain", "mild", "severe")):
            own = [row for row in unseen if row["kind"] in kinds]
            if own:
                found = [line.estimate(row["signs"], level, COVERAGE) for row in own]
                truth = np.array([row["dice"] for row in own])
                inside = np.array([e.low <= t <= e.high for e, t in zip(found, truth, strict=True)])
                if len(kinds) > 1:
                    held.append(float(inside.mean()))
                title, estimates = f"unseen exams, {' and '.join(kinds)}", np.array([e.dice for e in found])
                print(judged(title, estimates, truth, level, inside))
    exams = len({row["case"].split("+")[0] for row in fitted if "phantom" not in row["kind"]})
    phantoms = len({row["case"] for row in fitted if "phantom" in row["kind"]})
    what = f"{phantoms} phantoms of the range, half of them under hard conditions, and {exams} exams that trained the "
    what += "networks, marked by others of their recipe that lacked them, " if is_by_folds else "networks, "
    what += f"as they are, degraded and severely degraded: {len(fitted)} results of both networks"
    return DiceModel(1, "python -m benchmarks.estimate", what, weights, level, round(min(held), 2), tuple(lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="WORK")
    parser.add_argument(
        "--folds", type=Path, metavar="FOLDER", help="pairs that were trained without some of the exams"
    )
    parser.add_argument("--fit", type=Path, metavar="JSON", help="write the lines there")
    parser.add_argument("--phantoms", type=int, default=60, metavar="N")
    parser.add_argument("--mild", type=int, default=10, metavar="N", help="degraded exams of each exam")
    parser.add_argument("--severe", type=int, default=5, metavar="N")
    args = parser.parse_args()
    pair = default_pair(gland_task().id)
    sessions = {bundle.weights_sha256: open_session(bundle, "onnx", "cpu", "fp32") for bundle in pair}
    weights = tuple(bundle.weights_sha256 for bundle in pair)
    folds = [] if args.folds is None else fold_pairs(args.folds)
    sessions |= {
        bundle.weights_sha256: open_session(bundle, "onnx", "cpu", "fp32") for _, own in folds for bundle in own
    }
    shipped = estimate.dice_model()
    known = (*weights, *(bundle.weights_sha256 for _, own in folds for bundle in own))
    estimate.dice_model = lambda: replace(shipped, weights=known)  # whose signs are wanted, of new weights too
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{'-'.join(sha256[:12] for sha256 in known)}.jsonl"
    trained = set(trained_on(pair[0]))
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {row["case"] for row in rows}
    for name, kind, make in cases(args.data, args.phantoms, args.mild, args.severe):
        if name in done:
            continue
        case, gland = make()
        if not gland.array.any():
            continue
        exam_name = name.split("+")[0]
        marking = pair
        if folds and exam_name in trained:
            marking = next(own for split, own in folds if exam_name not in split)
        found = measured(name, kind, case, gland, marking, sessions)
        rows += found
        with path.open("a") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in found)
        print(name, kind, *(f"{row['dice']:.3f}" for row in found), flush=True)
    model = report(rows, trained, weights, is_by_folds=bool(folds))
    if args.fit:
        args.fit.write_text(json.dumps(to_json(model), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
