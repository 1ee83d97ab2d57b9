"""Long work said as it happens, on stderr: a terminal shows one line, rewritten in place; a pipe gets plain lines.

    stages = Stages()
    with stages("trace 480x640") as say:  # a piece of work; how many seconds it took stays
        say("layer 3 of 80")

    with Count("reading") as count:  # done of total: a bar and the time left; in a pipe a line every ten per cent
        check_data(root, on_progress=count)
        count.say("a sentence that stays")

    with Line() as line:  # words of one's own
        line.show("120 frames, 24.1 fps")

What is shown may come from any thread; it is printed as it is.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

EVERY_S = 0.2  # between two paintings
TICK_S = 1.0  # a line that nobody changes is painted again, for what it says of the time
BAR = 24
_CLEAR = "\r\x1b[K"


def peak_memory_gib() -> float:
    """Peak resident memory of this process so far, in GiB; 0 where the platform does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Line:
    """One line at the foot of a terminal, gone when its block ends; elsewhere nothing but what is said.

    Attributes:
        on_terminal: whether it is seen.
    """

    def __init__(self) -> None:
        self.on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._words: Callable[[], str] = lambda: ""
        self._painted_s = float("-inf")
        self._lock = threading.RLock()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self.on_terminal:
            threading.Thread(target=self._tick, name="e2e-deploy line", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended.set()
            self._write(_CLEAR if self.on_terminal else "")

    def show(self, words: str | Callable[[], str]) -> None:
        """These words from now on, or what the function says whenever the line is painted."""
        self._words = words if callable(words) else lambda: words
        if time.monotonic() - self._painted_s >= EVERY_S:
            self._paint()

    def say(self, text: str) -> None:
        """A line above it, which stays."""
        with self._lock:
            self._write((_CLEAR if self.on_terminal else "") + text + "\n")
            self._paint()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_S):
            self._paint()

    def _paint(self) -> None:
        with self._lock:
            if self.on_terminal and not self._ended.is_set():
                self._painted_s = time.monotonic()
                width = shutil.get_terminal_size().columns - 1
                with suppress(OSError):  # the words that stay say that nobody reads
                    self._write(_CLEAR + self._words()[:width])

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


class Count(Line):
    """How far a counted piece of work is; call it with ``(done, total)``, and further words for the terminal.

    Args:
        name: of the work.
        first: what was done before, which says nothing of the speed now.
        tenths: say a line every ten per cent where there is no terminal.
    """

    def __init__(self, name: str, *, first: int = 0, tenths: bool = True) -> None:
        super().__init__()
        self._name, self._first = name, first
        self._tenths = tenths and not self.on_terminal
        self._start_s, self._tenth = time.monotonic(), -1

    def __call__(self, done: int, total: int, words: str = "") -> None:
        """``done`` of ``total`` are done."""
        self.show(lambda: self._bar(done, total, words))
        tenth = 10 * done // max(total, 1)
        if self._tenths and tenth != self._tenth:
            self._tenth = tenth
            self.say(f"{self._name}: {done}/{total}")

    def _bar(self, done: int, total: int, words: str) -> str:
        full = min(BAR, BAR * done // max(total, 1))
        parts = [f"{self._name} {done}/{total}", "#" * full + "." * (BAR - full), words]
        if done > self._first:
            each_s = (time.monotonic() - self._start_s) / (done - self._first)
            parts.append(f"{duration((total - done) * each_s)} left")
        return "  ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


@dataclass(frozen=True)
class Stage:
    """One finished piece of work."""

    name: str
    seconds: float
    peak_gib: float


@dataclass
class Stages:
    """Times named stages; ``quiet`` prints nothing."""

    quiet: bool = False
    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time the block as ``name``; prints its seconds when it ends well.

        The block gets a function that says how far it is, which a terminal shows and a pipe does not.
        """
        start = time.perf_counter()
        if self.quiet:
            yield lambda text: None
            self._end(name, start)
            return
        with Line() as line:

            def say(text: str) -> None:
                told = f"{name}: {text}" if text else name
                line.show(lambda: f"{told}  {duration(time.perf_counter() - start)}")

            say("")
            yield say
            stage = self._end(name, start)
            line.say(f"{stage.name:<44} {stage.seconds:7.1f} s")

    def _end(self, name: str, start_s: float) -> Stage:
        stage = Stage(name, time.perf_counter() - start_s, peak_memory_gib())
        self.done.append(stage)
        return stage
