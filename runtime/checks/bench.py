"""``bench``: how fast a bundle is on this machine, in numbers that say what they were measured with."""

import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.names import OPPONENTS, BackendChoice, Opponent, Precision
from e2e_deploy.packages import installed_versions, require
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.device import parse_device
from e2e_deploy.runtime.backends.torch import original_checkpoint
from e2e_deploy.runtime.checks.against import (
    Against,
    AgainstDiffusers,
    against_backend,
    against_diffusers,
)
from e2e_deploy.runtime.checks.peer import DiffusersPeer, peer_precision
from e2e_deploy.runtime.checks.rates import RateResult, at_rate, find_peak, resident_mib
from e2e_deploy.runtime.checks.turns import Frames
from e2e_deploy.runtime.checks.verify import precision_of
from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.opened import opened_bundle, require_one_at_once
from e2e_deploy.runtime.timing import WARM_UP, Latency, measure, summarise
from e2e_deploy.system.interrupts import interruptible

RATES_HZ = (10.0, 30.0, 60.0)
SECONDS = 3.0
PACKAGES = (
    *("numpy", "opencv-python", "av", "onnxruntime-gpu", "onnxruntime"),
    *("torch", "triton", "diffusers", "openvino", "tensorrt", "tensorrt-rtx"),
)


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
        device_latency: what of it the GPU computed; None where the backend does not tell.
        against: the other backend, if one was asked for.
        diffusers: diffusers' own pipeline, if that was asked for.
    """

    frame_size: tuple[int, int]
    backend: str
    device: str
    precision: Precision
    batch: int
    warm_up: int
    latency: Latency
    device_latency: Latency | None
    against: Against | None
    diffusers: AgainstDiffusers | None
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
        files: SHA-256 of each graph and of its variants.
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
    against: Opponent | None = None,
    loop: bool = False,
    rates: Sequence[float] = (),
    seconds: float | None = None,
    prepare: Callable[[Bundle], Bundle] | None = None,
    on_row: Callable[[BenchRow], None] = lambda row: None,
    stages: Stages | None = None,
) -> BenchReport:
    """Time a bundle's engine on real pictures: frame on the host to result on the host, in milliseconds.

    Args:
        bundle: its folder, or an opened Bundle; each of its frame sizes is timed.
        backend: what runs it; a named one that is not here is an error.
        device: where it runs.
        checkpoint: what the bundle was exported from, for PyTorch and diffusers: a folder or a hub id.
        frames: timed, after WARM_UP untimed ones.
        against: another backend, timed in turn with the first; or diffusers, its own pipeline at one step on the
            checkpoint and the device of the first, eager and compiled.
        loop: also the whole loop: every stage at fixed rates, and the highest rate with at most 5 % drops.
        rates: of that loop, in frames a second; RATES_HZ if none is given.
        seconds: of each of its runs; SECONDS if None.
        prepare: gets the opened bundle when the arguments are checked, and gives the one to time; rebuild_plans does.
        on_row: called with each row as soon as it is measured.
        stages: says what takes a minute; silent if None.

    Raises:
        BundleError: not a bundle, damaged, or changed after it was written.
        CheckpointError: PyTorch or diffusers has no checkpoint here, or another one.
        UnavailableError: a backend, the device, or diffusers is not here.
        UsageError: an argument that has no effect, a count, rate or time that cannot be measured, or a family that
            diffusers has no pipeline for.
    """
    if not loop and (rates or seconds is not None):
        raise UsageError("`rates` and `seconds` need `loop`; without it they have no effect")
    if frames < 1:
        raise UsageError(f"`frames` must be 1 or more, not {frames}")
    if against is not None and against not in OPPONENTS:
        raise UsageError(
            f"unknown backend {against!r}; `against` takes one of {', '.join(OPPONENTS)}"
        )
    asked = {backend, against}
    opened = opened_bundle(bundle, checkpoint, has_use=bool(asked & {"torch", "diffusers"}))
    if loop:
        require_one_at_once(opened, "the loop is measured as a live source")
    if against == "diffusers":
        require("diffusers", "export")
        if parse_device(device).is_intel:
            raise UsageError(
                f'diffusers does not reach {device}, and both must run on one device; use `device="cpu"`'
            )
    if prepare is not None:
        opened = prepare(opened)
    load_for = partial(load, opened, device=device)
    rival = _rival(opened, against, load_for, frames, stages or Stages(quiet=True))
    run_at = (rates or RATES_HZ, SECONDS if seconds is None else seconds) if loop else None
    rows: list[BenchRow] = []

    def time_all() -> None:
        for size in opened.manifest.frame_sizes:
            with load_for(backend=backend, frame_size=size) as engine:
                rows.append(_row(engine, frames, rival, run_at))
            on_row(rows[-1])

    interruptible(time_all)
    return _report(opened, rows)


Rival = Callable[[Engine, Frames], tuple[Against | None, AgainstDiffusers | None]]
"""Times an engine against what was asked for."""


def _rival(
    bundle: Bundle,
    against: Opponent | None,
    load_for: Callable[..., Engine],
    count: int,
    stages: Stages,
) -> Rival:
    """What the engines are timed against; for diffusers the checkpoint is found, and opened when it is needed."""
    if against is None:
        return lambda engine, pictures: (None, None)
    if against != "diffusers":

        def beside(engine: Engine, pictures: Frames) -> tuple[Against, None]:
            with load_for(backend=against, frame_size=engine.frame_size) as other:
                return against_backend(engine, other, pictures, count), None

        return beside
    manifest, checkpoint = bundle.manifest, original_checkpoint(bundle)

    @cache  # one for all frame sizes
    def peer(gpu: int | None) -> DiffusersPeer:
        with stages("load diffusers"):
            return DiffusersPeer(
                checkpoint,
                manifest.resolution,
                device="cpu" if gpu is None else f"cuda:{gpu}",
                precision=peer_precision(manifest.precision, on_gpu=gpu is not None),
            )

    return lambda engine, pictures: (
        None,
        against_diffusers(engine, peer(engine.backend.gpu), pictures, count, stages),
    )


def _row(
    engine: Engine,
    count: int,
    rival: Rival,
    run_at: tuple[Sequence[float], float] | None,
) -> BenchRow:
    """Everything that is asked of one graph: alone, against a rival, in the loop at (rates, seconds)."""
    pictures = _pictures(engine)
    latency, device_latency = _timed(engine, pictures, count)
    against, diffusers = rival(engine, pictures)
    return BenchRow(
        frame_size=engine.frame_size,
        backend=engine.backend.name,
        device=engine.backend.device,
        precision=precision_of(engine.backend, engine.manifest),
        batch=engine.batch,
        warm_up=WARM_UP,
        latency=latency,
        device_latency=device_latency,
        against=against,
        diffusers=diffusers,
        loop=None if run_at is None else _loop(engine, pictures, latency, *run_at),
    )


def _timed(engine: Engine, pictures: Frames, count: int) -> tuple[Latency, Latency | None]:
    """Latency of calls from host to host, and of what the GPU computed for them."""
    on_gpu: list[float] = []

    def keep() -> None:
        ms = getattr(engine.backend, "gpu_ms", None)  # of the backends with a pipeline of their own
        if ms is not None:
            on_gpu.append(ms / 1000.0)

    latency = measure(engine, pictures, count=count, after=keep)
    return latency, summarise(on_gpu) if on_gpu else None


def _pictures(engine: Engine) -> Frames:
    """Real pictures as the engine takes them, one or a batch at once."""
    pictures = list(reference_frames(engine.frame_size))
    if engine.batch == 1:
        return pictures
    return [
        np.stack([pictures[(i + j) % len(pictures)] for j in range(engine.batch)])
        for i in range(len(pictures))
    ]


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
        files={
            name: manifest.files[name].sha256
            for graph in manifest.graphs
            for name in (graph.onnx, *(variant.onnx for variant in graph.variants))
        },
        rows=rows,
    )
