"""sensor_msgs/CameraInfo as the camera that is reckoned with, and back; and where its pixels look."""

from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.camera.camera_info import IDENTITY, CameraInfo
from e2e_deploy.runtime.camera.intrinsics import MAX_PX
from e2e_deploy.runtime.ros import messages
from e2e_deploy.runtime.ros.messages import Header
from e2e_deploy.system.opencv import cv2

Rays = npt.NDArray[np.float32]
_POLYNOMIALS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14)}
_FISHEYE = {"equidistant": (4,)}
"""The models of sensor_msgs/distortion_models.hpp, with how many coefficients OpenCV takes of each."""
_UNTIL = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-9)
_MAX_MISS_PX = 0.1


def camera_of(info: messages.CameraInfo, *, rectified: bool = False) -> CameraInfo:
    """The camera of pictures as they arrive: binning and the region of interest are in its size, K and P.

    Args:
        info: of the whole sensor, as drivers give it (CameraInfo.msg; the formulas are image_geometry's).
        rectified: the pictures are, so that P says where their pixels look, and nothing is distorted.

    Raises:
        SourceError: values that no camera has.
    """
    given = [*info.d, *info.k, *info.r, *info.p]
    if not np.isfinite(given).all() or (len(info.k), len(info.r), len(info.p)) != (9, 9, 12):
        raise SourceError("a CameraInfo holds values that are no numbers")
    roi = info.roi
    offset = (float(roi.x_offset), float(roi.y_offset))
    whole = (int(info.width), int(info.height))
    size = (int(roi.width) or whole[0], int(roi.height) or whole[1])
    bins = (max(1, int(info.binning_x)), max(1, int(info.binning_y)))

    def seen(m: npt.NDArray[np.float64], columns: int) -> tuple[float, ...]:
        rows = np.array(m, dtype=np.float64).reshape(3, columns)
        for axis in (0, 1):
            rows[axis, 2] -= offset[axis] if rows[axis, axis] else 0.0
            rows[axis] /= bins[axis]
        return tuple(map(float, rows.ravel()))

    k, p = seen(info.k, 3), seen(info.p, 4)
    d, r, model = tuple(map(float, info.d)), tuple(map(float, info.r)), info.distortion_model
    if rectified and p[0] > 0:
        k, d, r, model = (*p[0:3], *p[4:7], *p[8:11]), (), IDENTITY, ""
    width, height = size[0] // bins[0], size[1] // bins[1]
    if k[0] > 0 and min(width, height) < 1:
        raise SourceError(f"a CameraInfo is calibrated for pictures of {width}x{height}")
    if k[0] > 0 and not (min(k[0], k[4]) >= 1 and np.abs([k[0], k[4], k[2], k[5]]).max() <= MAX_PX):
        raise SourceError(
            f"a CameraInfo holds values that no camera has: fx, fy, cx, cy of {k[0]:g}, {k[4]:g}, {k[2]:g}, {k[5]:g}"
        )
    return CameraInfo(height, width, k, p, model, d, r)


def camera_message(camera: CameraInfo, header: Header) -> messages.CameraInfo:
    """The message of a camera."""
    d, k, r, p = (np.array(m, dtype=np.float64) for m in (camera.d, camera.k, camera.r, camera.p))
    model = camera.distortion_model
    return messages.CameraInfo(header, camera.height, camera.width, model, d, k, r, p)


def rays(camera: CameraInfo) -> Rays | None:
    """What every pixel sees at z = 1: float32 [2, H, W], x and y in optical axes; the lens is undone.

    Without distortion x = (u - cx) / fx. NaN where the lens' formula cannot be undone, as beyond the circle that it was
    fitted to. None for a camera that is not calibrated, or whose lens is of a model that is not known here.
    """
    intrinsics, d = camera.intrinsics, np.array(camera.d, dtype=np.float64)
    if intrinsics is None:
        return None
    if not d.any():
        found = np.empty((2, camera.height, camera.width), dtype=np.float32)
        found[0] = (np.arange(camera.width) - intrinsics.cx) / intrinsics.fx
        found[1] = ((np.arange(camera.height) - intrinsics.cy) / intrinsics.fy)[:, None]
        return found
    is_fisheye = d.size in _FISHEYE.get(camera.distortion_model, ())
    if not is_fisheye and d.size not in _POLYNOMIALS.get(camera.distortion_model, ()):
        return None
    return _undone(camera, cv2.fisheye if is_fisheye else cv2, d)


def _undone(camera: CameraInfo, lens: Any, d: npt.NDArray[np.float64]) -> Rays:
    """Rays through a lens, undone on a grid whose cells are small against the focal length, and linear in each.

    What a lens bends within a cell is below a hundredth of a pixel; undoing it for each would take seconds.
    """
    step = next((step for step in (8, 4, 2) if 100 * step <= min(camera.k[0], camera.k[4])), 1)
    height, width = -(-(camera.height - 1) // step) + 1, -(-(camera.width - 1) // step) + 1
    v, u = np.mgrid[:height, :width].astype(np.float64) * step
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    k = np.array(camera.k, dtype=np.float64).reshape(3, 3)
    found = lens.undistortPoints(pixels, k, d, criteria=_UNTIL)
    ahead = np.concatenate([found, np.ones_like(found[..., :1])], axis=-1)
    none = np.zeros(3)
    again = lens.projectPoints(ahead, none, none, k, d)[0]
    missed = np.abs(again.reshape(-1, 2) - pixels[:, 0]).max(axis=1)
    found[~(missed < _MAX_MISS_PX)] = np.nan
    grid = found.reshape(height, width, 2).astype(np.float32)
    if step == 1:
        return np.ascontiguousarray(np.moveaxis(grid, 2, 0))
    at = np.meshgrid(
        np.arange(camera.width, dtype=np.float32) / step,
        np.arange(camera.height, dtype=np.float32) / step,
    )  # eighths are exact in the 5 bits that OpenCV interpolates with
    planes = [
        cv2.remap(plane, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for plane in np.ascontiguousarray(np.moveaxis(grid, 2, 0))
    ]
    return np.asarray(planes, dtype=np.float32)
