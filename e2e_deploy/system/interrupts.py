"""Ctrl-C while a library computes: Python hears it between two calls only, and one call may last minutes, or for ever.

So the main thread waits where it can hear it (``interruptible``), while a thread of its own computes and has said how a
computation is asked to end (``stoppable``).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 2.0
"""What a computation that was asked to end may still take before it is left behind."""

_stops: dict[int, Callable[[], None]] = {}  # by thread
_left_behind: list["WorkThread"] = []


class WorkThread(threading.Thread):
    """A thread to wait for with ``wait``: after a Ctrl-C in Thread.join, Python 3.11 takes a thread for ended."""

    def __init__(self, work: Callable[[], object], name: str) -> None:
        super().__init__(name=f"e2e-deploy {name}", daemon=True)
        self._work = work
        self._ended = threading.Event()

    def run(self) -> None:
        """Work; nothing is raised here that ``work`` lets pass."""
        try:
            self._work()
        finally:
            self._ended.set()

    @property
    def works(self) -> bool:
        """Whether it was started and has not ended."""
        return self.ident is not None and not self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until it ended, or for ``seconds``; whether it ended."""
        return self._ended.wait(seconds)


@contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """A computation in this thread; ``stop``, called in another thread, makes it fail soon.

    Raises:
        KeyboardInterrupt: it failed because it was stopped.
    """
    stopped = threading.Event()

    def stop_once() -> None:
        stopped.set()
        stop()

    me = threading.get_ident()
    before, _stops[me] = _stops.get(me), stop_once
    try:
        yield
    except Exception:
        if stopped.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        if before is None:
            del _stops[me]
        else:
            _stops[me] = before


def stop_computation(thread: WorkThread) -> bool:
    """Ask what ``thread`` computes to end, and wait a moment; whether the thread ended."""
    stop = _stops.get(thread.ident or 0)
    if stop is not None:
        stop()
    if thread.wait(PATIENCE_S):
        return True
    _left_behind.append(thread)
    return False


def left_behind() -> bool:
    """Whether a computation still goes on that did not end when it was asked to: no library survives an exit then."""
    return any(thread.works for thread in _left_behind)


def interruptible(work: Callable[[], T]) -> T:
    """What ``work()`` returns or raises; called in the main thread, Ctrl-C ends it within PATIENCE_S."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = WorkThread(run, "work")
    try:
        thread.start()
        while not thread.wait(
            0.2
        ):  # a wait without a limit would not let Ctrl-C through everywhere
            pass
    except KeyboardInterrupt:
        stop_computation(thread)
        raise
    if errors:
        raise errors[0]
    return results[0]
