"""What a model has to beat: predictions that need no picture, only the truth they are fitted to."""

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def best_plane(depth_m: npt.NDArray[Any], valid: Mask) -> npt.NDArray[np.float64]:
    """The best affine fit [H, W] of the pixel coordinates to depth [H, W] where it is valid."""
    rows, columns = np.indices(depth_m.shape)
    basis = np.stack([rows.ravel(), columns.ravel(), np.ones(depth_m.size)], axis=1)
    inside = valid.ravel()
    coefficients = np.linalg.lstsq(basis[inside], depth_m.ravel()[inside], rcond=None)[0]
    return np.asarray((basis @ coefficients).reshape(depth_m.shape))


def mean_normal(normals: npt.NDArray[Any], valid: Mask) -> npt.NDArray[np.float64]:
    """The mean of normals [H, W, 3] where they are valid, everywhere."""
    mean = normals[valid].mean(axis=0, dtype=np.float64)
    return np.broadcast_to(mean / np.linalg.norm(mean), normals.shape)
