"""A bundle's package of AOTInductor, before any of its code is loaded: the right one, and for this device.

A package is a zip file with shared libraries, which run as soon as they are loaded. So what it says of itself is read
from the very bytes whose hash the manifest lists, and those bytes are what is loaded, from a folder of this process.
"""

import errno
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.cpu_targets import cpu_targets
from e2e_deploy.bundle.manifest import GraphEntry, PlanEntry
from e2e_deploy.bundle.plan_files import PACKAGE_GRAPH, PACKAGE_TENSORS, rebuild_call
from e2e_deploy.errors import E2EDeployError, PlanDamagedError, PlanMismatchError, failed
from e2e_deploy.nvidia.hardware import cpu_features, cpu_name
from e2e_deploy.runtime.backends.plans import (
    Place,
    Tensors,
    choose_plan,
    read_plan,
    require_built_from,
)
from e2e_deploy.system.files import require_runnable
from e2e_deploy.system.json_files import parse_json

_METADATA = "_metadata.json"
_MAX_METADATA_BYTES = 2**16
_DEVICE, _VECTORS = "AOTI_DEVICE_KEY", "AOTI_CPU_ISA"

_NEEDS = {
    "INVALID_VEC_ISA": "",
    "AVX2": "avx2",
    "AVX512": "avx512vl",
    "AVX512_VNNI": "avx512_vnni",
    "AMX_TILE": "amx_tile",
    "ASIMD": "asimd",
}
"""What inductor calls the vectors it compiled for: what Linux calls them."""

Loaded = TypeVar("Loaded")


def cpu_here() -> Place:
    """This CPU as a place for plans."""
    return Place("CPU", cpu_name(), cpu_targets(cpu_features()))


def metadata_of(data: bytes, what: str) -> dict[str, Any]:
    """What a package says of itself.

    Args:
        data: of the package.
        what: its name, for errors.

    Raises:
        PlanDamagedError: it is no package, or its parts contradict each other.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            if outside := [name for name in archive.namelist() if _leaves(name)]:
                raise PlanDamagedError(f"{what} holds {outside[0]!r}, which lies outside of it")
            parts = [entry for entry in archive.infolist() if entry.filename.endswith(_METADATA)]
            if not parts or any(part.file_size > _MAX_METADATA_BYTES for part in parts):
                raise PlanDamagedError(f"{what} is no package of AOTInductor")
            # One a source file; each is read, as the loader takes any of them.
            facts = [
                parse_json(archive.read(part), f"{what}/{part.filename}", error=PlanDamagedError)
                for part in parts
            ]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise PlanDamagedError(f"{what} is damaged or no package of AOTInductor: {error}") from None
    if any(other != facts[0] for other in facts):
        raise PlanDamagedError(f"{what} holds parts of several packages")
    return facts[0]


def _leaves(name: str) -> bool:
    """Whether a file of a package would be unpacked elsewhere: torch looks at no names."""
    steps = name.replace("\\", "/").split("/")
    return not steps[0] or ".." in steps or ":" in steps[0]


def _tensors_of(metadata: dict[str, Any]) -> Tensors:
    """Its inputs and outputs, as it says itself; empty where it does not."""
    try:
        found = json.loads(metadata[PACKAGE_TENSORS])
        return {
            (str(name), bool(is_input)): (str(dtype), tuple(int(side) for side in shape))
            for name, is_input, dtype, shape in found
        }
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}


def _require_device(metadata: dict[str, Any], entry: PlanEntry, place: Place, call: str) -> None:
    """Refuse a package that was compiled for other devices than its entry in the manifest says."""
    wanted = "cuda" if place.kind == "GPU" else "cpu"
    if (device := metadata.get(_DEVICE)) != wanted:
        raise PlanDamagedError(
            f"{entry.file} was compiled for {device}, and the manifest lists it for {entry.target}; "
            f"rebuild it with: {call}"
        )
    if wanted == "cuda":
        return
    words = str(metadata.get(_VECTORS, "")).upper().split()
    features = cpu_features().split()
    for word in words:
        needed = _NEEDS.get(word, word)
        if needed and needed not in features:
            raise PlanMismatchError(
                f"{entry.file} was compiled for a CPU with {word}, which this one has not ({place.name}); "
                f"rebuild it with: {call}"
            )


def read_package(
    bundle: Bundle, graph: GraphEntry, version: str, place: Place
) -> tuple[PlanEntry, bytes]:
    """The package of ``graph`` that fits here, and its bytes; none of its code has run.

    Args:
        bundle: opened.
        graph: one of its graphs.
        version: of torch.
        place: the device it will run on.

    Raises:
        PlanMismatchError: none is for this device and this version.
        PlanDamagedError: it is damaged, or was compiled from another graph.
        BundleError: it is not the file that the manifest lists, or others could have written it.
        UnavailableError: the driver does not fit.
    """
    entry = choose_plan(bundle, graph, "inductor", version, place)
    data, call = read_plan(bundle, entry), rebuild_call(bundle.root, "inductor")
    try:
        metadata = metadata_of(data, entry.file)
    except PlanDamagedError as error:
        raise PlanDamagedError(f"{error}; rebuild it with: {call}") from None
    digest = str(metadata.get(PACKAGE_GRAPH, ""))
    require_built_from(bundle, graph, entry, digest, _tensors_of(metadata))
    _require_device(metadata, entry, place, call)
    return entry, data


def load_package(
    bundle: Bundle, entry: PlanEntry, data: bytes, load: Callable[[Path], Loaded]
) -> Loaded:
    """What ``load`` makes of the package, whose bytes lie in a file of this process as long as it takes.

    Raises:
        PlanDamagedError: torch does not load it.
        UnavailableError: it needs more memory than is free.
        E2EDeployError: the temporary folder cannot hold it, or runs no code.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="e2e-deploy-") as folder:
            require_runnable(Path(folder))
            file = Path(folder) / "frame.pt2"
            file.write_bytes(data)
            # Torch unpacks it beside this folder; a disk that is full looks to it like a package that is damaged.
            if zipfile.is_zipfile(file) and _unpacked_bytes(file) > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return load(file)
    except OSError as error:
        raise E2EDeployError(
            f"{entry.file} cannot be unpacked in {tempfile.gettempdir()}: {error.strerror or error}; "
            "free some space there, or set TMPDIR to another folder"
        ) from error
    except RuntimeError as error:
        _remove_unpacked(str(error))
        found = failed(f"PyTorch does not load {entry.file}", error, PlanDamagedError)
        if isinstance(found, PlanDamagedError):
            call = rebuild_call(bundle.root, "inductor")
            found = PlanDamagedError(f"{found}; rebuild it with: {call}")
        raise found from error


def _unpacked_bytes(file: Path) -> int:
    with zipfile.ZipFile(file) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _remove_unpacked(said: str) -> None:
    """Remove the folder that torch names when it refuses what it unpacked there; it leaves it, gigabytes perhaps."""
    for name in set(re.findall(r"\baotinductor_\w+(?=[/\\])", said)):
        shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)
