"""What a bulk run costs beside the engine: pictures a second of the engine alone, and of one worker of `bulk`.

The engine alone has its pictures decoded in memory and writes nothing; the worker's are JPEG files, decoded and encoded
by tasks beside it. Both engines have the same cores. The time that Ray and the engines take to begin is told apart: of
the bulk run the steady part counts, from the end of the first shards to the end of the last.

    python -m benchmarks.speed.bulk_overhead [--work DIR] [--pictures 96] [--cores 1] [--shard 4]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

import e2e_deploy as e2e
from benchmarks.report import write_result
from e2e_deploy.runtime.sources.pattern import PatternSource
from e2e_deploy.runtime.timing import summarise

FIRST = 3  # shards after which workers are warm


def write_pictures(folder: Path, size: tuple[int, int], count: int) -> Path:
    """Frames of the test pattern as JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in PatternSource(*size, fps=0, total=count):
        cv2.imwrite(str(folder / f"{frame.index:05d}.jpg"), frame.rgb[..., ::-1])
    return folder


def bare(folder: Path, cores: int, count: int) -> list[float]:
    """Seconds of the engine alone for each of ``count`` pictures."""
    pictures = [e2e.read_picture(path) for path in sorted(folder.iterdir())[:count]]
    seconds = []
    with e2e.load(e2e.READY_BUNDLE, device="cpu", threads=cores) as engine:
        engine.predict(pictures[0])
        for picture in pictures:
            start = time.perf_counter()
            engine.predict(picture)
            seconds.append(time.perf_counter() - start)
    return seconds


def steady(folder: Path, out: Path, cores: int, shard: int) -> dict[str, float]:
    """One worker of a bulk run: pictures a second once it is warm, and what it took to begin."""
    marks: list[tuple[float, int, float]] = []
    start = time.perf_counter()

    def mark(report: e2e.BulkReport) -> None:
        engine_s = report.stage_seconds.get("engine", 0.0)
        marks.append((time.perf_counter() - start, report.finished, engine_s))

    report = e2e.bulk(
        *(folder, e2e.READY_BUNDLE, out),
        device="cpu",
        workers=1,
        cores=cores,
        shard=shard,
        on_progress=mark,
    )
    if not report.complete:
        raise SystemExit("the bulk run is not complete")
    (first_s, before, busy_s), (last_s, after, all_busy_s) = marks[FIRST], marks[-1]
    return {
        "pictures_per_second": (after - before) / (last_s - first_s),
        "pictures": after - before,
        "engine_busy": (all_busy_s - busy_s) / (last_s - first_s),
        "until_first_shard_s": marks[1][0],
        "whole_s": time.perf_counter() - start,
        "engine_s_per_picture": report.stage_seconds["engine"] / report.pictures,
        "decode_s_per_picture": report.stage_seconds["decode"] / report.pictures,
        "encode_s_per_picture": report.stage_seconds["encode"] / report.pictures,
    }


def measure(work: Path, count: int, cores: int, shard: int) -> dict[str, Any]:
    """The engine alone before and after the bulk run, so that a machine that slows down is seen."""
    size = e2e.open_bundle(e2e.READY_BUNDLE).manifest.frame_sizes[0]
    folder = write_pictures(work / "in", size, count)
    before = bare(folder, cores, count // 2)
    told = steady(folder, work / "out", cores, shard)
    after = bare(folder, cores, count // 2)
    alone = len(before + after) / sum(before + after)
    return {
        "bundle": "packaged e2e-tiny depth",
        "size": list(size),
        "cores": cores,
        "shard": shard,
        "engine_alone_before_ms": summarise(before).mean_ms,
        "engine_alone_after_ms": summarise(after).mean_ms,
        "engine_alone_per_second": alone,
        "bulk": told,
        "overhead": alone / told["pictures_per_second"] - 1,
    }


def main() -> None:
    """Measure, print, and write benchmarks/results/bulk_overhead.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--shard", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        found = measure(Path(folder), given.pictures, given.cores, given.shard)
    print(f"overhead {100 * found['overhead']:.1f} %: {found}")
    write_result("bulk_overhead", found)


if __name__ == "__main__":
    main()
