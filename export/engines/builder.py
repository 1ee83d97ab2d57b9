"""TensorRT's builder in a process of its own: it may crash, keep gigabytes or print, and an export must survive that.

Seen with TensorRT-RTX 1.7.1: a graph with open sides ends in std::bad_alloc on one machine and in a segmentation fault
on another; five full-size plans in one process leave it at 16 GiB; its compiler prints to stdout.
"""

import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.export.engines.tensorrt import BuildOptions, Network, Progress
from e2e_deploy.names import PLAN_TITLES, PlanKind
from e2e_deploy.nvidia.trt_api import LIBRARIES, TrtApi, find_api, log
from e2e_deploy.nvidia.trt_messages import BuildError, tidy
from e2e_deploy.system.child import Child, Parent

CRASHED = 'export at fixed sides or in another precision, or with `engine="onnx"` to have a bundle without a plan'
KILLED = (
    "most likely the machine ran out of memory: close other programs or use a smaller frame size"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One plan to build.

    Attributes:
        graph: path of an ONNX file.
        plan: path that the plan is written to.
        name: written into the plan.
        options: how it is built.
        timings: path of TensorRT's timing cache, read if it is there; None where the library has none.
        new_timings: path the timing cache is written to afterwards.
    """

    graph: str
    plan: str
    name: str
    options: BuildOptions
    timings: str | None = None
    new_timings: str | None = None


def build_here(api: TrtApi, request: Request, progress: Progress | None) -> dict[str, Any]:
    """Build in this process.

    Returns:
        decomposed_attention and network, as the manifest has them.

    Raises:
        BuildError: the parser or the builder refuses.
        UnavailableError: the library needs a driver and there is none.
        UsageError: a target or shapes that cannot be used.
        OSError: the disk is full.
    """
    known = Path(request.timings) if request.timings else None
    before = known.read_bytes() if known is not None and known.is_file() else None
    with Network(api, Path(request.graph), request.name) as network:
        plan, timings = network.build(request.options, progress, before)
        Path(request.plan).write_bytes(memoryview(plan))
        if timings is not None and request.new_timings:
            Path(request.new_timings).write_bytes(timings)
        return {"decomposed_attention": network.decomposed, "network": network.layers()}


def build_apart(library: PlanKind, request: Request, progress: Progress | None) -> dict[str, Any]:
    """build_here in another process; what ``progress`` raises, and Ctrl-C, end that process and are raised.

    Args:
        library: a key of PLAN_TITLES.
        request: what to build.
        progress: called in this process.

    Raises:
        BuildError: also when the builder crashed.
        E2EDeployError: as build_here.
        OSError: the disk is full.
    """
    with Child(__name__, library, str(log.getEffectiveLevel())) as child:
        child.tell(request=asdict(request))
        for event in child.events():
            if "progress" in event and progress is not None:
                progress(*event["progress"])
            elif "log" in event:
                log.log(event["log"][0], "%s", event["log"][1])
            elif "built" in event:
                return dict(event["built"])
        crash = child.crash()
    words = f": {tidy(crash.said[-3:])}" if crash.said else ""
    remedy = KILLED if crash.was_killed else CRASHED
    raise BuildError(f"{PLAN_TITLES[library]}'s builder crashed with {crash.how}{words}; {remedy}")


class _Forward(logging.Handler):
    """Log records to the parent."""

    def __init__(self, parent: Parent) -> None:
        super().__init__()
        self._parent = parent

    def emit(self, record: logging.LogRecord) -> None:
        self._parent.tell(log=[record.levelno, record.getMessage()])


def _options(values: dict[str, Any]) -> BuildOptions:
    """BuildOptions again of what JSON made of one: shapes are tuples."""
    shapes = {
        name: tuple(tuple(side) for side in three) for name, three in values["shapes"].items()
    }
    return BuildOptions(**values | {"shapes": shapes})


def main() -> None:
    """The child: library and log level as arguments, then one request."""
    parent = Parent()
    library, level = next(name for name in LIBRARIES if name == sys.argv[1]), int(sys.argv[2])
    log.setLevel(level)
    log.addHandler(_Forward(parent))
    log.propagate = False
    with parent.told_of_errors():
        values = next(parent.requests())["request"]
        request = Request(**values | {"options": _options(values["options"])})
        try:
            built = build_here(
                find_api(library), request, lambda *at: parent.tell(progress=list(at))
            )
        except MemoryError:
            raise BuildError(f"{PLAN_TITLES[library]} ran out of memory; {KILLED}") from None
        parent.tell(built=built)


if __name__ == "__main__":
    main()
