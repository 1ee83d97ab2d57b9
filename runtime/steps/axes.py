"""Normals in other axes. The model's, ours, are the camera's: x right, y up, z toward the viewer."""

import numpy as np

from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts, Step

CAMERA = "x right, y up, z toward the viewer"
OPTICAL = "x right, y down, z forward"  # of robots (REP-103) and of OpenCV


def flipped(normals: Result) -> Result:
    """Normals [H, W, 3] from camera to optical axes or back: half a turn about x. A new array, twice is the same.

    The engine's array stays as it is, because the parity watch and other sinks may hold it.
    """
    turned = np.negative(normals)
    turned[..., 0] = normals[..., 0]
    return turned


def optical() -> Step:
    """A step that gives normals in optical axes; sidecars say so."""

    def step(frame: SourceFrame, normals: Result, facts: Facts) -> Result:
        facts["axes"] = OPTICAL
        facts["meaning"] = f"unit surface normals, {OPTICAL}"
        return flipped(normals)

    return step


def in_camera_axes(normals: Result, facts: Facts) -> Result:
    """Normals as colours show them, whatever a step made of them."""
    return flipped(normals) if facts.get("axes") == OPTICAL else normals
