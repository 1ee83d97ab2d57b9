"""Where ``run`` writes to: --out by its suffix, --save and --show as sinks; never onto what it reads."""

import errno
import mimetypes
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.sinks.picture_sink import FORMATS, PictureSink, file_names
from e2e_deploy.runtime.sinks.sink import Painter, Sink, WindowSink
from e2e_deploy.runtime.sinks.video_sink import NumbersVideoSink, VideoSink
from e2e_deploy.runtime.sinks.viewer import ViewerSink
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES
from e2e_deploy.runtime.sources.picture_source import PictureSource
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.runtime.steps.intrinsics import Intrinsics
from e2e_deploy.system.addresses import masked
from e2e_deploy.system.files import check_target

VIDEOS = (".mp4", ".mkv")
PICTURES = sorted({ending[ending.rindex(".") :] for ending, _ in FORMATS.values()})
WRITTEN = (
    f"for one picture a path that ends in {', '.join(PICTURES)}, for a video .mp4 (colours) or .mkv (16-bit depth), "
    "and a folder for files of every frame"
)
_OTHER_FILES = {
    *PICTURE_SUFFIXES,
    *(
        ".m4v",
        ".wmv",
        ".flv",
        ".ts",
        ".json",
        ".csv",
        ".txt",
        ".zip",
        ".h5",
        ".pcd",
        ".obj",
        ".pfm",
    ),
    *(
        suffix
        for suffix, kind in mimetypes.MimeTypes(filenames=()).types_map[True].items()
        if kind.startswith(("video/", "image/"))
    ),
}  # a path that ends so is meant to be a file


def _kind(out: Path) -> str:
    """What ``out`` names: the suffix of a file of ours, or "" for a folder; one that exists is a folder.

    Raises:
        UsageError: a file of a kind that is not written, or an address.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(out), re.IGNORECASE) and not os.path.exists(
        out.parts[0]
    ):
        raise UsageError(
            f"--out {masked(str(out))} is an address; results are written to files, {WRITTEN}"
        )
    suffix = out.suffix.lower()
    if os.path.isdir(out):
        return ""
    if suffix in (*VIDEOS, *PICTURES):
        return suffix
    if suffix in _OTHER_FILES:
        raise UsageError(f"--out {out}: {suffix} is not written; it is {WRITTEN}")
    return ""


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
        kinds = [_kind(out) for out in self.outs]
        pictures = [self._formats(out) for out in self.outs if _kind(out) not in VIDEOS]
        if self.formats and self.outs and not pictures:
            raise UsageError("--save is for a folder of pictures; --out names a video")
        if pictures and (
            unused := set(self.formats) - {name for names in pictures for name in names}
        ):
            raise UsageError(
                f"--save {', '.join(sorted(unused))} does not fit any --out; give a folder"
            )
        if self.formats and not self.outs and (self.show or self.view is not None):
            raise UsageError("--save needs --out: with --show or --view alone no file is written")
        if self.side_by_side and ".mp4" not in kinds:
            raise UsageError("--side-by-side needs --out with a path ending in .mp4")
        if len({os.path.realpath(out) for out in self.outs}) < len(self.outs):
            raise UsageError("--out names one path twice")

    def _formats(self, out: Path) -> tuple[str, ...]:
        """Of FORMATS, for a folder or for one picture's file."""
        if not (kind := _kind(out)):
            return self.formats or ("png16", "color")
        fitting = [name for name, (ending, _) in FORMATS.items() if ending.endswith(kind)]
        chosen = [name for name in self.formats if name in fitting] or fitting[:1]
        if len(chosen) > 1:
            raise UsageError(
                f"--out {out} is one file; --save {' and '.join(chosen)} need a folder"
            )
        return tuple(chosen)

    @property
    def has_points(self) -> bool:
        """Whether a point cloud is written."""
        return any("ply" in self._formats(out) for out in self.outs if _kind(out) not in VIDEOS)

    def open(
        self,
        manifest: Manifest,
        source: Source,
        intrinsics: Intrinsics | None,
        words: Callable[[], str],
        inputs: Sequence[Path] = (),
    ) -> list[Sink]:
        """The sinks, each with a painter of its own.

        Args:
            manifest: the bundle's.
            source: decides about numbering and rates.
            intrinsics: for point clouds.
            words: further ones for the viewer's page.
            inputs: further files that are read.

        Raises:
            UnavailableError: --show without a display, or --view on a port that is taken.
            UsageError: a 16-bit video of normals, one file for several pictures, or a result in the place of an input.
            E2EDeployError: nothing can be written there.
        """
        outs = self.outs
        if not outs and not self.show and self.view is None:
            outs = (Path(f"{manifest.task}-out"),)
        for out in outs:
            self._check(out, manifest, source, inputs)
        sinks: list[Sink] = []
        try:
            if self.show:
                sinks.append(WindowSink(self._painter(manifest, source), wait=not source.is_video))
            if self.view is not None:
                painter = self._painter(manifest, source)
                sinks.append(ViewerSink(self.view, manifest, painter, more=words))
            sinks += (self._file_sink(out, manifest, source, intrinsics) for out in outs)
        except BaseException:
            for sink in sinks:
                sink.close()
            raise
        return sinks

    def _check(self, out: Path, manifest: Manifest, source: Source, inputs: Sequence[Path]) -> None:
        """Refuse what would take an input's place, or cannot hold the source, before anything is computed."""
        kind = _kind(out)
        if kind in PICTURES and (source.is_video or source.total != 1):
            what = "a video" if source.is_video else f"{source.total} pictures"
            raise UsageError(f"--out {out} is one picture, and {source.name} is {what}; {WRITTEN}")
        try:
            if kind:
                check_target(out)
            elif os.path.lexists(out) and not out.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is not a folder")
        except OSError as error:
            raise E2EDeployError(f"{out} could not be written: {error.strerror}") from None
        read = [*source.files, *inputs]
        if kind:
            _refuse_inputs([out, Path(f"{out}.json"), Path(f"{out}.times.txt")], read)
        elif isinstance(source, PictureSource):
            formats = self._formats(out)
            names = source.names
            if source.is_video:
                names = [f"{name}_{index:06d}" for index, name in enumerate(names)]
            written = [
                out / file for name in names for file in file_names(name, manifest.task, formats)
            ]
            _refuse_inputs(written, read)
            if any(_same(out, folder) for folder in {path.parent for path in source.files}):
                _refuse_existing(written)

    def _file_sink(
        self, out: Path, manifest: Manifest, source: Source, intrinsics: Intrinsics | None
    ) -> Sink:
        painter, kind = self._painter(manifest, source), _kind(out)
        if kind == ".mp4":
            return VideoSink(
                out,
                painter,
                fps=source.fps,
                side_by_side=self.side_by_side,
                live=source.is_live,
            )
        if kind == ".mkv":
            return NumbersVideoSink(out, manifest, fps=source.fps, live=source.is_live)
        return PictureSink(
            out.parent if kind else out,
            manifest,
            self._formats(out),
            painter,
            number=source.is_video,
            file=out.name if kind else None,
            intrinsics=intrinsics,
        )

    def _painter(self, manifest: Manifest, source: Source) -> Painter:
        return Painter(manifest, self.colormap, is_video=source.is_video)


def _same(one: Path, other: Path) -> bool:
    """Whether both are there and the same, through links as well."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _refuse_inputs(written: Iterable[Path], read: Sequence[Path]) -> None:
    """Raise a UsageError if a result would take the place of a file that is read, by whatever name."""
    inputs = {}
    for path in read:
        try:
            inputs[path.stat().st_dev, path.stat().st_ino] = path
        except OSError:  # it is not there
            continue
    for path in written:
        try:
            found = path.stat()
        except OSError:
            continue
        if source := inputs.get((found.st_dev, found.st_ino)):
            raise UsageError(
                f"the result {path} would take the place of {source}, which is read; give another --out"
            )


def _refuse_existing(written: Iterable[Path]) -> None:
    """Raise a UsageError if a result would replace a file beside the sources, which may be one of theirs."""
    for path in written:
        if os.path.lexists(path):
            raise UsageError(
                f"{path} is there already, in the folder of the sources, and may be one of them; give another --out"
            )
