"""What ends the command line from outside: SIGTERM and SIGHUP clean up as Ctrl-C does."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
ONE_ENDING_S = 3.0
"""A closing terminal sends two signals, and the second must not stop the cleaning up. Later ones count again: Python
loses an exception that is raised inside a callback of the garbage collector."""


@contextmanager
def ending_like_ctrl_c() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise KeyboardInterrupt; those that follow at once are taken for the same.

    One that the starter ignores stays ignored: nohup says that the work outlives its terminal. Outside the main
    thread, where Python delivers no signals, nothing is changed.
    """
    owner, ended_s = os.getpid(), -ONE_ENDING_S

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended_s
        if os.getpid() != owner:  # a forked worker that its parent ends
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if time.monotonic() - ended_s < ONE_ENDING_S:
            return
        ended_s = time.monotonic()
        raise KeyboardInterrupt

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) == signal.SIG_DFL:
                previous[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
