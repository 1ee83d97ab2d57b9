"""What must be true of a graph before any builder sees it; a builder's own messages are poor and come late.

Knows ONNX graphs and what each target accepts, as a table. TensorRT 10.13's parser ends at opset 20 for what we emit;
TensorRT 11.x and TensorRT-RTX 1.7 take up to 25, and let float64 and unknown opsets pass to fail later.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from e2e_deploy.bundle.manifest import MAX_BATCH
from e2e_deploy.bundle.onnx_check import LARGEST_GRAPH, OPERATORS, TARGET_OPERATORS, check_graph
from e2e_deploy.bundle.onnx_paths import external_locations
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.names import GraphTarget


@dataclass(frozen=True)
class Target:
    """What a builder or runtime accepts."""

    name: str
    opset: int
    """What graphs for it are traced with."""
    max_opset: int
    max_elements: int | None = None
    """Numbers one tensor may hold; None where no limit is known."""
    operators: frozenset[tuple[str, str]] = frozenset()
    """(domain, name) of operators of its own, beside the standard's."""


MAX_INT32 = 2**31 - 1
# GroupNormalization is one node from opset 21 on, which costs ONNX Runtime a tenth of its speed on a CPU; Attention is
# one of the standard's from 23 on, and export/graph/multi_head.py's before, which TensorRT-RTX knows too.
TARGETS = {
    "onnxruntime": Target("onnxruntime", 20, 25),
    "onnxruntime-cuda": Target(
        "onnxruntime-cuda", 20, 25, operators=TARGET_OPERATORS["onnxruntime-cuda"]
    ),
    # TensorRT issue 3815: larger tensors are refused, 10.0.1 included.
    "tensorrt-10": Target("tensorrt-10", 20, 20, max_elements=MAX_INT32),
    "tensorrt": Target("tensorrt", 23, 25),
    "tensorrt-rtx": Target("tensorrt-rtx", 21, 25),
}

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
INTEGERS = {
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.UINT8,
    ir.DataType.INT8,
    ir.DataType.BOOL,
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, where, and what to do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


def _types(model: ir.Model) -> Iterator[Finding]:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in values:
        if value.dtype is not None and value.dtype not in FLOATS | INTEGERS:
            yield Finding(
                str(value.name),
                f"has type {value.dtype.name}",
                "builders take fp32, fp16, bf16 and integers",
            )


def _operators(model: ir.Model, target: Target) -> Iterator[Finding]:
    bodies = (node for function in model.functions.values() for node in function)
    for node in (*model.graph.all_nodes(), *bodies):
        if node.op_identifier() in model.functions:
            continue  # the graph says itself what it is, in operators that are looked at below
        if (node.domain, node.op_type) in target.operators:
            continue
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            yield Finding(
                str(node.name), f"is a {kind}", "builders are not known to take this operator"
            )


def _constants(model: ir.Model) -> Iterator[Finding]:
    """Nodes that always give the same result: work left over that folding should have removed."""
    constant = set(model.graph.initializers)
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None]
        if (
            node.op_type != "Constant"
            and inputs
            and all(value.name in constant for value in inputs)
        ):
            yield Finding(
                str(node.name), f"{node.op_type} of constants only", "fold it before export"
            )
        if node.op_type == "Constant" or (
            inputs and all(value.name in constant for value in inputs)
        ):
            constant |= {str(value.name) for value in node.outputs}
    used = {
        value.name for node in model.graph.all_nodes() for value in node.inputs if value is not None
    }
    used |= {value.name for value in model.graph.outputs}
    for name in model.graph.initializers:
        if name not in used:
            yield Finding(name, "is a weight that nothing reads", "remove it")


def _shapes(model: ir.Model) -> Iterator[Finding]:
    """Batch and sides of what goes in and out; a side may be open only if an input gives it."""
    given = {
        side.value
        for value in model.graph.inputs
        for side in (value.shape or ())
        if isinstance(side, ir.SymbolicDim)
    }
    for value in (*model.graph.inputs, *model.graph.outputs):
        shape = value.shape
        if shape is None:
            yield Finding(str(value.name), "has no shape", "trace with shapes")
            continue
        batch, *sides = shape
        if not isinstance(batch, int) or not 1 <= batch <= MAX_BATCH:
            yield Finding(
                str(value.name), f"has a batch of {batch}", f"1 to {MAX_BATCH} is expected"
            )
        for side in sides:
            known = side > 0 if isinstance(side, int) else side.value and side.value in given
            if not known:
                yield Finding(
                    str(value.name),
                    f"has a side of {side}",
                    "a side is fixed, or is one of the input's that have a name",
                )


def _elements(model: ir.Model, target: Target) -> Iterator[Finding]:
    """Tensors larger than the target takes, such as attention logits of a large picture."""
    if target.max_elements is None:
        return
    for node in model.graph.all_nodes():
        for value in node.outputs:
            sides = value.shape if value.shape is not None and value.shape.is_static() else ()
            count = math.prod(int(side) for side in sides if isinstance(side, int))
            if count > target.max_elements:
                yield Finding(
                    str(node.name),
                    f"gives {count} numbers",
                    f"{target.name} takes up to {target.max_elements} in a tensor: export for smaller pictures",
                )


def _opset(model: ir.Model, target: Target) -> Iterator[Finding]:
    opset = model.opset_imports.get("", 0)
    if opset > target.max_opset:
        yield Finding(
            "the graph",
            f"uses opset {opset}",
            f'{target.name} takes up to {target.max_opset}: export with `engine="onnx"`, or where the plan will run',
        )


def lint(model: ir.Model, target: str) -> list[Finding]:
    """Everything that is wrong with ``model`` for ``target`` (a key of TARGETS); empty when it is clean."""
    checks = (
        _opset(model, TARGETS[target]),
        _types(model),
        _operators(model, TARGETS[target]),
        _constants(model),
        _shapes(model),
        _elements(model, TARGETS[target]),
    )
    return [finding for check in checks for finding in check]


def lint_file(path: Path) -> list[Finding]:
    """What is wrong with the sizes of an ONNX file and of the weights beside it; empty when they are whole.

    Raises:
        BundleError: it is no ONNX file.
    """
    size = path.stat().st_size
    if size > LARGEST_GRAPH:
        remedy = "keep the weights in a file beside the graph"
        return [Finding(path.name, f"is {size} bytes, and parsers end at {LARGEST_GRAPH}", remedy)]
    if not external_locations(path):
        return []
    findings = []
    for name, value in ir.load(path).graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        beside = path.parent / tensor.location
        held = beside.stat().st_size if beside.is_file() else 0
        end = (tensor.offset or 0) + tensor.nbytes
        if end > held:
            what = f"ends at byte {end} of {tensor.location}, which has {held}"
            findings.append(Finding(name, what, "export again; the disk may be full"))
    return findings


def _require_none(findings: list[Finding], target: str) -> None:
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise E2EDeployError(f"the graph is not fit for {target}: {findings[0]}{more}")


def require_clean(model: ir.Model, target: str) -> None:
    """Raise when ``model`` is not clean for ``target``.

    Raises:
        E2EDeployError: names the first finding and how many there are.
    """
    _require_none(lint(model, target), target)


def require_whole(path: Path, target: GraphTarget | None = None) -> None:
    """Raise when the ONNX file or the weights beside it are too large or cut short, or no bundle would open with it.

    Args:
        path: of the file.
        target: that it is the variant for; None for a graph for everything.

    Raises:
        E2EDeployError: names the first finding and how many there are.
        BundleError: as open_bundle says it.
    """
    _require_none(lint_file(path), "any runtime")
    weights = {name: (path.parent / name).stat().st_size for name in external_locations(path)}
    check_graph(path.name, path.read_bytes(), weights, target)
