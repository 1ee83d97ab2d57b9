"""TensorRT's builder in a process of its own: it may crash, keep gigabytes or print, and an export must survive that.

Seen with TensorRT-RTX 1.7.1: a graph with open sides ends in std::bad_alloc on one machine and in a segmentation fault
on another; five full-size engines in one process leave it at 16 GiB; its compiler prints to stdout.

The child tells what happens as lines of JSON. It ends when nobody listens any more.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.export.network import BuildOptions, Network, Progress
from e2e_deploy.trt_api import TITLES, TrtApi, find_api, log
from e2e_deploy.trt_messages import BuildError, tidy

ERRORS = {kind.__name__: kind for kind in (BuildError, UnavailableError, UsageError)}
"""What crosses the pipe as what it is; anything else becomes an E2EDeployError."""

CRASHED = "export at fixed sides or in another precision, or with --engine onnx to have a bundle without an engine"
KILLED = (
    "most likely the machine ran out of memory: close other programs or use a smaller frame size"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One engine to build.

    Attributes:
        graph: path of an ONNX file.
        plan: path that the engine is written to.
        name: written into the engine.
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


def build_apart(library: str, request: Request, progress: Progress | None) -> dict[str, Any]:
    """build_here in another process; what ``progress`` raises, and Ctrl-C, end that process and are raised.

    Args:
        library: a key of TITLES.
        request: what to build.
        progress: called in this process.

    Raises:
        BuildError: also when the builder crashed.
        E2EDeployError: as build_here.
        OSError: the disk is full.
    """
    # -P: modules are not looked for in the folder one happens to be in.
    command = [sys.executable, "-P", "-m", __name__, library]
    command += [str(log.getEffectiveLevel()), json.dumps(asdict(request))]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                event = json.loads(line)
                if "progress" in event and progress is not None:
                    progress(*event["progress"])
                elif "log" in event:
                    log.log(event["log"][0], "%s", event["log"][1])
                elif "built" in event:
                    return dict(event["built"])
                elif "errno" in event:
                    raise OSError(event["errno"], event["text"])
                elif "error" in event:
                    raise ERRORS.get(event["error"], E2EDeployError)(event["text"])
            code = child.wait()  # it closed the pipe without a last word
        finally:
            child.kill()
        said.seek(0)
        raise _crash(TITLES[library], code, said.read().splitlines()[-3:])


def _crash(title: str, code: int, last: list[str]) -> BuildError:
    """The child ended without a word: by which signal, what was last on its stderr, and what to do."""
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    words = f": {tidy(last)}" if last else ""
    remedy = KILLED if code == -signal.SIGKILL else CRASHED
    return BuildError(f"{title}'s builder crashed with {how}{words}; {remedy}")


class _Forward(logging.Handler):
    """Log records to the parent."""

    def __init__(self, events: IO[str]) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        _tell(self._events, log=[record.levelno, record.getMessage()])


def _tell(events: IO[str], **event: Any) -> None:
    print(json.dumps(event), file=events, flush=True)


def _options(values: dict[str, Any]) -> BuildOptions:
    """BuildOptions again of what JSON made of one: shapes are tuples."""
    shapes = {
        name: tuple(tuple(side) for side in three) for name, three in values["shapes"].items()
    }
    return BuildOptions(**values | {"shapes": shapes})


def main() -> None:
    """The child: library, log level and request as arguments."""
    library, level, values = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    # The library prints to stdout, which is the pipe: what it prints goes to stderr, the pipe gets another number.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    log.setLevel(level)
    log.addHandler(_Forward(events))
    log.propagate = False
    try:
        request = Request(**values | {"options": _options(values["options"])})
        built = build_here(find_api(library), request, lambda *at: _tell(events, progress=list(at)))
    except BrokenPipeError:  # nobody listens: the parent is gone
        os._exit(1)
    except OSError as error:
        _tell(events, errno=error.errno, text=error.strerror or str(error))
    except MemoryError:
        _tell(events, error="BuildError", text=f"{TITLES[library]} ran out of memory; {KILLED}")
    except E2EDeployError as error:
        _tell(events, error=type(error).__name__, text=str(error))
    else:
        _tell(events, built=built)


if __name__ == "__main__":
    main()
