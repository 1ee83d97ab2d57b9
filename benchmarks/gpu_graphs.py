"""Other ways to write the same exported graph, for ONNX Runtime on a GPU: its norms, its attention, its layout.

The exporter writes a group norm as [Cast] Reshape InstanceNormalization Reshape Mul Add [Cast] [Sigmoid Mul] and
attention as MultiHeadAttention in float32 between casts. Each function here changes a model in place, whose large
weights stay where they are.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


class Graph:
    """A model with its nodes by what they make and what they take."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.index()

    def index(self) -> None:
        """Read the nodes again."""
        self.maker = {name: node for node in self.graph.node for name in node.output}
        self.takers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)

    def value(self, name: str) -> Any:
        """A constant's numbers, or None."""
        if name in self.constants:
            return numpy_helper.to_array(self.constants[name], str(self.folder))
        made = self.maker.get(name)
        if made is not None and made.op_type == "Constant":
            return numpy_helper.to_array(made.attribute[0].t)
        return None

    def only_taker(self, name: str, kind: str) -> Any:
        """The node of that kind if it alone takes the value, else None."""
        takers = self.takers.get(name, [])
        return takers[0] if len(takers) == 1 and takers[0].op_type == kind else None

    def constant(self, name: str, value: Any) -> str:
        """Add a constant; returns its name."""
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def replace(self, gone: list[Any], made: dict[int, list[Any]]) -> None:
        """Take nodes away and put others where one of them was, by ``id`` of that one."""
        dead = {id(node) for node in gone}
        nodes: list[Any] = []
        for node in self.graph.node:
            nodes += made.get(id(node), [])
            if id(node) not in dead:
                nodes.append(node)
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(kept)
        del self.graph.value_info[:]  # types change
        self.index()


@dataclass
class Norm:
    """A group norm as it was found: its parts and what it means."""

    nodes: list[Any]
    source: str
    result: str
    gamma: Any
    beta: Any
    groups: int
    epsilon: float
    silu: bool
    shape: list[int]
    half: bool

    @property
    def name(self) -> str:
        """A prefix for what replaces it."""
        return f"{self.nodes[-1].name or self.result}/rewritten"


def _is_cast(node: Any, to: int) -> bool:
    return node is not None and node.op_type == "Cast" and node.attribute[0].i == to


def find_norms(graph: Graph) -> list[Norm]:
    """Every group norm of four-dimensional maps in the form that the exporter writes."""
    found = []
    for node in list(graph.graph.node):
        if node.op_type != "InstanceNormalization":
            continue
        before = graph.maker.get(node.input[0])
        after = graph.only_taker(node.output[0], "Reshape")
        scale = graph.only_taker(after.output[0], "Mul") if after is not None else None
        shift = graph.only_taker(scale.output[0], "Add") if scale is not None else None
        if before is None or before.op_type != "Reshape" or shift is None:
            continue
        shape = graph.value(after.input[1])
        gamma = graph.value(next(i for i in scale.input if i != after.output[0]))
        beta = graph.value(next(i for i in shift.input if i != scale.output[0]))
        if shape is None or len(shape) != 4 or gamma is None or beta is None:
            continue
        nodes, source, result = [before, node, after, scale, shift], before.input[0], shift
        half = False
        given = graph.maker.get(source)
        if _is_cast(given, TensorProto.FLOAT) and len(graph.takers[source]) == 1:
            nodes.insert(0, given)
            source = given.input[0]
            half = True
        cast = graph.only_taker(result.output[0], "Cast")
        if half and _is_cast(cast, TensorProto.FLOAT16):
            nodes.append(cast)
            result = cast
        elif half:  # what follows takes it in float32
            nodes, source, half = nodes[1:], before.input[0], False
        takers = graph.takers.get(result.output[0], [])
        silu = False
        if sorted(t.op_type for t in takers) == ["Mul", "Sigmoid"]:
            sigmoid, product = sorted(takers, key=lambda t: t.op_type != "Sigmoid")
            if set(product.input) == {sigmoid.output[0], result.output[0]}:
                nodes += [sigmoid, product]
                result, silu = product, True
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        groups = int(graph.value(node.input[1]).size)
        found.append(
            Norm(
                nodes,
                source,
                result.output[0],
                gamma.ravel().astype(np.float32),
                beta.ravel().astype(np.float32),
                groups,
                epsilon,
                silu,
                [int(n) for n in shape],
                half,
            )
        )
    return found


def _fused(graph: Graph, norm: Norm) -> list[Any]:
    """As one com.microsoft.GroupNorm of a channels-last map."""
    name = norm.name
    parts = [graph.constant(f"{name}/{k}", getattr(norm, k)) for k in ("gamma", "beta")]
    return [
        helper.make_node("Transpose", [norm.source], [f"{name}/nhwc"], perm=TO_NHWC),
        helper.make_node(
            "GroupNorm",
            [f"{name}/nhwc", *parts],
            [f"{name}/normed"],
            domain=MICROSOFT,
            epsilon=norm.epsilon,
            groups=norm.groups,
            activation=int(norm.silu),
            channels_last=1,
        ),
        helper.make_node("Transpose", [f"{name}/normed"], [norm.result], perm=TO_NCHW),
    ]


def _fused_apart(graph: Graph, norm: Norm) -> list[Any]:
    """The same with SiLU as operators of its own, which another runtime may fuse or not."""
    nodes = _fused(graph, norm)
    if norm.silu:
        normed = f"{norm.name}/nchw"
        next(a for a in nodes[1].attribute if a.name == "activation").i = 0
        nodes[-1].output[0] = normed
        nodes.append(helper.make_node("Sigmoid", [normed], [f"{norm.name}/sigmoid"]))
        nodes.append(helper.make_node("Mul", [normed, f"{norm.name}/sigmoid"], [norm.result]))
    return nodes


def _reduced(graph: Graph, norm: Norm) -> list[Any]:
    """In standard operators: the mean, the mean of squares of what is left, one factor and one addend a channel."""
    name, (n, c) = norm.name, norm.shape[:2]
    nodes, source = [], norm.source

    def node(kind: str, inputs: list[str], suffix: str, **attributes: Any) -> str:
        result = f"{name}/{suffix}"
        nodes.append(helper.make_node(kind, inputs, [result], **attributes))
        return result

    def constant(suffix: str, value: Any) -> str:
        return graph.constant(f"{name}/{suffix}", value)

    if norm.half:
        source = node("Cast", [source], "wide", to=TensorProto.FLOAT)
    rows = constant("rows", np.array([n, norm.groups, -1], np.int64))
    columns = constant("columns", np.array([n, c, 1, 1], np.int64))
    each = constant("each", np.array([n, norm.groups, c // norm.groups], np.int64))
    last = constant("last", np.array([2], np.int64))
    x = node("Reshape", [source, rows], "groups")
    mean = node("ReduceMean", [x, last], "mean", keepdims=1)
    centred = node("Sub", [x, mean], "centred")
    squares = node("Mul", [centred, centred], "squares")
    variance = node("ReduceMean", [squares, last], "variance", keepdims=1)
    safe = node("Add", [variance, constant("epsilon", np.array(norm.epsilon, np.float32))], "safe")
    spread = node("Sqrt", [safe], "spread")
    parts = (1, norm.groups, c // norm.groups)
    gamma, beta = norm.gamma.reshape(parts), norm.beta.reshape(parts)
    factor = node("Div", [constant("gamma", gamma), spread], "factor")
    moved = node("Mul", [mean, factor], "moved")
    addend = node("Sub", [constant("beta", beta), moved], "addend")
    factor = node("Reshape", [factor, columns], "factor_nc11")
    addend = node("Reshape", [node("Expand", [addend, each], "addends"), columns], "addend_nc11")
    scaled = node("Mul", [source, factor], "scaled")
    y = node("Add", [scaled, addend], "shifted")
    if norm.half:
        y = node("Cast", [y], "narrow", to=TensorProto.FLOAT16)
    if norm.silu:
        y = node("Mul", [y, node("Sigmoid", [y], "sigmoid")], "silu")
    nodes[-1].output[0] = norm.result
    return nodes


def _written_out(graph: Graph, norm: Norm) -> list[Any]:
    """What _fused means, for a runtime without that operator: to check what was read out of the graph."""
    name, (n, c, h, w) = norm.name, norm.shape
    fused = _fused(graph, norm)[1]
    del graph.graph.initializer[-2:]
    groups = graph.constant(f"{name}/groups", np.array([n, norm.groups, -1], np.int64))
    shape = graph.constant(f"{name}/shape", np.array([n, c, h, w], np.int64))
    ones = graph.constant(f"{name}/ones", np.ones(norm.groups, np.float32))
    zeros = graph.constant(f"{name}/zeros", np.zeros(norm.groups, np.float32))
    epsilon = next(a.f for a in fused.attribute if a.name == "epsilon")
    gamma = graph.constant(f"{name}/gamma", norm.gamma.reshape(c, 1, 1))
    beta = graph.constant(f"{name}/beta", norm.beta.reshape(c, 1, 1))
    y = f"{name}/y"
    nodes = [
        helper.make_node("Cast", [norm.source], [f"{y}0"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", [f"{y}0", groups], [f"{y}1"]),
        helper.make_node(
            "InstanceNormalization", [f"{y}1", ones, zeros], [f"{y}2"], epsilon=epsilon
        ),
        helper.make_node("Reshape", [f"{y}2", shape], [f"{y}3"]),
        helper.make_node("Mul", [f"{y}3", gamma], [f"{y}4"]),
        helper.make_node("Add", [f"{y}4", beta], [f"{y}5"]),
    ]
    last = f"{y}5"
    if any(a.name == "activation" and a.i for a in fused.attribute):
        nodes.append(helper.make_node("Sigmoid", [last], [f"{y}6"]))
        nodes.append(helper.make_node("Mul", [last, f"{y}6"], [f"{y}7"]))
        last = f"{y}7"
    to = TensorProto.FLOAT16 if norm.half else TensorProto.FLOAT
    return [*nodes, helper.make_node("Cast", [last], [norm.result], to=to)]


NORMS: dict[str, Callable[[Graph, Norm], list[Any]]] = {
    "fused": _fused,
    "fused_apart": _fused_apart,
    "reduced": _reduced,
    "written_out": _written_out,
}


def rewrite_norms(graph: Graph, how: str) -> int:
    """Every group norm in another form, a key of NORMS; how many there were."""
    norms = find_norms(graph)
    made = {id(norm.nodes[-1]): NORMS[how](graph, norm) for norm in norms}
    graph.replace([node for norm in norms for node in norm.nodes], made)
    _import_microsoft(graph)
    return len(norms)


def narrow_attention(graph: Graph) -> int:
    """MultiHeadAttention in float16: the casts before it go; how many there were."""
    changed = 0
    for node in graph.graph.node:
        if node.op_type != "MultiHeadAttention":
            continue
        casts = []
        for name in node.input:
            made = graph.maker.get(name)
            while made is not None and made.op_type in ("Transpose", "Reshape"):
                made = graph.maker.get(made.input[0])
            if _is_cast(made, TensorProto.FLOAT) and len(graph.takers[made.output[0]]) == 1:
                casts.append(made)
        if len(casts) == len(node.input):
            for cast in casts:
                cast.attribute[0].i = TensorProto.FLOAT16
            changed += 1
    del graph.graph.value_info[:]
    return changed


def channels_last_convolutions(graph: Graph) -> int:
    """Every two-dimensional Conv in float16 as com.microsoft.NhwcConv between transpositions; how many."""
    made: dict[int, list[Any]] = {}
    gone = []
    for i, node in enumerate(graph.graph.node):
        weight = graph.constants.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is None or weight.data_type != TensorProto.FLOAT16 or len(weight.dims) != 4:
            continue
        name = f"{node.name or node.output[0]}/nhwc{i}"
        conv = helper.make_node(
            "NhwcConv",
            [f"{name}/x", f"{name}/w", *node.input[2:]],
            [f"{name}/y"],
            domain=MICROSOFT,
        )
        conv.attribute.extend(node.attribute)
        made[id(node)] = [
            helper.make_node("Transpose", [node.input[0]], [f"{name}/x"], perm=TO_NHWC),
            helper.make_node("Transpose", [node.input[1]], [f"{name}/w"], perm=TO_NHWC),
            conv,
            helper.make_node("Transpose", [f"{name}/y"], [node.output[0]], perm=TO_NCHW),
        ]
        gone.append(node)
    graph.replace(gone, made)
    _import_microsoft(graph)
    return len(gone)


def _import_microsoft(graph: Graph) -> None:
    if all(entry.domain != MICROSOFT for entry in graph.model.opset_import):
        graph.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def rewritten(
    file: Path, name: str, *, norms: str = "", attention: bool = False, convolutions: bool = False
) -> tuple[Path, dict[str, int]]:
    """Write another form of a bundle's graph beside it, whose weights it shares; the file and what was changed."""
    model = onnx.load(str(file), load_external_data=False)
    graph = Graph(model, file.parent)
    counts: dict[str, int] = {}
    if norms:
        counts["norms"] = rewrite_norms(graph, norms)
    if attention:
        counts["attentions"] = narrow_attention(graph)
    if convolutions:
        counts["convolutions"] = channels_last_convolutions(graph)
    target = file.with_name(f"{name}.onnx")
    onnx.save(model, str(target))
    return target, counts | {"nodes": len(model.graph.node)}


def census(file: Path) -> dict[str, int]:
    """Nodes of a graph by operator."""
    model = onnx.load(str(file), load_external_data=False)
    return dict(Counter(node.op_type for node in model.graph.node).most_common())
