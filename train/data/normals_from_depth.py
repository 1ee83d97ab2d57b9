"""Surface normals from a planar depth map and its camera.

Knows: finite differences that do not reach across depth edges. Does not know: data sets.

For a plane the inverse depth w = 1/z is an affine function of the pixel, so its differences give
the plane's normal exactly. At a depth edge only one side belongs to the surface: each axis blends
the two one-sided differences in favour of the smoother side (the idea of discontinuity-aware
gradient filters, e.g. D2NT; the filter itself is our own).
"""

import numpy as np
import numpy.typing as npt

from e2e_deploy.train.data.sample import Camera

Float64 = npt.NDArray[np.float64]

FLATNESS = 1e-3
"""Second differences below this share of w count as equal: both sides are averaged, which halves the
noise of quantised depth; real edges are far above it."""


def normals_from_depth(depth_m: npt.NDArray[np.float32], camera: Camera) -> npt.NDArray[np.float32]:
    """Unit normals [H, W, 3] float32: x right, y up, z toward the viewer; zero where unknown.

    Args:
        depth_m: [H, W] planar depth in metres; zero, negative, NaN and infinite are invalid.
        camera: intrinsics in pixels of ``depth_m``.

    Raises:
        ValueError: ``depth_m`` is not [H, W].
    """
    if depth_m.ndim != 2:
        raise ValueError(f"depth must be [H, W], got {depth_m.shape}")
    height, width = depth_m.shape
    valid = np.isfinite(depth_m) & (depth_m > 0)
    # NaN marks what is missing and spreads through differences by itself.
    w = np.where(valid, 1.0, np.nan) / np.where(valid, depth_m.astype(np.float64), 1.0)
    w_u, w_v = _smooth_side_gradient(w), _smooth_side_gradient(w.T).T
    u = np.arange(width) - camera.cx
    v = (np.arange(height) - camera.cy)[:, None]
    # In x right, y down, z forward, this vector points away from the camera: its product with the
    # point z ((u - cx) / fx, (v - cy) / fy, 1) is 1. Turning it around and y up leaves two signs.
    normal = np.stack([-camera.fx * w_u, camera.fy * w_v, w - u * w_u - v * w_v], axis=-1)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    known = np.isfinite(length) & (length > 0)
    return np.where(known, normal / np.where(known, length, 1.0), 0.0).astype(np.float32)


def _smooth_side_gradient(w: Float64) -> Float64:
    """Derivative of ``w`` along its last axis, per pixel; NaN where neither side is known."""
    padded = np.pad(w, ((0, 0), (2, 2)), constant_values=np.nan)
    far_left, left = padded[:, :-4], padded[:, 1:-3]
    right, far_right = padded[:, 3:-1], padded[:, 4:]
    before, after = w - left, right - w
    # A side that ends after one pixel has no second difference; its first one judges it instead.
    bend_before = np.abs(np.where(np.isnan(far_left), before, before - (left - far_left)))
    bend_after = np.abs(np.where(np.isnan(far_right), after, (far_right - right) - after))
    floor = FLATNESS * np.abs(w)
    weight_before = np.where(np.isnan(before), 0.0, 1.0 / (bend_before**2 + floor**2))
    weight_after = np.where(np.isnan(after), 0.0, 1.0 / (bend_after**2 + floor**2))
    total = weight_before + weight_after
    with np.errstate(invalid="ignore"):
        blended: Float64 = (
            np.where(weight_before > 0, before, 0.0) * weight_before
            + np.where(weight_after > 0, after, 0.0) * weight_after
        ) / total
    return blended
