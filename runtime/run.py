"""``run``: a source through a bundle into sinks, with everything that may be asked of it checked before it begins."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.names import (
    PARITY_MODES,
    Axes,
    BackendChoice,
    Colormap,
    Decoder,
    ParityMode,
    PictureFormat,
)
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.checks.parity_watch import ParityWatch, torch_reference
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.opened import opened_bundle, require_one_at_once
from e2e_deploy.runtime.report import RunReport
from e2e_deploy.runtime.sinks.outputs import Outputs
from e2e_deploy.runtime.sinks.sink import Sink
from e2e_deploy.runtime.sinks.viewer import ViewerSink
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.runtime.sources.uris import open_source
from e2e_deploy.runtime.steps.chosen import Chosen
from e2e_deploy.runtime.steps.step import Step

T = TypeVar("T")


def run(
    source: str | Path | Source,
    bundle: str | Path | Bundle | Engine,
    *,
    backend: BackendChoice = "auto",
    device: str = "auto",
    checkpoint: str | None = None,
    sinks: Sequence[Sink] = (),
    out: str | Path | Sequence[str | Path] = (),
    formats: PictureFormat | Sequence[PictureFormat] = (),
    side_by_side: bool = False,
    colormap: Colormap | None = None,
    show: bool = False,
    view: int | None = None,
    steady: bool = False,
    metric_points: str | Path | npt.ArrayLike | None = None,
    camera_height_m: float | None = None,
    camera_pitch_deg: float | None = None,
    intrinsics: Intrinsics | None = None,
    axes: Axes | None = None,
    steps: Sequence[Step] = (),
    topic: str | None = None,
    limit: int | None = None,
    parity_every: int | None = None,
    parity: ParityMode | None = None,
    timeout_s: float | None = None,
    reconnect_s: float | None = None,
    decode: Decoder = "cpu",
    prepare: Callable[[Bundle], Bundle] | None = None,
    on_frame: Callable[[RunReport], None] = lambda report: None,
) -> RunReport:
    """Run a source through a bundle: every frame with its result goes to every sink and output.

    Results are float32 at the frames' own size: depth [H, W] (0 = near, 1 = far, or metres), normals [H, W, 3] or what
    else the bundle gives. Of several results each has files of its own, with its name in theirs.
    An argument that has no effect on what was asked for is a UsageError. Ctrl-C ends the run, and the report says so.

    Args:
        source: a picture, a folder of pictures, a sequence ``frames/%06d.png``, a video file, a robot's log (MCAP
            or rosbag2), a LeRobot data set, ``camera:0``, an ``rtsp://``, ``udp://``, ``tcp://`` or ``srt://`` address,
            ``test:`` for a moving pattern; or a Source.
        bundle: its folder, an opened Bundle, or an Engine, which stays open. Of several frame sizes the one that fits
            the first frame best is used.
        backend: what runs it; a named one that is not here is an error.
        device: where it runs.
        checkpoint: what the bundle was exported from, for PyTorch: a folder or a hub id.
        sinks: of your own, as ``Sink`` has them: ``write(frame, result, facts)`` and ``close()``, called in a thread of
            their own. Of several results both are mappings by their names.
        out: where to write, one path or several: a folder for files of every frame, a file for one picture (.png, .npy,
            .npz, .exr, .ply), .mp4 for a video in colours, .mkv for one of 16 bits of depth; .mcap or .db3 for robots'
            logs; ``lerobot:FOLDER`` for a copy of a LeRobot data set with metric depth; rtsp://, udp://, tcp://
            (``?listen`` at the end: served here) or /dev/videoN for a live one; ``foxglove:``, ``rerun:``, ``zenoh:``
            for live views and topics, .rrd for a recording of Rerun. Without any output or sink ``./depth-out``, called
            after the task.
        formats: of files in folders; png16 and color if none are named. ply needs metric depth.
        side_by_side: in an mp4 or a live video the frame beside its result.
        colormap: of depth and disparity in colours; spectral if None.
        show: in a window, whose end ends the run.
        view: in a browser at http://127.0.0.1:``view``; 0 takes a free port. The report tells the address.
        steady: keep the scale and shift of a video's depth or disparity steady.
        metric_points: metric depth, also of disparity: a .npy or text file of column, row, metres, or an array [N, 3].
        camera_height_m: depth in metres: height of the camera above flat ground.
        camera_pitch_deg: by which that camera looks down; 0 if None.
        intrinsics: of the frames, for ``camera_height_m``, point clouds, logs and live views; None takes what the
            source says.
        axes: of normals; optical is x right, y down, z forward.
        steps: of your own, after those above: ``step(frame, result, facts)`` returns the new result.
        topic: of a log or a data set of robots: which of its pictures; None takes the only one there is.
        limit: stop after this many frames.
        parity_every: compare the stored frames at the start, and each Nth frame with PyTorch.
        parity: strict: a comparison outside its limit ends the run; warn, if None: the report says so.
        timeout_s: of a stream: seconds of silence after which it counts as lost.
        reconnect_s: of a stream or camera: for how long a lost one is opened again.
        decode: where a video file is decoded; gpu needs PyNvVideoCodec, a backend on the GPU and frames of its size.
        prepare: gets the opened bundle when the arguments are checked, and gives the one to run; rebuild_plans does.
        on_frame: called once before the first frame and after each, in another thread, with the report so far.

    Raises:
        UsageError: arguments that do not go together, or with this bundle and source.
        BundleError: not a bundle, damaged, or changed after it was written.
        SourceError: the source cannot be read or was lost; what came before is kept.
        UnavailableError: the backend, the device, a display or a port is not here.
        ParityError: ``parity="strict"``, and something was outside its limit.
        E2EDeployError: no output is left that can be written.
    """
    _check_counts(limit=limit, parity_every=parity_every)
    _check_parity(parity, parity_every)
    _check_main_thread(sinks, show=show)
    outputs = Outputs(
        out=_listed(out, (str, Path), str),
        formats=_listed(formats, str, lambda name: name),
        side_by_side=side_by_side,
        colormap=colormap,
        show=show,
        view=view,
        has_sinks=bool(sinks),
    )
    chosen = Chosen(
        steady=steady,
        metric_points=metric_points,
        camera_height_m=camera_height_m,
        camera_pitch_deg=camera_pitch_deg,
        intrinsics=intrinsics,
        axes=axes,
        has_points=outputs.has_points,
        takes_camera=outputs.takes_camera,
        takes_axes=outputs.takes_axes or bool(steps),
    )
    in_torch = backend == "torch" or parity_every is not None
    if prepare is not None and isinstance(bundle, Engine):
        raise UsageError("`prepare` has no effect on an Engine, which is loaded")
    opened, engine = _open(bundle, backend, device, checkpoint, in_torch)
    outputs.check(opened.manifest)
    chosen.check(opened.manifest)
    if prepare is not None:
        opened = prepare(opened)
    frames = _open_source(source, topic, timeout_s, reconnect_s, decode)
    if frames.is_live:
        require_one_at_once(opened, f"{frames.name} is live")
    all_steps = [*chosen.open(frames, opened.manifest.kinds), *steps]
    watch = _watch(opened, parity_every, parity)
    report = RunReport(frames, note=opened.manifest.checkpoint.note)
    report.parity = None if watch is None else watch.report
    inputs = [*(opened.root / name for name in opened.manifest.files), *chosen.files]
    camera = chosen.camera_of(frames)
    own = outputs.open(
        opened.manifest,
        frames,
        camera,
        inputs,
        said=chosen.intrinsics,
        is_metric=chosen.is_metric,
        limit=limit,
    )
    go_on = partial(
        run_source,
        opened,
        frames,
        [*own, *sinks],
        backend=backend,
        device=device,
        engine=engine,
        steps=all_steps,
        watch=watch,
        limit=limit,
        on_frame=_shown(report, own, on_frame),
        report=report,
    )
    return go_on() if watch is None else _watched(go_on, watch, report)


def _watched(go_on: Callable[[], RunReport], watch: ParityWatch, report: RunReport) -> RunReport:
    """A run whose comparisons are judged at its end, and whose watch ends with it."""
    try:
        try:
            go_on()
        except SourceError:  # what came before is kept, and judged
            if report.frames:
                watch.finish()
            raise
        watch.finish()
    finally:
        watch.close()
    return report


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"`{name}` must be 1 or more, not {count}")


def _check_parity(mode: ParityMode | None, every: int | None) -> None:
    if mode not in (None, *PARITY_MODES):
        raise UsageError(f"unknown `parity` {mode!r}; it is {' or '.join(PARITY_MODES)}")
    if mode is not None and every is None:
        raise UsageError(f'`parity="{mode}"` needs `parity_every`; alone nothing is compared')


def _check_main_thread(sinks: Sequence[Sink], *, show: bool) -> None:
    names = [sink.name for sink in sinks if sink.on_main_thread] + ["`show`"] * show
    if len(names) > 1:
        raise UsageError(
            f"{' and '.join(names)} each need the main thread, which waits for one sink alone: give one of them"
        )


def _listed(given: Any, one: type | tuple[type, ...], kind: Callable[[Any], T]) -> tuple[T, ...]:
    """One value or several, as several."""
    return (kind(given),) if isinstance(given, one) else tuple(map(kind, given))


def _open(
    bundle: str | Path | Bundle | Engine,
    backend: BackendChoice,
    device: str,
    checkpoint: str | None,
    has_use: bool,
) -> tuple[Bundle, Engine | None]:
    if not isinstance(bundle, Engine):
        return opened_bundle(bundle, checkpoint, has_use=has_use), None
    if (backend, device) != ("auto", "auto"):
        raise UsageError("`backend` and `device` have no effect on an Engine, which is loaded")
    return opened_bundle(bundle.bundle, checkpoint, has_use=has_use), bundle


def _open_source(
    source: str | Path | Source,
    topic: str | None,
    timeout_s: float | None,
    reconnect_s: float | None,
    decode: Decoder,
) -> Source:
    if isinstance(source, str | Path):
        return open_source(
            source, topic=topic, timeout_s=timeout_s, reconnect_s=reconnect_s, decode=decode
        )
    if (topic, timeout_s, reconnect_s, decode) != (None, None, None, "cpu"):
        raise UsageError(
            "`topic`, `timeout_s`, `reconnect_s` and `decode` have no effect on a Source, which is opened"
        )
    return source


def _watch(bundle: Bundle, every: int | None, mode: ParityMode | None) -> ParityWatch | None:
    if every is None:
        return None
    worst = Path(f"{bundle.manifest.task}-parity-worst.npz")
    reference = partial(torch_reference, bundle=bundle)
    return ParityWatch(every, strict=mode == "strict", save_to=worst, load=reference)


def _shown(
    report: RunReport, sinks: Sequence[Sink], on_frame: Callable[[RunReport], None]
) -> Callable[[RunReport], None]:
    """``on_frame``, after the browser views have seen the report."""
    viewers = [sink for sink in sinks if isinstance(sink, ViewerSink)]
    report.view = ", ".join(filter(None, (getattr(sink, "url", "") for sink in sinks)))

    def show(report: RunReport) -> None:
        for viewer in viewers:
            viewer.look(report)
        on_frame(report)

    return show
