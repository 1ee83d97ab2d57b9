"""Ctrl-C, SIGTERM and SIGHUP as a request that the loop answers when its state is whole."""

import signal
import threading
from types import FrameType

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """While entered, the first signal sets ``requested``; a second Ctrl-C interrupts at once.

    Does nothing outside the main thread, where Python delivers no signals. SIGHUP stays ignored under nohup.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Terminals and schedulers send theirs more than once.
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
