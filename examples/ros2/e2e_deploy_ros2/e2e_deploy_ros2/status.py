"""What the node says of itself once a second: the fields of diagnostic_msgs, as plain values."""

import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

OK, WARN, ERROR = "OK", "WARN", "ERROR"
RECENT = 300  # results that percentiles are of: ten seconds at 30 Hz
SILENCE_S = 2.0


@dataclass(frozen=True)
class Diagnosis:
    """One DiagnosticStatus.

    Attributes:
        level: OK, WARN or ERROR.
        message: what is to be said, in a sentence or a few words.
        values: (key, value) of the rest.
    """

    level: str
    message: str
    values: list[tuple[str, str]]


class Rates:
    """How many results there were and how old they were, of the last RECENT. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latencies_s: deque[float] = deque(maxlen=RECENT)
        self._ages_s: deque[float] = deque(maxlen=RECENT)
        self._published = self._before = 0
        self._since_s = self._last_s = time.monotonic()

    def published(self, latency_s: float, age_s: float | None) -> None:
        """A result went out: so long after its picture came, and after it was captured, where its stamp says when."""
        with self._lock:
            self._latencies_s.append(latency_s)
            if age_s is not None:
                self._ages_s.append(age_s)
            self._published += 1
            self._last_s = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last result, or since the beginning."""
        return time.monotonic() - self._last_s

    def values(self) -> list[tuple[str, str]]:
        """For people; the rate is that since this was last asked."""
        with self._lock:
            now = time.monotonic()
            rate = (self._published - self._before) / max(now - self._since_s, 1e-9)
            self._before, self._since_s = self._published, now
            told = [("fps", f"{rate:.1f}"), ("published", str(self._published))]
            if self._latencies_s:
                p50, p99 = 1000 * np.percentile(self._latencies_s, (50, 99))
                told += [
                    ("latency p50 (ms)", f"{p50:.1f}"),
                    ("latency p99 (ms)", f"{p99:.1f}"),
                ]
            if self._ages_s:
                told.append(("age by the stamp p50 (ms)", f"{1000 * np.median(self._ages_s):.1f}"))
            return told
