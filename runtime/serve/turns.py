"""The queue before an engine: bounded, in order, and what waits together is computed together.

H, W: height and width of the engine's frames. N: frames that it takes at once. k: frames of one request, 1 to N.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.backends.layout import Results
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.serve.limits import RefusedError
from e2e_deploy.runtime.serve.tensors import Frames

_REMEMBERED = 0.1
"""Share of the newest call in the mean duration that clients are told to wait by."""


@dataclass
class _Turn:
    frames: Frames
    answer: "Future[Results]"


class Turns:
    """One engine for many requests, in a thread of its own.

    Args:
        engine: what computes; whoever made it closes it, after this.
        size: requests that may be on their way at once, from before their bodies are read until they are answered.
        on_call: told of every call: frames in it, seconds.

    Attributes:
        taken: requests on their way now.
    """

    def __init__(self, engine: Engine, size: int, on_call: Callable[[int, float], None]) -> None:
        self._engine, self._size, self._on_call = engine, size, on_call
        self.taken = 0
        self._changed = threading.Condition()
        self._turns: deque[_Turn] = deque()
        self._seconds = 0.0  # of a call
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="e2e-deploy serve", daemon=True)
        self._thread.start()

    def enter(self) -> None:
        """Take a place, before anything of the request is kept; ``leave`` gives it back.

        Raises:
            RefusedError: 429, no place is free, with the seconds after which one should be; 503, this ends.
        """
        with self._changed:
            if self._ends:
                raise RefusedError(503, "the server is ending", "ending", closes=True)
            if self.taken >= self._size:
                wait_s = max(1, math.ceil(self._seconds * self.taken / self._engine.batch))
                raise RefusedError(
                    429,
                    f"{self.taken} requests are on their way and no more are taken; try again in {wait_s} s",
                    "full",
                    {"Retry-After": str(wait_s)},
                )
            self.taken += 1

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self.taken -= 1

    def submit(self, frames: Frames) -> "Future[Results]":
        """Results of frames [k, H, W, 3], each [k, ...], when their turn has come; cancelled, they give it back.

        Raises:
            RefusedError: 503, this ends.
        """
        turn = _Turn(frames, Future())
        with self._changed:
            if self._ends:
                raise RefusedError(503, "the server is ending", "ending", closes=True)
            self._turns.append(turn)
            self._changed.notify()
        return turn.answer

    def close(self) -> None:
        """Compute what waits, then end the thread; what comes later is refused."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            start = time.perf_counter()
            try:
                parts = self._computed([turn.frames for turn in batch])
            except BaseException as error:  # whatever it is, somebody waits for an answer
                failure = error if isinstance(error, E2EDeployError) else _unexpected(error)
                for turn in batch:
                    turn.answer.set_exception(failure)
            else:
                for turn, part in zip(batch, parts, strict=True):
                    turn.answer.set_result(part)
            seconds = time.perf_counter() - start
            newest = _REMEMBERED if self._seconds else 1.0
            self._seconds += newest * (seconds - self._seconds)
            self._on_call(sum(len(turn.frames) for turn in batch), seconds)

    def _next(self) -> list[_Turn]:
        """The oldest turn and those behind it that fit into its batch; empty at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._turns or self._ends)
                batch: list[_Turn] = []
                room = self._engine.batch
                while self._turns and len(self._turns[0].frames) <= room:
                    turn = self._turns.popleft()
                    if turn.answer.set_running_or_notify_cancel():
                        batch.append(turn)
                        room -= len(turn.frames)
                if batch or self._ends:
                    return batch

    def _computed(self, given: list[Frames]) -> list[Results]:
        """Results of each of several requests, computed in one call; the last frame fills the batch."""
        frames = given[0] if len(given) == 1 else np.concatenate(given)
        if missing := self._engine.batch - len(frames):
            frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        found = self._engine(frames)
        results = found if isinstance(found, dict) else {self._engine.outputs[0]: found}
        parts, start = [], 0
        for each in given:
            stop = start + len(each)
            parts.append({name: result[start:stop] for name, result in results.items()})
            start = stop
        return parts


def _unexpected(error: BaseException) -> E2EDeployError:
    return E2EDeployError(f"the engine failed: {type(error).__name__}")
