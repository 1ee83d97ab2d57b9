"""Axes of directions as a camera sees them. The model's, ours, are the camera's: x right, y up, z toward the viewer."""

import numpy as np
import numpy.typing as npt

Normals = npt.NDArray[np.float32]

CAMERA = "x right, y up, z toward the viewer"
OPTICAL = "x right, y down, z forward"  # of robots (REP-103) and of OpenCV


def flipped(normals: Normals) -> Normals:
    """Normals [H, W, 3] from camera to optical axes or back: half a turn about x. A new array, twice is the same.

    The engine's array stays as it is, because the parity watch and other sinks may hold it.
    """
    turned = np.negative(normals)
    turned[..., 0] = normals[..., 0]
    return turned
