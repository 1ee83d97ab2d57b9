"""Which provider ONNX Runtime reaches a GPU with; the plugin's double leads to ONNX Runtime's own CPU device."""

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from e2e_deploy.errors import UnavailableError
from e2e_deploy.runtime import Engine, ort_gpu
from e2e_deploy.runtime.ort_gpu import CUDA, find_gpu_provider
from tests.plain_bundle import HW, plain_depth

CPU = "CPUExecutionProvider"


@pytest.fixture(autouse=True)
def forget():
    ort_gpu._register.cache_clear()
    yield
    ort_gpu._register.cache_clear()


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


def test_the_cuda_provider_comes_first(plugin, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    assert find_gpu_provider(ort).name == CUDA
    assert plugin == []


def test_without_either_there_is_none(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setitem(sys.modules, ort_gpu.PLUGIN, None)
    assert find_gpu_provider(ort) is None


def test_the_plugin_is_registered_once_and_used(plugin, root, rng, monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.ort_backend.cuda_device_count", lambda: 1)
    frame = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    for device in ("auto", "cuda"):
        with Engine.load(root, backend="onnxruntime", device=device) as engine:
            assert engine.backend.device == "TensorRT-RTX provider"
            np.testing.assert_allclose(engine(frame), plain_depth(frame), atol=1e-6)
    assert plugin == [(CPU, "/its/library.so")]
    with Engine.load(root, backend="onnxruntime", device="cpu") as engine:
        assert engine.backend.device.startswith("CPU, ")


def test_a_plugin_that_finds_no_device_is_not_used(plugin, monkeypatch):
    monkeypatch.setattr(ort, "get_ep_devices", list)
    assert find_gpu_provider(ort) is None


def test_a_plugin_that_does_not_load_is_said(plugin, root, monkeypatch):
    def fail(*given):
        raise RuntimeError("libcudart.so.13:\n cannot open shared object file")

    monkeypatch.setattr(ort, "register_execution_provider_library", fail)
    monkeypatch.setattr("e2e_deploy.runtime.ort_backend.cuda_device_count", lambda: 1)
    with pytest.raises(UnavailableError, match=r"does not load: libcudart\.so\.13: cannot open"):
        Engine.load(root)
