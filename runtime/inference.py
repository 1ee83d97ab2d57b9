"""The engine's stage of the loop: loads it for the first frame, keeps its slots full, hands results on in order."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.kinds import Kind
from e2e_deploy.runtime.backends.backend import GpuPicture, Picture
from e2e_deploy.runtime.backends.layout import Outcome, Result, changed
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.fit import Fit, best_size
from e2e_deploy.runtime.lanes import Lane
from e2e_deploy.runtime.report import RunReport
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts

Frame = npt.NDArray[np.uint8]
Watch = Callable[[Engine, Frame, Any], None]
"""Called with an engine, a frame of its size, and what it gives of that."""
HW = tuple[int, int]


@dataclass
class Item:
    """A frame on its way from the engine to the sinks.

    Attributes:
        kinds: of its results.
        result: one array, or of several kinds one by each name.
        facts: what steps did to it; of several kinds Facts by each name.
    """

    frame: SourceFrame
    fit: Fit
    kinds: tuple[Kind, ...]
    result: Outcome
    facts: Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.kinds) > 1:
            self.facts = {kind.output: {} for kind in self.kinds}

    def to_source(self) -> None:
        """Bring the result to the frame's own size."""
        self.result = changed(
            self.kinds, self.result, lambda kind, each: self.fit.to_source(each, kind.form)
        )

    @property
    def told(self) -> list[Facts]:
        """The facts of each result."""
        return [self.facts] if len(self.kinds) == 1 else list(self.facts.values())


Group = list[tuple[SourceFrame, Fit]]
"""Frames that go to the engine at once: as many as its batch, at the end perhaps fewer."""


@dataclass
class Pending:
    """Frames that are on their way through the engine."""

    group: Group
    pictures: list[Picture]
    slot: int
    seconds: float


@dataclass(frozen=True)
class Loading:
    """Where the engine comes from.

    Attributes:
        load: (H, W) of the frames to an engine for them.
        sizes: those that it takes.
        keep: it is somebody else's, and stays open.
    """

    load: Callable[[HW], Engine]
    sizes: list[HW]
    keep: bool


class Inference:
    """Takes frames from one lane, puts results into another. All in one thread.

    Args:
        report: of the run; gets the times, what was fitted, and the engine's name.
        watch: called with engine, engine frame and its result.
        limit: of frames.

    Attributes:
        on_load: called with the engine before its first frame.
    """

    def __init__(
        self,
        frames: Lane[SourceFrame],
        results: Lane[Item],
        loading: Loading,
        report: RunReport,
        watch: Watch | None,
        limit: int | None,
    ) -> None:
        self._frames, self._results, self._loading = frames, results, loading
        self._report, self._watch, self._limit = report, watch, limit
        self.on_load: Callable[[Engine], None] = lambda engine: None
        self._engine: Engine | None = None
        self._count = 0
        self._fits: dict[HW, Fit] = {}
        self._pending: deque[Pending] = deque()

    def run(self) -> None:
        """Until there are no frames, or as many as asked for, or nobody takes results any more."""
        while group := self._group():
            engine = self._loaded(group[0][1].engine_hw)
            self._pending.append(self._submit(engine, group))
            # A live frame would grow old in a queue; a file's next one goes in while the last computes.
            most = 1 if self._report.source.is_live else engine.backend.slots
            while self._pending and (len(self._pending) >= most or self._frames.waits):
                if not self._collect(engine):
                    return
        while self._pending and self._engine is not None:
            if not self._collect(self._engine):
                return

    def _group(self) -> Group:
        """The next frames for the engine; none at the end."""
        group: Group = []
        while self._count != self._limit and (frame := self._frames.get()) is not None:
            if (fit := self._fit(frame)) is None:
                continue
            self._count += 1
            group.append((frame, fit))
            if len(group) == self._loaded(fit.engine_hw).batch:
                break
        return group

    def close(self) -> None:
        """Take back what is still in the engine, and close it unless it is somebody else's."""
        if self._engine is None:
            return
        for left in self._pending:
            with suppress(E2EDeployError):
                self._engine.collect(left.slot)
        if not self._loading.keep:
            self._engine.close()

    def _fit(self, frame: SourceFrame) -> Fit | None:
        """The way to the engine's size; None if the source goes on without this frame."""
        if frame.hw in self._fits:
            return self._fits[frame.hw]
        engine = self._engine
        size = best_size(frame.hw, self._loading.sizes) if engine is None else engine.frame_size
        try:
            fit = Fit(frame.hw, size)
        except UsageError as error:
            if self._report.source.leave_out(f"{frame.name}: {error}"):
                return None
            raise
        if not fit.is_identity:
            self._report.fitted[frame.hw] = size
        self._fits[frame.hw] = fit
        return fit

    def _loaded(self, size: HW) -> Engine:
        if self._engine is None:
            self._engine = self._loading.load(size)
            self.on_load(self._engine)
            self._report.engine = self._engine.describe()
        return self._engine

    def _submit(self, engine: Engine, group: Group) -> Pending:
        start = time.perf_counter()
        pictures = [
            frame.picture if isinstance(frame.picture, GpuPicture) else fit.to_engine(frame.picture)
            for frame, fit in group
        ]  # on the GPU it has the engine's size, or submit says so
        given = pictures[0] if engine.batch == 1 else _stacked(pictures, engine.batch)
        before = time.perf_counter()
        slot = engine.submit(given)
        self._report.times["fit"].add(before - start)
        return Pending(group, pictures, slot, time.perf_counter() - before)

    def _collect(self, engine: Engine) -> bool:
        """Hand the oldest results over; whether anybody still takes them."""
        done = self._pending.popleft()
        before = time.perf_counter()
        results = engine.collect(done.slot)
        seconds = done.seconds + time.perf_counter() - before
        kinds = engine.manifest.kinds
        for index, ((frame, fit), picture) in enumerate(
            zip(done.group, done.pictures, strict=True)
        ):
            result = results
            if engine.batch > 1:
                result = changed(kinds, results, partial(_picked, index))
            self._report.times["engine"].add(seconds / len(done.group))
            if self._watch is not None:
                host = frame.rgb if isinstance(picture, GpuPicture) else picture
                self._watch(engine, host, result)
            if not self._results.put(Item(frame, fit, kinds, result)):
                return False
        return True


def _picked(index: int, kind: Kind, results: Result) -> Result:
    one: Result = results[index]
    return one


def _stacked(pictures: list[Picture], batch: int) -> Frame:
    """Frames [batch, H, W, 3]; the last one stands in for those that are missing."""
    hosts = [picture for picture in pictures if not isinstance(picture, GpuPicture)]
    if len(hosts) < len(pictures):
        raise UsageError(
            f"frames that were decoded on the GPU go one by one, and this engine takes {batch} at once; "
            'use `decode="cpu"`'
        )
    return np.stack([*hosts, *[hosts[-1]] * (batch - len(hosts))])
