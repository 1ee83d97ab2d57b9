"""The worker with the engines: what it tells of them, and engines that cannot be loaded."""

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.runtime.bulk import bulk as bulk_module
from e2e_deploy.runtime.bulk.cluster import Asked
from e2e_deploy.runtime.bulk.engine_worker import EngineOrder, EngineWorker
from e2e_deploy.runtime.bulk.parcel import Parcel, from_table, to_table
from e2e_deploy.runtime.bulk.report import BulkReport
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import without_ray, write_pictures


@pytest.fixture
def orders(tmp_path):
    bundles = {
        task: write_plain_bundle(tmp_path / task, task=task) for task in ("depth", "normals")
    }
    return [EngineOrder(str(bundle), (24, 32)) for bundle in bundles.values()]


def notes_of(worker, shard):
    """What a shard without pictures brings from a worker."""
    (parcel,) = from_table(worker(to_table([Parcel(shard)])))
    return parcel.notes


def test_a_worker_says_once_what_runs_each_bundle(orders):
    worker = EngineWorker(orders, "auto", "cpu", 1)
    told = notes_of(worker, 0)
    assert [note.partition(" (")[0] for note in told] == [
        "depth: onnxruntime",
        "normals: onnxruntime",
    ]
    assert all("(CPU, 1 threads; " in note for note in told)
    assert notes_of(worker, 1) == []


def test_workers_that_differ_are_two_notes_of_the_report(orders):
    report = BulkReport(4, "out")
    for shard, threads in enumerate((1, 2, 1)):
        worker = EngineWorker(orders[:1], "onnxruntime", "cpu", threads)
        bulk_module._count(report, [Parcel(shard, notes=notes_of(worker, shard))])
    assert report.notes == [f"depth: onnxruntime (CPU, {n} threads; named by you)" for n in (1, 2)]


def test_the_report_names_what_ran(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", 3)
    bundle = write_plain_bundle(tmp_path / "depth")
    report = e2e.bulk(pictures, bundle, tmp_path / "out", shard=1)
    assert [
        n for n in report.notes if n.startswith("depth: onnxruntime (CPU, 1 threads; ")
    ] == report.notes


@pytest.mark.parametrize(
    ("backend", "device", "threads", "error", "said"),
    [
        ("openvino", "cuda", None, UsageError, "openvino runs on CPUs, .* not on cuda"),
        ("tensorrt-rtx", "cpu", 2, UsageError, "runs on a GPU only, not on cpu"),
        ("onnxruntime", "cuda", None, UnavailableError, "onnxruntime on cuda was asked for"),
    ],
)
def test_an_engine_that_cannot_be_loaded_is_said_when_it_is_called(
    orders, monkeypatch, backend, device, threads, error, said
):
    """And not before: Ray keeps no error of what is made, only its traceback."""
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
    )
    if backend == "openvino":
        pytest.importorskip("openvino")
    worker = EngineWorker(orders, backend, device, threads)
    for _ in range(2):
        with pytest.raises(error, match=said):
            worker(to_table([Parcel(0)]))


def test_a_run_asks_with_all_that_the_user_said(tmp_path, monkeypatch):
    def refuse(address, asked):
        raise E2EDeployError(f"{address}: {asked}")

    monkeypatch.setattr(bulk_module, "cluster", refuse)
    pictures = write_pictures(tmp_path / "in", 1)
    bundle = write_plain_bundle(tmp_path / "depth")
    with pytest.raises(E2EDeployError) as caught:
        e2e.bulk(
            *(pictures, bundle, tmp_path / "out"),
            backend="openvino",
            device="cpu",
            workers=2,
            cores=3,
            address="auto",
        )
    assert str(caught.value) == f"auto: {Asked(2, 3, 'cpu', 'openvino')}"
