"""ONNX Runtime as the product runs it, through ``e2e.load``: host to host, on the GPU's own arrays, and its kernels."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import e2e_deploy as e2e
from benchmarks.gpu.contenders.of_bundles import find_provider, make_bundle
from benchmarks.gpu.profiling.job import Job
from benchmarks.gpu.profiling.kernels import profiled, table
from benchmarks.gpu.results import Result
from benchmarks.gpu.timing import in_words, summary
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.limits import measure_parity
from e2e_deploy.packages import import_onnxruntime

WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "not recorded": {"enable_cuda_graph": False},
    "portable graph": {"prefer_nhwc": False},
    "fused bias": {"fuse_conv_bias": True},
    "heuristic": {"cudnn_conv_algo_search": "HEURISTIC"},
}
"""Options of the provider over the product's, most wanted first; a CPU has the first alone."""


def _times(call: Callable[[Any], Any], inputs: list[Any], rounds: int) -> list[float]:
    """Milliseconds of warm calls by the host's clock, each of which returns when its result is there."""
    call(inputs[0])
    times = []
    for turn in range(rounds):
        start = time.perf_counter()
        call(inputs[turn % len(inputs)])
        times.append(1000 * (time.perf_counter() - start))
    return times


def _pipelined(engine: e2e.Engine, frames: list[Any], rounds: int) -> float:
    """Milliseconds a frame where as many as there are slots are on their way."""
    slots: list[int] = []
    start = time.perf_counter()
    for turn in range(rounds):
        if len(slots) == engine.backend.slots:
            engine.collect(slots.pop(0))
        slots.append(engine.submit(frames[turn % len(frames)]))
    for slot in slots:
        engine.collect(slot)
    return 1000 * (time.perf_counter() - start) / rounds


def _way(job: Job, bundle: Bundle, options: dict[str, Any], frames: list[Tensor]) -> Result:
    start = time.perf_counter()
    on_host = [frame[0].cpu().numpy() for frame in frames]
    with e2e.load(
        bundle, backend="onnxruntime", device=job.device.name, provider_options=options or None
    ) as engine:
        backend = engine.backend
        row: Result = {"load_s": time.perf_counter() - start, "runs_on": backend.device}
        row["host_to_host"] = summary(_times(engine, on_host, job.rounds))
        row["two_on_their_way_ms"] = _pipelined(engine, on_host, job.rounds)
        (pictures, results) = bundle.reference(engine.graph)
        parity = measure_parity("depth", engine(pictures[0]), results["depth"][0])
        row["parity"] = {"abs_rel": parity.abs_rel, "relative": parity.relative}
        if backend.gpu is not None:
            out = torch.empty(results["depth"][0].shape, device="cuda")
            call = lambda frame: engine(frame[0], out=out)  # noqa: E731
            row["device_to_device"] = summary(_times(call, frames, job.rounds))
            row["gpu_ms"] = getattr(backend, "gpu_ms", None)
        row["profile"] = profiled(job.device, engine, on_host, rounds=3)
    return row


@torch.no_grad()
def product(job: Job) -> None:
    """The fp16 bundle in the product's backend, as it is and with other options."""
    bundle = make_bundle(job.work, job.frame_hw, precision="fp16", small=job.small)
    rows: dict[str, Result] = {}
    result = job.facts() | {"precision": "fp16", "ways": rows}
    result["onnxruntime_imported"] = str(import_onnxruntime().__version__)
    if job.device.is_cuda:
        result["provider"] = find_provider("fp16").name
    frames = job.frames()
    for name, options in WAYS.items():
        if options and not job.device.is_cuda:
            continue
        if job.left() < 15:
            rows[name] = {"not_run": f"{job.left():.0f} s are left"}
            continue
        try:
            rows[name] = row = _way(job, bundle, options, frames)
        except Exception as error:  # of any library; the others go on
            rows[name] = {"error": in_words(error)}
            job.say(f"{name}: {rows[name]['error']}")
        else:
            on_gpu = row.get("device_to_device", {}).get("p50_ms", np.nan)
            job.say(
                f"{row['host_to_host']['p50_ms']:8.1f} ms host to host, {row['two_on_their_way_ms']:.1f} with two on "
                f"their way, {on_gpu:.1f} on the GPU; AbsRel {row['parity']['abs_rel']:.2e}; {name}: {row['runs_on']}"
            )
            job.say(table(name, row["profile"], 20 if name == "as it is" else 4))
        job.write("gpu_profile_backend_onnxruntime", result)
