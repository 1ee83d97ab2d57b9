"""The way from a source through an engine to sinks, as stages that overlap.

    capture -> frames -> engine -> results -> finish -> one lane a sink -> sink

Each arrow is a Lane. Of a live source only the newest frame waits, so a result is never older than the engine's own
time plus one frame; a file's frames wait for each other and none is lost. A file's next frame goes to a GPU while the
last one computes; a live one is taken only when the GPU is free, because it would grow old there. The engine is
loaded, called and closed in one thread. A sink that is slow or fails keeps no other one waiting: live sources drop for
it, files wait for it, and the error of a failed one is in the report.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.backends.backend import GpuPicture, Picture, Result
from e2e_deploy.runtime.backends.tensorrt.transfers import Count, Counts, Transfers
from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.fit import Fit, best_size
from e2e_deploy.runtime.lanes import Lane
from e2e_deploy.runtime.sinks.sink import Sink, known_pixels
from e2e_deploy.runtime.sources.source import Source, SourceFrame
from e2e_deploy.runtime.steps.step import Facts, Step
from e2e_deploy.runtime.timing import Durations, Latency
from e2e_deploy.system.interrupts import WorkThread, stop_computation

FILE_LANE, LIVE_LANE, SINK_LANE = 2, 1, 2
PATIENCE_S = 2.0  # for a source or a frame that does not end: its thread is left behind

Frame = npt.NDArray[np.uint8]
Watch = Callable[[Engine, Frame, Result], None]
STAGES = ("fit", "engine", "finish", "age")


@dataclass
class SinkReport:
    """What became of one sink.

    Attributes:
        name: the sink's.
        written: results it took.
        dropped: results that newer ones replaced before it took them (live sources only).
        failure: why it stopped early; empty when it did not.
    """

    name: str
    written: int = 0
    dropped: int = 0
    failure: str = ""


@dataclass
class RunReport:
    """What a run did; grows while it runs.

    Attributes:
        engine: backend and device, in words.
        frames: frames that went through.
        captured: frames that the source gave.
        dropped: frames of a live source that newer ones replaced before the engine took them.
        seconds: from the first frame to the end.
        times: durations of each of STAGES; engine is what the loop spent in it for a frame, also while another computed
            there; age is from a frame's capture to the hand-over of its result to the sinks.
        transfers: copies between host and GPU in all; None for backends that do not count them.
        fitted: source size to engine size, where they differ.
        sinks: one report a sink.
        files: what the sinks wrote, as far as they name it.
        pixels: of all results.
        unknown_pixels: those of them that are no numbers (NaN or infinite).
        unknown_results: results in which no pixel is a number.
        failed_steps: results that a step could not do.
        failed_step: why, of the first of them.
        interrupted: the user stopped it.
    """

    engine: str = ""
    frames: int = 0
    captured: int = 0
    dropped: int = 0
    seconds: float = 0.0
    times: dict[str, Durations] = field(default_factory=lambda: {s: Durations() for s in STAGES})
    transfers: Counts | None = None
    fitted: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    sinks: list[SinkReport] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    pixels: int = 0
    unknown_pixels: int = 0
    unknown_results: int = 0
    failed_steps: int = 0
    failed_step: str = ""
    interrupted: bool = False

    @property
    def latency(self) -> Latency | None:
        """Of the engine alone; None when no frame came."""
        return self.times["engine"].latency()

    @property
    def age(self) -> Latency | None:
        """From capture to hand-over; None when no frame came."""
        return self.times["age"].latency()


def run_source(
    bundle: Bundle,
    source: Source,
    sinks: list[Sink],
    *,
    backend: str = "auto",
    device: str = "auto",
    engine: Engine | None = None,
    steps: Sequence[Step] = (),
    watch: Watch | None = None,
    limit: int | None = None,
    on_frame: Callable[[RunReport], None] = lambda report: None,
) -> RunReport:
    """Run the frames of ``source`` and hand each with its result to every sink.

    The sinks are closed whatever happens, so what was finished before a lost source or Ctrl-C is kept.

    Args:
        bundle: an opened bundle; of several frame sizes the one that fits the first frame best is used.
        source: frames.
        sinks: take the results at the frames' own size.
        backend: as ``load``.
        device: as ``load``.
        engine: one that is loaded already; it stays open, and ``backend`` and ``device`` do not count.
        steps: applied to every result in turn before the sinks get it.
        watch: called with engine, engine frame and its result in the engine's thread.
        limit: stop after this many frames.
        on_frame: called after each frame with the report so far, in another thread.

    Raises:
        SourceError: the source is damaged or was lost; sinks are closed first.
        E2EDeployError: no sink is left that can write, or what a step, ``watch`` or the engine raised.
    """
    loader = partial(load, bundle, backend=backend, device=device)
    return _Run(bundle, source, sinks, engine, loader, steps, watch, limit, on_frame).run()


@dataclass
class _Item:
    """A frame on its way from the engine to the sinks."""

    frame: SourceFrame
    fit: Fit
    result: Result
    facts: Facts


@dataclass
class _Pending:
    """A frame that is on its way through the engine."""

    frame: SourceFrame
    fit: Fit
    picture: Picture
    slot: int
    seconds: float


class _Run:
    def __init__(
        self,
        bundle: Bundle,
        source: Source,
        sinks: list[Sink],
        engine: Engine | None,
        load: Callable[..., Engine],
        steps: Sequence[Step],
        watch: Watch | None,
        limit: int | None,
        on_frame: Callable[[RunReport], None],
    ) -> None:
        self._bundle, self._source, self._sinks = bundle, source, sinks
        self._engine, self._load, self._steps = engine, load, steps
        self._watch, self._limit, self._on_frame = watch, limit, on_frame
        live = source.is_live
        self._frames: Lane[SourceFrame] = Lane(LIVE_LANE if live else FILE_LANE, newest=live)
        self._results: Lane[_Item] = Lane(1, newest=False)
        self._lanes: list[Lane[_Item]] = [Lane(SINK_LANE, newest=live) for _ in sinks]
        self._errors: list[BaseException] = []
        self._sink_errors: list[BaseException] = []
        self._files: list[list[Path]] = [[] for _ in sinks]
        self._counted: list[tuple[Transfers, Counts]] = []
        self.report = RunReport(sinks=[SinkReport(sink.name) for sink in sinks])

    def run(self) -> RunReport:
        """Start the stages, wait for them, raise what stopped them."""
        start = time.perf_counter()
        self._count(self._source.transfers)
        threads = [self._thread(self._capture), self._thread(self._infer)]
        threads.append(self._thread(self._finish))
        main = [i for i, sink in enumerate(self._sinks) if sink.on_main_thread]
        others = [i for i in range(len(self._sinks)) if i not in main]
        threads += [self._thread(self._sink, index) for index in others]
        try:
            for thread in threads:
                thread.start()
            for index in main:
                self._sink(index)
            self._wait(threads[1:])
        except KeyboardInterrupt:
            self._interrupt()
            self._end(threads[1])
            self._wait(threads[2:])
        if threads[0].works:
            threads[0].wait(PATIENCE_S)
        self.report.seconds = time.perf_counter() - start
        self.report.dropped = self._frames.dropped
        self.report.transfers = self._transfers()
        self.report.files = [file for files in self._files for file in files]
        if self._errors:
            raise self._errors[0]
        if self._sinks and len(self._sink_errors) == len(self._sinks):
            raise self._sink_errors[0]
        return self.report

    def _thread(self, stage: Callable[..., None], *arguments: int) -> WorkThread:
        return WorkThread(partial(stage, *arguments), stage.__name__.strip("_"))

    def _wait(self, threads: list[WorkThread]) -> None:
        for thread in threads:
            while thread.works:  # a wait without a limit would not let Ctrl-C through everywhere
                thread.wait(0.2)

    def _end(self, engine: WorkThread) -> None:
        """Wait for the frame that is in the engine; what takes longer is asked to end, or left behind."""
        engine.wait(PATIENCE_S)
        if engine.works and not stop_computation(engine):
            self._results.close()

    def _interrupt(self) -> None:
        self.report.interrupted = True
        self._stop()

    def _stop(self) -> None:
        """No further frame goes to the engine; what it has done still reaches the sinks."""
        self._source.stop()
        self._frames.close(discard=True)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.report.interrupted = True
        else:
            self._errors.append(error)

    def _capture(self) -> None:
        try:
            for frame in self._source:
                self.report.captured += 1
                if not self._frames.put(frame):
                    break
        except BaseException as error:
            self._failed(error)
        finally:
            self._frames.close()

    def _infer(self) -> None:
        engine = self._engine
        fits: dict[tuple[int, int], Fit] = {}
        report = self.report
        pending: deque[_Pending] = deque()
        count = 0
        try:
            while count != self._limit and (frame := self._frames.get()) is not None:
                sizes = self._bundle.manifest.frame_sizes
                size = best_size(frame.hw, sizes) if engine is None else engine.frame_size
                if frame.hw not in fits:
                    try:
                        fits[frame.hw] = Fit(frame.hw, size)
                    except UsageError as error:
                        if self._source.leave_out(f"{frame.name}: {error}"):
                            continue
                        raise
                    if not fits[frame.hw].is_identity:
                        report.fitted[frame.hw] = size
                if engine is None:
                    engine = self._load(frame_size=size)
                if not report.engine:
                    report.engine = engine.describe()
                    self._count(engine.backend.transfers)
                pending.append(self._submit(engine, frame, fits[frame.hw]))
                count += 1
                most = 1 if self._source.is_live else engine.backend.slots
                while pending and (len(pending) >= most or self._frames.waits):
                    if not self._collect(engine, pending.popleft()):
                        return
            while pending and engine is not None:
                if not self._collect(engine, pending.popleft()):
                    return
        except BaseException as error:
            self._failed(error)
        finally:
            self._stop()
            try:
                for left in pending:
                    with suppress(E2EDeployError):
                        engine.collect(left.slot) if engine is not None else None
                if engine is not None and engine is not self._engine:
                    engine.close()
            except BaseException as error:  # a GPU that failed fails again here
                self._failed(error)
            finally:
                self._results.close()

    def _submit(self, engine: Engine, frame: SourceFrame, fit: Fit) -> _Pending:
        start = time.perf_counter()
        picture = frame.picture
        if not isinstance(picture, GpuPicture):  # there it has the engine's size, or submit says so
            picture = fit.to_engine(picture)
        before = time.perf_counter()
        slot = engine.submit(picture)
        self.report.times["fit"].add(before - start)
        return _Pending(frame, fit, picture, slot, time.perf_counter() - before)

    def _collect(self, engine: Engine, item: _Pending) -> bool:
        """Hand a result over; whether anybody still takes them."""
        before = time.perf_counter()
        result = engine.collect(item.slot)
        self.report.times["engine"].add(item.seconds + time.perf_counter() - before)
        if self._watch is not None:
            picture = item.picture
            host = item.frame.rgb if isinstance(picture, GpuPicture) else picture
            self._watch(engine, host, result)
        return self._results.put(_Item(item.frame, item.fit, result, {}))

    def _count(self, transfers: Transfers | None) -> None:
        if transfers is not None:
            self._counted.append((transfers, dict(transfers.counts)))

    def _transfers(self) -> Counts | None:
        """What this run copied between host and GPU."""
        if not self._counted:
            return None
        total: Counts = {}
        for transfers, before in self._counted:
            for name, count in transfers.counts.items():
                total[name] = total.get(name, Count()) + count - before[name]
        return total

    def _finish(self) -> None:
        report = self.report
        try:
            while (item := self._results.get()) is not None:
                start = time.perf_counter()
                item.result = item.fit.to_source(item.result)
                for step in self._steps:
                    item.result = step(item.frame, item.result, item.facts)
                self._judge(item)
                report.times["finish"].add(time.perf_counter() - start)
                report.times["age"].add(time.monotonic() - item.frame.captured_s)
                taken = [lane.put(item) for lane in self._lanes]
                if self._lanes and not any(taken):
                    break
                report.frames += 1
                report.dropped = self._frames.dropped
                self._on_frame(report)
        except BaseException as error:
            self._failed(error)
        finally:
            self._stop()
            self._results.close(discard=True)
            for lane in self._lanes:
                lane.close()

    def _judge(self, item: _Item) -> None:
        """Count what is unknown in a result, and steps that failed."""
        report, known = self.report, known_pixels(item.result)
        unknown = known.size - int(np.count_nonzero(known))
        report.pixels += known.size
        report.unknown_pixels += unknown
        report.unknown_results += unknown == known.size
        for told in item.facts.values():
            if isinstance(told, dict) and (why := told.get("failed")):
                report.failed_steps += 1
                report.failed_step = report.failed_step or str(why)

    def _sink(self, index: int) -> None:
        sink, lane, report = self._sinks[index], self._lanes[index], self.report.sinks[index]
        try:
            while (item := lane.get()) is not None:
                sink.write(item.frame, item.result, item.facts)
                report.written += 1
        except BaseException as error:
            self._sink_failed(error, report)
        lane.close(discard=True)
        try:
            self._files[index] = sink.close()
        except BaseException as error:
            self._sink_failed(error, report)
        report.dropped = lane.dropped

    def _sink_failed(self, error: BaseException, report: SinkReport) -> None:
        if isinstance(error, KeyboardInterrupt):  # the user closed the window
            self._interrupt()
            return
        if not report.failure:
            self._sink_errors.append(error)
        report.failure = str(error) if isinstance(error, E2EDeployError) else repr(error)
