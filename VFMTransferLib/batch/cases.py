"""One case of a batch: what is missing is made, what fails becomes a sentence, and its rows in `summary.csv`.

Whether a result is there is proved by the files themselves, so that an interrupted batch resumes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    memory_checked,
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
        """Whether a result was made as the options ask for it."""
        options, model = self.options, document.model
        notes = document.notes if task_of(bundle.spec).uses_phase_axis else None
        precision = "fp32" if options.precision == AUTO else options.precision  # whatever runtime and device
        return (
            _predicts_as(options, document.options, notes)
            and options.runtime in (AUTO, model.runtime)
            and options.device in (AUTO, model.device)
            and precision == model.precision
        )

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
                        save_result(replace(result, case_sha256=self.sha256), self.folder / bundle.name)
                    kept += [result] if compares else []
            if len(kept) == 2:
                with failures.collected_for(*self.bundles):
                    on_arm(1, "compare", 1.0)
                    placed = predictor.case_with_gland(str(self.bundles[0].spec.task))
                    save_comparison(compare(placed, kept[0], kept[1]), self.folder)
        return failures.messages

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
    """A checksum of the names, sizes and times of a case's files; it shows no name."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        with suppress(OSError):  # this case fails when it is read, and no other
            about = file.stat()
            if stat.S_ISREG(about.st_mode) and file.name.lower() not in OF_FILE_BROWSERS:
                name = os.fsencode(file.relative_to(folder).as_posix())
                digest.update(b"%s\0%d %d\0" % (name, about.st_size, about.st_mtime_ns))
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

    Rows of other networks stay with their cases, and those of other cases as long as their results are there.
    """
    own = {(row.case, row.bundle): row.cells() for of_case in rows.values() for row in of_case}
    kept: dict[str, list[Mapping[str, Value]]] = {}
    for found in read_summary(output / SUMMARY) or []:
        name, bundle = found["case"], found["bundle"]
        is_there = (output / name / bundle / RESULT).is_file()
        if (name, bundle) not in own and (is_there or (name in rows and found["status"] != "done")):
            kept.setdefault(name, []).append(found)
    table: list[Mapping[str, Value]] = []
    for name in (*rows, *sorted(kept.keys() - rows.keys())):
        table += [row.cells() for row in rows.get(name, ())] + kept.get(name, [])
    columns = dict.fromkeys(name for row in table for name in row)
    with atomic_file(output / SUMMARY) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns))
        writer.writeheader()
        writer.writerows(map(spreadsheet_row, table))


def read_summary(path: Path) -> list[dict[str, str]] | None:
    """The texts in the cells of a batch's table; None where it is no such table."""
    try:
        reader = csv.DictReader(io.StringIO(read_small(path).decode("utf-8"), newline=""), restval="")
        if tuple(reader.fieldnames or ())[: len(_COLUMNS)] == _COLUMNS:
            return [{n: text_of_cell(cell) for n, cell in row.items() if n} for row in reader]
    except (OSError, ValueError, csv.Error):
        pass
    return None


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
