import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.onnx_check import MAX_FUNCTION_NODES, OPERATORS, check_graph
from e2e_deploy.errors import BundleError
from e2e_deploy.export.onnx import lint
from tests.plain_bundle import HW, plain_model, rehash, write_plain_bundle

GIANT = 3 * 2**30  # floats: 12 GiB


def check(model, **weights):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    check_graph("model.onnx", data, weights)


def refused(model, match, **weights):
    with pytest.raises(BundleError, match=match) as caught:
        check(model, **weights)
    assert "\n" not in str(caught.value)


def with_nodes(*nodes, **constants):
    """A plain graph that also computes ``nodes`` from ``constants`` and the frame as float, "rgb"."""
    model = plain_model(HW)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return model


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_a_plain_graph(task):
    check(plain_model(HW, task))


def test_export_and_runtime_know_the_same_operators():
    assert lint.OPERATORS is OPERATORS


@pytest.mark.parametrize(
    ("op", "domain"),
    [
        *(("ConstantOfShape", ""), ("Loop", ""), ("If", ""), ("Scan", ""), ("RandomNormal", "")),
        *(("OneHot", ""), ("Conv", "somebody"), ("FusedConv", "com.microsoft"), ("ZipMap", "ai.onnx.ml")),
        ("", ""),
    ],
)  # fmt: skip
def test_an_operator_that_none_of_our_graphs_has(op, domain):
    refused(with_nodes(helper.make_node(op, ["rgb"], ["y"], domain=domain)), "no operator of our")


def test_the_standards_other_name():
    check(with_nodes(helper.make_node("Relu", ["rgb"], ["y"], domain="ai.onnx")))


def test_a_graph_inside_a_node():
    node = helper.make_node("Relu", ["rgb"], ["y"])
    node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.name = "g"
    refused(with_nodes(node), "a graph inside a node")


GROWING = {
    "Expand": helper.make_node("Expand", ["x", "n"], ["y"]),
    "Tile": helper.make_node("Tile", ["x", "n"], ["y"]),
    "Pad": helper.make_node("Pad", ["x", "n"], ["y"]),
    "Range": helper.make_node("Range", ["zero", "n", "one"], ["y"]),
    "Resize": helper.make_node("Resize", ["x", "", "", "n"], ["y"]),
}


@pytest.mark.parametrize("op", GROWING)
def test_a_constant_that_is_made_while_loading(op):
    constants = {"x": np.ones(1, np.float32), "n": np.array([2]), "zero": 0, "one": 1}
    refused(with_nodes(GROWING[op], **constants), f"{op}\\), which makes a constant")
    # Also through nodes that hide it.
    hidden = [helper.make_node("Mul", ["half", "n0"], ["n"]), GROWING[op]]
    constants = {"x": np.ones(1, np.float32), "n0": np.array([2]), "half": np.array([1])} | {
        "zero": 0,
        "one": 1,
    }
    refused(with_nodes(*hidden, **constants), f"{op}\\), which makes a constant")


@pytest.mark.parametrize("op", [op for op in GROWING if op != "Range"])
@pytest.mark.parametrize("as_node", [False, True])
def test_a_size_that_no_memory_holds(op, as_node):
    def graph(size):
        nodes = [helper.make_node("Identity", ["rgb"], ["x"])]
        if not as_node:
            return with_nodes(*nodes, GROWING[op], n=np.array([1, size]))
        value = numpy_helper.from_array(np.array([1, size]), "v")
        nodes.append(helper.make_node("Constant", [], ["n"], value=value))
        return with_nodes(*nodes, GROWING[op])

    refused(graph(GIANT), f"{op}\\), whose result would have {GIANT} numbers")
    check(graph(4))


def tensor(name="w", dims=(2,), kind=TensorProto.FLOAT, **fields):
    return TensorProto(name=name, dims=dims, data_type=kind, **fields)


def external(location, offset, length, dims=(4,)):
    found = tensor(dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        found.external_data.add(key=key, value=str(value))
    return found


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        (tensor(dims=(GIANT,), raw_data=bytes(8)), f"of {4 * GIANT} bytes, for which 8 are there"),
        (tensor(dims=(GIANT,), float_data=[1, 2]), "for which 8 are there"),
        (tensor(dims=(2**40, 2**40)), "for which 0 are there"),
        (tensor(dims=(-1,), raw_data=bytes(8)), "with a negative side"),
        (tensor(dims=(1,) * 9, raw_data=bytes(4)), "more than 8 sides"),
        (tensor(kind=TensorProto.STRING, string_data=[b"a", b"b"]), "of a type no graph of ours"),
        (tensor(kind=TensorProto.DOUBLE, raw_data=bytes(16)), "of a type no graph of ours has"),
        (external("model.data", 0, 16, dims=(GIANT,)), "for which 64 are there"),
        (external("model.data", 56, 16), "for which 64 are there"),
        (external("model.data", -16, 16), "for which 64 are there"),
        (external("model.data", 0, 8), "for which 64 are there"),
        (external("other.data", 0, 16), "for which 0 are there"),
        *(
            (
                external("model.data", offset, 16),
                "is not an ONNX file: the offset of a tensor is no",
            )
            for offset in ("nine", "+16", " 16", "1_6", "0" * 19, "\N{ARABIC-INDIC DIGIT ONE}")
        ),
    ],
)
def test_a_tensor_that_is_not_whole(weight, match):
    model = plain_model(HW)
    model.graph.initializer.append(weight)
    refused(model, match, **{"model.data": 64})
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(weight)
    refused(with_nodes(node), match.replace("64 are", "0 are"))


def test_weights_that_lie_in_a_file():
    model = plain_model(HW)
    model.graph.initializer.append(external("model.data", 48, 16))
    check(model, **{"model.data": 64})


def test_what_the_place_of_a_tensor_holds_besides_is_not_read():
    weight = external("model.data", 48, 16)
    text = weight.SerializeToString()
    entry = weight.external_data[0].SerializeToString()
    at = text.index(entry)
    third = b"\x1a\x02\xff\xff"  # a field of another number, which is no text
    text = text[: at - 1] + bytes([len(entry + third)]) + entry + third + text[at + len(entry) :]
    model = plain_model(HW)
    model.graph.initializer.append(TensorProto.FromString(text))
    check(model, **{"model.data": 64})


def test_sparse_tensors():
    sparse = onnx.SparseTensorProto(dims=[GIANT])
    model = plain_model(HW)
    model.graph.sparse_initializer.append(sparse)
    refused(model, "sparse tensor")
    node = helper.make_node("Constant", [], ["y"])
    found = node.attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR)
    found.sparse_tensor.CopyFrom(sparse)
    refused(with_nodes(node), "sparse tensor")


def test_one_attribute_with_two_tensors():
    """Parsers merge them: sides of the one, data of the other."""
    node = helper.make_node("Constant", [], ["y"])
    node.attribute.add(name="v", type=onnx.AttributeProto.TENSORS).tensors.extend([tensor()] * 2)
    refused(with_nodes(node), "more than one tensor")


def function(name="MultiHeadAttention", nodes=1, op="Relu"):
    body = [helper.make_node(op, ["x"], ["y"]) for _ in range(nodes)]
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_function("com.microsoft", name, ["x"], ["y"], body, opsets)


@pytest.mark.parametrize(
    ("held", "match"),
    [
        (function("Gelu"), "the function com.microsoft.Gelu"),
        (function(nodes=MAX_FUNCTION_NODES + 1), "of 65 nodes"),
        (function(op="Loop"), "no operator of our graphs"),
    ],
)
def test_functions(held, match):
    model = plain_model(HW)
    model.functions.append(held)
    refused(model, match)


def test_a_function_that_calls_itself():
    held = function()
    held.node[0].domain, held.node[0].op_type = "com.microsoft", "MultiHeadAttention"
    model = plain_model(HW)
    model.functions.append(held)
    refused(model, "no operator of our graphs")


def test_training():
    model = plain_model(HW)
    model.training_info.add().algorithm.name = "a"
    refused(model, "a graph for training")


def test_a_bundle_with_such_a_graph_does_not_open(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    node = helper.make_node("ConstantOfShape", ["axes"], ["y"], name="\x1b[2Jbig\n")
    onnx.save(with_nodes(node), root / "model_24x32.onnx")
    rehash(root, "model_24x32.onnx")
    with pytest.raises(
        BundleError, match=r"model_24x32.onnx holds the node .*ConstantOfShape"
    ) as caught:
        open_bundle(root)
    assert str(caught.value).isprintable()


def test_damaged_bytes_are_refused_or_pass(tmp_path):
    whole = with_nodes(GROWING["Tile"], x=np.ones(1, np.float32), n=np.array([2]))
    whole.functions.append(function())
    data = whole.SerializeToString()
    generator, outcomes = random.Random(0), set()
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            check(
                bytes(
                    damaged[: generator.randrange(len(data))]
                    if generator.random() < 0.2
                    else damaged
                )
            )
            outcomes.add("passed")
        except BundleError:
            outcomes.add("refused")
    assert outcomes == {"passed", "refused"}
