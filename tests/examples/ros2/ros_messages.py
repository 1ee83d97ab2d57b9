"""Classes of ROS messages as rosidl generates them: named fields, checked when they are set. Fields are rosbags'."""

from array import array
from typing import ClassVar

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

PACKAGES = ("builtin_interfaces", "std_msgs", "sensor_msgs", "diagnostic_msgs", "rcl_interfaces")
PACKAGES += ("lifecycle_msgs",)
CODES = {"uint8": "B", "float64": "d", "float32": "f", "uint32": "I", "int32": "i"}
CHECKED = {"bool": bool, "string": str, "float32": float, "float64": float}


def _check(ok, name, value):
    if not ok:
        raise AssertionError(f"the field {name} does not take {value!r:.80}")


class Field:
    """One field: its value before it is set, and which values the generated setter takes."""

    def __init__(self, name, kind, classes):
        self.name, self.classes = name, classes
        self.kind, self.inner = kind

    def initial(self):
        if self.kind == Nodetype.BASE:
            return {"string": "", "bool": False, "byte": b"\0"}.get(
                self.inner[0], 0.0 if self.inner[0].startswith("float") else 0
            )
        if self.kind == Nodetype.NAME:
            return self.classes[self.inner]()
        item = self.inner[0]
        if self.kind == Nodetype.ARRAY:
            return np.zeros(self.inner[1], item[1][0])
        return array(CODES[item[1][0]]) if item[1][0] in CODES else []

    def taken(self, value):
        """The value as it is kept."""
        if self.kind == Nodetype.BASE:
            return self._number(self.inner[0], value)
        if self.kind == Nodetype.NAME:
            _check(type(value) is self.classes[self.inner], self.name, value)
            return value
        (kind, inner), length = self.inner
        if self.kind == Nodetype.ARRAY:
            _check(len(value) == length, self.name, value)
            return np.array([self._number(inner[0], each) for each in value])
        if kind == Nodetype.NAME:
            _check(all(type(each) is self.classes[inner] for each in value), self.name, value)
            _check(not length or len(value) <= length, self.name, value)
            return list(value)
        code = CODES.get(inner[0])
        if isinstance(value, array):
            _check(value.typecode == code, self.name, value)
            return value
        # What follows looks at every byte: a picture must not come here.
        _check(len(value) < 100, self.name, value)
        numbers = [self._number(inner[0], each) for each in value]
        return array(code, numbers) if code else numbers

    def _number(self, base, value):
        if base == "byte":
            ok = isinstance(value, bytes) and len(value) == 1
        elif base in CHECKED:
            ok = isinstance(value, CHECKED[base])
        else:
            bits = int("".join(filter(str.isdigit, base)))
            low = 0 if base.startswith("u") else -(2 ** (bits - 1))
            ok = isinstance(value, int) and low <= value < low + 2**bits
        _check(ok, self.name, value)
        return value


class Message:
    """What generated classes share."""

    FIELDS: ClassVar[dict] = {}

    def __init__(self, **given):
        for name, field in self.FIELDS.items():
            object.__setattr__(self, name, field.initial())
        for name, value in given.items():
            setattr(self, name, value)

    def __setattr__(self, name, value):
        if name not in self.FIELDS:
            raise AttributeError(f"{type(self).__name__} has no field {name}")
        object.__setattr__(self, name, self.FIELDS[name].taken(value))


def message_classes():
    """Every message of PACKAGES by its name, such as "sensor_msgs/msg/Image"."""
    store, classes = get_typestore(Stores.ROS2_JAZZY), {}
    for name, (constants, fields) in store.fielddefs.items():
        if name.split("/")[0] not in PACKAGES:
            continue
        members = {
            each: bytes([value]) if base == "byte" else value for each, base, value in constants
        }
        members["FIELDS"] = {each: Field(each, kind, classes) for each, kind in fields}
        classes[name] = type(name.rpartition("/")[2], (Message,), members)
    return classes
