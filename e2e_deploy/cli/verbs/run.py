"""``e2e-deploy run``: a source through a bundle."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2e_deploy.cli import INTERRUPTED, options, rebuild
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.runtime.steps.intrinsics import Intrinsics
    from e2e_deploy.runtime.steps.step import Step

YEAR_S = 365 * 86400.0


@click.command("run")
@click.argument("source")
@click.option(
    "--bundle",
    default=None,
    help="The bundle's folder.  [default: the packaged e2e-tiny depth, to try things with]",
)
@options.backend
@options.device
@options.checkpoint
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=options.PATH,
    help="A folder for pictures, one picture's .png, .npy, .npz, .exr or .ply, an .mp4 in colour, or an .mkv of "
    "16-bit depth; repeat for several.  "
    "[default: ./depth-out or ./normals-out, unless --show]",
)
@click.option(
    "--save",
    "formats",
    multiple=True,
    type=click.Choice(["png16", "npy", "npz", "exr", "ply", "color"]),
    help="What to write into a folder; repeat for several. ply needs metric depth.  [default: png16 and color]",
)
@click.option("--side-by-side", is_flag=True, help="In an mp4: the frame beside its result.")
@click.option(
    "--colormap",
    default="spectral",
    show_default=True,
    help="spectral, inferno or turbo; near is warm.",
)
@click.option(
    "--steady/--no-steady",
    default=False,
    show_default=True,
    help="Depth of a video: keep its scale and shift steady from frame to frame.",
)
@click.option(
    "--metric-points",
    type=options.PATH,
    default=None,
    help="Depth in metres: a .npy or text file of column, row, metres for points of the frame.",
)
@click.option(
    "--camera-height",
    type=options.Number(0.001, 10_000.0),
    default=None,
    help="Depth in metres: height of the camera above flat ground; needs --intrinsics.",
)
@click.option(
    "--camera-pitch",
    type=options.Number(-80.0, 80.0),
    default=0.0,
    show_default=True,
    help="With --camera-height: degrees by which the camera looks down.",
)
@click.option("--intrinsics", default=None, help="fx,fy,cx,cy of the frames in pixels.")
@click.option("--show", is_flag=True, help="Show frame and result in a window; q or Escape ends.")
@click.option(
    "--view",
    type=click.IntRange(0, 65535),
    default=None,
    metavar="PORT",
    help="Show it in a browser at http://127.0.0.1:PORT; 0 takes a free port.",
)
@click.option("--limit", type=options.COUNT, default=None, help="Stop after this many frames.")
@click.option(
    "--parity-every",
    type=options.COUNT,
    default=None,
    help="Compare each Nth frame with PyTorch, and the stored frames at the start.",
)
@click.option(
    "--parity",
    type=click.Choice(["warn", "strict"]),
    default="warn",
    show_default=True,
    help="Outside the limit: say so, or stop with exit code 3.",
)
@click.option(
    "--timeout",
    type=options.SECONDS,
    default=5.0,
    show_default=True,
    help="Seconds of silence after which a stream counts as lost.",
)
@click.option(
    "--reconnect",
    type=options.Number(0.0, YEAR_S),
    default=60.0,
    show_default=True,
    help="Seconds for which a lost stream or camera is opened again.",
)
@click.option(
    "--decode",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Where a video file is decoded; gpu needs PyNvVideoCodec, a tensorrt backend and frames of the engine's size.",
)
@rebuild.option
@options.as_json
def command(
    source: str,
    bundle: str | None,
    backend: str,
    device: str,
    checkpoint: str | None,
    outs: tuple[Path, ...],
    formats: tuple[str, ...],
    side_by_side: bool,
    colormap: str,
    steady: bool,
    metric_points: Path | None,
    camera_height: float | None,
    camera_pitch: float,
    intrinsics: str | None,
    show: bool,
    view: int | None,
    limit: int | None,
    parity_every: int | None,
    parity: str,
    timeout: float,
    reconnect: float,
    decode: str,
    rebuild_first: bool,
    as_json: bool,
) -> int:
    """Run SOURCE through a bundle.

    SOURCE is a picture, a folder of pictures, a sequence like frames/%06d.png, a video file (film.mkv?stream=1 for
    another than its best video stream), camera:0 (with ?size=480x640&fps=30&format=MJPG), rtsp://, or MPEG-TS over
    udp://, tcp:// or srt://, or test: for a moving pattern.
    """
    from e2e_deploy.assets import READY_BUNDLE
    from e2e_deploy.bundle.bundle import open_bundle
    from e2e_deploy.cli.outputs import Outputs
    from e2e_deploy.cli.status import StatusLine, parity_json, print_parity, print_summary
    from e2e_deploy.cli.status import as_json as report_json
    from e2e_deploy.colormap import lookup_table
    from e2e_deploy.errors import SourceError, UsageError
    from e2e_deploy.runtime.checks.parity_watch import ParityWatch
    from e2e_deploy.runtime.run import RunReport, run_source
    from e2e_deploy.runtime.sinks.viewer import ViewerSink
    from e2e_deploy.runtime.sources.picture_source import PictureSource
    from e2e_deploy.runtime.sources.uris import open_source
    from e2e_deploy.runtime.steps.intrinsics import Intrinsics
    from e2e_deploy.runtime.steps.step import steady as steady_step

    lookup_table(colormap)  # an unknown name is said before anything is opened
    outputs = Outputs(outs, formats, side_by_side, colormap, show, view)
    camera = None if intrinsics is None else Intrinsics.parse(intrinsics)
    to_metres = _metric_step(metric_points, camera_height, camera_pitch, camera)
    if (outputs.has_points or "ply" in formats) and (camera is None or to_metres is None):
        raise UsageError(
            "a point cloud (ply) needs --intrinsics, and --metric-points or --camera-height for metric depth"
        )
    if bundle is None:
        if rebuild_first:
            raise UsageError(
                "--rebuild writes plans into a bundle, and none is named: add --bundle"
            )
        click.echo(
            "bundle: the packaged e2e-tiny depth, small and made for trying; --bundle names another",
            err=True,
        )
    opened = open_bundle(bundle or READY_BUNDLE)
    if rebuild_first:
        opened = rebuild.rebuild_plans(opened, backend)
    has_use = backend == "torch" or parity_every is not None
    opened = options.with_checkpoint(opened, checkpoint, has_use=has_use)
    manifest = opened.manifest
    if steady and manifest.task != "depth":
        raise UsageError("--steady is for depth; normals have no scale and shift that could change")
    if to_metres is not None and manifest.task != "depth":
        raise UsageError("--metric-points and --camera-height are for depth, not for normals")
    frames = open_source(source, timeout_s=timeout, reconnect_s=reconnect, decode=decode)
    if steady and not frames.is_video:
        raise UsageError("--steady is for videos and cameras; pictures have no order in time")
    steps: list[Step] = [steady_step()] if steady else []
    steps += [to_metres] if to_metres is not None else []
    watch = None
    if parity_every is not None:
        worst = Path(f"{manifest.task}-parity-worst.npz")
        watch = ParityWatch(parity_every, strict=parity == "strict", save_to=worst)
    words = watch.words if watch else lambda: ""
    line = StatusLine(frames, limit or frames.total, words)
    inputs = [opened.root / name for name in manifest.files]
    inputs += [metric_points] if metric_points is not None else []
    sinks = outputs.open(manifest, frames, camera, words, inputs)
    viewers = [sink for sink in sinks if isinstance(sink, ViewerSink)]

    reports: list[RunReport] = []  # one, as soon as there is a result
    failure: SourceError | None = None

    def on_frame(report: RunReport) -> None:
        reports[:] = [report]
        line(report)
        for viewer in viewers:
            viewer.look(report)

    for viewer in viewers:
        click.echo(f"view: {viewer.url}", err=True)
    try:
        reports[:] = [
            run_source(
                opened,
                frames,
                sinks,
                backend=backend,
                device=device,
                steps=steps,
                watch=watch,
                limit=limit,
                on_frame=on_frame,
            )
        ]
    except SourceError as error:
        if not reports:
            raise
        failure = error  # what came before a source was lost is kept, and said
    finally:
        line.end()
    (report,) = reports
    print_summary(report, frames)
    compared = watch.finish() if watch else None
    print_parity(compared)
    if manifest.checkpoint.note:
        click.echo(f"note: {manifest.checkpoint.note}", err=True)
    if as_json:
        told = report_json(report, frames) | parity_json(compared)
        click.echo(to_json(told, indent=2))
    else:
        for file in report.files:
            click.echo(str(file))
    failures = [sink for sink in report.sinks if sink.failure]
    for sink in failures:
        click.echo(f"error: {sink.name} stopped early: {sink.failure}", err=True)
    left_out = isinstance(frames, PictureSource) and frames.skipped > 0
    if failure is not None:
        raise failure
    if unknown := 0 < report.frames == report.unknown_results:
        click.echo("error: no result holds a number", err=True)
    incomplete = bool(failures) or left_out or unknown or bool(compared and compared.not_saved)
    return INTERRUPTED if report.interrupted else incomplete


def _metric_step(
    points: Path | None, height: float | None, pitch: float, camera: "Intrinsics | None"
) -> "Step | None":
    """The step to metres that the options ask for, if any."""
    from e2e_deploy.errors import UsageError
    from e2e_deploy.runtime.steps.metric import MIN_PLANE_INLIERS, metric, plane_points, read_points

    if points is not None and height is not None:
        raise UsageError("--metric-points and --camera-height are two ways to metres; give one")
    if points is not None:
        known = read_points(points)
        return metric(lambda hw: known)
    if height is None:
        return None
    if camera is None:
        raise UsageError("--camera-height needs --intrinsics fx,fy,cx,cy")
    down = math.radians(pitch)
    ground = (0.0, math.cos(down), math.sin(down))
    return metric(
        lambda hw: plane_points(hw, camera, height, ground), min_inliers=MIN_PLANE_INLIERS
    )
