"""ONNX Runtime's CUDA provider in the GPU's pipeline: what is called in which order, on the recording double.

Its sessions are ONNX Runtime's own of the CPU for what a graph is; what they compute is the double's.
"""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.runtime.backends.backend import GpuPicture
from e2e_deploy.runtime.backends.gpu.pipeline import SLOTS, WARM_UP
from e2e_deploy.runtime.backends.gpu.transfers import budget
from e2e_deploy.runtime.backends.onnxruntime import backend as backend_module
from e2e_deploy.runtime.backends.onnxruntime import cuda as cuda_module
from e2e_deploy.runtime.backends.onnxruntime import provider as provider_module
from e2e_deploy.runtime.backends.onnxruntime.backend import load_onnxruntime
from tests.fake_cuda import FakeDriver
from tests.plain_bundle import (
    HW,
    add_variant,
    edit_manifest,
    plain_depth,
    rehash,
    write_plain_bundle,
)
from tests.runtime.fake_plans import frames

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
VARIANT = "model_24x32-onnxruntime-cuda.onnx"
IN_BYTES, OUT_BYTES = HW[0] * HW[1] * 3, HW[0] * HW[1] * 4
NO_WAIT = "disable_synchronize_execution_providers"


class Bound:
    """An IOBinding: names and addresses."""

    def __init__(self, driver):
        self.driver = driver

    def bind_input(self, *given):
        self.frame = given
        self.driver.note("bind", given[0], given[-1])

    def bind_output(self, *given):
        self.result = given
        self.driver.note("bind", given[0], given[-1])


class Session:
    """An InferenceSession on the CUDA provider, on the double's memory; ``failing`` are runs that raise."""

    failing = ()

    def __init__(self, driver, path, options, providers, made):
        self.driver, self.path = driver, path
        (name, self.options), last = providers
        assert (name, last) == (CUDA, CPU)
        self.stream = int(self.options.get("user_compute_stream", 0))
        self.of_cpu = made(path, options, providers=[CPU])
        self.runs = 0
        driver.note("session", path.rpartition("/")[2])
        driver.live[id(self)] = "session"

    def __del__(self):
        self.driver.note("delete_session")
        del self.driver.live[id(self)]

    def disable_fallback(self):
        pass

    def get_providers(self):
        return [CUDA, CPU]

    def get_inputs(self):
        return self.of_cpu.get_inputs()

    def get_outputs(self):
        return self.of_cpu.get_outputs()

    def io_binding(self):
        return Bound(self.driver)

    def run_with_iobinding(self, bound, options):
        assert options.get_run_config_entry(NO_WAIT) == "1"
        assert options.get_run_config_entry("gpu_graph_id") == "-1"
        self.driver.note("run", self.stream)
        self.runs += 1
        if self.runs in self.failing:
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED ; GPU=0")
        name, device, index, kind, shape, source = bound.frame
        assert (name, device, index, kind) == ("frame", "cuda", 0, np.uint8)
        into, memory = bound.result[-1], self.driver.memory

        def work():
            depth = plain_depth(memory[source].reshape(shape)).astype(np.float32)
            memory[into][:] = depth.view(np.uint8).ravel()

        self.driver.enqueue(self.stream, work)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is the double, and an ONNX Runtime that reaches it; ``sessions`` are their options."""
    driver, made = FakeDriver(), ort.InferenceSession
    driver.sessions = []

    def new_session(path, options, providers):
        session = Session(driver, path, options, providers, made)
        driver.sessions.append(session.options)
        return session

    monkeypatch.setattr(ort, "InferenceSession", new_session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(provider_module, "_preload", lambda ort: None)
    monkeypatch.setattr(provider_module, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(backend_module, "_has_cuda_python", lambda: True)

    def new_driver(extra, index):
        assert (extra, index) == ("cuda", 0)
        driver.use()
        return driver

    monkeypatch.setattr(cuda_module, "CudaDriver", new_driver)
    return driver


@pytest.fixture
def varied(root):
    """The plain bundle in fp16 by name, with a variant that is the same graph."""
    assert add_variant(root) == VARIANT
    return root


def load(root, **options):
    return e2e.load(root, backend="onnxruntime", **options)


def handles(driver, kind):
    return [handle for handle, found in driver.live.items() if found == kind]


def test_every_call_in_order(gpu, root, rng):
    engine = load(root)
    up, compute, down = handles(gpu, "stream")
    memory, events, graphs = (handles(gpu, kind) for kind in ("memory", "event", "graph"))
    runs = [call for call in gpu.calls if call[0] in ("session", "bind", "run", "begin_capture")]
    wanted = [("session", "model_24x32.onnx")]
    for slot in range(SLOTS):  # bound once a slot
        wanted += [("bind", "frame", memory[2 * slot]), ("bind", "depth", memory[2 * slot + 1])]
        wanted += [("run", compute)] * WARM_UP
    wanted += [("begin_capture", compute), ("run", compute)] * SLOTS
    assert runs == wanted
    gpu.calls.clear()
    picture = frames(rng)[0]
    np.testing.assert_allclose(engine(picture), plain_depth(picture), rtol=1e-6)
    uploaded, computed, downloaded = events[1], events[2], events[3]
    assert gpu.calls == [
        ("use",),
        ("copy_in", memory[0], IN_BYTES, up),
        ("record", uploaded, up),
        ("stream_wait", compute, uploaded),
        ("record", events[0], compute),
        ("launch", graphs[0], compute),
        ("record", computed, compute),
        ("stream_wait", down, computed),
        ("copy_out", memory[1], OUT_BYTES, down),
        ("record", downloaded, down),
        ("use",),
        ("wait", downloaded),
    ]
    gpu.calls.clear()
    engine.close()
    order = [name for name in gpu.names() if name in ("destroy_graph", "delete_session")]
    assert order == ["destroy_graph"] * SLOTS + ["delete_session"]
    assert gpu.names().index("delete_session") < gpu.names().index("destroy_stream")
    assert gpu.live == {}


def test_two_frames_on_their_way_and_what_crosses(gpu, root, rng):
    first, second, third = frames(rng)
    with load(root) as engine:
        backend = engine.backend
        assert (backend.name, backend.slots, backend.gpu) == ("onnxruntime", 2, 0)
        assert backend.device == "NVIDIA Fake 4090, sm89, one CUDA graph, CUDA, portable graph"
        slots = [engine.submit(first), engine.submit(second)]
        results = [engine.collect(slot) for slot in slots]
        np.testing.assert_allclose(results[0], plain_depth(first), rtol=1e-6)
        np.testing.assert_allclose(results[1], plain_depth(second), rtol=1e-6)
        once = budget("host frame", frame_bytes=IN_BYTES, result_bytes=OUT_BYTES)
        assert backend.transfers.counts == {k: count + count for k, count in once.items()}
        address = gpu.allocate(IN_BYTES)  # a picture that was decoded there
        gpu.memory[address][:] = third.ravel()
        result = engine.collect(engine.submit(GpuPicture(address, HW)))
        np.testing.assert_allclose(result, plain_depth(third), rtol=1e-6)
        assert backend.gpu_ms == 1.5


def test_memory_of_the_caller(gpu, root, rng):
    """Bindings are kept for the slots and the newest others, however many arrays come."""
    from tests.runtime.backends.test_on_gpu import OnGpu, value

    with load(root) as engine:
        for picture in frames(rng, 2 * cuda_module._MOST_BOUND):
            given, out = OnGpu(gpu, picture), OnGpu(gpu, np.zeros(HW, np.float32))
            gpu.calls.clear()
            assert engine(given, out=out) is out
            assert gpu.names() == ["use", "bind", "bind", "run", "synchronise"]
            np.testing.assert_allclose(value(gpu, out), plain_depth(picture), rtol=1e-6)
        bound = engine.backend._pipeline._computation._bound
        assert len(bound) == cuda_module._MOST_BOUND
        gpu.calls.clear()
        np.testing.assert_allclose(engine(picture), plain_depth(picture), rtol=1e-6)
        assert "bind" not in gpu.names()


def test_several_frames_at_once(gpu, tmp_path, rng):
    pair = frames(rng, 2)
    with load(write_plain_bundle(tmp_path / "b", batch=2)) as engine:
        np.testing.assert_allclose(engine(pair), plain_depth(pair), rtol=1e-6)


class TestOptions:
    def test_of_the_portable_graph(self, gpu, root):
        with load(root, provider_options={"gpu_mem_limit": 2**30}):
            (options,) = gpu.sessions
        assert options == {
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "use_tf32": "0",
            "device_id": "0",
            "gpu_mem_limit": str(2**30),
            "enable_cuda_graph": "1",
            "user_compute_stream": options["user_compute_stream"],
        }

    def test_of_the_variant(self, gpu, varied):
        with load(varied) as engine:
            assert engine.backend.device.endswith("one CUDA graph, CUDA, graph for this provider")
            (options,) = gpu.sessions
        assert ("session", VARIANT) in gpu.calls
        assert (options["use_tf32"], options["prefer_nhwc"]) == ("1", "1")
        assert "sdpa_kernel" not in options
        assert options["enable_cuda_graph"] == "1"  # it knows, and the driver records

    def test_attention_with_wide_sums_on_a_gpu_without_flash_attention(self, gpu, varied):
        gpu.gpu = Gpu("NVIDIA Fake T4", "sm75", (13, 1))
        with load(varied), load(varied, provider_options={"sdpa_kernel": 16}):
            assert [options["sdpa_kernel"] for options in gpu.sessions] == ["2", "16"]

    def test_the_user_takes_the_portable_graph(self, gpu, varied):
        with load(varied, provider_options={"prefer_nhwc": False}) as engine:
            assert engine.backend.device.endswith("portable graph")
            assert gpu.sessions[0]["prefer_nhwc"] == "0"
        assert ("session", "model_24x32.onnx") in gpu.calls
        assert ("session", VARIANT) not in gpu.calls

    @pytest.mark.parametrize("name", provider_module.OURS)
    def test_that_are_the_engines_own(self, gpu, root, name):
        with pytest.raises(e2e.UsageError, match=f"name {name}, which the engine sets itself"):
            load(root, provider_options={name: 1})
        assert gpu.live == {}

    def test_without_a_recording(self, gpu, root, rng):
        picture = frames(rng)[0]
        with load(root, provider_options={"enable_cuda_graph": False}) as engine:
            assert "no CUDA graph: `provider_options` turn `enable_cuda_graph` off" in (
                engine.backend.device
            )
            assert "begin_capture" not in gpu.names()
            assert gpu.sessions[0]["enable_cuda_graph"] == "0"
            np.testing.assert_allclose(engine(picture), plain_depth(picture), rtol=1e-6)


def test_a_run_that_cannot_be_recorded_is_said(gpu, root, rng):
    gpu.fails["begin_capture"] = "the GPU reports CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    picture = frames(rng)[0]
    with load(root) as engine:
        assert "no CUDA graph: the GPU reports CUDA_ERROR_STREAM_CAPTURE" in engine.backend.device
        np.testing.assert_allclose(engine(picture), plain_depth(picture), rtol=1e-6)


def test_a_graph_with_nodes_on_the_cpu_is_not_recorded(gpu, root, rng, monkeypatch):
    said = (
        "This session cannot use the graph capture feature as requested by the user as all compute graph nodes have "
        "not been partitioned to the CUDAExecutionProvider"
    )

    def init(self, driver, path, options, providers, made):
        if providers[0][1]["enable_cuda_graph"] == "1":
            raise RuntimeError(said)
        made_before(self, driver, path, options, providers, made)

    made_before = Session.__init__
    monkeypatch.setattr(Session, "__init__", init)
    monkeypatch.delattr(Session, "__del__")  # one that was not made has nothing to say
    picture = frames(rng)[0]
    with load(root) as engine:
        assert f"no CUDA graph: ONNX Runtime cannot load model_24x32.onnx: {said}" in (
            engine.backend.device
        )
        np.testing.assert_allclose(engine(picture), plain_depth(picture), rtol=1e-6)


@pytest.mark.parametrize("run", [1, WARM_UP * SLOTS + 1, WARM_UP * SLOTS + 3])
def test_a_session_that_fails(gpu, root, monkeypatch, run):
    """While it warms up, while it is recorded (then it goes on without), and when it runs on an array."""
    from tests.runtime.backends.test_on_gpu import OnGpu

    monkeypatch.setattr(Session, "failing", (run,))
    why = "model_24x32.onnx fails in ONNX Runtime: CUDNN_STATUS_EXECUTION_FAILED"
    if run == 1:
        with pytest.raises(e2e.E2EDeployError, match=why):
            load(root)
        assert gpu.live == {}
        return
    with load(root) as engine:
        if run == WARM_UP * SLOTS + 1:
            assert f"no CUDA graph: {why}" in engine.backend.device
            return
        given = OnGpu(gpu, np.zeros((*HW, 3), np.uint8))
        with pytest.raises(e2e.E2EDeployError, match=why):
            engine(given)


def test_a_session_that_does_not_start(gpu, root, monkeypatch):
    monkeypatch.setattr(Session, "get_providers", lambda self: [CPU])
    with pytest.raises(e2e.UnavailableError, match="could not start its CUDA; pip install"):
        load(root)
    assert gpu.live == {}


def test_a_variant_with_other_tensors_is_refused(gpu, varied, tmp_path):
    other = write_plain_bundle(tmp_path / "other", task="normals")
    shutil.copy(other / "model_24x32.onnx", varied / VARIANT)
    rehash(varied, VARIANT)
    with pytest.raises(e2e.BundleError, match=f"{VARIANT} is not the graph its manifest describes"):
        load(varied)
    assert gpu.live == {}


def test_a_changed_variant_is_refused(gpu, varied):
    bundle = open_bundle(varied)
    (varied / VARIANT).write_bytes((varied / VARIANT).read_bytes() + b"\x00\x00")
    with pytest.raises(e2e.BundleError, match="is not the file that was exported"):
        load(bundle)


def test_on_a_cpu_the_portable_graph_runs(varied, rng):
    edit_manifest(varied, lambda manifest: manifest.update(precision="fp32"))
    with load(varied, device="cpu") as engine:
        assert engine.backend.device.startswith("CPU")
        (varied / VARIANT).unlink()  # nobody looks for it


def test_a_core_graph_is_not_of_frames(gpu, root):
    """Its input is float32 and its sides may be open: it is bound where it lies."""
    bundle = open_bundle(root)
    (graph,) = bundle.manifest.graphs
    backend = load_onnxruntime(bundle, replace(graph, kind="core"), "cuda")
    assert backend.device == "CUDA, buffers in ordinary memory: a core graph"
    assert gpu.calls == [("session", "model_24x32.onnx")]
    backend.close()


def test_without_cuda_python_buffers_are_ordinary(gpu, varied, monkeypatch):
    monkeypatch.setattr(backend_module, "_has_cuda_python", lambda: False)
    with load(varied) as engine:
        assert "buffers in ordinary memory: page-locked ones need cuda-python: pip" in (
            engine.backend.device
        )
        assert engine.backend.transfers is None
    assert gpu.sessions[0]["prefer_nhwc"] == "1"
    assert gpu.calls[0] == ("session", VARIANT)
    with pytest.raises(
        e2e.UsageError, match="`enable_cuda_graph` of `provider_options` needs cuda"
    ):
        load(varied, provider_options={"enable_cuda_graph": True})


@pytest.mark.gpu
@pytest.mark.parametrize("recorded", [True, False])
def test_for_real(root, rng, recorded):
    """Overlapping frames from two threads, recorded and not, beside arrays on the GPU."""
    pictures = frames(rng, 6)
    with load(root, device="cuda:0", provider_options={"enable_cuda_graph": recorded}) as engine:
        assert engine.backend.cuda_graph is recorded, engine.backend.cuda_graph_reason
        for before, after in itertools.pairwise(pictures):
            slots = [engine.submit(before), engine.submit(after)]
            for picture, slot in zip((before, after), slots, strict=True):
                np.testing.assert_allclose(engine.collect(slot), plain_depth(picture), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.slow
def test_the_variant_for_real(tmp_path):
    """e2e-tiny in fp16: within the limit, and as the portable graph is."""
    bundle = e2e.export_bundle(
        out=tmp_path / "b", precision="fp16", frame_sizes=[(96, 128)], resolution=0, engine="onnx"
    )
    found, results = bundle.reference(bundle.manifest.graphs[0])
    (results,) = results.values()
    for options in ({}, {"enable_cuda_graph": False}, {"prefer_nhwc": False}):
        with load(bundle, device="cuda:0", provider_options=options) as engine:
            error = np.abs(engine(found[0]) - results[0])
            assert error.mean() < 2e-3, (options, engine.backend.device)
