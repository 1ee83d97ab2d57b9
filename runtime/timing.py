"""Latencies as percentiles, measured after a warm-up on frames that differ."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WARM_UP = 5
KEPT = 20_000


@dataclass(frozen=True)
class Latency:
    """Distribution of a latency in milliseconds; jitter is the mean change from one value to the next."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float
    jitter_ms: float

    @property
    def per_second(self) -> float:
        """How many fit into a second, one after the other."""
        return 1000.0 / self.mean_ms if self.mean_ms > 0 else 0.0


class Durations:
    """The last ``KEPT`` durations of something, in memory that does not grow.

    Attributes:
        count: how many there were in all.
    """

    def __init__(self) -> None:
        self._seconds = np.zeros(KEPT)
        self.count = 0

    def add(self, seconds: float) -> None:
        """Keep one more."""
        self._seconds[self.count % KEPT] = seconds
        self.count += 1

    def latency(self) -> Latency | None:
        """Their distribution; None when there was none."""
        if self.count == 0:
            return None
        if self.count <= KEPT:
            return summarise(self._seconds[: self.count])
        return summarise(np.roll(self._seconds, -(self.count % KEPT)))


def summarise(seconds: Sequence[float] | npt.NDArray[np.float64]) -> Latency:
    """Percentiles of some durations in seconds.

    Raises:
        ValueError: there are none.
    """
    if len(seconds) == 0:
        raise ValueError("no durations to summarise")
    ms = np.asarray(seconds, dtype=np.float64) * 1000.0
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    jitter = float(np.abs(np.diff(ms)).mean()) if len(ms) > 1 else 0.0
    return Latency(
        len(ms), float(p50), float(p95), float(p99), float(ms.max()), float(ms.mean()), jitter
    )


def measure(
    call: Callable[[npt.NDArray[np.uint8]], object],
    frames: Sequence[npt.NDArray[np.uint8]],
    *,
    count: int,
    warm_up: int = WARM_UP,
    after: Callable[[], object] = lambda: None,
) -> Latency:
    """Time ``call`` on ``frames`` in turn, ``count`` times after ``warm_up`` untimed calls.

    ``call`` must return a finished result on the host, as every backend does; ``after`` follows each timed call,
    outside its time.
    """
    for i in range(warm_up):
        call(frames[i % len(frames)])
    seconds = []
    for i in range(count):
        start = time.perf_counter()
        call(frames[i % len(frames)])
        seconds.append(time.perf_counter() - start)
        after()
    return summarise(seconds)
