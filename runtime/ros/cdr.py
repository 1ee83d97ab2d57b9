"""Messages as the bytes that ROS 2 sends and stores (CDR, OMG DDSI-RTPS), by the package rosbags.

rosbags is the writer and reader; the tests hold it against another library's decoder.
"""

from dataclasses import fields
from functools import cache
from typing import Any

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.runtime.ros.messages import TYPES, Message
from e2e_deploy.system.text import clean


@cache
def _store() -> Any:
    """The definitions of ROS 2 Jazzy; those of our messages are the same from Humble to Lyrical."""
    typesys = require("rosbags.typesys", "robotics")
    return typesys.get_typestore(typesys.Stores.ROS2_JAZZY)


def serialise(message: Message) -> bytes:
    """A message as little-endian CDR with its four bytes of encapsulation.

    Raises:
        UnavailableError: rosbags is not installed.
    """
    return bytes(_store().serialize_cdr(message, message.type_name, little_endian=True))


def deserialise(data: bytes | memoryview, type_name: str) -> Any:
    """A message of ``type_name``, such as "sensor_msgs/msg/Image", from CDR of either byte order.

    Its arrays are views of ``data``.

    Raises:
        SourceError: the bytes are no such message.
        UsageError: a type that is not read here.
        UnavailableError: rosbags is not installed.
    """
    _check(type_name)
    store = _store()
    try:
        return _ours(store.deserialize_cdr(data, type_name))
    except Exception as error:  # damaged bytes lead the generated readers to raise almost anything
        why = clean(str(error), 120) or type(error).__name__
        raise SourceError(f"{len(data):,} bytes are no {type_name}: {why}") from None


def definition(type_name: str) -> str:
    """The schema of a type and of those within it, in the text form ``ros2msg`` of MCAP and Foxglove.

    Raises:
        UsageError: a type that is not written here.
        UnavailableError: rosbags is not installed.
    """
    _check(type_name)
    text, _ = _store().generate_msgdef(type_name, ros_version=2)
    return str(text)


def type_hash(type_name: str) -> str:
    """What tells a type from others of its name, such as ``RIHS01_`` and a SHA-256 (REP-2011).

    Raises:
        UsageError: a type that is not written here.
        UnavailableError: rosbags is not installed.
    """
    _check(type_name)
    return str(_store().hash_rihs01(type_name))


def _check(type_name: str) -> None:
    if type_name not in TYPES:
        raise UsageError(f"{type_name!r} is none of the messages {', '.join(TYPES)}")


def _ours(value: Any) -> Any:
    """A message of rosbags as ours."""
    if isinstance(value, list):
        return tuple(_ours(item) for item in value)
    kind = TYPES.get(getattr(value, "__msgtype__", ""))
    if kind is None:
        return value
    return kind(**{each.name: _ours(getattr(value, each.name)) for each in fields(kind)})
