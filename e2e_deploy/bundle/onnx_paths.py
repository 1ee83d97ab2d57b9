"""Which external files an ONNX file points to, read without the onnx package.

ONNX Runtime follows the ``location`` of every tensor with external data. A bundle is data from somewhere, so
these paths are checked before a parser sees the file, also on a robot where the onnx package is not installed.
The field numbers are those of onnx.proto3.
"""

from collections.abc import Iterator
from pathlib import Path

from e2e_deploy.bundle.onnx_wire import fields
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


def _locations(data: memoryview, message: str) -> Iterator[str]:
    ways = _WAYS[message]
    for number, payload in fields(data):
        inner = ways.get(number)
        if inner == "Entry":
            entry = {n: bytes(p) for n, p in fields(payload)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8")
        elif inner is not None:
            yield from _locations(payload, inner)


def locations_in(name: str, data: bytes) -> set[str]:
    """The ``location`` strings of all external tensors in the ONNX file ``data``, which errors call ``name``.

    Raises:
        BundleError: it is not a readable ONNX protocol buffer.
    """
    try:
        return set(_locations(memoryview(data), "Model"))
    except (ValueError, IndexError, RecursionError) as error:
        raise BundleError(f"{name} is not an ONNX file: {error}") from None


def external_locations(path: Path) -> set[str]:
    """As ``locations_in``, of the file at ``path``."""
    return locations_in(path.name, path.read_bytes())
