"""Where results go: 16-bit PNG with a sidecar, NumPy files, coloured pictures, mp4, a window.

Every file appears whole or not at all, and says what is to be known about its numbers.
"""

import io
import json
import os
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle import Manifest
from e2e_deploy.colormap import DisplayRange, colour_depth, colour_normals, write_note
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.files import whole_file
from e2e_deploy.opencv import cv2
from e2e_deploy.runtime.backend import Result
from e2e_deploy.runtime.sources import SourceFrame

Rgb = npt.NDArray[np.uint8]
PICTURE_FORMATS = ("png16", "npy", "color")
DEFAULT_FPS = 30.0


class Sink(Protocol):
    """Takes frames with their results, in order."""

    def write(self, frame: SourceFrame, result: Result) -> None:
        """Take one result; depth [H, W] or normals [H, W, 3] at the frame's size."""
        ...

    def close(self) -> list[Path]:
        """Finish, and return the files that were written."""
        ...


class Painter:
    """Results as RGB pictures, with the display range of one source and the note of its weights."""

    def __init__(self, manifest: Manifest, colormap: str, *, is_video: bool) -> None:
        self.note = manifest.checkpoint.note
        self._task, self._colormap = manifest.task, colormap
        self._range = DisplayRange(0.1 if is_video else 1.0)

    def __call__(self, result: Result) -> Rgb:
        """The result as uint8 RGB [H, W, 3]."""
        if self._task == "normals":
            picture = colour_normals(result)
        else:
            picture = colour_depth(result, self._colormap, *self._range.update(result))
        return write_note(picture, self.note)


def to_uint16(result: Result, task: str) -> tuple[npt.NDArray[np.uint16], float, float]:
    """(stored, scale, offset) with value = stored * scale + offset; out-of-range saturates, NaN becomes 0."""
    low, high = (0.0, 1.0) if task == "depth" else (-1.0, 1.0)
    finite = np.nan_to_num(result, nan=low, posinf=high, neginf=low)
    stored = np.rint((np.clip(finite, low, high) - low) * (65535.0 / (high - low))).astype(
        np.uint16
    )
    return stored, (high - low) / 65535.0, low


class PictureSink:
    """Files of each frame in a folder: <name>_depth.png with .json beside it, .npy, _color.png.

    Args:
        folder: made if it does not exist.
        manifest: the bundle's, for the sidecar.
        formats: of PICTURE_FORMATS.
        painter: colours the results.
        number: put the frame's index into the names (videos and cameras).
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        formats: tuple[str, ...],
        painter: Painter,
        *,
        number: bool,
    ) -> None:
        self._folder, self._manifest, self._formats = folder, manifest, formats
        self._painter, self._number = painter, number
        self._written: list[Path] = []

    def write(self, frame: SourceFrame, result: Result) -> None:
        """Write the files of one frame."""
        task = self._manifest.task
        stem = f"{frame.name}_{frame.index:06d}" if self._number else frame.name
        name = f"{stem}_{task}"
        facts: dict[str, Any] = {}
        if "png16" in self._formats:
            stored, scale, offset = to_uint16(result, task)
            facts["png16"] = {
                "file": f"{name}.png",
                "value": "stored * scale + offset",
                "scale": scale,
                "offset": offset,
                "channels": "one" if task == "depth" else "R, G, B = x, y, z",
            }
            self._encode(f"{name}.png", stored if stored.ndim == 2 else stored[..., ::-1])
        if "npy" in self._formats:
            facts["npy"] = {"file": f"{name}.npy", "dtype": "float32"}
            array = io.BytesIO()
            np.save(array, result)
            self._store(f"{name}.npy", array.getvalue())
        if "color" in self._formats:
            self._encode(f"{name}_color.png", self._painter(result)[..., ::-1])
        if facts:
            content = self._facts(frame, result) | facts
            self._store(f"{name}.json", (json.dumps(content, indent=2) + "\n").encode())

    def _store(self, name: str, data: bytes) -> None:
        path = self._folder / name
        with whole_file(path) as partial:
            partial.write_bytes(data)
        self._written.append(path)

    def _encode(self, name: str, bgr_or_grey: npt.NDArray[Any]) -> None:
        ok, data = cv2.imencode(".png", bgr_or_grey)
        if not ok:
            raise E2EDeployError(f"{name} could not be encoded as PNG")
        self._store(name, data.tobytes())

    def _facts(self, frame: SourceFrame, result: Result) -> dict[str, Any]:
        manifest, info = self._manifest, self._manifest.task_info
        return {
            "task": manifest.task,
            "meaning": info.meaning,
            "units": info.units,
            "metric": False,
            "range": list(info.value_range),
            "size": list(result.shape[:2]),
            "source": {"name": frame.name, "index": frame.index, "pts_s": frame.pts_s},
            "model": {
                "checkpoint": manifest.checkpoint.id,
                "sha256": manifest.checkpoint.sha256,
                "family": manifest.family,
                "precision": manifest.precision,
                "note": manifest.checkpoint.note,
            },
        }

    def close(self) -> list[Path]:
        """The files written."""
        return self._written


class VideoSink:
    """An H.264 mp4 of the coloured results, alone or beside the frames.

    The file is written beside its place and takes it when it is closed, so what is there always plays.
    """

    def __init__(
        self, path: Path, painter: Painter, *, fps: float | None, side_by_side: bool
    ) -> None:
        self._path, self._painter, self._side_by_side = path, painter, side_by_side
        self._rate = Fraction(fps or DEFAULT_FPS).limit_denominator(1001)
        self._stream: Any = None
        self._partial: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".mp4", dir=path.parent)
        except OSError as error:
            raise E2EDeployError(f"{path} could not be written: {error.strerror}") from None
        os.close(handle)
        self._partial = Path(name)
        self._container = av.open(name, "w", format="mp4", options={"movflags": "+faststart"})
        if painter.note:
            self._container.metadata["comment"] = painter.note

    def write(self, frame: SourceFrame, result: Result) -> None:
        """Append one frame.

        Raises:
            UsageError: its size is not that of the first frame.
            E2EDeployError: the file cannot be written.
        """
        picture = self._painter(result)
        if self._side_by_side:
            picture = np.concatenate([frame.rgb, picture], axis=1)
        height, width = (
            picture.shape[0] // 2 * 2,
            picture.shape[1] // 2 * 2,
        )  # yuv420p needs even sides
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.options = {"preset": "veryfast", "crf": "20"}
        if (height, width) != (self._stream.height, self._stream.width):
            raise UsageError(
                f"{frame.name} gives {width}x{height}, but {self._path} began with "
                f"{self._stream.width}x{self._stream.height}; pictures of several sizes need --out FOLDER"
            )
        self._mux(
            av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture[:height, :width]), format="rgb24"
            )
        )

    def _mux(self, picture: "av.VideoFrame | None") -> None:
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise E2EDeployError(
                f"{self._path} could not be written: {getattr(error, 'strerror', error)}"
            ) from None

    def _discard(self) -> None:
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
            self._partial = None

    def close(self) -> list[Path]:
        """Finish the file and put it in its place; a sink that took no frame leaves nothing."""
        if self._partial is None:
            return []
        if self._stream is None:
            self._container.close()
            self._discard()
            return []
        self._mux(None)
        try:
            self._container.close()
            self._partial.chmod(0o644)
            os.replace(self._partial, self._path)
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise E2EDeployError(
                f"{self._path} could not be written: {getattr(error, 'strerror', error)}"
            ) from None
        self._partial = None
        return [self._path]


class WindowSink:
    """A window with the frame beside its coloured result; the user closes it with q or Escape.

    Raises:
        UnavailableError: this machine has no display.
    """

    def __init__(self, painter: Painter, *, wait: bool) -> None:
        # Qt aborts the whole process when it finds no display, so it must not be asked.
        if sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise UnavailableError(
                "--show needs a display and there is none here (DISPLAY is not set); use --out"
            )
        self._painter, self._wait = painter, wait

    def write(self, frame: SourceFrame, result: Result) -> None:
        """Show one frame; raises KeyboardInterrupt when the user closes the window."""
        both = np.concatenate([frame.rgb, self._painter(result)], axis=1)
        cv2.imshow("e2e-deploy", both[..., ::-1])
        if cv2.waitKey(0 if self._wait else 1) & 0xFF in (27, ord("q")):
            raise KeyboardInterrupt

    def close(self) -> list[Path]:
        """Close the window."""
        cv2.destroyAllWindows()
        return []
