"""A graph of a fixed batch that takes any number of pictures up to it, which Triton's batching of requests asks for.

B: pictures given, 1 to N. N: pictures the graph computes at once.

The last picture is repeated until there are N, and of the results the first B are kept: exact, and as fast as a full
batch, because that is what is computed. Triton refuses to join requests for a graph whose first axis is fixed.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

_OURS = "e2e_deploy_batch"


def with_open_batch(data: bytes, batch: int) -> bytes:
    """The ONNX graph in ``data`` with an open first axis in its input and its outputs, for 1 to ``batch`` pictures.

    Its external weights stay where they are.
    """
    model = onnx.load_model_from_string(data)
    graph = model.graph
    (given,) = graph.input
    renamed = {tensor.name: f"{tensor.name}_of_{batch}" for tensor in (given, *graph.output)}
    _rename(graph, renamed)
    count, last, index = (f"{_OURS}_{word}" for word in ("count", "last", "index"))
    constants = {"one": [1], "zero": [0], "iota": list(range(batch))}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"{_OURS}_{name}")
        for name, value in constants.items()
    )
    before = [
        helper.make_node("Shape", [given.name], [count], start=0, end=1),
        helper.make_node("Sub", [count, f"{_OURS}_one"], [last]),
        helper.make_node("Min", [f"{_OURS}_iota", last], [index]),
        helper.make_node("Gather", [given.name, index], [renamed[given.name]], axis=0),
    ]
    after = [
        helper.make_node(
            "Slice",
            [renamed[tensor.name], f"{_OURS}_zero", count, f"{_OURS}_zero"],
            [tensor.name],
        )
        for tensor in graph.output
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in (given, *graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "B"
    opened: bytes = model.SerializeToString()
    return opened


def _rename(graph: onnx.GraphProto, renamed: dict[str, str]) -> None:
    """Tensors by new names in every node, also of the graphs inside nodes."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for each in (*inner, *attribute.graphs):
                _rename(each, renamed)
                for tensor in each.output:
                    tensor.name = renamed.get(tensor.name, tensor.name)
