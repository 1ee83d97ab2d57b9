import threading
from collections import namedtuple

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import parse_manifest
from e2e_deploy.bundle.new_bundle import write_manifest
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.nvidia.trt_api import TrtApi
from e2e_deploy.runtime.backends.gpu.pipeline import SLOTS, WARM_UP
from e2e_deploy.runtime.backends.gpu.transfers import Count, budget
from e2e_deploy.runtime.backends.tensorrt.backend import inspect_plan
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from tests.fake_cuda import FakeDriver, fake_tensorrt
from tests.plain_bundle import HW, plain_depth, write_plain_bundle
from tests.runtime.fake_plans import VERSION, add_plan, frames, load

IN_BYTES, OUT_BYTES = HW[0] * HW[1] * 3, HW[0] * HW[1] * 4

Slot = namedtuple("Slot", "frame result start uploaded computed downloaded graph")


def handles(driver, kind):
    """What is not yet released, in the order it was made."""
    return [handle for handle, found in driver.live.items() if found == kind]


@pytest.mark.usefixtures("engine")
class TestCalls:
    def test_results_are_right_and_their_own(self, root, rng):
        with load(root) as backend:
            pictures = frames(rng)
            results = [backend(picture) for picture in pictures]
            assert backend.cuda_graph
            assert backend.cuda_graph_reason == ""
            assert backend.gpu_ms == 1.5
        for picture, result in zip(pictures, results, strict=True):
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, plain_depth(picture), rtol=1e-6)

    def test_every_call_in_order_with_its_address_and_size(self, root, rng):
        driver = FakeDriver()
        backend = load(root, driver)
        up, compute, down = handles(driver, "stream")
        memory, events = handles(driver, "memory"), handles(driver, "event")
        graphs = handles(driver, "graph")
        assert all(address % 256 == 0 for address in memory)
        slots = [
            Slot(*memory[2 * i : 2 * i + 2], *events[4 * i : 4 * i + 4], graphs[i])
            for i in range(SLOTS)
        ]

        def bound(slot):
            yield ("set_tensor_address", "frame", slot.frame)
            yield ("set_tensor_address", "depth", slot.result)
            yield ("execute", compute)

        def frame(slot, run):
            yield ("copy_in", slot.frame, IN_BYTES, up)
            yield ("record", slot.uploaded, up)
            yield ("stream_wait", compute, slot.uploaded)
            yield ("record", slot.start, compute)
            yield from run
            yield ("record", slot.computed, compute)
            yield ("stream_wait", down, slot.computed)
            yield ("copy_out", slot.result, OUT_BYTES, down)
            yield ("record", slot.downloaded, down)

        def launch(slot):
            return [("launch", slot.graph, compute)]

        assert driver.names()[:2] == ["use", "deserialise"]
        wanted = [("new_stream",)] * 3 + [("create_context",)]
        for _ in slots:
            for amount in (IN_BYTES, OUT_BYTES):
                wanted += [("allocate", amount), ("allocate_pinned", amount)]
            wanted += [("new_event",)] * 4
        for slot in slots:
            for _ in range(WARM_UP):
                wanted += [*frame(slot, bound(slot)), ("wait", slot.downloaded)]
        all_done = [("synchronise", stream) for stream in (up, compute, down)]
        wanted += all_done
        for slot in slots:
            wanted += [("begin_capture", compute), *bound(slot), ("end_capture", compute)]
            wanted += [*launch(slot), ("synchronise", compute)]
        for slot in slots:
            wanted += frame(slot, launch(slot))
        assert driver.calls[2:] == wanted + all_done

        driver.calls.clear()
        backend(frames(rng)[0])
        first = slots[0]
        assert driver.calls == [
            ("use",),
            *frame(first, launch(first)),
            ("use",),
            ("wait", first.downloaded),
        ]
        driver.calls.clear()
        backend.close()
        assert [name for name in driver.names() if not name.startswith("free")] == [
            "use",
            *["synchronise"] * 3,
            *["destroy_graph"] * SLOTS,
            *["destroy_event"] * 4 * SLOTS,
            "delete_context",
            *["destroy_stream"] * 3,
            "delete_engine",
            "close",
        ]
        assert driver.live == {}
        backend.close()
        assert driver.names()[-1] == "close"

    def test_a_second_thread_makes_the_gpu_current(self, root, rng):
        driver = FakeDriver()
        with load(root, driver) as backend:
            driver.calls.clear()
            thread = threading.Thread(target=backend, args=(frames(rng)[0],))
            thread.start()
            thread.join()
            assert driver.names()[0] == "use"

    def test_it_says_what_it_is(self, root):
        with load(root) as backend:
            assert backend.device == "NVIDIA Fake 4090, sm89, one CUDA graph, 3 MiB for activations"
            assert backend.activation_bytes == 3 << 20

    def test_its_layers_are_counted(self, root):
        driver, bundle = FakeDriver(), open_bundle(root)
        api = TrtApi("tensorrt", fake_tensorrt(VERSION, driver))
        entry, layers = inspect_plan(
            bundle, bundle.manifest.graphs[0], "tensorrt", api=api, driver=driver
        )
        assert entry == bundle.manifest.plans[0]
        assert layers == {"layers": 1, "fp16": 1, "reformat": 0}
        assert driver.live == {}


@pytest.mark.usefixtures("engine")
class TestFallback:
    @pytest.mark.parametrize("step", ["begin_capture", "end_capture", "launch"])
    def test_a_graph_that_cannot_be_made_is_reported_and_results_stay_right(self, root, rng, step):
        driver = FakeDriver(fails={step: "the GPU reports CUDA_ERROR_STREAM_CAPTURE"})
        with load(root, driver) as backend:
            assert not backend.cuda_graph
            assert "STREAM_CAPTURE" in backend.cuda_graph_reason
            assert "no CUDA graph: the GPU reports" in backend.device
            picture = frames(rng)[0]
            np.testing.assert_allclose(backend(picture), plain_depth(picture), rtol=1e-6)
        assert driver.live == {}

    def test_a_run_that_fails_in_capture_ends_the_capture(self, root, rng):
        driver = FakeDriver()
        with load(root, driver, failing_runs={SLOTS * WARM_UP + 1}) as backend:
            assert "boom" in backend.cuda_graph_reason
            assert "end_capture" in driver.names()
            assert driver.captured is None
            picture = frames(rng)[0]
            np.testing.assert_allclose(backend(picture), plain_depth(picture), rtol=1e-6)
        assert driver.live == {}

    def test_rtx_is_asked_whether_the_stream_can_be_captured(self, root):
        add_plan(root, backend="tensorrt-rtx", gpu="")
        driver = FakeDriver()
        with load(root, driver, library="tensorrt-rtx", capturable=False) as backend:
            assert "cannot be captured" in backend.cuda_graph_reason
        assert "begin_capture" not in driver.names()
        with load(root, library="tensorrt-rtx", capturable=True) as backend:
            assert backend.cuda_graph

    def test_a_context_broken_by_the_capture_shows_at_load(self, root):
        driver = FakeDriver()
        with pytest.raises(E2EDeployError, match=r"could not run the plan: .*boom"):
            load(root, driver, failing_runs={SLOTS * WARM_UP + 1, SLOTS * WARM_UP + 2})
        assert driver.live == {}

    def test_a_context_broken_by_the_capture_goes_before_its_memory(self, root):
        add_plan(root, backend="tensorrt-rtx", gpu="")
        driver, broken = FakeDriver(), {SLOTS * WARM_UP + 1, SLOTS * WARM_UP + 2}
        with pytest.raises(E2EDeployError, match="boom"):
            load(root, driver, library="tensorrt-rtx", capturable=True, failing_runs=broken)
        names = driver.names()
        order = ["delete_context", "destroy_stream", "delete_engine", "close"]
        assert sorted(order, key=names.index) == order


@pytest.mark.usefixtures("engine")
class TestFailures:
    @pytest.mark.parametrize(
        ("behaviour", "message"),
        [
            ({"no_address": True}, "did not take the address of frame"),
            ({"no_context": True}, "could not make an execution context, which takes 3 MiB"),
            ({"failing_runs": {1}}, "could not run the plan: .*boom"),
        ],
    )
    def test_everything_is_released(self, root, behaviour, message):
        driver = FakeDriver()
        with pytest.raises(E2EDeployError, match=message):
            load(root, driver, **behaviour)
        assert driver.live == {}
        assert driver.names()[-1] == "close"

    @pytest.mark.parametrize("step", ["allocate", "allocate_pinned", "new_event", "synchronise"])
    def test_a_gpu_error_is_raised_and_everything_released(self, root, step):
        driver = FakeDriver(fails={step: "the GPU reports CUDA_ERROR_OUT_OF_MEMORY"})
        with pytest.raises(E2EDeployError, match="OUT_OF_MEMORY"):
            load(root, driver)
        assert driver.live == {}

    def test_an_unaligned_address_is_refused(self, root):
        driver = FakeDriver(alignment=64)
        with pytest.raises(E2EDeployError, match="256 does not divide"):
            load(root, driver)
        assert driver.live == {}

    def test_it_does_not_run_on_a_cpu(self, root):
        with pytest.raises(UsageError, match="GPU only"):
            load(root, device="cpu")


class TestThisMachine:
    @pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
    @pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
    def test_a_named_backend_that_is_not_here_is_one_sentence(self, root, library):
        with pytest.raises(UnavailableError) as caught:
            e2e.load(root, backend=library)
        assert caught.value.exit_code == 4
        assert "\n" not in str(caught.value)
        assert "no NVIDIA GPU" in str(caught.value) or "not installed" in str(caught.value)


def _for_real(tmp_path, library):
    """Frames that overlap on a GPU keep their order and their budget; test_parity.py says that results are right."""
    from e2e_deploy.export.engines.build import build_plans
    from e2e_deploy.export.engines.cache import PlanCache
    from e2e_deploy.nvidia.cuda_driver import current_gpu
    from tests.small_graphs import drop_unread

    root = drop_unread(write_plain_bundle(tmp_path / "bundle"))
    manifest = parse_manifest((root / "manifest.json").read_text())
    targets = (current_gpu().target,) if library == "tensorrt-rtx" else ()
    built = build_plans(
        root, manifest, engine=library, targets=targets, cache=PlanCache(tmp_path / "cache")
    )
    manifest.plans.extend(built.entries)
    write_manifest(root, manifest)
    bundle = open_bundle(root)
    with e2e.load(bundle, backend=library) as engine:
        assert engine.backend.cuda_graph, engine.backend.cuda_graph_reason
        painted = []
        sink = CallbackSink(lambda frame, depth, facts: painted.append(read_number(depth)))
        report = run_source(bundle, PatternSource(*HW, fps=0, total=30), [sink], engine=engine)
    assert painted == list(
        range(30)
    )  # two frames at a time on their way, none mistaken for another
    once = budget("host frame", frame_bytes=IN_BYTES, result_bytes=OUT_BYTES)
    assert report.transfers == {k: Count(30 * c.calls, 30 * c.bytes) for k, c in once.items()}


@pytest.mark.gpu
@pytest.mark.trt
def test_tensorrt_for_real(tmp_path):
    _for_real(tmp_path, "tensorrt")


@pytest.mark.gpu
@pytest.mark.rtx
def test_tensorrt_rtx_for_real(tmp_path):
    _for_real(tmp_path, "tensorrt-rtx")
