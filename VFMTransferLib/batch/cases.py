"""One case of a batch: what is missing is made, what fails becomes a sentence, and its rows in `summary.csv`.

Whether a result is there is proved by the files themselves, so that a batch that was stopped, however rudely, resumes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from ..bundles.bundle import Bundle
from ..core.decoding import from_json, parse_json
from ..core.errors import OutOfMemoryError, OutputError, VFMTransferError
from ..core.files import (
    OF_FILE_BROWSERS,
    atomic_file,
    locked,
    open_regular,
    plain_text,
    read_small,
    remove_leftovers,
    spreadsheet_row,
    text_of_cell,
    writing,
)
from ..core.measurements import PHASE_AXES
from ..core.notes import Note, warning_text
from ..core.options import AUTO, Options
from ..core.result import TRAINED_NOTE, Result
from ..core.terms import Sequence as ImageSequence
from ..evaluation.comparison import compare, save_comparison
from ..inference.predict import (
    AXIS_STATED,
    CasePredictor,
    gland_network,
    memory_checked,
    min_confidence,
    needed_sequences,
    require_fit,
)
from ..inference.runtimes import LoadedNetworks, Session
from ..io import read_case_for
from ..io.images import image_stem
from ..io.results import RESULT, ResultDocument, read_result_document, save_result
from ..tasks import TASKS, task_of

Status = Literal["done", "failed", "waiting"]
Value = float | int | str | None
# Receives how far the case is: number of the bundle, stage, fraction of its work that is done.
OnArm = Callable[[int, str, float], None]

SUMMARY = "summary.csv"
COMPARISON = "comparison.json"
BETWEEN_ARMS = "a-b"
WARNING = "warning"
TRAINED_ON = "trained_on"
_SHOWN_DIGITS = 12  # of the checksum, enough to distinguish weights
_DECIMALS = 6
_SHORT = 200  # characters of an unexpected error's text
_COLUMNS = ("case", "bundle", "arm", "sha256", "task", "status", "message")  # the first of the table, of all versions
# Those that follow them; any other is a user's.
_OWN_COLUMNS = frozenset({*_COLUMNS, "case_sha256", "seconds", "expected_dice", WARNING, TRAINED_ON, "lesions"}) | {
    "largest_lesion_ml",
    "highest_confidence",
}
_OWN_PREFIXES = ("volume_ml ", "quality ", "probability ", "a-b ")
_SEPARATORS = (",", ";", "\t")
_LOCK = ".summary.lock"
_LOCK_S, _LOCK_STEP_S = 60.0, 0.05
_HEAD_BYTES = 64 << 10  # of a file; they hold the header of every format, in DICOM the identifiers

# Up to the number of images that follows it, since a description may hold quotes itself.
_SERIES_DESCRIPTION = re.compile(r"(series \S+) '.*?'(?= \(\d+ images)")
_PLAIN_STEMS = frozenset({*ImageSequence, "dwi", "gland"})  # of files, which name no patient

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One case, by its folder's name, and one bundle.

    Attributes:
        arm: `pretrained`, `scratch` or empty.
        sha256: The first digits of the weights' checksum.
        status: Whether its results are there; `waiting` before its turn.
        message: Why it failed.
        case_sha256: The first digits of the checksum of the case's files.
        values: Column → number, or what must be read before the result is used (`warning`). Those that begin with `a-b`
            are how far both arms agree, not whether either is correct.
    """

    case: str
    bundle: str
    arm: str
    sha256: str
    task: str
    status: Status
    message: str = ""
    case_sha256: str = ""
    values: dict[str, Value] = field(default_factory=dict)

    def cells(self) -> dict[str, Value]:
        about = {name: value for name, value in asdict(self).items() if name != "values"}
        rounded = {n: round(v, _DECIMALS) if isinstance(v, float) else v for n, v in self.values.items()}
        return {**about, **rounded}


@dataclass(frozen=True)
class MeasureRow:
    """One number of a `comparison.json`; see `evaluation.comparison.measure_row`."""

    subject: str
    measure: str
    between: str
    value: float | None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class BatchCase:
    """The case of the folder `source` and all bundles, whose results go into a folder each in `folder`.

    Two bundles of one task are compared. The runtime or device `auto` agrees with a result of any.
    """

    source: Path
    folder: Path
    bundles: tuple[Bundle, ...]
    options: Options

    @property
    def name(self) -> str:
        return plain_text(self.source.name)

    @property
    def missing(self) -> tuple[Bundle, ...]:
        """The bundles whose whole results are not there as the options ask for them."""
        return tuple(bundle for bundle in self.bundles if not self._has_result(bundle))

    def _has_result(self, bundle: Bundle) -> bool:
        folder = self.folder / bundle.name
        document = _read_result(folder)
        if document is None or (document.case_sha256, document.model.sha256) != (self.sha256, bundle.weights_sha256):
            return False
        is_whole = all((folder / name).is_file() for name in document.files)
        return is_whole and self._is_predicted_as(document, bundle)

    def _is_predicted_as(self, document: ResultDocument, bundle: Bundle) -> bool:
        """Whether a result was made as the options, and what the bundle states beside its weights, ask for it."""
        options, model = self.options, document.model
        notes = document.notes if task_of(bundle.spec).uses_phase_axis else None
        precision = "fp32" if options.precision == AUTO else options.precision  # whatever runtime and device
        return (
            _predicts_as(options, document.options, notes)
            and options.runtime in (AUTO, model.runtime)
            and options.device in (AUTO, model.device)
            and precision == model.precision
            and document.caveats == bundle.caveat_notes
            and min_confidence(bundle, options) == model.min_confidence
            and (bundle.calibration is None or bundle.calibration.note in document.notes)
            and (model.gland_sha256 is None or model.gland_sha256 == self._gland_network_sha256)
        )

    @cached_property
    def _gland_network_sha256(self) -> str | None:
        """Of the network that would search the prostate now, read once, since the catalog is all bundles' metadata."""
        bundle = gland_network()
        return None if bundle is None else bundle.weights_sha256

    @cached_property
    def sha256(self) -> str:
        """Of the case's files, computed once, since a case may be a thousand of them on a slow disk."""
        return _sha256_of_files(self.source)

    @property
    def is_done(self) -> bool:
        """Whether all results are there, and of a pair a comparison that is no older than they are."""
        if self.missing or not self.is_pair:
            return not self.missing
        written = [(self.folder / bundle.name / RESULT).stat().st_mtime for bundle in self.bundles]
        return self._measures is not None and (self.folder / COMPARISON).stat().st_mtime >= max(written)

    @property
    def _measures(self) -> tuple[MeasureRow, ...] | None:
        """Those of exactly these two networks, where they were compared: the folder holds those of the last pair."""
        document = _read_json(self.folder / COMPARISON) if self.is_pair else None
        wanted = [(bundle.name, bundle.weights_sha256) for bundle in self.bundles]
        if document is None or _compared(document) != wanted:
            return None
        try:
            return from_json(tuple[MeasureRow, ...], document.get("measures"), "measures")
        except ValueError:
            return None

    @property
    def is_pair(self) -> bool:
        return len(self.bundles) == 2 and self.bundles[0].spec.task == self.bundles[1].spec.task

    def rows(self, messages: dict[str, str] | None = None) -> list[Row]:
        """A row for each bundle; `messages` explains those that failed just now."""
        missing, messages = self.missing, messages or {}
        rows = []
        for bundle in self.bundles:
            status: Status = "failed" if bundle.name in messages else "waiting" if bundle in missing else "done"
            values: dict[str, Value] = {}
            document = _read_result(self.folder / bundle.name) if status == "done" else None
            if document is not None:
                values = _numbers(document)
                for one in self._measures or ():
                    if one.between == BETWEEN_ARMS:
                        values[f"{BETWEEN_ARMS} {one.measure} {one.subject}"] = one.value
            arm, short = str(bundle.arm or ""), bundle.weights_sha256[:_SHOWN_DIGITS]
            message = messages.get(bundle.name, "")
            task, files = str(bundle.spec.task), self.sha256[:_SHOWN_DIGITS]
            rows.append(Row(self.name, bundle.name, arm, short, task, status, message, files, values))
        return rows

    def run(self, networks: LoadedNetworks, on_arm: OnArm) -> dict[str, str]:
        """Make what is missing; name of a bundle → why it failed."""
        missing, failures = self.missing, _Failures(networks, self.source)
        with writing(self.folder):
            remove_leftovers(self.folder)
        with failures.collected_for(*(missing or self.bundles)):
            on_arm(0, "images", 0.0)
            case = read_case_for(needed_sequences(self.bundles), self.source)
            if self._compares_any(missing):
                comparison = self.folder / COMPARISON
                with writing(self.folder):
                    comparison.unlink(missing_ok=True)
                    comparison.with_suffix(".csv").unlink(missing_ok=True)
            fitting = []
            for bundle in self.bundles:
                with failures.collected_for(bundle):
                    require_fit(case, bundle)
                    fitting.append(bundle)
            compares = self.is_pair and len(fitting) == len(self.bundles)
            # The voxels of both arms are compared, so that of a pair the one that is there runs again.
            to_run = fitting if compares else [bundle for bundle in fitting if bundle in missing]
            predictor = CasePredictor(case, self.options, partial(self.open, networks=networks), networks.case_cache)
            kept: list[Result] = []
            for bundle in to_run:
                arm = self.bundles.index(bundle)
                with failures.collected_for(bundle):
                    result = predictor.predict(bundle, partial(on_arm, arm))
                    if bundle in missing:
                        on_arm(arm, "write", 1.0)
                        self._save(replace(result, case_sha256=self.sha256), bundle)
                    kept += [result] if compares else []
            if len(kept) == 2:
                with failures.collected_for(*self.bundles):
                    on_arm(1, "compare", 1.0)
                    placed = predictor.case_with_gland(str(self.bundles[0].spec.task))
                    save_comparison(compare(placed, kept[0], kept[1]), self.folder)
        return failures.messages

    def _save(self, result: Result, bundle: Bundle) -> None:
        """Write a result, unless another process on the same cases has written the same one meanwhile."""
        if self._has_result(bundle):
            return
        try:
            save_result(result, self.folder / bundle.name)
        except OutputError:
            if not self._has_result(bundle):
                raise

    def _compares_any(self, bundles: Collection[Bundle]) -> bool:
        """Whether the comparison that is there is of one of these, or cannot be read."""
        document = _read_json(self.folder / COMPARISON)
        names = {bundle.name for bundle in bundles}
        return document is None or any(name in names for name, _ in _compared(document))

    def open(self, bundle: Bundle, networks: LoadedNetworks) -> Session:
        """A bundle's network, loaded where and how the options ask for it."""
        return networks.open(bundle, **self.options.engine)


def _predicts_as(options: Options, recorded: Mapping[str, object], notes: Sequence[Note] | None) -> bool:
    """Whether options predict what those predicted that `result.json` records.

    Args:
        options: What is asked for now.
        recorded: The options there.
        notes: The notes there, of a result that depends on the phase axis. What `auto` found is `left-right` or stands
            in them; another axis was chosen.
    """
    axis = recorded.get("phase_axis")
    if options.phase_axis == AUTO and axis in PHASE_AXES:
        was_found = notes is None or axis == next(iter(PHASE_AXES)) or any(n.code == AXIS_STATED for n in notes)
        axis = AUTO if was_found else axis
    return {**recorded, "phase_axis": axis} == options.recorded


def _compared(document: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Name and checksum of both networks of a comparison."""
    sides = [one if isinstance(one := document.get(side), dict) else {} for side in ("a", "b")]
    return [(one.get("bundle"), one.get("sha256")) for one in sides]


class _Failures:
    """Why bundles failed on one case, in sentences by their names; the first failure counts.

    Networks are released where memory ran out, so that the next case may fit.
    """

    def __init__(self, networks: LoadedNetworks, source: Path) -> None:
        self.networks, self.source = networks, source
        self.messages: dict[str, str] = {}

    @contextmanager
    def collected_for(self, *bundles: Bundle) -> Iterator[None]:
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
            sentence = without_names(sentence, self.source)
            for bundle in bundles:
                self.messages.setdefault(bundle.name, sentence)


def _sha256_of_files(folder: Path) -> str:
    """A checksum that changes when a file of a case is added, removed or replaced; it shows no name.

    Names, sizes and times are read, and of each folder the beginning of the first file: patients' files may have all
    three in common, as those of archives whose times are set to one.
    """
    digest = hashlib.sha256()
    sampled = set()
    for file in sorted(folder.rglob("*")):
        name = os.fsencode(file.relative_to(folder).as_posix())
        try:
            about = file.stat()
        except FileNotFoundError:  # a link to nothing, or a file that is gone meanwhile
            continue
        except OSError as error:  # this case fails when it is read, and no other
            digest.update(b"%s\0%d\0" % (name, error.errno or 0))
            continue
        if not stat.S_ISREG(about.st_mode) or file.name.lower() in OF_FILE_BROWSERS:
            continue
        digest.update(b"%s\0%d %d\0" % (name, about.st_size, about.st_mtime_ns))
        if file.parent not in sampled:
            sampled.add(file.parent)
            with suppress(OSError), open_regular(file) as stream:  # one that cannot be read is known when it is needed
                digest.update(stream.read(_HEAD_BYTES))
    return digest.hexdigest()


def without_names(sentence: str, source: Path) -> str:
    """A sentence without names of a case's files and descriptions of its series, which may be a patient's."""
    sentence = _SERIES_DESCRIPTION.sub(r"\1", sentence)
    for file in source.rglob("*"):
        if image_stem(file.name).lower() in _PLAIN_STEMS:
            continue
        name = re.escape(plain_text(file.name))
        # A name without a suffix may be a word or a number of the sentence itself.
        where = rf"(?<!\w){name}(?!\w)" if file.suffix else rf"(?<='){name}(?=')|(?<=such as ){name}(?=[);])"
        sentence = re.sub(where, f"*{''.join(file.suffixes[-2:]) if file.suffix == '.gz' else file.suffix}", sentence)
    return sentence


def write_summary(rows: Mapping[str, Sequence[Row]], output: Path) -> None:
    """Write the rows of all cases into a batch's output; a column that some rows lack is empty there.

    Rows of the same cases and of other networks stay, also those that another process writes meanwhile, unless the
    case's files are others by now; of other cases, which another run made, the rows whose results are there. Columns
    that a user has added stay with their case and network.
    """
    with _locked_soon(output / _LOCK):
        kept: dict[tuple[str, str], list[dict[str, str]]] = {}
        added: dict[tuple[str, str], dict[str, str]] = {}
        for found in read_summary(output / SUMMARY) or []:
            name, bundle, files = found["case"], found["bundle"], found["case_sha256"]
            added[name, bundle] = {column: cell for column, cell in found.items() if not _is_own_column(column)}
            if found["status"] != "done" or (output / name / bundle / RESULT).is_file():
                kept.setdefault((name, files), []).append(found)
        cells: list[Mapping[str, Value]] = []
        for name, of_case in rows.items():
            cells += [row.cells() | added.get((name, row.bundle), {}) for row in of_case]
            own = {row.bundle for row in of_case}
            others = kept.get((name, of_case[0].case_sha256), [])
            cells += [found for found in others if found["bundle"] not in own]
        elsewhere = [found for (name, _), of_case in sorted(kept.items()) if name not in rows for found in of_case]
        cells += [found for found in elsewhere if found["status"] == "done"]
        columns = dict.fromkeys(name for row in cells for name in row)
        with atomic_file(output / SUMMARY) as part, part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(columns))
            writer.writeheader()
            writer.writerows(map(spreadsheet_row, cells))


def _is_own_column(name: str) -> bool:
    """Whether a column of the table is written here, by this version at least."""
    return name in _OWN_COLUMNS or name.startswith(_OWN_PREFIXES)


def read_summary(path: Path) -> list[dict[str, str]] | None:
    """The texts in the cells of a batch's table, also as a spreadsheet saves it; None where it is no such table."""
    try:
        text = read_small(path).decode("utf-8-sig", "replace")
        for separator in _SEPARATORS:
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restval="")
            if tuple(reader.fieldnames or ())[: len(_COLUMNS)] == _COLUMNS:
                # What stands beyond the last column has no name.
                return [
                    {"case_sha256": "", **{n: text_of_cell(cell) for n, cell in row.items() if n}} for row in reader
                ]
    except (OSError, ValueError, csv.Error):
        pass
    return None


@contextmanager
def _locked_soon(lock: Path) -> Iterator[None]:
    """Hold the lock on the table, which another process holds for the moment of its writing; no file of it stays."""
    deadline = time.monotonic() + _LOCK_S
    with ExitStack() as stack:
        while True:
            try:
                held = stack.enter_context(locked(lock))
                if _is_file_of(held, lock):
                    stack.callback(_remove, lock)  # before the lock ends
                    break
                stack.close()  # the one that held it has removed it meanwhile
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise OutputError(
                        f"'{SUMMARY}' must be free to be written, but another process has held it for {_LOCK_S:.0f} s. "
                        "End that process, or choose another folder."
                    ) from error
                time.sleep(_LOCK_STEP_S)
            except OutputError:  # a disk without locks, on which one process at a time keeps all rows
                break
        yield


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _remove(path: Path) -> None:
    with suppress(OSError):  # Windows keeps a file that is open
        path.unlink()


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        document = parse_json(read_small(path))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _read_result(folder: Path) -> ResultDocument | None:
    """The `result.json` of a folder, or None where there is none; one that cannot be one is none."""
    try:
        return read_result_document(folder)
    except OutputError:
        return None


def _numbers(result: ResultDocument) -> dict[str, Value]:
    """The numbers of a `result.json`."""
    lesions = result.lesions
    values: dict[str, Value] = {"seconds": round(sum(result.seconds.values()), 2)}
    values |= {f"volume_ml {name}": volume for name, volume in result.volumes_ml.items()}
    if result.estimate is not None:
        values["expected_dice"] = result.estimate.dice
    task = TASKS.get(result.task)
    caution = "" if task is None else task.caution(result.estimate, result.withheld)
    warning = " ".join(filter(None, (caution, warning_text(result.notes))))
    if warning or result.estimate is not None:
        values[WARNING] = warning
    if TRAINED_NOTE in result.notes:
        values[TRAINED_ON] = "yes"
    values |= {f"quality {found.name}": found.value for found in result.quality}
    if task is not None and task.finds_lesions:
        values["lesions"] = len(lesions)
        values["largest_lesion_ml"] = max((lesion.volume_ml for lesion in lesions), default=0.0)
        values["highest_confidence"] = max((lesion.confidence for lesion in lesions), default=None)
    probabilities = {**result.class_probabilities, **result.derived_probabilities}
    return values | {f"probability {name}": probability for name, probability in probabilities.items()}
