"""``e2e-deploy export``: from a checkpoint to a verified bundle."""

import os
from pathlib import Path

import click

from e2e_deploy.cli import options
from e2e_deploy.names import (
    ENGINE_CHOICES,
    GRAPH_KINDS,
    PRECISIONS,
    EngineChoice,
    GraphKind,
    Precision,
)


def default_out(checkpoint_id: str, precision: str) -> Path:
    """The bundle's folder where none is named: in the current folder, after the checkpoint's folder or hub id."""
    is_folder = Path(checkpoint_id).is_dir()
    name = checkpoint_id if is_folder else checkpoint_id.partition("@")[0].removeprefix("bundled:")
    return Path(f"{os.path.basename(os.path.abspath(name))}-{precision}")


@click.command("export")
@click.argument("checkpoint", required=False)
@click.option(
    "--out",
    type=options.PATH,
    default=None,
    help="Folder of the bundle.  [default: <checkpoint>-<precision>]",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="int8: for CPUs; refused when its accuracy is outside the limits of fp16.",
)
@click.option(
    "--accept-accuracy",
    is_flag=True,
    help="Write an int8 bundle all the same; every output says that it is outside its limit.",
)
@click.option(
    "--frame-size",
    "frame_sizes",
    type=options.frame_size,
    metavar="HxW",
    multiple=True,
    help="Frames the graph takes, height x width; repeat for several in one bundle.  [default: 480x640]",
)
@click.option(
    "--resolution",
    type=options.RESOLUTION,
    default=None,
    help="Longest edge the network sees; 0 keeps the frame's own size.  [default: the checkpoint's]",
)
@click.option(
    "--pad",
    type=click.IntRange(8, 512),
    default=None,
    metavar="PX",
    help="Pad the sides the network sees to multiples of this, for example 64, at which SD2's levels double exactly.  "
    "[default: as the checkpoint's own pipeline: to multiples of 8, or not at all for E2E-FT]",
)
@click.option(
    "--graph",
    type=click.Choice(GRAPH_KINDS),
    default="frame",
    show_default=True,
    help="core leaves out the frame steps: rgb in [-1, 1] at the processing size in, result at that size out.",
)
@click.option(
    "--dynamic",
    is_flag=True,
    help="Core graphs only: height and width stay open, multiples of 64 from 128 to 2048.",
)
@click.option(
    "--no-specialize",
    is_flag=True,
    help="Keep what is constant in the graph (for comparison).",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINE_CHOICES),
    default="auto",
    show_default=True,
    help="Engines beside the ONNX graph. auto: for half precision TensorRT where it and a GPU are, else TensorRT-RTX "
    "where it is installed (no GPU needed); onnx: none. A named one that cannot be built is an error.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="GPUs to build TensorRT-RTX plans for: sm75 sm80 sm86 sm89 sm120 sm121; repeat or separate by commas.",
)
@click.option(
    "--opt-level",
    type=click.IntRange(0, 5),
    default=3,
    show_default=True,
    help="How long TensorRT searches for a faster plan; 0 builds quickest.",
)
@click.option(
    "--workspace",
    "workspace_mib",
    metavar="MIB",
    type=click.IntRange(1, 2**20),
    default=None,
    help="Most GPU memory that a kernel of the plan may use besides its tensors.  [default: the library's]",
)
@options.task
@options.family
def command(
    checkpoint: str | None,
    out: Path | None,
    precision: Precision,
    accept_accuracy: bool,
    frame_sizes: tuple[tuple[int, int], ...],
    resolution: int | None,
    pad: int | None,
    graph: GraphKind,
    dynamic: bool,
    no_specialize: bool,
    engine: EngineChoice,
    targets: tuple[str, ...],
    opt_level: int,
    workspace_mib: int | None,
    task: str | None,
    family: str | None,
) -> None:
    """Turn CHECKPOINT into a bundle: one graph from frame to result, verified before it is there.

    CHECKPOINT is a diffusers folder or a hub id pinned to a commit, owner/name@<commit>; without it the bundled
    e2e-tiny is exported.
    """
    from e2e_deploy.export.open_sides import check_sizes
    from e2e_deploy.model.checkpoint import open_checkpoint
    from e2e_deploy.packages import require
    from e2e_deploy.progress import Stages

    bundled, wanted = None, task or "depth"
    # What is wrong with sizes or a checkpoint is said before torch is loaded, which takes seconds.
    check_sizes(list(frame_sizes), kind=graph, dynamic=dynamic)
    if checkpoint is not None:
        opened = open_checkpoint(checkpoint, family=family, task=task)
    require("torch", "export")
    from e2e_deploy.export.engines.build import plan_jobs
    from e2e_deploy.export.exporter import export_bundle
    from e2e_deploy.model.tiny import bundled_checkpoint, bundled_id

    split_targets = [name for text in targets for name in text.split(",") if name]
    plan_jobs(engine, split_targets)  # a named plan that cannot be built is said before the work
    if checkpoint is None:
        bundled = bundled_id(wanted)
        opened = open_checkpoint(bundled_checkpoint(wanted), family=family, task=task)
    click.echo(
        opened.describe() if bundled is None else f"{bundled}: {opened.identity.family.title}",
        err=True,
    )
    if opened.note:
        click.echo(f"note: {opened.note}", err=True)
    target = out or default_out(bundled or opened.id, precision)
    bundle = export_bundle(
        opened,
        target,
        checkpoint_id=bundled,
        frame_sizes=list(frame_sizes) or None,
        resolution=resolution,
        pad=pad or 0,
        precision=precision,
        specialised=not no_specialize,
        graph=graph,
        dynamic=dynamic,
        accept_accuracy=accept_accuracy,
        engine=engine,
        targets=split_targets,
        level=opt_level,
        workspace_bytes=None if workspace_mib is None else workspace_mib << 20,
        on_note=lambda note: click.echo(f"note: {note}", err=True),
        stages=Stages(),
    )
    for entry in bundle.manifest.verification:
        height, width = entry.frame_size
        click.echo(
            f"verified {height}x{width}: {entry.backend} {entry.precision}, "
            f"relative error {entry.parity['relative']:.1e}"
            f"{'' if entry.passed else ', OUTSIDE ITS LIMIT'}",
            err=True,
        )
    click.echo(str(bundle.root))
