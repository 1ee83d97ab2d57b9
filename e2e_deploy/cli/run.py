"""``e2e-deploy run``: a source through a bundle."""

import json
import sys
from pathlib import Path

import click

from e2e_deploy.cli import INTERRUPTED, options


@click.command("run")
@click.argument("source")
@click.option("--bundle", required=True, help="The bundle's folder.")
@options.backend
@options.device
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="A folder for pictures, or a path ending in .mp4.  [default: ./depth-out or ./normals-out, unless --show]",
)
@click.option(
    "--save",
    "formats",
    multiple=True,
    type=click.Choice(["png16", "npy", "color"]),
    help="What to write into a folder; repeat for several.  [default: png16 and color]",
)
@click.option("--side-by-side", is_flag=True, help="In an mp4: the frame beside its result.")
@click.option(
    "--colormap",
    default="spectral",
    show_default=True,
    help="spectral, inferno or turbo; near is warm.",
)
@click.option("--show", is_flag=True, help="Show frame and result in a window; q or Escape ends.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=None, help="Stop after this many frames."
)
@options.as_json
def command(
    source: str,
    bundle: str,
    backend: str,
    device: str,
    out: Path | None,
    formats: tuple[str, ...],
    side_by_side: bool,
    colormap: str,
    show: bool,
    limit: int | None,
    as_json: bool,
) -> int:
    """Run SOURCE through a bundle: a picture, a folder of pictures, a video file, or a camera index (0, 1, ...)."""
    from e2e_deploy.bundle import open_bundle
    from e2e_deploy.colormap import lookup_table
    from e2e_deploy.errors import UsageError
    from e2e_deploy.runtime.run import run_source
    from e2e_deploy.runtime.sinks import Painter, PictureSink, Sink, VideoSink, WindowSink
    from e2e_deploy.runtime.sources import VideoSource, open_source

    lookup_table(colormap)  # an unknown name is said before anything is opened
    as_video = out is not None and out.suffix.lower() == ".mp4"
    if as_video and formats:
        raise UsageError("--save is for a folder of pictures; --out names an mp4")
    if side_by_side and not as_video:
        raise UsageError("--side-by-side needs --out with a path ending in .mp4")
    opened = open_bundle(bundle)
    manifest = opened.manifest
    frames = open_source(source)
    painter = Painter(manifest, colormap, is_video=frames.is_video)
    sinks: list[Sink] = []
    if show:
        sinks.append(WindowSink(painter, wait=not frames.is_video))
    if as_video and out is not None:
        sinks.append(VideoSink(out, painter, fps=frames.fps, side_by_side=side_by_side))
    elif out is not None or not show:
        folder = out or Path(f"{manifest.task}-out")
        sinks.append(
            PictureSink(
                folder, manifest, formats or ("png16", "color"), painter, number=frames.is_video
            )
        )

    def progress(count: int) -> None:
        if sys.stderr.isatty():
            click.echo(
                f"\r{count}{f' / {frames.total}' if frames.total else ''} frames",
                err=True,
                nl=False,
            )

    report = run_source(
        opened, frames, sinks, backend=backend, device=device, limit=limit, on_frame=progress
    )
    if sys.stderr.isatty():
        click.echo("", err=True)
    for (h, w), (engine_h, engine_w) in report.fitted.items():
        click.echo(
            f"{w}x{h} frames were fitted into the engine's {engine_w}x{engine_h}; "
            f"for full detail: e2e-deploy export --frame-size {h}x{w}",
            err=True,
        )
    if isinstance(frames, VideoSource) and frames.skipped:
        click.echo(f"{frames.skipped} damaged frames of {frames.name} were skipped", err=True)
    if manifest.checkpoint.note:
        click.echo(f"note: {manifest.checkpoint.note}", err=True)
    if report.latency is not None:
        click.echo(
            f"{report.frames} frames with {report.engine}: engine p50 {report.latency.p50_ms:.1f} ms, "
            f"{report.frames / report.seconds:.1f} frames/s in all",
            err=True,
        )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "frames": report.frames,
                    "seconds": report.seconds,
                    "engine": report.engine,
                    "latency": None if report.latency is None else vars(report.latency),
                    "files": [str(file) for file in report.files],
                    "interrupted": report.interrupted,
                },
                indent=2,
            )
        )
    else:
        for file in report.files:
            click.echo(str(file))
    return INTERRUPTED if report.interrupted else 0
