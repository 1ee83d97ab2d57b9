"""Where the milliseconds of our model go on a GPU, by kernel and by node, in torch and in ONNX Runtime; what mends it.

    python benchmarks/gpu_profile.py --out DIR --what torch|tuned|norms|onnxruntime [--seconds N] [--small]

torch: kernels of the compiled stages. tuned: one stage compiled in several ways. norms: a group norm with SiLU of a
channels-last map, by inductor and by hand, at the decoder's sizes. onnxruntime: the fp16 bundle as it is exported, its
graph written in other ways, and the provider's options, each timed and compared. Every result is written as soon as it
is there. --small is the whole way with e2e-tiny, on a CPU too.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from gpu_contenders import RECIPES, Bodies, build_diffusers
from gpu_engines import find_provider, make_bundle
from gpu_graphs import census, rewritten
from gpu_kernels import profiled, release, table
from gpu_models import STAGES, Staged, make_inputs, make_model, own_size
from gpu_roofline import copy_gb_s
from gpu_timing import (
    Call,
    Device,
    exact_and_tuned,
    find_device,
    in_turns,
    in_words,
    summary,
    versions,
)
from torch.nn import functional as F

from e2e_deploy.bundle import Bundle
from e2e_deploy.limits import measure_parity
from e2e_deploy.onnxruntime import import_onnxruntime

FULL_HW, SMALL_HW = (576, 768), (64, 96)
Result = dict[str, Any]


@dataclass
class Job:
    """What every question is given.

    Attributes:
        until: time.monotonic() at which nothing slow is begun any more.
        write: the result so far, to its file.
    """

    device: Device
    small: bool
    work: Path
    until: float
    write: Callable[[str, Result], None]
    lines: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Of the frames, which the network sees as they are."""
        return SMALL_HW if self.small else FULL_HW

    @property
    def rounds(self) -> int:
        """Timed calls."""
        return 3 if self.small else 20

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def frames(self) -> list[torch.Tensor]:
        """Four frames on the device, [1, H, W, 3]."""
        return list(torch.from_numpy(make_inputs(self.frame_hw, 1)).to(self.device.name))

    def say(self, text: str) -> None:
        """A line at once, and again at the end."""
        print(text, file=sys.stderr, flush=True)
        self.lines.append(text)


def facts(job: Job) -> Result:
    """What every result of this script begins with."""
    return {
        "model": "e2e-tiny, trained" if job.small else "SD2 size, random weights",
        "frame_size": list(job.frame_hw),
        "batch": 1,
        "precision": job.device.precision,
    }


def compiled_recipe(device: Device) -> Any:
    """The fastest contender; on a CPU, where the contenders are not compiled, the same without."""
    name = "specialised_channels_last" + ("_compiled" if device.is_cuda else "")
    return next(recipe for recipe in RECIPES if recipe.name == name)


def stage_profiles(
    device: Device, stages: dict[str, Call], frames: list[torch.Tensor]
) -> Iterator[tuple[str, Result]]:
    """The kernels of each stage, which takes what the one before it gives."""
    inputs = frames
    for name, stage in stages.items():
        start = time.perf_counter()
        outputs = [stage(value).clone() for value in inputs]
        device.synchronise()
        prepare_s = time.perf_counter() - start
        yield name, {"prepare_s": prepare_s} | profiled(device, stage, inputs)
        inputs = outputs


@torch.no_grad()
@exact_and_tuned()
def torch_stages(job: Job) -> None:
    """The three compiled stages, and diffusers' pipeline compiled as a user would."""
    device, frames = job.device, job.frames()
    stride = make_model("meta", small=job.small).network_stride
    plan, bodies = own_size(job.frame_hw, stride), Bodies(device, small=job.small)
    recipe = compiled_recipe(device)
    result = facts(job) | {"contender": recipe.name, "stages": {}}
    for name, found in stage_profiles(device, bodies.stages(recipe, plan), frames):
        result["stages"][name] = found
        job.say(table(name, found, 12))
        job.write("gpu_profile_torch", result)
    if job.left() > 60 or job.small:
        marigold = build_diffusers(
            device, job.frame_hw, 1, small=job.small, compiled=device.is_cuda
        )
        for frame in frames:
            marigold.call(frame)
        result["diffusers_compiled"] = profiled(device, marigold.call, frames)
        job.say(table("diffusers, compiled", result["diffusers_compiled"], 6))
        job.write("gpu_profile_torch", result)


WAYS: dict[str, Result] = {
    "default": {},
    "1x1 as products": {"conv_1x1_as_mm": True},
    "descent": {"coordinate_descent_tuning": True},
    "own layout": {"layout_optimization": False},
    "convolutions tuned": {"max_autotune": True, "max_autotune_conv_backends": "ATEN,TRITON"},
}
"""Options of inductor, quick ones first."""


@torch.no_grad()
@exact_and_tuned()
def tuned(job: Job) -> None:
    """One stage compiled in several ways, timed in turns."""
    device, which = job.device, job.options["stage"]
    stride = make_model("meta", small=job.small).network_stride
    plan, bodies = own_size(job.frame_hw, stride), Bodies(device, small=job.small)
    body = bodies.get("specialised", True)
    value: list[torch.Tensor] = job.frames()
    plain = Staged(body, plan, device.dtype, channels_last=True)
    for name in STAGES[: STAGES.index(which)]:
        value = [getattr(plain, name)(x).clone() for x in value]
    reference = getattr(plain, which)(value[0]).float()
    calls: dict[str, Any] = {}
    result = facts(job) | {"stage": which, "ways": {}}
    ways = list(WAYS)[:2] if job.small else list(WAYS)
    for name in job.options["ways"] or ways:
        if job.left() < 30:
            result["ways"][name] = {"not_run": f"{job.left():.0f} s are left"}
            continue
        row: Result = {"options": WAYS[name]}
        start = time.perf_counter()
        try:
            staged = Staged(body, plan, device.dtype, channels_last=True)

            def own(x: torch.Tensor, staged: Staged = staged, which: str = which) -> Any:
                return getattr(staged, which)(x)

            torch._dynamo.reset()
            call = torch.compile(own, dynamic=False, options=dict(WAYS[name]))
            for x in value:
                out = call(x)
            device.synchronise()
            row["prepare_s"] = time.perf_counter() - start
            row["rms_from_eager"] = float((out.float() - getattr(plain, which)(value[-1])).std())
            row["profile"] = profiled(device, call, value, top=12)
            calls[name] = call
            if device.is_cuda:
                times, errors = in_turns(device, {name: call}, value, rounds=job.rounds)
                row |= {"alone": summary(times[name])} if times else {"error": errors[name]}
            job.say(table(f"{which}, {name} ({row['prepare_s']:.0f} s)", row["profile"], 4))
        except Exception as error:  # of any compiler; the others go on
            row["error"] = in_words(error)
            job.say(f"{name}: {row['error']}")
        result["ways"][name] = row
        job.write(f"gpu_profile_tuned_{which}", result)
    result["spread"] = float(reference.std())
    times, errors = in_turns(device, calls, value, rounds=job.rounds)
    for name, each in times.items():
        result["ways"][name]["latency"] = summary(each)
        job.say(f"{which}, {name}: {np.median(each):.2f} ms in turns")
    for name, said in errors.items():
        result["ways"][name]["error"] = said
    job.write(f"gpu_profile_tuned_{which}", result)


NORM_SHAPES = (
    (128, 576, 768),
    (256, 576, 768),
    (256, 288, 384),
    (512, 144, 192),
    (320, 72, 96),
    (640, 36, 48),
)
"""Channels, height and width of maps that the networks normalise at 576x768."""


@torch.no_grad()
def norms(job: Job) -> None:
    """A group norm of 32 groups with SiLU: inductor's and one written by hand, against the copy bandwidth."""
    device = job.device
    result = facts(job) | {"shapes": []}
    bandwidth = copy_gb_s(device, 2**22 if job.small else 2**30)
    result["copy_gb_s"] = bandwidth
    try:
        from gpu_norm_kernel import group_norm_silu
    except ImportError as error:
        result["by_hand"] = {"not_run": str(error)}
        group_norm_silu = None
    shapes = [(32, 16, 24)] if job.small else NORM_SHAPES

    def formula(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.silu(F.group_norm(x, 32, weight, bias, 1e-6))

    for channels, height, width in shapes:
        xs = [
            torch.randn(1, channels, height, width, device=device.name)
            .to(device.dtype)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(3)
        ]
        weight, bias = (torch.randn(channels, device=device.name).to(device.dtype) for _ in "wb")
        exact = formula(xs[0].double(), weight.double(), bias.double())
        torch._dynamo.reset()
        compiled = torch.compile(formula, dynamic=False) if device.is_cuda else formula
        calls: dict[str, Any] = {
            "eager": lambda x, w=weight, b=bias: formula(x, w, b),
            "inductor": lambda x, w=weight, b=bias, f=compiled: f(x, w, b),
        }
        if group_norm_silu is not None and device.is_cuda:
            calls["by hand"] = lambda x, w=weight, b=bias: group_norm_silu(x, w, b, 32, 1e-6)
        row: Result = {"channels": channels, "height": height, "width": width, "ways": {}}
        moved = 3 * xs[0].numel() * xs[0].element_size()
        row["floor_ms"] = moved / bandwidth / 1e6
        for name, call in list(calls.items()):
            try:
                error = (call(xs[0]).double() - exact).norm() / exact.norm()
                row["ways"][name] = {"relative_error": float(error)}
                found = profiled(device, call, xs, rounds=9, top=6)
                row["ways"][name] |= {"kernels_ms": found["kernels_ms"], "top": found["top"]}
            except Exception as error:
                row["ways"][name] = {"error": in_words(error)}
                del calls[name]
        times, _ = in_turns(device, calls, xs, rounds=job.rounds)
        for name, each in times.items():
            row["ways"][name]["latency"] = summary(each)
        result["shapes"].append(row)
        job.say(
            f"norm {channels}x{height}x{width}: floor {row['floor_ms']:.3f} ms, kernels "
            + ", ".join(
                f"{name} {way.get('kernels_ms', float('nan')):.3f} ({way.get('error', way.get('relative_error'))})"
                for name, way in row["ways"].items()
            )
        )
        job.write("gpu_profile_norms", result)


@dataclass(frozen=True)
class Variant:
    """A form of the graph and options of the provider.

    Attributes:
        graph: arguments of gpu_graphs.rewritten; empty for the graph as exported.
        options: of the CUDA provider, beside those that the runtime sets.
    """

    name: str
    graph: dict[str, Any] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    profile: bool = False


NHWC = {"prefer_nhwc": "1"}
TF32 = {"use_tf32": "1"}
HEURISTIC = {"cudnn_conv_algo_search": "HEURISTIC"}
FUSED = {"norms": "fused"}
BEST = {"norms": "fused", "attention": True}
REDUCED = {"norms": "reduced"}
# Without use_tf32 ONNX Runtime refuses convolutions on tensor cores in half precision too (its conv.cc deselects every
# plan with cuDNN's note TENSOR_CORE), so the first ones say what a graph is worth when it is on.
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
SMALL_VARIANTS = (
    Variant("as exported", profile=True),
    Variant("written out", {"norms": "written_out"}),
    Variant("reduced norms", {"norms": "reduced"}),
    Variant("fused norms", {"norms": "fused"}),
    Variant("fp16 attention", {"attention": True}),
    Variant("convolutions", {"convolutions": True}),
)
"""On a CPU, which has no kernel for the last ones: they say so."""


def _session(job: Job, file: Path, options: dict[str, str], profile_to: str = "") -> Any:
    ort = import_onnxruntime()
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if profile_to:
        settings.enable_profiling = True
        settings.profile_file_prefix = profile_to
    providers: list[Any] = ["CPUExecutionProvider"]
    if job.device.is_cuda:
        provider = find_provider()
        providers.insert(0, (provider.name, provider.options | options))
    return ort.InferenceSession(str(file), settings, providers=providers)


def _bound(job: Job, session: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A call with input and output in the device's memory."""
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    name = job.device.name
    frame = torch.zeros(given.shape, dtype=torch.uint8, device=name)
    result = torch.zeros(taken.shape, dtype=torch.float32, device=name)
    binding = session.io_binding()
    binding.bind_input(given.name, name, 0, np.uint8, tuple(frame.shape), frame.data_ptr())
    binding.bind_output(taken.name, name, 0, np.float32, tuple(result.shape), result.data_ptr())

    def call(value: torch.Tensor) -> torch.Tensor:
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


def _placed(job: Job, file: Path, options: dict[str, str], frame: torch.Tensor) -> Result:
    """Nodes by provider, from a session of its own that keeps a profile."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(job, file, options, str(Path(folder) / "nodes"))
        call = _bound(job, session)
        for _ in range(2):
            call(frame)
        return _nodes(Path(session.end_profiling()))


def _run_variant(
    job: Job, bundle: Bundle, variant: Variant, frames: list[torch.Tensor]
) -> tuple[Result, Any]:
    entry = bundle.manifest.graphs[0]
    exported = bundle.file(entry.onnx)
    row: Result = {"graph": variant.graph, "options": variant.options}
    start = time.perf_counter()
    file, row["changed"] = exported, {}
    if variant.graph:
        name = "-".join(f"{key}-{value}" for key, value in variant.graph.items())
        file, row["changed"] = rewritten(exported, name, **variant.graph)
    row["rewrite_s"] = time.perf_counter() - start
    start = time.perf_counter()
    session = _session(job, file, variant.options)
    row["session_s"] = time.perf_counter() - start
    call = _bound(job, session)
    start = time.perf_counter()
    for turn in range(2 if variant.name.startswith("as exported") else 3):
        call(frames[turn])
    row["first_runs_s"] = time.perf_counter() - start
    times = []
    for turn in range(10):
        start = time.perf_counter()
        call(frames[turn % len(frames)])
        times.append(1000 * (time.perf_counter() - start))
    row["latency"] = summary(times)
    references, results = bundle.reference(entry)
    frame = torch.from_numpy(references[:1]).to(job.device.name)
    found = call(frame).cpu().numpy().copy()
    parity = measure_parity("depth", found[0], results[0])
    row["parity"] = {"abs_rel": parity.abs_rel, "relative": parity.relative}
    if variant.profile and "enable_cuda_graph" not in variant.options:
        row["profile"] = profiled(job.device, call, frames, rounds=2)
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        row["device_used_gib"] = (total - free) / 2**30
    if variant.name in job.options["placed"]:
        del call, session
        row["placement"] = _placed(job, file, variant.options, frames[0])
    return row, found


@torch.no_grad()
def onnx_runtime(job: Job) -> None:
    """The bundle's graph in every variant, cheap and telling ones first."""
    bundle = make_bundle(
        job.work, job.frame_hw, precision="fp16", small=job.small, task="depth", resolution=0
    )
    exported = bundle.file(bundle.manifest.graphs[0].onnx)
    result = facts(job) | {"precision": "fp16", "operators": census(exported), "variants": {}}
    result["onnxruntime_imported"] = str(import_onnxruntime().__version__)
    frames, base = job.frames(), None
    variants = SMALL_VARIANTS if job.small and not job.device.is_cuda else VARIANTS
    for variant in variants:
        if job.options["only"] and variant.name not in job.options["only"]:
            continue
        if job.left() < 15:
            result["variants"][variant.name] = {"not_run": f"{job.left():.0f} s are left"}
            continue
        start = time.perf_counter()
        try:
            row, found = _run_variant(job, bundle, variant, frames)
            base = found if base is None else base
            spread = float(base.std()) or 1.0
            row["rms_from_exported"] = float(np.sqrt(np.mean((found - base) ** 2)))
            row["rms_from_exported_over_spread"] = row["rms_from_exported"] / spread
            said = (
                f"{row['latency']['p50_ms']:8.1f} ms  {variant.name}  (session {row['session_s']:.0f} s, "
                f"abs_rel {row['parity']['abs_rel']:.2e}, from exported {row['rms_from_exported']:.1e}, "
                f"{row['changed']})"
            )
        except Exception as error:  # of any library; the others go on
            row = {"error": in_words(error)}
            said = f"          {variant.name}: {row['error'][:200]}"
        row["seconds"] = time.perf_counter() - start
        result["variants"][variant.name] = row
        if "profile" in row:
            print(table(variant.name, row["profile"], 10), file=sys.stderr, flush=True)
        if "placement" in row:
            placed = row["placement"]
            nodes = list(placed["nodes"].items())[:8]
            job.say(
                f"placement: {placed['on_cpu']:.0f} nodes on the CPU, {placed['copies']:.0f} copies; "
                + ", ".join(f"{k} {v['nodes']:.0f}x {v['host_ms']:.1f}" for k, v in nodes)
            )
        job.say(said)
        job.write("gpu_profile_onnxruntime", result)
        job.device.reserved()


QUESTIONS = {"torch": torch_stages, "tuned": tuned, "norms": norms, "onnxruntime": onnx_runtime}


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--what", choices=list(QUESTIONS), nargs="+", required=True)
    parser.add_argument("--small", action="store_true", help="e2e-tiny, small frames, few rounds")
    parser.add_argument("--seconds", type=float, default=600.0, help="nothing slow after this time")
    parser.add_argument("--stage", choices=STAGES, default="decoder", help="of tuned")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="of tuned; all if left out")
    parser.add_argument("--only", nargs="+", help="variants of onnxruntime; all if left out")
    parser.add_argument(
        "--placed", nargs="*", default=["as exported"], help="variants whose nodes are listed"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-gpu", help="checkpoints"
    )
    parser.add_argument("--commit", help="of the checkout, where it is no git repository")
    return parser


def writer(out: Path, device: Device, commit: str | None, *, small: bool) -> Callable[..., None]:
    """What writes a result file, with the device and versions in it."""
    out.mkdir(parents=True, exist_ok=True)
    report.RESULTS = out
    held = {"small": small, "device": device.facts(), "versions": versions()}
    if commit:
        held["commit"] = commit

    def write(name: str, result: Result) -> None:
        with open(os.devnull, "w") as nowhere:
            stdout, sys.stdout = sys.stdout, nowhere
            try:
                report.write_result(name, held | result)
            finally:
                sys.stdout = stdout

    return write


def main() -> None:
    """Answer the questions that were asked; exit 1 if one broke."""
    arguments = options().parse_args()
    device = find_device()
    write = writer(arguments.out, device, arguments.commit, small=arguments.small)
    job = Job(
        device,
        arguments.small,
        arguments.work,
        time.monotonic() + arguments.seconds,
        write,
        options={
            "stage": arguments.stage,
            "ways": arguments.ways,
            "only": arguments.only,
            "placed": arguments.placed,
        },
    )
    broken = False
    for name in arguments.what:
        try:
            QUESTIONS[name](job)
        except Exception as error:  # the next question goes on
            job.say(f"{name}: {in_words(error)}")
            broken = True
        release(device)
    print("\n".join(job.lines))
    sys.exit(broken)


if __name__ == "__main__":
    main()
