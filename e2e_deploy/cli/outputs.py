"""Where ``run`` writes to: --out by its suffix, --save and --show as sinks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.errors import UsageError
from e2e_deploy.manifest import Manifest
from e2e_deploy.runtime.intrinsics import Intrinsics
from e2e_deploy.runtime.picture_sink import PictureSink
from e2e_deploy.runtime.sinks import Painter, Sink, WindowSink
from e2e_deploy.runtime.sources import Source
from e2e_deploy.runtime.video_sink import NumbersVideoSink, VideoSink
from e2e_deploy.runtime.viewer import ViewerSink

VIDEOS = (".mp4", ".mkv")


@dataclass(frozen=True)
class Outputs:
    """The options that say where results go, checked against each other.

    Attributes:
        outs: paths of --out.
        formats: names of --save.
        side_by_side: of --side-by-side.
        colormap: of --colormap.
        show: of --show.
        view: port of --view.

    Raises:
        UsageError: options that do not go together.
    """

    outs: tuple[Path, ...]
    formats: tuple[str, ...]
    side_by_side: bool
    colormap: str
    show: bool
    view: int | None

    def __post_init__(self) -> None:
        suffixes = {out.suffix.lower() for out in self.outs}
        if self.formats and self.outs and suffixes <= set(VIDEOS):
            raise UsageError("--save is for a folder of pictures; --out names a video")
        if self.side_by_side and ".mp4" not in suffixes:
            raise UsageError("--side-by-side needs --out with a path ending in .mp4")
        if len(set(self.outs)) < len(self.outs):
            raise UsageError("--out names one path twice")

    def open(
        self,
        manifest: Manifest,
        source: Source,
        intrinsics: Intrinsics | None,
        words: Callable[[], str],
    ) -> list[Sink]:
        """The sinks, each with a painter of its own.

        Args:
            manifest: the bundle's.
            source: decides about numbering and rates.
            intrinsics: for point clouds.
            words: further ones for the viewer's page.

        Raises:
            UnavailableError: --show without a display, or --view on a port that is taken.
            UsageError: a 16-bit video of normals.
            E2EDeployError: a video cannot be written there.
        """
        sinks: list[Sink] = []
        try:
            if self.show:
                sinks.append(WindowSink(self._painter(manifest, source), wait=not source.is_video))
            if self.view is not None:
                painter = self._painter(manifest, source)
                sinks.append(ViewerSink(self.view, manifest, painter, more=words))
            self._open_files(manifest, source, intrinsics, sinks)
        except BaseException:
            for sink in sinks:
                sink.close()
            raise
        return sinks

    def _open_files(
        self,
        manifest: Manifest,
        source: Source,
        intrinsics: Intrinsics | None,
        sinks: list[Sink],
    ) -> None:
        outs = self.outs
        if not outs and not self.show and self.view is None:
            outs = (Path(f"{manifest.task}-out"),)
        for out in outs:
            painter = self._painter(manifest, source)
            if out.suffix.lower() == ".mp4":
                sinks.append(
                    VideoSink(out, painter, fps=source.fps, side_by_side=self.side_by_side)
                )
            elif out.suffix.lower() == ".mkv":
                sinks.append(NumbersVideoSink(out, manifest, fps=source.fps))
            else:
                formats = self.formats or ("png16", "color")
                sinks.append(
                    PictureSink(
                        out,
                        manifest,
                        formats,
                        painter,
                        number=source.is_video,
                        intrinsics=intrinsics,
                    )
                )

    def _painter(self, manifest: Manifest, source: Source) -> Painter:
        return Painter(manifest, self.colormap, is_video=source.is_video)
