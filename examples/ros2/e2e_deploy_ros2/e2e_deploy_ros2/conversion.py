"""e2e-deploy's messages to those of ROS and back; they have the same fields, so the fields say how."""

from array import array
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def ros_class(type_name: str) -> Any:
    """The class of "sensor_msgs/msg/Image" and such."""
    package, _, name = type_name.split("/")
    return getattr(import_module(f"{package}.msg"), name)


def to_ros(message: Any) -> Any:
    """A message of e2e-deploy as that of ROS."""
    made = ros_class(message.type_name)()
    for field in fields(message):
        setattr(made, field.name, _to_ros(getattr(message, field.name)))
    return made


def _to_ros(value: Any) -> Any:
    if is_dataclass(value):
        return to_ros(value)
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            return value.tolist()
        # The one sequence that the generated classes take without a look at every byte. Its constructor looks at each.
        made = array("B")
        made.frombytes(memoryview(np.ascontiguousarray(value)))
        return made
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_ros(item) for item in value]
    return value


def from_ros(kind: type[T], message: Any) -> T:
    """A message of ROS as e2e-deploy's ``kind``; its bytes are not copied."""
    given: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        value = getattr(message, field.name)
        if isinstance(field.type, type) and is_dataclass(field.type):
            value = from_ros(field.type, value)
        elif isinstance(value, array):
            value = (
                np.frombuffer(value, dtype=value.typecode) if value else np.zeros(0, value.typecode)
            )
        given[field.name] = value
    return kind(**given)
