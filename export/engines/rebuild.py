"""``rebuild_plans``: the plans of a finished bundle that do not fit this machine, built again for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import (
    CheckpointError,
    PlanDamagedError,
    PlanMismatchError,
    UnavailableError,
    UsageError,
)
from e2e_deploy.names import PLAN_KINDS, BackendChoice, PlanKind
from e2e_deploy.packages import require
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.inductor.backend import inspect_package
from e2e_deploy.runtime.backends.tensorrt.backend import inspect_plan


def rebuild_plans(
    bundle: str | Path | Bundle,
    backend: BackendChoice = "auto",
    *,
    checkpoint: str | Path | None = None,
    stages: Stages | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Bundle:
    """The bundle with plans that fit this device and the libraries here; those that fit already stay.

    NVIDIA's need their library and GPU, no torch and no checkpoint; AOTInductor's are compiled of the checkpoint. What
    is built is kept in the bundle's folder and in the user's cache; plans for other devices stay, and a rebuild that
    is killed leaves the bundle as it was.

    Args:
        bundle: its folder, or an opened Bundle.
        backend: tensorrt, tensorrt-rtx or inductor, also for a bundle that has no such plan yet; with auto those of
            which the bundle has plans, as far as they can be built here.
        checkpoint: what the bundle was exported from, for AOTInductor; None: what the manifest names, if that is a
            folder here.
        stages: says what is being done; silent if None.
        on_note: gets a sentence on each plan that is built, and why, or cannot be built here.

    Raises:
        UsageError: a backend that has no plans; auto, and the bundle holds none; a core graph, or one in int8; a
            checkpoint for plans that are not made of it.
        CheckpointError: the checkpoint is not here, or is another one.
        UnavailableError: a named backend's library or GPU is not here.
        E2EDeployError: a graph does not build, or the bundle cannot be written.
    """
    opened = open_bundle(bundle)
    kinds = _kinds(opened, backend)
    if checkpoint is not None:
        if "inductor" not in kinds:
            raise UsageError(
                f"`checkpoint` is what AOTInductor compiles, and plans of {' and '.join(kinds)} are built of the "
                "bundle's own graphs"
            )
        opened = replace(opened, checkpoint=str(checkpoint))
    for kind in kinds:
        for graph in opened.manifest.graphs:
            try:
                reason = _misfit(opened, graph, kind)
                if reason:
                    require("onnx_ir", "rebuild")
                    from e2e_deploy.export.engines.replace_plan import replace_plan

                    on_note(reason)
                    opened = replace_plan(opened, graph, kind, stages=stages)
            except (UnavailableError, CheckpointError) as error:
                if backend != "auto":
                    raise
                on_note(f"{kind}: not rebuilt: {error}")
                break
    return opened


def _misfit(bundle: Bundle, graph: GraphEntry, kind: PlanKind) -> str:
    """Why the graph's plan does not fit this machine; empty when it does."""
    try:
        if kind == "inductor":
            inspect_package(bundle, graph)
        else:
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
