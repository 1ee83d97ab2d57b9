"""Which external files an ONNX file points to, read without the onnx package.

ONNX Runtime follows the ``location`` of every tensor with external data. A bundle is data from somewhere, so
these paths are checked before a parser sees the file, also on a robot where the onnx package is not installed.
Protocol buffers are walked field by field; the field numbers are those of onnx.proto3.
"""

from collections.abc import Iterator
from pathlib import Path

from e2e_deploy.errors import BundleError

# message -> {field number: message of that field}; only the ways that lead to a TensorProto.
_WAYS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, payload) of every length-delimited field; numbers are skipped."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key > 0xFFFFFFFF:  # parsers cut tags to 32 bits, so this would be another field for them
            raise ValueError("a field number is too large")
        wire = key & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than its message")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"unknown wire type {wire}")


def _locations(data: memoryview, message: str) -> Iterator[str]:
    ways = _WAYS[message]
    for number, payload in _fields(data):
        inner = ways.get(number)
        if inner == "Entry":
            entry = {n: bytes(p) for n, p in _fields(payload)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8")
        elif inner is not None:
            yield from _locations(payload, inner)


def external_locations(path: Path) -> set[str]:
    """The ``location`` strings of all external tensors in the ONNX file at ``path``.

    Raises:
        BundleError: the file is not a readable ONNX protocol buffer.
    """
    try:
        return set(_locations(memoryview(path.read_bytes()), "Model"))
    except (ValueError, IndexError, RecursionError) as error:
        raise BundleError(f"{path.name} is not an ONNX file: {error}") from None
