"""The model repository: a folder a model, whole or absent, beside whatever other models are there.

- ``<model>/config.pbtxt``
- ``<model>/1/model.onnx`` and its weights, or a plan for each kind of device
- ``<model>/warmup/frame``: a stored reference frame, raw
- ``<model>/e2e-deploy.json``: what it was made from, and every file with size and SHA-256
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from e2e_deploy.bundle.bundle import Bundle, open_bundle, safe_path, sha256_of
from e2e_deploy.bundle.manifest import GraphEntry, PlanEntry
from e2e_deploy.bundle.plan_files import require_private
from e2e_deploy.bundle.served import VERSION, model_name
from e2e_deploy.errors import BundleError, UsageError
from e2e_deploy.export.triton.config import (
    WARM_UP,
    graph_config,
    plan_told,
    to_pbtxt,
    warm_up_shape,
)
from e2e_deploy.names import ONNXRUNTIME_CUDA
from e2e_deploy.packages import require
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.json_files import read_json, to_json
from e2e_deploy.system.whole_folder import whole_folder

CARD = "e2e-deploy.json"
_KIND = "e2e-deploy model for Triton"
MAX_INSTANCES = 64
Note = Callable[[str], None]


@dataclass(frozen=True)
class TritonModel:
    """One model of a repository that was written.

    Attributes:
        name: what clients call it.
        folder: where it is.
        backend: Triton's: onnxruntime or tensorrt.
        frame_size: (H, W) of the frames it takes.
    """

    name: str
    folder: Path
    backend: str
    frame_size: tuple[int, int]


def export_triton(
    bundle: str | Path | Bundle,
    out: str | Path,
    *,
    name: str | None = None,
    instances: int = 1,
    on_note: Note = lambda note: None,
) -> list[TritonModel]:
    """Write a bundle into a model repository of Triton Inference Server.

    A model for each graph (backend onnxruntime) and for the TensorRT plans of each graph (backend tensorrt), each with
    ``config.pbtxt``, a warm-up request, one version and no response cache. A graph for N pictures at once takes 1 to N
    there, and Triton joins requests to batches of it. Models of other names in the repository stay as they are.

    Args:
        bundle: its folder, or an opened Bundle.
        out: the repository; a model that this function wrote before is replaced.
        name: of the models, which add their frame size where there are several and ``_tensorrt`` for plans; the
            bundle's folder if None.
        instances: how many of each model Triton runs beside each other on each device.
        on_note: told what should be known of the repository, in a sentence.

    Returns:
        The models, in the order of the bundle's graphs.

    Raises:
        BundleError: not a bundle, damaged, or with plans that others may write to.
        UsageError: an unusable name, number of instances, or folder where something else is.
        UnavailableError: the package onnx is not here, which graphs of several pictures need.
        E2EDeployError: the repository cannot be written, or the disk is full.
    """
    if not 1 <= instances <= MAX_INSTANCES:
        raise UsageError(f"`instances` is {instances}; expected 1 to {MAX_INSTANCES}")
    opened = open_bundle(bundle)
    root, source = Path(out).resolve(), opened.root.resolve()
    if root == source or root.is_relative_to(source):
        raise UsageError(
            f"`triton` is {out}, which lies in the bundle itself; name a folder outside"
        )
    if (root / "manifest.json").exists():
        raise UsageError(f"`triton` is {out}, which is a bundle; name a folder for models")
    models = []
    # A graph with open sides has an entry for each of its stored sizes, and is one model.
    for graph in _one_a_file(opened):
        named = model_name(opened, graph, name)
        models.append(_write_graph(opened, graph, root, named, instances, on_note))
        plans = [
            plan
            for plan in opened.manifest.plans
            if plan.backend == "tensorrt" and tuple(plan.frame_size) == graph.frame_hw
        ]
        if plans:
            named = f"{named}_tensorrt"
            models.append(_write_plans(opened, graph, plans, root, named, instances, on_note))
    others = sorted({plan.backend for plan in opened.manifest.plans} - {"tensorrt"})
    if others:
        on_note(
            f"plans of {' and '.join(others)} were left out: Triton has no backend that loads them"
        )
    return models


def _one_a_file(bundle: Bundle) -> list[GraphEntry]:
    """The first entry of each graph, in order."""
    first: dict[str, GraphEntry] = {}
    for graph in bundle.manifest.graphs:
        first.setdefault(graph.onnx, graph)
    return list(first.values())


def _write_graph(
    bundle: Bundle, graph: GraphEntry, root: Path, name: str, instances: int, on_note: Note
) -> TritonModel:
    """The model of a graph for ONNX Runtime; its form for GPUs where there is one."""
    onnx = graph.file_for(ONNXRUNTIME_CUDA)
    for_gpu = onnx != graph.onnx
    data, batches = bundle.read(onnx, hash_again=True), graph.batch > 1
    if batches:
        require("onnx", "export")
        from e2e_deploy.export.triton.open_batch import with_open_batch

        data = with_open_batch(data, graph.batch)
    config = graph_config(
        name,
        bundle.manifest,
        graph,
        backend="onnxruntime",
        files={"": "model.onnx"},
        batches=batches,
        kind="KIND_GPU" if for_gpu else "KIND_AUTO",
        instances=instances,
    )

    def fill(version: Path) -> None:
        (version / "model.onnx").write_bytes(data)
        folder = PurePosixPath(onnx).parent
        for weights in bundle.weights_of(onnx):
            # Beside the graph under the very name that it says.
            _copy(bundle, weights, version / PurePosixPath(weights).relative_to(folder))

    return _write_model(bundle, graph, root, name, config, fill, on_note)


def _write_plans(
    bundle: Bundle,
    graph: GraphEntry,
    plans: list[PlanEntry],
    root: Path,
    name: str,
    instances: int,
    on_note: Note,
) -> TritonModel:
    """The model of a graph's TensorRT plans: Triton takes the one for the compute capability at hand."""
    newest = {plan.target: plan for plan in plans}  # entries are in the order they were built
    files = {_capability(target): f"{target}.plan" for target in newest}
    config = graph_config(
        name,
        bundle.manifest,
        graph,
        backend="tensorrt",
        files=files,
        batches=False,  # a plan's first axis is fixed
        kind="KIND_GPU",
        instances=instances,
    )
    versions = sorted({plan.version for plan in newest.values()})
    config["parameters"].append(plan_told("tensorrt", versions))

    def fill(version: Path) -> None:
        for target, plan in newest.items():
            require_private(bundle.root, plan.file)
            _copy(bundle, plan.file, version / f"{target}.plan")

    on_note(
        f"{name} holds plans of TensorRT {' and '.join(versions)}: take a release of Triton with that version"
    )
    return _write_model(bundle, graph, root, name, config, fill, on_note)


def _capability(target: str) -> str:
    """``sm89`` as Triton writes it, ``8.9``."""
    digits = target.removeprefix("sm").rstrip("+")
    return f"{digits[:-1]}.{digits[-1:]}"


def _copy(bundle: Bundle, name: str, target: Path) -> None:
    """A listed file of the bundle, whose copy has the listed hash."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(bundle.file(name)) as source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
    if sha256_of(target) != bundle.manifest.files[name].sha256:
        raise BundleError(f"{name} of {bundle.root} was changed while it was copied")


def _write_model(
    bundle: Bundle,
    graph: GraphEntry,
    root: Path,
    name: str,
    config: dict[str, Any],
    fill: Callable[[Path], None],
    on_note: Note,
) -> TritonModel:
    with whole_folder(root / name, _files_of, on_note) as folder:
        version, warm_up = folder / VERSION, folder / "warmup"
        version.mkdir()
        warm_up.mkdir()
        fill(version)
        shape, dtype = warm_up_shape(graph)
        frames, _ = bundle.reference(graph)
        filled = np.resize(frames, shape).astype(dtype, copy=False)  # repeats them to fill a batch
        (warm_up / WARM_UP).write_bytes(filled.tobytes())
        (folder / "config.pbtxt").write_text(to_pbtxt(config), encoding="ascii")
        _write_card(bundle, graph, folder)
    return TritonModel(name, root / name, config["backend"], graph.frame_hw)


def _write_card(bundle: Bundle, graph: GraphEntry, folder: Path) -> None:
    manifest = bundle.manifest
    names = [
        Path(top, name).relative_to(folder).as_posix()
        for top, _, names in os.walk(folder)
        for name in names
    ]
    card = {
        "kind": _KIND,
        "bundle": bundle.root.resolve().name,
        "checkpoint": asdict(manifest.checkpoint),
        "task": manifest.task,
        "family": manifest.family,
        "precision": manifest.precision,
        "frame_size": list(graph.frame_hw),
        "processing_size": graph.processing_size,
        "outputs": {kind.output: f"{kind.meaning}; {kind.units}" for kind in manifest.kinds},
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
            for name in sorted(names)
        },
    }
    (folder / CARD).write_text(to_json(card, indent=2) + "\n", encoding="utf-8")


def _files_of(folder: Path) -> list[str]:
    """Files of a model that was written here before, its card last; UsageError where something else is."""
    try:
        card = read_json(folder / CARD, error=BundleError)
        listed = card.get("files")
        if card.get("kind") != _KIND or not isinstance(listed, dict):
            raise BundleError(f"its {CARD} is not one of e2e-deploy's")
        for name in listed:
            safe_path(folder, name)
    except BundleError as error:
        raise UsageError(
            f"{folder} exists and is not a model that may be replaced: {error}; choose another folder"
        ) from None
    return [*listed, CARD]
