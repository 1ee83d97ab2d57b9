"""What a graph takes by its shapes: weights of 8 bits are no constants that are made while it loads, what grows is."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from e2e_deploy.errors import BundleError
from e2e_deploy.packages import openvino_core
from e2e_deploy.runtime.backends.openvino.memory import needed_bytes

pytest.importorskip("openvino_telemetry", reason="the package openvino is not installed")

ROWS, COLUMNS = 3000, 4000


def product_with(nodes, shape, **constants):
    """x [1, ROWS] times what ``nodes`` make of ``constants``, as OpenVINO reads it."""
    op = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [*nodes, op],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, shape[1]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return openvino_core().read_model(model.SerializeToString())


def test_weights_of_8_bits():
    widened = helper.make_node("DequantizeLinear", ["narrow", "scale", "zero"], ["w"], axis=1)
    model = product_with(
        [widened],
        (ROWS, COLUMNS),
        narrow=np.ones((ROWS, COLUMNS), np.int8),
        scale=np.ones(COLUMNS, np.float32),
        zero=np.zeros(COLUMNS, np.int8),
    )
    weights = ROWS * COLUMNS
    assert weights < needed_bytes(model, "model.onnx", [1, ROWS]) < 1.1 * weights


def test_what_grows_out_of_8_bits():
    side = 6000
    nodes = [
        helper.make_node("DequantizeLinear", ["narrow", "one"], ["column"]),
        helper.make_node("Mul", ["column", "row"], ["w"]),
    ]
    model = product_with(
        nodes,
        (side, side),
        narrow=np.ones((side, 1), np.int8),
        one=np.float32(1),
        row=np.ones((1, side), np.float32),
    )
    with pytest.raises(BundleError, match="of constants while it is loaded, which no graph of our"):
        needed_bytes(model, "model.onnx", [1, side])
