"""The manifest of a bundle: everything there is to know about it without opening its other files.

Parsed JSON becomes these records or a BundleError: no key is missing, unknown or of another type, no number beyond its
range. Texts are cleaned here, once, for wherever they are shown or stored. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from e2e_deploy.errors import BundleError
from e2e_deploy.kinds import KINDS, Kind
from e2e_deploy.names import (
    GraphKind,
    GraphTarget,
    PlanKind,
    Precision,
    ResultKind,
    TaskName,
    VaePart,
)
from e2e_deploy.system.json_files import parse_json
from e2e_deploy.system.records import Form, Items, Limits, read_record
from e2e_deploy.system.text import clean

SCHEMA = 7
BEFORE_VAE = 6
"""A schema that is read too: its bundles have the checkpoint's own VAE."""
MANIFEST = "manifest.json"
MAX_BATCH = 64
"""Pictures a graph takes at once."""
FREE = -1
"""A side of a tensor that the graph leaves open; ``GraphEntry.multiple_of`` says what it may be."""

MAX_SIDE_PX = 2**16
Number = Annotated[int, Limits(0, 2**53)]
"""A count of anything."""
Sha256 = Annotated[str, Form("[0-9a-f]{64}", "64 hexadecimal digits")]
Size = Annotated[list[Annotated[int, Limits(1, MAX_SIDE_PX)]], Items(2, "height and width")]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and hash of one file of the bundle."""

    bytes: Number
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of the graph."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: list[Annotated[int, Limits(FREE, 2**31)]]
    meaning: str


@dataclass(frozen=True, kw_only=True)
class VariantEntry:
    """Another form of a graph, with the same inputs, outputs and weights, in operators that one target alone has."""

    target: GraphTarget
    onnx: str
    operators: dict[str, Number]
    """How many nodes are the target's own, by operator."""


@dataclass(frozen=True, kw_only=True)
class GraphEntry:
    """One size of a traced graph: its ONNX file and its stored reference. A dynamic graph has several entries."""

    kind: GraphKind = "frame"
    """frame: uint8 frame to result at its size. core: rgb in [-1, 1] to result, both at the processing size."""
    multiple_of: Annotated[int, Limits(0, MAX_SIDE_PX)] = 0
    """H and W may be any multiple of this; 0: they are fixed."""
    frame_size: Size
    """[H, W] of the frames it takes; of a core graph the processing size."""
    processing_size: Size
    """[H, W] the network sees."""
    onnx: str
    reference: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    variants: list[VariantEntry] = field(default_factory=list)

    def file_for(self, target: GraphTarget) -> str:
        """The ONNX file that ``target`` runs: its variant, or the graph for everything where there is none."""
        return next((v.onnx for v in self.variants if v.target == target), self.onnx)

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Frame size as (H, W)."""
        return self.frame_size[0], self.frame_size[1]

    @property
    def batch(self) -> int:
        """Pictures it takes at once: N of ``inputs[0].shape``."""
        return self.inputs[0].shape[0]

    def shapes(self, kind: Kind) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of its input and of a result of ``kind`` at ``frame_size``, without the batch axis."""
        if self.kind == "core":
            return (3, *self.frame_hw), (kind.channels, *self.frame_hw)
        return (*self.frame_hw, 3), kind.result_shape(*self.frame_hw)

    def declared(self, kinds: Sequence[Kind], batch: int) -> tuple[list[int], list[list[int]]]:
        """Shapes of its input and of its outputs for ``batch`` pictures, as they must stand in the manifest."""

        def free(shape: tuple[int, ...]) -> list[int]:
            return [batch, shape[0], FREE, FREE] if self.multiple_of else [batch, *shape]

        shapes = [self.shapes(kind) for kind in kinds]
        return free(shapes[0][0]), [free(gives) for _, gives in shapes]


@dataclass(frozen=True, kw_only=True)
class CheckpointEntry:
    """Where the weights came from."""

    id: str
    sha256: Sha256
    note: str
    """Said with every output, for example "untrained weights"; empty when nothing is to be said."""


@dataclass(frozen=True, kw_only=True)
class CostEntry:
    """How far results are from those without the VAE that was put in, both in fp32 in PyTorch."""

    frame_size: Size
    output: str
    """Which of the graph's results."""
    parity: dict[str, Any]
    """The quantities of a verification."""


@dataclass(frozen=True, kw_only=True)
class VaeEntry:
    """A VAE in the place of the checkpoint's own."""

    id: str
    sha256: Sha256
    part: VaePart
    """Which halves it has the place of."""
    costs: list[CostEntry]


@dataclass(frozen=True, kw_only=True)
class PassEntry:
    """What one exact specialisation of the model removed; MACs are multiply-adds of one frame."""

    name: str
    parameters_before: Number
    parameters_after: Number
    macs_before: Annotated[int, Limits(1, 2**53)]
    macs_after: Number


@dataclass(frozen=True, kw_only=True)
class VerificationEntry:
    """One parity measurement made when the bundle was written."""

    frame_size: Size
    output: str
    """Which of the graph's results."""
    backend: str
    precision: Precision
    parity: dict[str, Any]
    passed: bool
    speed: dict[str, float] = field(default_factory=dict)
    """Median milliseconds of this graph and of the fp32 graph, run in turn; empty where they were not compared."""


@dataclass(frozen=True, kw_only=True)
class PlanEntry:
    """One plan: native code for one graph, one version of a library and one kind of GPU."""

    file: str
    backend: PlanKind
    version: str
    """Of the library; no other loads it."""
    target: str
    """Compute capability it runs on, sm89; sm80+ is every one from 8.0 that TensorRT-RTX knows."""
    gpu: str
    """Name of the GPU it was built on and for; empty when it was built without one."""
    cuda: Number
    """Major version of CUDA that the driver must support; 0 if unknown."""
    frame_size: Size
    precision: Precision
    options: dict[str, Any]
    seconds: Annotated[float, Limits(0)]
    """What the build took; 0 when it came from the cache."""
    layers: dict[str, Number]
    """Layers by kind and precision; empty when it was built without a GPU, where nothing can read it."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything there is to know about a bundle without opening its other files."""

    task: TaskName
    outputs: list[ResultKind]
    """What one frame gives, at least one, in the order of the graphs' outputs."""
    family: str
    settings: dict[str, str]
    """What was chosen among the family's settings and is fixed in the graphs."""
    checkpoint: CheckpointEntry
    vae: VaeEntry | None = None
    """What was put in the place of the checkpoint's own; None: nothing."""
    resolution: Annotated[int, Limits(0, MAX_SIDE_PX)]
    """Longest edge the network sees; 0: the frame's own size."""
    pad: Annotated[int, Limits(0, 2048)]
    """Sides the network sees are padded to multiples of this; 0: as the family's own pipeline has them."""
    precision: Precision
    fp32_ops: list[str]
    opset: Annotated[int, Limits(1, 100)]
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
    def kinds(self) -> tuple[Kind, ...]:
        """What the results are."""
        return tuple(KINDS[name] for name in self.outputs)


def parse_manifest(text: str) -> Manifest:
    """The manifest in ``text``.

    Raises:
        BundleError: not JSON or beyond the bounds of parse_json, another schema version, missing or unknown keys,
            wrong types, numbers outside their range, an unknown task, precision or kind, no graph.
    """
    value = parse_json(text.encode("utf-8", "replace"), MANIFEST, error=BundleError)
    schema = value.get("schema")
    if schema == BEFORE_VAE:
        value, schema = {"vae": None} | value | {"schema": SCHEMA}, SCHEMA
    if schema != SCHEMA or isinstance(schema, bool):
        raise BundleError(
            f"{MANIFEST} has schema {clean(str(schema), 40)}; this version reads {BEFORE_VAE} and {SCHEMA}: export the "
            "bundle again"
        )
    manifest, problems = read_record(Manifest, value, complete=True, clean_texts=True)
    if manifest is None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BundleError(f"{MANIFEST}: {problems[0]}{more}")
    if not manifest.graphs:
        raise BundleError("the manifest lists no graph")
    if not manifest.outputs or len(set(manifest.outputs)) < len(manifest.outputs):
        raise BundleError(
            f"outputs of {MANIFEST} are {manifest.outputs}; expected one or more, each once"
        )
    for graph in manifest.graphs:
        _check_graph(graph, manifest.kinds)
    return manifest


def _check_graph(graph: GraphEntry, kinds: Sequence[Kind]) -> None:
    """Refuse an entry whose fields contradict each other."""
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
    takes, shapes = graph.declared(kinds, batch)
    gives = [(kind.output, "float32", shape) for kind, shape in zip(kinds, shapes, strict=True)]
    if (
        [spec.shape for spec in graph.inputs] != [takes]
        or [(spec.name, spec.dtype, spec.shape) for spec in graph.outputs] != gives
        or not graph.onnx.endswith(".onnx")
    ):
        told = " and ".join(f"one output {shape}, float32 {name!r}" for name, _, shape in gives)
        raise BundleError(
            f"{graph.onnx} in the manifest must be an .onnx file with one input {takes} and {told}"
        )
    targets = [variant.target for variant in graph.variants]
    if len(set(targets)) < len(targets):
        raise BundleError(f"{graph.onnx} in the manifest has two variants for {targets[0]}")
    for variant in graph.variants:
        if not variant.onnx.endswith(".onnx") or variant.onnx == graph.onnx:
            raise BundleError(
                f"{variant.onnx} in the manifest must be an .onnx file of its own, for it is a variant of {graph.onnx}"
            )
