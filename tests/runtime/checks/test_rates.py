import os
import time

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from e2e_deploy.runtime.backends.onnxruntime.options import physical_cores
from e2e_deploy.runtime.checks.rates import (
    RateResult,
    ReplaySource,
    at_rate,
    find_peak,
    resident_mib,
)
from tests.plain_bundle import HW, write_plain_bundle


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """An engine that takes at least 40 ms."""
    fast = OrtBackend.__call__

    def slow(self, frame, out=None):
        time.sleep(0.04)
        return fast(self, frame)

    monkeypatch.setattr(OrtBackend, "__call__", slow)
    with e2e.load(open_bundle(write_plain_bundle(tmp_path / "bundle"))) as loaded:
        yield loaded


@pytest.fixture
def frames(rng):
    return [rng.integers(0, 256, (*HW, 3), dtype=np.uint8) for _ in range(3)]


def test_frames_from_memory_keep_time(frames):
    start = time.monotonic()
    got = list(ReplaySource(frames, 50, 11))
    assert time.monotonic() - start >= 0.2
    assert [frame.rgb is frames[i % 3] for i, frame in enumerate(got)] == [True] * 11
    np.testing.assert_allclose([frame.pts_s for frame in got], np.arange(11) / 50)


def test_a_rate_below_and_one_above_what_the_engine_does(engine, frames):
    slow, fast = at_rate(engine, frames, 5, 1.0), at_rate(engine, frames, 200, 0.5)
    assert slow.keeps_up
    assert (slow.captured, slow.frames, slow.dropped) == (5, 5, 0)
    assert not fast.keeps_up
    assert fast.captured == 100 == fast.frames + fast.dropped
    assert fast.frames < 20
    for result in (slow, fast):
        assert set(result.stages) == {"fit", "engine", "finish", "age"}
        assert result.stages["age"].p50_ms >= result.stages["engine"].p50_ms >= 40
        assert 0 <= result.cpu < 1.5 * physical_cores()
    np.testing.assert_allclose(engine(frames[0]).shape, HW)  # it was not closed


def test_the_peak_is_found_by_bisection():
    asked = []

    def run_at(rate):
        asked.append(rate)
        return RateResult(rate, 100, 100, 0 if rate <= 17 else 50, rate, 0.1, {})

    best = find_peak(run_at, 15.0)
    assert best.rate_hz == max(rate for rate in asked if rate <= 17)
    assert best.rate_hz == pytest.approx(17, abs=0.5)
    assert find_peak(run_at, 100.0) is None


def test_memory_is_counted_in_the_machines_own_pages(monkeypatch):
    with open("/proc/self/status", encoding="ascii") as stream:
        kib = next(int(line.split()[1]) for line in stream if line.startswith("VmRSS:"))
    assert resident_mib() == pytest.approx(kib / 1024, rel=0.05)
    before = os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(os, "sysconf", lambda name: 16 * before)  # 64 KiB, as on Grace
    assert resident_mib() == pytest.approx(16 * kib / 1024, rel=0.05)
