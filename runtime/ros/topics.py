"""Which topics the results of a frame become: the one place of these rules, for logs, live views and nodes.

Under a prefix, all with the frame's stamp and frame id (REP-103, REP-117, REP-118; docs/ros.md has the table).
Distances of unknown scale are never called depth; normals and points are in optical axes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.errors import UsageError
from e2e_deploy.kinds import Kind
from e2e_deploy.runtime.camera.axes import OPTICAL, flipped
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.ros.cameras import Rays, camera_message, rays
from e2e_deploy.runtime.ros.clock import Clock
from e2e_deploy.runtime.ros.messages import CameraInfo as CameraInfoMessage
from e2e_deploy.runtime.ros.messages import (
    Header,
    Image,
    Message,
    PointCloud2,
    PointField,
    String,
    Time,
)
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:  # sources import this folder
    from e2e_deploy.runtime.sources.source import SourceFrame

Depth = npt.NDArray[np.float32]
Told = Sequence[tuple[Kind, npt.NDArray[np.float32], Mapping[str, Any]]]
"""Each result with its kind and its facts, as ``told_apart`` of the sinks gives them."""

FRAME_ID = "camera_optical_frame"
OWN = "e2e_deploy"
METRIC = "depth along the optical axis z; NaN: unknown, +Inf: nothing in range, -Inf: too close"
METRES = "metres"
_TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")
_NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")
_POINT_FIELDS = ("x", "y", "z", "rgb")  # rgb: the bytes B, G, R, 0, which PCL calls a float


@dataclass(frozen=True)
class Published:
    """A message and where it goes.

    Attributes:
        topic: absolute.
        message: one of ours.
        latched: late subscribers are given the last one (transient local).
    """

    topic: str
    message: Message
    latched: bool = False


def _beside(topic: str, name: str) -> str:
    """What stands beside a topic of pictures, however these are transported."""
    parts = topic.strip("/").split("/")
    if parts[-1] in _TRANSPORTS:
        parts.pop()
    return "/".join(["", *parts[:-1], name])


def prefix_of(topic: str = "") -> str:
    """What topics begin with: beside the picture's, so "/camera/image_raw" has "/camera/e2e_deploy".

    What ROS takes in no name, as logs of other makers have it, becomes an underscore: "/cam-1/0/image" has
    "/cam_1/_0/e2e_deploy".
    """
    words = filter(None, _beside(topic, OWN).split("/"))
    return "".join(f"/{re.sub('^(?=[0-9])|[^A-Za-z0-9_]', '_', word)}" for word in words)


def camera_topic(topic: str) -> str:
    """Where the CameraInfo of a topic of pictures is, as image_transport looks for it."""
    return _beside(topic, "camera_info")


def is_rectified(topic: str) -> bool:
    """Whether the pictures of a topic are, by image_proc's names: image_rect and image_rect_color."""
    return any(part.startswith("image_rect") for part in topic.split("/"))


def millimetres(depth: Depth) -> npt.NDArray[np.uint16]:
    """Metres [H, W] as 16 bits of millimetres (REP-118): 0 where unknown, also below zero; 65535 from there on."""
    known = np.isfinite(depth)
    scaled = np.multiply(depth, 1000.0, dtype=np.float64, where=known, out=np.zeros(depth.shape))
    return np.rint(scaled).clip(0, 65535).astype(np.uint16)


def image(header: Header, pixels: npt.NDArray[Any], encoding: str) -> Image:
    """An Image of [H, W] or [H, W, C], little-endian; it may be a view of ``pixels``."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    height, width = little.shape[:2]
    data = little.reshape(-1).view(np.uint8)
    return Image(header, height, width, encoding, 0, data.size // height, data)


def point_cloud(
    header: Header, depth: Depth, seen: Rays, rgb: npt.NDArray[np.uint8]
) -> PointCloud2:
    """An organised cloud in optical axes: X = x Z, Y = y Z with what pixels see at z = 1; NaN where depth is no number.

    Args:
        header: of the picture.
        depth: metres along z, [H, W].
        seen: [2, H, W], of ``cameras.rays``.
        rgb: uint8 [H, W, 3]; another size leaves the points grey.
    """
    height, width = depth.shape
    known = np.isfinite(depth)
    z = np.where(known, depth, np.float32(np.nan))
    points = np.empty((height, width, len(_POINT_FIELDS)), dtype="<f4")
    np.multiply(seen[0], z, out=points[..., 0])
    np.multiply(seen[1], z, out=points[..., 1])
    points[..., 2] = z
    colours = points.view(np.uint8)[..., 12:16]
    same = rgb.shape[:2] == depth.shape
    colours[..., :3], colours[..., 3] = (rgb[..., ::-1] if same else 128), 0
    fields = [
        PointField(name, 4 * i, PointField.FLOAT32, 1) for i, name in enumerate(_POINT_FIELDS)
    ]
    step, data = 4 * len(_POINT_FIELDS), points.reshape(-1).view(np.uint8)
    dense = bool(known.all())
    return PointCloud2(header, height, width, fields, False, step, step * width, data, dense)


def _name(kind: Kind, facts: Mapping[str, Any]) -> str:
    """The last name of a result's topic; a distance is called depth only where it is metres."""
    if kind.form != "distance":
        return kind.output
    return "depth" if facts.get("metric") else f"{kind.output}_affine"


class Topics:
    """The topics of one run.

    Args:
        manifest: the bundle's.
        prefix: absolute, such as "/camera/e2e_deploy"; ``prefix_of`` has the default.
        is_live: of the source.
        intrinsics: of its frames, over what frames say of their camera; None leaves it to them.
        with_picture: the frame itself is published too.
        with_points: a point cloud is, where depth is metric and the camera calibrated.
        with_millimetres: metric depth in 16 bits is, beside its floats.

    Attributes:
        clock: of the stamps.

    Raises:
        UsageError: a prefix that is no name of ROS.
    """

    def __init__(
        self,
        manifest: Manifest,
        prefix: str = prefix_of(),
        *,
        is_live: bool = False,
        intrinsics: Intrinsics | None = None,
        with_picture: bool = False,
        with_points: bool = True,
        with_millimetres: bool = False,
    ) -> None:
        if not _NAME.fullmatch(prefix):
            raise UsageError(
                f"the topics' prefix is {prefix!r}; it is absolute, such as {prefix_of()}: names of letters, digits "
                "and underscores after slashes"
            )
        self.clock = Clock(is_live=is_live)
        self._manifest, self._prefix, self._intrinsics = manifest, prefix, intrinsics
        self._with_picture, self._with_points = with_picture, with_points
        self._with_millimetres = with_millimetres
        self._said = ""
        self._rays: tuple[CameraInfo, Rays | None] | None = None

    def advertised(self, *, is_metric: bool) -> list[tuple[str, type[Message], bool]]:
        """Each topic that may come, with its message and whether it is latched; for those that say so before.

        Args:
            is_metric: distances become metres.
        """
        kinds = self._manifest.kinds
        metric = is_metric and any(kind.form == "distance" for kind in kinds)
        names: list[tuple[str, type[Message]]] = [
            (_name(kind, {"metric": is_metric}), Image) for kind in kinds
        ]
        if self._with_picture:
            names.append(("image", Image))
        if metric and self._with_millimetres:
            names.append(("depth_raw", Image))
        names.append(("camera_info", CameraInfoMessage))
        if metric and self._with_points:
            names.append(("points", PointCloud2))
        latched = (f"{self._prefix}/metadata", String, True)
        return [latched, *((f"{self._prefix}/{name}", kind, False) for name, kind in names)]

    def messages_for(self, frame: "SourceFrame", results: Told) -> list[Published]:
        """The messages of a frame; the metadata are among them when they changed, first of all with the first frame.

        They may be views of the results, which must not change before the messages are gone.
        """
        stamp_ns = self.clock(frame)
        header = Header(Time.of(stamp_ns), frame.frame_id or FRAME_ID)
        found: list[Published] = []
        told: list[dict[str, Any]] = []
        if self._with_picture:
            found.append(self._at("image", image(header, frame.rgb, "rgb8")))
        metric: Depth | None = None
        for kind, result, facts in results:
            name, message = _name(kind, facts), self._message(header, kind, result, facts)
            found.append(self._at(name, message))
            told.append(self._told(name, kind, facts) | {"encoding": message.encoding})
            if name == "depth" and metric is None:
                metric = result
                if self._with_millimetres:
                    found.append(self._at("depth_raw", image(header, millimetres(result), "16UC1")))
        hw = results[0][1].shape[:2] if results else frame.hw
        camera = self._camera(frame, (hw[0], hw[1]))
        if camera is not None:
            found.append(self._at("camera_info", camera_message(camera, header)))
        why = ""
        if self._with_points and metric is not None and camera is not None:
            if (seen := self._seen(camera)) is not None:
                found.append(self._at("points", point_cloud(header, metric, seen, frame.rgb)))
            else:
                why = f"none: a lens of model {camera.distortion_model!r} cannot be undone"
        return [*self._metadata(told, header.frame_id, why), *found]

    def _at(self, name: str, message: Message) -> Published:
        return Published(f"{self._prefix}/{name}", message)

    def _message(
        self, header: Header, kind: Kind, result: Depth, facts: Mapping[str, Any]
    ) -> Image:
        if kind.form == "distance":
            return image(header, result, "32FC1")
        if kind.form == "vectors":
            turned = result if facts.get("axes") == OPTICAL else flipped(result)
            return image(header, turned, "32FC3")
        if kind.is_linear or kind.name == "material":  # numbers, not to be looked at
            return image(header, result, f"32FC{kind.channels}")
        eight = np.nan_to_num(result, nan=0.0).clip(0.0, 1.0) * np.float32(255)
        encoding = "mono8" if kind.channels == 1 else "rgb8"
        return image(header, np.rint(eight).astype(np.uint8), encoding)

    def _told(self, name: str, kind: Kind, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What does not change from frame to frame."""
        metric = bool(facts.get("metric"))
        told = {
            "topic": f"{self._prefix}/{name}",
            "kind": kind.name,
            "meaning": facts.get("meaning", kind.meaning),
            "units": facts.get("units", kind.units),
            "metric": metric,
            "range": list(facts.get("range", kind.value_range)),
        }
        if kind.form == "distance" and metric:
            told |= {"kind": "depth", "meaning": METRIC, "units": METRES, "made_of": kind.name}
        if kind.form == "vectors":
            told |= {"axes": OPTICAL, "meaning": f"unit surface normals, {OPTICAL}"}
        if "steady" in facts:
            told["steady"] = True
        return told

    def _camera(self, frame: "SourceFrame", hw: tuple[int, int]) -> CameraInfo | None:
        camera = frame.camera
        if self._intrinsics is not None:
            camera = CameraInfo.of(self._intrinsics, frame.hw)
        return camera.resized(hw) if camera is not None and camera.is_calibrated else None

    def _seen(self, camera: CameraInfo) -> Rays | None:
        if self._rays is None or self._rays[0] != camera:
            self._rays = camera, rays(camera)
        return self._rays[1]

    def _metadata(self, told: list[dict[str, Any]], frame_id: str, points: str) -> list[Published]:
        checkpoint = self._manifest.checkpoint
        text = to_json(
            {
                "results": told,
                "frame_id": frame_id,
                "stamps": self.clock.name,
                **({"points": points} if points else {}),
                "model": {
                    "task": self._manifest.task,
                    "family": self._manifest.family,
                    "checkpoint": checkpoint.id,
                    "sha256": checkpoint.sha256,
                    "precision": self._manifest.precision,
                    "note": checkpoint.note,
                },
            }
        )
        if text == self._said:
            return []
        self._said = text
        return [Published(f"{self._prefix}/metadata", String(text), latched=True)]
