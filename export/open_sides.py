"""Which sizes graphs are made for; of dynamic graphs, whose height and width stay open, which sides. Needs no torch."""

from e2e_deploy.errors import UsageError
from e2e_deploy.frames import check_frame_size
from e2e_deploy.names import GraphKind

STEP_PX = 64
"""Sides of a dynamic graph are multiples of this and of the model's ``network_stride``: open sides halve exactly."""

MIN_STEPS, MAX_SIDE_PX = 2, 2048
"""Sides a dynamic graph takes: from twice its step, since a side of one is a case of its own, to 2048 px."""


def check_sizes(sizes: list[tuple[int, int]], *, kind: GraphKind, dynamic: bool) -> None:
    """Refuse what no graph is made for, before a checkpoint is loaded; arguments as of ``subject.plan_subjects``.

    Raises:
        UsageError: a size that cannot be used, or a dynamic graph of frames.
    """
    for height, width in sizes:
        check_frame_size(height, width)
    if not dynamic:
        return
    if kind != "core":
        raise UsageError(
            '`dynamic` needs `graph="core"`: the resize steps of a frame graph are constants of its frame size'
        )
    smallest = MIN_STEPS * STEP_PX
    for height, width in sizes:
        if min(height, width) < smallest:
            raise UsageError(
                f"a dynamic graph takes sides of {smallest} to {MAX_SIDE_PX} px, and {height}x{width} is smaller; "
                "choose other `frame_sizes`"
            )
