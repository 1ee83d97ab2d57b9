"""Things timed in turn on the same frames, and how many times as fast one is as another beyond the noise."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from e2e_deploy.runtime.timing import WARM_UP

RESAMPLES = 4000

Frames = Sequence[npt.NDArray[np.uint8]]
Call = Callable[[npt.NDArray[np.uint8]], object]


def in_turn(
    calls: Sequence[Call],
    frames: Frames,
    *,
    count: int,
    warm_up: int = WARM_UP,
    pause_s: float = 0.0,
) -> list[list[float]]:
    """Seconds of ``count`` rounds of each call, after ``warm_up`` untimed rounds.

    A round is every call once on the same frame, so that whatever else the machine does hits all; every other round
    goes backwards, so that none is always the one after a certain other.

    Args:
        calls: each must return a finished result on the host.
        frames: used in turn, one a round.
        count: of timed rounds.
        warm_up: untimed rounds before.
        pause_s: waited before each call: on a CPU another one's threads may spin for a while after theirs.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(warm_up + count):
        frame = frames[turn % len(frames)]
        order = list(zip(calls, seconds, strict=True))
        for call, kept in order if turn % 2 == 0 else reversed(order):
            time.sleep(pause_s)
            start = time.perf_counter()
            call(frame)
            kept.append(time.perf_counter() - start)
    return [kept[warm_up:] for kept in seconds]


LEAST_ROUNDS = 6
"""Fewer show no difference: of five, all fall on one side by chance in one case of sixteen, of six in one of 32."""


@dataclass(frozen=True)
class Gain:
    """How many times as fast one thing is as another: ratio of two medians, and its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 1."""
        return self.low <= 1 <= self.high


def gain(slow: Sequence[float], fast: Sequence[float]) -> Gain:
    """How many times as fast ``fast`` is, of calls that were timed in turn.

    The interval is a percentile bootstrap over rounds: what hits a round hits both of its calls, so they are drawn
    together (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13).

    Args:
        slow: seconds of the calls that are expected to take longer, one a round.
        fast: seconds of the others, of the same rounds.
    """
    pairs = np.array([slow, fast], dtype=np.float64)
    rounds = pairs.shape[1]
    drawn = np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))
    medians = np.median(pairs[:, drawn], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    if rounds < LEAST_ROUNDS:
        low, high = min(1.0, low), max(1.0, high)
    whole = np.median(pairs, axis=1)
    return Gain(float(whole[0] / whole[1]), float(low), float(high))
