"""What ``auto`` chooses, on a machine with the doubles of a GPU and TensorRT."""

from types import SimpleNamespace

import numpy as np
import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import BundleError, PlanMismatchError, UnavailableError
from e2e_deploy.runtime import backends
from e2e_deploy.runtime.backends import Entry
from tests import fake_gpu
from tests.plain_bundle import HW, edit_manifest, plain_depth, rehash, write_plain_bundle
from tests.runtime.fake_plans import add_plan, frames
from tests.runtime.packages import add_fake_package


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    def put(*libraries):
        return fake_gpu.install(monkeypatch, tmp_path / "cache", libraries=libraries)

    return put


def test_a_fitting_engine_is_preferred(gpu, root, engine, rng):
    driver = gpu("tensorrt")
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "tensorrt"
        assert loaded.describe().endswith("the bundle's TensorRT plan fits this GPU)")
        picture = frames(rng)[0]
        np.testing.assert_allclose(loaded(picture), plain_depth(picture), rtol=1e-6)
    assert driver.live == {}


def test_tensorrt_comes_before_tensorrt_rtx(gpu, root):
    add_plan(root, backend="tensorrt-rtx", gpu="")
    gpu("tensorrt", "tensorrt-rtx")
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "tensorrt-rtx"
    add_plan(root)
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "tensorrt"


def test_the_second_library_is_taken_where_the_first_does_not_fit(gpu, root):
    add_plan(root, version="10.13.2")
    add_plan(root, backend="tensorrt-rtx", gpu="")
    gpu("tensorrt", "tensorrt-rtx")
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "tensorrt-rtx"


def test_inductor_comes_after_both_and_before_onnx_runtime(gpu, root, rng):
    add_fake_package(root)
    driver = gpu("tensorrt", "inductor")
    picture = frames(rng)[0]
    for device in ("auto", "cuda"):
        with e2e.load(root, device=device) as loaded:
            assert loaded.backend.name == "inductor"
            assert loaded.describe().endswith("the bundle's AOTInductor plan fits this GPU)")
            np.testing.assert_allclose(loaded(picture), plain_depth(picture), rtol=1e-6)
    add_plan(root)
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "tensorrt"
    assert driver.live == {}


def test_an_engine_of_tensorrt_that_does_not_fit_leaves_it_to_inductor(gpu, root):
    add_plan(root, target="sm86")
    add_fake_package(root)
    gpu("tensorrt", "inductor")
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "inductor"


def test_a_package_for_another_gpu_and_torch_is_said(gpu, root, monkeypatch):
    add_fake_package(root, target="sm86")
    gpu("inductor")
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
    )
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "onnxruntime"
        assert "AOTInductor plans are for sm86" in loaded.reason


def test_a_package_for_cpus_is_taken_by_name_alone(gpu, root, monkeypatch):
    add_fake_package(root, target="x86-64-v3", gpu="", cuda=0, metadata={"device": "cpu"})
    gpu("inductor")
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
    )
    for device in ("auto", "cpu"):
        with e2e.load(root, device=device) as loaded:
            assert loaded.backend.name == "onnxruntime"
            assert loaded.reason.startswith("the bundle's plan is for CPUs, where only `backend=")


@pytest.mark.parametrize(
    ("facts", "libraries", "why"),
    [
        ({"target": "sm86"}, ["tensorrt"], "plans are for sm86"),
        ({"version": "10.13.2"}, ["tensorrt"], "was built by TensorRT 10.13.2"),
        ({}, [], "the package 'tensorrt' is not installed"),
    ],
)
def test_an_engine_that_does_not_fit_is_said(gpu, root, facts, libraries, why, monkeypatch):
    add_plan(root, **facts)
    driver = gpu(*libraries)
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
    )
    with e2e.load(root) as loaded:
        assert loaded.backend.name == "onnxruntime"
        assert why in loaded.describe()
    assert driver.live == {}
    with pytest.raises(PlanMismatchError if libraries else UnavailableError, match=why):
        e2e.load(root, backend="tensorrt")


def test_no_engine_for_the_frame_size(gpu, root, engine):
    gpu("tensorrt")
    other = write_plain_bundle(root.parent / "other")
    with e2e.load(other, device="cpu") as loaded:
        assert "the bundle has no plan for this frame size" in loaded.describe()


def test_a_named_device_decides(gpu, root, engine):
    gpu("tensorrt")
    with e2e.load(root, device="cpu") as loaded:
        assert loaded.backend.name == "onnxruntime"
        assert loaded.reason == "the CPU was asked for"


def test_without_a_gpu(root, engine, monkeypatch):
    monkeypatch.setattr(backends, "cuda_device_count", lambda: 0)
    with e2e.load(root, device="cpu", frame_size=HW) as loaded:
        assert loaded.backend.name == "onnxruntime"
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
    )
    with e2e.load(root) as loaded:
        assert loaded.reason == "no NVIDIA GPU for the bundle's plans"


def test_an_engine_that_cannot_be_trusted_is_no_reason_for_another_backend(gpu, root, engine):
    gpu("tensorrt")
    engine.write_bytes(engine.read_bytes()[:-20])
    rehash(root, engine.relative_to(root).as_posix())
    with pytest.raises(BundleError, match="damaged"):
        e2e.load(root)
    engine.chmod(0o666)
    with pytest.raises(BundleError, match="can be written by other users"):
        e2e.load(root)


class TestBf16OnACpu:
    """ONNX Runtime runs none there."""

    @pytest.fixture(autouse=True)
    def bundle(self, root, monkeypatch):
        edit_manifest(root, lambda value: value.update(precision="bf16"))
        monkeypatch.setattr(backends, "cuda_device_count", lambda: 0)

    @pytest.fixture
    def here(self, monkeypatch):
        """here(openvino, inductor): whether each can run the bundle."""

        def put(**can_run):
            def entry(name):
                def load(bundle, graph, device, **options):
                    if not can_run[name]:
                        raise UnavailableError(f"no {name}")
                    assert device == "cpu"
                    return SimpleNamespace(name=name, device="double", close=lambda: None)

                return Entry(load)

            for name in can_run:
                monkeypatch.setitem(backends.ENTRIES, name, entry(name))

        return put

    def test_openvino_is_taken(self, root, here):
        here(openvino=True)
        engine = e2e.load(root)
        assert engine.backend.name == "openvino"
        assert engine.reason.endswith("for this frame size; ONNX Runtime has no bf16 on a CPU")

    def test_a_plan_for_cpus_is_taken_where_openvino_is_not(self, root, here):
        add_fake_package(root, target="x86-64-v3", gpu="", cuda=0, metadata={"device": "cpu"})
        here(openvino=False, inductor=True)
        assert e2e.load(root).backend.name == "inductor"
        here(openvino=True, inductor=True)
        assert e2e.load(root).backend.name == "openvino"

    def test_neither(self, root, here):
        here(openvino=False, inductor=True)  # of which the bundle has no plan
        with pytest.raises(UnavailableError, match="a bf16 bundle is openvino's.*: no openvino$"):
            e2e.load(root)
        add_fake_package(root, target="x86-64-v3", gpu="", cuda=0, metadata={"device": "cpu"})
        here(openvino=False, inductor=False)
        with pytest.raises(UnavailableError, match=r"not here: no openvino; no inductor$"):
            e2e.load(root)

    def test_a_gpu_that_was_asked_for_is_not_replaced(self, root, here, monkeypatch):
        here(openvino=True)
        monkeypatch.setattr(
            "e2e_deploy.runtime.backends.onnxruntime.provider.cuda_device_count", lambda: 0
        )
        with pytest.raises(UnavailableError, match="no CUDA device"):
            e2e.load(root, device="cuda")


def test_a_gpu_that_onnx_runtime_does_not_reach_is_said(gpu, root, monkeypatch):
    provider = "e2e_deploy.runtime.backends.onnxruntime.provider"
    gpu()
    monkeypatch.setattr(f"{provider}.cuda_device_count", lambda: 1)
    monkeypatch.setattr(f"{provider}.find_gpu_provider", lambda *_: None)
    with e2e.load(root) as loaded:
        assert loaded.backend.device.startswith("CPU")
        assert "; this onnxruntime has no provider for the GPU: pip install" in loaded.reason
    with e2e.load(root, device="cpu") as loaded:
        assert "provider" not in loaded.reason
