"""``bench``: how fast a bundle is on this machine, in numbers that say what they were measured with."""

import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.names import BackendChoice, Precision
from e2e_deploy.packages import installed_versions
from e2e_deploy.runtime.checks.rates import (
    Frames,
    RateResult,
    at_rate,
    compare,
    find_peak,
    resident_mib,
)
from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.opened import opened_bundle, require_one_at_once
from e2e_deploy.runtime.timing import WARM_UP, Latency, measure
from e2e_deploy.system.interrupts import interruptible

RATES_HZ = (10.0, 30.0, 60.0)
SECONDS = 3.0
PACKAGES = (
    *("numpy", "opencv-python", "av", "onnxruntime-gpu", "onnxruntime"),
    *("torch", "tensorrt", "tensorrt-rtx"),
)


@dataclass(frozen=True)
class Against:
    """Another backend, timed in turn with the first on the same frames.

    Attributes:
        ours: of the first, in that run.
        theirs: of the other.
    """

    backend: str
    device: str
    ours: Latency
    theirs: Latency

    @property
    def ratio_of_medians(self) -> float:
        """How many times as fast the first is."""
        return self.theirs.p50_ms / self.ours.p50_ms


@dataclass(frozen=True)
class LoopResult:
    """The whole loop.

    Attributes:
        rates: one a rate.
        peak: at the highest rate that it keeps up with; None when half of what the engine alone does is too fast.
        memory_mib: of the process before and after; None where the platform does not tell.
    """

    rates: list[RateResult]
    peak: RateResult | None
    memory_mib: tuple[float | None, float | None]


@dataclass(frozen=True)
class BenchRow:
    """One graph of the bundle: frame on the host to result on the host, after ``warm_up`` calls.

    Attributes:
        frame_size: (H, W).
        backend: what ran it, by name.
        device: where, in words.
        batch: frames that one call takes.
        latency: of a call.
    """

    frame_size: tuple[int, int]
    backend: str
    device: str
    precision: Precision
    batch: int
    warm_up: int
    latency: Latency
    against: Against | None
    loop: LoopResult | None

    @property
    def per_second(self) -> float:
        """Frames a second, one call after the other."""
        return self.batch * self.latency.per_second


@dataclass(frozen=True)
class BenchReport:
    """All graphs, and what they were measured with.

    Attributes:
        date: when, in ISO 8601.
        machine: processor, as the platform names it.
        python: version.
        installed: versions of the packages here that count.
        versions: those that exported the bundle.
        checkpoint: id and SHA-256.
        files: SHA-256 of each graph.
        rows: one a frame size.
    """

    date: str
    machine: str
    python: str
    installed: dict[str, str]
    versions: dict[str, str]
    checkpoint: dict[str, str]
    files: dict[str, str]
    rows: list[BenchRow]


def bench(
    bundle: str | Path | Bundle,
    *,
    backend: BackendChoice = "auto",
    device: str = "auto",
    checkpoint: str | None = None,
    frames: int = 50,
    against: BackendChoice | None = None,
    loop: bool = False,
    rates: Sequence[float] = (),
    seconds: float | None = None,
    on_row: Callable[[BenchRow], None] = lambda row: None,
) -> BenchReport:
    """Time a bundle's engine on real pictures: frame on the host to result on the host, in milliseconds.

    Args:
        bundle: its folder, or an opened Bundle; each of its frame sizes is timed.
        backend: what runs it; a named one that is not here is an error.
        device: where it runs.
        checkpoint: what the bundle was exported from, for PyTorch: a folder or a hub id.
        frames: timed, after WARM_UP untimed ones.
        against: another backend, timed in turn with the first.
        loop: also the whole loop: every stage at fixed rates, and the highest rate with at most 5 % drops.
        rates: of that loop, in frames a second; RATES_HZ if none is given.
        seconds: of each of its runs; SECONDS if None.
        on_row: called with each row as soon as it is measured.

    Raises:
        BundleError: not a bundle, damaged, or changed after it was written.
        UnavailableError: a backend or the device is not here.
        UsageError: an argument that has no effect, or a count, rate or time that cannot be measured.
    """
    if not loop and (rates or seconds is not None):
        raise UsageError("`rates` and `seconds` need `loop`; without it they have no effect")
    if frames < 1:
        raise UsageError(f"`frames` must be 1 or more, not {frames}")
    opened = opened_bundle(bundle, checkpoint, has_use="torch" in (backend, against))
    if loop:
        require_one_at_once(opened, "the loop is measured as a live source")
    load_for = partial(load, opened, device=device)
    other = None if against is None else partial(load_for, backend=against)
    run_at = (rates or RATES_HZ, SECONDS if seconds is None else seconds) if loop else None
    rows: list[BenchRow] = []

    def time_all() -> None:
        for size in opened.manifest.frame_sizes:
            with load_for(backend=backend, frame_size=size) as engine:
                rows.append(_row(engine, frames, other, run_at))
            on_row(rows[-1])

    interruptible(time_all)
    return _report(opened, rows)


def _row(
    engine: Engine,
    count: int,
    load_other: Callable[..., Engine] | None,
    run_at: tuple[Sequence[float], float] | None,
) -> BenchRow:
    """Everything that is asked of one graph: alone, against another engine, in the loop at (rates, seconds)."""
    pictures = _pictures(engine)
    latency = measure(engine, pictures, count=count)
    against = None
    if load_other is not None:
        with load_other(frame_size=engine.frame_size) as other:
            against = _against(engine, other, pictures, count)
    return BenchRow(
        frame_size=engine.frame_size,
        backend=engine.backend.name,
        device=engine.backend.device,
        precision=engine.manifest.precision,
        batch=engine.batch,
        warm_up=WARM_UP,
        latency=latency,
        against=against,
        loop=None if run_at is None else _loop(engine, pictures, latency, *run_at),
    )


def _pictures(engine: Engine) -> Frames:
    """Real pictures as the engine takes them, one or a batch at once."""
    pictures = list(reference_frames(engine.frame_size))
    if engine.batch == 1:
        return pictures
    return [
        np.stack([pictures[(i + j) % len(pictures)] for j in range(engine.batch)])
        for i in range(len(pictures))
    ]


def _against(engine: Engine, other: Engine, pictures: Frames, count: int) -> Against:
    ours, theirs = compare(engine, other, pictures, count=count)
    return Against(other.backend.name, other.backend.device, ours, theirs)


def _loop(
    engine: Engine, pictures: Frames, alone: Latency, rates: Sequence[float], seconds: float
) -> LoopResult:
    before = resident_mib()
    results = [at_rate(engine, pictures, rate, seconds) for rate in rates]
    peak = find_peak(lambda rate: at_rate(engine, pictures, rate, seconds), alone.per_second)
    return LoopResult(results, peak, (before, resident_mib()))


def _report(bundle: Bundle, rows: list[BenchRow]) -> BenchReport:
    manifest = bundle.manifest
    return BenchReport(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=platform.processor() or platform.machine(),
        python=platform.python_version(),
        installed=installed_versions(PACKAGES),
        versions=manifest.versions,
        checkpoint={"id": manifest.checkpoint.id, "sha256": manifest.checkpoint.sha256},
        files={graph.onnx: manifest.files[graph.onnx].sha256 for graph in manifest.graphs},
        rows=rows,
    )
