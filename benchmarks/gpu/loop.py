"""The live loop on the device: a 1080p file through runtime.run, with every backend that runs here.

e2e-tiny through the bundle's own backends, and the full size in torch with page-locked copies and recorded stages, as
an engine of its own kind. Says frames a second, latencies by stage, bytes a frame (and the copies counted, by backends
that count), the GPU's idle share, and whether anything was allocated after the warm-up.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import e2e_deploy as e2e
from benchmarks.gpu.contenders.in_torch import RECIPES, Bodies, Contender, build
from benchmarks.gpu.contenders.of_bundles import make_bundle, require_backend, with_plan
from benchmarks.gpu.timing import Device, exact_and_tuned, in_words
from benchmarks.speed.loop_overhead import write_clip
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import UnavailableError
from e2e_deploy.frames import plan_frame
from e2e_deploy.names import BACKENDS, PLAN_KINDS
from e2e_deploy.runtime.backends.backend import OneAtATime
from e2e_deploy.runtime.backends.gpu.transfers import Count, budget
from e2e_deploy.runtime.backends.layout import Layout, Result
from e2e_deploy.runtime.checks.rates import resident_mib
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.report import STAGES, RunReport
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources.gpu_video import GpuVideoSource
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.runtime.sources.video_source import VideoSource

FULL_HW, SMALL_HW = (1080, 1920), (64, 96)
FRAMES, SMALL_FRAMES = 300, 12
FULL_RESOLUTION, TINY_RESOLUTION, SMALL_RESOLUTION = 768, 320, 0
NETWORK_STRIDE, TINY_STRIDE = 64, 32
IN_TORCH = "torch_in_memory"
GPU_DECODED = "_gpu_decoded"  # the frames never are on the host; plans take them there


class InMemory(OneAtATime):
    """A contender as the backend of an Engine: frame on the host to result on the host, in one stream.

    Attributes:
        gpu_ms: what the last frame took on the device, copies included.
    """

    name = "torch"

    def __init__(self, device: Device, contender: Contender, frame_hw: tuple[int, int]) -> None:
        self.device = device.name
        self._device, self._contender = device, contender
        pin = device.is_cuda
        self._given = torch.empty(1, *frame_hw, 3, dtype=torch.uint8, pin_memory=pin)
        self._taken = torch.empty(1, *frame_hw, dtype=torch.float32, pin_memory=pin)
        self._on_device = torch.empty_like(self._given, device=device.name)
        self.gpu_ms = 0.0

    @torch.no_grad()
    def __call__(self, frame: npt.NDArray[np.uint8], out: Result | None = None) -> Result:
        """Depth [H, W] of a frame."""
        self._given.numpy()[0] = frame
        start = self._device.mark()
        self._on_device.copy_(self._given, non_blocking=True)
        self._taken.copy_(self._contender.call(self._on_device), non_blocking=True)
        end = self._device.mark()
        self._device.synchronise()
        self.gpu_ms = self._device.between_ms(start, end)
        result = np.empty_like(self._taken.numpy()[0]) if out is None else out
        np.copyto(result, self._taken.numpy()[0])
        return result


def memory_now() -> dict[str, float]:
    """Memory of the process, and what torch asked the GPU for so far."""
    found = {"resident_mib": resident_mib() or float("nan")}
    if torch.cuda.is_available():
        stats = torch.cuda.memory_stats()
        found["gpu_segments"] = stats.get("segment.all.allocated", 0)
        found["gpu_reserved_mib"] = torch.cuda.memory_reserved() / 2**20
    return found


def run_clip(engine: Engine, source: Source, warm_up: int) -> dict[str, Any]:
    """A source through the loop, after the engine has run a few frames alone."""
    on_gpu = isinstance(source, GpuVideoSource)
    frame = np.zeros((*engine.frame_size, 3), dtype=np.uint8)
    for _ in range(3):
        engine(frame)
    on_gpu_ms: list[float] = []
    at: dict[str, Any] = {}

    def watch(engine: Engine, frame: Any, result: Result) -> None:
        if (spent := getattr(engine.backend, "gpu_ms", None)) is not None:
            on_gpu_ms.append(float(spent))

    def seen(report: RunReport) -> None:
        if report.frames == warm_up:
            at["memory"], at["time"] = memory_now(), time.perf_counter()
        at["end"] = time.perf_counter()

    sink = CallbackSink(lambda frame, result, facts: None)
    report = run_source(
        engine.bundle,
        source,
        [sink],
        engine=engine,
        watch=None if on_gpu else watch,  # it would be shown the frame, and that is a download
        on_frame=seen,
    )
    after, wall_s = memory_now(), at["end"] - at["time"]
    counted = report.frames - warm_up
    height, width = engine.frame_size
    layout = Layout.of(engine.graph, engine.manifest.kinds)
    found: dict[str, Any] = {
        "engine": report.engine,
        "frames": report.frames,
        "frames_per_second": counted / wall_s,
        "stages": {
            stage: vars(latency)
            for stage in STAGES
            if (latency := report.times[stage].latency()) is not None
        },
        "bytes_to_device": 3 * height * width,
        "bytes_to_host": layout.num_bytes,
        "grown_after_warm_up": {name: after[name] - at["memory"][name] for name in after},
    }
    if report.transfers is not None:  # of backends that count them
        sizes = {"frame_bytes": found["bytes_to_device"], "result_bytes": found["bytes_to_host"]}
        allowed = budget("gpu frame" if on_gpu else "host frame", **sizes)
        found["copies"] = {way: vars(count) for way, count in report.transfers.items()}
        found["within_copy_budget"] = report.transfers == {
            way: Count(report.frames * each.calls, report.frames * each.bytes)
            for way, each in allowed.items()
        }
    if on_gpu_ms:
        busy_s = sum(on_gpu_ms[warm_up:]) / 1000
        found["device_ms"] = float(np.median(on_gpu_ms[warm_up:]))
        found["device_idle_share"] = max(0.0, 1 - busy_s / wall_s)
    return found


def in_memory(device: Device, bundle: Bundle, frame_hw: tuple[int, int], *, small: bool) -> Engine:
    """An engine of the model in torch: recorded on a GPU; the bundle lends its manifest."""
    stride, resolution = (
        (TINY_STRIDE, SMALL_RESOLUTION) if small else (NETWORK_STRIDE, FULL_RESOLUTION)
    )
    plan = plan_frame(frame_hw, resolution, stride)
    name = "specialised_graph" if device.is_cuda else "specialised"
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    example = torch.zeros(1, *frame_hw, 3, dtype=torch.uint8, device=device.name)
    with torch.no_grad(), exact_and_tuned():
        contender = build(recipe, Bodies(device, small=small), plan, example)
    backend = InMemory(device, contender, frame_hw)
    return Engine(bundle, bundle.manifest.graphs[0], backend, f"{name}, {device.precision}")


def run_loop(
    device: Device, work: Path, *, small: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every engine in turn; one that is not here or fails is in the result with the reason."""
    frame_hw, count = (SMALL_HW, SMALL_FRAMES) if small else (FULL_HW, FRAMES)
    work.mkdir(parents=True, exist_ok=True)
    clip = write_clip(work / f"pattern-{frame_hw[0]}.mp4", frame_hw, count)
    resolution = SMALL_RESOLUTION if small else TINY_RESOLUTION
    bundle = make_bundle(work, frame_hw, precision="fp32", small=True, resolution=resolution)

    def load(name: str) -> Engine:
        if name == IN_TORCH:
            return in_memory(device, bundle, frame_hw, small=small)
        require_backend(name, device.name)
        held = with_plan(bundle, name, device.name)
        backend = next(known for known in BACKENDS if known == name)
        return e2e.load(held, backend=backend, device=device.name)

    rows: dict[str, Any] = {}
    for name in (*BACKENDS, IN_TORCH, *(kind + GPU_DECODED for kind in PLAN_KINDS)):
        model = "e2e-tiny, trained" if small or name != IN_TORCH else "SD2 size, random weights"
        rows[name] = {"model": model}
        try:
            with load(name.removesuffix(GPU_DECODED)) as engine:
                on_gpu = name.endswith(GPU_DECODED)
                source = GpuVideoSource(clip) if on_gpu else VideoSource(clip)
                rows[name] |= run_clip(engine, source, count // 4)
        except (UnavailableError, ImportError) as error:
            rows[name]["not_run"] = str(error)
        except Exception as error:  # of any library; the others go on
            rows[name]["error"] = in_words(error)
        device.reserved()
        say(f"{name}: {rows[name]}")
    return {
        "frame_size": list(frame_hw),
        "clip_frames": count,
        "engines": rows,
    }
