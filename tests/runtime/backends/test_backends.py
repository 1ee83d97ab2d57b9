import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import (
    BundleError,
    CheckpointError,
    E2EDeployError,
    UnavailableError,
    UsageError,
)
from e2e_deploy.runtime.backends.onnxruntime import backend as ort_backend
from e2e_deploy.runtime.backends.onnxruntime import options as ort_options
from e2e_deploy.runtime.backends.torch import TorchBackend
from tests.plain_bundle import HW, edit_manifest, plain_model, rehash, write_plain_bundle

GRAPH = "model_24x32.onnx"
ON_CPU = ("onnxruntime", "torch")


@pytest.mark.parametrize("backend", ON_CPU)
def test_results_have_the_conventions_of_their_task(normals_bundle, depth_bundle, photo, backend):
    with e2e.load(depth_bundle, backend=backend, device="cpu") as engine:
        depth = engine(photo)
    assert depth.min() >= -1e-6
    assert depth.max() <= 1 + 1e-6
    with e2e.load(normals_bundle, backend=backend, device="cpu") as engine:
        lengths = np.linalg.norm(engine(photo), axis=2)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_a_real_graph_takes_views(depth_bundle, photo):
    with e2e.load(depth_bundle, device="cpu") as engine:
        mirrored = photo[:, ::-1]
        np.testing.assert_array_equal(engine(mirrored), engine(np.ascontiguousarray(mirrored)))


def test_torch_takes_a_frame_that_may_not_be_written_to(depth_bundle, photo, recwarn):
    with e2e.load(depth_bundle, backend="torch", device="cpu") as engine:
        expected = engine(photo)
        photo.flags.writeable = False
        np.testing.assert_array_equal(engine(photo), expected)
        out = np.empty_like(expected)
        assert engine(photo, out=out) is out
        np.testing.assert_array_equal(out, expected)
    assert [str(w.message) for w in recwarn if "writ" in str(w.message)] == []


def test_torch_refuses_a_checkpoint_that_changed(depth_bundle, tmp_path, bundle_copy):
    edit_manifest(bundle_copy, lambda m: m["checkpoint"].update(sha256="0" * 64))
    with pytest.raises(CheckpointError, match="is not the checkpoint this bundle was exported"):
        e2e.load(bundle_copy, backend="torch")


def test_torch_gives_no_result_another_name(bundle_copy):
    """A manifest that was changed by hand, together with what it says of its graph."""

    def call_it_disparity(manifest):
        manifest["outputs"] = ["disparity"]
        for graph in manifest["graphs"]:
            graph["outputs"][0]["name"] = "disparity"

    edit_manifest(bundle_copy, call_it_disparity)
    with pytest.raises(BundleError, match="lists disparity; its checkpoint gives depth"):
        e2e.load(bundle_copy, backend="torch", device="cpu")


def test_torch_without_its_checkpoint(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    with pytest.raises(
        CheckpointError, match="plain, which is no folder here, and nothing is fetched"
    ):
        e2e.load(bundle, backend="torch")


def test_torch_on_a_device_that_is_not_here(depth_bundle, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        UnavailableError, match="torch on cuda was asked for, but this machine has no CUDA device"
    ):
        e2e.load(depth_bundle, backend="torch", device="cuda")
    with pytest.raises(UsageError, match="unknown device"):
        e2e.load(depth_bundle, backend="torch", device="tpu")


def test_torch_computes_without_tf32(depth_bundle, monkeypatch):
    import torch

    allowed = []
    with e2e.load(depth_bundle, backend="torch", device="cpu") as engine:
        monkeypatch.setattr(
            "e2e_deploy.model.single_step.FrameModel.forward",
            lambda _self, frame: (
                allowed.append(torch.backends.cudnn.allow_tf32) or frame[..., 0] / 255
            ),
        )
        before = torch.backends.cudnn.allow_tf32
        engine.predict(np.zeros((*engine.frame_size, 3), np.uint8))
    assert allowed
    assert not any(allowed)
    assert torch.backends.cudnn.allow_tf32 == before


def test_two_of_torch_at_once_compute_without_tf32_and_leave_it_as_it_was():
    torch = pytest.importorskip("torch")
    in_both, first_left, allowed = threading.Barrier(2, timeout=60), threading.Event(), []

    def first(frame):
        in_both.wait()
        return frame

    def second(frame):
        in_both.wait()
        assert first_left.wait(60)
        allowed.append(torch.backends.cudnn.allow_tf32)
        return frame

    def run(model):
        backend = TorchBackend.__new__(TorchBackend)
        backend._torch, backend._device, backend._model = torch, "cpu", model
        return backend._run(torch.zeros(1, 2, 2, 3))

    before = torch.backends.cudnn.allow_tf32
    try:
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(run, first)
            while in_both.n_waiting == 0 and not one.done():
                time.sleep(0.001)
            other = pool.submit(run, second)
            one.result()
            first_left.set()
            other.result()
        assert allowed == [False]
        assert torch.backends.cudnn.allow_tf32 == before
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory",
            UnavailableError,
        ),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", UnavailableError),
        ("mat1 and mat2 shapes cannot be multiplied", E2EDeployError),
    ],
)
def test_what_fails_in_torch_is_one_sentence(depth_bundle, monkeypatch, photo, said, kind):
    def fails(self, frame):
        raise RuntimeError(said + "\nat somewhere")

    with e2e.load(depth_bundle, backend="torch", device="cpu") as engine:
        monkeypatch.setattr("e2e_deploy.model.single_step.FrameModel.forward", fails)
        with pytest.raises(kind, match="the model fails in PyTorch") as caught:
            engine(photo)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_torch_that_is_not_installed(depth_bundle, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UnavailableError, match=r"pip install 'e2e-deploy\[export\]'"):
        e2e.load(depth_bundle, backend="torch")


def test_a_graph_that_onnx_runtime_refuses(tmp_path):
    bundle = write_plain_bundle(tmp_path / "b")
    model = plain_model(HW)
    model.graph.node[0].attribute[0].i = 99  # a type to cast to that does not exist
    (bundle / GRAPH).write_bytes(model.SerializeToString())
    rehash(bundle, GRAPH)
    with pytest.raises(BundleError, match=f"cannot load {GRAPH}") as caught:
        e2e.load(bundle)
    assert "\n" not in str(caught.value)


def write_graph(root, *nodes, **constants):
    """A plain bundle whose graph computes "extra" of the frame as float, "rgb", and adds its one number."""
    model = plain_model(HW)
    last = model.graph.node.pop()
    model.graph.node.extend(nodes)
    model.graph.node.append(helper.make_node("ReduceMean", ["extra"], ["one"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["mean", "one"], ["sum"]))
    last.input[0] = "sum"
    model.graph.node.append(last)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    bundle = write_plain_bundle(root)
    onnx.save(model, bundle / GRAPH)
    rehash(bundle, GRAPH)
    return bundle


def doubled(times):
    """The colours joined with themselves again and again."""
    names = ["flat", *(f"x{i}" for i in range(1, times)), "extra"]
    return [
        helper.make_node("Reshape", ["rgb", "row"], ["flat"]),
        *(helper.make_node("Concat", [a, a], [b], axis=0) for a, b in pairwise(names)),
    ]


FRAME = np.zeros((*HW, 3), np.uint8)


def test_more_memory_than_is_free_is_an_error_and_no_kill(tmp_path, monkeypatch, capfd):
    bundle = write_graph(tmp_path / "b", *doubled(12), row=np.array([-1]))
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.memory.available_memory_bytes", lambda: 2**25
    )
    with (
        e2e.load(bundle, device="cpu") as engine,
        pytest.raises(UnavailableError, match="needs more memory than is free here") as caught,
    ):
        engine(FRAME)
    assert str(caught.value).isprintable()
    assert capfd.readouterr().err == ""  # ONNX Runtime's own lines are not for the user
    monkeypatch.undo()
    with e2e.load(bundle, device="cpu") as engine:
        engine(FRAME)


def test_constants_are_not_made_while_a_graph_is_loaded(tmp_path, monkeypatch):
    """2**14 floats doubled ten times; what one operator after another would make of a few bytes has no end."""
    joins = [helper.make_node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(9)]
    last = helper.make_node("Concat", ["c9", "c9"], ["extra"], axis=0)
    bundle = write_graph(tmp_path / "b", *joins, last, c0=np.ones(2**14, np.float32))
    monkeypatch.setattr(
        "e2e_deploy.runtime.backends.onnxruntime.memory.available_memory_bytes", lambda: 2**24
    )
    with (
        e2e.load(bundle, device="cpu") as engine,
        pytest.raises(UnavailableError, match="needs more memory than is free here"),
    ):
        engine(FRAME)


def test_what_fails_while_it_runs_is_one_sentence(tmp_path, cli, capfd):
    node = helper.make_node("Gather", ["rgb", "far"], ["extra"], axis=1)
    shifted = helper.make_node("Add", ["where", "where"], ["far"])
    to_int = helper.make_node("Cast", ["rgb"], ["where"], to=TensorProto.INT64)
    bundle = write_graph(tmp_path / "b", to_int, shifted, node)
    with (
        e2e.load(bundle, device="cpu") as engine,
        pytest.raises(E2EDeployError, match=f"{GRAPH} fails in ONNX Runtime") as caught,
    ):
        engine(np.full_like(FRAME, 255))
    assert str(caught.value).isprintable()
    for verb in ("verify", "bench"):
        code, _, error = cli(verb, bundle, "--backend", "onnxruntime")
        assert (code, error.count("\n")) == (1, 1)
        assert "fails in ONNX Runtime" in error


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_graph_that_is_exchanged_after_the_bundle_was_opened(tmp_path, monkeypatch, when, how):
    root = write_plain_bundle(tmp_path / "b")
    opened = open_bundle(root)
    other = (root / GRAPH).read_bytes().replace(np.float32(255).tobytes(), np.float32(1).tobytes())

    def exchange():
        if how == "written":
            (root / GRAPH).write_bytes(other)
        else:
            (tmp_path / "other").write_bytes(other)
            (tmp_path / "other").replace(root / GRAPH)

    class Slow(onnxruntime.InferenceSession):
        def __init__(self, *arguments, **names):
            if when == "meanwhile":
                exchange()
            super().__init__(*arguments, **names)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Slow)
    if when == "before":
        exchange()
    match = "is not the file that was exported" if when == "before" else "changed while it was"
    with pytest.raises(BundleError, match=match):
        e2e.load(opened, device="cpu")


def test_a_file_that_was_only_touched_loads(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    opened = open_bundle(root)
    (root / GRAPH).touch()
    with e2e.load(opened, device="cpu") as engine:
        assert engine(FRAME).max() == 0


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_a_graph_that_is_not_the_one_described(tmp_path, task):
    bundle = write_plain_bundle(tmp_path / "b", task=task)
    swapped = {"depth": plain_model((30, 32)), "normals": plain_model(HW, "depth")}[task]
    onnx.save(swapped, bundle / GRAPH)
    rehash(bundle, GRAPH)
    with pytest.raises(BundleError, match="is not the graph its manifest describes"):
        e2e.load(bundle)


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


def bundle_with_weights(root):
    """A plain bundle whose scale is in a file of its own."""
    bundle = write_plain_bundle(root)
    model = plain_model(HW)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale), "scale"))
    onnx.save(
        model, bundle / GRAPH, save_as_external_data=True, location="model.data", size_threshold=0
    )
    rehash(bundle, GRAPH)
    rehash(bundle, "model.data")
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
    monkeypatch.setattr(ort_options, "LARGE_BYTES", large_bytes)
    bundle = open_bundle(half_bundle(tmp_path / "b"))
    frames, references = bundle.reference(bundle.manifest.graphs[0])
    with e2e.load(bundle, backend="onnxruntime", device="cpu") as engine:
        np.testing.assert_allclose(engine(frames[0]), references["depth"][0], atol=2e-3)
    weights = {t.dims[0]: t.data_type for t in onnx.load(optimised).graph.initializer}
    assert weights[3] == TensorProto.DataType.Value(held)


def test_int8_means_the_same_on_cpus_without_8_bit_dot_products(tmp_path):
    """Seen with an emulated Haswell: an error of 0.051 by default and of 0.032 with this, as on CPUs with VNNI."""
    bundle = open_bundle(write_plain_bundle(tmp_path / "b"))
    with ort_backend.OrtBackend(bundle, bundle.manifest.graphs[0], "cpu") as backend:
        options = backend._session.get_session_options()
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_running_leaves_the_floating_point_rules_of_the_process_alone(depth_bundle, photo):
    """ONNX Runtime can make the calling thread treat denormal numbers as zero, for everything that runs after it."""
    denormal = np.full(1, 1e-40, np.float32)
    with e2e.load(depth_bundle, backend="onnxruntime", device="cpu") as engine:
        engine(photo)
        assert (denormal * np.float32(0.5) > 0).all()
    assert (denormal * np.float32(0.5) > 0).all()


@pytest.mark.parametrize("named", ["owner/name@0123456789abcdef", "owner/name", "/{folder}"])
def test_nothing_is_fetched_because_a_bundle_names_it(tmp_path, monkeypatch, named):
    """A hub, or the machine that two slashes name, would learn who opened the bundle."""
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *given, **how: asked.append(given)
    )
    named = named.format(folder=tmp_path)
    root = write_plain_bundle(tmp_path / "b")
    edit_manifest(root, lambda m: m["checkpoint"].update(id=named))
    with pytest.raises(CheckpointError, match=f"the checkpoint {named}, which is no folder here"):
        e2e.load(root, backend="torch")
    assert asked == []


def test_the_user_says_which_checkpoint_it_was(tiny_depth, small, bundle_copy, photo):
    edit_manifest(bundle_copy, lambda m: m["checkpoint"].update(id="owner/name@0123456789abcdef"))
    opened = open_bundle(bundle_copy)
    with e2e.load(replace(opened, checkpoint=str(tiny_depth)), backend="torch") as engine:
        assert engine(photo).shape == photo.shape[:2]
    with pytest.raises(CheckpointError, match="is not the checkpoint this bundle was exported"):
        e2e.load(replace(opened, checkpoint=str(small)), backend="torch")
