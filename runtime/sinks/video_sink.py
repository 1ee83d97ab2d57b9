"""Sinks that record results: H.264 in colour, or FFV1 with 16 bits a pixel."""

import os
from pathlib import Path
from typing import Any, TextIO

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.kinds import Kind
from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.sinks.sink import Canvas, Painter, SixteenBits, about
from e2e_deploy.runtime.sinks.video_file import VideoFile
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.files import check_target, new_partial, whole_file
from e2e_deploy.system.json_files import to_json


class VideoSink:
    """An H.264 mp4 of the coloured results, alone or beside the frames."""

    on_main_thread = False

    def __init__(
        self,
        path: Path,
        painter: Painter,
        *,
        fps: float | None,
        side_by_side: bool,
        live: bool = False,
    ) -> None:
        self.name = str(path)
        self._canvas = Canvas(painter, self.name, side_by_side=side_by_side)
        # With B-frames, times of a growing mp4 would be late by their number.
        options = {"preset": "veryfast", "crf": "20", "bf": "0"}
        self._file = VideoFile(
            path, fps=fps, live=live, codec="libx264", pixels="yuv420p", options=options
        )
        self._begun = False

    def write(self, frame: SourceFrame, result: Result, facts: Facts) -> None:
        """Append one frame; a video that changes its size is fitted into that of its first frame.

        Raises:
            UsageError: a picture of another size than the first; or the video is its own source.
            E2EDeployError: the file cannot be written.
        """
        picture = self._canvas(frame, result, facts)
        if not self._begun:
            hw = (picture.shape[0], picture.shape[1])
            self._file.begin(hw, {"comment": self._canvas.note}, frame.source)
            self._begun = True
        self._file.add(picture, "rgb24", frame)

    def close(self) -> list[Path]:
        """Finish the file."""
        return self._file.close()


class NumbersVideoSink:
    """Results of one channel, such as depth, as lossless 16-bit grey (FFV1) in Matroska; a sidecar says what they mean.

    Beside it grows a text file with the time of each frame in the source, as mkvmerge and x264 read such.

    Raises:
        UsageError: results of three channels.
    """

    on_main_thread = False

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        fps: float | None,
        live: bool = False,
        kind: Kind | None = None,
    ) -> None:
        self._kind = manifest.kinds[0] if kind is None else kind
        if self._kind.channels > 1:
            raise UsageError(
                f"{path}: a 16-bit video holds depth or another result of one channel; for {self._kind.name} give a "
                'folder as `out`, and `formats="npy"`'
            )
        self.name = str(path)
        self._manifest, self._live = manifest, live
        self._file = VideoFile(
            path, fps=fps, live=live, codec="ffv1", pixels="gray16le", options={"slicecrc": "1"}
        )
        self._told: dict[str, Any] = {}
        self._times = _TimesFile(path)

    def write(self, frame: SourceFrame, result: Result, facts: Facts) -> None:
        """Append one frame.

        Raises:
            UsageError: its size is not that of the first frame; or the video is its own source.
            E2EDeployError: the file cannot be written.
        """
        told = about(self._manifest, frame, result, facts, self._kind)
        if not self._told:
            told["ffv1"] = SixteenBits(*told["range"]).told()
            note = to_json({key: told[key] for key in ("kind", "units", "metric", "ffv1")})
            self._file.begin(
                (result.shape[0], result.shape[1]),
                {"comment": self._manifest.checkpoint.note, "e2e_deploy": note},
                frame.source,
            )
            self._told = told
        if told["size"] != self._told["size"]:
            raise UsageError(
                f"{frame.name} is {told['size']}, but {self.name} began with {self._told['size']} (height, width); "
                "numbers are not resized: give a folder as `out`"
            )
        self._file.add(SixteenBits(*self._told["range"]).store(result), "gray16le", frame)
        own_s = None if self._live else frame.pts_s
        self._times.add(self._file.last_s if own_s is None else own_s)

    def close(self) -> list[Path]:
        """Finish the file and write its sidecar."""
        files: list[Path] = []
        try:
            files = self._file.close()
        finally:
            times = self._times.close(files[0] if files else None)
        if not files:
            return []
        self._told["times"] = {
            "file": times.name,
            "meaning": "timestamp format v2: a line for each frame, its presentation time in the source in ms",
        }
        sidecar = Path(f"{files[0]}.json")
        with whole_file(sidecar) as partial:
            partial.write_text(to_json(self._told, indent=2) + "\n", encoding="utf-8")
        return [*files, sidecar, times]


class _TimesFile:
    """Times of a video's frames in mkvtoolnix's timestamp format v2; made with the first one, it grows by lines."""

    def __init__(self, video: Path) -> None:
        self._place = Path(f"{video}.times.txt")
        self._partial: Path | None = None
        self._stream: TextIO | None = None

    def add(self, time_s: float) -> None:
        try:
            if self._stream is None:
                self._partial = new_partial(self._place)
                self._stream = self._partial.open("w", buffering=1, encoding="ascii")
                self._stream.write("# timestamp format v2\n")
            self._stream.write(f"{1000 * time_s:.6f}\n")
        except OSError as error:
            raise self._failed(error) from None

    def close(self, video: Path | None) -> Path:
        """Put it beside its video, or leave it with a video that was not finished."""
        place = Path(f"{video}.times.txt") if video else self._place
        try:
            if self._stream is not None:
                self._stream.close()
            if self._partial is not None and video is not None:
                check_target(place)
                os.replace(self._partial, place)
        except OSError as error:
            raise self._failed(error) from None
        return place

    def _failed(self, error: OSError) -> E2EDeployError:
        return E2EDeployError(f"{self._place} could not be written: {error.strerror or error}")
