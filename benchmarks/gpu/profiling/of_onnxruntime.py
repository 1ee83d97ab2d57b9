"""The fp16 bundle in ONNX Runtime: as it is exported, its graph in other forms, and the CUDA provider's options.

Every variant says itself whether TF32 is on, whatever the runtime sets: off unless its name says tf32.
"""

import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.contenders.of_bundles import find_provider, make_bundle
from benchmarks.gpu.profiling.graphs import census, rewritten
from benchmarks.gpu.profiling.job import Job
from benchmarks.gpu.profiling.kernels import profiled, table
from benchmarks.gpu.results import Result
from benchmarks.gpu.timing import Call, in_words, summary
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.limits import measure_parity
from e2e_deploy.packages import import_onnxruntime


@dataclass(frozen=True)
class Variant:
    """A form of the graph and options of the provider.

    Attributes:
        graph: arguments of graphs.rewritten; empty for the graph as exported.
        options: of the CUDA provider, beside those that the runtime sets.
        profile: whether its kernels are listed.
    """

    name: str
    graph: dict[str, Any] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    profile: bool = False


NHWC = {"prefer_nhwc": "1"}
TF32 = {"use_tf32": "1"}
HEURISTIC = {"cudnn_conv_algo_search": "HEURISTIC"}
FUSED = {"norms": "fused"}
BEST = {"norms": "fused", "attention": True}  # what exports write
REDUCED = {"norms": "reduced"}
# In the order of what is most wanted, for a limited time.
VARIANTS = (
    Variant("as exported", profile=True),
    Variant("as exported, tf32", {}, TF32, profile=True),
    Variant("fused norms, fp16 attention, nhwc, tf32", BEST, NHWC | TF32, profile=True),
    Variant(
        "fused norms, fp16 attention, nhwc, tf32, graph",
        BEST,
        NHWC | TF32 | {"enable_cuda_graph": "1"},
    ),
    Variant(
        "fused norms, fp16 attention, nhwc, tf32, fused bias",
        BEST,
        NHWC | TF32 | {"fuse_conv_bias": "1"},
        profile=True,
    ),
    Variant(
        "fused norms, fp16 attention, shuffles in nhwc, nhwc, tf32",
        BEST | {"shuffles": True},
        NHWC | TF32,
        profile=True,
    ),
    Variant(
        "fused norms with sums, fp16 attention, nhwc, tf32",
        BEST | {"skips": True},
        NHWC | TF32,
        profile=True,
    ),
    Variant("fused norms, fp16 attention, nhwc, tf32, heuristic", BEST, NHWC | TF32 | HEURISTIC),
    Variant("fused norms, fp16 attention, tf32", BEST, TF32),
    Variant("fused norms, nhwc, tf32", FUSED, NHWC | TF32),
    Variant(
        "fused norms, SiLU apart, fp16 attention, nhwc, tf32",
        BEST | {"norms": "fused_apart"},
        NHWC | TF32,
    ),
    Variant("reduced norms, fp16 attention, nhwc, tf32", BEST | REDUCED, NHWC | TF32, profile=True),
    Variant("reduced norms, tf32", REDUCED, TF32),
    Variant("as exported, nhwc, tf32", {}, NHWC | TF32),
    Variant("fp16 attention, tf32", {"attention": True}, TF32),
    Variant(
        "fused norms, fp16 attention, NhwcConv, tf32",
        BEST | {"convolutions": True},
        TF32,
        profile=True,
    ),
    Variant("fused norms", FUSED, profile=True),
    Variant("fused norms, nhwc", FUSED, NHWC, profile=True),
    Variant("fused norms, fp16 attention", BEST, profile=True),
    Variant("fused norms, fp16 attention, nhwc", BEST, NHWC, profile=True),
    Variant("reduced norms", REDUCED, profile=True),
)
CPU_VARIANTS = (
    Variant("as exported", profile=True),
    Variant("shuffles in nhwc", {"shuffles": True}),
    Variant("reduced norms", {"norms": "reduced"}),
    Variant("fused norms", {"norms": "fused"}),
    Variant("fp16 attention", {"attention": True}),
    Variant("convolutions", {"convolutions": True}),
)
"""For a CPU, which has no kernel for the last ones: they say so."""


def _session(job: Job, file: Path, options: dict[str, str], profile_to: str = "") -> Any:
    ort = import_onnxruntime()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if profile_to:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile_to
    providers: list[Any] = ["CPUExecutionProvider"]
    if job.device.is_cuda:
        provider = find_provider("fp16")
        chosen = provider.options | {"use_tf32": "0"} | options
        providers.insert(0, (provider.name, chosen))
    return ort.InferenceSession(str(file), settings, providers=providers)


def _bound(job: Job, session: Any) -> Call:
    """A call with input and output in the device's memory."""
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    name = job.device.name
    frame = torch.zeros(given.shape, dtype=torch.uint8, device=name)
    result = torch.zeros(taken.shape, dtype=torch.float32, device=name)
    binding = session.io_binding()
    binding.bind_input(given.name, name, 0, np.uint8, tuple(frame.shape), frame.data_ptr())
    binding.bind_output(taken.name, name, 0, np.float32, tuple(result.shape), result.data_ptr())

    def call(value: Tensor) -> Tensor:
        frame.copy_(value)
        job.device.synchronise()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return result

    return call


def _nodes(file: Path) -> Result:
    """What ONNX Runtime's own profile says: nodes by operator and provider, and their host milliseconds a run."""
    events = json.loads(file.read_text(encoding="utf-8"))
    runs = sum(event["name"] == "model_run" for event in events) or 1
    count: Counter[str] = Counter()
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            where = event["args"].get("provider", "").removesuffix("ExecutionProvider")
            key = f"{event['args'].get('op_name')} on {where}"
            count[key] += 1
            spent[key] += event["dur"] / 1000 / runs
    ordered = sorted(spent, key=lambda key: -spent[key])
    return {
        "runs": runs,
        "nodes": {key: {"nodes": count[key] / runs, "host_ms": spent[key]} for key in ordered},
        "on_cpu": sum(n for key, n in count.items() if key.endswith("on CPU")) / runs,
        "copies": sum(n for key, n in count.items() if key.startswith("Memcpy")) / runs,
    }


def _placed(job: Job, file: Path, options: dict[str, str], frame: Tensor) -> Result:
    """Nodes by provider, from a session of its own that keeps a profile."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(job, file, options, str(Path(folder) / "nodes"))
        call = _bound(job, session)
        for _ in range(2):
            call(frame)
        return _nodes(Path(session.end_profiling()))


def _timed(call: Call, frames: list[Tensor], rounds: int = 10) -> list[float]:
    """Milliseconds of warm calls by the host's clock; each returns when its result is there."""
    times = []
    for turn in range(rounds):
        start = time.perf_counter()
        call(frames[turn % len(frames)])
        times.append(1000 * (time.perf_counter() - start))
    return times


def _parity(job: Job, bundle: Bundle, call: Call) -> tuple[Result, Any]:
    """Against the reference that the bundle carries; and what was found."""
    references, results = bundle.reference(bundle.manifest.graphs[0])
    frame = torch.from_numpy(references[:1]).to(job.device.name)
    found = call(frame).cpu().numpy().copy()
    parity = measure_parity("depth", found[0], results["depth"][0])
    return {"abs_rel": parity.abs_rel, "relative": parity.relative}, found


def _run_variant(
    job: Job, bundle: Bundle, variant: Variant, frames: list[Tensor], *, placed: bool
) -> tuple[Result, Any]:
    """All that is measured of one variant, and its result for the bundle's own frame."""
    file = bundle.file(bundle.manifest.graphs[0].onnx)
    changed: dict[str, Any] = {}
    start = time.perf_counter()
    if variant.graph:
        name = "-".join(f"{key}-{value}" for key, value in variant.graph.items())
        file, changed = rewritten(file, name, **variant.graph)
    row: Result = {"graph": variant.graph, "options": variant.options, "changed": changed}
    row["rewrite_s"] = time.perf_counter() - start
    start = time.perf_counter()
    session = _session(job, file, variant.options)
    row["session_s"] = time.perf_counter() - start
    call = _bound(job, session)
    start = time.perf_counter()
    for turn in range(2 if variant.name.startswith("as exported") else 3):
        call(frames[turn])
    row["first_runs_s"] = time.perf_counter() - start
    row["latency"] = summary(_timed(call, frames))
    row["parity"], found = _parity(job, bundle, call)
    if variant.profile and "enable_cuda_graph" not in variant.options:
        row["profile"] = profiled(job.device, call, frames, rounds=2)
    if job.device.is_cuda:
        free, total = torch.cuda.mem_get_info()
        row["device_used_gib"] = (total - free) / 2**30
    if placed:
        del call, session  # its memory is the next one's
        row["placement"] = _placed(job, file, variant.options, frames[0])
    return row, found


def _say(job: Job, name: str, row: Result) -> None:
    """A variant in a line or two; its kernels at once."""
    if "error" in row:
        job.say(f"          {name}: {row['error'][:200]}")
        return
    if "profile" in row:
        print(table(name, row["profile"], 10), file=sys.stderr, flush=True)
    if "placement" in row:
        placed = row["placement"]
        nodes = list(placed["nodes"].items())[:20]
        job.say(
            f"placement: {placed['on_cpu']:.0f} nodes on the CPU, {placed['copies']:.0f} copies; "
            + ", ".join(f"{k} {v['nodes']:.0f}x {v['host_ms']:.1f}" for k, v in nodes)
        )
    job.say(
        f"{row['latency']['p50_ms']:8.1f} ms  {name}  (session {row['session_s']:.0f} s, abs_rel "
        f"{row['parity']['abs_rel']:.2e}, from the first {row['rms_from_first']:.1e}, {row['changed']})"
    )


@torch.no_grad()
def onnx_runtime(job: Job, only: Collection[str] | None, placed: Collection[str]) -> None:
    """The bundle's graph in every variant, cheap and telling ones first.

    Args:
        job: its lines and its file.
        only: names of variants; all if None.
        placed: names of variants whose nodes are listed by provider.
    """
    bundle = make_bundle(job.work, job.frame_hw, precision="fp16", small=job.small)
    operators = census(bundle.file(bundle.manifest.graphs[0].onnx))
    rows: dict[str, Result] = {}
    result = job.facts() | {"precision": "fp16", "operators": operators, "variants": rows}
    result["onnxruntime_imported"] = str(import_onnxruntime().__version__)
    frames, first = job.frames(), None
    for variant in VARIANTS if job.device.is_cuda else CPU_VARIANTS:
        name = variant.name
        if only and name not in only:
            continue
        if job.left() < 15:
            rows[name] = {"not_run": f"{job.left():.0f} s are left"}
            continue
        start = time.perf_counter()
        try:
            row, found = _run_variant(job, bundle, variant, frames, placed=name in placed)
            first = found if first is None else first
            row["rms_from_first"] = float(np.sqrt(np.mean((found - first) ** 2)))
        except Exception as error:  # of any library; the others go on
            row = {"error": in_words(error)}
        row["seconds"] = time.perf_counter() - start
        rows[name] = row
        _say(job, name, row)
        job.write("gpu_profile_onnxruntime", result)
        job.device.reserved()
