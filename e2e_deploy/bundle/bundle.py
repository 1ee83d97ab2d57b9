"""The bundle: the folder that export writes (new_bundle.py) and runtime reads. Its files, hashes, safety checks.

    <name>/manifest.json        what everything is, and every file with size and SHA-256
    <name>/model_480x640.onnx   one graph a frame size (+ model.data, weights they share)
    <name>/model_480x640-onnxruntime-cuda.onnx   the same in operators that one target alone has
    <name>/plans/*.plan     plans, each with an entry
    <name>/reference/*.npz      frames and the fp32 reference results for them

A bundle is data from somewhere: the manifest is checked before a hash, the hashes before a parser sees a
byte, and no path leaves the folder. Imports neither torch nor onnx.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import MANIFEST, FileEntry, GraphEntry, Manifest, parse_manifest
from e2e_deploy.bundle.onnx_check import LARGEST_GRAPH, check_graph
from e2e_deploy.bundle.onnx_paths import locations_in
from e2e_deploy.bundle.reference import read_reference
from e2e_deploy.errors import BundleError, UsageError
from e2e_deploy.names import GraphTarget
from e2e_deploy.system.files import open_regular, read_bytes
from e2e_deploy.system.json_files import MAX_BYTES

_PLAIN_NAME = re.compile(r"[A-Za-z0-9._+ /-]+")


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


Identity = tuple[int, ...]
"""Device, inode, size, and the times of content and inode: another one where a file was replaced or written to."""


def _identity(status: os.stat_result) -> Identity:
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


def _not_exported(root: Path, name: str) -> BundleError:
    return BundleError(
        f"{name} of {root} is not the file that was exported: its size or SHA-256 differs"
    )


def _checked(root: Path, name: str, entry: FileEntry, *, hash_check: bool = True) -> Identity:
    """The identity of a listed file whose size and, unless that is skipped, hash are the listed ones."""
    try:
        with open_regular(safe_path(root, name)) as stream:
            found = _identity(os.fstat(stream.fileno()))
            if (
                os.fstat(stream.fileno()).st_size != entry.bytes
                or (
                    hash_check and hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256
                )
                or _identity(os.fstat(stream.fileno())) != found
            ):
                raise _not_exported(root, name)
            return found
    except FileNotFoundError:
        raise BundleError(f"{root} is incomplete: {name} is missing") from None
    except OSError as error:
        raise BundleError(f"{name} of {root} cannot be read: {error.strerror or error}") from None


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest and files were checked.

    Attributes:
        root: the folder.
        manifest: what it holds.
        identities: of the files when their hashes, or without ``hash_check`` their sizes, were checked.
        checkpoint: folder or hub id of what it was exported from, as the user says; else only a folder here is
            opened for it, and nothing fetched, whatever the manifest names.
    """

    root: Path
    manifest: Manifest
    identities: Mapping[str, Identity] = field(default_factory=dict, repr=False, compare=False)
    checkpoint: str | None = None

    def file(self, name: str) -> Path:
        """Path of a listed file."""
        if name not in self.manifest.files:
            raise BundleError(f"{name} is not listed in the manifest of {self.root}")
        return safe_path(self.root, name)

    def read(self, name: str, *, hash_again: bool = False) -> bytes:
        """The bytes of a listed file.

        They are hashed, unless they are of the very file that ``identities`` knows.

        Args:
            name: of the file.
            hash_again: hash them in any case.

        Raises:
            BundleError: it is not listed, cannot be read, or was changed.
        """
        path, entry = self.file(name), self.manifest.files[name]
        try:
            with open_regular(path) as stream:
                found = _identity(os.fstat(stream.fileno()))
                data = stream.read(entry.bytes + 1)
                is_known = (
                    found == _identity(os.fstat(stream.fileno())) == self.identities.get(name)
                )
        except OSError as error:
            raise BundleError(
                f"{name} of {self.root} cannot be read: {error.strerror or error}"
            ) from None
        if len(data) != entry.bytes or (
            (hash_again or not is_known) and hashlib.sha256(data).hexdigest() != entry.sha256
        ):
            raise _not_exported(self.root, name)
        return data

    def weights_of(self, onnx: str) -> list[str]:
        """Names of the listed files that hold weights of a listed graph, beside its own."""
        folder = PurePosixPath(onnx).parent
        locations = locations_in(onnx, self.read(onnx))
        return sorted(str(folder / location) for location in locations)

    @contextmanager
    def unchanged(self, *names: str) -> Iterator[None]:
        """A block in which a library opens listed files by their paths: it got what has the listed hashes.

        Raises:
            BundleError: one of them was changed, before or while it was loaded.
        """
        before = {}
        for name in names:
            path = self.file(name)
            before[name] = self.identities.get(name)
            if not path.is_file() or _identity(path.stat()) != before[name]:
                before[name] = _checked(self.root, name, self.manifest.files[name])
        yield
        for name in names:
            path = self.file(name)
            if not path.is_file() or _identity(path.stat()) != before[name]:
                raise BundleError(f"{name} of {self.root} was changed while it was loaded")

    def graph_for(self, frame_hw: tuple[int, int]) -> GraphEntry:
        """The graph of a frame size.

        Raises:
            UsageError: the bundle has no graph of that size.
        """
        for graph in self.manifest.graphs:
            if graph.frame_hw == tuple(frame_hw):
                return graph
        held = ", ".join(f"{h}x{w}" for h, w in self.manifest.frame_sizes)
        raise UsageError(
            f"the bundle has no graph for frames of {frame_hw[0]}x{frame_hw[1]} (height x width); it has {held}; "
            f"export with `frame_sizes=[{frame_hw}]`"
        )

    def reference(
        self, graph: GraphEntry
    ) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[np.float32]]]:
        """Stored inputs and the fp32 reference results for them, by the names of the graph's outputs.

        Frames uint8 [N, H, W, 3] with results [N, H, W] or [N, H, W, 3]; of a core graph rgb float32 [N, 3, H, W]
        with results [N, 1 or 3, H, W].

        Raises:
            BundleError: the file does not hold these arrays.
        """
        shapes = {kind.output: graph.shapes(kind) for kind in self.manifest.kinds}
        takes = next(iter(shapes.values()))[0]
        gives = {name: shape for name, (_, shape) in shapes.items()}
        dtype = np.uint8 if graph.kind == "frame" else np.float32
        return read_reference(graph.reference, self.read(graph.reference), dtype, takes, gives)


def is_bundle(path: str | Path) -> bool:
    """Whether there is a folder with a manifest, be it a good one or not."""
    return os.path.lexists(os.path.join(path, MANIFEST))


def open_bundle(path: str | Path | Bundle, *, hash_check: bool = True) -> Bundle:
    """Open the bundle at ``path`` after checking its manifest, the paths, and the hash of every file.

    Args:
        path: the folder; a bundle that is open stays as it is.
        hash_check: False skips the hashes, for a folder that nobody else can write to. The manifest, the paths, sizes
            and what is in the graphs are checked anyway, and a plan's hash when it is loaded.

    Raises:
        BundleError: not a bundle, damaged, changed after it was written, or pointing outside itself.
        UsageError: ``hash_check`` of a bundle that is open, where it has no effect.
    """
    if isinstance(path, Bundle):
        if not hash_check:
            raise UsageError("`hash_check` has no effect on a bundle that is open")
        return path
    root = Path(path)
    try:
        text = read_bytes(root / MANIFEST, MAX_BYTES).decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        what = f"has no {MANIFEST}" if os.path.lexists(root) else "does not exist"
        raise BundleError(
            f"{root} is not a bundle: it {what}; e2e-deploy export writes one"
        ) from None
    except OSError as error:
        raise BundleError(f"{root / MANIFEST} cannot be read: {error.strerror or error}") from None
    manifest = parse_manifest(text)
    identities = {
        name: _checked(root, name, entry, hash_check=hash_check)
        for name, entry in manifest.files.items()
    }
    bundle = Bundle(root, manifest, identities)
    for engine in manifest.plans:
        bundle.file(engine.file)
    for graph in manifest.graphs:
        bundle.file(graph.reference)
    targets: dict[str, GraphTarget | None] = {graph.onnx: None for graph in manifest.graphs}
    for graph in manifest.graphs:
        for variant in graph.variants:
            targets.setdefault(variant.onnx, variant.target)
    for name, target in targets.items():
        _check_graph_file(bundle, name, target)
    return bundle


def _check_graph_file(bundle: Bundle, onnx: str, target: GraphTarget | None) -> None:
    """Refuse a graph that none of our exports wrote, or that takes weights from what the manifest does not list."""
    bundle.file(onnx)
    files = bundle.manifest.files
    if files[onnx].bytes > LARGEST_GRAPH:
        raise BundleError(f"{onnx} is larger than the {LARGEST_GRAPH} bytes an ONNX file may have")
    data = bundle.read(onnx)
    weights = {}
    for location in sorted(locations_in(onnx, data)):
        # Runtimes look beside the graph, which need not lie at the top of the bundle.
        name = str(PurePosixPath(onnx).parent / location)
        safe_path(bundle.root, name)
        if name not in files:
            raise BundleError(
                f"{onnx} takes weights from {location!r}, which the manifest does not list"
            )
        weights[location] = files[name].bytes
    check_graph(onnx, data, weights, target)
