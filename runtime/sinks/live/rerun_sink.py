"""Results for Rerun: into a viewer that runs, or into a recording (.rrd).

    /               optical axes: x right, y down, z forward
    /camera         a Pinhole, where the camera is known; what is under it are its pictures
    /camera/image, depth or depth_affine, normals, ...
    /metadata       what the numbers are

Metres are a DepthImage, which the viewer shows as points by itself where there is a Pinhole; what has no scale is a
picture of floats, never a DepthImage. Times are ``frame`` and ``capture_time`` (of a video file: ``video_time``).
"""

import importlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from e2e_deploy.colormap import colour_normals
from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.packages import import_rerun
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.camera.axes import flipped
from e2e_deploy.runtime.ros.clock import PLAYED
from e2e_deploy.runtime.ros.messages import CameraInfo, Image, String
from e2e_deploy.runtime.ros.topics import Published
from e2e_deploy.runtime.sinks.growing import GrowingFile
from e2e_deploy.runtime.sinks.live.addresses import LOOPBACK, Place, url_host
from e2e_deploy.runtime.sinks.live.live_sink import LiveSink, last_name, message_of
from e2e_deploy.runtime.sinks.live.poured import Poured
from e2e_deploy.runtime.sinks.live.relay import Relay
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.addresses import masked
from e2e_deploy.system.json_files import to_json

PORT = 9876
APPLICATION = "e2e-deploy"
CAMERA = "camera"

_TYPES = {"32FC1": np.float32, "32FC3": np.float32, "mono8": np.uint8, "rgb8": np.uint8}


class RerunSink(LiveSink):
    """Logs what a frame's results become; where to, the classes below say.

    Attributes:
        patience_s: for a frame to be taken.

    Raises:
        UnavailableError: rerun-sdk is not installed.
    """

    patience_s = 60.0  # disks of other machines are slow now and then

    def __init__(self, opening: Opening) -> None:
        self._rerun = import_rerun()
        super().__init__(opening, with_points=False)  # the viewer makes points of depth
        self._recording = self._rerun.RecordingStream(APPLICATION, recording_id=uuid4())
        # Viewers would show when it was logged, and not when it was taken.
        self._recording.set_log_time_enabled(False)
        self._recording.set_log_tick_enabled(False)
        self._camera: tuple[Any, ...] = ()
        self._pictures: list[str] = []
        self._is_arranged = False

    def begin(self) -> None:
        """Say what holds for the whole recording."""
        self._log("/", self._rerun.ViewCoordinates.RDF, static=True)

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Log a frame and its results, and wait until the viewer or the file has them.

        Raises:
            E2EDeployError: it is gone, or the file cannot be written.
        """
        clock = self._topics.clock
        stamp_ns = clock(frame)
        try:
            self._recording.set_time("frame", sequence=frame.index)
            if clock.name == PLAYED:
                self._recording.set_time("video_time", duration=np.timedelta64(stamp_ns, "ns"))
            else:
                self._recording.set_time("capture_time", timestamp=np.datetime64(stamp_ns, "ns"))
            super().write(frame, result, facts)
            if not self._is_arranged:
                self._is_arranged = True
                self._arrange()
            self._recording.flush(timeout_sec=self.patience_s)
        except RuntimeError as error:
            raise self._lost(error) from None

    def send(self, published: Published) -> None:
        """Log one message as what Rerun shows it best as."""
        rerun, name, message = self._rerun, last_name(published.topic), published.message
        if isinstance(message, String):
            text = to_json(json.loads(message.data), indent=2)
            self._log(name, rerun.TextDocument(text))
        elif isinstance(message, CameraInfo):
            seen = (*message.k, message.width, message.height)
            if seen != self._camera:
                self._camera = seen
                self._log(CAMERA, _pinhole(rerun, message))
        elif isinstance(message, Image):
            self._log(f"{CAMERA}/{name}", _picture(rerun, name, message))
            if name not in self._pictures:
                self._pictures.append(name)

    def _arrange(self) -> None:
        """Propose a view of each picture, for Rerun would lay them on each other; and one of the points of depth."""
        views = importlib.import_module("rerun.blueprint")
        shown = [
            views.Spatial2DView(origin=f"{CAMERA}/{name}", name=name) for name in self._pictures
        ]
        if self._camera and "depth" in self._pictures:
            points = [f"/{CAMERA}", f"/{CAMERA}/depth"]
            shown.append(views.Spatial3DView(origin="/", contents=points, name="points"))
        shown.append(views.TextDocumentView(origin="metadata", name="metadata"))
        self._recording.send_blueprint(
            views.Blueprint(views.Grid(*shown), collapse_panels=True), make_active=False
        )

    def _log(self, path: str, what: Any, *, static: bool = False) -> None:
        self._recording.log(path, what, static=static, strict=True)

    def _lost(self, error: Exception) -> E2EDeployError:
        raise NotImplementedError


class RerunViewerSink(RerunSink):
    """Logs into a viewer that runs.

    Args:
        out: ``rerun:``, ``rerun:PORT``, ``rerun:HOST:PORT``, or Rerun's own ``rerun+http://HOST:PORT/proxy``.
        opening: what it is opened for.

    Raises:
        UnavailableError: no viewer is there, or rerun-sdk is not installed.
        UsageError: no such address.
    """

    patience_s = 5.0

    def __init__(self, out: str, opening: Opening) -> None:
        host, port = viewer_of(out)
        self._where = f"{url_host(host)}:{port}"
        self.name = f"Rerun viewer {self._where}"
        super().__init__(opening)
        try:
            self._relay = Relay(host, port)
        except OSError as error:
            raise UnavailableError(
                f"no Rerun viewer answers at {self._where} ({error.strerror or error}): start one with the command "
                "rerun, or name its port"
            ) from None
        try:
            self._recording.connect_grpc(f"rerun+http://{LOOPBACK}:{self._relay.port}/proxy")
            self.begin()
        except RuntimeError as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception) -> E2EDeployError:
        self._relay.cut()
        said = message_of(error).partition(", uri:")[0]
        return E2EDeployError(
            f"the Rerun viewer at {self._where} is gone or takes nothing more: {said}"
        )

    def close(self) -> list[Path]:
        """Let the viewer go; what it was given stays in it."""
        try:
            self._recording.flush(timeout_sec=self.patience_s)
        except RuntimeError:
            self._relay.cut()
        self._recording.disconnect()
        self._relay.finish()
        return []


class RerunFileSink(RerunSink):
    """Records into an .rrd, which takes its place when it is closed and holds at least a frame.

    Args:
        out: its path.
        opening: what it is opened for.

    Raises:
        E2EDeployError: no file can be written there.
        UnavailableError: rerun-sdk is not installed.
    """

    def __init__(self, out: str, opening: Opening) -> None:
        self.name = out
        self._frames = 0
        self._is_told = False
        super().__init__(opening)
        try:
            self._file = GrowingFile(Path(out))
            self._poured = Poured(self._file.partial)
        except OSError as error:
            raise self._lost(error) from None
        try:
            self._recording.save(self._poured.source)
        finally:
            self._poured.opened()
        self.begin()

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """As RerunSink's."""
        super().write(frame, result, facts)
        if self._poured.error is not None:
            raise self._lost(self._poured.error)
        self._frames += 1

    def _lost(self, error: Exception) -> E2EDeployError:
        self._is_told = True
        kept = f"; what was recorded until then is in {self._file.partial}" if self._frames else ""
        said = getattr(error, "strerror", "") or message_of(error)
        return E2EDeployError(f"{self.name} could not be written: {said}{kept}")

    def close(self) -> list[Path]:
        """Finish the file and put it in its place; one that took no frame leaves nothing.

        Raises:
            E2EDeployError: it cannot be written; what was recorded stays where the message says.
        """
        self._recording.disconnect()
        self._poured.join()
        if not self._frames:
            self._file.drop()
            return []
        if self._is_told:
            return []
        try:
            if self._poured.error is not None:
                raise self._poured.error
            return [self._file.finish()]
        except OSError as error:
            raise self._lost(error) from None


def viewer_of(out: str) -> tuple[str, int]:
    """(host, port) of a viewer.

    Raises:
        UsageError: it is none.
    """
    if not out.lower().startswith("rerun+"):
        return Place.parse(out).socket(PORT)
    with suppress(ValueError):  # of a port that is none, and of brackets
        parts = urlsplit(out)
        plain = not (parts.username or parts.password or parts.query or parts.fragment)
        is_viewer = parts.scheme == "rerun+http" and parts.path in ("", "/", "/proxy")
        if parts.hostname and plain and is_viewer:
            return parts.hostname, parts.port or PORT
    raise UsageError(
        f"`out` {masked(out)} is the address of no Rerun viewer: give rerun:HOST:PORT, or "
        f"rerun+http://HOST:{PORT}/proxy"
    )


def _pinhole(rerun: Any, info: CameraInfo) -> Any:
    """The camera without its lens, which Rerun does not know; pixel centres are whole numbers there too."""
    return rerun.Pinhole(
        image_from_camera=np.asarray(info.k, dtype=np.float64).reshape(3, 3),
        resolution=[info.width, info.height],
        camera_xyz=rerun.ViewCoordinates.RDF,
    )


def _pixels(message: Image) -> npt.NDArray[Any]:
    channels = {"32FC3": 3, "rgb8": 3}.get(message.encoding, 1)
    shape = (message.height, message.width, channels)
    pixels = np.asarray(message.data).view(_TYPES[message.encoding]).reshape(shape)
    return pixels if channels > 1 else pixels[..., 0]


def _picture(rerun: Any, name: str, message: Image) -> Any:
    pixels = _pixels(message)
    if name == "depth":
        return rerun.DepthImage(pixels, meter=1.0)
    if name == "normals":
        return rerun.Image(colour_normals(flipped(pixels)))
    return rerun.Image(pixels)
