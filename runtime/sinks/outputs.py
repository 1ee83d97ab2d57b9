"""Where a run writes to: paths by their suffix, a window and a browser view as sinks; never onto what it reads."""

import errno
import mimetypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.colormap import lookup_table
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.kinds import KINDS, Kind
from e2e_deploy.names import Colormap, PictureFormat
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.camera.lens import Camera
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sinks.overwriting import refuse_existing, refuse_inputs, same
from e2e_deploy.runtime.sinks.picture_sink import (
    FORMATS,
    PictureSink,
    file_names,
    formats_for,
    frame_stem,
)
from e2e_deploy.runtime.sinks.sink import OfOutput, Painter, Sink, WindowSink
from e2e_deploy.runtime.sinks.targets import TARGETS, Target, target_of
from e2e_deploy.runtime.sinks.video_sink import NumbersVideoSink, VideoSink
from e2e_deploy.runtime.sinks.viewer import ViewerSink
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES
from e2e_deploy.runtime.sources.picture_source import PictureSource
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.system.addresses import masked
from e2e_deploy.system.files import check_target

VIDEOS = (".mp4", ".mkv")
PICTURES = sorted({ending[ending.rindex(".") :] for ending, _ in FORMATS.values()})
_LOGS = tuple(name for target in TARGETS if target.is_file for name in target.names)
_ADDRESSES = tuple(name for target in TARGETS if not target.is_file for name in target.names)
_IN_WORDS = (*PICTURES, ".mp4 (colours)", ".mkv (16-bit depth)", *_LOGS)
WRITTEN = f"files are {', '.join(_IN_WORDS)}, and a folder takes files of every frame"
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
        ".bag",
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
            f"`out` {masked(str(out))} is no address that results go to; those are {', '.join(_ADDRESSES)}"
        )
    suffix = out.suffix.lower()
    if os.path.isdir(out):
        return ""
    if suffix in (*VIDEOS, *PICTURES):
        return suffix
    if suffix in _OTHER_FILES:
        raise UsageError(f"`out` {out}: {suffix} is not written; {WRITTEN}")
    return ""


@dataclass(frozen=True)
class _File:
    """One path, and the result that goes there.

    Attributes:
        path: a folder or a file.
        kind: of what is written; metres are depth, whatever kind they were made of.
        output: name of the engine's output.
    """

    path: Path
    kind: Kind
    output: str


def _files(out: Path, manifest: Manifest, *, is_metric: bool) -> list[_File]:
    """Where each result goes: of several one file a result, with its name in the file's.

    A folder is all of theirs. What cannot hold a result has none of it: a 16-bit video three channels, a point cloud
    what is no distance. One that could hold none of them is refused where it is opened.
    """
    suffix, kinds = _kind(out), manifest.kinds
    if len(kinds) > 1 and suffix == ".mkv":
        kinds = tuple(kind for kind in kinds if kind.channels == 1) or kinds
    if len(kinds) > 1 and suffix == ".ply":
        kinds = tuple(kind for kind in kinds if kind.form == "distance")
    files = []
    for kind in kinds:
        written = KINDS["depth"] if is_metric and kind.form == "distance" else kind
        is_own = bool(suffix) and len(manifest.kinds) > 1
        path = out.with_name(f"{out.stem}-{written.output}{out.suffix}") if is_own else out
        files.append(_File(path, written, kind.output))
    return files


@dataclass(frozen=True)
class Outputs:
    """The arguments of a run that say where results go, checked against each other.

    Attributes:
        out: folders, files, and what else TARGETS has.
        formats: of the pictures in folders.
        side_by_side: in an mp4 the frame beside its result.
        colormap: of depth; None is spectral.
        show: in a window.
        view: port of the browser view; None is none.
        has_sinks: results go to sinks of the caller's own as well.

    Raises:
        UsageError: arguments that do not go together.
    """

    out: tuple[str | Path, ...] = ()
    formats: tuple[PictureFormat, ...] = ()
    side_by_side: bool = False
    colormap: Colormap | None = None
    show: bool = False
    view: int | None = None
    has_sinks: bool = False

    def __post_init__(self) -> None:
        if self.colormap is not None:
            lookup_table(self.colormap)
        if unknown := set(self.formats) - set(FORMATS):
            raise UsageError(
                f"unknown `formats` {', '.join(sorted(unknown))}; the formats are {', '.join(FORMATS)}"
            )
        self._check_formats()
        takes_frame = any(target.takes_frame for _, target in self._targets)
        if self.side_by_side and not takes_frame and ".mp4" not in map(_kind, self._paths):
            raise UsageError(
                "`side_by_side` needs `out` with a path ending in .mp4, or a live video"
            )
        if len({os.path.realpath(out) for out in self.out}) < len(self.out):
            raise UsageError("`out` names one path twice")
        if self.colormap is not None and not self._has_colours:
            raise UsageError(
                f'`colormap="{self.colormap}"` has no effect: nothing that is written has colours'
            )

    def _check_formats(self) -> None:
        pictures = [self._formats(out) for out in self._paths if _kind(out) not in VIDEOS]
        if self.formats and self.out and not pictures:
            raise UsageError("`formats` is for a folder of pictures, and `out` names none")
        if self.formats and not self.out and not self._is_default:
            raise UsageError("`formats` needs `out`: without it no file is written here")
        fitting = {name for names in pictures for name in names}
        if pictures and (unused := set(self.formats) - fitting):
            raise UsageError(
                f"`formats` {', '.join(sorted(unused))} does not fit any `out`; give a folder"
            )

    def _formats(self, out: Path) -> tuple[PictureFormat, ...]:
        """Of FORMATS, for a folder or for one picture's file."""
        if not (kind := _kind(out)):
            return self.formats or ("png16", "color")
        fitting = [name for name, (ending, _) in FORMATS.items() if ending.endswith(kind)]
        chosen = [name for name in self.formats if name in fitting] or fitting[:1]
        if len(chosen) > 1:
            raise UsageError(
                f"`out` {out} is one file; `formats` {' and '.join(chosen)} need a folder"
            )
        return tuple(chosen)

    @property
    def _paths(self) -> list[Path]:
        """Folders, pictures and videos."""
        return [Path(out) for out in self.out if target_of(str(out)) is None]

    @property
    def _targets(self) -> list[tuple[str, Target]]:
        """Of TARGETS, with what names them."""
        return [(str(out), target) for out in self.out if (target := target_of(str(out)))]

    @property
    def _is_default(self) -> bool:
        """Whether nothing says where to, so that results go into a folder here."""
        return not (self.out or self.show or self.view is not None or self.has_sinks)

    @property
    def _picture_formats(self) -> set[PictureFormat]:
        """What any folder or picture's file gets."""
        if self._is_default:
            return {*(self.formats or ("png16", "color"))}
        return {n for out in self._paths if _kind(out) not in VIDEOS for n in self._formats(out)}

    @property
    def _has_colours(self) -> bool:
        videos = ".mp4" in map(_kind, self._paths)
        seen = self.show or self.view is not None or any(t.has_colours for _, t in self._targets)
        return seen or videos or "color" in self._picture_formats

    @property
    def has_points(self) -> bool:
        """Whether a point cloud is written."""
        return "ply" in self._picture_formats

    @property
    def takes_camera(self) -> bool:
        """Whether what is written says where pixels look."""
        return any(target.takes_camera for _, target in self._targets)

    @property
    def takes_axes(self) -> bool:
        """Whether numbers of normals go somewhere: colours show directions, and ROS's topics have their own axes."""
        return self.has_sinks or bool(self._picture_formats - {"color"})

    def check(self, manifest: Manifest) -> None:
        """Raise a UsageError if the bundle's results have no use for an argument."""
        if self.colormap is not None and all(k.form != "distance" for k in manifest.kinds):
            given = " and ".join(manifest.outputs)
            raise UsageError(
                f"`colormap` is for depth and disparity; {given} have colours of their own"
            )

    def open(
        self,
        manifest: Manifest,
        source: Source,
        intrinsics: Camera | None,
        inputs: Sequence[Path] = (),
        *,
        said: Intrinsics | None = None,
        is_metric: bool = False,
        limit: int | None = None,
    ) -> list[Sink]:
        """The sinks, each with a painter of its own.

        Args:
            manifest: the bundle's.
            source: decides about numbering and rates.
            intrinsics: for point clouds.
            inputs: further files that are read.
            said: by the user: for outputs that else take each frame's own camera.
            is_metric: distances come in metres.
            limit: of frames that come; None is all.

        Raises:
            UnavailableError: ``show`` without a display, ``view`` on a port that is taken, or a video whose codec this
                FFmpeg does not have.
            UsageError: a 16-bit video of normals, one file for several pictures, or a result in the place of an input.
            E2EDeployError: nothing can be written there.
        """
        outs = [Path(f"{manifest.task}-out")] if self._is_default else self._paths
        files = [
            file
            for out in outs
            for file in _files(out, manifest, is_metric=is_metric)
            if _kind(file.path) in VIDEOS or formats_for(file.kind, self._formats(file.path))
        ]
        for file in files:
            self._check_place(file.path, file.kind, source, inputs)
        for name, target in self._targets:
            if target.is_file:
                refuse_inputs([Path(name.partition("?")[0])], [*source.files, *inputs])
        sinks: list[Sink] = []
        try:
            if self.show:
                sinks.append(WindowSink(self._painter(manifest, source), wait=not source.is_video))
            if self.view is not None:
                sinks.append(ViewerSink(self.view, manifest, self._painter(manifest, source)))
            opening = Opening(
                manifest,
                source,
                said,
                self._colormap,
                self.side_by_side,
                is_metric=is_metric,
                limit=limit,
            )
            for name, target in self._targets:
                sinks.append(target.open(name, opening))
            for file in files:
                sink = self._file_sink(file.path, manifest, file.kind, source, intrinsics)
                several = len(manifest.kinds) > 1
                sinks.append(OfOutput(sink, file.output) if several else sink)
        except BaseException:
            for sink in sinks:
                sink.close()
            raise
        return sinks

    def _check_place(self, out: Path, result: Kind, source: Source, inputs: Sequence[Path]) -> None:
        """Refuse what would take an input's place, or cannot hold the source, before anything is computed."""
        kind = _kind(out)
        if kind in PICTURES and (source.is_video or source.total != 1):
            what = "a video" if source.is_video else f"{source.total} pictures"
            raise UsageError(f"`out` {out} is one picture, and {source.name} is {what}; {WRITTEN}")
        try:
            if kind:
                check_target(out)
            elif os.path.lexists(out) and not out.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is not a folder")
        except OSError as error:
            raise E2EDeployError(f"{out} could not be written: {error.strerror}") from None
        read = [*source.files, *inputs]
        if kind:
            refuse_inputs([out, Path(f"{out}.json"), Path(f"{out}.times.txt")], read)
        elif isinstance(source, PictureSource):
            self._check_folder(out, result, source, read)

    def _check_folder(
        self, out: Path, result: Kind, source: PictureSource, read: Sequence[Path]
    ) -> None:
        formats = formats_for(result, self._formats(out))
        stems = [frame_stem(n, i, number=source.is_video) for i, n in enumerate(source.names)]
        written = [out / file for stem in stems for file in file_names(stem, result, formats)]
        refuse_inputs(written, read)
        if any(same(out, folder) for folder in {path.parent for path in source.files}):
            refuse_existing(written, [out / file_names(stem, result, ())[-1] for stem in stems])

    def _file_sink(
        self,
        out: Path,
        manifest: Manifest,
        result: Kind,
        source: Source,
        intrinsics: Camera | None,
    ) -> Sink:
        painter, kind = self._painter(manifest, source, result), _kind(out)
        if kind == ".mp4":
            return VideoSink(
                out,
                painter,
                fps=source.fps,
                side_by_side=self.side_by_side,
                live=source.is_live,
            )
        if kind == ".mkv":
            return NumbersVideoSink(out, manifest, fps=source.fps, live=source.is_live, kind=result)
        return PictureSink(
            out.parent if kind else out,
            manifest,
            formats_for(result, self._formats(out)),
            painter,
            kind=result,
            number=source.is_video,
            file=out.name if kind else None,
            intrinsics=intrinsics,
        )

    def _painter(self, manifest: Manifest, source: Source, kind: Kind | None = None) -> Painter:
        return Painter(manifest, self._colormap, is_video=source.is_video, kind=kind)

    @property
    def _colormap(self) -> Colormap:
        return self.colormap or "spectral"
