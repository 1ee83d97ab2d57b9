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
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import BundleError, E2EDeployError, UsageError
from e2e_deploy.onnx_paths import external_locations
from e2e_deploy.tasks import TASKS, Task

SCHEMA = 1
MANIFEST = "manifest.json"
T = TypeVar("T")


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
class VerificationEntry:
    """One parity measurement made when the bundle was written."""

    frame_size: list[int]
    backend: str
    precision: str
    parity: dict[str, Any]
    passed: bool


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


_NESTED: dict[str, type] = {
    "checkpoint": CheckpointEntry,
    "graphs": GraphEntry,
    "verification": VerificationEntry,
    "files": FileEntry,
    "inputs": TensorSpec,
    "outputs": TensorSpec,
}
_PLAIN: dict[str, type] = {"str": str, "int": int, "bool": bool}


def _build(kind: type[T], value: Any, where: str) -> T:
    """``value`` (parsed JSON) as the dataclass ``kind``; wrong keys and types are BundleErrors."""
    if not isinstance(value, dict):
        raise BundleError(f"{where} of the manifest must be an object, not {type(value).__name__}")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if wrong := sorted(set(value) ^ set(known)):
        raise BundleError(
            f"{where} of the manifest has missing or unknown keys: {', '.join(wrong)}"
        )
    built: dict[str, Any] = {}
    for name, item in cast(dict[str, Any], value).items():
        place, annotation = f"{where}.{name}", str(known[name].type)
        wanted: type = (
            list
            if "list[" in annotation
            else dict
            if "dict[" in annotation
            else _PLAIN.get(getattr(known[name].type, "__name__", ""), dict)
        )
        if not isinstance(item, wanted) or (wanted is int and isinstance(item, bool)):
            raise BundleError(
                f"{place} must be of type {wanted.__name__}, not {type(item).__name__}"
            )
        inner = _NESTED.get(name)
        if inner is None:
            built[name] = item
        elif isinstance(item, list):
            built[name] = [_build(inner, entry, f"{place}[{i}]") for i, entry in enumerate(item)]
        elif inner is FileEntry:
            built[name] = {
                key: _build(inner, entry, f"{place}[{key!r}]") for key, entry in item.items()
            }
        else:
            built[name] = _build(inner, item, place)
    return kind(**built)


def parse_manifest(text: str) -> Manifest:
    """The manifest in ``text``.

    Raises:
        BundleError: not JSON, another schema version, missing or unknown keys, wrong types, an unknown task.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise BundleError(f"{MANIFEST} is not JSON: {error}") from None
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise BundleError(
            f"{MANIFEST} has schema {schema!r}; this version reads {SCHEMA}: export the bundle again"
        )
    manifest = _build(Manifest, value, "the top level")
    if manifest.task not in TASKS:
        raise BundleError(
            f"the manifest's task is {manifest.task!r}; expected one of {', '.join(TASKS)}"
        )
    for graph in manifest.graphs:
        if len(graph.frame_size) != 2 or not all(
            isinstance(side, int) and side > 0 for side in graph.frame_size
        ):
            raise BundleError(
                f"a frame size in the manifest is {graph.frame_size}; expected [height, width]"
            )
    return manifest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def safe_path(root: Path, name: str) -> Path:
    """The file ``name`` of the bundle at ``root``.

    Raises:
        BundleError: the name is absolute, leaves the folder, or is reached through a link.
    """
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name:
        raise BundleError(f"the bundle names the path {name!r}, which leaves its folder")
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
            with np.load(self.file(graph.reference), allow_pickle=False) as stored:
                return stored["frames"], stored["results"]
        except (OSError, ValueError, KeyError) as error:
            raise BundleError(
                f"{graph.reference} holds no reference frames and results: {error}"
            ) from None


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
    for graph in manifest.graphs:
        bundle.file(graph.reference)
        for location in external_locations(bundle.file(graph.onnx)):
            safe_path(root, location)
            if location not in manifest.files:
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
            os.replace(path, old / "bundle")
            os.replace(partial, path)
            shutil.rmtree(old)
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
