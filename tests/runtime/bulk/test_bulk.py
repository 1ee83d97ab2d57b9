"""A bulk run's files are those of ``run``, each picture once, whatever dies: with Ray once, else without it."""

import csv
import itertools
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, SourceError, UsageError
from e2e_deploy.runtime.bulk import bulk as bulk_module
from e2e_deploy.runtime.bulk import ledger as ledger_module
from e2e_deploy.runtime.bulk.cluster import Share
from e2e_deploy.runtime.bulk.engine_worker import EngineWorker
from e2e_deploy.runtime.bulk.parcel import from_orders
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.serial import DAMAGED, results_of, without_ray, write_pictures

COUNT = 30


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "in", COUNT)


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "depth")


@pytest.fixture
def of_run(pictures, bundle, tmp_path):
    """What ``run`` writes for the folder."""
    e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    return results_of(tmp_path / "ref")


def table_of(out):
    with (out / "_bulk" / "failed.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_two_workers_of_ray_write_what_run_writes(pictures, bundle, of_run, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "e2e_deploy", "bulk", str(pictures), "--bundle", str(bundle)]
    command += ["--out", str(out), "--workers", "2", "--cores", "1", "--shard", "4", "--json"]
    home = tmp_path / "home"
    surroundings = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_")
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=surroundings | {"HOME": str(home)},
    )
    assert done.returncode == 1, done.stderr  # as run, where pictures were left out
    assert not home.exists()  # Ray would keep a token there
    assert results_of(out) == of_run
    report = json.loads(done.stdout)
    counted = {name: report[name] for name in ("pictures", "written", "failures", "before")}
    assert counted == {"pictures": COUNT, "written": COUNT - 2, "failures": 2, "before": 0}
    assert report["workers"] == 2
    assert set(report["stage_seconds"]) == {"decode", "engine", "encode"}
    assert [int(row["index"]) for row in table_of(out)] == list(DAMAGED)
    assert "p003.png is not a picture" in done.stderr


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_and_several_bundles_in_one_pass(pictures, tmp_path, monkeypatch, batch):
    without_ray(monkeypatch)
    depth = write_plain_bundle(tmp_path / "depth", batch=batch)
    normals = write_plain_bundle(tmp_path / "normals", task="normals")
    e2e.bulk(pictures, [depth, normals], tmp_path / "out", shard=5)
    for bundle in (depth, normals):
        e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")


def test_several_results_of_one_bundle(pictures, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    both = write_plain_bundle(tmp_path / "both", task="geometry")
    e2e.bulk(pictures, both, tmp_path / "out")
    e2e.run(pictures, both, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")


def test_of_several_frame_sizes_the_one_that_run_takes(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    pictures = write_pictures(tmp_path / "in", 6, sizes=((48, 40), (24, 32)))
    (pictures / "a.png").write_bytes(b"the first is damaged")
    bundle = write_plain_bundle(tmp_path / "depth", sizes=((24, 32), (48, 40)))
    e2e.bulk(pictures, bundle, tmp_path / "out")
    e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")


def test_workers_get_whole_paths(pictures, bundle, of_run, tmp_path, monkeypatch):
    """On a cluster they are not where the run was begun."""
    seen = []

    def look(blocks):
        orders = [order for table in blocks for order in from_orders(table)]
        seen.extend(i.path for order in orders for parcel in order for i in parcel.items)
        return blocks

    without_ray(monkeypatch, order=look)
    writer = bulk_module.ShardWriter
    monkeypatch.setattr(
        bulk_module,
        "ShardWriter",
        lambda out, *given: seen.append(str(out.root)) or writer(out, *given),
    )
    monkeypatch.chdir(tmp_path)
    report = e2e.bulk(pictures.name, bundle.name, "out")
    assert results_of(tmp_path / "out") == of_run
    assert len(seen) == COUNT + 1
    assert all(Path(path).is_absolute() for path in seen)
    again = e2e.bulk(pictures, bundle, tmp_path / "out")
    assert again.before == report.finished


def test_pictures_in_folders_keep_them(pictures, bundle, of_run, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    write_pictures(pictures / "inner" / "most", 2)
    report = e2e.bulk(pictures, bundle, tmp_path / "out")
    found = results_of(tmp_path / "out")
    assert {n: d for n, d in found.items() if "/" not in n} == of_run
    inner = {n for n in found if "/" in n}
    assert inner == {f"inner/most/p00{i}_depth.{e}" for i in (0, 1) for e in ("png", "json")}
    assert report.pictures == COUNT + 2


class DeathError(Exception):
    """What stands for the end of the process."""


@pytest.mark.parametrize("alive", [0, 1, 4, 7])
def test_what_died_goes_on_and_every_picture_is_there_once(
    pictures, bundle, of_run, tmp_path, monkeypatch, alive
):
    out, begun = tmp_path / "out", []

    def die(parcel):
        if len(begun) == alive:
            raise DeathError
        begun.append(parcel.shard)

    without_ray(monkeypatch, before_write=die)
    with pytest.raises(E2EDeployError, match=r"DeathError; .* of 30 pictures are done"):
        e2e.bulk(pictures, bundle, out, shard=4)
    again = []
    without_ray(monkeypatch, before_write=lambda p: again.append(p.shard), order=reversed)
    report = e2e.bulk(pictures, bundle, out, shard=4)
    assert sorted(begun + again) == list(range(8)), "a shard that was done was done again"
    assert results_of(out) == of_run
    assert report.before == 4 * alive
    assert (report.finished, len(report.failures)) == (COUNT, len(DAMAGED))
    assert [int(row["index"]) for row in table_of(out)] == list(DAMAGED)


def test_without_the_last_of_the_ledger_its_shards_are_done_again(
    pictures, bundle, of_run, tmp_path, monkeypatch
):
    """A process that is killed between the files and the ledger."""
    without_ray(monkeypatch)
    monkeypatch.setattr(bulk_module, "COMMIT_SHARDS", 1)
    e2e.bulk(pictures, bundle, tmp_path / "out", shard=4)
    segments = sorted((tmp_path / "out" / "_bulk" / "ledger").iterdir())
    assert len(segments) == 8
    segments[-1].unlink()
    segments[-1].with_name(".000008.0a1b.json").write_text("{ half")
    report = e2e.bulk(pictures, bundle, tmp_path / "out", shard=4)
    assert (report.before, report.finished) == (28, COUNT)
    assert results_of(tmp_path / "out") == of_run


def test_a_finished_run_does_nothing(pictures, bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    first = e2e.bulk(pictures, bundle, tmp_path / "out")
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.png")}
    monkeypatch.setattr(bulk_module, "cluster", None)  # nothing is begun
    again = e2e.bulk(pictures, bundle, tmp_path / "out")
    assert (again.finished, again.before, again.written) == (COUNT, COUNT, first.written)
    assert {p: p.stat().st_mtime_ns for p in files} == files
    told = tmp_path / "out" / "_bulk" / "report.json"
    assert json.loads(told.read_text())["before"] == 0, "the report of the run that did it stays"
    told.unlink()  # it died before it was written
    e2e.bulk(pictures, bundle, tmp_path / "out")
    assert json.loads(told.read_text())["finished"] == COUNT


def test_a_report_of_an_earlier_run_does_not_stay(pictures, bundle, tmp_path, monkeypatch):
    """Interrupted, begun again, and killed when all was done and nothing told yet."""

    def interrupt(parcel):
        if parcel.shard == 1:
            raise KeyboardInterrupt

    without_ray(monkeypatch, before_write=interrupt)
    out = tmp_path / "out"
    e2e.bulk(pictures, bundle, out, shard=8)
    told = [(path, path.read_bytes()) for path in (out / "_bulk").glob("[rf]*.*")]
    without_ray(monkeypatch)
    e2e.bulk(pictures, bundle, out, shard=8)
    for path, data in told:
        path.write_bytes(data)
    assert len(table_of(out)) == 1
    e2e.bulk(pictures, bundle, out, shard=8)
    report = json.loads((out / "_bulk" / "report.json").read_text())
    assert (report["finished"], report["interrupted"]) == (COUNT, False)
    assert len(table_of(out)) == len(DAMAGED)


def test_workers_that_die_of_pictures_are_tried_apart(
    pictures, bundle, of_run, tmp_path, monkeypatch
):
    ray = pytest.importorskip("ray")
    tried = []
    without_ray(monkeypatch)
    results = bulk_module._results

    def dying(*given, tries_first):
        tried.append(tries_first)
        found = results(*given, tries_first=False)
        yield next(found)
        if not tries_first or always:
            raise ray.exceptions.WorkerCrashedError
        yield from found

    monkeypatch.setattr(bulk_module, "_results", dying)
    always = False
    report = e2e.bulk(pictures, bundle, tmp_path / "out", shard=4)
    assert tried == [False, True]
    assert report.finished == COUNT
    assert report.notes[-1] == bulk_module.DIED
    assert results_of(tmp_path / "out") == of_run
    always = True
    with pytest.raises(E2EDeployError, match=f"8 of {COUNT} pictures are done"):
        e2e.bulk(pictures, bundle, tmp_path / "again", shard=4)


def test_ctrl_c_keeps_what_was_done(pictures, bundle, tmp_path, monkeypatch):
    def interrupt(parcel):
        if parcel.shard == 2:
            raise KeyboardInterrupt

    without_ray(monkeypatch, before_write=interrupt)
    report = e2e.bulk(pictures, bundle, tmp_path / "out", shard=4)
    assert report.interrupted
    assert report.finished == 8
    assert not report.complete


def test_a_rerun_with_something_else_is_refused(pictures, bundle, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    out = tmp_path / "out"
    e2e.bulk(pictures, bundle, out)
    other = write_plain_bundle(tmp_path / "other", note="another")
    with pytest.raises(UsageError, match="begun with other bundles"):
        e2e.bulk(pictures, other, out)
    with pytest.raises(UsageError, match=r"begun with other settings: it was .*16.*, and is .*8"):
        e2e.bulk(pictures, bundle, out, shard=8)
    with pytest.raises(UsageError, match="begun with other settings"):
        e2e.bulk(pictures, bundle, out, backend="onnxruntime")
    (pictures / "p000.png").write_bytes(b"shorter")
    with pytest.raises(UsageError, match="begun with other inputs"):
        e2e.bulk(pictures, bundle, out)
    (pictures / "p999.png").write_bytes(b"one more")
    with pytest.raises(UsageError, match="begun with other pictures: it was 30, and is 31"):
        e2e.bulk(pictures, bundle, out)


def test_arguments_that_do_not_go_together(pictures, bundle, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="both give depth"):
        e2e.bulk(pictures, [bundle, bundle], out)
    with pytest.raises(UsageError, match="`bundles` names no bundle"):
        e2e.bulk(pictures, [], out)
    with pytest.raises(UsageError, match="lies in"):
        e2e.bulk(pictures, bundle, pictures / "results")
    with pytest.raises(UsageError, match="holds files that no bulk run wrote"):
        e2e.bulk(pictures, bundle, bundle)
    with pytest.raises(UsageError, match="`device` is 'cuda:1'"):
        e2e.bulk(pictures, bundle, out, device="cuda:1")
    with pytest.raises(UsageError, match="`shard` is 0"):
        e2e.bulk(pictures, bundle, out, shard=0)
    with pytest.raises(UsageError, match="`workers` is 0"):
        e2e.bulk(pictures, bundle, out, workers=0)
    with pytest.raises(SourceError, match="is missing"):
        e2e.bulk(tmp_path / "nothing", bundle, out)
    assert not out.exists()


def test_what_cannot_be_written_ends_the_run_in_a_sentence(
    pictures, bundle, of_run, tmp_path, monkeypatch
):
    without_ray(monkeypatch)
    out = tmp_path / "out"
    (out / "_bulk").mkdir(parents=True)
    (out / "p020_depth.png").mkdir()  # in the place of a result
    with pytest.raises(
        E2EDeployError, match=r"^[^:]*p020_depth.png could not be written.*; 16 of 30"
    ):
        e2e.bulk(pictures, bundle, out)
    (out / "p020_depth.png").rmdir()
    e2e.bulk(pictures, bundle, out)
    assert results_of(out) == of_run


def test_a_ledger_that_cannot_be_written_tells_what_is_done(
    pictures, bundle, of_run, tmp_path, monkeypatch
):
    """A full disk: results are there that the ledger does not name, and they are done again."""
    without_ray(monkeypatch)
    monkeypatch.setattr(bulk_module, "COMMIT_SHARDS", 2)
    store = ledger_module.Ledger._store

    def full(self, name, table):
        if not name.endswith(("plan.json", "000001.json")):
            raise E2EDeployError(f"{name} could not be written: No space left on device")
        store(self, name, table)

    with (
        monkeypatch.context() as patch,
        pytest.raises(E2EDeployError, match=r"^\S+json could .* device; 8 of 30 .* are done"),
    ):
        patch.setattr(ledger_module.Ledger, "_store", full)
        e2e.bulk(pictures, bundle, tmp_path / "out", shard=4)
    assert e2e.bulk(pictures, bundle, tmp_path / "out", shard=4).before == 8
    assert results_of(tmp_path / "out") == of_run


def test_too_narrow_a_picture_is_a_failure(pictures, bundle, tmp_path, monkeypatch):
    import cv2
    import numpy as np

    without_ray(monkeypatch)
    cv2.imwrite(str(pictures / "p004.png"), np.zeros((32, 4000, 3), np.uint8))
    report = e2e.bulk(pictures, bundle, tmp_path / "out")
    reasons = {failure.index: failure.reason for failure in report.failures}
    assert "too narrow" in reasons[4]
    e2e.run(pictures, bundle, out=tmp_path / "ref", formats="png16")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "ref")


def test_what_a_killed_worker_left_is_removed(pictures, bundle, of_run, tmp_path, monkeypatch):
    def leave(parcel):
        (tmp_path / "out" / f".p000_depth.0123456{parcel.shard}.png").write_bytes(b"half")

    without_ray(monkeypatch, before_write=leave)
    e2e.bulk(pictures, bundle, tmp_path / "out", shard=8)
    assert results_of(tmp_path / "out") == of_run


def test_shards_that_come_twice_count_once(pictures, bundle, of_run, tmp_path, monkeypatch):
    without_ray(monkeypatch, order=lambda blocks: blocks + blocks[:2])
    report = e2e.bulk(pictures, bundle, tmp_path / "out", shard=4)
    assert (report.written, len(report.failures)) == (COUNT - 2, 2)
    assert results_of(tmp_path / "out") == of_run


def test_the_report_and_the_ledger_follow_the_clock(pictures, bundle, tmp_path, monkeypatch):
    """A second for each of 8 shards: committed every two, and all of it is the run's time."""
    seconds = itertools.count()
    monkeypatch.setattr(bulk_module, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    without_ray(monkeypatch)
    seen, start = [], time.perf_counter()
    report = e2e.bulk(
        *(pictures, bundle, tmp_path / "out"),
        shard=4,
        on_progress=lambda r: seen.append((r.finished, r.written, r.seconds)),
    )
    took = time.perf_counter() - start
    assert seen[0] == (0, 0, 0)
    assert seen[1:3] == [(4, 3, 1), (8, 7, 2)]
    assert seen[-1] == (COUNT, COUNT - 2, 8)
    assert report.per_second == COUNT / 8
    segments = sorted((tmp_path / "out" / "_bulk" / "ledger").iterdir())
    assert len(segments) == 4
    shards = [shard for path in segments for shard in json.loads(path.read_text())["shards"]]
    for stage, total in report.stage_seconds.items():
        assert 0 < total < took
        assert total == pytest.approx(sum(shard["seconds"][stage] for shard in shards))


def test_a_list_whose_pictures_make_for_another_frame_size_is_refused(tmp_path, monkeypatch):
    """A list's digest is that of its paths; the size that its first picture asks for is a setting."""
    without_ray(monkeypatch)
    write_pictures(tmp_path / "in", 2, sizes=((48, 40),))
    write_pictures(tmp_path / "other", 2, sizes=((24, 32),))
    bundle = write_plain_bundle(tmp_path / "depth", sizes=((24, 32), (48, 40)))
    (tmp_path / "l.csv").write_text("path\nin/p000.png\nin/p001.png\n")
    e2e.bulk(tmp_path / "l.csv", bundle, tmp_path / "out")
    (tmp_path / "other" / "p000.png").replace(tmp_path / "in" / "p000.png")
    with pytest.raises(UsageError, match="begun with other settings"):
        e2e.bulk(tmp_path / "l.csv", bundle, tmp_path / "out")


def test_ray_is_asked_for_bounded_retries():
    class Data:
        """Ray's package of data and a data set of it: what the stages are begun with."""

        def __init__(self):
            self.stages = []
            self.from_arrow = lambda blocks: self
            self.iter_batches = lambda **given: []
            self.ActorPoolStrategy = dict

        def map_batches(self, function, **given):
            self.stages.append(given | given["ray_remote_args_fn"]())
            return self

    data = Data()
    engine = partial(EngineWorker, [], "auto", "cpu", 2)
    assert (
        list(
            bulk_module._results(
                data, iter([]), engine, lambda table: table, Share(3, 2, 0), tries_first=True
            )
        )
        == []
    )
    decode, engines, encode = data.stages
    assert decode["fn_kwargs"] == {"tries_first": True}
    assert 1 <= decode["max_retries"] <= 5
    assert 1 <= encode["max_retries"] <= 5
    assert 1 <= engines["max_restarts"] <= 20
    assert 1 <= engines["max_task_retries"] <= 5
    assert (engines["compute"], engines["num_cpus"], engines["num_gpus"]) == ({"size": 3}, 2, 0)
    assert engines["fn_constructor_args"] == engine.args
