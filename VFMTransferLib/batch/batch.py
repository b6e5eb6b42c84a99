"""A folder of cases through networks. Interrupted batches resume.

<output>/summary.csv
<output>/<case>/<bundle>/result.json …     whole or not there
<output>/<case>/comparison.json            of two bundles of one task
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..bundles.bundle import Bundle
from ..bundles.catalog import as_bundle
from ..core.errors import BatchError, BundleError, DatasetError, OutputError
from ..core.files import plain_text, writing
from ..core.machine import memory_bytes
from ..core.options import Options
from ..inference.predict import DEFAULT, memory_checked, require_task
from ..inference.runtimes import LoadedNetworks
from .cases import SUMMARY, BatchCase, Row, read_summary, write_summary

CaseOutcome = Literal["done", "skipped", "failed"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is: numbers of case and arm, from 0, of how many; `fraction` of the arm is done, 0..1."""

    case: int
    cases: int
    arm: int
    bundle: str
    arms: int
    stage: str
    fraction: float

    @property
    def of_all(self) -> float:
        """The fraction of the batch that is done."""
        return (self.case + (self.arm + self.fraction) / self.arms) / self.cases


@dataclass(frozen=True)
class CaseReport:
    """A case, by its folder's name and its number, from 0, is finished with; `skipped` where all was there before.

    `message` is why it failed.
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
    options: Options = DEFAULT,
    task: str | None = None,
    on_case: Callable[[CaseReport], None] | None = None,
    networks: LoadedNetworks | None = None,
) -> list[Row]:
    """Run networks on each case of a folder; a row for each case and bundle, as `summary.csv` has them.

    A case and bundle whose result is there already, from the same weights, options and files of the case, is skipped;
    what failed is tried again. A case that fails stops no other.

    Args:
        output: New, empty, or the output of an earlier batch.
        bundles: Two of one task are also compared.
        on_progress: What it raises stops the batch, and what is done stays.
        task: A bundle for another task is refused.
        networks: Keeps networks loaded; as many as fit in half of all memory by default.

    Raises:
        DatasetError: There are no cases.
        BundleError: A bundle is missing, broken, or not for the task.
        RuntimeUnavailableError: The runtime or device is not on this machine.
        OutputError: The output cannot be written, or is something else.
    """
    cases = plan_cases(Path(cases_folder), Path(output), bundles, task, options)
    loaded = networks or LoadedNetworks(memory_bytes() // 2)
    rows = {case.name: case.rows() for case in cases}
    write_summary(rows, Path(output))
    # So that a network that cannot run here is known before hours of work.
    needed = {bundle.name: (bundle, case) for case in cases for bundle in case.missing}
    for bundle, case in needed.values():
        with memory_checked():
            case.open(bundle, loaded)
    for i, case in enumerate(cases):
        on_arm = partial(_report_progress, on_progress, i, len(cases), case.bundles)
        was_done = case.is_done
        try:
            messages = {} if was_done else case.run(loaded, on_arm)
        except _StoppedError as stopped:
            raise stopped.reason from None
        loaded.make_room()
        rows[case.name] = case.rows(messages)
        write_summary(rows, Path(output))
        if on_case is not None:
            outcome: CaseOutcome = "skipped" if was_done else "failed" if messages else "done"
            on_case(CaseReport(case.name, i, len(cases), outcome, next(iter(messages.values()), "")))
    return [row for of_case in rows.values() for row in of_case]


def _report_progress(
    on_progress: Callable[[BatchProgress], None] | None,
    case: int,
    cases: int,
    bundles: Sequence[Bundle],
    arm: int,
    stage: str,
    fraction: float,
) -> None:
    if on_progress is not None:
        done = min(max(fraction, 0.0), 1.0)
        try:
            on_progress(BatchProgress(case, cases, arm, bundles[arm].name, len(bundles), stage, done))
        except Exception as error:
            raise _StoppedError(error) from error


def plan_cases(
    cases_folder: Path, output: Path, bundles: Sequence[Bundle | str | Path], task: str | None, options: Options
) -> list[BatchCase]:
    """The cases of a batch, by name, in its output's folder; DatasetError, too, where that would become a case."""
    if not cases_folder.is_dir():
        raise DatasetError(f"'{cases_folder.name}' must be a folder of cases, but is none. Choose another.")
    # A link that leads nowhere, as to a disk that is not mounted, is a case that fails.
    folders = sorted(
        f
        for f in cases_folder.iterdir()
        if (f.is_dir() or (f.is_symlink() and not f.exists())) and not f.name.startswith(".")
    )
    if not folders:
        raise DatasetError(
            f"Folder '{cases_folder.name}' must hold a folder for each case, but holds none. Choose the folder above."
        )
    # os.path: a link to itself, which Path refuses to resolve, is a case that fails too.
    if any(output.resolve().is_relative_to(os.path.realpath(folder)) for folder in (*folders, cases_folder)):
        raise DatasetError("The output must lie outside the folder of cases, but lies inside. Choose another folder.")
    chosen = tuple(as_bundle(bundle) for bundle in bundles)
    for bundle in chosen:
        require_task(bundle, task)
    names = [bundle.name for bundle in chosen]  # of the results' folders too
    if not names or len(set(names)) < len(names):
        raise BundleError(f"A batch needs bundles of different names, got {', '.join(names) or 'none'}. Choose others.")
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        is_new = all(f.name.startswith(".") for f in output.iterdir())  # another process may have begun just now
        if not is_new and read_summary(output / SUMMARY) is None:
            raise OutputError(
                f"Output '{output.name}' must be a new folder or that of an earlier batch, but is neither. "
                "Choose another name."
            )
    return [BatchCase(folder, output / plain_text(folder.name), chosen, options) for folder in folders]


def require_all_done(rows: Sequence[Row]) -> None:
    """Raise BatchError if a case failed; the sentence has their number and no names, since it may go into a log."""
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        cases, all_cases = (len({row.case for row in some}) for some in (failed, rows))
        raise BatchError(
            f"{cases} of {all_cases} cases failed; {SUMMARY} holds the reasons. Correct them and run again; "
            "what is done is kept."
        )


class _StoppedError(BaseException):
    """Carries what `on_progress` raised past the case at work, which would take it for a failure of its own."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason
