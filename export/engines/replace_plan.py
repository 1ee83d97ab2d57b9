"""A plan of a finished bundle built again, for the device and library at hand.

NVIDIA's libraries need their GPU, no torch and no checkpoint; AOTInductor needs both. The plan is written first, then
the manifest is replaced, then what it no longer lists is removed: a rebuild that is killed leaves the bundle as it was.
The manifest is read again for that, by one process at a time: others may have built plans meanwhile, on a shared disk
for GPUs of their own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from e2e_deploy.bundle.bundle import Bundle, open_bundle, safe_path, sha256_of
from e2e_deploy.bundle.manifest import (
    MANIFEST,
    FileEntry,
    GraphEntry,
    Manifest,
    PlanEntry,
    parse_manifest,
)
from e2e_deploy.bundle.plan_files import graph_digest
from e2e_deploy.errors import BundleError, UsageError
from e2e_deploy.export.engines.build import build_plan, job_for
from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.export.engines.tensorrt import BuildOptions
from e2e_deploy.names import PlanKind
from e2e_deploy.nvidia.cuda_driver import current_gpu
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.torch import original_checkpoint
from e2e_deploy.system.files import read_bytes, whole_file
from e2e_deploy.system.json_files import MAX_BYTES, to_json
from e2e_deploy.system.whole_folder import lock_folder


def replace_plan(
    bundle: Bundle,
    graph: GraphEntry,
    library: PlanKind,
    *,
    cache: PlanCache | None = None,
    stages: Stages | None = None,
) -> Bundle:
    """The bundle with a plan of ``graph`` for this device; it takes the place of the library's plan for that target.

    Args:
        bundle: an opened bundle; plans for other targets stay.
        graph: of the bundle.
        library: a kind of plan.
        cache: of plans built before; the user's if None.
        stages: says what is being done; silent if None.

    Raises:
        UsageError: a core graph, or one in int8.
        UnavailableError: no GPU, or the library is not here.
        CheckpointError: AOTInductor's package, and the checkpoint is not here, or is another one.
        BundleError: the graph is not the file that was exported.
        E2EDeployError: the graph does not build, or the bundle cannot be written.
    """
    _require_frames_of_floats(bundle, graph)
    stages = stages or Stages(quiet=True)
    manifest, root = bundle.manifest, bundle.root
    job, _ = job_for(library, current_gpu())
    checkpoint = original_checkpoint(bundle) if library == "inductor" else None
    height, width = graph.frame_hw
    with (
        bundle.unchanged(graph.onnx, *bundle.weights_of(graph.onnx)),
        stages(f"rebuild {job.title} plan {height}x{width} {job.target}") as say,
    ):
        entry = build_plan(
            root,
            graph,
            job,
            precision=manifest.precision,
            digest=graph_digest(root, graph.onnx, lambda name: manifest.files[name].sha256),
            options=BuildOptions(target=job.target if job.gpu is None else None),
            cache=cache or PlanCache(),
            manifest=manifest,
            checkpoint=checkpoint,
            progress=lambda *at: say("{} {}/{}".format(*at)),
        )
        _put_in_place(bundle, entry)
    return replace(open_bundle(root), checkpoint=bundle.checkpoint)


def _require_frames_of_floats(bundle: Bundle, graph: GraphEntry) -> None:
    if graph.kind != "frame":
        raise UsageError("plans take frames, and this bundle holds a core graph")
    if bundle.manifest.precision == "int8":
        raise UsageError(
            "no plan is built from int8 graphs, they are for CPUs; export in fp16 for a plan"
        )


def _put_in_place(bundle: Bundle, entry: PlanEntry) -> None:
    """Let the manifest list a plan whose file is there, in the place of its kind's for that size and target."""
    root = bundle.root
    with _alone(root):
        manifest = _read_again(bundle)
        place = (entry.backend, entry.frame_size, entry.target)
        replaced = [
            old for old in manifest.plans if (old.backend, old.frame_size, old.target) == place
        ]
        plans = [*(old for old in manifest.plans if old not in replaced), entry]
        gone = {old.file for old in replaced} - {plan.file for plan in plans}
        files = {name: file for name, file in manifest.files.items() if name not in gone}
        path = root / entry.file
        files[entry.file] = FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
        changed = replace(manifest, plans=plans, files=dict(sorted(files.items())))
        with whole_file(root / MANIFEST) as partial:
            partial.write_text(to_json(asdict(changed), indent=2) + "\n", encoding="utf-8")
        (root / MANIFEST).chmod(0o644)  # it vouches for native code: nobody else may write it
        for name in gone:
            safe_path(root, name).unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A block that one process at a time is in, where the file system has locks."""
    descriptor = lock_folder(folder.resolve(), wait=True)
    try:
        yield
    finally:
        os.close(descriptor)


def _read_again(bundle: Bundle) -> Manifest:
    """The manifest as it is now, of the same export.

    Raises:
        BundleError: another export took the bundle's place, and is left as it is.
    """
    text = read_bytes(bundle.root / MANIFEST, MAX_BYTES).decode("utf-8", "replace")
    now = parse_manifest(text)
    if replace(now, plans=[], files={}) != replace(bundle.manifest, plans=[], files={}):
        raise BundleError(
            f"{bundle.root} was exported again while a plan was built for it; build the plan again"
        )
    return now
