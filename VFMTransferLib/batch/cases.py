"""One case of a batch: what is missing is made, and what fails becomes a sentence."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from ..bundles.bundle import Bundle
from ..core.case import Case
from ..core.errors import OutOfMemoryError, VFMTransferError
from ..core.files import writing
from ..core.result import Result
from ..evaluation.comparison import compare, save_comparison
from ..inference.predict import CasePredictor, PredictOptions, memory_checked, require_fit, save_result
from ..inference.runtimes import LoadedNetworks
from ..io import read_case
from .summary import COMPARISON, Row, Status, Wanted, is_compared, newest_s, read_row

# Told how far the case is: number of the bundle, stage, fraction of its work that is done.
OnArm = Callable[[int, str, float], None]

_LEFTOVERS = (".*.part", ".*.old", ".part-*")  # of files and folders in the making, where a process was killed
_SHORT = 200  # characters of a strange error's own words

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchCase:
    """One case and all bundles.

    Attributes:
        source: The case's folder.
        folder: Where its results go, a folder for each bundle.
        bundles: The networks; two of one task are compared.
        wanted: How they are run.
    """

    source: Path
    folder: Path
    bundles: tuple[Bundle, ...]
    wanted: Wanted

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def missing(self) -> tuple[Bundle, ...]:
        """The bundles whose results are not there as they are wanted."""
        return tuple(b for b in self.bundles if not self.wanted.is_met(self.folder / b.name, b, self._newest_image_s))

    @cached_property
    def _newest_image_s(self) -> float:
        """Asked once, since a case may be a thousand files on a slow disk."""
        return newest_s(self.source)

    @property
    def is_done(self) -> bool:
        return not self.missing and not (self.is_pair and not is_compared(self.folder, self.bundles))

    @property
    def is_pair(self) -> bool:
        return len(self.bundles) == 2 and self.bundles[0].spec.task == self.bundles[1].spec.task

    def rows(self, messages: dict[str, str] | None = None) -> list[Row]:
        """A row for each bundle; `messages` tells of those that failed just now."""
        missing, messages = self.missing, messages or {}

        def status(bundle: Bundle) -> Status:
            return "failed" if bundle.name in messages else "waiting" if bundle in missing else "done"

        return [read_row(self.folder, self.name, b, status(b), messages.get(b.name, "")) for b in self.bundles]

    def run(self, networks: LoadedNetworks, on_arm: OnArm) -> dict[str, str]:
        """Make what is missing.

        Args:
            networks: Where loaded networks are kept.
            on_arm: Told how far the case is.

        Returns:
            Name of a bundle → why it failed.
        """
        missing, failures = self.missing, _Failures(networks)
        self._clear_away()
        with failures.of(*(missing or self.bundles)):
            on_arm(0, "images", 0.0)
            case = read_case(self.source)
            fitting = [bundle for bundle in self.bundles if failures.fits(case, bundle)]
            compares = self.is_pair and len(fitting) == len(self.bundles)
            # The voxels of both arms are compared, so that of a pair the one that is there runs again.
            todo = fitting if compares else [bundle for bundle in fitting if bundle in missing]
            kept = []
            for result in self._results(case, todo, missing, failures, on_arm):
                kept += [result] if compares else []
            if len(kept) == 2:
                self._compare(case, kept[0], kept[1], failures, on_arm)
        return failures.messages

    def _results(
        self,
        case: Case,
        todo: Sequence[Bundle],
        missing: Sequence[Bundle],
        failures: _Failures,
        on_arm: OnArm,
    ) -> Iterator[Result]:
        """The result of each bundle that does not fail; those that were missing are saved."""
        opening = partial(self.wanted.open, networks=failures.networks)
        predictor = CasePredictor(case, PredictOptions(**self.wanted.options), opening)
        for bundle in todo:
            result = None
            arm = self.bundles.index(bundle)
            with failures.of(bundle):
                result = predictor.predict(bundle, partial(on_arm, arm))
                if bundle in missing:
                    on_arm(arm, "write", 1.0)
                    save_result(result, self.folder / bundle.name)
            if result is not None:
                yield result

    def _compare(self, case: Case, a: Result, b: Result, failures: _Failures, on_arm: OnArm) -> None:
        with failures.of(*self.bundles):
            on_arm(1, "compare", 1.0)
            save_comparison(compare(case, a, b), self.folder)

    def _clear_away(self) -> None:
        """Remove what a killed process left half-written, and a comparison of results that are made anew."""
        with writing(self.folder):
            for pattern in _LEFTOVERS:
                for path in self.folder.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            (self.folder / COMPARISON).unlink(missing_ok=True)
            (self.folder / COMPARISON).with_suffix(".csv").unlink(missing_ok=True)


class _Failures:
    """Why bundles failed on one case, in sentences.

    Attributes:
        networks: They are let go where memory ran out, so that the next case may fit.
        messages: Name of a bundle → sentence; the first failure counts.
    """

    def __init__(self, networks: LoadedNetworks) -> None:
        self.networks = networks
        self.messages: dict[str, str] = {}

    @contextmanager
    def of(self, *bundles: Bundle) -> Iterator[None]:
        """Take what fails inside as a failure of some bundles, and go on behind."""
        try:
            with memory_checked():
                yield
        except Exception as error:  # whatever is wrong with one case must not stop the others
            if isinstance(error, OutOfMemoryError):
                self.networks.clear()
            for bundle in bundles:
                self.messages.setdefault(bundle.name, _sentence(error))

    def fits(self, case: Case, bundle: Bundle) -> bool:
        """Whether a bundle can say something of a case."""
        with self.of(bundle):
            require_fit(case, bundle)
            return True
        return False


def _sentence(error: Exception) -> str:
    if isinstance(error, VFMTransferError):
        return " ".join(str(error).split())
    log.debug("A case failed.", exc_info=error)
    own_words = " ".join(f"{type(error).__name__}: {error}".split())[:_SHORT]
    return f"An unexpected error stopped this case ({own_words}). Run it alone, and report the details."
