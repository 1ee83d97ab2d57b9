"""Outputs that take all results of a frame at once: logs, live views and streams. A row each.

A row's opener imports its module when it is called, because most of them need a package of their own.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.kinds import Kind
from e2e_deploy.names import Colormap
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sinks.sink import Painter, Sink
from e2e_deploy.runtime.sources.source import Source


@dataclass(frozen=True)
class Opening:
    """What an output is opened for.

    Attributes:
        manifest: the bundle's.
        source: whose frames come.
        intrinsics: of them, as the user says; None leaves it to the frames.
        colormap: of distances.
        side_by_side: the frame beside its results.
    """

    manifest: Manifest
    source: Source
    intrinsics: Intrinsics | None
    colormap: Colormap
    side_by_side: bool

    def painter(self, kind: Kind | None = None) -> Painter:
        """A painter of one kind, or of all results side by side."""
        return Painter(self.manifest, self.colormap, is_video=self.source.is_video, kind=kind)


@dataclass(frozen=True)
class Target:
    """One kind of output.

    Attributes:
        form: how ``out`` names it, for messages.
        matches: an ``out`` of this kind, in lower case.
        open: makes the sink, which is given all results.
        is_file: ``out`` is a path that is written.
        has_colours: a colormap has an effect.
        takes_camera: ``intrinsics`` have an effect.
        takes_frame: ``side_by_side`` has an effect.
    """

    form: str
    matches: re.Pattern[str]
    open: Callable[[str, Opening], Sink]
    is_file: bool = False
    has_colours: bool = False
    takes_camera: bool = False
    takes_frame: bool = False


def _stream(out: str, opening: Opening) -> Sink:
    from e2e_deploy.runtime.sinks.streams.stream_sink import StreamSink

    return StreamSink(
        out,
        opening.painter(),
        fps=opening.source.fps,
        live=opening.source.is_live,
        side_by_side=opening.side_by_side,
    )


TARGETS: tuple[Target, ...] = (
    Target(
        form="rtsp://, udp:// or tcp:// for a live video",
        matches=re.compile("(?:rtsp|udp|tcp)://.*", re.DOTALL),
        open=_stream,
        has_colours=True,
        takes_frame=True,
    ),
)


def target_of(out: str) -> Target | None:
    """The row of an output; None for pictures, videos and folders, and for what is a folder already."""
    if os.path.isdir(out):
        return None
    return next((target for target in TARGETS if target.matches.fullmatch(out.lower())), None)
