"""Ten minutes of a looped clip through the whole loop: memory, threads and open files must not grow.

python -m benchmarks.speed.soak [--work DIR] [--minutes 10] [--size 144x320]
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.clips import real_clip, tiny_bundle
from benchmarks.report import write_result
from e2e_deploy.frames import parse_size
from e2e_deploy.runtime.checks.rates import resident_mib
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.report import RunReport
from e2e_deploy.runtime.sinks.sink import CallbackSink, Painter, Sink
from e2e_deploy.runtime.sinks.video_sink import VideoSink
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.runtime.steps.step import steady

EVERY_S = 5.0


class LoopedClip(BaseSource):
    """A video file again and again, opened anew each time, until the time is over."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__(f"{path.name}, looped")
        self._path, self._seconds = path, seconds

    def __iter__(self) -> Iterator[SourceFrame]:
        end, index = time.monotonic() + self._seconds, 0
        while True:
            for frame in VideoSource(self._path):
                if self._stopping.is_set() or time.monotonic() > end:
                    return
                yield replace(frame, index=index)
                index += 1


def open_files() -> int:
    """File handles of this process; -1 where the platform does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return -1


def main() -> None:
    """Run, sample, compare the first and the last third after the warm-up, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", default="144x320")
    arguments = parser.parse_args()
    bundle = tiny_bundle(arguments.work, parse_size(arguments.size))
    samples: list[dict[str, Any]] = []
    last = time.monotonic()

    def sample(report: RunReport) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            samples.append(
                {
                    "frames": report.frames,
                    "mib": resident_mib(),
                    "threads": threading.active_count(),
                    "files": open_files(),
                }
            )

    painter = Painter(bundle.manifest, "spectral", is_video=True)
    video = VideoSink(arguments.work / "soak.mp4", painter, fps=25, side_by_side=True)
    sinks: list[Sink] = [video, CallbackSink(lambda frame, result, facts: None)]
    source = LoopedClip(real_clip("bikes.mp4"), 60 * arguments.minutes)
    before = {"threads": threading.active_count(), "files": open_files()}
    report = run_source(bundle, source, sinks, steps=[steady()], on_frame=sample)
    after = {"threads": threading.active_count(), "files": open_files()}
    settled = samples[max(1, len(samples) // 10) :]
    third = max(1, len(settled) // 3)

    def means(rows: list[dict[str, Any]]) -> dict[str, float]:
        return {
            key: float(np.mean([row[key] for row in rows])) for key in ("mib", "threads", "files")
        }

    first, final = means(settled[:third]), means(settled[-third:])
    assert report.latency is not None
    write_result(
        "soak",
        {
            "checkpoint": "e2e-tiny-depth",
            "minutes": arguments.minutes,
            "engine": report.engine,
            "frames": report.frames,
            "frames_per_second": report.frames / report.seconds,
            "latency": vars(report.latency),
            "first_third": first,
            "last_third": final,
            "growth_mib": final["mib"] - first["mib"],
            "before": before,
            "after": after,
            "samples": samples,
        },
    )


if __name__ == "__main__":
    main()
