"""Which provider ONNX Runtime reaches a GPU with; the plugin's double leads to ONNX Runtime's own CPU device."""

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, UnavailableError
from e2e_deploy.names import PRECISIONS
from e2e_deploy.runtime.backends.device import Device
from e2e_deploy.runtime.backends.onnxruntime import provider as ort_gpu
from e2e_deploy.runtime.backends.onnxruntime.provider import (
    CUDA,
    GpuProvider,
    find_gpu_provider,
    provider_for,
)
from tests.plain_bundle import HW, plain_depth

CPU = "CPUExecutionProvider"


@pytest.fixture(autouse=True)
def forget():
    for cached in (ort_gpu._preload, ort_gpu._register):
        cached.cache_clear()
    yield
    for cached in (ort_gpu._preload, ort_gpu._register):
        cached.cache_clear()


@pytest.fixture
def plugin(monkeypatch):
    """The plugin is installed; returns what ONNX Runtime was told."""
    told = []
    module = SimpleNamespace(get_ep_name=lambda: CPU, get_library_path=lambda: "/its/library.so")
    monkeypatch.setitem(sys.modules, ort_gpu.PLUGIN, module)
    monkeypatch.setattr(
        ort, "register_execution_provider_library", lambda *given: told.append(given)
    )
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    return told


def test_the_cuda_provider_comes_first(plugin, monkeypatch, capsys):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"))
    for _ in range(2):
        assert find_gpu_provider(ort, "fp16").name == CUDA
    assert plugin == []
    told = capsys.readouterr()  # its libraries were looked for, once; stdout is for results
    assert (told.out, told.err) == ("", "Failed to load libcudnn.so.9\n")


def test_tensor_cores_for_half_precision_and_exact_arithmetic_for_the_others(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort_gpu, "cuda_device_count", lambda: 1)
    found = {
        precision: provider_for(ort, Device("cuda", 0), precision).options["use_tf32"]
        for precision in PRECISIONS
    }
    assert found == {"fp32": "0", "fp16": "1", "bf16": "1", "int8": "0"}
    asked = provider_for(ort, Device("cuda", 0), "fp16", {"use_tf32": False}).options
    assert asked["use_tf32"] == "0"  # the user's word is the last


def test_a_provider_that_does_not_start_is_said(root, monkeypatch):
    provider = GpuProvider("NoneExecutionProvider", "CUDA", "bring its libraries")
    monkeypatch.setattr(ort_gpu, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(ort_gpu, "find_gpu_provider", lambda ort, precision: provider)
    with (
        pytest.warns(UserWarning, match="NoneExecutionProvider"),
        pytest.raises(
            UnavailableError, match="start its CUDA; bring its libraries, or use `device"
        ),
    ):
        e2e.load(root, backend="onnxruntime")


def test_a_provider_that_fails_while_it_runs_is_not_replaced(root):
    class Failing:
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def run_with_iobinding(self, *given):
            raise EPFail("CUDNN_STATUS_EXECUTION_FAILED")

    with e2e.load(root, backend="onnxruntime") as engine:
        session = engine.backend._session
        session._sess = Failing(session._sess)
        with pytest.raises(E2EDeployError, match="CUDNN_STATUS_EXECUTION_FAILED"):
            engine(np.zeros((*HW, 3), np.uint8))


def test_without_either_there_is_none(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setitem(sys.modules, ort_gpu.PLUGIN, None)
    assert find_gpu_provider(ort, "fp16") is None


def test_the_plugin_is_registered_once_and_used(plugin, root, rng, monkeypatch):
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 1
    )
    frame = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    for device in ("auto", "cuda"):
        with e2e.load(root, backend="onnxruntime", device=device) as engine:
            assert engine.backend.device == "TensorRT-RTX provider"
            np.testing.assert_allclose(engine(frame), plain_depth(frame), atol=1e-6)
    assert plugin == [(CPU, "/its/library.so")]
    with e2e.load(root, backend="onnxruntime", device="cpu") as engine:
        assert engine.backend.device.startswith("CPU, ")


def test_a_plugin_that_finds_no_device_is_not_used(plugin, monkeypatch):
    monkeypatch.setattr(ort, "get_ep_devices", list)
    assert find_gpu_provider(ort, "fp16") is None


def test_a_plugin_that_does_not_load_is_said(plugin, root, monkeypatch):
    def fail(*given):
        raise RuntimeError("libcudart.so.13:\n cannot open shared object file")

    monkeypatch.setattr(ort, "register_execution_provider_library", fail)
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 1
    )
    with pytest.raises(UnavailableError, match=r"does not load: libcudart\.so\.13: cannot open"):
        e2e.load(root)
