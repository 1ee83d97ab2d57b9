"""Which external files an ONNX file points to, read without the onnx package; and that it has no more parts than ours.

ONNX Runtime follows the ``location`` of every tensor with external data. A bundle is data from somewhere, so
these paths are checked before a parser sees the file, also on a robot where the onnx package is not installed.
An empty input of a node is two bytes in the file and a hundred in memory, here and in every parser, so the parts are
counted first. The field numbers are those of onnx.proto3.
"""

from pathlib import Path

from e2e_deploy.bundle.onnx_wire import fields, wire_fields
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


_VALUES = ("Tensor", 9)
"""raw_data: the values of weights, which are read where they lie."""

MAX_NODE_FIELDS, MAX_GRAPH_FIELDS, MAX_FIELDS = 256, 100_000, 1_000
"""Of a node (inputs, outputs, attributes), of the graph (nodes, tensors), of anything else. Ours: 20, 5,000 and 30."""

MAX_BESIDE = 2**24
"""Bytes beside the values of tensors: e2e-tiny has 0.5 MB in int8, SD2 less than 2."""


class _TooMuchError(Exception):
    """What a file holds more of than any graph of ours."""


class _Reader:
    """Walks the messages that lead to tensors.

    Attributes:
        locations: found so far.
    """

    def __init__(self) -> None:
        self.locations: set[str] = set()
        self._beside = 0

    def read(self, data: memoryview, message: str) -> None:
        ways = _WAYS[message]
        most = {"Node": MAX_NODE_FIELDS, "Graph": MAX_GRAPH_FIELDS}.get(message, MAX_FIELDS)
        for count, (number, payload) in enumerate(wire_fields(data)):
            if count == most:
                raise _TooMuchError(f"a {message.lower()} of more than {most} parts")
            self._beside += 2
            if not isinstance(payload, memoryview):
                continue
            inner = ways.get(number)
            if inner in (None, "Entry") and (message, number) != _VALUES:
                self._beside += len(payload)
            if self._beside > MAX_BESIDE:
                raise _TooMuchError(
                    f"more than {MAX_BESIDE} bytes beside the values of its tensors"
                )
            if inner == "Entry":
                self._read_entry(payload)
            elif inner is not None:
                self.read(payload, inner)

    def _read_entry(self, data: memoryview) -> None:
        entry = {n: bytes(p) for n, p in fields(data) if n in (1, 2)}
        if entry.get(1) == b"location":
            self.locations.add(entry.get(2, b"").decode("utf-8"))


def locations_in(name: str, data: bytes) -> set[str]:
    """The ``location`` strings of all external tensors in the ONNX file ``data``, which errors call ``name``.

    Raises:
        BundleError: it is not a readable ONNX protocol buffer, or has more parts than any graph of ours.
    """
    reader = _Reader()
    try:
        reader.read(memoryview(data), "Model")
        return reader.locations
    except _TooMuchError as what:
        raise BundleError(
            f"{name} holds {what}; it is not loaded: export the checkpoint again, or run the file with other tools if "
            "you trust it"
        ) from None
    except (ValueError, IndexError, RecursionError) as error:
        raise BundleError(f"{name} is not an ONNX file: {error}") from None


def external_locations(path: Path) -> set[str]:
    """As ``locations_in``, of the file at ``path``."""
    return locations_in(path.name, path.read_bytes())
