"""Other forms of an exported graph for ONNX Runtime on a GPU, beside the one that exports write.

That one is export/onnx/for_cuda.py's: its GroupNorm and its fp16 attention. Each form here shares the weights of the
file it is made of.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from e2e_deploy.export.graph.multi_head import DOMAIN
from e2e_deploy.export.onnx.for_cuda import (
    HALF,
    TO_NCHW,
    TO_NHWC,
    GroupNorm,
    Write,
    fused,
    narrow_attention,
    rewrite_norms,
    tidy,
)


def _constant(model: ir.Model, name: str, value: Any) -> ir.Value:
    array = np.asarray(value)
    tensor = ir.tensor(array, name=name)
    made = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape))
    made.type = ir.TensorType(tensor.dtype)
    model.graph.register_initializer(made)
    return made


class _Nodes:
    """Nodes in a row, each of the results before it; constants are made on the way."""

    def __init__(self, model: ir.Model, name: str) -> None:
        self._model, self._name = model, name
        self.made: list[ir.Node] = []

    def __call__(self, op: str, *inputs: ir.Value, domain: str = "", **attributes: Any) -> ir.Value:
        name = f"{self._name}/{len(self.made)}"
        node = ir.node(op, inputs, attributes, domain=domain, name=f"{name}/{op}")
        node.outputs[0].name = name
        self.made.append(node)
        return node.outputs[0]

    def constant(self, what: str, value: Any) -> ir.Value:
        """A constant by a name of its own."""
        return _constant(self._model, f"{self._name}.{what}", value)


def fused_apart(model: ir.Model, norm: GroupNorm, name: str) -> list[ir.Node]:
    """The provider's GroupNorm with SiLU as operators of its own, which another runtime may fuse or not."""
    nodes = fused(model, norm, name)
    if norm.silu:
        nodes[1].attributes["activation"] = ir.AttrInt64("activation", 0)
        after = _Nodes(model, f"{name}/silu")
        normed = nodes[-1].outputs[0]
        after("Mul", normed, after("Sigmoid", normed))
        nodes += after.made
    return nodes


def reduced(model: ir.Model, norm: GroupNorm, name: str) -> list[ir.Node]:
    """In standard operators: the mean, the mean of squares of what is left, one factor and one addend a channel."""
    (n, c, *_), groups = norm.shape, norm.groups
    node = _Nodes(model, name)
    wide = node("Cast", norm.source, to=ir.DataType.FLOAT)
    last = node.constant("last", np.array([2], np.int64))
    columns = node.constant("columns", np.array([n, c, 1, 1], np.int64))
    x = node("Reshape", wide, node.constant("rows", np.array([n, groups, -1], np.int64)))
    mean = node("ReduceMean", x, last, keepdims=1)
    centred = node("Sub", x, mean)
    variance = node("ReduceMean", node("Mul", centred, centred), last, keepdims=1)
    safe = node("Add", variance, node.constant("epsilon", np.float32(norm.epsilon)))
    parts = (1, groups, c // groups)
    gamma = node.constant("gamma", norm.gamma.reshape(parts))
    factor = node("Div", gamma, node("Sqrt", safe))
    beta = node.constant("beta", norm.beta.reshape(parts))
    addend = node("Sub", beta, node("Mul", mean, factor))
    each = node.constant("each", np.array([n, groups, c // groups], np.int64))
    addend = node("Reshape", node("Expand", addend, each), columns)
    scaled = node("Mul", wide, node("Reshape", factor, columns))
    y = node("Cast", node("Add", scaled, addend), to=HALF)
    if norm.silu:
        node("Mul", y, node("Sigmoid", y))
    return node.made


NORMS: dict[str, Write] = {"fused": fused, "fused_apart": fused_apart, "reduced": reduced}


def _swap(model: ir.Model, old: ir.Node, nodes: list[ir.Node]) -> None:
    model.graph.insert_before(old, nodes)
    ir.convenience.replace_all_uses_with(old.outputs[0], nodes[-1].outputs[0])


def channels_last_convolutions(model: ir.Model) -> int:
    """Every two-dimensional Conv in float16 as com.microsoft.NhwcConv between transpositions; how many."""
    found = [
        node
        for node in model.graph
        if node.op_type == "Conv"
        and (weight := node.inputs[1]) is not None
        and weight.dtype == HALF
        and weight.shape is not None
        and len(weight.shape) == 4
    ]
    for at, conv in enumerate(found):
        x, weight, *bias = (value for value in conv.inputs if value is not None)
        node = _Nodes(model, f"{conv.name}/nhwc{at}")
        nhwc, kernel = node("Transpose", x, perm=TO_NHWC), node("Transpose", weight, perm=TO_NHWC)
        attributes = {name: attribute.value for name, attribute in conv.attributes.items()}
        made = node("NhwcConv", nhwc, kernel, *bias, domain=DOMAIN, **attributes)
        node("Transpose", made, perm=TO_NCHW)
        _swap(model, conv, node.made)
    return len(found)


def channels_last_shuffles(model: ir.Model) -> int:
    """Every DepthToSpace of two by two, which the upsampling pass makes, of a channels-last map; how many."""
    found = [
        node
        for node in model.graph
        if node.op_type == "DepthToSpace"
        and node.attributes["mode"].as_string() == "CRD"
        and node.attributes["blocksize"].as_int() == 2
    ]
    for at, old in enumerate(found):
        x = old.inputs[0]
        assert x is not None
        assert x.shape is not None
        n, c, h, w = (int(side) for side in x.shape.numpy())
        node = _Nodes(model, f"{old.name}/nhwc{at}")
        split = node.constant("split", np.array([n, h, w, c // 4, 2, 2], np.int64))
        joined = node.constant("joined", np.array([n, 2 * h, 2 * w, c // 4], np.int64))
        parts = node("Reshape", node("Transpose", x, perm=TO_NHWC), split)
        moved = node("Transpose", parts, perm=(0, 1, 4, 2, 5, 3))
        node("Transpose", node("Reshape", moved, joined), perm=TO_NCHW)
        _swap(model, old, node.made)
    return len(found)


def _is_plain_sum(node: ir.Node | None) -> bool:
    """Whether it adds two maps of one shape."""
    if node is None or node.op_type != "Add":
        return False
    a, b = node.inputs
    return a is not None and b is not None and a.shape is not None and a.shape == b.shape


def _without_bias(value: ir.Value) -> ir.Value | None:
    """The bias of the convolution whose sum alone takes ``value``, which it loses; None where there is none."""
    conv = value.producer()
    if conv is None or conv.op_type != "Conv" or len(conv.inputs) < 3 or len(value.uses()) != 1:
        return None
    bias = conv.inputs[2]
    conv.resize_inputs(2)
    return bias


def skipped_norms(model: ir.Model) -> int:
    """Every GroupNorm of a sum of two maps as SkipGroupNorm, which adds them and a convolution's bias; how many.

    After rewrite_norms with ``fused``. The sum goes on from there, for there is always a residual that takes it.
    """
    count = 0
    for norm in [node for node in model.graph if node.op_type == "GroupNorm"]:
        turned, gamma, beta = norm.inputs
        turn = turned.producer() if turned is not None else None
        total = turn.inputs[0] if turn is not None else None
        add = total.producer() if total is not None else None
        if total is None or add is None or not _is_plain_sum(add):
            continue
        left, right = add.inputs
        assert left is not None
        assert right is not None
        bias = _without_bias(left)
        if bias is None and (bias := _without_bias(right)) is not None:
            left, right = right, left
        node = _Nodes(model, f"{norm.name}/skip")
        maps = [node("Transpose", value, perm=TO_NHWC) for value in (left, right)]
        inputs = [maps[0], gamma, beta, maps[1], *([] if bias is None else [bias])]
        facts = {name: attribute.value for name, attribute in norm.attributes.items()}
        name = f"{norm.name}/SkipGroupNorm"
        made = ir.node("SkipGroupNorm", inputs, facts, domain=DOMAIN, name=name, num_outputs=2)
        for value, what in zip(made.outputs, ("normed", "sum"), strict=True):
            value.name = f"{name}.{what}"
        node.made.append(made)
        node("Transpose", made.outputs[1], perm=TO_NCHW)
        _swap(model, add, node.made)
        ir.convenience.replace_all_uses_with(norm.outputs[0], made.outputs[0])
        count += 1
    return count


def rewritten(
    file: Path,
    name: str,
    *,
    norms: str = "",
    attention: bool = False,
    skips: bool = False,
    convolutions: bool = False,
    shuffles: bool = False,
) -> tuple[Path, dict[str, int]]:
    """Write another form of a bundle's graph beside it, whose weights it shares; the file and what was changed."""
    model = ir.load(file)
    counts: dict[str, int] = {}
    if norms:
        counts["norms"] = rewrite_norms(model, NORMS[norms])
    if skips:
        counts["skips"] = skipped_norms(model)
    if attention:
        counts["attentions"] = narrow_attention(model)
    if convolutions:
        counts["convolutions"] = channels_last_convolutions(model)
    if shuffles:
        counts["shuffles"] = channels_last_shuffles(model)
    tidy(model)
    target = file.with_name(f"{name}.onnx")
    ir.save(model, target)
    return target, counts | {"nodes": len(model.graph)}


def census(file: Path) -> dict[str, int]:
    """Nodes of a graph by operator."""
    return dict(Counter(node.op_type for node in ir.load(file).graph).most_common())
