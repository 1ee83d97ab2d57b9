"""``e2e-deploy run``: a source through a bundle."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from e2e_deploy.cli import INTERRUPTED, options, rebuild
from e2e_deploy.names import AXES, COLORMAPS, DECODERS, PARITY_MODES, PICTURE_FORMATS, BackendChoice
from e2e_deploy.system.json_files import to_json

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
    multiple=True,
    help="A folder for pictures, one picture's .png, .npy, .npz, .exr or .ply, an .mp4 in colour, an .mkv of "
    "16-bit depth, a robot's log .mcap or .db3, lerobot:FOLDER for a copy of a LeRobot data set with metric depth, or "
    "a live video at rtsp://, udp://, tcp:// (with ?listen served here) or /dev/videoN, or live to foxglove:PORT, "
    "rerun:PORT (or a recording .rrd) or zenoh:; repeat for several. Of several results each has a file, with its "
    "name at the end of the path's.  "
    "[default: ./depth-out, ./normals-out or what else the bundle does, unless --show]",
)
@click.option(
    "--save",
    "formats",
    multiple=True,
    type=click.Choice(PICTURE_FORMATS),
    help="What to write into a folder; repeat for several. ply needs metric depth.  [default: png16 and color]",
)
@click.option(
    "--side-by-side", is_flag=True, help="In an mp4 or a live video: the frame beside its result."
)
@click.option(
    "--colormap",
    type=click.Choice(COLORMAPS),
    default=None,
    help="Of depth and disparity; near is warm.  [default: spectral]",
)
@click.option(
    "--axes",
    type=click.Choice(AXES),
    default=None,
    help="Of normals. camera: x right, y up, z toward the viewer; optical: x right, y down, z forward.  "
    "[default: camera]",
)
@click.option(
    "--steady/--no-steady",
    default=False,
    show_default=True,
    help="Depth or disparity of a video: keep its scale and shift steady from frame to frame.",
)
@click.option(
    "--metric-points",
    type=options.PATH,
    default=None,
    help="Depth in metres, also of disparity: a .npy or text file of column, row, metres for points of the frame.",
)
@click.option(
    "--camera-height",
    "camera_height_m",
    type=options.Number(0.001, 10_000.0),
    default=None,
    help="Depth in metres: height of the camera above flat ground; needs --intrinsics, or a log that knows its camera.",
)
@click.option(
    "--camera-pitch",
    "camera_pitch_deg",
    type=options.Number(-80.0, 80.0),
    default=None,
    help="With --camera-height: degrees by which the camera looks down.  [default: 0]",
)
@click.option(
    "--intrinsics",
    default=None,
    help="fx,fy,cx,cy of the frames in pixels, for --camera-height, ply, robots' logs and live views.  "
    "[default: what a log or data set says]",
)
@click.option("--show", is_flag=True, help="Show frame and result in a window; q or Escape ends.")
@click.option(
    "--view",
    type=click.IntRange(0, 65535),
    default=None,
    metavar="PORT",
    help="Show it in a browser at http://127.0.0.1:PORT; 0 takes a free port.",
)
@click.option(
    "--topic",
    default=None,
    help="Of a robot's log or data set: which of its pictures.  [default: the only one]",
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
    type=click.Choice(PARITY_MODES),
    default=None,
    help="With --parity-every, outside the limit: say so, or stop with exit code 3.  [default: warn]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=options.SECONDS,
    default=None,
    help="Seconds of silence after which a stream counts as lost.  [default: 5]",
)
@click.option(
    "--reconnect",
    "reconnect_s",
    type=options.Number(0.0, YEAR_S),
    default=None,
    help="Seconds for which a lost stream or camera is opened again.  [default: 60]",
)
@click.option(
    "--decode",
    type=click.Choice(DECODERS),
    default="cpu",
    show_default=True,
    help="Where a video file is decoded; gpu needs PyNvVideoCodec, a GPU backend and frames of the engine's size.",
)
@rebuild.option
@options.as_json
def command(
    source: str,
    bundle: str | None,
    backend: BackendChoice,
    intrinsics: str | None,
    rebuild_first: bool,
    as_json: bool,
    **arguments: Any,
) -> int:
    """Run SOURCE through a bundle.

    SOURCE is a picture, a folder of pictures, a sequence like frames/%06d.png, a video file (film.mkv?stream=1 for
    another than its best video stream), a robot's log (MCAP or rosbag2) or a LeRobot data set (--topic chooses a
    camera), camera:0 (with ?size=480x640&fps=30&format=MJPG), rtsp://, or MPEG-TS over udp://, tcp:// or srt://, or
    test: for a moving pattern.
    """
    from e2e_deploy.cli.status import Status, print_summary, report_json
    from e2e_deploy.errors import SourceError
    from e2e_deploy.runtime.camera.intrinsics import Intrinsics
    from e2e_deploy.runtime.run import run

    camera = None if intrinsics is None else Intrinsics.parse(intrinsics)
    failure: SourceError | None = None
    given = arguments["checkpoint"]
    named = _bundle(bundle, rebuild_first=rebuild_first)
    arguments["checkpoint"] = rebuild.left_for(backend, given, rebuilt=rebuild_first)
    if rebuild_first:
        arguments["prepare"] = partial(rebuild.rebuild_plans, backend=backend, checkpoint=given)
    with Status(arguments["limit"]) as status:
        try:
            report = run(
                source, named, backend=backend, intrinsics=camera, on_frame=status, **arguments
            )
        except SourceError as error:
            if status.report is None or not status.report.frames:
                raise
            report, failure = status.report, error  # what came before it was lost is kept, and said
    print_summary(report)
    if as_json:
        click.echo(to_json(report_json(report), indent=2))
    else:
        for file in report.files:
            click.echo(str(file))
    if failure is not None:
        raise failure
    if report.no_numbers:
        click.echo("error: no result holds a number", err=True)
    return INTERRUPTED if report.interrupted else int(not report.complete)


def _bundle(named: str | None, *, rebuild_first: bool) -> str | Path:
    """The bundle that is named; else the packaged one, and that is said."""
    from e2e_deploy.assets import READY_BUNDLE
    from e2e_deploy.errors import UsageError

    if named is not None:
        return named
    if rebuild_first:
        raise UsageError("--rebuild writes plans into a bundle, and none is named: add --bundle")
    click.echo(
        "bundle: the packaged e2e-tiny depth, small and made for trying; --bundle names another",
        err=True,
    )
    return READY_BUNDLE
