"""Bulk runs on this machine, looked at from outside: their pace once they are warm, and the CPU time of each part."""

import contextlib
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

import e2e_deploy as e2e
from e2e_deploy.runtime.bulk.ledger import Ledger
from e2e_deploy.runtime.bulk.parcel import Parcel
from e2e_deploy.runtime.sources.pattern import PatternSource

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
WARM, LAST, SHORTEST = 3, 2, 8
"""Shards of each worker: at the beginning and at the end, which do not count, and of a whole run at least."""


@dataclass(frozen=True)
class Pace:
    """Of the steady part of a run, between the first shards of each worker and the last.

    Attributes:
        pictures: in it.
        seconds: that it took.
        driver_s: CPU time of the process that began the run.
        others_s: CPU time of all processes that it began.
        stages: seconds of each stage by the clock, over all workers.
    """

    pictures: int
    seconds: float
    driver_s: float
    others_s: float
    stages: dict[str, float]

    @property
    def per_second(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds


def write_pictures(folder: Path, hw: tuple[int, int], count: int) -> Path:
    """Frames of the test pattern as JPEG files."""
    folder.mkdir(parents=True)
    for frame in PatternSource(*hw, fps=0, total=count):
        cv2.imwrite(str(folder / f"{frame.index:05d}.jpg"), frame.rgb[..., ::-1])
    return folder


def write_empty(folder: Path, count: int) -> Path:
    """Files without a byte: decode refuses them at once, and engines and encode get shards with nothing to do."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:06d}.png").touch()
    return folder


def run(folder: Path, out: Path, *, workers: int, shard: int, cores: int = 1) -> Pace:
    """The pace of a bulk run with the packaged bundle."""
    count = len(list(folder.iterdir()))
    if count < SHORTEST * workers * shard:
        raise SystemExit(
            f"{count} pictures are too few for {workers} workers and shards of {shard}"
        )
    marks: list[tuple[int, float, float, float, dict[str, float]]] = []

    def mark(report: e2e.BulkReport) -> None:
        cpu = (time.process_time(), descendants_s())
        marks.append((report.finished, time.perf_counter(), *cpu, dict(report.stage_seconds)))

    report = e2e.bulk(
        *(folder, e2e.READY_BUNDLE, out),
        device="cpu",
        workers=workers,
        cores=cores,
        shard=shard,
        on_progress=mark,
    )
    if report.finished != report.pictures:
        raise SystemExit(f"the bulk run did {report.finished} of {report.pictures} pictures")
    shards = workers * shard
    steady = [m for m in marks if WARM * shards <= m[0] <= report.pictures - LAST * shards]
    first, last = steady[0], steady[-1]
    stages = {name: seconds - first[4].get(name, 0.0) for name, seconds in last[4].items()}
    return Pace(
        last[0] - first[0], last[1] - first[1], last[2] - first[2], last[3] - first[3], stages
    )


def _text(path: Path) -> str:
    """Empty for a process that has just ended."""
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def descendants_s() -> float:
    """CPU seconds of all processes that this one began, and those that they began, with those that have ended."""
    total, look = 0, [os.getpid()]
    while look:
        for task in Path(f"/proc/{look.pop()}/task").glob("*/children"):
            for child in _text(task).split():
                if told := _text(Path(f"/proc/{child}/stat")).rpartition(")")[2].split():
                    total += sum(map(int, told[11:15]))
                    look.append(int(child))
    return total * TICK_S


def ledger_s(folder: Path, shards: int = 256, times: int = 10) -> float:
    """Seconds a shard that the ledger takes, with its wait for the disk; ``shards`` are written at once."""
    seconds = 0.0
    with Ledger(folder).open({"schema": 1}) as ledger:
        for number in range(times):
            stages = {"decode": 0.1, "engine": 0.1, "encode": 0.1}
            parcels = [
                Parcel(number * shards + n, written=16, seconds=stages) for n in range(shards)
            ]
            start = time.perf_counter()
            ledger.commit(parcels)
            seconds += time.perf_counter() - start
    return seconds / (shards * times)


def beside(pictures: int = 30) -> float:
    """How many times as long an engine of one core takes when every core of this machine has one."""
    alone = _engines(1, pictures)
    return max(1.0, _engines(len(os.sched_getaffinity(0)), pictures) / alone)


def _engines(count: int, pictures: int) -> float:
    """Mean seconds a picture of ``count`` engines at once."""
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(count), context.Queue()
    given = (gate, results, pictures)
    processes = [context.Process(target=_engine, args=given) for _ in range(count)]
    for process in processes:
        process.start()
    seconds = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return float(sum(seconds) / len(seconds))


def _engine(gate: Any, results: Any, pictures: int) -> None:
    """One engine in a process of its own."""
    height, width = e2e.open_bundle(e2e.READY_BUNDLE).manifest.frame_sizes[0]
    frames = [frame.rgb for frame in PatternSource(height, width, fps=0, total=4)]
    with e2e.load(e2e.READY_BUNDLE, device="cpu", threads=1) as engine:
        engine(frames[0])
        gate.wait(timeout=300)
        start = time.perf_counter()
        for number in range(pictures):
            engine(frames[number % len(frames)])
        results.put((time.perf_counter() - start) / pictures)
