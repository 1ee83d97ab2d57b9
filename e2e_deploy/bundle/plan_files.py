"""Engine files in a bundle: what they are called, which graph they belong to, who may write them, how to rebuild them.

A plan is native code, so it is trusted only as far as nobody else could have changed it. Imports no library.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from e2e_deploy.bundle.bundle import safe_path
from e2e_deploy.bundle.manifest import MANIFEST, GraphEntry
from e2e_deploy.bundle.onnx_paths import external_locations
from e2e_deploy.errors import BundleError

_OTHERS_MAY_WRITE = 0o022


def plan_name(
    frame_hw: tuple[int, int], precision: str, library: str, version: str, target: str
) -> str:
    """Path of a plan inside its bundle."""
    height, width = frame_hw
    return f"plans/{height}x{width}-{precision}-{library}-{version}-{target}.plan"


def graph_digest(root: Path, onnx: str, sha256: Callable[[str], str]) -> str:
    """One hash, hex, for a graph and all its weights.

    Args:
        root: folder of the bundle.
        onnx: the graph's file in it.
        sha256: hash of a file of the bundle by name.
    """
    total = hashlib.sha256(sha256(onnx).encode())
    for location in sorted(external_locations(safe_path(root, onnx))):
        name = str(PurePosixPath(onnx).parent / location)
        total.update(f"\n{location} {sha256(name)}".encode())
    return total.hexdigest()


PACKAGE_GRAPH, PACKAGE_TENSORS = "e2e_deploy_graph", "e2e_deploy_tensors"
"""Keys of what a package of AOTInductor says of itself."""


def package_metadata(graph: GraphEntry, digest: str) -> dict[str, str]:
    """What a package of ``graph`` says of itself: its graph_digest, and its tensors in JSON."""
    tensors = [
        [spec.name, is_input, spec.dtype, spec.shape]
        for specs, is_input in ((graph.inputs, True), (graph.outputs, False))
        for spec in specs
    ]
    return {PACKAGE_GRAPH: digest, PACKAGE_TENSORS: json.dumps(tensors)}


def rebuild_call(root: Path, library: str) -> str:
    """The call that builds the plans of the bundle at ``root`` again, for the GPU it is run on."""
    return f'`rebuild_plans({str(root)!r}, backend="{library}")`'


def require_private(root: Path, name: str) -> Path:
    """The file ``name`` of the bundle at ``root``, which only its owner can write, who is this user or root.

    The same must hold for the manifest, which vouches for it, and for the folders between.

    Raises:
        BundleError: others can write one of them, another user owns it, or it is reached through a link.
    """
    path = safe_path(root, name)
    if os.name != "posix":
        return path
    folders = [step for step in path.parents if step.is_relative_to(root)]
    for step in (path, root / MANIFEST, *folders):
        status = step.lstat() if step != root else step.stat()
        if status.st_mode & _OTHERS_MAY_WRITE:
            raise BundleError(
                f"{step} can be written by other users, and a plan is native code that would run as you; "
                f"if you trust it: chmod go-w {shlex.quote(str(step))}"
            )
        if status.st_uid not in (0, os.geteuid()):
            raise BundleError(
                f"{step} belongs to another user, and a plan is native code that would run as you; "
                "copy the bundle into a folder of your own if you trust it"
            )
    return path
