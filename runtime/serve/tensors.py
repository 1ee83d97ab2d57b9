"""Requests and answers of the KServe v2 protocol: JSON, and the extension in which tensors follow it as bytes.

H, W: height and width of the engine's frames. N: frames that it takes at once. k: frames of one request, 1 to N.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.bundle.served import DATATYPES, served_shape
from e2e_deploy.errors import InputError
from e2e_deploy.runtime.backends.layout import Results
from e2e_deploy.runtime.serve.limits import RefusedError
from e2e_deploy.system.json_files import parse_json, to_json
from e2e_deploy.system.text import clean

Frames = npt.NDArray[np.uint8]
HEADER_LENGTH = "Inference-Header-Content-Length"
_KEYS = {"id", "parameters", "inputs", "outputs"}


@dataclass(frozen=True)
class Asked:
    """An inference request.

    Attributes:
        frames: uint8 [k, H, W, 3].
        id: the client's, to be sent back; None where it gave none.
        outputs: names of the results that are wanted, and whether each is sent as bytes.
    """

    frames: Frames
    id: str | None
    outputs: Mapping[str, bool]


def bad(reason: str) -> RefusedError:
    """A refusal of a request that cannot be used."""
    return RefusedError(400, clean(reason, 500))


def read_request(
    body: bytes, header_length: str | None, graph: GraphEntry, outputs: tuple[str, ...]
) -> Asked:
    """The request in ``body``.

    Args:
        body: JSON, and the bytes of tensors behind it.
        header_length: bytes of the JSON, as the header says; None where all of it is.
        graph: what the engine runs.
        outputs: names of its results.

    Raises:
        RefusedError: 400, with what was given and what is taken.
    """
    if header_length is None:
        head, rest = body, b""
    else:
        if not header_length.isdecimal() or len(header_length) > 12:
            raise bad(f"{HEADER_LENGTH} is {header_length[:40]!r}; expected a number of bytes")
        length = int(header_length)
        if not 0 < length <= len(body):
            raise bad(f"{HEADER_LENGTH} is {length}, and the body has {len(body)} bytes")
        head, rest = body[:length], body[length:]
    try:
        told = parse_json(head, "the request")
    except InputError as error:
        raise bad(str(error)) from None
    if unknown := sorted(told.keys() - _KEYS):
        raise bad(
            f"the request has the key {unknown[0][:40]!r}; known are {', '.join(sorted(_KEYS))}"
        )
    given_id = told.get("id")
    if not isinstance(given_id, str | None) or len(given_id or "") > 1000:
        raise bad("`id` is no text of up to 1000 characters")
    frames = _frames(told.get("inputs"), rest, graph)
    return Asked(frames, given_id, _outputs(told, outputs))


def _frames(inputs: Any, rest: bytes, graph: GraphEntry) -> Frames:
    (spec,) = graph.inputs
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise bad(f"`inputs` must be a list of one tensor, {spec.name!r}")
    (tensor,) = inputs
    datatype, takes = DATATYPES[spec.dtype], served_shape(graph, spec)
    if tensor.get("name") != spec.name or tensor.get("datatype") != datatype:
        raise bad(
            f"the input is {tensor.get('name')!r} of {tensor.get('datatype')!r}; this model takes {spec.name!r} of "
            f"{datatype!r}, shape {takes}"
        )
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or any(type(side) is not int for side in shape)
        or shape[1:] != spec.shape[1:]
        or not 1 <= shape[0] <= graph.batch
    ):
        upto = f", at most {graph.batch} at once" if graph.batch > 1 else ""
        raise bad(f"the shape of {spec.name!r} is {shape}; this model takes {takes}{upto}")
    size = _binary_size(tensor)
    if size is None:
        if rest:
            raise bad(f"{len(rest)} bytes follow the request, and no input says `binary_data_size`")
        return _from_json(tensor.get("data"), shape)
    if "data" in tensor:
        raise bad("the input has `data` and `binary_data_size`; give one of them")
    if size != math.prod(shape) or size != len(rest):
        raise bad(
            f"`binary_data_size` is {size} and {len(rest)} bytes follow the request; {shape} of {datatype} are "
            f"{math.prod(shape)}"
        )
    return np.frombuffer(rest, np.uint8).reshape(shape)


def _binary_size(tensor: Mapping[str, Any]) -> int | None:
    parameters = tensor.get("parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else -1
    if size is not None and (type(size) is not int or size < 0):
        raise bad("`binary_data_size` of the input is no number of bytes")
    return size


def _from_json(data: Any, shape: list[int]) -> Frames:
    """Flat or nested lists of whole numbers from 0 to 255."""
    if not isinstance(data, list):
        raise bad("the input has neither `data`, a list of numbers, nor `binary_data_size`")
    level = data
    if data and isinstance(data[0], list):
        level = [data]
        for side in shape:
            if any(not isinstance(part, list) or len(part) != side for part in level):
                raise bad(f"`data` of the input is nested otherwise than its shape, {shape}")
            level = [item for part in level for item in part]
    if len(level) != math.prod(shape):
        raise bad(f"`data` of the input holds {len(level)} numbers; {shape} are {math.prod(shape)}")
    try:
        if not set(map(type, level)) <= {int}:
            raise ValueError
        return np.frombuffer(bytes(level), np.uint8).reshape(shape)
    except ValueError:
        raise bad("`data` of the input must be whole numbers from 0 to 255") from None


def _outputs(told: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, bool]:
    parameters = told.get("parameters", {})
    whole = parameters.get("binary_data_output", False) if isinstance(parameters, dict) else None
    if not isinstance(whole, bool):
        raise bad("`binary_data_output` is neither true nor false")
    wanted = told.get("outputs", [])
    if not isinstance(wanted, list) or not all(isinstance(each, dict) for each in wanted):
        raise bad("`outputs` is no list of tensors")
    if not wanted:
        return dict.fromkeys(known, whole)
    found: dict[str, bool] = {}
    for each in wanted:
        name, settings = each.get("name"), each.get("parameters", {})
        if name not in known or name in found:
            raise bad(
                f"the output {name!r} is wanted; this model gives {', '.join(known)}, each once"
            )
        given = settings.get("binary_data", whole) if isinstance(settings, dict) else None
        if not isinstance(given, bool):
            raise bad(f"`binary_data` of the output {name!r} is neither true nor false")
        found[name] = given
    return found


def write_answer(
    asked: Asked, results: Results, model: str, version: str
) -> tuple[bytes, int | None]:
    """The body that answers a request, and how many bytes of it are JSON where tensors follow as bytes, else None.

    NaN and infinity, which JSON has no word for, are null in it, and themselves in bytes.
    """
    tensors, blobs = [], []
    for name, binary in asked.outputs.items():
        result = np.ascontiguousarray(results[name], np.float32)
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES["float32"],
            "shape": list(result.shape),
        }
        if binary:
            blobs.append(result.astype("<f4", copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = result.ravel().tolist()
        tensors.append(tensor)
    told: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": tensors}
    if asked.id is not None:
        told["id"] = asked.id
    head = to_json(told).encode() if len(blobs) < len(tensors) else json.dumps(told).encode()
    return (head + b"".join(blobs), len(head)) if blobs else (head, None)


def metadata(name: str, version: str, platform: str, graph: GraphEntry) -> dict[str, Any]:
    """What the protocol tells of a model."""

    def tensors(specs: list[Any]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec.name,
                "datatype": DATATYPES[spec.dtype],
                "shape": served_shape(graph, spec),
            }
            for spec in specs
        ]

    return {
        "name": name,
        "versions": [version],
        "platform": platform,
        "inputs": tensors(graph.inputs),
        "outputs": tensors(graph.outputs),
    }
