"""``rebuild_plans``: the plans of a finished bundle that do not fit this machine, built again for it."""

from collections.abc import Callable
from pathlib import Path

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import PlanDamagedError, PlanMismatchError, UnavailableError, UsageError
from e2e_deploy.names import PLAN_KINDS, BackendChoice, PlanKind
from e2e_deploy.packages import require
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.tensorrt.backend import inspect_plan


def rebuild_plans(
    bundle: str | Path | Bundle,
    backend: BackendChoice = "auto",
    *,
    stages: Stages | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Bundle:
    """The bundle with plans that fit this GPU and the libraries here; those that fit already stay.

    Needs the library and its GPU, no torch and no checkpoint. What is built is kept in the bundle's folder and in the
    user's cache; plans for other GPUs stay, and a rebuild that is killed leaves the bundle as it was.

    Args:
        bundle: its folder, or an opened Bundle.
        backend: tensorrt or tensorrt-rtx, also for a bundle that has no such plan yet; with auto those of which the
            bundle has plans, as far as they can be built here.
        stages: says what is being done; silent if None.
        on_note: gets a sentence on each plan that is built, and why, or cannot be built here.

    Raises:
        UsageError: a backend that has no plans; auto, and the bundle holds none; a core graph, or one in int8.
        UnavailableError: a named backend's library or GPU is not here.
        E2EDeployError: a graph does not build, or the bundle cannot be written.
    """
    opened = open_bundle(bundle)
    for kind in _kinds(opened, backend):
        for graph in opened.manifest.graphs:
            try:
                reason = _misfit(opened, graph, kind)
            except UnavailableError as error:
                if backend != "auto":
                    raise
                on_note(f"{kind}: not rebuilt: {error}")
                break
            if reason:
                require("onnx_ir", "export")
                from e2e_deploy.export.engines.replace_plan import replace_plan

                on_note(reason)
                opened = replace_plan(opened, graph, kind, stages=stages)
    return opened


def _misfit(bundle: Bundle, graph: GraphEntry, kind: PlanKind) -> str:
    """Why the graph's plan does not fit this machine; empty when it does."""
    if kind == "inductor":
        raise UnavailableError("packages of AOTInductor cannot be built yet")
    try:
        inspect_plan(bundle, graph, kind)
    except (PlanMismatchError, PlanDamagedError) as reason:
        return str(reason)
    return ""


def _kinds(bundle: Bundle, backend: BackendChoice) -> list[PlanKind]:
    """Which kinds of plans are looked at."""
    if backend == "auto":
        held = {entry.backend for entry in bundle.manifest.plans}
        if not held:
            raise UsageError(
                f"{bundle.root} holds no plan that could be built again; name a `backend` to build its first"
            )
        return [kind for kind in PLAN_KINDS if kind in held]
    if found := [kind for kind in PLAN_KINDS if kind == backend]:
        return found
    raise UsageError(f"plans are of {' and '.join(PLAN_KINDS)}; {backend} has none to rebuild")
