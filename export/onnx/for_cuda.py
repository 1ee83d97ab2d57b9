"""A traced fp16 graph as ONNX Runtime's CUDA provider runs it fastest: its own GroupNorm, its attention in fp16.

What a graph for every runtime says in standard operators and in float32 between casts, this provider has as one kernel
each (read in its sources, contrib_ops/cuda, 1.31): ``com.microsoft.GroupNorm`` takes a channels-last half map, adds and
squares in float32, and applies weights and SiLU before it rounds once; ``com.microsoft.MultiHeadAttention`` takes half
queries, adds their products in float32 and has float32 logits (flash attention up to heads of 256, CUTLASS's up to
1024). Nothing overflows that did not before: the operands are the very half numbers that were widened. What was seen of
it on an H200 stands in docs/performance.md.

Neither kernel takes bfloat16. Knows ONNX graphs; knows nothing of bundles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common as passes

from e2e_deploy.export.graph.multi_head import DOMAIN
from e2e_deploy.export.graph.multi_head import NAME as ATTENTION
from e2e_deploy.names import GraphKind, Precision

GROUP_NORM = "GroupNorm"
HALF, WIDE = ir.DataType.FLOAT16, ir.DataType.FLOAT
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
_LAYOUT = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze"})
"""Operators that move numbers of their first input and compute nothing."""

MAX_GROUP_CHANNELS = 512
MAX_MAP = 2**31
"""Numbers of a map of one picture, which the kernel counts in 32 bits."""
MAX_HEAD = 1024
"""Above, and for heads that 8 does not divide, the provider computes the logits in half precision."""


def has_variant(precision: Precision, kind: GraphKind) -> bool:
    """Whether an export writes this form too: where the kernels take the precision, for what the Engine runs."""
    return precision == "fp16" and kind == "frame"


@dataclass(frozen=True)
class GroupNorm:
    """A group normalisation of half maps [N, C, H, W] as the exporter writes it, perhaps with SiLU after it.

    Attributes:
        source: the map in half precision.
        result: of the norm or of SiLU, in half precision.
        gamma, beta: float32 [C].
    """

    source: ir.Value
    result: ir.Value
    gamma: npt.NDArray[np.float32]
    beta: npt.NDArray[np.float32]
    groups: int
    epsilon: float
    silu: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, H, W]."""
        shape = self.source.shape
        return tuple(int(side) for side in shape.numpy()) if shape and shape.is_static() else ()

    @property
    def has_kernel(self) -> bool:
        """Whether the provider's kernel takes it: it moves two channels of a group at a time."""
        if len(self.shape) != 4:
            return False
        _, channels, height, width = self.shape
        each = channels // self.groups
        return channels * height * width < MAX_MAP and each % 2 == 0 and each <= MAX_GROUP_CHANNELS


def _constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _is_cast(node: ir.Node | None, to: ir.DataType) -> bool:
    return node is not None and node.op_type == "Cast" and node.attributes["to"].as_int() == to


def _next(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node of that kind which alone takes ``value``."""
    users = [] if value is None or value.is_graph_output() else [n for n, _ in value.uses()]
    return users[0] if len(users) == 1 and users[0].op_type == kind else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    return next((each for each in node.inputs if each is not value), None)


def _parts(node: ir.Node) -> tuple[ir.Value | None, ir.Value, Any, Any, int] | None:
    """Source, result, weights and number of groups of the norm that ``node`` is the middle of."""
    if node.op_type == "GroupNormalization":  # from opset 21 on it is one node
        gamma, beta = _constant(node.inputs[1]), _constant(node.inputs[2])
        if gamma is None or beta is None:
            return None
        groups = node.attributes["num_groups"].as_int()
        return node.inputs[0], node.outputs[0], gamma, beta, groups
    if node.op_type != "InstanceNormalization" or node.inputs[0] is None:
        return None
    before, after = node.inputs[0].producer(), _next(node.outputs[0], "Reshape")
    scale = _next(after.outputs[0], "Mul") if after else None
    shift = _next(scale.outputs[0], "Add") if scale else None
    if before is None or before.op_type != "Reshape" or not (after and scale and shift):
        return None
    gamma = _constant(_other(scale, after.outputs[0]))
    beta = _constant(_other(shift, scale.outputs[0]))
    ones, zeros = _constant(node.inputs[1]), _constant(node.inputs[2])
    if gamma is None or beta is None or ones is None or zeros is None:
        return None
    grouped, whole = node.inputs[0].shape, before.inputs[0].shape if before.inputs[0] else None
    is_plain = np.all(ones == 1) and np.all(zeros == 0)
    if not is_plain or grouped is None or whole is None or after.outputs[0].shape != whole:
        return None
    if grouped[:2] != (whole[0], ones.size):
        return None
    return before.inputs[0], shift.outputs[0], gamma, beta, ones.size


def _silu(value: ir.Value) -> ir.Value | None:
    """``value`` times its sigmoid, where nothing else takes it."""
    uses = {} if value.is_graph_output() else {node.op_type: node for node, _ in value.uses()}
    if uses.keys() != {"Sigmoid", "Mul"} or len(value.uses()) != 2:
        return None
    product, gate = uses["Mul"], uses["Sigmoid"].outputs[0]
    is_silu = _next(gate, "Mul") is product and {*product.inputs} == {value, gate}
    return product.outputs[0] if is_silu else None


def find_norm(node: ir.Node) -> GroupNorm | None:
    """The group norm that ``node`` is the middle of; None where it is none of half maps."""
    parts = _parts(node)
    if parts is None or parts[0] is None:
        return None
    widened, wide, gamma, beta, groups = parts
    assert widened is not None
    up, down = widened.producer(), _next(wide, "Cast")
    if up is None or down is None or not _is_cast(up, WIDE) or not _is_cast(down, HALF):
        return None
    source, result = up.inputs[0], down.outputs[0]
    channels = source.shape[1] if source is not None and source.shape else None
    if source is None or source.dtype != HALF or gamma.size != channels or beta.size != channels:
        return None
    after = _silu(result)
    return GroupNorm(
        source,
        after or result,
        np.asarray(gamma, np.float32).ravel(),
        np.asarray(beta, np.float32).ravel(),
        groups,
        node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5,
        after is not None,
    )


def _new(
    op: str, inputs: list[ir.Value], name: str, shape: Any, *, domain: str = "", **attributes: Any
) -> ir.Node:
    """A node with one result of half precision."""
    node = ir.node(op, inputs, attributes, domain=domain, name=f"{name}/{op}")
    made = node.outputs[0]
    made.name, made.dtype, made.shape = f"{name}/{op}.0", HALF, ir.Shape(shape)
    return node


def _weight(model: ir.Model, name: str, array: npt.NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value


def _in_place_of(old: ir.Value, nodes: list[ir.Node], graph: ir.Graph) -> None:
    """Put ``nodes`` where ``old`` is made; the last one's result takes its place everywhere."""
    maker = old.producer()
    assert maker is not None
    graph.insert_before(maker, nodes)
    ir.convenience.replace_all_uses_with(old, nodes[-1].outputs[0], replace_graph_outputs=True)


def fused(model: ir.Model, norm: GroupNorm, name: str) -> list[ir.Node]:
    """The norm as the provider's one node, of a channels-last map; its neighbours' transpositions meet and go."""
    (n, c, h, w) = norm.shape
    parts = [_weight(model, f"{name}.{k}", getattr(norm, k)) for k in ("gamma", "beta")]
    given = _new("Transpose", [norm.source], f"{name}/in", (n, h, w, c), perm=TO_NHWC)
    node = _new(
        GROUP_NORM,
        [given.outputs[0], *parts],
        name,
        (n, h, w, c),
        domain=DOMAIN,
        epsilon=norm.epsilon,
        groups=norm.groups,
        activation=int(norm.silu),
        channels_last=1,
    )
    back = _new("Transpose", [node.outputs[0]], f"{name}/out", norm.shape, perm=TO_NCHW)
    return [given, node, back]


Write = Callable[[ir.Model, GroupNorm, str], list[ir.Node]]
"""Nodes that compute a norm; the last one's result is the norm's. Names begin with the given one."""


def rewrite_norms(model: ir.Model, write: Write = fused) -> int:
    """Every group norm of half maps in another form, where the provider has a kernel for it; how many."""
    found = [norm for node in model.graph if (norm := find_norm(node)) and norm.has_kernel]
    for norm in found:
        maker = norm.result.producer()
        assert maker is not None
        name = f"{maker.name}/{GROUP_NORM}"
        _in_place_of(norm.result, write(model, norm, name), model.graph)
    return len(found)


def _halved(value: ir.Value | None, made: list[ir.Node]) -> ir.Value | None:
    """What ``value`` was before it was widened, moved in the same way; new nodes go to ``made``."""
    node = None if value is None else value.producer()
    if node is None or value is None or value.shape is None:
        return None
    if _is_cast(node, WIDE):
        source = node.inputs[0]
        return source if source is not None and source.dtype == HALF else None
    if node.op_type not in _LAYOUT or node.domain:
        return None
    source = _halved(node.inputs[0], made)
    if source is None:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    rest = [each for each in node.inputs[1:] if each is not None]
    made.append(_new(node.op_type, [source, *rest], f"{node.name}/half", value.shape, **attributes))
    return made[-1].outputs[0]


def _narrows(value: ir.Value) -> bool:
    """Whether all that becomes of ``value`` is to be moved and cast to half precision."""
    return not value.is_graph_output() and all(
        _is_cast(node, HALF)
        or (node.op_type in _LAYOUT and index == 0 and _narrows(node.outputs[0]))
        for node, index in value.uses()
    )


def _narrow(value: ir.Value) -> None:
    """Let ``value``, and what moves it, be half precision; the casts go."""
    value.type = ir.TensorType(HALF)  # a clone of the graph may share the old one
    for node, _ in tuple(value.uses()):
        if node.op_type == "Cast":
            ir.convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
        else:
            _narrow(node.outputs[0])


def _heads(node: ir.Node) -> int:
    """Heads of an attention node; 0 of another node."""
    if node.op_identifier()[:2] == (DOMAIN, ATTENTION):
        return node.attributes["num_heads"].as_int()
    if node.op_identifier()[:2] == ("", "Attention"):
        return node.attributes["q_num_heads"].as_int()
    return 0


def narrow_attention(model: ir.Model) -> int:
    """Every attention between casts in half precision, where the provider has a kernel with wide sums; how many."""
    count = 0
    for node in list(model.graph):
        heads, shape = _heads(node), node.outputs[0].shape
        if not heads or len(node.inputs) != 3 or shape is None or not shape.is_static():
            continue
        head = int(shape.numpy()[-1]) // heads
        made: list[ir.Node] = []
        halves = [_halved(value, made) for value in node.inputs]
        if head % 8 or head > MAX_HEAD or None in halves or not _narrows(node.outputs[0]):
            continue
        model.graph.insert_before(node, made)
        for index, value in enumerate(halves):
            node.replace_input_with(index, value)
        if not node.domain:
            node.domain, node.op_type = DOMAIN, ATTENTION
            node.attributes.pop("q_num_heads")
            node.attributes.pop("kv_num_heads")
            node.attributes.add(ir.AttrInt64("num_heads", heads))
        _narrow(node.outputs[0])
        count += 1
    return count


def turn_products(model: ir.Model) -> int:
    """Every product of a constant matrix and a stack of others as that of the stack, turned, and the matrix; how many.

    The provider multiplies a stack by one matrix in one go. The other way round it copies lists of addresses from the
    host first, which waits for the GPU and cannot be recorded as a CUDA graph. Frames are resized so.
    """
    count = 0
    for node in list(model.graph):
        matrix = _constant(node.inputs[0]) if node.op_type == "MatMul" else None
        stack, result = node.inputs[-1], node.outputs[0]
        if matrix is None or stack is None or stack.shape is None or result.shape is None:
            continue
        rank = len(stack.shape)
        if matrix.ndim != 2 or rank < 3 or stack.dtype is None:
            continue
        turn = [*range(rank - 2), rank - 1, rank - 2]
        before = ir.node("Transpose", [stack], {"perm": turn}, name=f"{node.name}/turned")
        weight = _weight(model, f"{node.name}.turned", np.ascontiguousarray(matrix.T))
        product = ir.node("MatMul", [before.outputs[0], weight], name=f"{node.name}/MatMul")
        after = ir.node("Transpose", [product.outputs[0]], {"perm": turn}, name=f"{node.name}/back")
        for made, like in ((before, stack), (product, result), (after, result)):
            value, sides = made.outputs[0], list(like.shape or ())
            value.name, value.dtype = made.name, stack.dtype
            value.shape = ir.Shape(sides if made is after else [sides[axis] for axis in turn])
        _in_place_of(result, [before, product, after], model.graph)
        count += 1
    return count


def fit_cuda(model: ir.Model) -> dict[str, int]:
    """Change ``model``, a traced fp16 graph, for the CUDA provider; how many nodes are its own now, by operator.

    What has no kernel there stays as it is. Weights stay where they are; those of norms get another shape.
    """
    counts = {GROUP_NORM: rewrite_norms(model), ATTENTION: narrow_attention(model)}
    turn_products(model)
    tidy(model)
    return counts


def tidy(model: ir.Model) -> None:
    """Drop what nothing takes any more, and say that the graph has operators of ONNX Runtime."""
    passes.RemoveUnusedNodesPass()(model)
    model.opset_imports[DOMAIN] = 1
