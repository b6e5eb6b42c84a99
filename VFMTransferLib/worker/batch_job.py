"""A batch as a job of the worker: each case through its networks, and told of when it is finished with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..batch.batch import BatchProgress, CaseReport, require_all_done, run_batch
from ..core.errors import JobError
from ..inference.runtimes import LoadedNetworks
from .jobs import JobCanceledError
from .messages import Batch, CaseDone, Progress, Reply


@dataclass
class BatchJob:
    """A batch that is being done.

    Attributes:
        batch: What is wanted.
        networks: Where loaded networks are kept.
        send: Takes each message about the job.
        is_canceled: Asked after each window.
        arm: Always None: which arm failed is said for each case.
    """

    batch: Batch
    networks: LoadedNetworks
    send: Callable[[Reply], None]
    is_canceled: Callable[[], bool]
    arm: int | None = None

    def execute(self) -> None:
        """Do all cases.

        Raises:
            JobCanceledError: The job was canceled on the way; the cases before are kept.
            BatchError: Cases failed; the others are done.
            VFMTransferError: The batch cannot be done at all.
        """
        batch = self.batch
        if not (Path(batch.cases).is_absolute() and Path(batch.output).is_absolute()):
            raise JobError("The folders of a batch must be named absolutely, but are not. Name them whole.")
        rows = run_batch(
            batch.cases,
            batch.output,
            batch.bundles,
            self._tell,
            task=batch.task,
            on_case=self._end_case,
            networks=self.networks,
            runtime=batch.runtime,
            device=batch.device,
            precision=batch.precision,
            crop=batch.crop,
            threshold=batch.threshold,
            only_cspca=batch.only_cspca,
            phase_axis=batch.phase_axis,
        )
        require_all_done(rows)

    def _tell(self, at: BatchProgress) -> None:
        """Report how far it is, and stop here if nobody wants it any more."""
        self._require_wanted()
        self.send(Progress(self.batch.job, at.arm, at.bundle, at.stage, at.fraction, at.case, at.cases))

    def _end_case(self, report: CaseReport) -> None:
        self.send(CaseDone(self.batch.job, report.name, report.case, report.cases, report.outcome, report.message))
        self._require_wanted()

    def _require_wanted(self) -> None:
        if self.is_canceled():
            raise JobCanceledError
