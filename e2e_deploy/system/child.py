"""Native code that compiles may abort its process: it runs in one of its own, and both sides talk in lines of JSON.

    Child     the parent's side: a module of this package, started with ``python -m``
    Parent    the child's side: requests come on stdin, events go where stdout was

The child ends when nobody listens any more. Who uses it: the plans' builder, the renderer.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from e2e_deploy.errors import E2EDeployError


@dataclass(frozen=True)
class Crash:
    """A process that ended without a last word.

    Attributes:
        code: its exit code; minus the signal that ended it.
        said: the lines on its stderr.
    """

    code: int
    said: tuple[str, ...]

    @property
    def how(self) -> str:
        """The signal's name, or the exit code."""
        return signal.Signals(-self.code).name if self.code < 0 else f"exit code {self.code}"

    @property
    def was_killed(self) -> bool:
        """By SIGKILL, which on Linux is most often the kernel that ran out of memory."""
        return self.code == -signal.SIGKILL


class Child:
    """``module`` of this package in a process of its own; it is killed when the block ends.

    Args:
        module: the full name; its ``main`` talks through a `Parent`.
        arguments: its command line.
        own_group: it starts processes of its own, which end with it.
    """

    def __init__(self, module: str, *arguments: str, own_group: bool = False) -> None:
        self._own_group = own_group
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close
        self._process = subprocess.Popen(
            # -P: modules are not looked for in the folder one happens to be in.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            encoding="utf-8",
            start_new_session=own_group,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """End the process, whatever it does; may be called from another thread than the one that listens."""
        if self._own_group and os.name == "posix":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def close(self) -> None:
        """End the process and give back what it held here."""
        self.kill()
        with suppress(BrokenPipeError), self._process, self._said:
            pass

    def tell(self, **request: Any) -> None:
        """Send a request; one that has ended says so through `events`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)

    def events(self) -> Iterator[dict[str, Any]]:
        """What it tells, until it ends; an error that it tells of is raised here.

        Raises:
            E2EDeployError: or the kind of it that was raised there.
            OSError: as there.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if "errno" in event:
                raise OSError(event["errno"], event["text"], event["file"])
            if "error" in event:
                raise _error_kinds().get(event["error"], E2EDeployError)(event["text"])
            yield event

    def crash(self) -> Crash:
        """How it ended; to be asked after `events` came to an end."""
        code = self._process.wait()
        self._said.seek(0)
        return Crash(code, tuple(self._said.read().splitlines()))


class Parent:
    """In the child: whoever started it. Made first, and once: what prints then goes to stderr."""

    def __init__(self) -> None:
        # A terminal sends these to parent and child at once; what they mean is the parent's to decide.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # Native libraries print to stdout, which is the pipe: their prints go to stderr, the pipe gets another number.
        self._events = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def tell(self, **event: Any) -> None:
        """Send an event; ends the process when nobody listens."""
        try:
            print(json.dumps(event), file=self._events, flush=True)
        except BrokenPipeError:
            os._exit(1)

    def requests(self) -> Iterator[dict[str, Any]]:
        """What it asks for, until it has gone."""
        for line in sys.stdin:
            yield json.loads(line)

    @contextmanager
    def told_of_errors(self) -> Iterator[None]:
        """Errors raised on purpose, and the system's, are sent instead of raised."""
        try:
            yield
        except OSError as error:
            text = error.strerror or str(error)
            name = error.filename
            self.tell(errno=error.errno, text=text, file=None if name is None else str(name))
        except E2EDeployError as error:
            self.tell(error=type(error).__name__, text=str(error))


def _error_kinds() -> dict[str, type[E2EDeployError]]:
    """Every kind of error that this process knows, by name."""
    known, found = {}, [E2EDeployError]
    while found:
        kind = found.pop()
        known[kind.__name__] = kind
        found += kind.__subclasses__()
    return known
