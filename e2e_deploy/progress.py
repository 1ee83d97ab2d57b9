"""Long work said as it happens: a spinner on a terminal, plain lines in a pipe, always on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape


def peak_memory_gib() -> float:
    """Peak resident memory of this process so far, in GiB; 0 where the platform does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


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
    _console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    @contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time the block as ``name``; prints its seconds when it ends well.

        The block gets a function that says how far it is, which a terminal shows and a pipe does not.
        """
        start = time.perf_counter()
        if self.quiet or not self._console.is_terminal:
            yield lambda text: None
        else:
            with self._console.status(escape(name)) as status:
                yield lambda text: status.update(escape(f"{name}: {text}"))
        stage = Stage(name, time.perf_counter() - start, peak_memory_gib())
        self.done.append(stage)
        if not self.quiet:
            self._console.print(f"{stage.name:<44} {stage.seconds:7.1f} s", markup=False)
