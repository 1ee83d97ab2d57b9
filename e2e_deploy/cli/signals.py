"""What ends the command line from outside: SIGTERM and SIGHUP clean up as Ctrl-C does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ending_like_ctrl_c() -> Iterator[None]:
    """Within the block the first SIGTERM or SIGHUP raises KeyboardInterrupt, and further ones do nothing.

    One that the starter ignores stays ignored: nohup says that the work outlives its terminal. Outside the main
    thread, where Python delivers no signals, nothing is changed.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker that its parent ends
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for (
            ending
        ) in ENDING:  # a closing terminal sends two, and the second must not stop the cleaning up
            signal.signal(ending, signal.SIG_IGN)
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
