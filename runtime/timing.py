"""Latencies as percentiles, measured after a warm-up on frames that differ."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WARM_UP = 5


@dataclass(frozen=True)
class Latency:
    """Distribution of a latency in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float

    @property
    def per_second(self) -> float:
        """How many fit into a second, one after the other."""
        return 1000.0 / self.mean_ms if self.mean_ms > 0 else 0.0


def summarise(seconds: Sequence[float]) -> Latency:
    """Percentiles of some durations in seconds.

    Raises:
        ValueError: there are none.
    """
    if len(seconds) == 0:
        raise ValueError("no durations to summarise")
    ms = np.asarray(seconds, dtype=np.float64) * 1000.0
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    return Latency(len(ms), float(p50), float(p95), float(p99), float(ms.max()), float(ms.mean()))


def measure(
    call: Callable[[npt.NDArray[np.uint8]], object],
    frames: Sequence[npt.NDArray[np.uint8]],
    *,
    count: int,
    warm_up: int = WARM_UP,
) -> Latency:
    """Time ``call`` on ``frames`` in turn, ``count`` times after ``warm_up`` untimed calls.

    ``call`` must return a finished result on the host; both backends here do.
    """
    for i in range(warm_up):
        call(frames[i % len(frames)])
    seconds = []
    for i in range(count):
        start = time.perf_counter()
        call(frames[i % len(frames)])
        seconds.append(time.perf_counter() - start)
    return summarise(seconds)
