"""How a bulk run grows: what its parts cost is measured here with one worker, and a model says what many would do.

    python -m benchmarks.growth.bulk [--work DIR] [--storage-mb-s 2000] [--storage-files-s 10000] [--network-mb-s 3000]

The model (model.py) is held against runs of 1, 2 and 4 workers on this machine, of which it knows only that with one,
and what a shard costs the driver, which it has from runs with nothing to do.
Of clusters, the storage, the network and the machines are assumed; nothing was run on one. The time of an engine on a
GPU is that of benchmarks/gpu/speed.py.
"""

import argparse
import json
import math
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth import runs
from benchmarks.growth.model import Costs, Place, limits, rate, saturation
from benchmarks.growth.plot import Series, log_log, save
from benchmarks.report import HERE, RESULTS, write_result
from e2e_deploy.runtime.bulk.cluster import HELPERS

CHECKED = (1, 2, 4)
NOTHING_WORKERS = (1, 4, 8)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 100, 200, 500, 1000)
KINDS = {"480x640": (480, 640), "1536x2048": (1536, 2048)}
"""Pictures of the checks: of the engine's size, where it takes most of the time, and large ones, where encode does."""

SHARD, SHARDS = 4, (16, 128)
"""Of the runs here; and of what is foretold."""

GPU_MS = "specialised_channels_last_compiled_graph"
CLUSTERS = {
    "CPUs": {"engines": 12, "cores": 16, "helpers": 4},
    "GPUs": {"engines": 8, "cores": 64, "helpers": 56},
}
"""Machines: 12 engines of one core each on 16 cores; and 8 GPUs beside 64 cores, of which each engine holds one."""

IMAGE = HERE.parent / "docs" / "images" / "bulk_growth.svg"


def here(workers: int) -> Place:
    """This machine, with as many processes beside the engines as ``bulk`` allows."""
    cores = len(os.sched_getaffinity(0))
    return Place(workers, cores, max(cores, workers) + HELPERS - workers)


def shard_costs(paces: dict[int, runs.Pace]) -> dict[str, float]:
    """Of runs that do nothing, by their workers: what a shard costs the driver, a worker adds, and Ray takes."""
    driver = {count: pace.driver_s / pace.pictures for count, pace in paces.items()}
    slope, base = np.polyfit(list(driver), list(driver.values()), 1)
    slope = max(0.0, float(slope))
    one = paces[min(paces)]
    return {
        "driver_s": driver[min(driver)] - slope * min(driver) if slope else float(base),
        "driver_worker_s": slope,
        "ray_s": one.others_s / one.pictures,
    }


def picture_costs(pace: runs.Pace, shared: dict[str, float], folder: Path, out: Path) -> Costs:
    """Of a run with one worker and SHARD what a picture costs.

    Args:
        pace: of it.
        shared: as of ``shard_costs``, with ``beside`` and ``ledger_s``.
        folder: its pictures.
        out: its results.
    """
    each = {name: seconds / pace.pictures for name, seconds in pace.stages.items()}
    pictures = sorted(folder.iterdir())
    results = [path for path in out.iterdir() if path.is_file()]
    cpu_s = pace.others_s / pace.pictures - shared["ray_s"] / SHARD
    return Costs(
        decode_s=each["decode"],
        engine_s=each["engine"],
        encode_s=each["encode"],
        cpu_s=max(cpu_s, each["engine"]),
        read_mb=sum(path.stat().st_size for path in pictures) / len(pictures) / 1e6,
        written_mb=sum(path.stat().st_size for path in results) / len(pictures) / 1e6,
        files=len(results) / len(pictures),
        moved_mb=math.nan,
        **shared,
    )


def moved_mb(picture_hw: tuple[int, int], engine_hw: tuple[int, int]) -> float:
    """MB that a picture is on its way to an engine, uint8 RGB, and its depth from there, float32."""
    return (3 * math.prod(picture_hw) + 4 * math.prod(engine_hw)) / 1e6


def measure(work: Path, pictures: int, shards: int) -> dict[str, Any]:
    """Costs of this machine, and what they foretell beside what was seen."""
    empty = runs.write_empty(work / "empty", shards)
    nothing = {
        workers: runs.run(empty, work / f"empty-{workers}", workers=workers, shard=1)
        for workers in NOTHING_WORKERS
    }
    shared = shard_costs(nothing)
    shared |= {"ledger_s": runs.ledger_s(work / "ledger"), "beside": runs.beside()}
    costs, checks = {}, []
    for kind, hw in KINDS.items():
        folder = runs.write_pictures(work / kind, hw, pictures)
        for workers in CHECKED:
            out = work / f"{kind}-{workers}"
            pace = runs.run(folder, out, workers=workers, shard=SHARD)
            if kind not in costs:
                found = picture_costs(pace, shared, folder, out)
                costs[kind] = replace(found, moved_mb=moved_mb(hw, KINDS["480x640"]))
            checks.append(_check(kind, costs[kind], workers, SHARD, pace.per_second))
    idle = {f"{name}_s": 0.0 for name in ("decode", "engine", "encode", "cpu")}
    tiny = replace(costs["480x640"], **(idle | {"engine_s": 1e-9, "decode_s": 1e-9}))
    for workers, pace in nothing.items():
        checks.append(_check("nothing to do", tiny, workers, 1, pace.per_second))
    return {"costs": {kind: asdict(each) for kind, each in costs.items()}, "checks": checks}


def _check(kind: str, costs: Costs, workers: int, shard: int, seen: float) -> dict[str, Any]:
    foretold, part = rate(costs, here(workers), workers, shard)
    return {
        "pictures": kind,
        "workers": workers,
        "shard": shard,
        "foretold_per_second": foretold,
        "bound_by": part,
        "seen_per_second": seen,
        "error": foretold / seen - 1,
    }


def foretell(costs: Costs, storage: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each kind of cluster, shard and number of workers."""
    gpu = json.loads((RESULTS / "gpu_speed_576x768_batch1.json").read_text(encoding="utf-8"))
    engine_s = gpu["contenders"][GPU_MS]["latency"]["p50_ms"] / 1000
    # The stages beside the engine cost by the pixel; what the engine's process takes of a core, the GPU does.
    more = 576 * 768 / (480 * 640)
    beside = {
        name: more * value
        for name, value in asdict(costs).items()
        if name in ("decode_s", "encode_s", "read_mb", "written_mb", "moved_mb")
    }
    of_gpus = replace(
        costs,
        **beside,
        engine_s=engine_s,
        cpu_s=engine_s + more * (costs.cpu_s - costs.engine_s),
        beside=1.0,
    )
    rows = []
    for cluster, machine in CLUSTERS.items():
        place = Place(**machine, **storage)  # type: ignore[arg-type]
        each = of_gpus if cluster == "GPUs" else costs
        for shard in SHARDS:
            full, part = saturation(each, place, shard)
            for workers in WORKERS:
                bounds = limits(each, place, workers, shard)
                per_second, bound = rate(each, place, workers, shard)
                rows.append(
                    {
                        "cluster": cluster,
                        "shard": shard,
                        "workers": workers,
                        "per_second": per_second,
                        "bound_by": bound,
                        "saturated_from": full,
                        "saturated_by": part,
                        "limits": {name: value for name, value in bounds.items() if value < 1e9},
                    }
                )
    return rows


def drawn(result: dict[str, Any]) -> str:
    """The plot: pictures a second over workers."""
    series: list[Series] = []
    for cluster in CLUSTERS:
        for shard in SHARDS:
            rows = [r for r in result["rows"] if (r["cluster"], r["shard"]) == (cluster, shard)]
            points = [(float(r["workers"]), float(r["per_second"])) for r in rows]
            series.append((f"{cluster}, --shard {shard}", points, False))
        series.append(
            (
                f"{cluster}, engines alone",
                [(r["workers"], r["limits"]["engines"]) for r in rows],
                True,
            )
        )
    return log_log(series, "engines", "pictures a second")


def table(folder: Path = RESULTS) -> str:
    """What was foretold and seen, and what many workers would do, in Markdown."""
    path = folder / "bulk_growth.json"
    if not path.is_file():
        return "Not measured."
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| pictures | workers | foretold, pictures/s | bounded by | seen, pictures/s | error |",
        "|" + "---|" * 6,
    ]
    lines += [
        f"| {row['pictures']}, shards of {row['shard']} | {row['workers']} | {row['foretold_per_second']:.1f} "
        f"| {row['bound_by']} | {row['seen_per_second']:.1f} | {100 * row['error']:+.0f} % |"
        for row in result["checks"]
    ]
    heads = [(c, s) for c in CLUSTERS for s in SHARDS]
    lines += ["", "![Pictures a second over engines](images/bulk_growth.svg)"]
    lines += ["", "| engines | " + " | ".join(f"{c}, shards of {s}" for c, s in heads) + " |"]
    lines += ["|" + "---|" * (1 + len(heads))]
    for workers in WORKERS:
        cells = [
            f"{row['per_second']:,.0f} ({row['bound_by']})"
            for head in heads
            for row in result["rows"]
            if (row["cluster"], row["shard"]) == head and row["workers"] == workers
        ]
        lines.append(f"| {workers:,} | " + " | ".join(cells) + " |")
    one = result["costs"]["480x640"]
    assumed = result["assumed"]
    lines += [
        "",
        f"Measured ({result['machine']['cpu']}, {result['machine']['cores']} cores): a picture of 480x640 takes "
        f"{1000 * one['decode_s']:.1f} ms to decode, {1000 * one['engine_s']:.0f} ms in an engine of one core, "
        f"{1000 * one['encode_s']:.1f} ms to encode and write; a shard takes {1000 * one['driver_s']:.1f} ms of the "
        f"process that began the run, {1e6 * one['driver_worker_s']:.0f} us more for each worker, "
        f"{1000 * one['ray_s']:.1f} ms of Ray's others and {1e6 * one['ledger_s']:.0f} us of the ledger. Assumed: "
        f"storage of {assumed['storage_mb_s']:,.0f} MB/s and {assumed['storage_files_s']:,.0f} new files a second for "
        f"all, {assumed['network_mb_s']:,.0f} MB/s each way for each machine.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, foretell, draw, write benchmarks/results/bulk_growth.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--storage-mb-s", type=float, default=2000.0)
    parser.add_argument("--storage-files-s", type=float, default=10_000.0)
    parser.add_argument("--network-mb-s", type=float, default=3000.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        found = measure(Path(folder), given.pictures, given.shards)
    assumed = {
        name: getattr(given, name) for name in ("storage_mb_s", "storage_files_s", "network_mb_s")
    }
    rows = foretell(Costs(**found["costs"]["480x640"]), assumed)
    result = found | {"assumed": assumed, "machines": CLUSTERS, "rows": rows}
    write_result("bulk_growth", result, quiet=True)
    save(drawn(result), IMAGE)
    print(table())


if __name__ == "__main__":
    main()
