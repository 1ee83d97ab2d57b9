"""The way from a source through an engine to sinks, as stages that overlap.

    capture -> frames -> engine -> results -> finish -> one lane a sink -> sink

Each arrow is a Lane. Of a live source only the newest frame waits, so a result is never older than the engine's own
time plus one frame; a file's frames wait for each other and none is lost. A file's next frame goes to a GPU while the
last one computes; a live one is taken only when the GPU is free, because it would grow old there. The engine is
loaded, called and closed in one thread. A sink that is slow or fails keeps no other one waiting: live sources drop for
it, files wait for it, and the error of a failed one is in the report.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.names import BackendChoice
from e2e_deploy.runtime.backends.gpu.transfers import Count, Counts, Transfers
from e2e_deploy.runtime.backends.layout import by_kind
from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.inference import Inference, Item, Loading, Watch
from e2e_deploy.runtime.lanes import Lane
from e2e_deploy.runtime.report import RunReport, SinkReport
from e2e_deploy.runtime.sinks.sink import Sink, known_pixels
from e2e_deploy.runtime.sources.source import Source, SourceFrame
from e2e_deploy.runtime.steps.step import Step
from e2e_deploy.system.interrupts import WorkThread, stop_computation

FILE_LANE, LIVE_LANE, SINK_LANE = 2, 1, 2
PATIENCE_S = 2.0  # for a source or a frame that does not end: its thread is left behind

OnFrame = Callable[[RunReport], None]


def run_source(
    bundle: Bundle,
    source: Source,
    sinks: Sequence[Sink],
    *,
    backend: BackendChoice = "auto",
    device: str = "auto",
    engine: Engine | None = None,
    steps: Sequence[Step] = (),
    watch: Watch | None = None,
    limit: int | None = None,
    on_frame: OnFrame = lambda report: None,
    report: RunReport | None = None,
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
        on_frame: called once before the first frame and after each, with the report so far, in another thread.
        report: one to fill, of this source.

    Raises:
        SourceError: the source is damaged or was lost; sinks are closed first.
        E2EDeployError: no sink is left that can write, or what a step, ``watch`` or the engine raised.
    """
    if engine is None:
        loader = partial(load, bundle, backend=backend, device=device)
        loading = Loading(lambda hw: loader(frame_size=hw), bundle.manifest.frame_sizes, keep=False)
    else:
        loading = Loading(lambda hw: engine, [engine.frame_size], keep=True)
    loop = _Loop(report or RunReport(source), sinks, steps, on_frame, loading, watch, limit)
    return loop.run()


class _Loop:
    """The stages and the lanes between them; each stage is one method and one thread."""

    def __init__(
        self,
        report: RunReport,
        sinks: Sequence[Sink],
        steps: Sequence[Step],
        on_frame: OnFrame,
        loading: Loading,
        watch: Watch | None,
        limit: int | None,
    ) -> None:
        self._source, self._sinks, self._steps = report.source, sinks, steps
        self._on_frame = on_frame
        live = self._source.is_live
        self._frames: Lane[SourceFrame] = Lane(LIVE_LANE if live else FILE_LANE, newest=live)
        self._results: Lane[Item] = Lane(1, newest=False)
        self._lanes: list[Lane[Item]] = [Lane(SINK_LANE, newest=live) for _ in sinks]
        self._inference = Inference(self._frames, self._results, loading, report, watch, limit)
        self._errors: list[BaseException] = []
        self._sink_errors: list[BaseException] = []
        self._files: list[list[Path]] = [[] for _ in sinks]
        self._report = report
        report.sinks = [SinkReport(sink.name) for sink in sinks]

    def run(self) -> RunReport:
        """Start the stages, wait for them, raise what stopped them."""
        start = time.perf_counter()
        report, copied = self._report, Copied()
        copied.count(self._source.transfers)
        self._inference.on_load = lambda engine: copied.count(engine.backend.transfers)
        self._work()
        report.seconds = time.perf_counter() - start
        report.dropped = self._frames.dropped
        report.transfers = copied.total()
        report.files = [file for files in self._files for file in files]
        if self._errors:
            raise self._errors[0]
        if self._sinks and len(self._sink_errors) == len(self._sinks):
            raise self._sink_errors[0]
        return report

    def _work(self) -> None:
        capture, infer = self._thread(self._capture), self._thread(self._infer)
        main = [i for i, sink in enumerate(self._sinks) if sink.on_main_thread]
        others = [i for i in range(len(self._sinks)) if i not in main]
        after = [self._thread(self._finish), *(self._thread(self._sink, i) for i in others)]
        try:
            for thread in (capture, infer, *after):
                thread.start()
            for index in main:
                self._sink(index)
            self._wait([infer, *after])
        except KeyboardInterrupt:
            self._interrupt()
            self._end(infer)
            self._wait(after)
        if capture.works:
            capture.wait(PATIENCE_S)

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
        self._report.interrupted = True
        self._stop()

    def _stop(self) -> None:
        """No further frame goes to the engine; what it has done still reaches the sinks."""
        try:
            self._source.stop()
        except BaseException as error:
            self._failed(error)  # a source of the user's: the stages behind it end all the same
        self._frames.close(discard=True)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._report.interrupted = True
        else:
            self._errors.append(error)

    def _capture(self) -> None:
        try:
            for frame in self._source:
                self._report.captured += 1
                if not self._frames.put(frame):
                    break
        except BaseException as error:
            self._failed(error)
        finally:
            self._frames.close()

    def _infer(self) -> None:
        try:
            self._inference.run()
        except BaseException as error:
            self._failed(error)
        finally:
            self._stop()
            try:
                self._inference.close()
            except BaseException as error:  # a GPU that failed fails again here
                self._failed(error)
            finally:
                self._results.close()

    def _finish(self) -> None:
        report = self._report
        try:
            self._on_frame(report)
            while (item := self._results.get()) is not None:
                start = time.perf_counter()
                item.to_source()
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

    def _judge(self, item: Item) -> None:
        """Count what is unknown in a frame's results, and steps that failed."""
        report, pixels, unknown = self._report, 0, 0
        for _, result in by_kind(item.kinds, item.result):
            known = known_pixels(result)
            pixels += known.size
            unknown += known.size - int(np.count_nonzero(known))
        report.pixels += pixels
        report.unknown_pixels += unknown
        report.unknown_results += unknown == pixels
        for facts in item.told:
            for told in facts.values():
                if isinstance(told, dict) and (why := told.get("failed")):
                    report.failed_steps += 1
                    report.failed_step = report.failed_step or str(why)

    def _sink(self, index: int) -> None:
        sink, lane, report = self._sinks[index], self._lanes[index], self._report.sinks[index]
        try:
            while (item := lane.get()) is not None:
                sink.write(item.frame, item.result, item.facts)
                report.written += 1
        except BaseException as error:
            self._sink_failed(error, report)
        lane.close(discard=True)
        try:
            self._files[index] = list(sink.close() or ())  # one of the user's may return nothing
        except BaseException as error:
            self._sink_failed(error, report)
        report.dropped = lane.dropped + getattr(sink, "dropped", 0)

    def _sink_failed(self, error: BaseException, report: SinkReport) -> None:
        if isinstance(error, KeyboardInterrupt):  # the user closed the window
            self._interrupt()
            return
        if not report.failure:
            self._sink_errors.append(error)
        report.failure = str(error) if isinstance(error, E2EDeployError) else repr(error)


class Copied:
    """What a run copied between host and GPU, by those who count it."""

    def __init__(self) -> None:
        self._counted: list[tuple[Transfers, Counts]] = []

    def count(self, transfers: Transfers | None) -> None:
        """Count from now on; None counts nothing."""
        if transfers is not None:
            self._counted.append((transfers, dict(transfers.counts)))

    def total(self) -> Counts | None:
        """Since then; None when nobody counts."""
        if not self._counted:
            return None
        total: Counts = {}
        for transfers, before in self._counted:
            for name, count in transfers.counts.items():
                total[name] = total.get(name, Count()) + count - before[name]
        return total
