"""One case of a batch: what is missing is made, and what fails becomes a sentence.

Whether a result is there is proved by the files themselves, so that a batch that was stopped, however rudely, resumes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from ..bundles.bundle import Bundle
from ..core.errors import OutOfMemoryError, VFMTransferError
from ..core.files import writing
from ..core.result import Result
from ..evaluation.comparison import compare, save_comparison
from ..inference.predict import CasePredictor, PredictOptions, memory_checked, require_fit
from ..inference.runtimes import LoadedNetworks, Session
from ..io import read_case
from ..io.results import RESULT, save_result
from .summary import COMPARISON, Row, Status, read_json, read_row

# Receives how far the case is: number of the bundle, stage, fraction of its work that is done.
OnArm = Callable[[int, str, float], None]

_LEFTOVERS = (".*.part", ".*.old", ".part-*")  # of files and folders in the making, where a process was killed
_SHORT = 200  # characters of an unexpected error's text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchCase:
    """One case and all bundles.

    Attributes:
        source: The case's folder.
        folder: Where its results go, a folder for each bundle.
        bundles: The networks; two of one task are compared.
        options: How they are run; `auto` agrees with any runtime, device and precision.
    """

    source: Path
    folder: Path
    bundles: tuple[Bundle, ...]
    options: PredictOptions

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def missing(self) -> tuple[Bundle, ...]:
        """The bundles whose whole results are not there as the options ask for them."""
        return tuple(bundle for bundle in self.bundles if not self._has_result(bundle))

    def _has_result(self, bundle: Bundle) -> bool:
        folder = self.folder / bundle.name
        document = read_json(folder / RESULT)
        if document is None or document.get("options") != self.options.recorded:
            return False
        model = document.get("model", {})
        is_same = model.get("sha256") == bundle.weights_sha256 and all(
            getattr(self.options, name) in ("auto", model.get(name)) for name in ("runtime", "device", "precision")
        )
        is_whole = all((folder / name).is_file() for name in document.get("files", []))
        return is_same and is_whole and (folder / RESULT).stat().st_mtime >= self._newest_image_s

    @cached_property
    def _newest_image_s(self) -> float:
        """When the case's newest file was written, in seconds since the epoch; 0 where there is none.

        Read once, since a case may be a thousand files on a slow disk.
        """
        return max((file.stat().st_mtime for file in self.source.rglob("*") if file.is_file()), default=0.0)

    @property
    def is_done(self) -> bool:
        """Whether all results are there, and of a pair a comparison that is no older than they are."""
        if self.missing:
            return False
        comparison = self.folder / COMPARISON
        if not self.is_pair:
            return True
        written = [(self.folder / bundle.name / RESULT).stat().st_mtime for bundle in self.bundles]
        return read_json(comparison) is not None and comparison.stat().st_mtime >= max(written)

    @property
    def is_pair(self) -> bool:
        return len(self.bundles) == 2 and self.bundles[0].spec.task == self.bundles[1].spec.task

    def rows(self, messages: dict[str, str] | None = None) -> list[Row]:
        """A row for each bundle; `messages` explains those that failed just now."""
        missing, messages = self.missing, messages or {}

        def status(bundle: Bundle) -> Status:
            return "failed" if bundle.name in messages else "waiting" if bundle in missing else "done"

        return [read_row(self.folder, self.name, b, status(b), messages.get(b.name, "")) for b in self.bundles]

    def run(self, networks: LoadedNetworks, on_arm: OnArm) -> dict[str, str]:
        """Make what is missing; name of a bundle → why it failed."""
        missing, failures = self.missing, _Failures(networks)
        self._remove_leftovers()
        with failures.collected_for(*(missing or self.bundles)):
            on_arm(0, "images", 0.0)
            case = read_case(self.source)
            fitting = []
            for bundle in self.bundles:
                with failures.collected_for(bundle):
                    require_fit(case, bundle)
                    fitting.append(bundle)
            compares = self.is_pair and len(fitting) == len(self.bundles)
            # The voxels of both arms are compared, so that of a pair the one that is there runs again.
            to_run = fitting if compares else [bundle for bundle in fitting if bundle in missing]
            predictor = CasePredictor(case, self.options, partial(self.open, networks=networks))
            kept: list[Result] = []
            for bundle in to_run:
                arm = self.bundles.index(bundle)
                with failures.collected_for(bundle):
                    result = predictor.predict(bundle, partial(on_arm, arm))
                    if bundle in missing:
                        on_arm(arm, "write", 1.0)
                        save_result(result, self.folder / bundle.name)
                    kept += [result] if compares else []
            if len(kept) == 2:
                with failures.collected_for(*self.bundles):
                    on_arm(1, "compare", 1.0)
                    save_comparison(compare(case, kept[0], kept[1]), self.folder)
        return failures.messages

    def open(self, bundle: Bundle, networks: LoadedNetworks) -> Session:
        """A bundle's network, loaded where and how the options ask for it."""
        options = self.options
        return networks.open(bundle, runtime=options.runtime, device=options.device, precision=options.precision)

    def _remove_leftovers(self) -> None:
        """Remove what a killed process left half-written, and a comparison of results that are made again."""
        with writing(self.folder):
            for pattern in _LEFTOVERS:
                for path in self.folder.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            (self.folder / COMPARISON).unlink(missing_ok=True)
            (self.folder / COMPARISON).with_suffix(".csv").unlink(missing_ok=True)


class _Failures:
    """Why bundles failed on one case, in sentences.

    Attributes:
        networks: They are released where memory ran out, so that the next case may fit.
        messages: Name of a bundle → sentence; the first failure counts.
    """

    def __init__(self, networks: LoadedNetworks) -> None:
        self.networks = networks
        self.messages: dict[str, str] = {}

    @contextmanager
    def collected_for(self, *bundles: Bundle) -> Iterator[None]:
        """Take what fails inside as a failure of some bundles, and go on after it."""
        try:
            with memory_checked():
                yield
        except Exception as error:  # whatever is wrong with one case must not stop the others
            if isinstance(error, OutOfMemoryError):
                self.networks.clear()
            sentence = " ".join(str(error).split())
            if not isinstance(error, VFMTransferError):
                log.debug("A case failed.", exc_info=error)
                text = f"{type(error).__name__}: {sentence}".strip()[:_SHORT]
                sentence = f"An unexpected error stopped this case ({text}). Run it alone, and report the details."
            for bundle in bundles:
                self.messages.setdefault(bundle.name, sentence)
