import numpy as np
import pytest

from e2e_deploy.runtime.timing import measure, summarise


def test_percentiles_are_numpys(rng):
    seconds = rng.random(101)
    latency = summarise(list(seconds))
    assert latency.count == 101
    assert (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms) == pytest.approx(
        tuple(1000 * np.percentile(seconds, q) for q in (50, 95, 99, 100))
    )
    assert latency.per_second == pytest.approx(1 / seconds.mean())


def test_nothing_cannot_be_summarised():
    with pytest.raises(ValueError, match="no durations"):
        summarise([])


def test_frames_take_turns_after_the_warm_up(monkeypatch):
    clock = iter(np.cumsum([0, 1, 0, 3, 0, 5]))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    seen = []
    latency = measure(seen.append, ["a", "b"], count=3, warm_up=1)
    assert seen == ["a", "a", "b", "a"]
    assert (latency.count, latency.p50_ms, latency.max_ms) == (3, 3000, 5000)
