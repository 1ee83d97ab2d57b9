"""Group norms in the form that a CPU computes without turning the map over.

OpenVINO convolves with the channels last in memory, and cuts a group norm into steps that want them first: it turns
each map over before and after. Sums by channel go in either order, and a group's mean and variance follow from those of
its channels. Its own GroupNormalization is cut in the same way, so naming it would gain nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from e2e_deploy.packages import import_openvino

SPATIAL = (2, 3)


@dataclass(frozen=True)
class GroupNorm:
    """A group norm of an [N, C, H, W] map.

    Attributes:
        x: the output that is normalised.
        groups: that the channels are cut into.
        epsilon: added to the variance.
        scale: float32 [C].
        bias: float32 [C].
        result: the output that holds it.
    """

    x: Any
    groups: int
    epsilon: float
    scale: Any
    bias: Any
    result: Any


def split_norms(model: Any) -> int:
    """Write the group norms of a model by channels, in place; returns how many there were.

    Args:
        model: an ov.Model to be computed in fp32; where its sides are open it stays as it is.
    """
    if model.is_dynamic():
        return 0
    norms = _norms_of_int8(model) if is_int8(model) else find_norms(_fold(model))
    ops = import_openvino("openvino.opset13")
    for norm in norms:
        split = _by_channels(ops, norm)
        for reader in norm.result.get_target_inputs():
            reader.replace_source_output(split)
    model.validate_nodes_and_infer_types()
    return len(norms)


def is_int8(model: Any) -> bool:
    """Whether activations are rounded to 8 bits."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops())


def _fold(model: Any) -> Any:
    passes = import_openvino("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def _norms_of_int8(model: Any) -> list[GroupNorm]:
    """Found in a copy: folded, weights of 8 bits would be weights of 32 and their layers computed in fp32."""
    ops = import_openvino("openvino.opset13")
    copy = model.clone()
    for node in copy.get_ordered_ops():
        if is_widened(node):  # what is no constant is not folded
            widened = ops.parameter(node.get_output_shape(0), node.get_output_element_type(0))
            copy.add_parameters([widened])
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(widened.output(0))
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}

    def original(output: Any) -> Any:
        node = nodes.get(output.get_node().get_friendly_name())
        return None if node is None else node.output(output.get_index())

    found = [
        replace(norm, x=original(norm.x), result=original(norm.result))
        for norm in find_norms(_fold(copy))
    ]
    return [norm for norm in found if norm.x is not None and norm.result is not None]


def is_widened(node: Any) -> bool:
    """Whether a node makes wider numbers of a constant of 8 bits."""
    if node.get_type_name() != "Convert":
        return False
    source = node.input_value(0)
    is_constant: bool = source.get_node().get_type_name() == "Constant"
    return is_constant and source.get_element_type().bitwidth == 8


def find_norms(model: Any) -> list[GroupNorm]:
    """The group norms of a model whose constants are folded, in each form that our exporter and OpenVINO write."""
    readers = [_Reader(*form) for form in (_INSTANCES, _ROWS)]
    found = [reader.read(node) for node in model.get_ordered_ops() for reader in readers]
    return [norm for norm in found if norm is not None]


def _by_channels(ops: Any, norm: GroupNorm) -> Any:
    """The output of operations that compute ``norm``."""
    N, C, _, _ = norm.x.get_shape()
    grouped = [N, norm.groups, C // norm.groups]

    def reshaped(value: Any, shape: list[int]) -> Any:
        return ops.reshape(value, ops.constant(np.array(shape, np.int64)), False).output(0)

    def mean(value: Any, *axes: int) -> Any:
        return ops.reduce_mean(value, ops.constant(np.array(axes, np.int64)), True).output(0)

    means = mean(norm.x, *SPATIAL)
    centred = ops.subtract(norm.x, means)
    variances = reshaped(mean(ops.multiply(centred, centred), *SPATIAL), grouped)
    means = reshaped(means, grouped)
    mean_of_group = mean(means, 2)
    apart = ops.subtract(means, mean_of_group)
    variance = mean(ops.add(variances, ops.multiply(apart, apart)), 2)
    deviation = ops.sqrt(ops.add(variance, ops.constant(np.float32(norm.epsilon))))
    per_group = [1, *grouped[1:]]
    scale = ops.divide(ops.constant(norm.scale.reshape(per_group)), deviation)
    bias = ops.subtract(
        ops.constant(norm.bias.reshape(per_group)), ops.multiply(mean_of_group, scale)
    )
    scaled = ops.multiply(norm.x, reshaped(scale.output(0), [N, C, 1, 1]))
    return ops.add(scaled, reshaped(bias.output(0), [N, C, 1, 1])).output(0)


def _instances(any_of: Callable[[str], Any], op: Callable[..., Any]) -> Any:
    """Reshape, InstanceNormalization, Reshape, Mul, Add of ONNX, as OpenVINO reads them."""
    flat = op("Reshape", any_of("x"), any_of("shape"), name="grouped")
    normal = op("MVN", flat, any_of("axes"), name="mvn")
    own = op("Add", op("Multiply", normal, any_of("ones")), any_of("zeros"))
    back = op("Reshape", own, any_of("back"))
    return op("Add", op("Multiply", back, any_of("scale")), any_of("bias"))


def _rows(any_of: Callable[[str], Any], op: Callable[..., Any]) -> Any:
    """What export/graph/norms.py writes for long groups."""

    def mean(value: Any, number: int) -> Any:
        rows = op("ReduceMean", value, any_of(f"axis {number}"), name=f"mean {number}")
        return op("ReduceMean", rows, any_of(f"axis {number + 1}"), name=f"mean {number + 1}")

    rows = op("Reshape", any_of("x"), any_of("shape"), name="grouped")
    centred = op("Subtract", rows, mean(rows, 0))
    variance = mean(op("Power", centred, any_of("twos")), 2)
    deviation = op("Sqrt", op("Add", variance, any_of("epsilon")))
    scale = op("Multiply", any_of("scale"), op("Divide", any_of("ones"), deviation))
    by_channel = op("Reshape", centred, any_of("channels"), name="channels")
    scaled = op("Add", op("Multiply", by_channel, scale), any_of("bias"))
    return op("Reshape", scaled, any_of("back"))


def _epsilon_of_instances(found: dict[str, Any]) -> float | None:
    about = found["mvn"].get_node().get_attributes()
    is_plain = about["normalize_variance"] and about["eps_mode"].lower() == "inside_sqrt"
    flat = list(found["grouped"].get_shape())
    if not is_plain or len(flat) != 3 or _constant(found["axes"], whole=True) not in ([2], [-1]):
        return None
    return float(about["eps"]) if _all(found["zeros"], 0) else None


def _epsilon_of_rows(found: dict[str, Any]) -> float | None:
    axes = [_constant(found[f"axis {number}"], whole=True) for number in range(4)]
    keeps = all(
        found[f"mean {number}"].get_node().get_attributes()["keep_dims"] for number in range(4)
    )
    N, G, *_ = rows = list(found["grouped"].get_shape())
    C = found["x"].get_shape()[1]
    channels = list(found["channels"].get_shape())
    if axes != [[3], [2], [3], [2]] or not keeps or len(rows) != 4 or not _all(found["twos"], 2):
        return None
    epsilon = _constant(found["epsilon"])
    is_by_channel = channels == [N, G, C // G, math.prod(found["x"].get_shape()[2:])]
    return epsilon[0] if is_by_channel and epsilon and len(epsilon) == 1 else None


_INSTANCES = (_instances, "Add", _epsilon_of_instances, False)
_ROWS = (_rows, "Reshape", _epsilon_of_rows, True)


class _Reader:
    """Reads group norms of one form where it finds them.

    Args:
        write: makes the form.
        last: the type of its last operation.
        epsilon_of: checks what was found by the names in ``write``, and gives the epsilon.
        by_group: scale and bias are [G, C / G, 1] there, else [C, 1, 1].
    """

    def __init__(
        self,
        write: Callable[[Callable[[str], Any], Callable[..., Any]], Any],
        last: str,
        epsilon_of: Callable[[dict[str, Any]], float | None],
        by_group: bool,
    ) -> None:
        self._last, self._epsilon_of, self._by_group = last, epsilon_of, by_group
        self._named: dict[str, Any] = {}
        passes = import_openvino("openvino.passes")

        def any_of(name: str) -> Any:
            return self._named.setdefault(name, passes.AnyInput())

        def op(kind: str, *inputs: Any, name: str = "") -> Any:
            node = passes.WrapType(f"opset13.{kind}", list(inputs))
            if name:
                self._named[name] = node
            return node

        self._matcher = passes.Matcher(write(any_of, op), "a group norm")

    def read(self, node: Any) -> GroupNorm | None:
        """The group norm that ends in ``node``, if one does."""
        if node.get_type_name() != self._last or not self._matcher.match(node.output(0)):
            return None
        values = self._matcher.get_pattern_value_map()
        found = {name: values[pattern] for name, pattern in self._named.items()}
        x, result = found["x"], node.output(0)
        shape, grouped = list(x.get_shape()), list(found["grouped"].get_shape())
        if len(shape) != 4 or list(result.get_shape()) != shape or grouped[0] != shape[0]:
            return None
        channels, groups = shape[1], grouped[1]
        if channels % groups or x.get_element_type().to_string() != "f32":
            return None
        epsilon = self._epsilon_of(found)
        shapes = [channels, 1, 1], [groups, channels // groups, 1]
        scale, bias = (
            _per_channel(found[name], shapes[self._by_group]) for name in ("scale", "bias")
        )
        if epsilon is None or scale is None or bias is None or not _all(found["ones"], 1):
            return None
        return GroupNorm(x, groups, epsilon, scale, bias, result)


def _data(value: Any) -> Any:
    node = value.get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _constant(value: Any, *, whole: bool = False) -> list[Any] | None:
    data = _data(value)
    return None if data is None else [int(x) if whole else float(x) for x in data.ravel()]


def _all(value: Any, number: float) -> bool:
    data = _data(value)
    return data is not None and bool((data == number).all())


def _per_channel(value: Any, shape: list[int]) -> Any:
    """A constant of this shape, or with ones before it: a number for each channel, as float32 [C]."""
    data = _data(value)
    if data is None or [1] * (data.ndim - len(shape)) + shape != list(data.shape):
        return None
    return data.astype(np.float32).ravel()
