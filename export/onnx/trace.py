"""A torch module as an ONNX file: traced once, static or free sides, weights inside or in one shared file.

Knows torch.onnx and onnx_ir; knows nothing of checkpoints, bundles or runtimes.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from e2e_deploy.export.graph.multi_head import settle_attention
from e2e_deploy.export.open_sides import MAX_SIDE_PX, MIN_STEPS
from e2e_deploy.packages import quiet

OPSET = 20
"""Understood by ONNX Runtime 1.17+, TensorRT 10 and 11, and TensorRT-RTX."""

MAX_INLINE_BYTES = 256 * 2**20
"""Above this the weights go to a file beside the graph: runtimes map them there instead of copying them twice."""

_SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's note of the torch modules around a node
_MIN_SHARED_BYTES = 1024
_ALIGNMENT = 4096  # so that runtimes can map the weights instead of copying them


def trace(
    module: nn.Module,
    example: Tensor,
    *,
    input_name: str,
    output_names: Sequence[str],
    opset: int = OPSET,
    multiple_of: int = 0,
) -> ir.Model:
    """Trace ``module`` on ``example`` into an ONNX model.

    Args:
        module: in eval mode; one tensor in, one tensor out or a tuple of them.
        example: input of the shape and dtype the graph will take.
        input_name: name of the graph's input.
        output_names: names of the graph's outputs.
        opset: ONNX operator set.
        multiple_of: leave the last two of four sides of the input open, any multiple of this up to MAX_SIDE_PX; 0
            fixes them.
    """
    free = None
    if multiple_of:
        steps = {"min": MIN_STEPS, "max": MAX_SIDE_PX // multiple_of}
        dims = [multiple_of * torch.export.Dim(name, **steps) for name in ("rows", "columns")]
        free = ({2: dims[0], 3: dims[1]},)
    with quiet("torch.onnx"), torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=opset,
            input_names=[input_name],
            output_names=list(output_names),
            dynamic_shapes=free,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns a program
    model: ir.Model = program.model
    settle_attention(model)
    _name_nodes(model)
    if multiple_of:
        _state_multiple(model.graph, multiple_of)
    return model


def _state_multiple(graph: ir.Graph, multiple_of: int) -> None:
    """Reshape the input to sides of (side / multiple_of) * multiple_of, which they are.

    Without it TensorRT-RTX 1.7 cannot tell that a side halved and doubled three times is itself, and fails with
    std::bad_alloc or a crash. A side that is no multiple is refused at this node.
    """
    whole = graph.inputs[0]
    readers, added = tuple(whole.uses()), []

    def add(op: str, name: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op, inputs, attributes, name=f"frame/{name}")
        added.append(node)
        return node.outputs[0]

    step = add("Constant", "multiple_of", value_ints=[multiple_of])
    kept = add("Constant", "batch_and_channels", value_ints=[0, 0])  # 0: as it is
    steps = add("Div", "steps", add("Shape", "sides", whole, start=2, end=4), step)
    shape = add("Concat", "shape", kept, add("Mul", "whole_steps", steps, step), axis=0)
    stated = add("Reshape", "state_multiple", whole, shape)
    stated.type, stated.shape = whole.type, whole.shape
    graph.insert_before(graph[0], added)
    for node, index in readers:
        node.replace_input_with(index, stated)


def _name_nodes(model: ir.Model) -> None:
    """Name each node after the torch module it came from, ``vae.decoder.conv_out/Conv``, and drop the exporter's notes.

    The notes hold stack traces with paths of this machine; the names are the same in every export.
    """
    used: Counter[str] = Counter()
    for node in model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""
        name = f"{module.removeprefix('model.') or 'frame'}/{node.op_type}"
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"
        node.metadata_props.clear()
    for value in (*model.graph.initializers.values(), *model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    model.metadata_props.clear()


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )


class WeightFile:
    """One external-data file for several graphs; a tensor that occurs in two of them is stored once.

    A context manager: the file is complete when the block ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("wb")
        self._known: dict[bytes, tuple[int, int]] = {}

    def take(self, model: ir.Model) -> None:
        """Move the initializers of ``model`` into the file."""
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _MIN_SHARED_BYTES:
                continue
            if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path) == self._path:
                continue  # of another form of a graph that was taken
            data = tensor.tobytes()
            digest = hashlib.sha256(data).digest()
            if digest not in self._known:
                offset = -(-self._stream.tell() // _ALIGNMENT) * _ALIGNMENT
                self._stream.seek(offset)
                self._stream.write(data)
                self._known[digest] = (offset, len(data))
            offset, length = self._known[digest]
            value.const_value = ir.ExternalTensor(
                self._path.name,
                offset,
                length,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
                base_dir=self._path.parent,
            )
        self._stream.flush()  # what reads the tensors from here on reads the file

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def save(model: ir.Model, path: Path, weights: WeightFile | None = None) -> None:
    """Write ``model`` to ``path``; with ``weights``, its tensors go there."""
    if weights is not None:
        weights.take(model)
    ir.save(model, path)
