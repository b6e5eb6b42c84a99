"""The worker as a real child process: runs, stays warm, is canceled, dies, and is started anew."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from images import a_gland, a_t2w
from job_files import a_job, grid_of, hand_over

from VFMTransferLib.core import __version__
from VFMTransferLib.core.errors import JobError, WorkerError
from VFMTransferLib.core.options import Options
from VFMTransferLib.core.placement import REFERENCE_NOTE
from VFMTransferLib.core.terms import Sequence
from VFMTransferLib.core.volume import Geometry, Volume
from VFMTransferLib.inference.runtimes import LoadedNetworks
from VFMTransferLib.io import read_mask, write_volume
from VFMTransferLib.io.results import RESULT
from VFMTransferLib.worker.client import WorkerClient
from VFMTransferLib.worker.messages import (
    PROTOCOL,
    ArmResult,
    Batch,
    Bye,
    Cancel,
    Capabilities,
    CaseDone,
    Compared,
    Error,
    Finished,
    Hello,
    ImageFile,
    Load,
    Log,
    Ping,
    Pong,
    Progress,
    Ready,
    Run,
    read_reply,
    read_request,
    to_line,
)
from VFMTransferLib.worker.process import describe_end, end_process_trees, worker_command
from VFMTransferLib.worker.server import Server, describe_error

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
WAIT_S = 60  # far above what anything here takes, for machines that do much else
unix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and address limits are Unix's")


@pytest.fixture(scope="module")
def client():
    with WorkerClient(environment=ENVIRONMENT) as client:
        yield client


@pytest.fixture(scope="module")
def slow_models(tmp_path_factory) -> Path:
    """Two networks that go over the whole image, window by window: `slow-a` and `slow-b`."""
    pytest.importorskip("torch")
    import torch
    from bundles import tiny_anatomy

    from VFMTransferLib.bundles.bundle import Bundle, write_bundle
    from VFMTransferLib.bundles.onnx_export import export_onnx
    from VFMTransferLib.encoders import build_network

    folder = tmp_path_factory.mktemp("slow models")
    spec = tiny_anatomy()
    spec = replace(spec, preprocess=replace(spec.preprocess, whole_volume=True))
    for name in ("slow-a", "slow-b"):
        torch.manual_seed(0)
        weights = build_network(spec).state_dict()
        export_onnx(write_bundle(Bundle(folder / name, name, "A slow network", "1.0.0", spec), weights))
    return folder


def a_large_t2w() -> Volume:
    """An image of many windows."""
    noise = np.random.default_rng(0).normal(size=(24, 128, 120))
    return Volume((300 + 90 * noise).astype(np.int16), Geometry((120, 128, 24), (2.0, 2.0, 4.0)), "t2w")


def of(kind: type, replies: list) -> list:
    return [reply for reply in replies if isinstance(reply, kind)]


def start(*options: str, command: list[str] | None = None) -> subprocess.Popen:
    pipe = subprocess.PIPE
    command = command or worker_command(sys.executable, *options)
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT, cwd=ROOT)


def converse(process: subprocess.Popen, *lines: str) -> tuple[list, str]:
    """Every reply to some lines, after which stdin closes, and what came on stderr."""
    out, err = process.communicate("".join(lines).encode(), timeout=WAIT_S)
    return [read_reply(line) for line in out.splitlines()], err.decode()


def test_the_worker_says_what_it_is(client):
    ready = client.start()
    assert (ready.version, ready.capabilities.missing) == (__version__, ())
    assert "onnx" in ready.capabilities.runtimes
    assert "classification" in ready.capabilities.tasks


def test_both_arms_give_their_files_one_after_the_other(client, tiny_models, tmp_path):
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch", job="both")
    replies = list(client.run(run))
    assert replies[-1] == Finished("both", "done")
    results = of(ArmResult, replies)
    assert [(r.arm, r.bundle) for r in results] == [(0, "tiny-pretrained"), (1, "tiny-scratch")]
    for result in results:
        document = json.loads((tmp_path / result.folder / RESULT).read_text(encoding="utf-8"))
        assert (document["case"], document["model"]["bundle"]) == ("p001", result.bundle)
        assert all((tmp_path / result.folder / name).is_file() for name in document["files"])
    for arm in (0, 1):
        fractions = [p.fraction for p in of(Progress, replies) if p.arm == arm]
        assert fractions == sorted(fractions)
        assert fractions[-1] == pytest.approx(1)
    first_of_second = next(i for i, r in enumerate(replies) if isinstance(r, Progress) and r.arm == 1)
    assert replies.index(results[0]) < first_of_second


def test_networks_stay_loaded_between_jobs(client, tiny_models, tmp_path):
    folder = tmp_path / "Größe und Leerzeichen"
    folder.mkdir()
    process = client.start().process_id
    run = a_job(folder, tiny_models, "tiny-pretrained", "tiny-scratch")
    list(client.run(run))
    again = of(ArmResult, list(client.run(replace(run, job="again"))))
    assert [result.networks_loaded for result in again] == [0, 0]
    client.send(Ping(11))
    assert client.receive(WAIT_S) == Pong(11, ("tiny-pretrained", "tiny-scratch"))
    assert client.start().process_id == process


def loaded_networks(client: WorkerClient) -> tuple[str, ...]:
    client.send(Ping(12))
    return client.receive(WAIT_S).networks


def test_networks_are_loaded_before_the_job_that_needs_them(tiny_models, tmp_path):
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch")
    with WorkerClient(environment=ENVIRONMENT) as client:
        client.prepare(Load(run.bundles))
        ready = client.start()
        deadline = time.monotonic() + WAIT_S
        while len(loaded_networks(client)) < 2:
            assert time.monotonic() < deadline
        results = of(ArmResult, list(client.run(run)))
        assert [result.networks_loaded for result in results] == [0, 0]
        assert client.start() == ready


def test_what_cannot_be_loaded_ahead_is_reported_by_the_job_alone(tiny_models, tmp_path):
    run = replace(a_job(tmp_path, tiny_models, "tiny-pretrained"), bundles=("no-such-network",))
    with WorkerClient(environment=ENVIRONMENT) as client:
        client.prepare(Load(run.bundles))
        client.start()
        assert loaded_networks(client) == ()
        replies = list(client.run(run))
        assert [error.kind for error in of(Error, replies)] == ["BundleError"]
        assert replies[-1] == Finished("job", "failed")


def test_the_same_networks_are_asked_for_once_by_each_worker(tiny_models, tmp_path, monkeypatch):
    wanted = Load((str(tiny_models / "tiny-pretrained"),))
    with WorkerClient(environment=ENVIRONMENT) as client:
        sent, send = [], client.send
        monkeypatch.setattr(client, "send", lambda message: (sent.append(message), send(message)))
        for _ in range(2):
            client.prepare(wanted)
            client.prepare(wanted)
            client.start()
            client.close()
        assert sent == [Hello(), wanted, Hello(), wanted]


def test_a_python_that_does_not_start_is_tried_once_ahead_and_reported_by_the_job(tmp_path):
    with WorkerClient(python=str(tmp_path / "no-python")) as client:
        started, start_child = [], client._start_child
        client._start_child = lambda: (started.append(1), start_child())
        for _ in range(3):
            client.prepare(Load(("a-network",)))
            client.wait(lambda: False, 0.1)
        assert len(started) == 1
        with pytest.raises(WorkerError, match="must be a program that can be started"):
            client.start()


@pytest.mark.parametrize(("device", "keep_bytes"), [("tensorrt", 1 << 40), ("auto", 1)])
def test_what_takes_long_or_the_place_of_others_is_not_loaded_ahead(tiny_models, monkeypatch, device, keep_bytes):
    replies = []
    server = Server(replies.append, keep_bytes)
    opened = []
    monkeypatch.setattr(LoadedNetworks, "open", lambda *network, **how: opened.append(how))
    server._load(Load((str(tiny_models / "tiny-pretrained"),), device=device))
    assert opened == []


def test_nothing_is_loaded_ahead_where_a_job_waits(tiny_models):
    replies, wanted = [], Load((str(tiny_models / "tiny-pretrained"),))
    server = Server(replies.append, keep_bytes=1 << 40)
    server.receive([to_line(wanted).encode(), to_line(replace(wanted, device="cuda:99")).encode()])  # and the end
    server.run_jobs(WAIT_S)
    assert server._networks.loads == 0


def test_networks_are_let_go_when_memory_is_short(tiny_models, tmp_path):
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-pretrained")
    with WorkerClient(options=["--keep-gb", "0.001"], environment=ENVIRONMENT) as bounded:
        assert [result.networks_loaded for result in of(ArmResult, list(bounded.run(run)))] == [1, 0]
        bounded.send(Ping(1))
        assert bounded.receive(WAIT_S) == Pong(1, ())


def test_two_arms_are_compared_with_each_other_and_with_a_reference(client, tiny_models, tmp_path):
    reference = hand_over(tmp_path, a_gland())
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch", compare=True, reference=reference)
    replies = list(client.run(run))
    assert replies[-1] == Finished("job", "done"), of(Error, replies)
    (compared,) = of(Compared, replies)
    document = json.loads((tmp_path / compared.file).read_text(encoding="utf-8"))
    assert (document["a"]["bundle"], document["b"]["bundle"]) == ("tiny-pretrained", "tiny-scratch")
    assert document["has_reference"]


def test_a_region_bounds_both_arms_and_the_reference(client, tiny_models, tmp_path):
    gland = a_gland()
    mask = np.zeros_like(gland.array)
    mask[2:4, 4:10, 6:12] = 1
    about = {
        "roi": hand_over(tmp_path, Volume(mask, gland.geometry, "roi")),
        "reference": hand_over(tmp_path, gland),
    }
    run = a_job(
        tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch", compare=True, options=Options(threshold=0.0), **about
    )
    replies = list(client.run(run))
    assert replies[-1] == Finished("job", "done"), of(Error, replies)
    for result in of(ArmResult, replies):
        labels = read_mask(tmp_path / result.folder / "labels.nii.gz").array
        assert labels[mask > 0].any()
        assert not labels[mask == 0].any()
    document = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert asdict(REFERENCE_NOTE) in document["notes"]
    dice = [m["value"] for m in document["measures"] if m["measure"] == "dice" and "reference" in m["between"]]
    assert dice == pytest.approx([2 * 40 / (72 + 40)] * 2)  # both arms mark all 72 voxels; 40 of them are gland


def test_a_region_outside_of_the_images_is_one_sentence(client, tiny_models, tmp_path):
    gland = a_gland()
    far = replace(gland.geometry, origin_mm=(900.0, 0.0, 0.0))
    roi = hand_over(tmp_path, Volume(gland.array, far, "roi"))
    (error,) = of(Error, list(client.run(a_job(tmp_path, tiny_models, "tiny-scratch", roi=roi))))
    assert (error.kind, error.arm) == ("ImageError", 0)
    assert error.sentence.startswith("The region of interest must lie inside the images")


def test_a_report_comes_with_the_numbers(client, tiny_models, tmp_path):
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch", compare=True, report=True)
    replies = list(client.run(run))
    assert replies[-1] == Finished("job", "done"), of(Error, replies)
    assert of(Progress, replies)[-1].stage == "report"
    assert of(Compared, replies) == [Compared("job", "comparison.json", "report")]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "tiny-scratch" in page
    assert str(tmp_path) not in page


def test_a_report_that_fails_leaves_the_arms_and_the_numbers(client, tiny_models, tmp_path):
    (tmp_path / "report").write_text("in the way")
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch", compare=True, report=True)
    replies = list(client.run(run))
    assert [type(reply) for reply in replies[-3:]] == [Compared, Error, Finished]
    assert replies[-3] == Compared("job", "comparison.json", None)
    assert (replies[-2].kind, replies[-1].outcome) == ("OutputError", "failed")
    assert [result.arm for result in of(ArmResult, replies)] == [0, 1]
    assert all((tmp_path / result.folder / RESULT).is_file() for result in of(ArmResult, replies))
    assert (tmp_path / "comparison.json").is_file()


def test_a_reference_for_a_single_arm_is_said_to_be_unused(client, tiny_models, tmp_path):
    run = a_job(tmp_path, tiny_models, "tiny-scratch", reference=hand_over(tmp_path, a_gland()))
    replies = list(client.run(run))
    (log,) = of(Log, replies)
    assert (log.level, log.text[:30]) == ("warning", "The reference was not used, si")
    assert replies[-1] == Finished("job", "done")


def a_cohort(folder: Path, *names: str) -> Path:
    """A folder of cases, each a T2w; one named `empty` has none."""
    for seed, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        if name != "empty":
            write_volume(a_t2w(seed), folder / name / "t2w.nii.gz")
    return folder


def a_batch(cohort: Path, output: Path, models: Path, *names: str, **about) -> Batch:
    fields = {"job": "batch", "task": "anatomy-segmentation", **about}
    return Batch(cases=str(cohort), output=str(output), bundles=tuple(str(models / name) for name in names), **fields)


def test_a_batch_tells_of_each_case_and_names_none_in_the_log(client, tiny_models, tmp_path):
    cohort = a_cohort(tmp_path / "cases", "empty", "p001", "p002")
    replies = list(client.run(a_batch(cohort, tmp_path / "out", tiny_models, "tiny-pretrained", "tiny-scratch")))
    done = of(CaseDone, replies)
    assert [(c.name, c.case, c.cases, c.outcome) for c in done] == [
        ("empty", 0, 3, "failed"),
        ("p001", 1, 3, "done"),
        ("p002", 2, 3, "done"),
    ]
    assert "none was recognized" in done[0].sentence
    (error,) = of(Error, replies)
    assert (error.kind, error.sentence[:20]) == ("BatchError", "1 of 3 cases failed;")
    assert "empty" not in error.sentence + error.details
    assert replies[-1] == Finished("batch", "failed")
    assert {(p.case, p.cases) for p in of(Progress, replies)} == {(0, 3), (1, 3), (2, 3)}
    assert of(Log, replies) == []
    assert "p001" not in client.details
    again = list(client.run(a_batch(cohort, tmp_path / "out", tiny_models, "tiny-pretrained", "tiny-scratch")))
    assert [c.outcome for c in of(CaseDone, again)] == ["failed", "skipped", "skipped"]


def test_a_batch_that_is_canceled_keeps_its_cases_and_goes_on(client, slow_models, tmp_path):
    cohort = a_cohort(tmp_path / "cases", "p001", "p002")
    write_volume(a_large_t2w(), cohort / "p002" / "t2w.nii.gz")
    batch = a_batch(cohort, tmp_path / "out", slow_models, "slow-a")
    replies = []
    for reply in client.run(batch):
        replies.append(reply)
        if isinstance(reply, Progress) and (reply.case, reply.stage) == (1, "infer"):
            client.cancel("batch", within_s=WAIT_S)
    assert replies[-1] == Finished("batch", "canceled")
    assert [c.name for c in of(CaseDone, replies)] == ["p001"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p001", "summary.csv"]
    write_volume(a_t2w(), cohort / "p002" / "t2w.nii.gz")
    again = list(client.run(batch))
    assert [c.outcome for c in of(CaseDone, again)] == ["skipped", "done"]
    assert again[-1] == Finished("batch", "done")


def test_a_batch_whose_folders_are_not_named_whole_is_refused(client, tiny_models, tmp_path):
    batch = replace(a_batch(tmp_path, tmp_path / "out", tiny_models, "tiny-scratch"), output="out")
    (error,) = of(Error, list(client.run(batch)))
    assert error.sentence.startswith("The folders of a batch must be named absolutely")


def test_what_a_user_can_mend_comes_as_its_sentence(client, tiny_models, tmp_path):
    unknown = list(client.run(a_job(tmp_path, tiny_models, "no-such-bundle")))
    (error,) = of(Error, unknown)
    assert (error.kind, error.job, error.arm) == ("BundleError", "job", None)
    assert "not a bundle" in error.sentence
    assert str(tiny_models) not in error.sentence
    assert "Traceback" in error.details
    assert unknown[-1] == Finished("job", "failed")
    wrong = list(client.run(a_job(tmp_path, tiny_models, "tiny-scratch", task="super-resolution")))
    assert "must be for task super-resolution" in of(Error, wrong)[0].sentence


def test_garbage_and_wrong_protocols_are_errors_and_the_worker_goes_on():
    wrong = to_line(Hello()).replace(f'"protocol": {PROTOCOL}', '"protocol": 99')
    replies, _ = converse(start(), "garbage\n", "\n", wrong, "x" * 3_000_000 + "\n", to_line(Hello()))
    errors = of(Error, replies)
    assert "must be one line of JSON, got 'garbage'" in errors[0].sentence
    assert "is of 99" in errors[1].sentence
    assert {(e.kind, e.job) for e in errors} == {("JobError", None)}
    assert [type(reply) for reply in replies[-2:]] == [Ready, Bye]


def test_cancel_keeps_the_arm_that_is_finished(client, slow_models, tmp_path):
    run = a_job(tmp_path, slow_models, "slow-a", "slow-b", t2w=a_large_t2w())
    process = client.start().process_id
    replies = []
    for reply in client.run(run):
        replies.append(reply)
        if isinstance(reply, Progress) and (reply.arm, reply.stage) == (1, "infer"):
            client.cancel("job", within_s=WAIT_S)
            break
    asked = time.monotonic()
    while not isinstance(reply, Finished):
        reply = client.receive(WAIT_S)
        replies.append(reply)
    assert reply == Finished("job", "canceled")
    assert time.monotonic() - asked < WAIT_S / 2
    assert [result.arm for result in of(ArmResult, replies)] == [0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-slow-a", "t2w.npy"]
    assert client.start().process_id == process


def test_a_ping_is_answered_while_a_network_runs(client, slow_models, tmp_path):
    others, is_asked = [], False
    for reply in client.run(a_job(tmp_path, slow_models, "slow-a", t2w=a_large_t2w())):
        if not isinstance(reply, Progress):
            others.append(reply)
        elif reply.stage == "infer" and not is_asked:
            client.send(Ping(5))
            is_asked = True
        if isinstance(reply, Pong):
            client.cancel("job", within_s=WAIT_S)
    assert [type(reply) for reply in others] == [Pong, Finished]
    assert (others[0].token, others[0].networks[-1], others[1].outcome) == (5, "slow-a", "canceled")


@unix_only
def test_cancel_that_is_not_answered_ends_the_worker_and_the_next_run_starts_one(slow_models, tiny_models, tmp_path):
    with WorkerClient(environment=ENVIRONMENT) as stubborn:
        process = stubborn.start().process_id
        replies = []
        for reply in stubborn.run(a_job(tmp_path, slow_models, "slow-a", t2w=a_large_t2w())):
            if isinstance(reply, Progress) and reply.stage == "infer" and not replies:
                os.kill(process, signal.SIGSTOP)  # as a window that takes for ever
                stubborn.cancel("job", within_s=0.2)
                replies.append(reply)
            elif not isinstance(reply, Progress):
                replies.append(reply)
        assert replies[1:] == [Finished("job", "canceled")]
        assert list(stubborn.run(a_job(tmp_path, tiny_models, "tiny-scratch")))[-1] == Finished("job", "done")
        assert stubborn.start().process_id != process


@unix_only
def test_a_cancel_in_a_long_window_keeps_the_finished_arm_and_the_next_run_loads_again(
    tiny_models, slow_models, tmp_path
):
    run = a_job(tmp_path, tiny_models, "tiny-scratch", t2w=a_large_t2w())
    run = replace(run, bundles=(*run.bundles, str(slow_models / "slow-a")))
    with WorkerClient(environment=ENVIRONMENT) as stubborn:
        process, replies, is_asked = stubborn.start().process_id, [], False
        for reply in stubborn.run(run):
            replies.append(reply)
            if isinstance(reply, Progress) and (reply.arm, reply.stage) == (1, "infer") and not is_asked:
                os.kill(process, signal.SIGSTOP)  # as a window that takes for ever
                stubborn.cancel("job", within_s=0.2)
                is_asked = True
        assert of(ArmResult, replies) == [ArmResult("job", 0, "tiny-scratch", "0-tiny-scratch", 1)]
        assert replies[-1] == Finished("job", "canceled")
        document = json.loads((tmp_path / "0-tiny-scratch" / RESULT).read_text(encoding="utf-8"))
        assert all((tmp_path / "0-tiny-scratch" / name).is_file() for name in document["files"])
        again = list(stubborn.run(a_job(tmp_path, tiny_models, "tiny-scratch")))
        assert [result.networks_loaded for result in of(ArmResult, again)] == [1]


class AnsweringTransport:
    """A worker that begins each run and, unless it is canceled, never ends one; its timers run when they are told."""

    is_blocking = True
    process_id = 1

    def __init__(self) -> None:
        self.waiting: list = []
        self.timers: list = []
        self.is_killed = False

    def start(self, command, on_output, on_error, on_end):
        self.on_output = on_output
        return self

    def write(self, line: bytes) -> None:
        request = read_request(line)
        if isinstance(request, Hello):
            self.waiting.append(Ready("0", "3", 1, Capabilities((), (), ())))
        elif isinstance(request, Run):
            self.waiting.append(Progress(request.job, 0, "tiny", "infer", 0.1))
        elif isinstance(request, Cancel):
            self.waiting.append(Finished(request.job, "canceled"))

    def wait(self, seconds: float) -> None:
        while self.waiting:
            self.on_output(to_line(self.waiting.pop(0)).encode())

    def call_later(self, seconds: float, step) -> None:
        self.timers.append(step)

    def kill(self, process_id: int) -> None:
        self.is_killed = True

    def close_input(self) -> None:
        pass

    def wait_for_end(self, seconds: float) -> bool:
        return True


@unix_only
def test_a_killed_worker_is_one_sentence_and_the_next_run_starts_one(slow_models, tiny_models, tmp_path):
    with WorkerClient(environment=ENVIRONMENT) as mortal:
        process = mortal.start().process_id
        others = []
        for reply in mortal.run(a_job(tmp_path, slow_models, "slow-a", t2w=a_large_t2w())):
            if not isinstance(reply, Progress):
                others.append(reply)
            elif reply.stage == "infer":
                os.kill(process, signal.SIGKILL)
        assert [type(reply) for reply in others] == [Error, Finished]
        assert others[0].kind == "WorkerError"
        assert others[0].sentence.startswith("The worker was killed: most likely out of memory.")
        assert others[1] == Finished("job", "failed")
        assert list(mortal.run(a_job(tmp_path, tiny_models, "tiny-scratch")))[-1] == Finished("job", "done")
        assert mortal.start().process_id != process


def test_the_worker_ends_when_stdin_closes():
    replies, _ = converse(process := start(), to_line(Hello()))
    assert replies[-1] == Bye("stdin closed")
    assert process.returncode == 0


def test_a_worker_that_still_imports_when_stdin_closes_says_goodbye(tmp_path):
    (tmp_path / "onnxruntime.py").write_text("import time\ntime.sleep(60)\n")
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "VFMTransferLib.worker"]
    run = subprocess.run(command, input="", env=environment, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S)
    assert (run.returncode, [read_reply(line) for line in run.stdout.splitlines()]) == (0, [Bye("stdin closed")])


def test_the_worker_ends_in_the_middle_of_a_job_when_its_parent_dies(slow_models, tmp_path):
    process = start()
    process.stdin.write(to_line(a_job(tmp_path, slow_models, "slow-a", "slow-b", t2w=a_large_t2w())).encode())
    process.stdin.flush()
    is_running = False
    while not is_running:
        reply = read_reply(process.stdout.readline())  # a line that is no message, as at the end, raises
        assert not isinstance(reply, Error), reply.details
        is_running = isinstance(reply, Progress) and reply.stage == "infer"
    replies, _ = converse(process)
    assert process.returncode == 0
    assert of(ArmResult, replies) == []
    assert [path.name for path in tmp_path.iterdir()] == ["t2w.npy"]


def test_the_worker_runs_as_a_module_too():
    replies, _ = converse(start(command=[sys.executable, "-m", "VFMTransferLib.worker"]), to_line(Hello()))
    assert [type(reply) for reply in replies] == [Ready, Bye]


def test_what_every_job_needs_is_loaded_before_the_first_one():
    code = (
        "import sys\nfrom VFMTransferLib.worker.server import Server\n"
        "server = Server(print, 0)\nserver.receive([])\nserver.run_jobs(1.0)\n"
        "print({'VFMTransferLib.worker.jobs', 'onnxruntime'} <= set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "True"


def test_a_worker_without_work_leaves_and_the_next_run_starts_one(tiny_models, tmp_path):
    with WorkerClient(options=["--idle-s", "0.2"], environment=ENVIRONMENT) as idle:
        first = idle.start().process_id
        assert idle.receive(WAIT_S) == Bye("idle")
        replies = list(idle.run(a_job(tmp_path, tiny_models, "tiny-scratch")))
        assert replies[-1] == Finished("job", "done")
        assert idle.start().process_id != first


def test_only_messages_reach_stdout_whatever_libraries_print():
    noisy = (
        "import ctypes, os, sys\n"
        "from VFMTransferLib.worker import __main__ as worker, server as serving\n"
        "quiet = serving.capabilities\n"
        "def noisy():\n"
        "    native = ctypes.CDLL(None) if sys.platform != 'win32' else ctypes.cdll.msvcrt\n"
        "    native.puts(b'native noise')\n"
        "    native.fflush(None)\n"
        "    print('python noise', flush=True)\n"
        "    os.system('echo child noise')\n"
        "    return quiet()\n"
        "serving.capabilities = noisy\n"
        "sys.exit(worker.main([]))"
    )
    replies, stderr = converse(start(command=[sys.executable, "-c", noisy]), to_line(Hello()))
    assert [type(reply) for reply in replies] == [Ready, Bye]
    assert {"native noise", "python noise", "child noise"} <= set(stderr.splitlines())


def test_no_home_no_temporary_folder_no_network_and_strange_names_are_no_hindrance(tiny_models, tmp_path):
    folder = tmp_path / "Größe & Übergabe (1)"
    models, cohort = folder / "Netze für  alle", a_cohort(folder / "Fälle", "Ö Ä")
    shutil.copytree(tiny_models, models)
    (folder / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*about):\n"
        "    raise OSError('no network here')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
    )
    nowhere = {"HOME": str(folder / "no home"), "TMPDIR": str(folder / "no place"), "LC_ALL": "C"}
    run = a_job(folder, models, "tiny-pretrained", "tiny-scratch", compare=True, report=True)
    with WorkerClient(environment={**ENVIRONMENT, **nowhere, "PYTHONPATH": str(folder)}) as cut_off:
        replies = list(cut_off.run(run))
        assert replies[-1] == Finished("job", "done"), of(Error, replies)
        batch = list(cut_off.run(a_batch(cohort, folder / "Aus gabe ß", models, "tiny-scratch")))
        assert batch[-1] == Finished("batch", "done"), of(Error, batch)
    assert (folder / "Aus gabe ß" / "Ö Ä" / "tiny-scratch" / RESULT).is_file()


def test_a_job_needs_no_package_but_the_four(tiny_models, tmp_path):
    others = ("torch", "monai", "onnx", "safetensors", "jsonschema", "rich", "PIL", "psutil", "pydicom")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({others!r}))\n")
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch", compare=True)
    with WorkerClient(environment={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}) as lean:
        assert lean.start().capabilities.runtimes == ("onnx",)
        replies = list(lean.run(run))
    assert replies[-1] == Finished("job", "done"), of(Error, replies)


def test_a_report_without_pillow_leaves_all_else(tiny_models, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['PIL'] = None\n")
    run = a_job(tmp_path, tiny_models, "tiny-pretrained", "tiny-scratch", compare=True, report=True)
    with WorkerClient(environment={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}) as lacking:
        replies = list(lacking.run(run))
    assert [type(reply) for reply in replies[-3:]] == [Compared, Error, Finished]
    assert "must have the package pillow, but lacks it" in replies[-2].sentence
    assert [result.arm for result in of(ArmResult, replies)] == [0, 1]


def test_a_missing_package_is_named(tiny_models, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['SimpleITK'] = None\n")
    with WorkerClient(environment={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}) as lacking:
        assert lacking.start().capabilities.missing == ("SimpleITK",)
        (error,) = of(Error, list(lacking.run(a_job(tmp_path, tiny_models, "tiny-scratch"))))
    assert error.kind == "RuntimeUnavailableError"
    assert "must have the package SimpleITK, but lacks it" in error.sentence


def test_a_job_beyond_the_memory_bound_fails_and_the_worker_goes_on(tiny_models, tmp_path):
    geometry = Geometry((1000, 1000, 2000), (0.2, 0.2, 0.2))
    large = tmp_path / "large.npy"
    np.lib.format.open_memmap(large, "w+", np.int16, geometry.shape)  # 4 GB, of which the disk holds nothing
    run = a_job(tmp_path, tiny_models, "tiny-scratch")
    with WorkerClient(options=["--memory-gb", "3"], environment=ENVIRONMENT) as bounded:
        process = bounded.start().process_id
        images = {Sequence.T2W: ImageFile(large.name, grid_of(geometry))}
        (error,) = of(Error, list(bounded.run(replace(run, images=images))))
        assert error.kind == "OutOfMemoryError"
        assert list(bounded.run(run))[-1] == Finished("job", "done")
        assert bounded.start().process_id == process


def test_a_library_whose_code_does_not_fit_is_lack_of_memory():
    error = describe_error(ImportError("x.so: failed to map segment from shared object"), "job", None)
    assert error.kind == "OutOfMemoryError"
    assert error.sentence.startswith("The memory must hold")


def test_a_job_that_waits_can_be_canceled_and_a_name_in_use_is_refused(client, slow_models, tiny_models, tmp_path):
    (tmp_path / "second").mkdir()
    slow = a_job(tmp_path, slow_models, "slow-a", t2w=a_large_t2w(), job="slow")
    waiting = a_job(tmp_path / "second", tiny_models, "tiny-scratch", job="waiting")
    client.start()
    for request in (slow, waiting, waiting, Cancel("waiting"), Cancel("slow"), Cancel("unknown")):
        client.send(request)
    replies = []
    while len(of(Finished, replies)) < 2:
        replies.append(client.receive(WAIT_S))
    assert of(Finished, replies) == [Finished("slow", "canceled"), Finished("waiting", "canceled")]
    assert "'waiting' is not finished" in of(Error, replies)[0].sentence


def test_a_python_that_cannot_start_is_a_sentence(tmp_path):
    with pytest.raises(WorkerError, match="The worker's Python must be a program that can be started"):
        WorkerClient(python=str(tmp_path / "no-python")).start()


@unix_only
def test_a_worker_of_another_protocol_is_refused_at_the_start(tmp_path):
    foreign = tmp_path / "python"
    foreign.write_text('#!/bin/sh\nread line\necho \'{"protocol": 99, "type": "ready"}\'\nread line\n')
    foreign.chmod(0o755)
    with pytest.raises(JobError, match="protocol"):
        WorkerClient(python=str(foreign)).start()


@unix_only
@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (-signal.SIGKILL, "most likely out of memory"),
        (128 + signal.SIGKILL, "most likely out of memory"),
        (-signal.SIGSEGV, "crashed (SIGSEGV)"),
        (-signal.SIGTERM, "ended from outside (SIGTERM)"),
        (3, "stopped with exit code 3"),
        (0xC0000005, "crashed (access violation)"),
        (-1073741819, "crashed (access violation)"),
        (0xC0000017, "most likely out of memory"),
    ],
)
def test_how_a_worker_ended_is_one_sentence(exit_code, words):
    assert words in describe_end(exit_code)


@unix_only
def test_ending_a_process_tree_ends_grandchildren_too():
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    grandchild = int(parent.stdout.readline())
    end_process_trees(parent.pid, 0)
    assert parent.wait(WAIT_S) == -signal.SIGKILL
    assert parent.stdout.read() == b""  # the grandchild held it open
    end_process_trees(grandchild)
    parent.stdout.close()
