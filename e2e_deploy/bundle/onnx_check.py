"""What a bundle's graph may consist of, looked at before any parser sees it: our operators, and sizes it can hold.

A bundle is data from somewhere. Loops, conditions, nested functions and generators of tensors have no place in our
graphs, and ONNX Runtime would run, or while loading compute, whatever they ask for. Reads protocol buffers by itself,
so that a robot needs no onnx package; the field numbers are those of onnx.proto3. What a graph may take while it runs
is bounded by the runtime.
"""

import math
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

from e2e_deploy.bundle.onnx_wire import numbers, wire_fields
from e2e_deploy.errors import BundleError
from e2e_deploy.names import ONNXRUNTIME_CUDA, GraphTarget
from e2e_deploy.system.text import clean

_BUILDERS = """
    Add Attention Cast Clip Concat Constant Conv DepthToSpace Div Erf Expand Gather Gelu Gemm GroupNormalization
    Identity InstanceNormalization LayerNormalization MatMul Max Min Mul Neg Pad Pow Range Reciprocal ReduceL2
    ReduceMean ReduceSum ReduceSumSquare Relu Reshape Resize Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Swish
    Tanh Tile Transpose
    Unsqueeze Where
"""
_OF_SPECTRA = "Abs Atan Cos Less Sin"
_OF_STRETCHING = "ReduceMax ReduceMin"
OPERATORS = frozenset(f"{_BUILDERS} {_OF_SPECTRA} {_OF_STRETCHING}".split())
"""Standard operators our graphs are made of; each was seen to load in ONNX Runtime and, but for those of spectra
(DepthMaster's) and of stretching (GenPercept's head), to build with TensorRT-RTX."""

INT8_OPERATORS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Standard operators that int8 graphs, which no plan is built from, have besides."""

FUNCTIONS = frozenset({("com.microsoft", "MultiHeadAttention")})
"""ONNX Runtime's own operators in our graphs (domain, name); a graph may say itself what they are, as a function."""

GROUP_NORM = ("com.microsoft", "GroupNorm")
TARGET_OPERATORS: dict[GraphTarget, frozenset[tuple[str, str]]] = {
    ONNXRUNTIME_CUDA: frozenset({GROUP_NORM})
}
"""Operators (domain, name) that only the variants for a target have besides."""

_GENERATORS = frozenset({"Expand", "Pad", "Range", "Resize", "Tile"})
"""Their results are as large as an operand says: of constants alone they have no place in a graph."""

MAX_NODES, MAX_FUNCTION_NODES = 20_000, 64
"""e2e-tiny's graphs have 800 to 1,500; the one function has 18."""

MAX_ELEMENTS = 2**31
"""Of a tensor whose size a constant states; as builders' (MAX_INT32 of export/onnx/lint.py)."""

MAX_RANK = 8

LARGEST_GRAPH = 2**31 - 1
"""Bytes of a file; protocol buffers end there."""

# DataType: bytes an element; what export/onnx/lint.py lets pass
_WIDTHS = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 16: 2}
_FLOAT, _INT64 = 1, 7
_DIGITS = re.compile(r"-?[0-9]{1,18}")

# TensorProto, NodeProto, AttributeProto, GraphProto, FunctionProto, ModelProto: names of the fields that are read
_TENSOR = {1: "dims", 2: "type", 8: "name", 9: "raw", 13: "external", 14: "location"}
_TYPED = {4, 5, 7, 10, 11}  # float_data, int32_data, int64_data, double_data, uint64_data
_SPARSE = "a sparse tensor, which would be unpacked to any size"


@dataclass
class _Tensor:
    """A TensorProto: what is declared, and what is there."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    kind: int = 0
    raw: memoryview | None = None
    typed_bytes: int = 0
    int64s: list[int] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False

    @property
    def num_elements(self) -> int:
        return math.prod(self.dims)

    def product(self) -> float:
        """How large it makes the result of a generator, as an operand of few values; 1 where it says nothing."""
        if self.is_external or self.num_elements > 2 * MAX_RANK:
            return 1.0
        values: list[float] = [float(value) for value in self.int64s]
        if self.raw is not None and self.kind == _INT64:
            values = [float(value) for value in self.raw.cast("q")]
        elif self.raw is not None and self.kind == _FLOAT:
            values = list(self.raw.cast("f"))
        return math.prod(max(1.0, abs(value)) for value in values)


@dataclass
class _Node:
    """A NodeProto."""

    op: str = ""
    domain: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    constants: list[_Tensor] = field(default_factory=list)
    integers: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = f"{self.domain}.{self.op}" if self.domain else self.op
        return clean(f"the node {self.name or '(without a name)'} ({kind})", 120)


def _text(payload: memoryview | int) -> str:
    return bytes(payload).decode("utf-8") if isinstance(payload, memoryview) else ""


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _tensor(data: memoryview) -> _Tensor:
    tensor = _Tensor()
    for number, payload in wire_fields(data):
        match _TENSOR.get(number):
            case "dims":
                for value in numbers(payload):
                    if len(tensor.dims) == MAX_RANK:
                        raise ValueError(f"a tensor has more than {MAX_RANK} sides")
                    tensor.dims.append(_signed(value))
            case "type" if isinstance(payload, int):
                tensor.kind = payload
            case "name":
                tensor.name = _text(payload)
            case "raw" if isinstance(payload, memoryview):
                tensor.raw = payload
            case "external" if isinstance(payload, memoryview):
                entry = {n: _text(p) for n, p in wire_fields(payload) if n in (1, 2)}
                tensor.external[entry.get(1, "")] = entry.get(2, "")
            case "location":
                tensor.is_external = payload != 0
        if number in _TYPED:
            tensor.typed_bytes += len(payload) if isinstance(payload, memoryview) else 8
            if number == 7:
                for value in numbers(payload):
                    if len(tensor.int64s) < 2 * MAX_RANK:  # product() reads no more
                        tensor.int64s.append(_signed(value))
    return tensor


def _attribute(data: memoryview, integers: dict[str, int]) -> Iterator[_Tensor]:
    """The tensors of an attribute, and its integer into ``integers``; graphs inside it are refused."""
    tensors, name, integer = 0, "", None
    for number, payload in wire_fields(data):
        if number == 1:
            name = _text(payload)
        elif number == 3 and isinstance(payload, int):
            integer = _signed(payload)
        if number in (6, 11):
            raise _RefusedError("a graph inside a node, as loops and conditions have")
        if number in (22, 23):
            raise _RefusedError(_SPARSE)
        if number in (5, 10) and isinstance(payload, memoryview):
            tensors += 1
            yield _tensor(payload)
    if tensors > 1:  # parsers merge those of field 5
        raise _RefusedError("an attribute with more than one tensor")
    if integer is not None:
        integers[name] = integer


def _node(data: memoryview) -> _Node:
    node = _Node()
    for number, payload in wire_fields(data):
        match number:
            case 1:
                node.inputs.append(_text(payload))
            case 2:
                node.outputs.append(_text(payload))
            case 3:
                node.name = _text(payload)
            case 4:
                node.op = _text(payload)
            case 5 if isinstance(payload, memoryview):
                node.constants += _attribute(payload, node.integers)
            case 7:
                domain = _text(payload)
                node.domain = "" if domain == "ai.onnx" else domain
    return node


class _RefusedError(Exception):
    """What a graph holds that none of ours does."""


def _check_operator(node: _Node, others: Set[tuple[str, str]]) -> None:
    """Refuse an operator that is neither one of the standard's that we use nor one of ``others``."""
    is_ours = (node.domain == "" and node.op in OPERATORS | INT8_OPERATORS) or (
        (node.domain, node.op) in others
    )
    if not is_ours:
        raise _RefusedError(f"{node}, which is no operator of our graphs")


def _number_in(external: Mapping[str, str], key: str) -> int:
    """A number of a tensor's place: digits and nothing that only Python's int() takes for some."""
    if not _DIGITS.fullmatch(text := external.get(key, "0")):
        raise ValueError(f"the {key} of a tensor is no number")
    return int(text)


def _check_tensor(tensor: _Tensor, weights: Mapping[str, int]) -> None:
    """Refuse a tensor that is larger than what is there to fill it."""
    name = clean(tensor.name or "(without a name)", 80)
    if tensor.kind not in _WIDTHS:
        raise _RefusedError(
            f"the tensor {name} of a type no graph of ours has (number {tensor.kind})"
        )
    if any(side < 0 for side in tensor.dims):
        raise _RefusedError(f"the tensor {name} with a negative side")
    needed = tensor.num_elements * _WIDTHS[tensor.kind]
    if tensor.is_external:
        offset, length = (_number_in(tensor.external, key) for key in ("offset", "length"))
        held = weights.get(tensor.external.get("location", ""), 0)
        is_there = offset >= 0 and offset + needed <= held and length in (0, needed)
    elif tensor.raw is not None:
        held = len(tensor.raw)
        is_there = held == needed
    else:  # typed values take a byte at least
        held = tensor.typed_bytes
        is_there = tensor.num_elements <= held
    if not is_there:
        raise _RefusedError(f"the tensor {name} of {needed} bytes, for which {held} are there")


def _check_group_norm(node: _Node, tensors: Mapping[str, _Tensor]) -> None:
    """Refuse groups that ONNX Runtime would divide by zero for, while it loads: it checks them when it runs."""
    weights = [tensors[name] for name in node.inputs[1:] if name in tensors]
    groups = node.integers.get("groups", 0)
    if len(node.inputs) != 3 or len(weights) != 2:
        raise _RefusedError(f"{node}, whose weights are no constants")
    if any(len(each.dims) != 1 or not 1 <= groups <= each.dims[0] for each in weights):
        raise _RefusedError(f"{node} of {groups} groups, which its channels do not have")


def _check_generators(nodes: list[_Node], tensors: list[_Tensor]) -> None:
    """Refuse results that are as large as constants say, and that no frame goes into or that no memory holds."""
    constants = {tensor.name: tensor for tensor in tensors}
    fixed = {"", *constants}
    for node in nodes:
        if node.op == "Constant":
            fixed.update(node.outputs)
            constants |= dict(zip(node.outputs, node.constants, strict=False))
    for node in nodes:  # in the order of computation, as ONNX wants them
        if all(name in fixed for name in node.inputs):
            fixed.update(node.outputs)
            if node.op in _GENERATORS:
                raise _RefusedError(f"{node}, which makes a constant while the graph is loaded")
        if node.op in _GENERATORS or node.op == "Reshape":
            sizes = [constants[name].product() for name in node.inputs[1:] if name in constants]
            if any(not size <= MAX_ELEMENTS for size in sizes):
                raise _RefusedError(f"{node}, whose result would have {max(sizes):.0f} numbers")


def _check_function(data: memoryview, weights: Mapping[str, int]) -> None:
    domain = name = ""
    nodes, count = [], 0
    for number, payload in wire_fields(data):
        if number == 1:
            name = _text(payload)
        elif number == 10:
            domain = _text(payload)
        elif number == 11:
            raise _RefusedError("a function whose attributes have values")
        elif number == 7 and isinstance(payload, memoryview):
            count += 1
            if count <= MAX_FUNCTION_NODES:
                nodes.append(_node(payload))
    if (domain, name) not in FUNCTIONS or count > MAX_FUNCTION_NODES:
        raise _RefusedError(clean(f"the function {domain}.{name} of {count} nodes", 120))
    for node in nodes:
        _check_operator(node, frozenset())
        for tensor in node.constants:
            _check_tensor(tensor, weights)


def _check(
    data: memoryview, weights: Mapping[str, int], others: frozenset[tuple[str, str]]
) -> None:
    nodes: list[_Node] = []
    tensors: list[_Tensor] = []
    for number, payload in wire_fields(data):
        if number == 20:
            raise _RefusedError("a graph for training")
        if number == 25 and isinstance(payload, memoryview):
            _check_function(payload, weights)
        if number != 7 or not isinstance(payload, memoryview):
            continue
        for inner, part in wire_fields(payload):
            if inner == 15:
                raise _RefusedError(_SPARSE)
            if inner == 1 and isinstance(part, memoryview):
                nodes.append(_node(part))
            elif inner == 5 and isinstance(part, memoryview):
                tensors.append(_tensor(part))
            if max(len(nodes), len(tensors)) > MAX_NODES:
                raise _RefusedError(f"more than {MAX_NODES} nodes or tensors")
    for node in nodes:
        _check_operator(node, FUNCTIONS | others)
        if (node.domain, node.op) == GROUP_NORM:
            _check_group_norm(node, {tensor.name: tensor for tensor in tensors})
    for tensor in [*tensors, *(tensor for node in nodes for tensor in node.constants)]:
        _check_tensor(tensor, weights)
    _check_generators(nodes, tensors)


def check_graph(
    name: str, data: bytes, weights: Mapping[str, int], target: GraphTarget | None = None
) -> None:
    """Refuse an ONNX file that none of our exports can have written.

    Args:
        name: of the file, for errors.
        data: of the file.
        weights: bytes of the files beside it that it may take weights from, by their names as it knows them.
        target: that this is the variant for; None for a graph for everything.

    Raises:
        BundleError: not an ONNX file; an operator, a function or a type that none of our graphs has; a graph inside a
            node; a tensor that is not whole; a constant that would be made while loading.
    """
    try:
        _check(memoryview(data), weights, TARGET_OPERATORS[target] if target else frozenset())
    except _RefusedError as what:
        raise BundleError(
            f"{name} holds {what}; it is not loaded: export the checkpoint again, or run the file with other tools if "
            "you trust it"
        ) from None
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise BundleError(f"{name} is not an ONNX file: {clean(str(error))}") from None
