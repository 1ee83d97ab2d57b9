"""Plans for a bundle that is being written: which ones, built or taken from the cache, with an entry each.

Knows bundles and the rules of ``engine``; the libraries are behind export/engines/tensorrt.py.
"""

import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from e2e_deploy.bundle.bundle import sha256_of
from e2e_deploy.bundle.manifest import GraphEntry, Manifest, PlanEntry
from e2e_deploy.bundle.plan_files import graph_digest, plan_name
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.export.engines.builder import Request, build_apart
from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.export.engines.tensorrt import DEFAULT_LEVEL, Bounds, BuildOptions, Progress
from e2e_deploy.export.onnx.lint import TARGETS, require_clean
from e2e_deploy.export.open_sides import MAX_SIDE_PX, MIN_STEPS
from e2e_deploy.names import EngineChoice, GraphKind, PlanKind, Precision
from e2e_deploy.nvidia.cuda_driver import CudaDriver, Gpu
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.nvidia.rtx_support import rtx_refusal
from e2e_deploy.nvidia.trt_api import PORTABLE, TITLES, TrtApi, find_api
from e2e_deploy.nvidia.trt_layers import summarise_layers
from e2e_deploy.nvidia.trt_messages import BuildError
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.tensorrt.loaded_plan import LoadedPlan
from e2e_deploy.system.cache_folder import cache_key, private_folder
from e2e_deploy.system.files import whole_file

NOT_BY_ITSELF = {
    "fp32": 'in fp32 TensorRT-RTX has no fused attention and a plan is twice as large: use `precision="fp16"`, '
    "or name the plan to have it all the same",
    "int8": "this int8 graph is made for ONNX Runtime on a CPU",
}
"""Precision: why ``auto`` builds no plan of it, unless a target was named."""

NO_CORE_BY_ITSELF = "the Engine takes frames, so a plan of a core graph is for programs of your own: name it to have it"
LEAST_OPSET = {"bf16": 22}
"""Precision: the first operator set whose convolutions take it."""


@dataclass(frozen=True)
class Job:
    """One plan to build for every graph: with which library, for what."""

    api: TrtApi
    target: str
    gpu: Gpu | None
    """The GPU at hand, for a library that builds only for it."""


@dataclass(frozen=True)
class Plans:
    """What build_plans did.

    Attributes:
        entries: for the manifest.
        notes: what was built, what not and why, a sentence each.
    """

    entries: list[PlanEntry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def current_gpu() -> Gpu | None:
    """The GPU at hand, None without one."""
    if not cuda_device_count():
        return None
    driver = CudaDriver()
    try:
        return driver.gpu
    finally:
        driver.close()


def job_for(library: PlanKind, gpu: Gpu) -> Job:
    """What to build so that ``library`` can run it on ``gpu``, the GPU at hand.

    Raises:
        UnavailableError: the library is not here, or does not serve this GPU.
    """
    if library == "tensorrt-rtx" and (refusal := rtx_refusal(gpu)):
        raise UnavailableError(refusal)
    api = find_api(library)
    if not api.builds_without_gpu:
        return Job(api, gpu.target, gpu)
    return Job(api, gpu.target if gpu.target in api.targets else PORTABLE, None)


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
        raise UnavailableError("packages of AOTInductor cannot be built yet")
    if engine == "auto" and not targets:
        if precision in NOT_BY_ITSELF:
            return [], [f"no plan: {NOT_BY_ITSELF[precision]}"]
        if kind == "core":
            return [], [f"no plan: {NO_CORE_BY_ITSELF}"]
    if engine == "tensorrt":
        return [_tensorrt_job()], []
    if engine == "tensorrt-rtx":
        refusal = "" if targets else _rtx_refusal_here()
        return _rtx_jobs(targets), [f"for other machines: {refusal}"] if refusal else []
    notes = []
    if not targets:
        try:
            return [_tensorrt_job()], []
        except UnavailableError as error:
            notes.append(f"no TensorRT plan: {error}")
        if refusal := _rtx_refusal_here():
            return [], [*notes, f"no TensorRT-RTX plan: {refusal}"]
    try:
        return _rtx_jobs(targets), notes
    except UnavailableError as error:
        return [], [*notes, f"no TensorRT-RTX plan: {error}"]


def _tensorrt_job() -> Job:
    gpu = current_gpu()
    if gpu is None:
        raise UnavailableError(
            "TensorRT builds only on a machine with an NVIDIA GPU, and none is here; "
            '`engine="tensorrt-rtx"` needs none'
        )
    return job_for("tensorrt", gpu)


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
    return [Job(api, target, None) for target in wanted]


def _lint_target(api: TrtApi) -> str:
    """The key of lint's TARGETS."""
    return "tensorrt-10" if api.name == "tensorrt" and api.version.startswith("10.") else api.name


def opset_for(precision: Precision, jobs: Sequence[Job]) -> int:
    """The ONNX operator set of graphs that plans are built of, or ONNX Runtime runs where there are none."""
    names = [_lint_target(job.api) for job in jobs] or ["onnxruntime"]
    return max(min(TARGETS[name].opset for name in names), LEAST_OPSET.get(precision, 0))


def _check(path: Path, api: TrtApi) -> None:
    """Before the parser, which lets float64 and operator sets from the future pass."""
    try:
        require_clean(ir.load(path), _lint_target(api))
    except E2EDeployError as error:
        raise BuildError(str(error)) from error


def _device(job: Job) -> str:
    """What the plan is for, as part of a file name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", f"{job.gpu.name} {job.target}") if job.gpu else job.target


def _timing_file(job: Job, cache: PlanCache) -> Path | None:
    """Where TensorRT's timings for this GPU are kept, beside the plans; TensorRT-RTX takes none."""
    if job.gpu is None:
        return None
    folder = private_folder(cache.folder.with_name("timing"))
    return folder / f"{job.api.name}-{job.api.version}-{_device(job)}.cache"


def _build(
    graph: Path,
    plan: Path,
    name: str,
    job: Job,
    options: BuildOptions,
    cache: PlanCache,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write the plan to ``plan``; gives what was decided on the way."""
    request = Request(graph=str(graph), plan=str(plan), name=name, options=options)
    timings = _timing_file(job, cache)
    if timings is None:
        return build_apart(job.api.name, request, progress)
    with whole_file(timings) as partial:
        request = replace(request, timings=str(timings), new_timings=str(partial))
        return build_apart(job.api.name, request, progress)


def _layers(job: Job, engine: Path) -> dict[str, int]:
    """Only on the GPU it is for can a plan be read."""
    if job.gpu is None:
        return {}
    loaded = LoadedPlan(job.api, engine.read_bytes(), engine.name, "export again")
    try:
        return summarise_layers(loaded.information())
    finally:
        loaded.close()


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
        progress: called as the build goes on.

    Raises:
        E2EDeployError: the graph is not fit for the library, the builder gave up, or the disk is full.
        KeyboardInterrupt: Ctrl-C.
    """
    name = plan_name(graph.frame_hw, precision, job.api.name, job.api.version, _device(job))
    shown = {"level": options.level, "workspace_bytes": options.workspace_bytes}
    facts = shown | {
        "graph": digest,
        "library": job.api.name,
        "version": job.api.version,
        "target": job.target,
        "gpu": job.gpu.name if job.gpu else "",
        "precision": precision,
        "shapes": options.shapes,
    }
    key = cache_key(facts)
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.parent.chmod(
        0o755
    )  # whatever the umask: a plan that others could have written is never loaded
    record = cache.fetch(key, file)
    seconds = 0.0
    if record is None:
        _check(folder / graph.onnx, job.api)
        start = time.perf_counter()
        with whole_file(file) as partial:
            decided = _build(folder / graph.onnx, partial, digest, job, options, cache, progress)
        seconds = max(0.1, round(time.perf_counter() - start, 1))
        layers = _layers(job, file)
        shown |= decided
        cache.store(key, file, options=shown, layers=layers)
    else:
        shown, layers = record.options, record.layers
    file.chmod(0o644)
    return PlanEntry(
        file=name,
        backend=job.api.name,
        version=job.api.version,
        target=job.target,
        gpu=job.gpu.name if job.gpu else "",
        cuda=job.api.cuda_major,
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
    cache: PlanCache | None = None,
    progress: Progress | None = None,
    stages: Stages | None = None,
) -> Plans:
    """Plans for every graph of the bundle that is being written in ``folder``.

    Args:
        folder: holds the ONNX graphs already.
        manifest: of the bundle so far; graphs and precision are read.
        engine: which plans. With auto: TensorRT where a GPU and the library are, else TensorRT-RTX where it is
            installed; none for the precisions of NOT_BY_ITSELF unless there are targets; a graph that does not
            build is a note. A named plan that cannot be built is an error.
        targets: what TensorRT-RTX builds for; its portable plan if empty.
        level: the builder's optimisation level, 0 to 5.
        workspace_bytes: most memory a kernel may use; the library's default if None.
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
    with nullcontext(cache) if cache else _user_cache(done.notes) as kept:
        for graph in _one_a_file(manifest.graphs):
            label = f"{graph.frame_hw[0]}x{graph.frame_hw[1]}"
            digest = graph_digest(folder, graph.onnx, lambda name: sha256_of(folder / name))
            for job in jobs:
                what = f"{TITLES[job.api.name]} plan {label} {job.target}"
                options = BuildOptions(
                    target=job.target if job.gpu is None else None,
                    level=level,
                    workspace_bytes=workspace_bytes,
                    shapes=open_shapes(graph),
                )
                try:
                    with stages(f"build {what}") as say:
                        entry = build_plan(
                            folder,
                            graph,
                            job,
                            precision=manifest.precision,
                            digest=digest,
                            options=options,
                            cache=kept,
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
