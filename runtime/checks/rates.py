"""Measures the loop: latency by stage at fixed rates, and the highest rate it keeps up with.

Frames come from memory at exact times, so a camera's own jitter is not in the numbers. A frame that is not taken in
time is dropped, as in real use: a queue would show a fine rate and a growing age.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.checks.turns import Frames
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.report import STAGES
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from e2e_deploy.runtime.timing import Latency

ALLOWED_DROPS = 0.05  # as in ros2_benchmark
SEARCH_STEPS = 5
MAX_FRAMES = 100_000_000


class ReplaySource(BaseSource):
    """Frames from memory in turn, at a rate, as a camera would give them."""

    is_live = True

    def __init__(self, frames: Frames, rate_hz: float, total: int) -> None:
        super().__init__(f"{len(frames)} frames from memory", fps=rate_hz, total=total)
        self._frames, self._rate_hz, self._count = frames, rate_hz, total

    def __iter__(self) -> Iterator[SourceFrame]:
        start = time.monotonic()
        for index in range(self._count):
            due_s = index / self._rate_hz
            if self._stopping.wait(max(0.0, start + due_s - time.monotonic())):
                return
            rgb = self._frames[index % len(self._frames)]
            yield SourceFrame(rgb, index, due_s, "replay", source=self.name)


@dataclass(frozen=True)
class RateResult:
    """The loop at one rate.

    Attributes:
        rate_hz: of the frames.
        captured: frames that came.
        frames: results that were handed over.
        dropped: frames that newer ones replaced.
        per_second: results a second.
        cpu: share of one core that the process used.
        stages: by name, as run.STAGES; ``age`` is from capture to hand-over.
    """

    rate_hz: float
    captured: int
    frames: int
    dropped: int
    per_second: float
    cpu: float
    stages: dict[str, Latency]

    @property
    def keeps_up(self) -> bool:
        """Whether at most ALLOWED_DROPS of the frames were dropped."""
        return self.dropped <= ALLOWED_DROPS * self.captured


def at_rate(engine: Engine, frames: Frames, rate_hz: float, seconds: float) -> RateResult:
    """Run the loop on ``frames`` at ``rate_hz`` for ``seconds``; the engine should be warm.

    The frames are of the engine's size or any other; the sink takes results and does nothing.

    Raises:
        UsageError: a rate or a time that is not positive and finite, or together more than MAX_FRAMES.
    """
    if not (rate_hz > 0 and seconds > 0 and rate_hz * seconds <= MAX_FRAMES):
        raise UsageError(
            f"{rate_hz:g} frames a second for {seconds:g} s cannot be measured; both must be above 0, "
            f"and together at most {MAX_FRAMES:,} frames"
        )
    total = max(2, round(rate_hz * seconds))
    sink = CallbackSink(lambda frame, result, facts: None)
    cpu, wall = time.process_time(), time.perf_counter()
    source = ReplaySource(frames, rate_hz, total)
    report = run_source(engine.bundle, source, [sink], engine=engine)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    stages = {name: report.times[name].latency() for name in STAGES}
    return RateResult(
        rate_hz,
        report.captured,
        report.frames,
        report.dropped,
        report.frames / wall,
        cpu / wall,
        {name: latency for name, latency in stages.items() if latency is not None},
    )


def find_peak(run_at: Callable[[float], RateResult], guess_hz: float) -> RateResult | None:
    """The highest rate that keeps up, by bisection between half and one and a half of a guess.

    Args:
        run_at: measures one rate.
        guess_hz: what the engine alone would do.

    Returns:
        The result at the best rate; None when even half the guess is too fast.
    """
    low, high = 0.5 * guess_hz, 1.5 * guess_hz
    best = run_at(low)
    if not best.keeps_up:
        return None
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        result = run_at(middle)
        if result.keeps_up:
            best, low = result, middle
        else:
            high = middle
    return best


def resident_mib() -> float | None:
    """Memory of this process in MiB; None where the platform does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20
