"""What a camera says of itself: sensor_msgs/CameraInfo of ROS 2, field by field."""

from dataclasses import dataclass, replace

from e2e_deploy.runtime.camera.intrinsics import Intrinsics

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class CameraInfo:
    """A calibrated camera, for pictures of one size.

    Attributes:
        height: of the pictures it is for, in pixels.
        width: the same.
        k: [9] row by row, the camera matrix of the raw, distorted picture.
        p: [12] row by row, the projection matrix of the rectified picture.
        distortion_model: "plumb_bob" and others; empty where there is none.
        d: its coefficients.
        r: [9] row by row, rotates the camera into the rectified one's axes.
    """

    height: int
    width: int
    k: tuple[float, ...]
    p: tuple[float, ...]
    distortion_model: str = ""
    d: tuple[float, ...] = ()
    r: tuple[float, ...] = IDENTITY

    @classmethod
    def of(cls, camera: Intrinsics, hw: tuple[int, int]) -> "CameraInfo":
        """A pinhole camera without distortion."""
        fx, fy, cx, cy = camera.fx, camera.fy, camera.cx, camera.cy
        k = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
        p = (fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0)
        return cls(hw[0], hw[1], k, p)

    @property
    def is_calibrated(self) -> bool:
        """Whether it says anything: K[0] is 0 for a camera that does not know (CameraInfo.msg)."""
        return self.k[0] > 0 and self.k[4] > 0

    @property
    def intrinsics(self) -> Intrinsics | None:
        """Of K; None for a camera that is not calibrated."""
        k = self.k
        return Intrinsics(k[0], k[4], k[2], k[5]) if self.is_calibrated else None

    def resized(self, hw: tuple[int, int]) -> "CameraInfo":
        """For the same picture at another size; pixel centres are whole numbers, so a centre moves by half a pixel.

        The edge of a picture stays its edge: ``u' + 0.5 = (u + 0.5) * scale``.
        """
        if hw == (self.height, self.width):
            return self
        x, y = hw[1] / self.width, hw[0] / self.height

        def scaled(m: tuple[float, ...], columns: int) -> tuple[float, ...]:
            rows = [list(m[i : i + columns]) for i in range(0, len(m), columns)]
            for row, scale in ((rows[0], x), (rows[1], y)):
                row[:] = [value * scale for value in row]
                row[2] += 0.5 * (scale - 1.0)
            return tuple(value for row in rows for value in row)

        return replace(self, height=hw[0], width=hw[1], k=scaled(self.k, 3), p=scaled(self.p, 4))
