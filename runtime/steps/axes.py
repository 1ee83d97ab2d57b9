"""The step that gives normals in other axes."""

from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.camera.axes import OPTICAL, flipped
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts, Step


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
