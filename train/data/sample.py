"""One training image in memory, the same for every data set.

Knows: the sample, its camera, what makes a depth value valid, the depth that is learned, when a unit looks wrong.
Does not know: files, tensors, augmentation.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from e2e_deploy.names import TaskName
from e2e_deploy.system.records import Limits

NEAR_QUANTILE, FAR_QUANTILE = 0.02, 0.98
"""Metric depth is clamped to these quantiles of the image's valid pixels (E2E-FT, Marigold)."""

TruthName = Literal["depth", "normals", "mask", "matte"]
"""What a data set can store beside pictures."""

TRUTHS: dict[TaskName, tuple[TruthName, ...]] = {
    "depth": ("depth",),
    "disparity": ("depth",),
    "normals": ("normals",),
    "geometry": ("depth", "normals"),
    "segmentation": ("mask",),
    "matting": ("matte",),
}
"""What the truth of a task is made of; nothing is stored for the others."""

SUSPECT_BELOW_M, SUSPECT_ABOVE_M = 0.05, 200.0
"""A median depth outside this range is more likely a wrong unit than a real scene."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """Pinhole intrinsics in pixels; pixel centres are at whole numbers."""

    fx: Annotated[float, Limits(0, open_low=True)]
    fy: Annotated[float, Limits(0, open_low=True)]
    cx: float
    cy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image with its ground truth."""

    rgb: npt.NDArray[np.uint8]
    """[H, W, 3], RGB."""
    depth_m: npt.NDArray[np.float32]
    """[H, W], planar depth in metres, 0 where invalid or not read."""
    normals: npt.NDArray[np.float32] | None
    """[H, W, 3], unit length, x right, y up, z toward the viewer, zero where unknown; None if not read."""
    valid: npt.NDArray[np.bool_]
    """[H, W], where depth is known and inside the data set's range."""
    path: str
    """Where the image came from, for messages."""
    mask: npt.NDArray[np.float32] | None = None
    """[H, W, 3] in [0, 1], a colour for each segment, NaN where unknown; None if not read."""
    matte: npt.NDArray[np.float32] | None = None
    """[H, W] in [0, 1], opacity of the foreground, NaN where unknown; None if not read."""

    def known(self, task: TaskName) -> npt.NDArray[np.bool_]:
        """[H, W], where the truth of ``task`` is known: normals need no depth, and depth no normals."""
        known = np.stack([self._known(truth) for truth in TRUTHS[task]])
        of_all: npt.NDArray[np.bool_] = np.all(known, axis=0)
        return of_all

    def _known(self, truth: TruthName) -> npt.NDArray[np.bool_]:
        if truth == "depth":
            return self.valid
        array = {"normals": self.normals, "mask": self.mask, "matte": self.matte}[truth]
        if array is None:
            return np.zeros_like(self.valid)
        known: npt.NDArray[np.bool_]
        if truth == "normals":
            known = (array != 0).any(axis=-1)
        else:
            finite: npt.NDArray[np.bool_] = np.isfinite(array.reshape(*self.valid.shape, -1))
            known = np.logical_and.reduce(finite, axis=-1)
        return known


@dataclass(frozen=True, slots=True)
class BadSample:
    """One sample that cannot be used, and why."""

    name: str
    reason: str


def valid_depth(
    depth_m: npt.NDArray[Any], min_m: float = 0.0, max_m: float = float("inf")
) -> npt.NDArray[np.bool_]:
    """Where depth is finite, positive and strictly between ``min_m`` and ``max_m``."""
    valid: npt.NDArray[np.bool_] = (depth_m > max(min_m, 0.0)) & (depth_m < max_m)
    valid &= np.isfinite(depth_m)
    return valid


def ray_to_planar(distance_m: npt.NDArray[np.float32], camera: Camera) -> npt.NDArray[np.float32]:
    """Planar depth from the distance to the camera centre; both [H, W] float32 in metres."""
    height, width = distance_m.shape
    x = (np.arange(width) - camera.cx) / camera.fx
    y = ((np.arange(height) - camera.cy) / camera.fy)[:, None]
    return (distance_m / np.sqrt(1.0 + x**2 + y**2)).astype(np.float32)


def depth_target(
    depth_m: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Clamp metric depth [H, W] to its 2 to 98 per cent quantiles over the valid pixels.

    Returns:
        Depth with the far value at invalid pixels, and the mask: empty when the image is flat.
    """
    if not valid.any():
        return np.zeros_like(depth_m), valid
    near, far = np.quantile(depth_m[valid], [NEAR_QUANTILE, FAR_QUANTILE])
    clamped = np.where(valid, np.clip(depth_m, near, far), far).astype(np.float32)
    return clamped, valid if far > near else np.zeros_like(valid)


def suspect_unit(median_m: float) -> str | None:
    """A sentence when a median depth of ``median_m`` metres points to a wrong unit, else None."""
    if median_m < SUSPECT_BELOW_M:
        return (
            f"the median depth is {median_m:.3g} m, below {SUSPECT_BELOW_M} m: the unit looks "
            "wrong (metres read as millimetres?); check depth.unit_m"
        )
    if median_m > SUSPECT_ABOVE_M:
        return (
            f"the median depth is {median_m:.4g} m, above {SUSPECT_ABOVE_M:g} m: the unit looks "
            "wrong (millimetres read as metres?); check depth.unit_m"
        )
    return None
