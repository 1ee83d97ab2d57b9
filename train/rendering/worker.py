"""Scenes rendered in processes of their own: Mitsuba compiles as it goes, and its compiler may abort where it runs.

When a worker with a compiled variant dies, its scene and all later ones are rendered with ``scalar_rgb``, which
compiles nothing. Knows jobs and processes; what a worker does with a job is in ``sample``.
"""

import logging
import os
import re
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.system.child import Child, Crash
from e2e_deploy.system.text import clean

log = logging.getLogger(__name__)

COMPILED, SCALAR = "llvm_ad_rgb", "scalar_rgb"
"""Mitsuba's variants for a CPU: compiled with LLVM for each kind of scene, or ahead of time and slower."""


@dataclass(frozen=True)
class RenderJob:
    """One sample of a data set: where it goes, what it shows and how well.

    Attributes:
        folder: its split's.
        stem: its name.
        seed: the scene's.
        size_hw: height and width in pixels.
        samples: light paths per pixel.
    """

    folder: str
    stem: str
    seed: int
    size_hw: tuple[int, int]
    samples: int

    def file(self, kind: str) -> Path:
        """Where its ``kind`` goes: rgb, depth, normals or camera."""
        return Path(self.folder, kind, f"{self.stem}{'.json' if kind == 'camera' else '.png'}")

    def is_complete(self) -> bool:
        """Whether no file of it is missing."""
        return all(self.file(kind).is_file() for kind in ("rgb", "depth", "normals", "camera"))


class Worker(Child):
    """A process that renders one job after the other.

    Args:
        variant: Mitsuba's.
        threads: how many it may use.
    """

    def __init__(self, variant: str, threads: int) -> None:
        super().__init__("e2e_deploy.train.rendering.sample", variant, str(threads))
        self.variant = variant

    def render(self, job: RenderJob) -> Crash | None:
        """Render ``job``; None, or how the process ended instead.

        Raises:
            E2EDeployError: a file cannot be written.
        """
        self.tell(**asdict(job))
        for _ in self.events():
            return None
        return self.crash()


def render_jobs(
    jobs: Iterable[RenderJob], variant: str, workers: int
) -> Generator[None, None, None]:
    """Render all ``jobs``, in any order; yields after each.

    Args:
        jobs: what to render.
        variant: Mitsuba's, until a worker dies of it.
        workers: how many processes.

    Raises:
        E2EDeployError: as Worker.render, or a scene ends the scalar renderer too; names it.
    """
    crew = _Crew(variant, workers)
    pool = ThreadPoolExecutor(workers)
    try:
        for task in as_completed([pool.submit(crew.render, job) for job in jobs]):
            task.result()
            yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        crew.stop()
        pool.shutdown()
        crew.close()


class _Crew:
    """As many workers as were asked for, started when there is work, replaced when they die."""

    def __init__(self, variant: str, size: int) -> None:
        self._variant = variant
        self._threads = max(_usable_cores() // size, 1)
        self._idle: SimpleQueue[Worker | None] = SimpleQueue()
        for _ in range(size):
            self._idle.put(None)
        self._alive: set[Worker] = set()
        self._stopped = False
        self._lock = Lock()

    def render(self, job: RenderJob) -> None:
        worker = self._idle.get()
        try:
            while True:
                worker = worker or self._start()
                crash = worker.render(job)
                if crash is None:
                    return
                variant = worker.variant
                self._bury(worker)
                worker = None
                self._fall_back(variant, crash, job)
        finally:
            self._idle.put(worker)

    def _start(self) -> Worker:
        with self._lock:
            if self._stopped:
                raise E2EDeployError("rendering was stopped")
            worker = Worker(self._variant, self._threads)
            self._alive.add(worker)
            return worker

    def _bury(self, worker: Worker) -> None:
        with self._lock:
            self._alive.remove(worker)
        worker.close()

    def _fall_back(self, variant: str, crash: Crash, job: RenderJob) -> None:
        with self._lock:
            if self._stopped:
                raise E2EDeployError("rendering was stopped")
            if variant == SCALAR:
                raise E2EDeployError(
                    f"the renderer ended with {in_words(crash)} at the scene of {job.file('rgb')} (seed {job.seed}); "
                    "what is complete stays: try again with fewer workers, or render another seed into a new folder"
                )
            if self._variant != SCALAR:
                self._variant = SCALAR
                log.warning(
                    "a rendering process ended with %s at %s: it and the rest are rendered with %s, which is slower",
                    in_words(crash),
                    job.file("rgb"),
                    SCALAR,
                )

    def stop(self) -> None:
        """End all processes; whoever waits for one is woken."""
        with self._lock:
            self._stopped = True
            for worker in self._alive:
                worker.kill()

    def close(self) -> None:
        for worker in self._alive:
            worker.close()


def in_words(crash: Crash) -> str:
    """How a renderer ended, with what it said: LLVM names its error first, Python last."""
    if crash.was_killed:
        return f"{crash.how} (most likely out of memory)"
    errors = [line for line in crash.said if "ERROR" in line] or crash.said[-1:]
    if not errors:
        return crash.how
    return f"{crash.how} ({clean(re.sub(',? 0x[0-9a-f]+:?', '', errors[0]), 100)})"


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
