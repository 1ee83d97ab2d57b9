"""The ROS 2 messages that are read and written: the fields of each, in their order and with their names.

Plain data. ``cdr.py`` makes bytes of them, a node of rclpy the messages of its own classes, which have the same fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError

Bytes = npt.NDArray[np.uint8]
"""Of a message's ``data``, flat."""
Float64s = npt.NDArray[np.float64]

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Time:
    """builtin_interfaces/msg/Time."""

    type_name: ClassVar[str] = "builtin_interfaces/msg/Time"
    sec: int = 0
    nanosec: int = 0

    @classmethod
    def of(cls, stamp_ns: int) -> "Time":
        """From nanoseconds.

        Raises:
            UsageError: more seconds than its 32 bits hold (until 2038).
        """
        sec, nanosec = divmod(int(stamp_ns), SECOND_NS)
        if not -(2**31) <= sec < 2**31:
            raise UsageError(f"a time of {sec:,} seconds does not fit the messages of ROS 2")
        return cls(sec, nanosec)

    @property
    def ns(self) -> int:
        """In nanoseconds."""
        return int(self.sec) * SECOND_NS + int(self.nanosec)


@dataclass(frozen=True)
class Header:
    """std_msgs/msg/Header."""

    type_name: ClassVar[str] = "std_msgs/msg/Header"
    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass(frozen=True)
class String:
    """std_msgs/msg/String."""

    type_name: ClassVar[str] = "std_msgs/msg/String"
    data: str = ""


@dataclass(frozen=True, eq=False)
class Image:
    """sensor_msgs/msg/Image: ``data`` holds ``height`` rows of ``step`` bytes."""

    type_name: ClassVar[str] = "sensor_msgs/msg/Image"
    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Bytes


@dataclass(frozen=True, eq=False)
class CompressedImage:
    """sensor_msgs/msg/CompressedImage."""

    type_name: ClassVar[str] = "sensor_msgs/msg/CompressedImage"
    header: Header
    format: str
    data: Bytes


@dataclass(frozen=True)
class RegionOfInterest:
    """sensor_msgs/msg/RegionOfInterest; all zeros is the whole picture."""

    type_name: ClassVar[str] = "sensor_msgs/msg/RegionOfInterest"
    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0
    do_rectify: bool = False


@dataclass(frozen=True, eq=False)
class CameraInfo:
    """sensor_msgs/msg/CameraInfo; ``cameras.py`` makes the camera of it that is reckoned with, and back."""

    type_name: ClassVar[str] = "sensor_msgs/msg/CameraInfo"
    header: Header
    height: int
    width: int
    distortion_model: str
    d: Float64s
    k: Float64s
    r: Float64s
    p: Float64s
    binning_x: int = 0
    binning_y: int = 0
    roi: RegionOfInterest = field(default_factory=RegionOfInterest)


@dataclass(frozen=True)
class PointField:
    """sensor_msgs/msg/PointField; of its datatypes FLOAT32 is written."""

    type_name: ClassVar[str] = "sensor_msgs/msg/PointField"
    FLOAT32: ClassVar[int] = 7
    name: str
    offset: int
    datatype: int
    count: int


@dataclass(frozen=True, eq=False)
class PointCloud2:
    """sensor_msgs/msg/PointCloud2; ``height`` rows of ``row_step`` bytes where it is organised as a picture."""

    type_name: ClassVar[str] = "sensor_msgs/msg/PointCloud2"
    header: Header
    height: int
    width: int
    fields: Sequence[PointField]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: Bytes
    is_dense: bool


Message = String | Image | CompressedImage | CameraInfo | PointCloud2
"""What topics carry."""

TYPES: dict[str, type[Any]] = {
    kind.type_name: kind
    for kind in (
        *(Time, Header, String, Image, CompressedImage, RegionOfInterest, CameraInfo),
        *(PointField, PointCloud2),
    )
}
"""All of them by their ROS names."""
