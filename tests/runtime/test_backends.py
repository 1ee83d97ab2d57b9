import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from e2e_deploy.bundle import open_bundle
from e2e_deploy.errors import BundleError, CheckpointError, UnavailableError, UsageError
from e2e_deploy.limits import LIMITS, measure_parity
from e2e_deploy.runtime import Engine, ort_backend
from tests.plain_bundle import HW, edit_manifest, plain_model, rehash, write_plain_bundle

GRAPH = "model_24x32.onnx"
ON_CPU = ("onnxruntime", "torch")


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("task", ["depth", "normals"])
def test_every_backend_agrees_with_the_stored_reference(request, task, backend):
    bundle = open_bundle(request.getfixturevalue(f"{task}_bundle"))
    frames, references = bundle.reference(bundle.manifest.graphs[0])
    with Engine.load(bundle, backend=backend, device="cpu") as engine:
        for frame, reference in zip(frames, references, strict=True):
            parity = measure_parity(task, engine(frame), reference)
            assert parity.breaks(LIMITS[backend, "fp32"]) == []
            assert np.ptp(reference) > 0.01  # a constant would agree with anything


@pytest.mark.parametrize("backend", ON_CPU)
def test_results_have_the_conventions_of_their_task(normals_bundle, depth_bundle, photo, backend):
    with Engine.load(depth_bundle, backend=backend, device="cpu") as engine:
        depth = engine(photo)
    assert depth.min() >= -1e-6
    assert depth.max() <= 1 + 1e-6
    with Engine.load(normals_bundle, backend=backend, device="cpu") as engine:
        lengths = np.linalg.norm(engine(photo), axis=2)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_a_real_graph_takes_views(depth_bundle, photo):
    with Engine.load(depth_bundle, device="cpu") as engine:
        mirrored = photo[:, ::-1]
        np.testing.assert_array_equal(engine(mirrored), engine(np.ascontiguousarray(mirrored)))


def test_torch_refuses_a_checkpoint_that_changed(depth_bundle, tmp_path, bundle_copy):
    edit_manifest(bundle_copy, lambda m: m["checkpoint"].update(sha256="0" * 64))
    with pytest.raises(CheckpointError, match="is not the checkpoint this bundle was exported"):
        Engine.load(bundle_copy, backend="torch")


def test_torch_without_its_checkpoint(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    with pytest.raises(CheckpointError, match="plain is not a checkpoint"):
        Engine.load(bundle, backend="torch")


def test_torch_on_a_device_that_is_not_here(depth_bundle, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UnavailableError, match="torch sees no CUDA device"):
        Engine.load(depth_bundle, backend="torch", device="cuda")
    with pytest.raises(UsageError, match="unknown device"):
        Engine.load(depth_bundle, backend="torch", device="npu")


def test_torch_computes_without_tf32(depth_bundle, monkeypatch):
    import torch

    allowed = []
    with Engine.load(depth_bundle, backend="torch", device="cpu") as engine:
        monkeypatch.setattr(
            "e2e_deploy.model.FrameModel.forward",
            lambda _self, frame: (
                allowed.append(torch.backends.cudnn.allow_tf32) or frame[..., 0] / 255
            ),
        )
        before = torch.backends.cudnn.allow_tf32
        engine.predict(np.zeros((*engine.frame_size, 3), np.uint8))
    assert allowed
    assert not any(allowed)
    assert torch.backends.cudnn.allow_tf32 == before


def test_torch_that_is_not_installed(depth_bundle, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[export\]'"):
        Engine.load(depth_bundle, backend="torch")


def test_a_graph_that_onnx_runtime_refuses(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    model = plain_model(HW)
    model.graph.node[0].op_type = "NoSuchOperator"
    (bundle / GRAPH).write_bytes(model.SerializeToString())
    rehash(bundle, GRAPH)
    with pytest.raises(BundleError, match=f"cannot load {GRAPH}") as caught:
        Engine.load(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_a_graph_that_is_not_the_one_described(tmp_path, task):
    bundle = write_plain_bundle(tmp_path / "b", task=task)
    swapped = {"depth": plain_model((30, 32)), "normals": plain_model(HW, "depth")}[task]
    onnx.save(swapped, bundle / GRAPH)
    rehash(bundle, GRAPH)
    with pytest.raises(BundleError, match="is not the graph its manifest describes"):
        Engine.load(bundle)


def half_bundle(root):
    """A plain bundle whose mean over the colours is a product with a fp16 weight."""
    model = plain_model(HW)
    shared = numpy_helper.from_array(np.full((3, 1), 1 / 3, np.float16), "third")
    model.graph.initializer.append(shared)
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["frame"], ["rgb"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["rgb", "third"], ["mean"]),
            helper.make_node("Squeeze", ["mean", "axes"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["wide", "scale"], ["depth"]),
        ]
    )
    bundle = write_plain_bundle(root)
    onnx.save(model, bundle / GRAPH)
    rehash(bundle, GRAPH)
    edit_manifest(bundle, lambda m: m.update(precision="fp16"))
    return bundle


@pytest.mark.parametrize(("large_bytes", "held"), [(1, "FLOAT16"), (2**28, "FLOAT")])
def test_large_half_precision_weights_stay_narrow_in_memory(
    tmp_path, monkeypatch, large_bytes, held
):
    """Widened at the start, a full-size model takes 6 GiB before its first frame."""
    optimised = tmp_path / "optimised.onnx"

    class Saving(onnxruntime.InferenceSession):
        def __init__(self, path, options, **kwargs):
            options.optimized_model_filepath = str(optimised)
            super().__init__(path, options, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Saving)
    monkeypatch.setattr(ort_backend, "LARGE_BYTES", large_bytes)
    bundle = open_bundle(half_bundle(tmp_path / "b"))
    frames, references = bundle.reference(bundle.manifest.graphs[0])
    with Engine.load(bundle, backend="onnxruntime", device="cpu") as engine:
        np.testing.assert_allclose(engine(frames[0]), references[0], atol=2e-3)
    weights = {t.dims[0]: t.data_type for t in onnx.load(optimised).graph.initializer}
    assert weights[3] == TensorProto.DataType.Value(held)


def test_running_leaves_the_floating_point_rules_of_the_process_alone(depth_bundle, photo):
    """ONNX Runtime can make the calling thread treat denormal numbers as zero, for everything that runs after it."""
    denormal = np.full(1, 1e-40, np.float32)
    with Engine.load(depth_bundle, backend="onnxruntime", device="cpu") as engine:
        engine(photo)
        assert (denormal * np.float32(0.5) > 0).all()
    assert (denormal * np.float32(0.5) > 0).all()
