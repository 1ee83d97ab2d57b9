"""Those who get a stream: each with a thread and a short queue, so that nobody waits for a slow one."""

import threading
import time
from collections import deque
from collections.abc import Callable

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.sinks.streams.links import Link, why
from e2e_deploy.runtime.sinks.streams.packing import Chunk

MAX_RECEIVERS = 8
MAX_WAITING = 15  # frames for one receiver; then they go, and it begins again at a key frame
PATIENCE_S = 2.0  # for what waits at the end
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


class Receiver:
    """Sends chunks to one receiver, once it is started.

    Args:
        link: the way to it.
        again: opens another when that one is lost; None ends with it.

    Attributes:
        dropped: frames that it was too slow for, or not there.
        gone: whether it gets nothing more.
        lost: why it gets nothing now, where it was; empty while it is there.
        wants_key: whether it came, or came back, and needs a frame to begin with.
    """

    def __init__(self, link: Link, again: Callable[[], Link] | None = None) -> None:
        self._link, self._again = link, again
        self._waiting: deque[Chunk] = deque()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._skips = True  # to the next key frame
        self.wants_key = True
        self.dropped = 0
        self.gone = False
        self.lost = ""
        self._thread = threading.Thread(target=self._work, name="e2e-deploy stream", daemon=True)

    def start(self) -> None:
        """Send what waits, and what comes."""
        self._thread.start()

    def put(self, chunk: Chunk) -> None:
        """Take one frame; what is not sent in time is counted, never waited for."""
        with self._changed:
            if len(self._waiting) >= MAX_WAITING:
                self.dropped += len(self._waiting)
                self._waiting.clear()
                self._skips = True
            if self.lost or (self._skips and not chunk.is_key):
                self.dropped += (
                    not self.wants_key
                )  # what was on its way when it came is not its own
                return
            self._skips = self.wants_key = False
            self._waiting.append(chunk)
            self._changed.notify()

    def finish(self, last: Chunk | None = None) -> None:
        """Take nothing more; what waits is still sent, and ``last``."""
        with self._changed:
            if last is not None and not self._skips:
                self._waiting.append(last)
            self._closed.set()
            self._changed.notify()

    def end(self, patience_s: float = 0.0) -> None:
        """Wait for what is still sent, and end the link."""
        if self._thread.is_alive():
            self._thread.join(patience_s)
        self._link.close()

    def _next(self) -> Chunk | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed.is_set() or self._waiting)
            return self._waiting.popleft() if self._waiting else None

    def _work(self) -> None:
        while (chunk := self._next()) is not None:
            try:
                self._link.send(chunk)
            except OSError as error:
                self._link.close()
                if not self._reopen(why(error)):
                    break
        self.gone, self.wants_key = True, False
        self._link.close()

    def _reopen(self, why: str) -> bool:
        """Whether there is a new link; tried with growing pauses until the end."""
        if self._again is None:  # it left
            return False
        with self._changed:
            self.lost, self.wants_key = why, False
            self.dropped += 1 + len(self._waiting)
            self._waiting.clear()
            self._skips = True
        pause = FIRST_PAUSE_S
        while not self._closed.wait(pause):
            try:
                self._link = self._again()
            except (OSError, E2EDeployError):
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            with self._changed:
                self.lost, self.wants_key = "", True
            return True
        return False


class Audience:
    """All receivers of a stream."""

    def __init__(self) -> None:
        self._receivers: list[Receiver] = []
        self._changing = threading.Lock()
        self._closed = False
        self._left = 0

    def add(self, receiver: Receiver) -> bool:
        """Whether it is taken: there are at most MAX_RECEIVERS."""
        with self._changing:
            taken = not self._closed and len(self._receivers) < MAX_RECEIVERS
            if taken:
                self._receivers.append(receiver)
        return taken

    def remove(self, receiver: Receiver) -> None:
        """It left; it was added."""
        receiver.finish()
        receiver.end()
        with self._changing:
            if receiver in self._receivers:
                self._receivers.remove(receiver)
                self._left += receiver.dropped

    def put(self, chunk: Chunk) -> None:
        """One frame for all of them."""
        for receiver in self.all:
            receiver.put(chunk)

    @property
    def all(self) -> list[Receiver]:
        """Those that are there now."""
        with self._changing:
            return list(self._receivers)

    @property
    def wants_key(self) -> bool:
        """Whether one of them needs a frame to begin with."""
        return any(receiver.wants_key for receiver in self.all)

    @property
    def dropped(self) -> int:
        """Frames that did not reach a receiver, of all there are or were."""
        return self._left + sum(receiver.dropped for receiver in self.all)

    def close(self, last: Chunk) -> None:
        """Send what waits and ``last``, for PATIENCE_S in all, and end every link."""
        with self._changing:
            self._closed = True
        until_s = time.monotonic() + PATIENCE_S
        for receiver in self.all:
            receiver.finish(last)
        for receiver in self.all:
            receiver.end(max(0.0, until_s - time.monotonic()))
