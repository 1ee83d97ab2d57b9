import numpy as np
import pytest

from e2e_deploy.runtime.timing import KEPT, Durations, measure, summarise


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


def test_jitter_is_the_mean_change():
    assert summarise([0.010, 0.012, 0.009]).jitter_ms == pytest.approx(2.5)
    assert summarise([0.010]).jitter_ms == 0


def test_the_last_durations_are_kept_in_order_and_memory_does_not_grow():
    durations = Durations()
    assert durations.latency() is None
    for index in range(KEPT + 3):
        durations.add(float(index))
    latency = durations.latency()
    assert (durations.count, latency.count) == (KEPT + 3, KEPT)
    assert latency.max_ms == 1000.0 * (KEPT + 2)
    assert latency.jitter_ms == pytest.approx(1000.0)
    assert durations._seconds.size == KEPT
