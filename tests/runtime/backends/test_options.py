"""Devices, threads and options of the backends: each has an effect, or is an error that says why not."""

import hashlib
import shutil
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.names import BACKEND_CHOICES, BACKENDS
from e2e_deploy.nvidia.cuda_driver import CudaDriver
from e2e_deploy.runtime import backends
from e2e_deploy.runtime.backends.device import Device, parse_device, require_cuda
from e2e_deploy.runtime.backends.onnxruntime import backend as ort_backend
from e2e_deploy.runtime.backends.onnxruntime import provider as ort_gpu
from e2e_deploy.runtime.backends.onnxruntime.options import physical_cores
from e2e_deploy.runtime.backends.onnxruntime.provider import CUDA, GpuProvider, provider_for
from e2e_deploy.runtime.backends.plans import read_plan
from e2e_deploy.runtime.backends.tensorrt import backend as trt_backend
from tests.fake_cuda import FakeDriver
from tests.plain_bundle import HW, edit_manifest
from tests.runtime.backends.test_backends import bundle_with_weights

FRAME = np.zeros((*HW, 3), np.uint8)


def session_of(engine):
    return engine.backend._session.get_session_options()


def test_every_backend_has_an_entry():
    assert tuple(backends.ENTRIES) == BACKENDS
    assert ("auto", *BACKENDS) == BACKEND_CHOICES


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", Device("auto")),
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda")),
        ("cuda:0", Device("cuda")),
        ("cuda:12", Device("cuda", 12)),
    ],
)
def test_devices(text, device):
    assert parse_device(text) == device
    assert parse_device(str(device)) == device


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "cuda:1 "])
def test_what_is_no_device(text, root):
    with pytest.raises(e2e.UsageError, match="the devices are auto, cpu, cuda, cuda:N"):
        e2e.load(root, device=text)


def test_a_device_that_is_not_here_says_how_many_are():
    for index, count, why in (
        (0, 0, "this machine has no CUDA device; use `device"),
        (1, 1, "cuda:1 was asked for, and this machine has one CUDA device, cuda:0"),
        (7, 2, "cuda:7 was asked for, and this machine has 2 CUDA devices, cuda:0 to cuda:1"),
    ):
        with pytest.raises(e2e.UnavailableError, match=why):
            require_cuda(index, count, "it")
    require_cuda(1, 2, "it")


def test_onnx_runtime_is_given_the_index(monkeypatch):
    monkeypatch.setattr(ort_gpu, "cuda_device_count", lambda: 2)
    monkeypatch.setattr(
        ort_gpu, "find_gpu_provider", lambda *_: GpuProvider(CUDA, "CUDA", "", {"use_tf32": "0"})
    )
    found = provider_for(ort, Device("cuda", 1), "fp32", {"use_tf32": True, "gpu_mem_limit": 2**30})
    assert found.options == {"device_id": "1", "use_tf32": "1", "gpu_mem_limit": str(2**30)}
    assert found.title == "CUDA, device 1"
    assert provider_for(ort, Device("auto"), "fp32").options["device_id"] == "0"
    assert provider_for(ort, Device("cpu"), "fp32") is None
    with pytest.raises(e2e.UnavailableError, match="cuda:2 was asked for, .* 2 CUDA devices"):
        provider_for(ort, Device("cuda", 2), "fp32")
    monkeypatch.setattr(
        ort_gpu, "find_gpu_provider", lambda *_: GpuProvider("Rtx", "RTX", "", devices=["a", "b"])
    )
    assert provider_for(ort, Device("cuda", 1), "fp32").devices == ["b"]
    monkeypatch.setattr(ort_gpu, "find_gpu_provider", lambda *_: None)
    with pytest.raises(e2e.UnavailableError, match="an onnxruntime without a provider for it"):
        provider_for(ort, Device("cuda"), "fp32")
    assert provider_for(ort, Device("auto"), "fp32") is None


def test_tensorrt_takes_the_driver_of_the_index(root, engine, monkeypatch):
    made = []

    def new_driver(library, index):
        made.append((library, index))
        return FakeDriver()

    monkeypatch.setattr(trt_backend, "CudaDriver", new_driver)
    monkeypatch.setattr(
        trt_backend, "find_api", lambda _: SimpleNamespace(name="tensorrt", version="0")
    )
    with pytest.raises(e2e.UnavailableError):
        e2e.load(root, backend="tensorrt", device="cuda:3")
    assert made == [("tensorrt", 3)]


def test_the_driver_of_a_device_that_is_not_here(monkeypatch):
    monkeypatch.setattr("e2e_deploy.nvidia.cuda_driver.cuda_device_count", lambda: 2)
    with pytest.raises(
        e2e.UnavailableError, match="cuda:2 was asked for, and this machine has 2 CUDA"
    ):
        CudaDriver("tensorrt", 2)


def test_threads(root):
    with e2e.load(root, device="cpu", threads=1) as engine:
        assert session_of(engine).intra_op_num_threads == 1
        assert engine.backend.device == "CPU, 1 threads"
        engine(FRAME)
    with e2e.load(root, device="cpu") as engine:
        assert session_of(engine).intra_op_num_threads == physical_cores()
    for threads in (0, -1, 10**6):
        with pytest.raises(e2e.UsageError, match=f"`threads` is {threads}; expected 1 to 1024"):
            e2e.load(root, threads=threads)


def test_threads_of_torch_are_the_processs(depth_bundle):
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        with e2e.load(depth_bundle, backend="torch", device="cpu", threads=before + 1) as engine:
            assert torch.get_num_threads() == before + 1
            assert engine.backend.device == f"CPU, {before + 1} threads"
    finally:
        torch.set_num_threads(before)


def test_session_options_go_over_ours(root):
    given = {
        "enable_mem_pattern": False,
        "execution_mode": "ORT_PARALLEL",
        "inter_op_num_threads": 2,
        "session.intra_op.allow_spinning": 0,
        "session.x64quantprecision": "0",
    }
    with e2e.load(root, device="cpu", session_options=given) as engine:
        found = session_of(engine)
        assert not found.enable_mem_pattern
        assert found.execution_mode == ort.ExecutionMode.ORT_PARALLEL
        assert found.inter_op_num_threads == 2
        assert found.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert found.get_session_config_entry("session.x64quantprecision") == "0"
        assert engine(FRAME).max() == 0


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"session_options": {"threads": 1}}, "no session option 'threads'; it has .*intra_op_num_th"),
        ({"session_options": {"enable_mem_pattern": "yes"}}, "does not take 'yes' for its session opt"),
        ({"session_options": {"execution_mode": "FAST"}}, "does not take 'FAST'"),
        ({"session_options": {"add_provider": 1}}, "no session option 'add_provider'"),
        (
            {"threads": 1, "session_options": {"intra_op_num_threads": 2}},
            "`threads` and intra_op_num_threads of `session_options` are the same thing",
        ),
        ({"provider_options": {"use_tf32": 1}, "device": "cpu"}, "`provider_options` are a GPU's, and"),
        ({"checkpoint": "x"}, "`checkpoint` has no effect with onnxruntime; it is an option of torch"),
        ({"backend": "tensorrt", "threads": 2}, "`threads` has no effect with tensorrt; .* onnxruntime"),
        ({"backend": "torch", "session_options": {}}, "`session_options` has no effect with torch"),
        ({"backend": "tensorrt-rtx", "provider_options": {}}, "`provider_options` has no effect with"),
    ],
)  # fmt: skip
def test_an_option_without_effect(root, given, why):
    with pytest.raises(e2e.UsageError, match=why):
        e2e.load(root, **given)


def test_provider_options_that_the_provider_has_not(root, monkeypatch):
    monkeypatch.setattr(ort_gpu, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(ort_gpu, "find_gpu_provider", lambda *_: GpuProvider(CUDA, "CUDA", ""))

    def refuse(*given, **names):
        raise RuntimeError('cuda_execution_provider_info.cc:85 Unknown provider option: "fast"')

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    monkeypatch.setattr(ort_backend, "_has_cuda_python", lambda: False)
    with pytest.raises(
        e2e.UsageError, match="`provider_options` hold what this device has not: .*fast"
    ):
        e2e.load(root, provider_options={"fast": 1})


class TestHashCheck:
    """Without it files are trusted by their size; native code is not."""

    @pytest.fixture
    def weighed(self, tmp_path):
        return bundle_with_weights(tmp_path / "weighed")

    @pytest.mark.parametrize("name", ["model.data", "model_24x32.onnx"])
    def test_files_are_not_hashed(self, weighed, name):
        other = (weighed / name).read_bytes().replace(b"plain", b"Plain")  # the graph's name
        if name == "model.data":
            other = bytes([other[0] ^ 1]) + other[1:]
        (weighed / name).write_bytes(other)
        with pytest.raises(e2e.BundleError, match=f"{name} .* is not the file that was exported"):
            e2e.load(weighed, device="cpu")
        with e2e.load(weighed, device="cpu", hash_check=False) as engine:
            engine(FRAME)

    def test_each_file_is_hashed_once_with_it_and_none_without(self, weighed, monkeypatch):
        hashed = []
        digest, sha256 = hashlib.file_digest, hashlib.sha256
        monkeypatch.setattr(hashlib, "file_digest", lambda *a: (hashed.append(1), digest(*a))[1])
        monkeypatch.setattr(hashlib, "sha256", lambda *a: (hashed.append(1), sha256(*a))[1])
        e2e.load(weighed, device="cpu").close()
        assert len(hashed) == len(open_bundle(weighed, hash_check=False).manifest.files)
        hashed.clear()
        e2e.load(weighed, device="cpu", hash_check=False).close()
        assert hashed == []

    def test_sizes_the_graph_and_the_manifest_are_checked(self, weighed, tmp_path):
        shorter = shutil.copytree(weighed, tmp_path / "shorter")
        (shorter / "model.data").write_bytes(b"")
        graph = weighed / "model_24x32.onnx"
        graph.write_bytes(b"\0" * graph.stat().st_size)
        told = shutil.copytree(shorter, tmp_path / "told")
        edit_manifest(told, lambda value: value.update(task="sleep"))
        for root, why in ((shorter, "is not the file"), (weighed, "model_24x32"), (told, "sleep")):
            with pytest.raises(e2e.BundleError, match=why):
                e2e.load(root, device="cpu", hash_check=False)

    def test_what_is_changed_later_is_hashed(self, weighed):
        opened = open_bundle(weighed, hash_check=False)
        (weighed / "model.data").write_bytes(b"\0\0\0\0")
        with pytest.raises(
            e2e.BundleError, match=r"model\.data .* is not the file that was exported"
        ):
            e2e.load(opened, device="cpu")

    def test_a_plan_is_checked(self, root, engine):
        bundle = open_bundle(root, hash_check=False)
        name = engine.relative_to(root).as_posix()
        engine.write_bytes(engine.read_bytes()[:-1] + b" ")
        with pytest.raises(e2e.BundleError, match="is not the file that was exported"):
            read_plan(bundle, bundle.manifest.plans[0])
        engine.chmod(0o666)
        with pytest.raises(e2e.BundleError, match="can be written by other users"):
            read_plan(bundle, bundle.manifest.plans[0])
        assert bundle.file(name) == engine

    def test_a_bundle_that_is_open_was_checked(self, root):
        with pytest.raises(
            e2e.UsageError, match="`hash_check` has no effect on a bundle that is open"
        ):
            e2e.load(open_bundle(root), hash_check=False)
