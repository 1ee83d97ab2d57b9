"""``--rebuild`` of run, bench and verify: plans that do not fit this machine are built again before the work."""

from typing import TYPE_CHECKING

import click

from e2e_deploy.errors import PlanDamagedError, PlanMismatchError
from e2e_deploy.packages import require

if TYPE_CHECKING:
    from e2e_deploy.bundle.bundle import Bundle

option = click.option(
    "--rebuild",
    "rebuild_first",
    is_flag=True,
    help="Build a plan again that does not fit this GPU or library; it is kept in the bundle.",
)


def rebuild_plans(bundle: "Bundle", backend: str) -> "Bundle":
    """The bundle with plans that fit this machine.

    Args:
        bundle: an opened bundle.
        backend: tensorrt or tensorrt-rtx; with auto those the bundle has plans of.

    Raises:
        UnavailableError: a named backend's library or GPU is not here.
        UsageError: a backend that has no plans.
        E2EDeployError: a graph does not build, or the bundle cannot be written.
    """
    from e2e_deploy.errors import UnavailableError, UsageError
    from e2e_deploy.nvidia.trt_api import LIBRARIES
    from e2e_deploy.progress import Stages
    from e2e_deploy.runtime.backends.tensorrt.backend import inspect_plan

    if backend != "auto" and backend not in LIBRARIES:
        raise UsageError(f"--rebuild is for {' and '.join(LIBRARIES)}; {backend} has no plans")
    held = {entry.backend for entry in bundle.manifest.plans}
    for library in LIBRARIES:
        if backend not in ("auto", library) or (backend == "auto" and library not in held):
            continue
        for graph in bundle.manifest.graphs:
            try:
                inspect_plan(bundle, graph, library)
            except (PlanMismatchError, PlanDamagedError) as reason:
                require("onnx_ir", "export")
                from e2e_deploy.export.engines.rebuild import rebuild_plan

                click.echo(f"note: {reason}", err=True)
                bundle = rebuild_plan(bundle, graph, library, stages=Stages())
            except UnavailableError as error:
                if backend != "auto":
                    raise
                click.echo(f"{library}: not rebuilt: {error}", err=True)
                break
    return bundle
