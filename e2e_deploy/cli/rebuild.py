"""``--rebuild`` of run, bench and verify: plans that do not fit this machine are built again before the work."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2e_deploy.cli.wording import with_options
from e2e_deploy.names import BackendChoice

if TYPE_CHECKING:
    from e2e_deploy.bundle.bundle import Bundle

option = click.option(
    "--rebuild",
    "rebuild_first",
    is_flag=True,
    help="Build a plan again that does not fit this device or library; it is kept in the bundle.",
)


def rebuild_plans(
    bundle: "str | Path | Bundle", backend: BackendChoice, checkpoint: str | None = None
) -> "Bundle":
    """The bundle with plans that fit this machine, and with its checkpoint if that is named; says what is built."""
    from e2e_deploy.bundle.bundle import open_bundle
    from e2e_deploy.export.engines import rebuild
    from e2e_deploy.progress import Stages

    def say(note: str) -> None:
        click.echo(f"note: {with_options(note)}", err=True)

    opened = open_bundle(bundle)
    if checkpoint is not None:
        opened = replace(opened, checkpoint=checkpoint)
    return rebuild.rebuild_plans(opened, backend, stages=Stages(), on_note=say)


def left_for(backend: BackendChoice, checkpoint: str | None, *, rebuilt: bool) -> str | None:
    """The checkpoint for what follows: AOTInductor's package, once it is compiled of it, needs none."""
    return None if rebuilt and backend == "inductor" else checkpoint
