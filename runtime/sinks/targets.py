"""Outputs that take all results of a frame at once: logs, live views and streams. A row each.

A row's opener imports its module when it is called, because most of them need a package of their own.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sinks.sink import Sink


@dataclass(frozen=True)
class Target:
    """One kind of output.

    Attributes:
        names: suffixes and beginnings of an ``out`` of this kind, for messages.
        matches: an ``out`` of this kind, in lower case.
        open: makes the sink, which is given all results.
        is_file: ``out`` is a path that is written.
        has_colours: a colormap has an effect.
        takes_camera: ``intrinsics`` have an effect.
        takes_frame: ``side_by_side`` has an effect.
    """

    names: tuple[str, ...]
    matches: re.Pattern[str]
    open: Callable[[str, Opening], Sink]
    is_file: bool = False
    has_colours: bool = False
    takes_camera: bool = False
    takes_frame: bool = False


def _as_video(sink: Callable[..., Sink], out: str, opening: Opening) -> Sink:
    """A sink of pictures in colours that run in time."""
    return sink(
        out,
        opening.painter(),
        fps=opening.source.fps,
        live=opening.source.is_live,
        side_by_side=opening.side_by_side,
    )


def _stream(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.streams.stream_sink import StreamSink

    return _as_video(StreamSink, out, opening)


def _virtual_camera(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.streams.virtual_camera import VirtualCameraSink

    return _as_video(VirtualCameraSink, out, opening)


def _bag(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.bag.bag_sink import BagSink

    return BagSink(out, opening)


def _zenoh(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.live.zenoh_sink import ZenohSink

    return ZenohSink(out, opening)


def _foxglove(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.live.foxglove_sink import FoxgloveSink

    return FoxgloveSink(out, opening)


def _rerun_viewer(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.live.rerun_sink import RerunViewerSink

    return RerunViewerSink(out, opening)


def _rerun_file(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.live.rerun_sink import RerunFileSink

    return RerunFileSink(out, opening)


def _lerobot(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.lerobot.sink import open_lerobot

    return open_lerobot(out, opening)


TARGETS: tuple[Target, ...] = (
    Target(
        names=("rtsp://", "udp://", "tcp://"),
        matches=re.compile("(?:rtsp|udp|tcp)://.*", re.DOTALL),
        open=_stream,
        has_colours=True,
        takes_frame=True,
    ),
    Target(
        names=("/dev/videoN",),
        matches=re.compile("/dev/video[0-9]+"),
        open=_virtual_camera,
        has_colours=True,
        takes_frame=True,
    ),
    Target(
        names=(".mcap", ".db3"),
        matches=re.compile(r".+\.(?:mcap|db3)(?:\?.*)?", re.DOTALL),
        open=_bag,
        is_file=True,
        takes_camera=True,
    ),
    Target(
        names=("foxglove:",),
        matches=re.compile("foxglove:.*", re.DOTALL),
        open=_foxglove,
        takes_camera=True,
    ),
    Target(
        names=("rerun:",),
        matches=re.compile(r"(?:rerun|rerun\+https?):.*", re.DOTALL),
        open=_rerun_viewer,
        takes_camera=True,
    ),
    Target(
        names=(".rrd",),
        matches=re.compile(r".+\.rrd", re.DOTALL),
        open=_rerun_file,
        is_file=True,
        takes_camera=True,
    ),
    Target(
        names=("zenoh:",),
        matches=re.compile("zenoh:.*", re.DOTALL),
        open=_zenoh,
        takes_camera=True,
    ),
    Target(
        names=("lerobot:",),
        matches=re.compile(r"lerobot:.*", re.DOTALL),
        open=_lerobot,
    ),
)


def target_of(out: str) -> Target | None:
    """The row of an output; None for pictures, videos and folders, and for what is a folder already."""
    if os.path.isdir(out):
        return None
    return next((target for target in TARGETS if target.matches.fullmatch(out.lower())), None)
