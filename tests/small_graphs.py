"""ONNX graphs of a few nodes for the builders: some good, some with one thing wrong."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.plain_bundle import rehash

F16, F32, F64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE
_NUMPY = {F16: np.float16, F32: np.float32, F64: np.float64}


def write_conv(
    path,
    *,
    dtype=F16,
    weight=None,
    last="Relu",
    opset=20,
    shape=(1, 3, 16, 16),
    seed=0,
    beside=False,
):
    """input -> Conv -> ``last`` -> output, in ``dtype``; the kernel in ``weight`` if that is to be another one.

    A name in ``shape`` makes that side dynamic; ``beside`` puts the weights in a file of their own.
    """
    kernel = np.random.default_rng(seed).normal(size=(64, 3, 3, 3))
    kernel = numpy_helper.from_array(kernel.astype(_NUMPY[weight or dtype]), "kernel")
    out = [shape[0], 64, *shape[2:]]
    domain = "custom" if last == "Mine" else ""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y0"], name="vae.conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node(last, ["y0"], ["y"], name=f"vae.last/{last}", domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None if last == "Unique" else out)],
        [kernel],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    model = helper.make_model(graph, opset_imports=opsets[: 2 if domain else 1], ir_version=10)
    onnx.save(model, path, save_as_external_data=beside, location="model.data", size_threshold=0)
    return path


def write_uint8_transpose(path):
    """A uint8 input that is transposed before it is cast."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="frame/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["t"], ["y"], name="frame/Cast", to=F32),
    ]
    graph = helper.make_graph(
        nodes,
        "uint8",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("y", F32, [1, 3, 8, 8])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def write_attention(path, *, dtype, shape=(1, 2, 64, 64)):
    """Attention (opset 23) between three products of the input; [batch, heads, tokens, width]."""
    width = shape[-1]
    weights = np.random.default_rng(0).normal(size=(3, width, width)) / width**0.5
    parts = [
        numpy_helper.from_array(weight.astype(_NUMPY[dtype]), name)
        for weight, name in zip(weights, "qkv", strict=True)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", name], [f"{name}0"], name=f"unet.to_{name}/MatMul")
        for name in "qkv"
    ]
    nodes += [
        helper.make_node("Attention", ["q0", "k0", "v0"], ["a"], name="unet.attn/Attention"),
        helper.make_node("Relu", ["a"], ["y"], name="unet.last/Relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
        parts,
    )
    opsets = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=11), path)
    return path


def drop_unread(root):
    """Drop the weights that no node reads from the graphs of a bundle; lint has something against them."""
    for path in root.glob("*.onnx"):
        model = onnx.load(path)
        read = {name for node in model.graph.node for name in node.input}
        kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        onnx.save(model, path)
        rehash(root, path.name)
    return root
