"""A package on the double of a GPU: what is called in which order, what is copied, what is released."""

import gc
import threading

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.limits import LIMITS, measure_parity
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.runtime.backends.backend import GpuPicture
from e2e_deploy.runtime.backends.dlpack import CUDA, RawArray
from e2e_deploy.runtime.backends.gpu.pipeline import SLOTS, WARM_UP
from e2e_deploy.runtime.backends.gpu.transfers import Count, budget
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from tests.fake_cuda import GPU, FakeDriver
from tests.plain_bundle import HW, edit_manifest, plain_depth, write_plain_bundle
from tests.runtime.fake_plans import frames
from tests.runtime.packages import add_fake_package, load_on_gpu

IN_BYTES, OUT_BYTES = HW[0] * HW[1] * 3, HW[0] * HW[1] * 4


@pytest.fixture(autouse=True)
def package(root):
    return add_fake_package(root)


def handles(driver, kind):
    return [handle for handle, found in driver.live.items() if found == kind]


class TestCalls:
    def test_results_are_right_and_their_own(self, root, rng):
        with load_on_gpu(root) as backend:
            pictures = frames(rng)
            results = [backend(picture) for picture in pictures]
            assert backend.cuda_graph
            assert backend.gpu_ms == 1.5
            given = np.empty(HW, np.float32)
            assert backend(pictures[0], given) is given
        for picture, result in zip(pictures, results, strict=True):
            np.testing.assert_allclose(result, plain_depth(picture), rtol=1e-6)
        np.testing.assert_array_equal(given, results[0])

    def test_every_call_in_order_with_its_address_and_size(self, root, rng, package):
        driver = FakeDriver()
        backend = load_on_gpu(root, driver)
        up, compute, down = handles(driver, "stream")
        memory, events = handles(driver, "memory"), handles(driver, "event")
        graphs = handles(driver, "graph")
        assert len(graphs) == SLOTS

        def frame(slot, run):
            into, out = memory[2 * slot : 2 * slot + 2]
            start, uploaded, computed, downloaded = events[4 * slot : 4 * slot + 4]
            yield ("copy_in", into, IN_BYTES, up)
            yield ("record", uploaded, up)
            yield ("stream_wait", compute, uploaded)
            yield ("record", start, compute)
            yield run
            yield ("record", computed, compute)
            yield ("stream_wait", down, computed)
            yield ("copy_out", out, OUT_BYTES, down)
            yield ("record", downloaded, down)

        def run(slot):
            return ("run_package", *memory[2 * slot : 2 * slot + 2], compute)

        def launch(slot):
            return ("launch", graphs[slot], compute)

        wanted = [("use",), ("load_package", package.stat().st_size), *[("new_stream",)] * 3]
        for _ in range(SLOTS):
            for amount in (IN_BYTES, OUT_BYTES):
                wanted += [("allocate", amount), ("allocate_pinned", amount)]
            wanted += [("new_event",)] * 4
        for slot in range(SLOTS):
            for _ in range(WARM_UP):
                wanted += [*frame(slot, run(slot)), ("wait", events[4 * slot + 3])]
        all_done = [("synchronise", stream) for stream in (up, compute, down)]
        wanted += all_done
        for slot in range(SLOTS):
            wanted += [("begin_capture", compute), run(slot), ("end_capture", compute)]
            wanted += [launch(slot), ("synchronise", compute)]
        for slot in range(SLOTS):
            wanted += frame(slot, launch(slot))
        assert driver.calls == wanted + all_done

        driver.calls.clear()
        backend(frames(rng)[0])
        assert driver.calls == [
            ("use",),
            *frame(0, launch(0)),
            ("use",),
            ("wait", events[3]),
        ]
        driver.calls.clear()
        backend.close()
        assert [name for name in driver.names() if not name.startswith("free")] == [
            "use",
            *["synchronise"] * 3,
            *["destroy_graph"] * SLOTS,
            *["destroy_event"] * 4 * SLOTS,
            "delete_package",
            "release",
            *["destroy_stream"] * 3,
            "close",
        ]
        assert driver.live == {}
        backend.close()
        assert driver.names()[-1] == "close"

    def test_the_file_it_was_loaded_from_is_gone(self, root):
        with load_on_gpu(root) as backend:
            file = backend._torch.loaded
        assert not file.parent.exists()
        assert root not in file.parents

    def test_a_second_thread_makes_the_gpu_current(self, root, rng):
        driver = FakeDriver()
        with load_on_gpu(root, driver) as backend:
            thread = threading.Thread(target=backend, args=(frames(rng)[0],))
            driver.calls.clear()
            thread.start()
            thread.join()
            assert driver.names()[0] == "use"

    def test_it_says_what_it_is(self, root):
        with load_on_gpu(root) as backend:
            assert backend.device == "NVIDIA Fake 4090, sm89, one CUDA graph, torch 2.13.0+cu130"
            assert backend.name == "inductor"


class TestCopies:
    def test_a_file_overlaps_and_keeps_its_order_and_budget(self, root):
        bundle, painted = open_bundle(root), []
        sink = CallbackSink(lambda frame, depth, facts: painted.append(read_number(depth)))
        backend = load_on_gpu(root)
        with Engine(bundle, bundle.manifest.graphs[0], backend, "a double") as engine:
            source = PatternSource(*HW, fps=0, total=30)
            report = run_source(bundle, source, [sink], engine=engine)
        assert painted == list(range(30))
        once = budget("host frame", frame_bytes=IN_BYTES, result_bytes=OUT_BYTES)
        assert report.transfers == {k: Count(30 * c.calls, 30 * c.bytes) for k, c in once.items()}

    def test_a_picture_on_the_gpu_is_not_uploaded(self, root, rng):
        driver, picture = FakeDriver(), frames(rng, 1)[0]
        with load_on_gpu(root, driver) as backend:
            address = driver.allocate(IN_BYTES)
            driver.memory[address][:] = picture.ravel()
            result = backend.collect(backend.submit(GpuPicture(address, HW)))
            np.testing.assert_allclose(result, plain_depth(picture), rtol=1e-6)
            assert backend.transfers.counts["upload"] == Count()
            assert backend.transfers.counts["on_gpu"] == Count(1, IN_BYTES)

    def test_memory_of_the_caller_is_computed_on_without_a_copy(self, root, rng):
        driver, picture = FakeDriver(), frames(rng, 1)[0]
        with load_on_gpu(root, driver) as backend:
            address = driver.allocate(IN_BYTES)
            driver.memory[address][:] = picture.ravel()
            driver.calls.clear()
            result = backend.on_gpu(RawArray(address, (*HW, 3), "uint8", (CUDA, 0)))
            assert driver.calls[2:] == [
                ("allocate", OUT_BYTES),
                ("run_package", address, result.address, backend.stream),
                ("synchronise", backend.stream),
            ]
            assert set(backend.transfers.counts.values()) == {Count()}
            found = driver.memory[result.address].view(np.float32).reshape(result.shape)
            np.testing.assert_allclose(found, plain_depth(picture), rtol=1e-6)
        assert set(driver.live) == {address, result.address}
        del result
        gc.collect()
        assert set(driver.live) == {address}


class TestFailures:
    @pytest.mark.parametrize("step", ["begin_capture", "end_capture", "launch"])
    def test_a_graph_that_cannot_be_made_is_reported_and_results_stay_right(self, root, rng, step):
        driver = FakeDriver(fails={step: "the GPU reports CUDA_ERROR_STREAM_CAPTURE"})
        with load_on_gpu(root, driver) as backend:
            assert not backend.cuda_graph
            assert "no CUDA graph: the GPU reports CUDA_ERROR_STREAM_CAPTURE" in backend.device
            picture = frames(rng)[0]
            np.testing.assert_allclose(backend(picture), plain_depth(picture), rtol=1e-6)
        assert driver.live == {}

    def test_a_run_that_fails_in_capture_ends_the_capture(self, root, rng):
        driver = FakeDriver()
        with load_on_gpu(root, driver, failing_runs={SLOTS * WARM_UP + 1}) as backend:
            assert "boom" in backend.cuda_graph_reason
            assert driver.captured is None
            picture = frames(rng)[0]
            np.testing.assert_allclose(backend(picture), plain_depth(picture), rtol=1e-6)
        assert driver.live == {}

    @pytest.mark.parametrize("runs", [{1}, {SLOTS * WARM_UP + 1, SLOTS * WARM_UP + 2}])
    def test_a_package_that_does_not_run_shows_at_load(self, root, runs):
        driver = FakeDriver()
        with pytest.raises(E2EDeployError, match="boom"):
            load_on_gpu(root, driver, failing_runs=runs)
        gc.collect()
        assert driver.live == {}

    @pytest.mark.parametrize("step", ["allocate", "allocate_pinned", "new_event", "new_stream"])
    def test_a_gpu_error_is_raised_and_everything_released(self, root, step):
        driver = FakeDriver(fails={step: "the GPU reports CUDA_ERROR_OUT_OF_MEMORY"})
        with pytest.raises(E2EDeployError, match="OUT_OF_MEMORY"):
            load_on_gpu(root, driver)
        gc.collect()
        assert driver.live == {}

    def test_a_package_that_torch_refuses(self, root):
        driver = FakeDriver()
        with pytest.raises(E2EDeployError, match=r"does not load plans/.*boom; rebuild it with: `"):
            load_on_gpu(root, driver, not_loaded="boom")
        with pytest.raises(UnavailableError, match="needs more memory than is free"):
            load_on_gpu(root, driver, not_loaded="CUDA out of memory. Tried to allocate 2 GiB")
        assert driver.live == {}

    def test_an_old_driver(self, root):
        driver = FakeDriver(Gpu(GPU.name, GPU.target, (12, 4)))
        with pytest.raises(
            UnavailableError, match=r"CUDA 13, and the one here supports CUDA 12\.4"
        ):
            load_on_gpu(root, driver)
        assert "load_package" not in driver.names()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_for_real(tmp_path, compiled, precision):
    """Frames that overlap on a GPU are right and keep their order and their budget, in one CUDA graph a slot."""
    root = write_plain_bundle(tmp_path / "bundle")
    edit_manifest(root, lambda value: value.update(precision=precision))
    compiled(root, "cuda")
    bundle, painted = open_bundle(root), []
    given, references = bundle.reference(bundle.manifest.graphs[0])
    (references,) = references.values()
    with e2e.load(bundle, backend="inductor", device="cuda") as engine:
        assert engine.backend.cuda_graph, engine.backend.cuda_graph_reason
        for frame, reference in zip(given, references, strict=True):
            parity = measure_parity("depth", engine(frame), reference)
            assert parity.breaks(LIMITS["inductor", precision]) == []
        sink = CallbackSink(lambda frame, depth, facts: painted.append(read_number(depth)))
        report = run_source(bundle, PatternSource(*HW, fps=0, total=30), [sink], engine=engine)
        assert engine.backend.gpu_ms > 0
    assert painted == list(range(30))
    once = budget("host frame", frame_bytes=IN_BYTES, result_bytes=OUT_BYTES)
    assert report.transfers == {k: Count(30 * c.calls, 30 * c.bytes) for k, c in once.items()}
    with e2e.load(bundle, backend="inductor", device="cuda") as again:  # all was given back
        assert again.backend.cuda_graph
