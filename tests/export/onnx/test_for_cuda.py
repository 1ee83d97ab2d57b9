"""The form of a graph for ONNX Runtime's CUDA provider, computed on a CPU: its GroupNorm is written out for that."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.onnx_paths import external_locations
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.export.graph.attention import attend
from e2e_deploy.export.graph.precision import Fp32Island
from e2e_deploy.export.graph.prepare import prepare
from e2e_deploy.export.onnx.for_cuda import MAX_MAP, fit_cuda
from e2e_deploy.export.onnx.lint import lint
from e2e_deploy.export.onnx.trace import trace
from e2e_deploy.model.checkpoint import bundled_id, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel

HW = (64, 96)
HALF_STEP = 2.0**-10
"""Of fp16, relative: one rounding up and one down."""


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def written_out(model):
    """``model`` with every GroupNorm of com.microsoft as what the kernel computes, in standard operators.

    In float32, with the variance as mean of squares less square of the mean.
    """
    proto = ir.to_proto(model)
    nodes = []
    dims = {t.name: list(t.dims) for t in proto.graph.initializer}
    for at, node in enumerate(proto.graph.node):
        if (node.domain, node.op_type) != ("com.microsoft", "GroupNorm"):
            nodes.append(node)
            continue
        facts = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert facts["channels_last"] == 1
        groups = facts["groups"]
        (c,) = dims[node.input[1]]
        n = f"out{at}"
        for name, value in (
            (f"{n}groups", np.array([0, 0, -1, groups, c // groups])),
            (f"{n}axes", np.array([1, 2, 4])),
            (f"{n}epsilon", np.array(facts["epsilon"], np.float32)),
        ):
            proto.graph.initializer.append(numpy_helper.from_array(value, name))
        x, y = node.input[0], node.output[0]

        def make(op, inputs, output, name=n, **attributes):
            nodes.append(helper.make_node(op, inputs, [name + output], **attributes))

        make("Cast", [x], "x", to=TensorProto.FLOAT)
        make("Shape", [f"{n}x"], "shape")
        make("Reshape", [f"{n}x", f"{n}groups"], "g")
        make("ReduceMean", [f"{n}g", f"{n}axes"], "mean")
        make("Mul", [f"{n}g", f"{n}g"], "squares")
        make("ReduceMean", [f"{n}squares", f"{n}axes"], "square")
        make("Mul", [f"{n}mean", f"{n}mean"], "mean2")
        make("Sub", [f"{n}square", f"{n}mean2"], "variance")
        make("Add", [f"{n}variance", f"{n}epsilon"], "safe")
        make("Sqrt", [f"{n}safe"], "spread")
        make("Sub", [f"{n}g", f"{n}mean"], "centred")
        make("Div", [f"{n}centred", f"{n}spread"], "normed5")
        make("Reshape", [f"{n}normed5", f"{n}shape"], "normed")
        make("Mul", [f"{n}normed", node.input[1]], "scaled")
        make("Add", [f"{n}scaled", node.input[2]], "shifted")
        last = "shifted"
        if facts["activation"]:
            make("Sigmoid", [f"{n}shifted"], "gate")
            make("Mul", [f"{n}shifted", f"{n}gate"], "silu")
            last = "silu"
        nodes.append(helper.make_node("Cast", [n + last], [y], to=TensorProto.FLOAT16))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return ir.from_proto(proto)


def graph_of(nodes, weights, shape, result=None, opset=20, kinds=(TensorProto.FLOAT16,) * 2):
    """A model of x to y whose values have shapes and types, as those of a trace have."""
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", kinds[0], shape)],
            [helper.make_tensor_value_info("y", kinds[1], result or shape)],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def norm_nodes(gamma, beta, shape, groups, epsilon, *, silu, as_one):
    """A norm as torch's exporter writes it before opset 21, and from there on; nodes and weights."""
    c = shape[1]
    cast = helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT)
    weights = {"gamma": gamma, "beta": beta}
    if as_one:
        nodes = [
            cast,
            helper.make_node(
                "GroupNormalization",
                ["wide", "gamma", "beta"],
                ["shifted"],
                num_groups=groups,
                epsilon=epsilon,
            ),
        ]
    else:
        weights = {
            "gamma": gamma.reshape(c, 1, 1),
            "beta": beta.reshape(c, 1, 1),
            "rows": np.array([0, groups, -1]),
            "shape": np.array(shape),
            "ones": np.ones(groups, np.float32),
            "zeros": np.zeros(groups, np.float32),
        }
        nodes = [
            cast,
            helper.make_node("Reshape", ["wide", "rows"], ["rowed"]),
            helper.make_node(
                "InstanceNormalization", ["rowed", "ones", "zeros"], ["normed"], epsilon=epsilon
            ),
            helper.make_node("Reshape", ["normed", "shape"], ["back"]),
            helper.make_node("Mul", ["back", "gamma"], ["scaled"]),
            helper.make_node("Add", ["scaled", "beta"], ["shifted"]),
        ]
    narrow = helper.make_node("Cast", ["shifted"], ["n" if silu else "y"], to=TensorProto.FLOAT16)
    nodes.append(narrow)
    if silu:
        nodes.append(helper.make_node("Sigmoid", ["n"], ["gate"]))
        nodes.append(helper.make_node("Mul", ["n", "gate"], ["y"]))
    return nodes, weights


def norm_graph(rng, shape, groups, epsilon=1e-5, *, silu=False, as_one=False):
    gamma, beta = (rng.standard_normal(shape[1]).astype(np.float32) for _ in "gb")
    nodes, weights = norm_nodes(gamma, beta, shape, groups, epsilon, silu=silu, as_one=as_one)
    return graph_of(nodes, weights, shape, opset=21 if as_one else 20), gamma, beta


def exact_norm(x, gamma, beta, groups, epsilon, *, silu):
    """In float64."""
    n, c = x.shape[:2]
    rows = x.astype(np.float64).reshape(n, groups, -1)
    rows = rows - rows.mean(-1, keepdims=True)
    rows = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + epsilon)
    y = rows.reshape(x.shape) * gamma.reshape(c, 1, 1) + beta.reshape(c, 1, 1)
    return y / (1 + np.exp(-y)) if silu else y


def kinds(model):
    return [node.op_type for node in model.graph]


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 8),
    pairs=st.integers(1, 4),
    hw=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    epsilon=st.sampled_from([1e-6, 1e-5, 1e-2]),
    silu=st.booleans(),
    as_one=st.booleans(),
    offset=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_a_fused_norm_is_the_norm(batch, groups, pairs, hw, epsilon, silu, as_one, offset, seed):
    rng = np.random.default_rng(seed)
    shape = (batch, 2 * pairs * groups, *hw)
    model, gamma, beta = norm_graph(rng, shape, groups, epsilon, silu=silu, as_one=as_one)
    x = (rng.standard_normal(shape) + offset).astype(np.float16)
    portable = run(model, x).astype(np.float64)
    assert fit_cuda(model) == {"GroupNorm": 1, "MultiHeadAttention": 0}
    assert kinds(model) == ["Transpose", "GroupNorm", "Transpose"]
    found = run(written_out(model), x).astype(np.float64)
    exact = exact_norm(x, gamma, beta, groups, epsilon, silu=silu)
    # The fused one rounds once, the portable one before and after SiLU too; sums of a few hundred squares in float32
    # lose digits where the mean is large beside the spread.
    allowed = HALF_STEP * np.abs(exact) + 2e-3
    assert (np.abs(found - exact) <= allowed).all()
    assert (np.abs(found - portable) <= 3 * allowed).all()


@pytest.mark.parametrize("as_one", [False, True])
def test_what_the_kernel_does_not_take_stays(rng, as_one, monkeypatch):
    odd, *_ = norm_graph(rng, (1, 12, 4, 4), 4, as_one=as_one)  # three channels a group
    wide, *_ = norm_graph(rng, (1, 514 * 2, 2, 2), 2, as_one=as_one)  # 514 a group
    flat, *_ = norm_graph(rng, (1, 8, 16), 4, as_one=as_one)  # of tokens
    for model in (odd, wide, flat):
        before = kinds(model)
        assert fit_cuda(model)["GroupNorm"] == 0
        assert kinds(model) == before
    large, *_ = norm_graph(rng, (1, 8, 4, 4), 4, as_one=as_one)
    monkeypatch.setattr("e2e_deploy.export.onnx.for_cuda.MAX_MAP", 8 * 4 * 4)
    assert fit_cuda(large)["GroupNorm"] == 0
    assert MAX_MAP == 2**31


def test_a_norm_in_fp32_or_with_weights_of_its_own_stays(rng):
    """What looks like the pattern and is another function."""
    gamma, beta = (rng.standard_normal(8).astype(np.float32) for _ in "gb")

    def of(change, **kinds):
        nodes, weights = norm_nodes(gamma, beta, (1, 8, 4, 4), 4, 1e-5, silu=False, as_one=False)
        change(nodes, weights)
        return graph_of(nodes, weights, (1, 8, 4, 4), **kinds)

    def scaled_groups(nodes, weights):
        weights["ones"] = np.array([1, 1, 2, 1], np.float32)

    def turned(nodes, weights):
        weights["shape"] = np.array([1, 8, 2, 8])

    def in_float(nodes, weights):
        nodes[0] = helper.make_node("Identity", ["x"], ["wide"])
        nodes[-1] = helper.make_node("Identity", ["shifted"], ["y"])

    def taken_elsewhere(nodes, weights):
        nodes.append(helper.make_node("Cast", ["scaled"], ["unused"], to=TensorProto.FLOAT16))

    assert fit_cuda(of(scaled_groups))["GroupNorm"] == 0
    assert fit_cuda(of(taken_elsewhere))["GroupNorm"] == 0
    assert fit_cuda(of(in_float, kinds=(TensorProto.FLOAT,) * 2))["GroupNorm"] == 0
    assert fit_cuda(of(turned, result=(1, 8, 2, 8)))["GroupNorm"] == 0
    assert fit_cuda(of(lambda nodes, weights: None))["GroupNorm"] == 1


def test_silu_stays_apart_where_the_norm_is_taken_elsewhere_too(rng):
    gamma, beta = (rng.standard_normal(8).astype(np.float32) for _ in "gb")
    nodes, weights = norm_nodes(gamma, beta, (1, 8, 4, 4), 4, 1e-5, silu=True, as_one=False)
    nodes[-1].output[0] = "silu"
    nodes.append(helper.make_node("Add", ["silu", "n"], ["y"]))
    model = graph_of(nodes, weights, (1, 8, 4, 4))
    x = rng.standard_normal((1, 8, 4, 4)).astype(np.float16)
    portable = run(model, x)
    assert fit_cuda(model)["GroupNorm"] == 1
    assert kinds(model)[-3:] == ["Sigmoid", "Mul", "Add"]
    np.testing.assert_allclose(run(written_out(model), x), portable, atol=4e-3, rtol=2e-3)


def attention_graph(rng, heads=2, head=8, tokens=6, *, opset=20, constant_key=False):
    """x [1, tokens, C] in fp16, cast up, moved, attended to in fp32, moved and cast down."""
    width = heads * head
    shape = (1, tokens, width)
    weights = {"turned": np.array([1, width, tokens]), "flat": np.array(shape)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Cast", ["t"], ["t32"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["t32"], ["k"], perm=[0, 2, 1]),
        helper.make_node("Cast", ["x"], ["q"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["q", "flat"], ["v"]),
    ]
    if constant_key:
        weights["known"] = rng.standard_normal(shape).astype(np.float32)
    key = "known" if constant_key else "k"
    if opset >= 23:
        node = helper.make_node(
            "Attention",
            ["q", key, "v"],
            ["a"],
            q_num_heads=heads,
            kv_num_heads=heads,
            scale=1.0,
        )
    else:
        node = helper.make_node(
            "MultiHeadAttention",
            ["q", key, "v"],
            ["a"],
            domain="com.microsoft",
            num_heads=heads,
            scale=1.0,
        )
    nodes += [
        node,
        helper.make_node("Reshape", ["a", "flat"], ["moved"]),
        helper.make_node("Cast", ["moved"], ["y"], to=TensorProto.FLOAT16),
    ]
    model = graph_of(nodes, weights, shape, opset=opset)
    for each in model.graph:  # shape inference does not know the operator of com.microsoft
        for value in each.outputs:
            if value.name in ("a", "moved"):
                value.shape, value.dtype = ir.Shape(shape), ir.DataType.FLOAT
    return model


@pytest.mark.parametrize("opset", [20, 23])
def test_attention_between_casts_becomes_half(rng, opset):
    model = attention_graph(rng, opset=opset)
    x = (3 * rng.standard_normal((1, 6, 16))).astype(np.float16)
    portable = run(model, x).astype(np.float32)
    assert fit_cuda(model) == {"GroupNorm": 0, "MultiHeadAttention": 1}
    assert "Cast" not in kinds(model)
    (node,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert (node.domain, node.attributes["num_heads"].as_int()) == ("com.microsoft", 2)
    assert node.attributes["scale"].as_float() == 1.0
    assert {value.dtype for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT16}
    # A CPU has no such kernel: ONNX Runtime puts the casts back, around the same numbers.
    np.testing.assert_allclose(run(model, x), portable, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "facts", [{"head": 12}, {"head": 1032, "heads": 1}, {"constant_key": True}]
)
def test_attention_without_a_kernel_of_wide_sums_stays(rng, facts):
    model = attention_graph(rng, **facts)
    assert fit_cuda(model)["MultiHeadAttention"] == 0
    (node,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    assert {value.dtype for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT}
    assert kinds(model)[-1] == "Cast"


def test_attention_whose_result_is_wanted_in_fp32_stays(rng):
    model = attention_graph(rng)
    taken = next(value for node in model.graph for value in node.outputs if value.name == "moved")
    model.graph.append(ir.node("Relu", [taken], name="other"))
    assert fit_cuda(model)["MultiHeadAttention"] == 0


class Block(torch.nn.Module):
    """What the networks consist of, in half precision: norms with SiLU and without, a convolution, attention."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (Fp32Island(torch.nn.GroupNorm(4, 16, eps=1e-6)) for _ in "ab")
        self.conv = torch.nn.Conv2d(16, 16, 3, padding=1).half()
        for norm in (self.first, self.second):
            torch.nn.init.normal_(norm.inner.weight)
            torch.nn.init.normal_(norm.inner.bias)

    def forward(self, x):
        y = self.conv(torch.nn.functional.silu(self.first(x)))
        tokens = self.second(y).flatten(2).transpose(1, 2).unsqueeze(1)
        mixed = attend(tokens * 0.25, tokens, -tokens, fused=False)
        return mixed.squeeze(1).transpose(1, 2).reshape(y.shape) + x


@pytest.mark.parametrize("opset", [20, 21, 23])
def test_what_the_exporter_writes_is_known_in_every_operator_set(rng, opset):
    torch.manual_seed(0)
    x = rng.standard_normal((1, 16, 6, 8)).astype(np.float16)
    names = {"input_name": "x", "output_names": ["y"], "opset": opset}
    portable = trace(Block().eval(), torch.from_numpy(x), **names)
    fitted = portable.clone()
    assert fit_cuda(fitted) == {"GroupNorm": 2, "MultiHeadAttention": 1}
    assert not {"Cast", "Sigmoid", "Attention", "GroupNormalization"} & set(kinds(fitted))
    onnx.checker.check_model(ir.to_proto(fitted))
    found, expected = run(written_out(fitted), x), run(portable, x)
    np.testing.assert_allclose(found, expected, atol=1e-2, rtol=2e-3)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_constant_matrix_comes_second(rng, batch):
    """Rows and columns of a resize, as the frame steps have them; a product of two maps stays."""
    x = rng.standard_normal((batch, 3, 5, 7)).astype(np.float32)
    weights = {
        "rows": rng.standard_normal((4, 5)).astype(np.float32),
        "columns": rng.standard_normal((7, 6)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["rows", "x"], ["a"]),
        helper.make_node("MatMul", ["a", "columns"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["c", "b"], ["y"]),
    ]
    floats = (TensorProto.FLOAT,) * 2
    model = graph_of(nodes, weights, x.shape, (batch, 3, 6, 6), kinds=floats)
    expected = run(model, x)
    fit_cuda(model)
    products = [node for node in model.graph if node.op_type == "MatMul"]
    assert [len(node.inputs[1].shape) for node in products] == [2, 2, 4]
    assert all(len(node.inputs[0].shape) == 4 for node in products)
    np.testing.assert_allclose(run(model, x), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """e2e-tiny depth in fp16, with its variant."""
    out = tmp_path_factory.mktemp("variants") / "b"
    return export_bundle(out=out, precision="fp16", frame_sizes=[HW], resolution=0, engine="onnx")


def check_same(portable, fitted, frame):
    """Both graphs give the same picture but for the places where fp16 rounds."""
    expected, found = run(portable, frame), run(written_out(fitted), frame)
    assert np.ptp(expected) > 0.05
    assert 0 < np.abs(found - expected).mean() < 3e-4
    assert np.abs(found - expected).max() < 1e-2


@pytest.mark.slow
def test_e2e_tiny_depth_is_the_same_model(exported):
    (graph,) = exported.manifest.graphs
    frames, _ = exported.reference(graph)
    files = (graph.onnx, graph.file_for("onnxruntime-cuda"))
    check_same(*(ir.from_proto(onnx.load(exported.root / name)) for name in files), frames[:1])


@pytest.mark.slow
def test_e2e_tiny_normals_is_the_same_model():
    model = load_model(open_checkpoint(bundled_id("normals")))
    plan = model.plan(HW, 0)
    body, _ = prepare(model, precision="fp16", specialised=True, sizes_hw=[plan.padded_hw])
    frame = reference_frames(HW, 1)
    module = FrameModel(body, plan, ("normals",)).eval()
    names = {"input_name": "frame", "output_names": ["normals"]}
    portable = trace(module, torch.from_numpy(frame), **names)
    fitted = portable.clone()
    assert fit_cuda(fitted) == {"GroupNorm": 63, "MultiHeadAttention": 6}
    assert "InstanceNormalization" not in kinds(fitted)
    assert lint(fitted, "onnxruntime-cuda") == []
    assert "com.microsoft.GroupNorm" in str(lint(fitted, "onnxruntime")[0])
    check_same(portable, fitted, frame)


@pytest.mark.slow
def test_an_fp16_bundle_holds_it_with_the_same_weights(exported):
    manifest = exported.manifest
    (graph,) = manifest.graphs
    (variant,) = graph.variants
    assert (variant.target, variant.onnx) == ("onnxruntime-cuda", "model-onnxruntime-cuda.onnx")
    assert variant.operators == {"GroupNorm": 63, "MultiHeadAttention": 6}
    places = [external_locations(exported.root / name) for name in (graph.onnx, variant.onnx)]
    assert places[0] == places[1] == {"model.data"}
    held = sum(tensor.nbytes for tensor in weights(exported.root / graph.onnx))
    assert manifest.files["model.data"].bytes < held + 4096 * 300  # each tensor once


def weights(path):
    return [value.const_value for value in ir.load(path).graph.initializers.values()]
