"""Protocol buffers read field by field, without a library and without copies. Knows no message."""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at ``at`` and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > 70 or value >= 2**64:
            raise ValueError("a number is too long")
        if byte < 0x80:
            return value, at


def wire_fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, payload) of every field: bytes of one with a length, the value of a number of any width.

    Raises:
        ValueError, IndexError: not a protocol buffer.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key > 0xFFFFFFFF:  # parsers cut tags to 32 bits, so this would be another field for them
            raise ValueError("a field number is too large")
        wire = key & 7
        if wire == VARINT:
            value, at = varint(data, at)
            yield key >> 3, value
        elif wire in (FIXED64, FIXED32):
            width = 8 if wire == FIXED64 else 4
            if at + width > len(data):
                raise ValueError("it ends within a number")
            yield key >> 3, int.from_bytes(data[at : at + width], "little")
            at += width
        elif wire == BYTES:
            length, at = varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than its message")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"unknown wire type {wire}")


def fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, payload) of every field with a length; numbers are skipped."""
    for number, payload in wire_fields(data):
        if isinstance(payload, memoryview):
            yield number, payload


def numbers(payload: memoryview | int) -> Iterator[int]:
    """The integers of one field that repeats: one of them, or several packed together."""
    if isinstance(payload, int):
        yield payload
        return
    at = 0
    while at < len(payload):
        value, at = varint(payload, at)
        yield value
