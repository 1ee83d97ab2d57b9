"""The way from a source through an engine to sinks, one frame after the other."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from e2e_deploy.bundle import Bundle
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.fit import Fit, best_size
from e2e_deploy.runtime.sinks import Sink
from e2e_deploy.runtime.sources import Source
from e2e_deploy.runtime.timing import Latency, summarise


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        engine: backend and device, in words.
        frames: frames that went through.
        seconds: from the first frame to the end.
        latency: of the engine alone; None when no frame came.
        fitted: source size to engine size, where they differ.
        files: what the sinks wrote.
        interrupted: the user stopped it.
    """

    engine: str = ""
    frames: int = 0
    seconds: float = 0.0
    latency: Latency | None = None
    fitted: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    interrupted: bool = False


def _close(sink: Sink, report: RunReport) -> None:
    report.files.extend(sink.close())


def run_source(
    bundle: Bundle,
    source: Source,
    sinks: list[Sink],
    *,
    backend: str = "auto",
    device: str = "auto",
    limit: int | None = None,
    on_frame: Callable[[int], None] = lambda count: None,
) -> RunReport:
    """Run every frame of ``source`` and hand it with its result to every sink.

    The sinks are closed whatever happens, so what was finished before a lost source or Ctrl-C is kept.

    Args:
        bundle: an opened bundle; of several frame sizes the one that fits the first frame best is used.
        source: frames.
        sinks: take the results at the frames' own size.
        backend: as Engine.load.
        device: as Engine.load.
        limit: stop after this many frames.
        on_frame: called with the number of frames done.

    Raises:
        SourceError: the source is damaged or was lost; sinks are closed first.
        E2EDeployError: a sink cannot write.
    """
    report = RunReport()
    durations: list[float] = []
    fits: dict[tuple[int, int], Fit] = {}
    engine: Engine | None = None
    start = time.perf_counter()
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(_close, sink, report)
        try:
            for frame in source:
                source_hw = (frame.rgb.shape[0], frame.rgb.shape[1])
                if engine is None:
                    size = best_size(source_hw, bundle.manifest.frame_sizes)
                    engine = stack.enter_context(
                        Engine.load(bundle, backend=backend, device=device, frame_size=size)
                    )
                    report.engine = engine.describe()
                fit = fits.get(source_hw)
                if fit is None:
                    fit = fits[source_hw] = Fit(source_hw, engine.frame_size)
                    if not fit.is_identity:
                        report.fitted[source_hw] = engine.frame_size
                engine_frame = fit.to_engine(frame.rgb)
                before = time.perf_counter()
                result = engine(engine_frame)
                durations.append(time.perf_counter() - before)
                result = fit.to_source(result)
                for sink in sinks:
                    sink.write(frame, result)
                report.frames += 1
                on_frame(report.frames)
                if limit is not None and report.frames >= limit:
                    break
        except KeyboardInterrupt:
            report.interrupted = True
    report.seconds = time.perf_counter() - start
    report.latency = summarise(durations) if durations else None
    return report
