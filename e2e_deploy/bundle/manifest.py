"""The manifest of a bundle: everything there is to know about it without opening its other files.

Parsed JSON becomes these records or a BundleError: no key is missing, unknown or of another type, no number beyond its
range. Texts are cleaned here, once, for wherever they are shown or stored. Knows no files.
"""

import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from e2e_deploy.errors import BundleError
from e2e_deploy.names import GRAPH_KINDS, PLAN_KINDS, PRECISIONS
from e2e_deploy.system.json_files import parse_json
from e2e_deploy.system.text import clean
from e2e_deploy.tasks import TASKS, Task

SCHEMA = 4
MANIFEST = "manifest.json"
MAX_BATCH = 64
"""Pictures a graph takes at once."""
FREE = -1
"""A side of a tensor that the graph leaves open; ``GraphEntry.multiple_of`` says what it may be."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and hash of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of the graph."""

    name: str
    dtype: str
    shape: list[int]
    meaning: str


@dataclass(frozen=True, kw_only=True)
class GraphEntry:
    """One size of a traced graph: its ONNX file and its stored reference. A dynamic graph has several entries."""

    kind: str = "frame"
    """frame: uint8 frame to result at its size. core: rgb in [-1, 1] to result, both at the processing size."""
    multiple_of: int = 0
    """H and W may be any multiple of this; 0: they are fixed."""
    frame_size: list[int]
    """[H, W] of the frames it takes; of a core graph the processing size."""
    processing_size: list[int]
    """[H, W] the network sees."""
    onnx: str
    reference: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Frame size as (H, W)."""
        return self.frame_size[0], self.frame_size[1]

    @property
    def batch(self) -> int:
        """Pictures it takes at once: N of ``inputs[0].shape``."""
        return self.inputs[0].shape[0]

    def shapes(self, task: Task) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of its input and its result at ``frame_size``, without the batch axis."""
        if self.kind == "core":
            return (3, *self.frame_hw), (task.channels, *self.frame_hw)
        return (*self.frame_hw, 3), task.result_shape(*self.frame_hw)

    def declared(self, task: Task, batch: int) -> tuple[list[int], list[int]]:
        """Shapes of its input and output for ``batch`` pictures, as they must stand in the manifest."""

        def free(shape: tuple[int, ...]) -> list[int]:
            return [batch, shape[0], FREE, FREE] if self.multiple_of else [batch, *shape]

        takes, gives = self.shapes(task)
        return free(takes), free(gives)


@dataclass(frozen=True, kw_only=True)
class CheckpointEntry:
    """Where the weights came from."""

    id: str
    sha256: str
    note: str
    """Said with every output, for example "untrained weights"; empty when nothing is to be said."""


@dataclass(frozen=True, kw_only=True)
class PassEntry:
    """What one exact specialisation of the model removed; MACs are multiply-adds of one frame."""

    name: str
    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True, kw_only=True)
class VerificationEntry:
    """One parity measurement made when the bundle was written."""

    frame_size: list[int]
    backend: str
    precision: str
    parity: dict[str, Any]
    passed: bool
    speed: dict[str, float] = field(default_factory=dict)
    """Median milliseconds of this graph and of the fp32 graph, run in turn; empty where they were not compared."""


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One plan: native code for one graph, one version of a library and one kind of GPU."""

    file: str
    backend: str
    """tensorrt or tensorrt-rtx."""
    version: str
    """Of the library; no other loads it."""
    target: str
    """Compute capability it runs on, sm89; sm80+ is every one from 8.0 that TensorRT-RTX knows."""
    gpu: str
    """Name of the GPU it was built on and for; empty when it was built without one."""
    cuda: int
    """Major version of CUDA that the driver must support; 0 if unknown."""
    frame_size: list[int]
    precision: str
    options: dict[str, Any]
    seconds: float
    """What the build took; 0 when it came from the cache."""
    layers: dict[str, int]
    """Layers by kind and precision; empty when it was built without a GPU, where nothing can read it."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything there is to know about a bundle without opening its other files."""

    task: str
    family: str
    checkpoint: CheckpointEntry
    resolution: int
    """Longest edge the network sees; 0: the frame's own size."""
    pad: int
    """Sides the network sees are padded to multiples of this; 0: as the family's own pipeline has them."""
    precision: str
    fp32_ops: list[str]
    opset: int
    graphs: list[GraphEntry]
    versions: dict[str, str]
    created: str
    passes: list[PassEntry] = field(default_factory=list)
    plans: list[PlanEntry] = field(default_factory=list)
    verification: list[VerificationEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a user should know about this export, a sentence each."""
    files: dict[str, FileEntry] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def frame_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of every graph."""
        return [graph.frame_hw for graph in self.graphs]

    @property
    def task_info(self) -> Task:
        """What the results mean."""
        return TASKS[self.task]


MAX_SIDE_PX = 2**16
_ANY_COUNT = (0, 2**53)
_RANGES: dict[str, tuple[int, int]] = {
    "TensorSpec.shape": (FREE, 2**31),
    "GraphEntry.multiple_of": (0, MAX_SIDE_PX),
    "GraphEntry.frame_size": (1, MAX_SIDE_PX),
    "GraphEntry.processing_size": (1, MAX_SIDE_PX),
    "VerificationEntry.frame_size": (1, MAX_SIDE_PX),
    "PlanEntry.frame_size": (1, MAX_SIDE_PX),
    "PassEntry.macs_before": (1, 2**53),
    "Manifest.resolution": (0, MAX_SIDE_PX),
    "Manifest.pad": (0, 2048),
    "Manifest.opset": (1, 100),
}
"""Smallest and largest of the numbers in a field; _ANY_COUNT of the others."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "TensorSpec.dtype": ("uint8", "float32"),
    "GraphEntry.kind": GRAPH_KINDS,
    "Manifest.task": tuple(TASKS),
    "Manifest.precision": PRECISIONS,
    "VerificationEntry.precision": PRECISIONS,
    "PlanEntry.precision": PRECISIONS,
    "PlanEntry.backend": PLAN_KINDS,
}
_SIZES = {name for name in _RANGES if name.endswith("_size")}
"""Fields that hold [H, W]."""

MAX_ITEMS = 10_000
MAX_TEXT = 4000
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _text(value: str) -> str:
    """A text as it may be printed, stored and handed to C libraries; most are, and stay as they are."""
    return value if value.isprintable() and len(value) <= MAX_TEXT else clean(value, MAX_TEXT)


def _free(value: Any) -> Any:
    """JSON of any form, with its texts cleaned."""
    match value:
        case str():
            return _text(value)
        case dict():
            return {_text(key): _free(item) for key, item in value.items()}
        case list():
            return [_free(item) for item in value]
    return value


def _leaf(value: Any, field_name: str, where: str) -> Any:
    """A text or number within what its field, as "Record.field", may hold."""
    if isinstance(value, str):
        if field_name.endswith(".sha256") and not _SHA256.fullmatch(value):
            raise BundleError(f"{where} of the manifest must be 64 hexadecimal digits")
        known = _CHOICES.get(field_name)
        if known is not None and value not in known:
            raise BundleError(
                f"{where} of the manifest is {_text(value)!r}; expected one of {', '.join(known)}"
            )
        return _text(value)
    if isinstance(value, bool):
        return value
    low, high = _RANGES.get(field_name, _ANY_COUNT)
    if not low <= value <= high:
        raise BundleError(
            f"{where} of the manifest is {value}; expected a number from {low} to {high}"
        )
    return value


def _build(kind: Any, value: Any, where: str, field_name: str = "") -> Any:
    """``value`` (parsed JSON) as the type ``kind``; wrong keys, types and ranges are BundleErrors."""
    if kind is Any:
        return _free(value)
    origin, inner, is_record = get_origin(kind), get_args(kind), is_dataclass(kind)
    wanted, given = dict if is_record else origin or kind, type(value)
    if given is not wanted:  # exactly: a bool is no int
        raise BundleError(
            f"{where} of the manifest must be of type {wanted.__name__}, not {given.__name__}"
        )
    if isinstance(value, list | dict) and len(value) > MAX_ITEMS:
        raise BundleError(f"{where} of the manifest has {len(value)} entries, over {MAX_ITEMS}")
    if origin is list:
        if field_name in _SIZES and len(value) != 2:
            raise BundleError(f"{where} of the manifest is {value}; expected [height, width]")
        return [_build(inner[0], item, f"{where}[{i}]", field_name) for i, item in enumerate(value)]
    if origin is dict:
        return {
            _text(key): _build(inner[1], item, f"{where}[{_text(key)[:80]!r}]", field_name)
            for key, item in value.items()
        }
    if not is_record:
        return _leaf(value, field_name, where)
    types = get_type_hints(kind)
    if wrong := sorted(set(value) ^ {f.name for f in fields(kind)}):
        named = ", ".join(_text(key) for key in wrong[:5])
        raise BundleError(f"{where} of the manifest has missing or unknown keys: {named[:200]}")
    return kind(
        **{
            key: _build(types[key], item, f"{where}.{key}", f"{kind.__name__}.{key}")
            for key, item in value.items()
        }
    )


def parse_manifest(text: str) -> Manifest:
    """The manifest in ``text``.

    Raises:
        BundleError: not JSON or beyond the bounds of parse_json, another schema version, missing or unknown keys,
            wrong types, numbers outside their range, an unknown task, precision or kind, no graph.
    """
    value = parse_json(text.encode("utf-8", "replace"), MANIFEST, error=BundleError)
    schema = value.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise BundleError(
            f"{MANIFEST} has schema {clean(str(schema), 40)}; this version reads {SCHEMA}: export the bundle again"
        )
    manifest: Manifest = _build(Manifest, value, "the top level")
    if not manifest.graphs:
        raise BundleError("the manifest lists no graph")
    for graph in manifest.graphs:
        if graph.multiple_of and graph.kind != "core":
            raise BundleError(
                f"{graph.onnx} in the manifest is a {graph.kind} graph with sides that are multiples of "
                f"{graph.multiple_of}; expected fixed sides for frames"
            )
        batch = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else 1
        if not 1 <= batch <= MAX_BATCH:
            raise BundleError(
                f"{graph.onnx} in the manifest takes {batch} pictures at once; expected 1 to {MAX_BATCH}"
            )
        takes, gives = graph.declared(manifest.task_info, batch)
        if (
            [spec.shape for spec in graph.inputs] != [takes]
            or [spec.shape for spec in graph.outputs] != [gives]
            or not graph.onnx.endswith(".onnx")
        ):
            raise BundleError(
                f"{graph.onnx} in the manifest must be an .onnx file with one input {takes} and one output {gives}"
            )
    return manifest
