"""Messages between a program and its worker: there and back, what is refused, the schema for other languages."""

import json
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from importlib.resources import files
from pathlib import Path
from typing import get_args

import jsonschema
import pytest

from VFMTransferLib.core.errors import JobError
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry
from VFMTransferLib.io.cases import ExportedImage
from VFMTransferLib.tasks import TASKS
from VFMTransferLib.worker import messages as job
from VFMTransferLib.worker.messages import Grid, ImageFile, Run, read_reply, read_request, to_line

ROOT = Path(__file__).resolve().parents[3]
GRID = Grid((20, 18, 7), (0.5, 0.5, 3.0), (-1.0, 2.0, 1e-3), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
RUN = Run(
    "job-1",
    "lesion-segmentation",
    "/somewhere/with spaces/Größe",
    {Sequence.T2W: ImageFile("t2w.npy", GRID), Sequence.ADC: ImageFile("adc.nrrd")},
    ("first", "second"),
    compare=True,
    gland=ImageFile("gland.nrrd"),
    roi=ImageFile("roi.npy", GRID),
    options=Options(threshold=0.25),
)
BATCH = job.Batch("job-2", "anatomy-segmentation", "/cases of Größe", "/out", ("first",), Options(crop="center"))
CAPABILITIES = job.Capabilities(tuple(TASKS), ("onnx",), ("SimpleITK",))
LOAD = job.Load(("first", "bundle of Größe"), "onnx", "cpu", "fp32")
REQUESTS = (job.Hello(), RUN, BATCH, LOAD, job.Cancel("job-1"), job.Ping(7), job.Shutdown())
REPLIES = (
    job.Ready("0.1.0", "3.12.1", 4711, CAPABILITIES),
    job.Pong(7, ("first",)),
    job.Progress("job-1", 0, "first", "infer", 0.5, 3, 12),
    job.ArmResult("job-1", 0, "first", "0-first", 1),
    job.Compared("job-1", "comparison.json", "report"),
    job.CaseDone("job-2", "p003", 3, 12, "failed", "Case 'p003' must contain t2w."),
    job.Finished("job-1", "canceled"),
    job.Error("ImageError", "'t2w' must show something.", "Traceback …\nline 2", "job-1", 0),
    job.Log("warning", "Schön langsam\u2028"),
    job.Bye("idle"),
)


def schema_validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(files("VFMTransferLib.worker").joinpath("job.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def changed(message=RUN, **changes) -> dict:
    """The document of a message with other values; a value `...` takes the key away."""
    document = {**json.loads(to_line(message)), **changes}
    return {key: value for key, value in document.items() if value is not ...}


@pytest.mark.parametrize("message", REQUESTS, ids=lambda m: type(m).__name__)
def test_requests_survive_the_line(message):
    assert read_request(to_line(message)) == message
    assert read_request(to_line(message).encode()) == message


@pytest.mark.parametrize("message", REPLIES, ids=lambda m: type(m).__name__)
def test_replies_survive_the_line(message):
    assert read_reply(to_line(message)) == message


def test_every_message_is_tried_here():
    assert {type(m) for m in REQUESTS} == set(job.REQUESTS.values()) == set(get_args(job.Request))
    assert {type(m) for m in REPLIES} == set(job.REPLIES.values()) == set(get_args(job.Reply))


@pytest.mark.parametrize("message", [*REQUESTS, *REPLIES], ids=lambda m: type(m).__name__)
def test_a_message_is_one_line_of_ascii_that_fits_the_schema(message):
    line = to_line(message)
    assert line.isascii()
    assert line.count("\n") == 1
    assert line.endswith("\n")
    schema_validator().validate(json.loads(line))


def test_fields_with_a_default_may_be_left_out():
    short = {"protocol": 3, "type": "run", "job": "j", "task": "anatomy-segmentation", "folder": "/f"}
    short |= {"images": {"t2w": {"file": "t2w.nrrd"}}, "bundles": ["b"]}
    schema_validator().validate(short)
    assert read_request(json.dumps(short)).options == Options()


@pytest.mark.parametrize("name", [*job.REQUESTS, *job.REPLIES])
def test_the_schema_has_the_fields_of_the_classes(name):
    described = schema_validator().schema["$defs"][name]
    of_class = fields({**job.REQUESTS, **job.REPLIES}[name])
    needed = [f.name for f in of_class if f.default is MISSING and f.default_factory is MISSING]
    assert list(described["properties"]) == ["protocol", "type", *(f.name for f in of_class)]
    assert described["required"] == ["protocol", "type", *needed]
    assert described["additionalProperties"] is False


NOT_A_RUN = {
    "unknown key": (changed(extra=1), r"'run' must hold only .*, but also holds 'extra'"),
    "missing key": (changed(folder=...), r"'run' must hold .*, but lacks folder"),
    "number for text": (changed(folder=3), r"'run.folder' must be text, got 3"),
    "text for number": (
        changed(options={"threshold": "0.5"}),
        r"'run.options.threshold' must be a finite number, got '0.5'",
    ),
    "boolean for number": (
        changed(options={"threshold": True}),
        r"'run.options.threshold' must be a finite number, got True",
    ),
    "no probability": (changed(options={"threshold": 5}), r"'run.options.threshold' must be 1 or less, got 5"),
    "negative probability": (
        changed(options={"threshold": -0.1}),
        r"threshold.*0 or more",
    ),
    "number for boolean": (changed(compare=1), r"'run.compare' must be true or false, got 1"),
    "text for list": (changed(bundles="first"), r"'run.bundles' must be a list, got 'first'"),
    "no network": (changed(bundles=[], compare=False), r"A run must name its bundles"),
    "no image": (changed(images={}), r"A run must name its images"),
    "unknown task": (changed(task="dance"), r"'run.task' must be one of anatomy-segmentation, .*, got 'dance'"),
    "unknown sequence": (changed(images={"dce": {"file": "x.nrrd"}}), r"'run.images' must be one of t2w, hbv, adc"),
    "unknown runtime": (
        changed(options={"runtime": "abacus"}),
        r"runtime.*abacus",
    ),
    "list for word": (changed(options={"runtime": ["onnx"]}), r"'run.options.runtime' must be one of"),
    "one arm to compare": (changed(bundles=["first"]), r"A run that compares must name two bundles"),
    "report of one arm": (changed(report=True, compare=False), r"A run that reports must compare two bundles"),
    "escape": (changed(gland={"file": "../gland.nrrd"}), r"An image must be named by a plain file name"),
    "parent": (changed(gland={"file": ".."}), r"An image must be named by a plain file name"),
    "other disk": (changed(gland={"file": "C:gland.nrrd"}), r"An image must be named by a plain file name"),
    "array without grid": (changed(gland={"file": "gland.npy"}), r"'gland.npy' must come with a grid"),
    "image with grid": (
        changed(gland={"file": "gland.nrrd", "grid": json.loads(to_line(RUN))["images"]["t2w"]["grid"]}),
        r"'gland.nrrd' must come with a grid if it is a .npy file, and only then",
    ),
    "short direction": (
        changed(gland={"file": "g.npy", "grid": {**changed()["images"]["t2w"]["grid"], "direction": [1.0, 0.0]}}),
        r"'run.gland.grid.direction' must be a list of 9",
    ),
}


@pytest.mark.parametrize(("document", "sentence"), NOT_A_RUN.values(), ids=NOT_A_RUN)
def test_what_is_no_run_is_refused_by_parser_and_schema(document, sentence):
    with pytest.raises(JobError, match=sentence):
        read_request(json.dumps(document))
    assert not schema_validator().is_valid(document)


@pytest.mark.parametrize("empty", ["job", "cases", "output", "bundles"])
def test_a_batch_must_name_all_that_it_needs(empty):
    document = changed(BATCH, **{empty: [] if empty == "bundles" else ""})
    with pytest.raises(JobError, match=f"A batch must name its {empty}, but leaves it empty"):
        read_request(json.dumps(document))
    assert not schema_validator().is_valid(document)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("garbage\n", "must be one line of JSON, got 'garbage'"),
        (b"\xff\xfe\x00\n", "must be one line of JSON"),
        ("[" * 100_000, "must be one line of JSON"),
        ("[1]\n", "must be an object with protocol and type"),
        ('{"type": "hello"}\n', "must be an object with protocol and type"),
        ('{"protocol": 9, "type": "hello"}', "must be of protocol 3, but is of 9. Update VFM Transfer"),
        ('{"protocol": "3", "type": "hello"}', "must be of protocol 3, but is of '3'"),
        ('{"protocol": true, "type": "hello"}', "must be of protocol 3, but is of True"),
        (
            '{"protocol": 3, "type": "dance"}',
            "must be one of hello, run, batch, load, cancel, ping, shutdown, got 'dance'",
        ),
        ('{"protocol": 3, "type": ["hello"]}', "must be one of hello"),
        ('{"protocol": 3, "type": "pong", "token": 1}', "must be one of hello"),
        ('{"protocol": 3, "type": "ping", "token": NaN}', "must be one line of JSON"),
        ('{"protocol": 3, "type": "ping", "token": 1.5}', "'ping.token' must be a whole number, got 1.5"),
    ],
)
def test_what_is_no_message_is_refused_in_a_sentence(line, sentence):
    with pytest.raises(JobError, match=re.escape(sentence)):
        read_request(line)


def test_numbers_beyond_all_bounds_are_refused():
    for number in ("1e999", "1" + "0" * 400):
        line = to_line(RUN).replace('"threshold": 0.25', f'"threshold": {number}')
        with pytest.raises(JobError):
            read_request(line)


def test_words_are_those_of_the_library():
    assert {f.name for f in fields(Grid)} == {f.name for f in fields(Geometry)}
    assert ExportedImage(Path("t2w.npy"), Geometry(GRID.size, GRID.spacing_mm, GRID.origin_mm, GRID.direction)).geometry


@pytest.mark.parametrize("module", ["messages", "process", "client", "server"])
def test_these_files_need_the_standard_library_only(module):
    code = f"import VFMTransferLib.worker.{module}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    others = {name for name in run.stdout.split() if not name.startswith(("_", "a1_", "distutils"))}
    assert others - {"VFMTransferLib", "sitecustomize"} <= sys.stdlib_module_names
