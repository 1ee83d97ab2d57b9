"""Every backend that is here, in every precision it takes, one frame and two at a time, against stored references.

ONNX Runtime and the plan backends run graphs that anyone can compute by hand; they and PyTorch also what our exporter
makes of small checkpoints.
"""

import importlib.util
import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.limits import LIMITS, measure_parity
from e2e_deploy.model import checkpoint
from e2e_deploy.model.families import FAMILIES
from e2e_deploy.names import BACKENDS, PLAN_KINDS
from e2e_deploy.runtime.backends.layout import by_kind
from tests.plain_bundle import edit_manifest, rehash, write_plain_bundle
from tests.small_checkpoint import write_small
from tests.small_graphs import drop_unread

GRAPH = "model_24x32.onnx"
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

TASKS = ("depth", "normals", "geometry")
"""The last gives both at once."""

COMPILED = {("fp32", 1, "geometry"), ("fp16", 2, "normals"), ("bf16", 2, "depth")}
"""What AOTInductor takes many seconds for: each precision, task and number of frames once."""

CASES = [
    (backend, precision, batch, task)
    for backend in BACKENDS
    for precision in (p for b, p in LIMITS if b == backend)
    for batch in (1, 2)
    for task in TASKS
    # torch is the reference itself, whatever the bundle's precision.
    if (backend != "torch" or precision == "fp32")
    and (backend != "inductor" or (precision, batch, task) in COMPILED)
]
ON_ANY_MACHINE = {("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("onnxruntime", "int8")}
ON_ANY_MACHINE |= {("torch", "fp32")}
if importlib.util.find_spec("openvino"):
    ON_ANY_MACHINE |= {("openvino", "fp32"), ("openvino", "fp16")}


def in_16_bits(model, kind):
    """The plain graph with everything between its frame and its result in a type of 16 bits."""
    model.graph.node[0].attribute[0].i = kind
    outputs = [each.name for each in model.graph.output]
    last = [node for node in model.graph.node if node.output[0] in outputs]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            # As bytes, as the exporter writes them: OpenVINO 2026.4 reads the bits of typed bf16 as whole numbers.
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            narrow = np.reshape(tensor.float_data, tensor.dims).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(narrow, tensor.name))
    for node in last:
        name, node.output[0] = node.output[0], f"narrow_{node.output[0]}"
        cast = helper.make_node("Cast", list(node.output), [name], to=TensorProto.FLOAT)
        model.graph.node.append(cast)


def in_8_bits(model):
    """The plain graph with its colours through 8 bits, which hold them."""
    nodes = list(model.graph.node)
    nodes[0].output[0] = "wide"
    del model.graph.node[:]
    model.graph.initializer.extend(
        [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
        ]
    )
    through = [
        helper.make_node("QuantizeLinear", ["wide", "one", "zero"], ["narrow"]),
        helper.make_node("DequantizeLinear", ["narrow", "one", "zero"], ["rgb"]),
    ]
    model.graph.node.extend([nodes[0], *through, *nodes[1:]])


def plain(root, task, precision, batch):
    """A plain bundle in a precision; its references stay those of fp32."""
    write_plain_bundle(root, task=task, batch=batch)
    model = onnx.load(root / GRAPH)
    if precision in TYPES:
        in_16_bits(model, TYPES[precision])
    elif precision == "int8":
        in_8_bits(model)
    onnx.save(model, root / GRAPH)
    rehash(root, GRAPH)
    edit_manifest(root, lambda value: value.update(precision=precision))
    return drop_unread(root)


@pytest.fixture(scope="module")
def geometry_bundle(tmp_path_factory):
    """A made checkpoint whose network gives the latents of both results, as a bundle for frames of 32x48."""
    from e2e_deploy.export.exporter import export_bundle

    folder = tmp_path_factory.mktemp("geometry")
    marigold = FAMILIES["marigold"]
    both = replace(marigold, tasks=marigold.tasks | {"geometry": ("depth", "normals")})
    untold = {"_class_name": "MarigoldPipeline", "prediction_type": None}
    write_small(folder / "checkpoint", unet={"out_channels": 8}, index=untold)
    card = {"family": "marigold", "task": "geometry"}
    (folder / "checkpoint" / "e2e_deploy.json").write_text(json.dumps(card))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "marigold", both)
        patch.setattr(checkpoint, "_check_channels", lambda *_: None)  # no family has eight yet
        yield export_bundle(
            folder / "checkpoint",
            folder / "bundle",
            frame_sizes=[(32, 48)],
            resolution=0,
            engine="onnx",
        ).root


def exported(request, root, task, batch):
    """An exported bundle; for PyTorch alone, which runs its checkpoint, also one of graphs that take several frames."""
    folder = request.getfixturevalue(f"{task}_bundle")
    if batch == 1:
        return folder
    shutil.copytree(folder, root)

    def widen(value):
        for graph in value["graphs"]:
            for tensor in (*graph["inputs"], *graph["outputs"]):
                tensor["shape"][0] = batch

    edit_manifest(root, widen)
    return root


def check(bundle, backend, precision):
    """Every stored frame, as many at a time as the graph takes, is within the limit."""
    frames, references = bundle.reference(bundle.manifest.graphs[0])
    with e2e.load(bundle, backend=backend) as engine:
        assert engine.backend.name == backend
        assert len(frames) >= engine.batch
        for start in range(0, len(frames) - engine.batch + 1, engine.batch):
            given = frames[start : start + engine.batch]
            results = by_kind(bundle.manifest.kinds, engine(given))
            again = by_kind(bundle.manifest.kinds, engine.collect(engine.submit(given)))
            for (kind, each), (_, same) in zip(results, again, strict=True):
                for result, reference in zip(each, references[kind.output][start:], strict=False):
                    parity = measure_parity(kind.name, result, reference)
                    assert parity.breaks(LIMITS[backend, precision]) == []
                    assert np.ptp(reference) > 0.01  # a constant would agree with anything
                np.testing.assert_array_equal(same, each)


@pytest.mark.parametrize(("backend", "precision", "batch", "task"), CASES)
def test_a_backend_agrees_with_the_reference(
    request, tmp_path, monkeypatch, backend, precision, batch, task
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = (
        exported(request, tmp_path / "b", task, batch)
        if backend == "torch"
        else plain(tmp_path / "b", task, precision, batch)
    )
    try:
        if backend == "inductor":
            request.getfixturevalue("compiled")(root)
        elif backend in PLAN_KINDS:
            e2e.rebuild_plans(root, backend=backend)
        check(open_bundle(root), backend, precision)
    except e2e.UnavailableError as error:
        assert (backend, precision) not in ON_ANY_MACHINE
        pytest.skip(str(error))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_agrees_about_what_is_exported(request, tmp_path, monkeypatch, backend, task):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if backend == "openvino":
        pytest.importorskip("openvino")  # its telemetry is off: tests/conftest.py
    check(open_bundle(request.getfixturevalue(f"{task}_bundle")), backend, "fp32")


def test_no_backend_and_no_precision_is_left_out():
    assert {backend for backend, *_ in CASES} == set(BACKENDS)
    for backend in BACKENDS:
        assert {task for name, *_, task in CASES if name == backend} == set(TASKS)
        assert {batch for name, _, batch, _ in CASES if name == backend} == {1, 2}
    assert {(backend, precision) for backend, precision, *_ in CASES if backend != "torch"} == {
        pair for pair in LIMITS if pair[0] != "torch"
    }
