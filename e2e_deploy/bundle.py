"""The bundle: the folder that export writes and runtime reads. Its manifest, its hashes, its safety checks.

    <name>/manifest.json        what everything is, and every file with size and SHA-256
    <name>/model_480x640.onnx   one graph a frame size (+ model.data, weights they share)
    <name>/engines/*.engine     engines, each with an entry
    <name>/reference/*.npz      frames and the fp32 reference results for them

A bundle is data from somewhere: the manifest is checked before a hash, the hashes before a parser sees a
byte, and no path leaves the folder. Imports neither torch nor onnx.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_origin, get_type_hints
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import BundleError, E2EDeployError, UsageError
from e2e_deploy.onnx_paths import external_locations
from e2e_deploy.tasks import TASKS, Task

SCHEMA = 1
MANIFEST = "manifest.json"
PRECISIONS = ("fp32", "fp16", "bf16")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._+ /-]+")


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
    """One traced graph: a frame size, its ONNX file and its stored reference."""

    frame_size: list[int]
    """[H, W] of the frames it takes."""
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


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """One engine: native code for one graph, one version of a library and one kind of GPU."""

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
    precision: str
    fp32_ops: list[str]
    opset: int
    graphs: list[GraphEntry]
    versions: dict[str, str]
    created: str
    passes: list[PassEntry] = field(default_factory=list)
    engines: list[EngineEntry] = field(default_factory=list)
    verification: list[VerificationEntry] = field(default_factory=list)
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


def _build(kind: Any, value: Any, where: str) -> Any:
    """``value`` (parsed JSON) as the type ``kind``; wrong keys and types are BundleErrors."""
    if kind is Any:
        return value
    origin, inner, is_record = get_origin(kind), get_args(kind), is_dataclass(kind)
    wanted, given = dict if is_record else origin or kind, type(value)
    if given is not wanted:  # exactly: a bool is no int
        raise BundleError(
            f"{where} of the manifest must be of type {wanted.__name__}, not {given.__name__}"
        )
    if origin is list:
        return [_build(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        return {key: _build(inner[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if not is_record:
        return value
    types = get_type_hints(kind)
    if wrong := sorted(set(value) ^ {f.name for f in fields(kind)}):
        raise BundleError(
            f"{where} of the manifest has missing or unknown keys: {', '.join(wrong)}"
        )
    return kind(**{key: _build(types[key], item, f"{where}.{key}") for key, item in value.items()})


def parse_manifest(text: str) -> Manifest:
    """The manifest in ``text``.

    Raises:
        BundleError: not JSON, another schema version, missing or unknown keys, wrong types, an unknown task or
            precision, no graph.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not JSON: {error}") from None
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise BundleError(
            f"{MANIFEST} has schema {schema!r}; this version reads {SCHEMA}: export the bundle again"
        )
    manifest: Manifest = _build(Manifest, value, "the top level")
    for what, given, known in (
        ("task", manifest.task, tuple(TASKS)),
        ("precision", manifest.precision, PRECISIONS),
    ):
        if given not in known:
            raise BundleError(
                f"the manifest's {what} is {given!r}; expected one of {', '.join(known)}"
            )
    if not manifest.graphs:
        raise BundleError("the manifest lists no graph")
    for graph in manifest.graphs:
        if len(graph.frame_size) != 2 or min(graph.frame_size) < 1:
            raise BundleError(
                f"a frame size in the manifest is {graph.frame_size}; expected [height, width]"
            )
        takes = [1, *graph.frame_hw, 3]
        gives = [1, *manifest.task_info.result_shape(*graph.frame_hw)]
        if (
            [spec.shape for spec in graph.inputs] != [takes]
            or [spec.shape for spec in graph.outputs] != [gives]
            or not graph.onnx.endswith(".onnx")
        ):
            raise BundleError(
                f"{graph.onnx} in the manifest must be an .onnx file with one input {takes} and one output {gives}"
            )
    return manifest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def safe_path(root: Path, name: str) -> Path:
    """The file ``name`` of the bundle at ``root``.

    Raises:
        BundleError: the name is absolute, leaves the folder, has unusual characters, or is reached through a link.
    """
    pure = PurePosixPath(name)
    # Plain names only: ONNX Runtime gives a meaning of its own to some others, such as */_ORT_MEM_ADDR_/*.
    if pure.is_absolute() or ".." in pure.parts or not _PLAIN_NAME.fullmatch(name):
        raise BundleError(
            f"the bundle names the path {name!r}, which leaves its folder or is no plain file name"
        )
    path = root.joinpath(*pure.parts)
    for step in (path, *path.parents):
        if step == root:
            break
        if step.is_symlink():
            raise BundleError(f"{name} is reached through a link; a bundle holds plain files only")
    return path


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest and files were checked.

    Attributes:
        root: the folder.
        manifest: what it holds.
    """

    root: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Path of a listed file."""
        if name not in self.manifest.files:
            raise BundleError(f"{name} is not listed in the manifest of {self.root}")
        return safe_path(self.root, name)

    def graph_for(self, frame_hw: tuple[int, int]) -> GraphEntry:
        """The graph of a frame size.

        Raises:
            UsageError: the bundle has no graph of that size.
        """
        for graph in self.manifest.graphs:
            if graph.frame_hw == frame_hw:
                return graph
        held = ", ".join(f"{h}x{w}" for h, w in self.manifest.frame_sizes)
        raise UsageError(
            f"the bundle has no graph for frames of {frame_hw[0]}x{frame_hw[1]} (height x width); it has {held}; "
            f"export with --frame-size {frame_hw[0]}x{frame_hw[1]}"
        )

    def reference(self, graph: GraphEntry) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Stored frames uint8 [N, H, W, 3] and the fp32 reference results for them, [N, H, W] or [N, H, W, 3].

        Raises:
            BundleError: the file does not hold these arrays.
        """
        try:
            with (
                self.file(graph.reference).open("rb") as stream,
                np.load(stream, allow_pickle=False) as stored,
            ):
                frames, results = stored["frames"], stored["results"]
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            EOFError,
            BadZipFile,
            zlib.error,
        ) as error:
            raise BundleError(
                f"{graph.reference} holds no reference frames and results: {error}"
            ) from None
        height, width = graph.frame_hw
        shape = (len(frames), *self.manifest.task_info.result_shape(height, width))
        if (
            (frames.dtype, frames.shape) != (np.uint8, (len(frames), height, width, 3))
            or (results.dtype, results.shape) != (np.float32, shape)
            or len(frames) == 0
        ):
            raise BundleError(
                f"{graph.reference} holds frames {frames.dtype} {frames.shape} and results {results.dtype} "
                f"{results.shape}; expected uint8 [N, {height}, {width}, 3] and float32 {list(shape)}"
            )
        if not np.isfinite(results).all():
            raise BundleError(f"{graph.reference} holds reference results that are NaN or infinite")
        return frames, results


def open_bundle(path: str | Path) -> Bundle:
    """Open the bundle at ``path`` after checking its manifest, the paths, and the hash of every file.

    Raises:
        BundleError: not a bundle, damaged, changed after it was written, or pointing outside itself.
    """
    root = Path(path)
    if not (root / MANIFEST).is_file():
        what = "does not exist" if not root.exists() else f"has no {MANIFEST}"
        raise BundleError(f"{root} is not a bundle: it {what}; e2e-deploy export writes one")
    manifest = parse_manifest((root / MANIFEST).read_text(encoding="utf-8", errors="replace"))
    for name, entry in manifest.files.items():
        file = safe_path(root, name)
        if not file.is_file():
            raise BundleError(f"{root} is incomplete: {name} is missing")
        if file.stat().st_size != entry.bytes or sha256_of(file) != entry.sha256:
            raise BundleError(
                f"{name} of {root} is not the file that was exported: its size or SHA-256 differs"
            )
    bundle = Bundle(root, manifest)
    for engine in manifest.engines:
        bundle.file(engine.file)
    for graph in manifest.graphs:
        bundle.file(graph.reference)
        for location in external_locations(bundle.file(graph.onnx)):
            # Runtimes look beside the graph, which need not lie at the top of the bundle.
            name = str(PurePosixPath(graph.onnx).parent / location)
            safe_path(root, name)
            if name not in manifest.files:
                raise BundleError(
                    f"{graph.onnx} takes weights from {location!r}, which the manifest does not list"
                )
    return bundle


@contextlib.contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """A folder to fill; it becomes ``path`` when the block ends well, and vanishes when it does not.

    An existing bundle at ``path`` is replaced only then.

    Raises:
        UsageError: ``path`` exists and is not a bundle.
        E2EDeployError: the folder cannot be written, or the disk is full.
    """
    if (
        path.exists()
        and not (path / MANIFEST).is_file()
        and not (path.is_dir() and not any(path.iterdir()))
    ):
        raise UsageError(f"{path} exists and is not a bundle; choose another folder")
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
        yield partial
        partial.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
            try:
                os.replace(path, old / "bundle")
                try:
                    os.replace(partial, path)
                except OSError:
                    os.replace(old / "bundle", path)
                    raise
                shutil.rmtree(old / "bundle", ignore_errors=True)
            finally:
                with contextlib.suppress(OSError):
                    old.rmdir()
        else:
            os.replace(partial, path)
    except OSError as error:
        raise E2EDeployError(
            f"the bundle {path} could not be written: {error.strerror or error}; nothing was changed"
        ) from error
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)


def write_manifest(root: Path, manifest: Manifest) -> Manifest:
    """Hash every file under ``root``, write the manifest there and return it."""
    names = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and p.name != MANIFEST
    )
    entries = {
        name: FileEntry(bytes=(root / name).stat().st_size, sha256=sha256_of(root / name))
        for name in names
    }
    values: Mapping[str, Any] = {f.name: getattr(manifest, f.name) for f in fields(manifest)} | {
        "files": entries
    }
    complete = Manifest(**values)
    (root / MANIFEST).write_text(json.dumps(asdict(complete), indent=2) + "\n", encoding="utf-8")
    return complete
