"""What a graph takes, reckoned from its shapes before OpenVINO computes anything: it has no limit to be given."""

import math
from collections.abc import Set
from typing import Any

from e2e_deploy.errors import BundleError, UnavailableError
from e2e_deploy.nvidia.hardware import available_memory_bytes
from e2e_deploy.runtime.backends.openvino.norms import is_widened

_MAY_FOLD_BYTES = 2**26
"""Of constants that are computed while a graph is loaded, beside weights that change their type."""


def needed_bytes(model: Any, onnx: str, shape: list[int]) -> int:
    """Weights and the largest tensor of a graph: less than it takes, and all that its shapes tell for certain.

    Args:
        model: as OpenVINO reads it.
        onnx: the graph's file, for the error.
        shape: of its input; open sides are as there.

    Raises:
        BundleError: it would make constants of any size while it is loaded, which none of our graphs does.
    """
    if model.is_dynamic():
        model = model.clone()
        model.reshape(shape)
    fixed: set[str] = set()
    narrow: set[str] = set()
    weights = folded = largest = 0
    for node in model.get_ordered_ops():
        size = sum(_bytes_of(output) for output in node.outputs())
        inputs = [value.get_node().get_friendly_name() for value in node.input_values()]
        if node.get_type_name() == "Constant":
            weights += size
        elif _stays_narrow(node, narrow):
            narrow.add(node.get_friendly_name())
        elif inputs and fixed.issuperset(inputs):
            folded += size
        else:
            largest = max(largest, size)
            continue
        fixed.add(node.get_friendly_name())
    if folded > 2 * weights + _MAY_FOLD_BYTES:
        raise BundleError(
            f"{onnx} makes {folded:,} bytes of constants while it is loaded, which no graph of ours does: export the "
            "checkpoint again"
        )
    return weights + folded + largest


def _stays_narrow(node: Any, narrow: Set[str]) -> bool:
    """Whether it scales weights of 8 bits, which OpenVINO keeps and takes the scale into the product."""
    if is_widened(node):
        return True
    if node.get_type_name() not in ("Subtract", "Multiply"):
        return False
    first = node.input_value(0)
    is_weight = first.get_node().get_friendly_name() in narrow
    return is_weight and node.get_output_partial_shape(0) == first.get_partial_shape()


def _bytes_of(output: Any) -> int:
    shape = output.get_partial_shape()
    if shape.is_dynamic:
        return 0
    bits: int = math.prod(shape.to_shape()) * output.get_element_type().bitwidth
    return math.ceil(bits / 8)


def require_memory(needed: int, onnx: str) -> None:
    """Refuse a graph that needs more than is free.

    Raises:
        UnavailableError: says both.
    """
    free = available_memory_bytes()
    if free is not None and needed > free:
        raise UnavailableError(
            f"{onnx} needs more memory than is free here, {needed:,} bytes at least where {free:,} are: export for "
            "smaller pictures or another precision, or free some"
        )
