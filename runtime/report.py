"""What a run tells of itself: while it goes on, and at its end."""

from dataclasses import dataclass, field
from pathlib import Path

from e2e_deploy.runtime.backends.gpu.transfers import Counts
from e2e_deploy.runtime.checks.parity_watch import ParityReport
from e2e_deploy.runtime.sources.picture_source import PictureSource
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.runtime.timing import Durations, Latency

STAGES = ("fit", "engine", "finish", "age")


@dataclass
class SinkReport:
    """What became of one sink.

    Attributes:
        name: the sink's.
        written: results it took.
        dropped: results that newer ones replaced before it took them (live sources only), and those that it took and
            whoever it sends them to did not get in time.
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
        source: what was run; knows its name, its notes, and what it skipped or lost.
        engine: backend and device, in words.
        frames: frames that went through.
        captured: frames that the source gave.
        dropped: frames of a live source that newer ones replaced before the engine took them.
        seconds: of the whole run, the loading of its engine included.
        times: durations of each of STAGES; engine is what the loop spent in it for a frame, also while another computed
            there; age is from a frame's capture to the hand-over of its result to the sinks.
        transfers: copies between host and GPU in all; None for backends that do not count them.
        fitted: source size to engine size, where they differ.
        sinks: one report a sink.
        files: what the sinks wrote, as far as they name it.
        parity: what was compared with the reference; None when nothing was asked for.
        view: addresses of live views, or empty.
        note: what must be said about the weights, or empty.
        pixels: of all results.
        unknown_pixels: those of them that are no numbers (NaN or infinite).
        unknown_results: results in which no pixel is a number.
        failed_steps: results that a step could not do.
        failed_step: why, of the first of them.
        interrupted: the user stopped it.
    """

    source: Source
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
    parity: ParityReport | None = None
    view: str = ""
    note: str = ""
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

    @property
    def no_numbers(self) -> bool:
        """Whether there are results, and not one of them holds a number."""
        return 0 < self.frames == self.unknown_results

    @property
    def complete(self) -> bool:
        """Whether no picture was left out, no sink failed, and something is known."""
        left_out = isinstance(self.source, PictureSource) and self.source.skipped > 0
        failed = any(sink.failure for sink in self.sinks)
        not_saved = self.parity is not None and bool(self.parity.not_saved)
        return not (left_out or failed or not_saved or self.no_numbers)
