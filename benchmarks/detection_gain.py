"""What a pretraining gains in average precision of lesions, by the trainings of a study of label efficiency.

`python -m benchmarks.detection_gain STUDY [MORE...]`

A study's own tables have the Dice at the networks' threshold, which may be 0 where candidates are already ranked well.
Here each finished training marks the study's test phantoms again. The interval is over these cases: they are drawn with
replacement, the same for both arms and all seeds, and each seed's average precision is taken of the cases drawn.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from VFMTransferLib.metrics.detection import average_precision
from VFMTransferLib.study.config import CONFIG, RunKey, StudyConfig, planned_runs, read_config
from VFMTransferLib.study.run import run_cases, trained_run, training_config
from VFMTransferLib.study.workspace import Workspace
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.tasks.base import CaseScore
from VFMTransferLib.training.finetune import averaged_network, results_of

TASK = "lesion-segmentation"
DRAWS = 2000
LEVELS = (2.5, 97.5)


def main() -> None:
    """Print a row for each encoder, pretraining and number of labeled cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, nargs="+", help="folders of studies")
    torch.set_num_threads(1)
    for folder in parser.parse_args().study:
        _report(folder)


def _report(folder: Path) -> None:
    config, workspace = read_config(folder / CONFIG), Workspace(folder)
    arms: dict[tuple[str, int], dict[str, dict[int, list[CaseScore]]]] = defaultdict(lambda: defaultdict(dict))
    for run in planned_runs(config):
        if run.task == TASK and run.labelled_cases and (workspace.results / f"{run.name}.json").is_file():
            arms[run.encoder, run.labelled_cases][run.arm][run.seed] = _scores(run, config, workspace)
    for (encoder, size), by_arm in sorted(arms.items()):
        scratch = by_arm.pop("scratch", {})
        for arm, own in sorted(by_arm.items()):
            seeds = sorted(own.keys() & scratch.keys())
            gain = _gain([(scratch[seed], own[seed]) for seed in seeds]) if seeds else "no seed is done with both arms"
            print(f"{folder.name}, {encoder}, {arm}, {size} labeled cases, seeds {seeds}: {gain}")
    if not arms:
        print(f"{folder.name}: no training of {TASK} with few labels is done; see docs/study.md.")


def _scores(run: RunKey, config: StudyConfig, workspace: Workspace) -> list[CaseScore]:
    """Candidates and lesions of each test phantom."""
    spec, cases = training_config(run, config).model, run_cases(run, config, workspace)
    network = averaged_network(trained_run(run, config, workspace), spec)
    results = results_of(network, spec, cases.select(cases.split.test))
    return [TASKS[TASK].score(result, case) for result, case in results]


def _gain(pairs: list[tuple[list[CaseScore], list[CaseScore]]]) -> str:
    count, rng = len(pairs[0][0]), np.random.default_rng(0)
    drawn = [np.arange(count), *rng.integers(count, size=(DRAWS, count))]
    scratch, pretrained = ([_Ranking(pair[i]).precision(drawn) for pair in pairs] for i in (0, 1))  # each (1 + DRAWS,)
    for pair, *values in zip(pairs, scratch, pretrained, strict=True):
        for scores, value in zip(pair, values, strict=True):  # faster than the library's, and equal to it
            candidates = [candidate for score in scores for candidate in score.candidates]
            np.testing.assert_allclose(value[0], average_precision(candidates, sum(score.lesions for score in scores)))
    gains = np.mean(pretrained, axis=0) - np.mean(scratch, axis=0)
    low, high = np.percentile(gains[1:], LEVELS)
    of = [" ".join(f"{values[0]:.3f}" for values in arm) for arm in (scratch, pretrained)]
    return (
        f"scratch {of[0]}, pretrained {of[1]}, gain of the mean {gains[0]:+.3f} "
        f"(95 % interval over cases {low:+.3f} to {high:+.3f})"
    )


class _Ranking:
    """All candidates of some cases, the most confident first."""

    def __init__(self, scores: list[CaseScore]) -> None:
        found = sorted(
            ((candidate.confidence, candidate.is_hit, i) for i, s in enumerate(scores) for candidate in s.candidates),
            reverse=True,
        )
        confidence, self.hit, case = np.array(found, float).reshape(-1, 3).T
        self.case, self.lesions = case.astype(int), np.array([score.lesions for score in scores])
        self.last = np.diff(confidence, append=-np.inf) != 0  # of those with equal confidence

    def precision(self, drawn: list[np.ndarray]) -> np.ndarray:
        """Average precision of each list of cases, in which a case may stand several times."""
        found = []
        for cases in drawn:
            times = np.bincount(cases, minlength=len(self.lesions))
            weight = times[self.case]
            hits, seen = (np.cumsum(w)[self.last] for w in (weight * self.hit, weight))
            gained = np.diff(hits, prepend=0.0)
            found.append((hits / np.maximum(seen, 1) * gained).sum() / (times * self.lesions).sum())
        return np.array(found)


if __name__ == "__main__":
    main()
