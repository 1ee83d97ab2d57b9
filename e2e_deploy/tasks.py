"""The two tasks and what their results mean; knows no model and no backend."""

from dataclasses import dataclass

from e2e_deploy.errors import UsageError
from e2e_deploy.names import TaskName


@dataclass(frozen=True)
class Task:
    """What a result is, in words that go into manifests and sidecars."""

    name: TaskName
    channels: int
    """Channels of the result; 1 means a plain [H, W] map."""
    value_range: tuple[float, float]
    meaning: str
    units: str

    def result_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one result without the batch axis: [H, W] or [H, W, 3]."""
        return (height, width) if self.channels == 1 else (height, width, self.channels)


TASKS: dict[str, Task] = {
    "depth": Task(
        name="depth",
        channels=1,
        value_range=(0.0, 1.0),
        meaning="affine-invariant depth, 0 = near, 1 = far",
        units="none: scale and shift are unknown (not metric)",
    ),
    "normals": Task(
        name="normals",
        channels=3,
        value_range=(-1.0, 1.0),
        meaning="unit surface normals, x right, y up, z toward the viewer",
        units="none: unit vectors",
    ),
}


def get_task(name: str) -> Task:
    """The task called ``name``.

    Raises:
        UsageError: there is no such task.
    """
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]
