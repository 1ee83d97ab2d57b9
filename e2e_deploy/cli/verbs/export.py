"""``e2e-deploy export``: from a checkpoint to a verified bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from e2e_deploy.cli import options
from e2e_deploy.cli.wording import with_options
from e2e_deploy.names import (
    DOMAINS,
    ENGINE_CHOICES,
    GRAPH_KINDS,
    PRECISIONS,
    STRETCHES,
    VAE_PARTS,
    Domain,
    EngineChoice,
    FamilyName,
    GraphKind,
    Precision,
    Stretch,
    TaskName,
    VaePart,
)
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.bundle.bundle import Bundle
    from e2e_deploy.bundle.manifest import VaeEntry
    from e2e_deploy.model.checkpoint import Checkpoint

COSTS = (
    ("AbsRel", "abs_rel"),
    ("mean angle in degrees", "mean_angle_deg"),
    ("mean difference", "mean_abs"),
    ("relative error", "relative"),
)
"""What is said of a cost: the first that the kind of result has."""
COMMANDLINE = ParameterSource.COMMANDLINE


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
    "--batch",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="Pictures that the graph takes at once.",
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
    "where it is installed and serves the GPU (none needed), else AOTInductor where a GPU is; inductor: for the GPU, "
    "without one for the CPU; onnx: none. A named one that cannot be built is an error.",
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
    help="How long TensorRT searches for a faster plan; 0 builds quickest. AOTInductor: 3, or on a GPU 5, which tries "
    "every kernel.",
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
@click.option(
    "--domain",
    type=click.Choice(DOMAINS),
    default=None,
    help="What pictures show, of GeoWizard; object: one thing alone, without a background.  [default: indoor]",
)
@click.option(
    "--stretch",
    type=click.Choice(STRETCHES),
    default=None,
    help="Of GenPercept's DPT head: values as they were trained, or each frame stretched to 0 to 1, which flickers.  "
    "[default: none]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=None,
    metavar="N",
    help="Of StableNormal-turbo's noise, which is fixed in the graph.  [default: 0]",
)
@click.option(
    "--vae",
    default=None,
    metavar="VAE",
    help="A VAE in the place of the checkpoint's own, which is most of its work: a folder with a small one (diffusers' "
    "AutoencoderTiny, such as TAESD), a folder with one in vae/, or owner/name@<commit>. What it costs is measured.",
)
@click.option(
    "--vae-part",
    type=click.Choice(VAE_PARTS),
    default=None,
    help="The half that --vae takes the place of.  [default: both]",
)
@click.option(
    "--triton",
    type=options.PATH,
    default=None,
    metavar="DIR",
    help="Also write the bundle into a model repository of NVIDIA's Triton Inference Server; with a bundle in the "
    "place of CHECKPOINT only that.",
)
def command(
    checkpoint: str | None,
    out: Path | None,
    precision: Precision,
    accept_accuracy: bool,
    frame_sizes: tuple[tuple[int, int], ...],
    resolution: int | None,
    pad: int | None,
    batch: int,
    graph: GraphKind,
    dynamic: bool,
    no_specialize: bool,
    engine: EngineChoice,
    targets: tuple[str, ...],
    opt_level: int,
    workspace_mib: int | None,
    task: TaskName | None,
    family: FamilyName | None,
    domain: Domain | None,
    stretch: Stretch | None,
    seed: int | None,
    vae: str | None,
    vae_part: VaePart | None,
    triton: Path | None,
) -> None:
    """Turn CHECKPOINT into a bundle: one graph from frame to result, verified before it is there.

    CHECKPOINT is a diffusers folder or a hub id pinned to a commit, owner/name@<commit>; without it the bundled
    e2e-tiny is exported.
    """
    from e2e_deploy.bundle.bundle import is_bundle

    if triton is not None and checkpoint is not None and is_bundle(checkpoint):
        _refuse_others("triton")
        _write_triton(checkpoint, triton)
        return
    from e2e_deploy.export.exporter import export_bundle
    from e2e_deploy.progress import Stages

    bundle = export_bundle(
        checkpoint,
        out,
        task=task,
        family=family,
        domain=domain,
        stretch=stretch,
        seed=seed,
        vae=vae,
        vae_part=vae_part,
        precision=precision,
        frame_sizes=frame_sizes,
        resolution=resolution,
        pad=pad or 0,
        batch=batch,
        graph=graph,
        dynamic=dynamic,
        specialised=not no_specialize,
        accept_accuracy=accept_accuracy,
        engine=engine,
        targets=[name for text in targets for name in text.split(",") if name],
        level=opt_level,
        workspace_bytes=None if workspace_mib is None else workspace_mib << 20,
        on_open=_say_checkpoint,
        on_note=_say_note,
        stages=Stages(),
    )
    several = len(bundle.manifest.outputs) > 1
    for entry in bundle.manifest.verification:
        height, width = entry.frame_size
        of = f"{entry.output}, " if several else ""
        click.echo(
            f"verified {height}x{width}: {of}{entry.backend} {entry.precision}, "
            f"relative error {entry.parity['relative']:.1e}"
            f"{'' if entry.passed else ', OUTSIDE ITS LIMIT'}",
            err=True,
        )
    if bundle.manifest.vae is not None:
        _say_costs(bundle.manifest.vae)
    click.echo(str(bundle.root))
    if triton is not None:
        _write_triton(bundle, triton)


def _say_costs(vae: "VaeEntry") -> None:
    for cost in vae.costs:
        height, width = cost.frame_size
        said = "the results hold NaN or infinity"
        if cost.parity["finite"]:
            words, key = next(pair for pair in COSTS if cost.parity[pair[1]] is not None)
            said = f"{words} {cost.parity[key]:.3g} from what the checkpoint's own VAE gives"
        click.echo(f"cost of {clean(vae.id)} {height}x{width}: {cost.output}, {said}", err=True)


def _refuse_others(taken: str) -> None:
    """Wrong usage where an option is given that an existing bundle gives no effect."""
    context = click.get_current_context()
    for param in context.command.params:
        given = context.get_parameter_source(param.name or "")
        if isinstance(param, click.Option) and param.name != taken and given is COMMANDLINE:
            raise click.UsageError(f"{param.opts[0]} is for checkpoints, and a bundle is given")


def _write_triton(bundle: "str | Bundle", folder: Path) -> None:
    from e2e_deploy.export.triton.repository import export_triton

    for model in export_triton(bundle, folder, on_note=_say_note):
        click.echo(str(model.folder))


def _say_checkpoint(opened: "Checkpoint") -> None:
    click.echo(opened.describe(), err=True)
    if opened.note:
        click.echo(f"note: {opened.note}", err=True)


def _say_note(note: str) -> None:
    click.echo(f"note: {with_options(note)}", err=True)
