"""A folder of cases through networks. A batch that was stopped, however rudely, resumes.

<output>/summary.csv
<output>/<case>/<bundle>/result.json …     whole or not there
<output>/<case>/comparison.json            of two bundles of one task
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..bundles.bundle import Bundle
from ..bundles.catalog import as_bundle
from ..core.errors import BatchError, BundleError, DatasetError, OutputError
from ..core.files import writing
from ..core.machine import memory_bytes
from ..inference.predict import PredictOptions, memory_checked, require_task
from ..inference.runtimes import LoadedNetworks
from .cases import BatchCase
from .summary import SUMMARY, Row, write_summary

CaseOutcome = Literal["done", "skipped", "failed"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        case, cases: Number of the case that is at work, from 0, of how many.
        arm, bundle, arms: Number of the bundle, from 0, its name, and how many there are.
        stage: As `predict` names it.
        fraction: How much of the arm is done, 0..1.
    """

    case: int
    cases: int
    arm: int
    bundle: str
    arms: int
    stage: str
    fraction: float

    @property
    def of_all(self) -> float:
        """How much of the batch is done, 0..1."""
        return (self.case + (self.arm + self.fraction) / self.arms) / self.cases


@dataclass(frozen=True)
class CaseReport:
    """A case is finished with.

    Attributes:
        name: Of its folder.
        case, cases: Its number, from 0, of how many.
        outcome: `skipped` where all was there from before.
        message: Why it failed.
    """

    name: str
    case: int
    cases: int
    outcome: CaseOutcome
    message: str = ""


def run_batch(
    cases_folder: Path | str,
    output: Path | str,
    bundles: Sequence[Bundle | str | Path],
    on_progress: Callable[[BatchProgress], None] | None = None,
    *,
    options: PredictOptions | None = None,
    task: str | None = None,
    on_case: Callable[[CaseReport], None] | None = None,
    networks: LoadedNetworks | None = None,
) -> list[Row]:
    """Run networks on each case of a folder.

    A case and bundle whose result is there already, from the same weights and options and from images that are no
    newer, is skipped; what failed is tried again. A case that fails stops no other.

    Args:
        cases_folder: Holds a folder for each case, as `read_case` reads it.
        output: New, empty, or the output of an earlier batch.
        bundles: Two of one task are also compared.
        on_progress: What it raises stops the batch, and what is done stays.
        task: A bundle for another task is refused.
        networks: Keeps networks loaded; as many as fit in half of all memory by default.

    Returns:
        A row for each case and bundle, as `summary.csv` has them.

    Raises:
        DatasetError: There are no cases.
        BundleError: A bundle is missing, broken, or not for the task.
        RuntimeUnavailableError: The runtime or device is not on this machine.
        OutputError: The output cannot be written, or is something else.
    """
    cases = plan_cases(Path(cases_folder), Path(output), bundles, task, options or PredictOptions())
    loaded = networks or LoadedNetworks(memory_bytes() // 2)
    try:
        return _Batch(cases, Path(output) / SUMMARY, loaded, on_progress, on_case).run()
    except _StoppedError as stopped:
        raise stopped.reason from None


def plan_cases(
    cases_folder: Path,
    output: Path,
    bundles: Sequence[Bundle | str | Path],
    task: str | None,
    options: PredictOptions,
) -> list[BatchCase]:
    """The cases of a batch, by name; the output's folder is made, or that of an earlier batch taken.

    Arguments and errors are those of `run_batch`; DatasetError, too, where the output would become a case.
    """
    if not cases_folder.is_dir():
        raise DatasetError(f"'{cases_folder.name}' must be a folder of cases, but is none. Choose another.")
    folders = sorted(f for f in cases_folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise DatasetError(
            f"Folder '{cases_folder.name}' must hold a folder for each case, but holds none. Choose the folder above."
        )
    if any(output.resolve().is_relative_to(folder.resolve()) for folder in (*folders, cases_folder)):
        raise DatasetError("The output must lie outside the folder of cases, but lies inside. Choose another folder.")
    chosen = tuple(as_bundle(bundle) for bundle in bundles)
    for bundle in chosen:
        require_task(bundle, task)
    names = [bundle.name for bundle in chosen]  # of the results' folders too
    if not names or len(set(names)) < len(names):
        raise BundleError(f"A batch needs bundles of different names, got {', '.join(names) or 'none'}. Choose others.")
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()) and not (output / SUMMARY).is_file():
            raise OutputError(
                f"Output '{output.name}' must be a new folder or that of an earlier batch, but is neither. "
                "Choose another name."
            )
    return [BatchCase(folder, output / folder.name, chosen, options) for folder in folders]


def require_all_done(rows: Sequence[Row]) -> None:
    """Raise BatchError if a case failed; the sentence has their number and no names, since it may go into a log."""
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        cases, all_cases = (len({row.case for row in some}) for some in (failed, rows))
        raise BatchError(
            f"{cases} of {all_cases} cases failed; {SUMMARY} holds the reasons. Correct them and run again; "
            "what is done is kept."
        )


@dataclass
class _Batch:
    """One run over all cases."""

    cases: list[BatchCase]
    summary: Path
    networks: LoadedNetworks
    on_progress: Callable[[BatchProgress], None] | None
    on_case: Callable[[CaseReport], None] | None
    at: int = 0

    def run(self) -> list[Row]:
        rows = [case.rows() for case in self.cases]
        self._save(rows)
        # So that a network that cannot run here is known before hours of work.
        needed = {bundle.name: (bundle, case) for case in self.cases for bundle in case.missing}
        for bundle, case in needed.values():
            with memory_checked():
                case.open(bundle, self.networks)
        for i, case in enumerate(self.cases):
            self.at = i
            was_done = case.is_done
            messages = {} if was_done else case.run(self.networks, self._report_progress)
            self.networks.make_room()
            rows[i] = case.rows(messages)
            self._save(rows)
            if self.on_case is not None:
                outcome: CaseOutcome = "skipped" if was_done else "failed" if messages else "done"
                self.on_case(CaseReport(case.name, i, len(self.cases), outcome, next(iter(messages.values()), "")))
        return [row for of_case in rows for row in of_case]

    def _report_progress(self, arm: int, stage: str, fraction: float) -> None:
        if self.on_progress is None:
            return
        bundles, done = self.cases[self.at].bundles, min(max(fraction, 0.0), 1.0)
        at = BatchProgress(self.at, len(self.cases), arm, bundles[arm].name, len(bundles), stage, done)
        try:
            self.on_progress(at)
        except Exception as error:
            raise _StoppedError(error) from error

    def _save(self, rows: list[list[Row]]) -> None:
        """Write the summary; where another program holds the file open, with the next case or at the end."""
        try:
            write_summary([row for of_case in rows for row in of_case], self.summary)
        except OutputError as error:
            if not isinstance(error.__cause__, PermissionError) or self.at + 1 == len(rows) or self.at == 0:
                raise
            log.warning("%s is in use by another program; it is written again after the next case.", SUMMARY)


class _StoppedError(BaseException):
    """Carries what `on_progress` raised past the case at work, which would take it for a failure of its own."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason
