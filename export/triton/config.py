"""A model's ``config.pbtxt``: what Triton's ModelConfig holds, as a table, and the table as text."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from e2e_deploy.bundle.manifest import GraphEntry, Manifest, TensorSpec
from e2e_deploy.bundle.served import DATATYPES
from e2e_deploy.names import PLAN_TITLES

WARM_UP = "frame"
"""The file in the folder ``warmup`` that holds the warm-up request's input."""
QUEUE_DELAY_US = 2000
"""How long a request may wait for others to fill its batch: little beside the tens of milliseconds of an engine."""


class Word(str):
    """An enumerator, which stands in the text without quotes."""


def graph_config(
    name: str,
    manifest: Manifest,
    graph: GraphEntry,
    *,
    backend: str,
    files: dict[str, str],
    batches: bool,
    kind: str,
    instances: int,
) -> dict[str, Any]:
    """The configuration of a model, by the fields of Triton's ModelConfig.

    Args:
        name: of the model.
        manifest: of the bundle.
        graph: what is served.
        backend: onnxruntime or tensorrt.
        files: names of the model's files by compute capability, "8.9"; the one under "" is for every device.
        batches: whether Triton may join requests to batches: its first axis is no part of the shapes then.
        kind: of the instance group.
        instances: how many run beside each other on each device.
    """

    def tensor(spec: TensorSpec) -> dict[str, Any]:
        dims = spec.shape[1:] if batches else spec.shape
        return {"name": spec.name, "data_type": _datatype(spec), "dims": list(dims)}

    ((_, first), *_) = files.items()
    by_device = [
        {"key": capability, "value": file} for capability, file in files.items() if capability
    ]
    return {
        "name": name,
        "backend": backend,
        "default_model_filename": first,
        "cc_model_filenames": by_device,
        "max_batch_size": graph.batch if batches else 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [tensor(spec) for spec in graph.inputs],
        "output": [tensor(spec) for spec in graph.outputs],
        "instance_group": [{"count": instances, "kind": Word(kind)}],
        **({"dynamic_batching": _batching(graph)} if batches else {}),
        # Frames of a camera never come twice, and hashing them would cost what it saves.
        "response_cache": {"enable": False},
        "model_warmup": [_warm_up(graph, batches=batches)],
        "parameters": [
            {"key": key, "value": {"string_value": value}}
            for key, value in _told(manifest, graph).items()
        ],
    }


def _datatype(spec: TensorSpec) -> Word:
    return Word(f"TYPE_{DATATYPES[spec.dtype]}")


def _batching(graph: GraphEntry) -> dict[str, Any]:
    # A batch costs the same whether it is full or not, so full ones are waited for a moment.
    return {
        "preferred_batch_size": [graph.batch],
        "max_queue_delay_microseconds": QUEUE_DELAY_US,
    }


def _warm_up(graph: GraphEntry, *, batches: bool) -> dict[str, Any]:
    """A request with a stored reference frame, so that the first client does not pay for what is made at first use."""
    (spec,) = graph.inputs
    shape, _ = warm_up_shape(graph)
    given = {
        "data_type": _datatype(spec),
        "dims": list(shape[1:] if batches else shape),
        "input_data_file": WARM_UP,
    }
    return {
        "name": "reference frame",
        "batch_size": graph.batch if batches else 1,
        "inputs": [{"key": spec.name, "value": given}],
    }


def warm_up_shape(graph: GraphEntry) -> tuple[tuple[int, ...], str]:
    """Shape of the warm-up's input with the axis of the batch, sides that are open at ``frame_size``; and its dtype."""
    height, width = graph.frame_hw
    picture = (height, width, 3) if graph.kind == "frame" else (3, height, width)
    return (graph.batch, *picture), graph.inputs[0].dtype


def _told(manifest: Manifest, graph: GraphEntry) -> dict[str, str]:
    """What clients should know, for Triton to hand on with the model's configuration."""
    told = {
        "checkpoint": manifest.checkpoint.id,
        "checkpoint_sha256": manifest.checkpoint.sha256,
        "task": manifest.task,
        "precision": manifest.precision,
    }
    told |= {f"{kind.output}_meaning": f"{kind.meaning}; {kind.units}" for kind in manifest.kinds}
    if manifest.checkpoint.note:
        told["note"] = manifest.checkpoint.note
    if graph.multiple_of:
        told["sides"] = f"multiples of {graph.multiple_of}"
    return told


def plan_told(backend: str, versions: Sequence[str]) -> dict[str, Any]:
    """The entry of ``parameters`` that says which library version plans were built with: no other loads them."""
    said = ", ".join(versions)
    return {"key": f"{PLAN_TITLES[backend]} version", "value": {"string_value": said}}


def to_pbtxt(config: dict[str, Any]) -> str:
    """The text format of protocol buffers; empty lists are left out."""
    return "\n".join(_lines(config, "")) + "\n"


def _lines(message: dict[str, Any], pad: str) -> Iterator[str]:
    for name, value in message.items():
        items = value if isinstance(value, list) else [value]
        if items and not isinstance(items[0], dict):
            for item in items:
                yield f"{pad}{name}: {_scalar(item)}"
            continue
        for item in items:
            yield f"{pad}{name} {{"
            yield from _lines(item, f"{pad}  ")
            yield f"{pad}}}"


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    # The escapes of JSON's plain characters are also those of the text format; the rest is octal bytes.
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    return '"' + "".join(c if " " <= c <= "~" else _octal(c) for c in plain) + '"'


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode())
