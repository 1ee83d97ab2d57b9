"""What crosses between host and GPU: counted, within its budget, overlapping; nothing is allocated for a frame."""

import time

import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.nvidia.cuda_driver import CudaDriver
from e2e_deploy.runtime.backends.backend import GpuPicture
from e2e_deploy.runtime.backends.gpu.transfers import (
    BUDGETS,
    DIRECTIONS,
    Count,
    Transfers,
    budget,
)
from e2e_deploy.runtime.checks.rates import ReplaySource
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from tests.fake_cuda import FakeDriver
from tests.plain_bundle import HW, plain_depth
from tests.runtime.fake_plans import frames, load

IN_BYTES, OUT_BYTES = HW[0] * HW[1] * 3, HW[0] * HW[1] * 4
HOST = budget("host frame", frame_bytes=IN_BYTES, result_bytes=OUT_BYTES)
GPU = budget("gpu frame", frame_bytes=IN_BYTES, result_bytes=OUT_BYTES)
QUEUED = {"record", "stream_wait", "copy_in", "copy_out", "copy_on_gpu", "launch", "wait", "use"}


def times(count, counts):
    return {name: Count(c.calls * count, c.bytes * count) for name, c in counts.items()}


def test_the_budgets_say_one_upload_of_bytes_and_one_download():
    assert {
        "upload": Count(1, IN_BYTES),
        "download": Count(1, OUT_BYTES),
        "on_gpu": Count(),
    } == HOST
    assert GPU["upload"] == Count()
    assert all(set(mode) == set(DIRECTIONS) for mode in BUDGETS.values())


def check_round_trip(driver, rng):
    """Bytes go up, within the GPU and down, and are counted."""
    driver.use()
    transfers, stream = Transfers(driver), driver.new_stream()
    given, back = driver.allocate_pinned(1000), driver.allocate_pinned(1000)
    a, b = driver.allocate(1000), driver.allocate(1000)
    given[:] = rng.integers(0, 256, 1000, dtype=np.uint8)
    transfers.upload(a, given, stream)
    transfers.on_gpu(b, a, 1000, stream)
    transfers.download(back, b, stream)
    driver.synchronise(stream)
    np.testing.assert_array_equal(back, given)
    assert transfers.counts == dict.fromkeys(DIRECTIONS, Count(1, 1000))
    transfers.reset()
    assert transfers.counts == dict.fromkeys(DIRECTIONS, Count())
    for address in (a, b):
        driver.free(address)
    for array in (given, back):
        driver.free_pinned(array)
    driver.destroy_stream(stream)
    driver.close()


def test_a_round_trip_is_counted(rng):
    check_round_trip(FakeDriver(), rng)


@pytest.mark.gpu
def test_a_round_trip_on_the_gpu_is_counted(rng):
    check_round_trip(CudaDriver(), rng)


@pytest.mark.usefixtures("engine")
class TestPipeline:
    def test_the_next_frame_is_uploaded_before_the_last_one_is_waited_for(self, root, rng):
        driver = FakeDriver()
        pictures = frames(rng, 4)
        with load(root, driver) as backend:
            driver.calls.clear()
            slots = [backend.submit(pictures[0])]
            results = []
            for picture in pictures[1:]:
                slots.append(backend.submit(picture))
                results.append(backend.collect(slots[len(results)]))
            results.append(backend.collect(slots[-1]))
            done = [call[0] for call in driver.calls if call[0] in ("copy_in", "launch", "wait")]
            streams = {call[0]: call[-1] for call in driver.calls if call[0] != "wait"}
        assert slots == [0, 1, 0, 1]
        assert done == ["copy_in", "launch"] * 2 + ["wait", "copy_in", "launch"] * 2 + ["wait"] * 2
        # Copies run beside the computation only in streams of their own.
        assert len({streams["copy_in"], streams["launch"], streams["copy_out"]}) == 3
        for picture, result in zip(pictures, results, strict=True):
            np.testing.assert_allclose(result, plain_depth(picture), rtol=1e-6)
        assert backend.transfers.counts == times(4, HOST)

    def test_nothing_is_allocated_for_a_frame(self, root, rng):
        driver = FakeDriver()
        with load(root, driver) as backend:
            driver.calls.clear()
            held = dict(driver.live)
            for picture in frames(rng, 20):
                backend(picture)
            assert set(driver.names()) <= QUEUED
            assert driver.live == held

    def test_a_call_in_between_takes_the_free_slot(self, root, rng):
        first, second = frames(rng, 2)
        with load(root) as backend:
            slot = backend.submit(first)
            np.testing.assert_allclose(backend(second), plain_depth(second), rtol=1e-6)
            np.testing.assert_allclose(backend.collect(slot), plain_depth(first), rtol=1e-6)

    def test_a_third_frame_on_its_way_is_a_mistake(self, root, rng):
        with load(root) as backend:
            for picture in frames(rng, 2):
                backend.submit(picture)
            with pytest.raises(UsageError, match="collect one first"):
                backend.submit(frames(rng, 1)[0])
            backend.collect(0)
            with pytest.raises(AssertionError, match="nothing was submitted"):
                backend.collect(0)

    def test_a_picture_on_the_gpu_is_not_uploaded(self, root, rng):
        driver = FakeDriver()
        picture = frames(rng, 1)[0]
        with load(root, driver) as backend:
            address = driver.allocate(IN_BYTES)
            driver.memory[address][:] = picture.ravel()
            result = backend.collect(backend.submit(GpuPicture(address, HW)))
            np.testing.assert_allclose(result, plain_depth(picture), rtol=1e-6)
            assert backend.transfers.counts["upload"] == Count()
            assert backend.transfers.counts["on_gpu"] == Count(1, IN_BYTES)
            driver.free(address)


@pytest.mark.parametrize("mutant", ["stream_wait", "wait"])
@pytest.mark.usefixtures("engine")
def test_the_double_sees_a_missing_wait(root, rng, monkeypatch, mutant):
    """What the tests above rest on."""
    driver = FakeDriver()
    picture = frames(rng, 1)[0]
    with load(root, driver) as backend:
        with monkeypatch.context() as patch:
            patch.setattr(driver, mutant, lambda *arguments: None)
            result = backend(picture)
        assert not np.allclose(result, plain_depth(picture), rtol=1e-6)


@pytest.mark.usefixtures("engine")
class TestLoop:
    @staticmethod
    def engine(root, driver):
        bundle = open_bundle(root)
        return Engine(bundle, bundle.manifest.graphs[0], load(root, driver), "named by you")

    def test_a_file_overlaps_and_keeps_its_order_and_budget(self, root, monkeypatch):
        driver, painted = FakeDriver(), []
        wait = driver.wait
        monkeypatch.setattr(driver, "wait", lambda event: (time.sleep(0.01), wait(event)))
        sink = CallbackSink(lambda frame, depth, facts: painted.append(read_number(depth)))
        with self.engine(root, driver) as engine:
            engine(np.zeros((*HW, 3), np.uint8))  # what was copied before is not the run's
            driver.calls.clear()
            source = PatternSource(*HW, fps=0, total=30)
            report = run_source(engine.bundle, source, [sink], engine=engine)
        assert painted == list(range(30))
        assert report.transfers == times(30, HOST)
        assert report.frames == 30
        order = [call[0] for call in driver.calls if call[0] in ("launch", "wait")]
        most = ahead = 0
        for name in order:
            ahead += 1 if name == "launch" else -1
            most = max(most, ahead)
        assert (most, ahead) == (2, 0)

    def test_a_live_source_takes_its_frame_as_late_as_it_can(self, root, rng):
        """A frame that was uploaded ahead would be a plan time older when it is computed."""
        driver = FakeDriver()
        source = ReplaySource(frames(rng), 2000.0, 40)
        sink = CallbackSink(lambda frame, depth, facts: None)
        with self.engine(root, driver) as engine:
            driver.calls.clear()
            report = run_source(engine.bundle, source, [sink], engine=engine)
        order = [call[0] for call in driver.calls if call[0] in ("copy_in", "wait")]
        assert order == ["copy_in", "wait"] * report.frames
        assert report.transfers == times(report.frames, HOST)

    def test_a_limit_leaves_nothing_on_its_way(self, root):
        driver, got = FakeDriver(), []
        sink = CallbackSink(lambda frame, depth, facts: got.append(frame.index))
        with self.engine(root, driver) as engine:
            source = PatternSource(*HW, fps=0)
            report = run_source(engine.bundle, source, [sink], engine=engine, limit=7)
            assert got == list(range(7))
            assert report.transfers == times(7, HOST)
            assert engine.backend.submit(frames(np.random.default_rng(0), 1)[0]) in (0, 1)


def test_cpu_backends_count_no_transfers(root):
    report = run_source(open_bundle(root), PatternSource(*HW, fps=0, total=3), [])
    assert report.transfers is None
    assert report.frames == 3
