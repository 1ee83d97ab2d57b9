"""Plans for a bundle that is being written: which ones, built or taken from the cache, with an entry each.

Knows bundles and the rules of ``engine``; each kind of plan has a module of its own, ``*_job.py``.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e_deploy.bundle.bundle import sha256_of
from e2e_deploy.bundle.manifest import GraphEntry, Manifest, PlanEntry
from e2e_deploy.bundle.plan_files import graph_digest, plan_name
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.export.engines.inductor_job import InductorJob, inductor_job
from e2e_deploy.export.engines.job import Job, Order
from e2e_deploy.export.engines.tensorrt import DEFAULT_LEVEL, Bounds, BuildOptions, Progress
from e2e_deploy.export.engines.tensorrt_job import trt_job
from e2e_deploy.export.onnx.lint import TARGETS
from e2e_deploy.export.open_sides import MAX_SIDE_PX, MIN_STEPS
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.names import EngineChoice, GraphKind, PlanKind, Precision
from e2e_deploy.nvidia.cuda_driver import Gpu, current_gpu
from e2e_deploy.nvidia.rtx_support import rtx_refusal
from e2e_deploy.nvidia.trt_api import PORTABLE, find_api
from e2e_deploy.nvidia.trt_messages import BuildError
from e2e_deploy.progress import Stages
from e2e_deploy.system.cache_folder import cache_key
from e2e_deploy.system.files import whole_file

NOT_BY_ITSELF = {
    "fp32": 'in fp32 TensorRT-RTX has no fused attention and a plan is twice as large: use `precision="fp16"`, '
    "or name the plan to have it all the same",
    "int8": "this int8 graph is made for a CPU",
}
"""Precision: why ``auto`` builds no plan of it, unless a target was named."""

NO_CORE_BY_ITSELF = "the Engine takes frames, so a plan of a core graph is for programs of your own: name it to have it"
LEAST_OPSET = {"bf16": 22}
"""Precision: the first operator set whose convolutions take it."""


@dataclass(frozen=True)
class Plans:
    """What build_plans did.

    Attributes:
        entries: for the manifest.
        notes: what was built, what not and why, a sentence each.
    """

    entries: list[PlanEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def job_for(kind: PlanKind, gpu: Gpu | None) -> tuple[Job, str]:
    """What to build so that a plan of ``kind`` runs here, and what there is to say of that.

    Args:
        kind: of plan.
        gpu: the GPU at hand, None without one.

    Raises:
        UnavailableError: the library is not here, does not serve this GPU, or needs one.
    """
    if kind == "inductor":
        return inductor_job(gpu)
    if gpu is None:
        raise UnavailableError(
            "a plan is rebuilt for the GPU at hand, and none is here; to build for another machine, "
            f'export with `engine="{kind}"`'
        )
    if kind == "tensorrt-rtx" and (refusal := rtx_refusal(gpu)):
        raise UnavailableError(refusal)
    api = find_api(kind)
    if not api.builds_without_gpu:
        return trt_job(api, gpu.target, gpu), ""
    return trt_job(api, gpu.target if gpu.target in api.targets else PORTABLE, None), ""


def plan_jobs(
    engine: EngineChoice,
    targets: Sequence[str] = (),
    precision: Precision = "fp16",
    kind: GraphKind = "frame",
) -> tuple[list[Job], list[str]]:
    """What ``engine`` and ``targets`` mean on this machine for a graph of that precision and kind, and why.

    Raises:
        UsageError: an unknown target.
        UnavailableError: a named plan whose library or GPU is not here.
    """
    if engine == "onnx":
        return [], []
    if engine == "inductor":
        job, note = inductor_job(current_gpu())
        return [job], [note] if note else []
    if engine == "tensorrt":
        return [_tensorrt_job()], []
    if engine == "tensorrt-rtx":
        refusal = "" if targets else _rtx_refusal_here()
        return _rtx_jobs(targets), [f"for other machines: {refusal}"] if refusal else []
    if targets:
        try:
            return _rtx_jobs(targets), []
        except UnavailableError as error:
            return [], [f"no TensorRT-RTX plan: {error}"]
    if precision == "int8":
        return [], [f"no plan: {NOT_BY_ITSELF[precision]}"]
    if kind == "core":
        return [], [f"no plan: {NO_CORE_BY_ITSELF}"]
    return _jobs_by_itself(precision)


def _jobs_by_itself(precision: Precision) -> tuple[list[Job], list[str]]:
    """What ``auto`` builds of a frame graph: the first that can be, and why not what comes before it."""
    gpu, notes = current_gpu(), list[str]()
    if precision in NOT_BY_ITSELF:
        notes.append(f"no {'TensorRT plan' if gpu else 'plan'}: {NOT_BY_ITSELF[precision]}")
    else:
        try:
            return [_tensorrt_job()], []
        except UnavailableError as error:
            notes.append(f"no TensorRT plan: {error}")
        refusal = _rtx_refusal_here()
        try:
            if not refusal:
                return _rtx_jobs(()), notes
        except UnavailableError as error:
            refusal = str(error)
        notes.append(f"no TensorRT-RTX plan: {refusal}")
    if gpu is None:
        return [], notes
    try:
        job, _ = inductor_job(gpu)
    except UnavailableError as error:
        return [], [*notes, f"no AOTInductor plan: {error}"]
    if job.gpu is None:
        return [], [*notes, f"no AOTInductor plan: torch {job.version} does not reach {gpu.name}"]
    return [job], notes


def require_level(jobs: Sequence[Job], level: int) -> None:
    """Refuse a level that changes nothing.

    Raises:
        UsageError: as said.
    """
    for job in jobs:
        if isinstance(job, InductorJob):
            job.require_level(level)


def _tensorrt_job() -> Job:
    gpu = current_gpu()
    if gpu is None:
        raise UnavailableError(
            "TensorRT builds only on a machine with an NVIDIA GPU, and none is here; "
            '`engine="tensorrt-rtx"` needs none'
        )
    return job_for("tensorrt", gpu)[0]


def _rtx_refusal_here() -> str:
    """Why TensorRT-RTX does not serve the GPU at hand; empty without one, as plans are built for other machines."""
    gpu = current_gpu()
    return rtx_refusal(gpu, "engine") if gpu else ""


def _rtx_jobs(targets: Sequence[str]) -> list[Job]:
    api = find_api("tensorrt-rtx")
    wanted = list(dict.fromkeys(targets or (PORTABLE,)))
    if unknown := [target for target in wanted if target not in api.targets]:
        raise UsageError(
            f"unknown target {unknown[0]!r}; {api.title} builds for {', '.join(api.targets)}"
        )
    return [trt_job(api, target, None) for target in wanted]


def opset_for(precision: Precision, jobs: Sequence[Job]) -> int:
    """The ONNX operator set of graphs that plans are built of, or ONNX Runtime runs where there are none."""
    names = [job.graph_for for job in jobs if job.graph_for] or ["onnxruntime"]
    return max(min(TARGETS[name].opset for name in names), LEAST_OPSET.get(precision, 0))


def open_shapes(graph: GraphEntry) -> dict[str, Bounds]:
    """(smallest, usual, largest) shape of its input where sides are open; empty where none is."""
    if not graph.multiple_of:
        return {}
    taken = graph.inputs[0]
    sides = ((MIN_STEPS * graph.multiple_of,) * 2, graph.frame_hw, (MAX_SIDE_PX,) * 2)
    least, usual, most = ((*taken.shape[:2], *hw) for hw in sides)
    return {taken.name: (least, usual, most)}


def build_plan(
    folder: Path,
    graph: GraphEntry,
    job: Job,
    *,
    precision: Precision,
    digest: str,
    options: BuildOptions,
    cache: PlanCache,
    manifest: Manifest | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> PlanEntry:
    """One plan in ``folder``, built or from the cache.

    Args:
        folder: of the bundle.
        graph: what to build.
        job: with which library and for what.
        precision: of the graph.
        digest: graph_digest of the graph; it is written into the plan.
        options: level, workspace and shapes; the target is the job's.
        cache: looked into first.
        manifest: of the bundle, for a job that reads no ONNX graph.
        checkpoint: what the bundle was exported from, likewise.
        progress: called as the build goes on.

    Raises:
        E2EDeployError: the graph is not fit for the library, the builder gave up, or the disk is full.
        KeyboardInterrupt: Ctrl-C.
    """
    name = plan_name(graph.frame_hw, precision, job.kind, job.version, job.device)
    shown: dict[str, Any] = {
        "level": options.level,
        "workspace_bytes": options.workspace_bytes,
    }
    facts = shown | {
        "graph": digest,
        "library": job.kind,
        "version": job.version,
        "target": job.target,
        "gpu": job.gpu_name,
        "precision": precision,
        "shapes": options.shapes,
    }
    key = cache_key(facts | job.facts())
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.parent.chmod(
        0o755
    )  # whatever the umask: a plan that others could have written is never loaded
    record = cache.fetch(key, file)
    seconds = 0.0
    if record is None:
        start = time.perf_counter()
        order = Order(
            folder=folder,
            graph=graph,
            digest=digest,
            options=options,
            manifest=manifest,
            checkpoint=checkpoint,
            kept=cache.folder,
        )
        with whole_file(file) as partial:
            built = job.build(order, partial, progress)
        seconds = max(0.1, round(time.perf_counter() - start, 1))
        shown, layers = shown | built.decided, built.layers
        cache.store(key, file, options=shown, layers=layers)
    else:
        shown, layers = record.options, record.layers
    file.chmod(0o644)
    return PlanEntry(
        file=name,
        backend=job.kind,
        version=job.version,
        target=job.target,
        gpu=job.gpu_name,
        cuda=job.cuda,
        frame_size=graph.frame_size,
        precision=precision,
        options=shown,
        seconds=seconds,
        layers=layers,
    )


def _one_a_file(graphs: Sequence[GraphEntry]) -> list[GraphEntry]:
    """The first entry of each file: a dynamic graph has one for every size it was verified at."""
    first: dict[str, GraphEntry] = {}
    for graph in graphs:
        first.setdefault(graph.onnx, graph)
    return list(first.values())


@contextmanager
def _user_cache(notes: list[str]) -> Iterator[PlanCache]:
    """The user's cache; one for this export alone, and a note, where there can be none."""
    try:
        cache = PlanCache()
    except E2EDeployError as error:
        notes.append(f"plans are not kept for later exports: {error}")
        with tempfile.TemporaryDirectory(prefix="e2e-deploy-") as folder:
            yield PlanCache(Path(folder) / "plans")
    else:
        yield cache


def build_plans(
    folder: Path,
    manifest: Manifest,
    *,
    engine: EngineChoice = "auto",
    targets: Sequence[str] = (),
    level: int = DEFAULT_LEVEL,
    workspace_bytes: int | None = None,
    checkpoint: Checkpoint | None = None,
    cache: PlanCache | None = None,
    progress: Progress | None = None,
    stages: Stages | None = None,
) -> Plans:
    """Plans for every graph of the bundle that is being written in ``folder``.

    Args:
        folder: holds the ONNX graphs already.
        manifest: of the bundle so far; graphs and precision are read.
        engine: which plans. With auto: TensorRT where a GPU and the library are, else TensorRT-RTX where it is
            installed and serves the GPU, else AOTInductor where a GPU is; NVIDIA's not for the precisions of
            NOT_BY_ITSELF unless there are targets; a graph that does not build is a note. A named plan that cannot be
            built is an error.
        targets: what TensorRT-RTX builds for; its portable plan if empty.
        level: the builder's optimisation level, 0 to 5.
        workspace_bytes: most memory a kernel may use; the library's default if None.
        checkpoint: what the bundle is exported from, for AOTInductor.
        cache: of plans built before; the user's if None.
        progress: called as a build goes on; what it raises ends the build.
        stages: says what is being done; silent if None.

    Raises:
        UsageError: a target that cannot be used.
        UnavailableError: a named plan whose library or GPU is not here.
        E2EDeployError: a named plan that cannot be built, or the disk is full.
        KeyboardInterrupt: Ctrl-C; the cache stays valid.
    """
    stages = stages or Stages(quiet=True)
    kind = manifest.graphs[0].kind
    jobs, notes = plan_jobs(engine, targets, manifest.precision, kind)
    done = Plans(notes=notes)
    if not jobs:
        return done
    if engine == "inductor":
        require_level(jobs, level)
    with nullcontext(cache) if cache else _user_cache(done.notes) as kept:
        for graph in _one_a_file(manifest.graphs):
            label = f"{graph.frame_hw[0]}x{graph.frame_hw[1]}"
            digest = graph_digest(folder, graph.onnx, lambda name: sha256_of(folder / name))
            for job in jobs:
                what = f"{job.title} plan {label} {job.target}"
                options = BuildOptions(
                    target=job.target if job.gpu is None else None,
                    level=level,
                    workspace_bytes=workspace_bytes,
                    shapes=open_shapes(graph),
                )
                if (
                    fitted := job.fitted(options)
                ) != options:  # with auto alone: named, it is refused
                    done.notes.append(
                        f"{what}: `level` and `workspace_bytes` are TensorRT's, not its"
                    )
                try:
                    with stages(f"build {what}") as say:
                        entry = build_plan(
                            folder,
                            graph,
                            job,
                            precision=manifest.precision,
                            digest=digest,
                            options=fitted,
                            cache=kept,
                            manifest=manifest,
                            checkpoint=checkpoint,
                            progress=progress or (lambda *at: say("{} {}/{}".format(*at))),
                        )
                except (BuildError, UnavailableError) as error:
                    if engine != "auto":
                        raise
                    done.notes.append(f"no {what}: {error}")
                    continue
                done.entries.append(entry)
                how = f"built in {entry.seconds:.1f} s" if entry.seconds else "taken from the cache"
                done.notes.append(f"{what}: {how}")
    return done
