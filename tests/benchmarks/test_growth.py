"""The model of bulk's growth: numbers by hand, what bounds what, and the page that quotes it."""

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.growth import bulk, runs
from benchmarks.growth.model import Costs, Place, limits, rate, saturation
from benchmarks.growth.plot import log_log

ROOT = Path(__file__).parents[2]
COSTS = Costs(
    decode_s=0.01,
    engine_s=0.1,
    encode_s=0.03,
    cpu_s=0.15,
    beside=1.25,
    driver_s=0.008,
    driver_worker_s=0.0001,
    ray_s=0.02,
    ledger_s=0.0002,
    read_mb=0.5,
    written_mb=1.5,
    files=2,
    moved_mb=4.0,
)
PLACE = Place(8, 16, 4, network_mb_s=100, storage_mb_s=500, storage_files_s=1000)


def test_each_part_by_hand():
    one = limits(COSTS, PLACE, 1, 16)
    assert one["engines"] == 10
    assert one["decode, encode"] == pytest.approx(4 / 0.04)
    assert one["cores"] == pytest.approx(16 / (0.15 + (0.0081 + 0.02 + 0.0002) / 16))
    assert one["network"] == pytest.approx(100 / 1.5)  # everything else is on one machine
    assert (one["storage"], one["files"]) == (250, 500)
    assert one["driver"] == pytest.approx(16 / 0.0081)
    assert one["ledger"] == pytest.approx(16 / 0.0002)
    many = limits(COSTS, PLACE, 20, 16)  # three machines
    assert many["engines"] == pytest.approx(200 / 1.25)
    assert many["decode, encode"] == pytest.approx(12 / 0.04)
    assert many["cores"] == pytest.approx(48 / (0.1875 + (0.01 + 0.02 + 0.0002) / 16))
    assert many["network"] == pytest.approx(300 / (1.5 + 4 * 2 / 3))
    assert many["driver"] == pytest.approx(16 / 0.01)
    assert (many["storage"], many["files"]) == (250, 500)


def test_the_least_part_bounds_and_its_share_of_a_shard_counts():
    assert rate(COSTS, PLACE, 1, 16) == (10, "engines")
    assert rate(COSTS, PLACE, 400, 16)[1] == "storage"
    fast = replace(PLACE, storage_mb_s=math.inf, storage_files_s=math.inf, network_mb_s=math.inf)
    assert rate(COSTS, fast, 400, 1)[1] == "driver"
    assert rate(COSTS, fast, 400, 1)[0] == pytest.approx(1 / 0.048)
    assert rate(COSTS, fast, 400, 64)[0] > 20 * rate(COSTS, fast, 400, 1)[0]


def test_where_engines_no_longer_bound():
    number, part = saturation(COSTS, PLACE, 16)
    assert rate(COSTS, PLACE, number - 1, 16)[1] == "engines"
    assert rate(COSTS, PLACE, number, 16)[1] == part != "engines"
    idle = replace(COSTS, decode_s=0, encode_s=1e-9, cpu_s=0, driver_s=0, driver_worker_s=1e-9)
    free = Place(8, 16, 4)
    assert saturation(idle, free, 16, most=50) == (50, "engines")


def test_costs_of_shards_from_runs_that_do_nothing():
    def pace(workers):
        return runs.Pace(200, 4.0, 200 * (0.005 + 0.0003 * workers), 200 * 0.02, {})

    found = bulk.shard_costs({count: pace(count) for count in (1, 4, 8)})
    assert found["driver_s"] == pytest.approx(0.005)
    assert found["driver_worker_s"] == pytest.approx(0.0003)
    assert found["ray_s"] == pytest.approx(0.02)
    falling = {1: runs.Pace(10, 1.0, 0.5, 1, {}), 4: runs.Pace(10, 1.0, 0.2, 1, {})}
    assert bulk.shard_costs(falling)["driver_worker_s"] == 0


def test_what_is_foretold_grows_until_it_is_bounded(tmp_path):
    storage = {"storage_mb_s": 500.0, "storage_files_s": 1000.0, "network_mb_s": 1000.0}
    rows = bulk.foretell(COSTS, storage)
    assert len(rows) == len(bulk.CLUSTERS) * len(bulk.SHARDS) * len(bulk.WORKERS)
    gpus = [row for row in rows if (row["cluster"], row["shard"]) == ("GPUs", 16)]
    assert 20 < gpus[0]["per_second"] < 50  # an H200's 30 ms
    assert gpus[-1]["bound_by"] != "engines"
    assert gpus[-1]["per_second"] < 0.9 * gpus[-1]["limits"]["engines"]
    drawing = ElementTree.fromstring(bulk.drawn({"rows": rows}))
    assert len(drawing.findall("{*}path")) > 12


def test_a_plot_has_its_points_where_they_belong():
    svg = log_log([("a & b", [(1, 1), (10, 100), (100, 100)], False)], "x", "y")
    root = ElementTree.fromstring(svg)
    line = next(p for p in root.findall("{*}path") if p.get("stroke-width") == "2")
    assert line.get("d") == "M70.0 370.0L300.0 20.0L530.0 20.0"
    assert "a & b" in [text.text for text in root.findall("{*}text")]


def test_the_whole_of_it_with_runs_that_keep_to_the_model(tmp_path, monkeypatch):
    """Runs of 10 ms in the driver and 30 in Ray a shard, and 0.1 s an engine and 0.05 s beside it a picture."""

    def run(folder, out, *, workers, shard, cores=1):
        out.mkdir()
        pictures = sorted(folder.iterdir())
        idle = pictures[0].stat().st_size == 0
        for path in () if idle else pictures:
            (out / f"{path.stem}_depth.png").write_bytes(b"x" * 1_000_000)
            (out / f"{path.stem}_depth.json").write_bytes(b"{}")
        each = {"decode": 0.01, "engine": 0.1, "encode": 0.04}
        count, cpu_s = len(pictures), 0.0 if idle else sum(each.values())
        bounds = [shard / 0.01, bulk.here(workers).cores / (cpu_s + 0.04 / shard)]
        pace = min(bounds if idle else [*bounds, workers / 0.1])
        stages = {name: 0.0 if idle else seconds * count for name, seconds in each.items()}
        shards = count / shard
        return runs.Pace(count, count / pace, 0.01 * shards, 0.03 * shards + cpu_s * count, stages)

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(runs, "beside", lambda: 1.0)
    monkeypatch.setattr(runs, "ledger_s", lambda folder: 1e-6)
    found = bulk.measure(tmp_path, 4, 8)
    small = found["costs"]["480x640"]
    assert small["cpu_s"] == pytest.approx(0.15)
    assert small["driver_s"] == pytest.approx(0.01)
    assert (small["files"], small["written_mb"]) == (2, pytest.approx(1.000002))
    assert small["moved_mb"] == pytest.approx(480 * 640 * 7 / 1e6)
    # The driver's cost is its core's too; here it is in the 40 ms of each shard.
    assert max(abs(row["error"]) for row in found["checks"]) < 0.01
    assert {row["workers"] for row in found["checks"]} == {1, 2, 4, 8}
    assumed = {"storage_mb_s": 1e6, "storage_files_s": 1000.0, "network_mb_s": 1e6}
    rows = bulk.foretell(Costs(**small), assumed)
    told = {"assumed": assumed, "rows": rows, "machine": {"cpu": "a CPU", "cores": 2}}
    (tmp_path / "bulk_growth.json").write_text(json.dumps(found | told))
    page = bulk.table(tmp_path)
    assert "| 480x640, shards of 4 | 1 | 10.0 | engines | 10.0 | +0 % |" in page
    assert "| 1,000 | 500 (files) | 500 (files) | 500 (files) | 500 (files) |" in page
    assert "10.0 ms to decode, 100 ms in an engine" in page


def test_cpu_time_of_the_ledger_and_of_what_was_begun(tmp_path):
    assert 0 < runs.ledger_s(tmp_path / "out", shards=4, times=2) < 1
    assert runs.descendants_s() >= 0


def test_the_page_is_what_the_result_says(tmp_path):
    page = (ROOT / "docs" / "bulk.md").read_text()
    assert readme.fill(page, readme.PAGES["docs/bulk.md"]) == page
    assert bulk.table(tmp_path) == "Not measured."
