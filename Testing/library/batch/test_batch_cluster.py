"""A cohort on the workers of a cluster: the same results as in one process, kept, gone on with, and failures told."""

from __future__ import annotations

import csv
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from images import a_t2w, an_adc, an_hbv

from VFMTransferLib.batch.batch import run_batch
from VFMTransferLib.batch.cluster import run_batch_on_workers, worker_bytes
from VFMTransferLib.bundles.catalog import as_bundle
from VFMTransferLib.cli import main
from VFMTransferLib.core.cluster import workers
from VFMTransferLib.core.errors import ClusterError
from VFMTransferLib.io import write_volume


@pytest.fixture(scope="module")
def cluster():
    """A cluster on this machine, as a user finds one: by its address."""
    with workers(None, 2) as client:
        yield client


@pytest.fixture
def cohort(tmp_path) -> Path:
    folder = tmp_path / "cases"
    for seed, name in enumerate(("p001", "p002", "p003", "p004")):
        (folder / name).mkdir(parents=True)
        for volume in (a_t2w(seed), an_hbv(seed + 10), an_adc(seed + 20)):
            write_volume(volume, folder / name / f"{volume.name}.nii.gz")
    (folder / "p002" / "t2w.nii.gz").unlink()
    return folder


def table(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(encoding="utf-8", newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def test_a_cluster_gives_what_one_process_gives_and_goes_on(cluster, cohort, tiny_models, tmp_path, capsys):
    pair = [tiny_models / "tiny-pretrained", tiny_models / "tiny-scratch"]
    run_batch(cohort, tmp_path / "alone", pair)
    address, out = cluster.scheduler.address, tmp_path / "together"
    command = ["predict", "--cohort", str(cohort), "--scheduler", address, "-o", str(out), "--json"]
    for bundle in pair:
        command += ["--bundle", str(bundle)]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "1 of 4 cases failed" in told.err
    assert len(json.loads(told.out)["rows"]) == 8
    assert table(out) == table(tmp_path / "alone")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert len(before) == 6

    write_volume(a_t2w(1), cohort / "p002" / "t2w.nii.gz")
    reports = []
    run_batch_on_workers(cohort, out, pair, scheduler=address, on_case=reports.append)
    assert [(r.name, r.outcome) for r in reports] == [
        ("p001", "skipped"),
        ("p003", "skipped"),
        ("p004", "skipped"),
        ("p002", "done"),
    ]
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert {row["status"] for row in table(out)} == {"done"}


def test_a_worker_that_dies_loses_no_case(cluster, cohort, tiny_models, tmp_path):
    (cohort / "p002" / "t2w.nii.gz").write_bytes((cohort / "p001" / "t2w.nii.gz").read_bytes())
    victim = next(iter(cluster.run(os.getpid).values()))
    killed = []

    def kill(report) -> None:
        if not killed:
            os.kill(victim, 9)
            killed.append(report)

    bundle, address = tiny_models / "tiny-pretrained", cluster.scheduler.address
    rows = run_batch_on_workers(cohort, tmp_path / "out", [bundle], scheduler=address, on_case=kill)
    assert killed
    assert [row.status for row in rows] == ["done"] * 4


def test_workers_are_no_more_than_memory_holds_and_it_is_stated_before(cohort, tiny_models, tmp_path, monkeypatch):
    bundle = tiny_models / "tiny-pretrained"
    each = worker_bytes([as_bundle(bundle)])
    assert each > 2**28  # the process alone
    monkeypatch.setattr("VFMTransferLib.batch.cluster.available_bytes", lambda: 2 * each - 1)
    started, said = [], []

    @contextmanager
    def watched(scheduler, count):
        started.append((count, list(said)))
        with workers(scheduler, count) as client:
            yield client

    monkeypatch.setattr("VFMTransferLib.batch.cluster.workers", watched)
    rows = run_batch_on_workers(cohort, tmp_path / "out", [bundle], count=3, on_start=said.append)
    assert len(rows) == 4
    [(count, before)] = started
    assert count == 1
    assert before == [
        f"1 worker instead of 3, about {each / 2**30:.1f} GiB each; "
        f"{(2 * each - 1) / 2**30:.1f} GiB of memory are free."
    ]


def test_a_worker_keeps_to_one_thread_and_to_the_usual_allocator(cluster):
    """Dask's own setting of the allocator costs a third of the time of a case."""
    for environment in cluster.run(lambda: dict(os.environ)).values():
        assert environment["OMP_NUM_THREADS"] == "1"
        assert "MALLOC_TRIM_THRESHOLD_" not in environment


def test_workers_must_see_the_folders(cluster, cohort, tiny_models, tmp_path, monkeypatch):
    monkeypatch.setattr("VFMTransferLib.batch.cluster._sees", lambda case: False)
    with pytest.raises(ClusterError, match="must see cases, output and bundles"):
        run_batch_on_workers(
            cohort, tmp_path / "out", [tiny_models / "tiny-scratch"], scheduler=cluster.scheduler.address
        )


def test_workers_are_for_cohorts(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path), "--workers", "2", "--bundle", "b", "-o", str(tmp_path / "out")])
    assert "--workers and --scheduler need --cohort" in capsys.readouterr().err
