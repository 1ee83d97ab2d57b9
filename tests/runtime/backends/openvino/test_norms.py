"""Group norms as OpenVINO's CPU is given them: found in each form we write, the same function, nothing else touched."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import e2e_deploy as e2e
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.packages import openvino_core
from e2e_deploy.runtime.backends.openvino import compiled
from e2e_deploy.runtime.backends.openvino.norms import split_norms

pytest.importorskip("openvino_telemetry", reason="the package openvino is not installed")

N, C, H, W = 2, 12, 6, 12
EPSILON = 1e-3


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def graph_of(nodes, constants, shape):
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "norm", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def instances(groups, scale, bias, /, shape=(N, C, H, W), **changed):
    """What the exporter's tool writes for F.group_norm."""
    constants = {
        "flat": np.array([0, groups, -1]),
        "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32),
        "back": np.array(shape if isinstance(shape[2], int) else [N, C, H, W]),
        "scale": scale.reshape(C, 1, 1),
        "bias": bias.reshape(C, 1, 1),
    } | changed
    op = helper.make_node
    nodes = [
        op("Reshape", ["x", "flat"], ["a"]),
        op("InstanceNormalization", ["a", "ones", "zeros"], ["b"], epsilon=EPSILON),
        op("Reshape", ["b", "back"], ["c"]),
        op("Mul", ["c", "scale"], ["d"]),
        op("Add", ["d", "bias"], ["y"]),
    ]
    return graph_of(nodes, constants, shape)


def rows(groups, scale, bias, /, **changed):
    """What ShortSumGroupNorm becomes."""
    constants = {
        "rows": np.array([N, groups, C // groups * H, W]),
        "three": np.array([3]),
        "two": np.array([2]),
        "power": np.float32(2),
        "epsilon": np.float32(EPSILON),
        "channels": np.array([N, groups, C // groups, H * W]),
        "back": np.array([N, C, H, W]),
        "scale": scale.reshape(1, groups, C // groups, 1),
        "bias": bias.reshape(1, groups, C // groups, 1),
    } | changed
    op = helper.make_node
    nodes = [
        op("Reshape", ["x", "rows"], ["a"]),
        op("ReduceMean", ["a", "three"], ["b"]),
        op("ReduceMean", ["b", "two"], ["c"]),
        op("Sub", ["a", "c"], ["d"]),
        op("Pow", ["d", "power"], ["e"]),
        op("ReduceMean", ["e", "three"], ["f"]),
        op("ReduceMean", ["f", "two"], ["g"]),
        op("Add", ["g", "epsilon"], ["h"]),
        op("Sqrt", ["h"], ["i"]),
        op("Reciprocal", ["i"], ["j"]),
        op("Mul", ["scale", "j"], ["k"]),
        op("Reshape", ["d", "channels"], ["l"]),
        op("Mul", ["l", "k"], ["m"]),
        op("Add", ["m", "bias"], ["n"]),
        op("Reshape", ["n", "back"], ["y"]),
    ]
    return graph_of(nodes, constants, [N, C, H, W])


def group_norm(x, groups, scale, bias):
    grouped = x.astype(np.float64).reshape(N, groups, -1)
    centred = grouped - grouped.mean(2, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(2, keepdims=True) + EPSILON)
    return normal.reshape(x.shape) * scale.reshape(C, 1, 1) + bias.reshape(C, 1, 1)


def read(model):
    return openvino_core().read_model(model.SerializeToString())


def run(model, x):
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino_core().compile_model(model, "CPU", settings)([x])[0]


@pytest.fixture
def affine(rng):
    return rng.normal(1, 1, C).astype(np.float32), rng.normal(0, 1, C).astype(np.float32)


@pytest.mark.parametrize("form", [instances, rows])
@pytest.mark.parametrize("groups", [1, 3, C])
@pytest.mark.parametrize("offset", [0, 300])
def test_is_the_same_function(rng, affine, form, groups, offset):
    spread = rng.uniform(0.1, 3, (N, C, 1, 1))
    x = (rng.normal(offset + spread, spread, (N, C, H, W))).astype(np.float32)
    model = read(form(groups, *affine))
    assert split_norms(model) == 1
    kinds = {node.get_type_name() for node in model.get_ordered_ops()}
    assert not kinds & {"MVN", "Power"}
    # What rounding takes of a number beside `offset` is lost to any fp32 sum.
    np.testing.assert_allclose(
        run(model, x), group_norm(x, groups, *affine), atol=2e-6 + offset * 1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("form", "changed"),
    [
        (instances, {"ones": np.array([1, 1, 2], np.float32)}),
        (instances, {"zeros": np.array([0, 0, 1], np.float32)}),
        (instances, {"scale": np.arange(W, dtype=np.float32)}),  # along a row, as wide as C
        (instances, {"bias": np.ones((C, 1, W), np.float32)}),
        (instances, {"flat": np.array([1, 3, -1])}),  # over both frames
        (rows, {"power": np.float32(4)}),
        (rows, {"epsilon": np.full((1, 3, 1, 1), EPSILON, np.float32)}),
        (rows, {"rows": np.array([N, 3, C // 3, H * W]), "two": np.array([0])}),
        (
            rows,
            {"channels": np.array([N, 3, H * W, C // 3])}
            | {"scale": np.ones(1, np.float32)}
            | {"bias": np.zeros(1, np.float32)},
        ),
    ],
)
def test_what_only_looks_like_one_stays(rng, affine, form, changed):
    x = rng.normal(0, 1, (N, C, H, W)).astype(np.float32)
    written = form(3, *affine, **changed)
    model = read(written)
    assert split_norms(model) == 0
    np.testing.assert_allclose(run(model, x), run(read(written), x), rtol=1e-5, atol=1e-6)


def test_sides_that_are_open_stay(affine):
    model = read(instances(3, *affine, shape=(N, C, "height", "width")))
    assert split_norms(model) == 0
    assert "MVN" in {node.get_type_name() for node in model.get_ordered_ops()}


def test_all_of_ours_are_found_and_the_result_is_the_same(monkeypatch):
    written = onnx.load(READY_BUNDLE / "model.onnx").graph.node
    norms = sum(node.op_type in ("InstanceNormalization", "Sqrt") for node in written)
    counts = []

    def counted(model):
        counts.append(split_norms(model))
        return counts[-1]

    frame = reference_frames((480, 640), 1)[0]
    monkeypatch.setattr(compiled, "split_norms", counted)
    with e2e.load(READY_BUNDLE, backend="openvino") as engine:
        split = engine(frame)
    assert counts == [norms]
    assert norms > 50
    monkeypatch.setattr(compiled, "split_norms", lambda model: 0)
    monkeypatch.setattr(compiled, "CompiledCache", lambda: None)
    with e2e.load(READY_BUNDLE, backend="openvino") as engine:
        whole = engine(frame)
    assert np.linalg.norm(split - whole) <= 1e-5 * np.linalg.norm(whole)


def after_8_bits(rng, groups, scale, bias):
    """A group norm after a convolution whose weights and input are 8 bits wide."""
    model = instances(groups, scale, bias)
    constants = {
        "weight": rng.integers(-127, 128, (C, C, 3, 3), dtype=np.int8),
        "weight_scale": rng.uniform(0.001, 0.01, C).astype(np.float32),
        "weight_zero": np.zeros(C, np.int8),
        "step": np.float32(4 / 255),
        "zero": np.uint8(0),
    }
    op = helper.make_node
    model.graph.node[0].input[0] = "map"
    before = [
        op("QuantizeLinear", ["x", "step", "zero"], ["narrow"]),
        op("DequantizeLinear", ["narrow", "step", "zero"], ["rounded"]),
        op("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["kernel"], axis=0),
        op("Conv", ["rounded", "kernel"], ["map"], pads=[1, 1, 1, 1]),
    ]
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()
    )
    return model


def test_weights_of_8_bits_stay_what_they_are(rng, affine):
    """As weights of 32 bits their layers ran in fp32: e2e-tiny took twice the time."""
    model, whole = (read(after_8_bits(np.random.default_rng(3), 3, *affine)) for _ in range(2))
    assert split_norms(model) == 1
    constants = [n for n in model.get_ordered_ops() if n.get_type_name() == "Constant"]
    found = [(n.get_element_type().to_string(), list(n.get_output_shape(0))) for n in constants]
    assert ("i8", [C, C, 3, 3]) in found
    assert ("f32", [C, C, 3, 3]) not in found
    assert "MVN" not in {node.get_type_name() for node in model.get_ordered_ops()}
    x = rng.uniform(0, 4, (N, C, H, W)).astype(np.float32)
    kept = openvino_core().compile_model(whole, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]
    np.testing.assert_allclose(run(model, x), kept, rtol=1e-4, atol=1e-4)


def test_in_16_bits_they_stay(root, monkeypatch):
    monkeypatch.setattr(compiled, "split_norms", lambda model: pytest.fail("split"))
    e2e.load(
        root, backend="openvino", provider_options={"INFERENCE_PRECISION_HINT": "bf16"}
    ).close()
