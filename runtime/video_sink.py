"""Video files of results: H.264 in colour, or FFV1 with 16 bits a pixel.

A file grows beside its place as <name>.partial.<suffix> (numbered where that is taken), which plays at any moment,
also after a kill, and takes its place when it is closed: what is there is always whole.
"""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.files import check_target, new_partial, whole_file
from e2e_deploy.json_files import to_json
from e2e_deploy.manifest import Manifest
from e2e_deploy.runtime.backend import Result
from e2e_deploy.runtime.fit import Fit
from e2e_deploy.runtime.sinks import Painter, SixteenBits, about
from e2e_deploy.runtime.sources import SourceFrame
from e2e_deploy.runtime.steps import Facts

DEFAULT_FPS = 30.0


class VideoFile:
    """One video stream in a file that plays while it grows.

    Args:
        path: its place; the suffix decides the container.
        fps: of the frames; None takes DEFAULT_FPS.
        codec: FFmpeg's name.
        pixels: FFmpeg's name of the stored pixel format.
        options: of the codec.

    Raises:
        E2EDeployError: no file can be written there.
    """

    def __init__(
        self, path: Path, fps: float | None, codec: str, pixels: str, options: dict[str, str]
    ) -> None:
        self.path = path
        self._rate = Fraction(fps or DEFAULT_FPS).limit_denominator(1001)
        self._codec, self._pixels = codec, pixels
        # A key frame a second, and a fragment with each: a kill loses no more than that.
        self._options = options | {"g": str(max(1, round(float(self._rate))))}
        self._partial: Path | None = None
        self._stream: Any = None
        try:
            check_target(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._partial = new_partial(path)
            # A regular file again when it is closed, with its index, so that players can seek.
            layout = (
                {"movflags": "+hybrid_fragmented+frag_keyframe"}
                if path.suffix.lower() == ".mp4"
                else {}
            )
            self._container = av.open(
                f"file:{self._partial}", "w", options={"flush_packets": "1", **layout}
            )
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise self._failed(error) from None

    def begin(self, hw: tuple[int, int], metadata: dict[str, str]) -> None:
        """Set size and metadata, before the first frame."""
        self._container.metadata.update(metadata)
        self._stream = self._container.add_stream(self._codec, rate=self._rate)
        self._stream.height, self._stream.width = hw
        self._stream.pix_fmt, self._stream.options = self._pixels, self._options

    def add(self, picture: npt.NDArray[Any], layout: str) -> None:
        """Append one picture in FFmpeg's pixel format ``layout``.

        Raises:
            E2EDeployError: the file cannot be written.
        """
        self._mux(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=layout))

    def _mux(self, picture: "av.VideoFrame | None") -> None:
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> E2EDeployError:
        return E2EDeployError(
            f"{self.path} could not be written: {getattr(error, 'strerror', None) or error}"
        )

    def _discard(self) -> None:
        if self._partial is not None:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)
            self._partial = None

    def close(self) -> list[Path]:
        """Finish the file and put it in its place; one that took no frame leaves nothing."""
        if self._partial is None:
            return []
        if self._stream is None:
            self._container.close()
            self._discard()
            return []
        self._mux(None)
        try:
            self._container.close()
            os.replace(self._partial, self.path)
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise self._failed(error) from None
        self._partial = None
        return [self.path]


class VideoSink:
    """An H.264 mp4 of the coloured results, alone or beside the frames."""

    on_main_thread = False

    def __init__(
        self, path: Path, painter: Painter, *, fps: float | None, side_by_side: bool
    ) -> None:
        self.name = str(path)
        self._painter, self._side_by_side = painter, side_by_side
        options = {"preset": "veryfast", "crf": "20"}
        self._file = VideoFile(path, fps, "libx264", "yuv420p", options)
        self._hw: tuple[int, int] | None = None

    def write(self, frame: SourceFrame, result: Result, facts: Facts) -> None:
        """Append one frame; a video that changes its size is fitted into that of its first frame.

        Raises:
            UsageError: a picture of another size than the first.
            E2EDeployError: the file cannot be written.
        """
        picture = self._painter(result, facts)
        if self._side_by_side:
            picture = np.concatenate([frame.rgb, picture], axis=1)
        # yuv420p needs even sides
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        hw = (picture.shape[0], picture.shape[1])
        if self._hw is None:
            self._hw = hw
            self._file.begin(hw, {"comment": self._painter.note} if self._painter.note else {})
        if hw != self._hw:
            if not self._painter.is_video:
                raise UsageError(
                    f"{frame.name} gives {hw[1]}x{hw[0]}, but {self.name} began with {self._hw[1]}x{self._hw[0]}; "
                    "pictures of several sizes need --out FOLDER"
                )
            picture = Fit(hw, self._hw).to_engine(picture)
        self._file.add(picture, "rgb24")

    def close(self) -> list[Path]:
        """Finish the file."""
        return self._file.close()


class NumbersVideoSink:
    """Depth as lossless 16-bit grey (FFV1) in Matroska, with a sidecar that says what the numbers mean.

    Raises:
        UsageError: the bundle's task is not depth.
    """

    on_main_thread = False

    def __init__(self, path: Path, manifest: Manifest, *, fps: float | None) -> None:
        if manifest.task != "depth":
            raise UsageError(
                f"{path}: a 16-bit video holds depth; for {manifest.task} use --out FOLDER --save npy"
            )
        self.name = str(path)
        self._manifest = manifest
        self._file = VideoFile(path, fps, "ffv1", "gray16le", {"slicecrc": "1"})
        self._told: dict[str, Any] = {}

    def write(self, frame: SourceFrame, result: Result, facts: Facts) -> None:
        """Append one frame.

        Raises:
            UsageError: its size is not that of the first frame.
            E2EDeployError: the file cannot be written.
        """
        told = about(self._manifest, frame, result, facts)
        if not self._told:
            told["ffv1"] = SixteenBits(*told["range"]).told()
            self._told = told
            note = to_json({key: told[key] for key in ("units", "metric", "ffv1")})
            self._file.begin(
                (result.shape[0], result.shape[1]),
                {"comment": self._manifest.checkpoint.note, "e2e_deploy": note},
            )
        if told["size"] != self._told["size"]:
            raise UsageError(
                f"{frame.name} is {told['size']}, but {self.name} began with {self._told['size']} (height, width); "
                "numbers are not resized: use --out FOLDER"
            )
        self._file.add(SixteenBits(*self._told["range"]).store(result), "gray16le")

    def close(self) -> list[Path]:
        """Finish the file and write its sidecar."""
        files = self._file.close()
        if not files:
            return []
        sidecar = Path(f"{files[0]}.json")
        with whole_file(sidecar) as partial:
            partial.write_text(to_json(self._told, indent=2) + "\n", encoding="utf-8")
        return [*files, sidecar]
