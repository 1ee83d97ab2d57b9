"""What checkpoints do, and the kinds of result that each task gives, in order; a family may have others."""

from e2e_deploy.errors import UsageError
from e2e_deploy.names import ResultKind, TaskName

TASKS: dict[TaskName, tuple[ResultKind, ...]] = {
    "depth": ("depth",),
    "disparity": ("disparity",),
    "normals": ("normals",),
    "geometry": ("depth", "normals"),
    "segmentation": ("mask",),
    "matting": ("matte",),
    "appearance": ("albedo", "material"),
    "lighting": ("albedo", "shading", "residual"),
}


def get_task(name: str) -> TaskName:
    """The task called ``name``.

    Raises:
        UsageError: there is no such task.
    """
    for task in TASKS:
        if task == name:
            return task
    raise UsageError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")
