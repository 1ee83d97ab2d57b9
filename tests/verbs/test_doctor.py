"""What doctor says of machines that this one is not."""

import sys
from types import SimpleNamespace

import pytest

from e2e_deploy.errors import UnavailableError
from e2e_deploy.nvidia import hardware, trt_api
from e2e_deploy.nvidia.cuda_driver import Gpu
from e2e_deploy.packages import require_compilers
from e2e_deploy.runtime.backends.onnxruntime import provider
from e2e_deploy.verbs import doctor as module
from e2e_deploy.verbs.doctor import doctor

H200 = Gpu("NVIDIA H200", "sm90", (13, 0))
RTX = Gpu("NVIDIA RTX 4090", "sm89", (13, 0))


@pytest.fixture
def machine(monkeypatch):
    """machine(gpu, *libraries): one GPU, these of NVIDIA's libraries, and a torch that does or does not reach it."""

    def has(gpu, *libraries, torch_reaches=True):
        def find_api(name):
            if name not in libraries:
                raise UnavailableError(f"the package {name!r} is not installed")

        def torch_here():
            found = "torch 2.13 on NVIDIA H200" if torch_reaches else "torch 2.13 does not reach it"
            return torch_reaches, found, ""

        monkeypatch.setattr(module, "_gpu", lambda: gpu)
        monkeypatch.setattr(trt_api, "find_api", find_api)
        monkeypatch.setattr(module, "_inductor_to_run", torch_here)
        monkeypatch.setattr(module, "_onnxruntime_on_gpu", lambda: (False, "no provider", ""))

    return has


def test_what_auto_takes_on_a_data_centre_gpu(machine):
    machine(H200, "tensorrt-rtx")
    works, found, _ = module._auto_to_run()
    assert works
    assert found.startswith("the bundle's plan of inductor, else onnxruntime (no provider); ")
    assert "not tensorrt: the package 'tensorrt' is not installed" in found
    assert "not tensorrt-rtx: TensorRT-RTX does not serve this GPU, NVIDIA H200 (sm90)" in found


def test_what_auto_takes_on_an_rtx_card(machine):
    machine(RTX, "tensorrt", "tensorrt-rtx", torch_reaches=False)
    found = module._auto_to_run()[1]
    assert found.startswith("the bundle's plan of tensorrt, else of tensorrt-rtx, else onnxruntime")
    assert found.endswith("not inductor: torch 2.13 does not reach it")


def test_what_auto_takes_where_nothing_runs_a_plan(machine):
    machine(H200, torch_reaches=False)
    assert module._auto_to_run()[1].startswith("no plan, else onnxruntime")


def test_what_auto_takes_without_a_gpu(machine):
    machine(None)
    assert module._auto_to_run()[1].startswith("onnxruntime; bf16 bundles: openvino, else")


@pytest.mark.parametrize(("gpu", "works"), [(H200, False), (RTX, True), (None, True)])
def test_tensorrt_rtx_and_a_gpu_that_it_does_not_serve(machine, monkeypatch, gpu, works):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7"))
    machine(gpu)
    found = module._tensorrt_rtx()
    assert found[0] == works
    assert found[1].startswith("1.7")
    assert ("does not serve this GPU, NVIDIA H200" in found[1]) != works


@pytest.mark.parametrize(
    ("flags", "works", "found"),
    [
        ("avx2 amx_bf16 avx512_bf16", True, "AMX, AVX512-BF16"),
        ("fp asimd bf16", True, "ARM BF16"),
        ("avx2 avx512f", False, "no units for it"),
    ],
)
def test_units_for_bf16(monkeypatch, flags, works, found):
    monkeypatch.setattr(hardware, "cpu_features", lambda: flags)
    assert module._bf16()[:2] == (works, found)


def test_inductor_without_a_compiler_runs_and_does_not_build(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(module, "_gpu", lambda: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    findings = {finding.what: finding for finding in doctor()}
    assert findings["inductor, to run"].works
    building = findings["inductor, to build"]
    assert not building.works
    assert "no-such-compiler is not here: install it" in building.found


def test_a_gpu_needs_triton_too(monkeypatch, tmp_path):
    compiler = tmp_path / "my-c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    require_compilers(for_gpu=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UnavailableError, match="'triton' is not installed"):
        require_compilers(for_gpu=True)


def test_a_torch_that_does_not_reach_the_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "_gpu", lambda: H200)
    works, found, remedy = module._inductor_to_run()
    assert not works
    assert found.endswith("does not reach the GPU here")
    assert "CUDA" in remedy


def test_onnxruntime_on_a_gpu(monkeypatch):
    monkeypatch.setattr(hardware, "cuda_device_count", lambda: 0)
    assert module._onnxruntime_on_gpu()[:2] == (False, "no CUDA device")
    monkeypatch.setattr(hardware, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(provider, "find_gpu_provider", lambda ort, precision: None)
    works, _, remedy = module._onnxruntime_on_gpu()
    assert not works
    assert "onnxruntime-gpu" in remedy
    found = SimpleNamespace(title="CUDA")
    monkeypatch.setattr(provider, "find_gpu_provider", lambda ort, precision: found)
    assert module._onnxruntime_on_gpu()[:2] == (
        True,
        "CUDA; auto takes it after plans, which were faster where measured",
    )


def test_a_lean_install_exports_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    (found,) = (finding for finding in doctor() if finding.what == "auto, to export")
    assert not found.works
    assert found.found.endswith("pip install 'e2e-deploy[export]'")
    assert found.remedy == ""


def test_here(cli):
    findings = {finding.what: finding for finding in doctor()}
    assert findings["auto, to run"].works
    assert {"inductor, to run", "inductor, to build", "auto, to export"} <= set(findings)
    for what in ("zenoh (live)", "foxglove (live)", "rerun (live, recordings)"):
        assert findings[what].works
    _, stdout, _ = cli("doctor")
    assert "auto, to export" in stdout
    assert '`engine="' not in stdout  # on a command line these are options
