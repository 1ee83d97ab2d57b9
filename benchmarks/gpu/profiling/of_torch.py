"""Kernels of the compiled stages, one stage compiled in several ways, and group norms by inductor and by hand."""

import copy
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.contenders.in_torch import RECIPES, Bodies, Recipe, build_diffusers
from benchmarks.gpu.contenders.models import STAGES, Staged, make_model, own_size
from benchmarks.gpu.profiling.channel_norms import by_channel
from benchmarks.gpu.profiling.hand_norms import with_hand_norms
from benchmarks.gpu.profiling.job import Job
from benchmarks.gpu.profiling.kernels import profiled, table
from benchmarks.gpu.results import Result
from benchmarks.gpu.roofline import copy_gb_s
from benchmarks.gpu.timing import Call, Device, exact_and_tuned, in_turns, in_words, summary
from e2e_deploy.frames import FramePlan


def compiled_recipe(device: Device) -> Recipe:
    """The fastest contender; on a CPU, where the contenders are not compiled, the same without."""
    name = "specialised_channels_last" + ("_compiled" if device.is_cuda else "")
    return next(recipe for recipe in RECIPES if recipe.name == name)


def stage_profiles(
    device: Device, stages: dict[str, Call], frames: list[Tensor]
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


def _plan(job: Job) -> FramePlan:
    return own_size(job.frame_hw, make_model("meta", small=job.small).network_stride)


@torch.no_grad()
@exact_and_tuned()
def torch_stages(job: Job) -> None:
    """The three compiled stages, and diffusers' pipeline compiled as a user would."""
    device, frames = job.device, job.frames()
    bodies, recipe = Bodies(device, small=job.small), compiled_recipe(device)
    result = job.facts() | {"contender": recipe.name, "stages": {}}
    for name, found in stage_profiles(device, bodies.stages(recipe, _plan(job)), frames):
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
    "norms by hand": {},
    "norms by channel": {},
    "plain upsampling": {},
    "convolutions tuned": {"max_autotune": True, "max_autotune_conv_backends": "ATEN,TRITON"},
}
"""Options of inductor, quick ones first; three ways are another network instead, see ``_body_of``."""


def _body_of(way: str, bodies: Bodies, row: Result) -> Any:
    """The network of a way: the specialised one unless its name says another."""
    if way == "plain upsampling":
        return bodies.get("not_upsampled", True)
    body = bodies.get("specialised", True)
    if way == "norms by hand":
        body, row["norms"] = with_hand_norms(body)
    if way == "norms by channel":
        body = copy.deepcopy(body)
        row["norms"] = by_channel(body)
    return body


def _compiled(staged: Staged, which: str, options: Result) -> Call:
    """A stage compiled with options; what was compiled before is forgotten, for the code is the same."""

    def own(x: Tensor) -> Tensor:
        made: Tensor = getattr(staged, which)(x)
        return made

    torch.compiler.reset()
    call: Call = torch.compile(own, dynamic=False, options=dict(options))
    return call


def _try_way(
    job: Job, call: Call, values: list[Tensor], reference: Tensor, row: Result
) -> dict[str, list[float]]:
    """Warm a stage up and profile it into ``row``; its times on a GPU."""
    device, start = job.device, time.perf_counter()
    for x in values:
        out = call(x)
    device.synchronise()
    row["prepare_s"] = time.perf_counter() - start
    row["rms_from_eager"] = float((out.float() - reference).std())
    row["profile"] = profiled(device, call, values, top=12)
    if not device.is_cuda:
        return {}
    return in_turns(device, {"alone": call}, values, rounds=job.rounds)[0]


@torch.no_grad()
@exact_and_tuned()
def tuned(job: Job, which: str, ways: Collection[str] | None) -> None:
    """One stage compiled in several ways, timed in turns."""
    device, plan = job.device, _plan(job)
    bodies = Bodies(device, small=job.small)
    plain = Staged(bodies.get("specialised", True), plan, device.dtype, channels_last=True)
    values: list[Tensor] = job.frames()
    for name in STAGES[: STAGES.index(which)]:
        values = [getattr(plain, name)(x).clone() for x in values]
    reference = getattr(plain, which)(values[-1]).float()
    rows: dict[str, Result] = {}
    result = job.facts() | {"stage": which, "spread": float(reference.std()), "ways": rows}
    calls: dict[str, Call] = {}
    for name in ways or list(WAYS)[: 2 if job.small else None]:
        if job.left() < 30:
            rows[name] = {"not_run": f"{job.left():.0f} s are left"}
            continue
        rows[name] = {"options": WAYS[name]}
        try:
            body = _body_of(name, bodies, rows[name])
            staged = Staged(body, plan, device.dtype, channels_last=True)
            call = _compiled(staged, which, WAYS[name])
            for title, each in _try_way(job, call, values, reference, rows[name]).items():
                rows[name][title] = summary(each)
        except Exception as error:  # of any compiler; the others go on
            rows[name]["error"] = in_words(error)
            job.say(f"{name}: {rows[name]['error']}")
        else:
            calls[name] = call
            title = f"{which}, {name} ({rows[name]['prepare_s']:.0f} s)"
            job.say(table(title, rows[name]["profile"], 4))
        job.write(f"gpu_profile_tuned_{which}", result)
    for call in calls.values():  # once more, from inductor's own cache
        call(values[0])
    times, errors = in_turns(device, calls, values, rounds=job.rounds)
    for name, each in times.items():
        rows[name]["latency"] = summary(each)
        job.say(f"{which}, {name}: {np.median(each):.2f} ms in turns")
    for name, said in errors.items():
        rows[name]["error"] = said
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
GROUPS, EPSILON = 32, 1e-6


def _norm_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.silu(F.group_norm(x, GROUPS, weight, bias, EPSILON))


def _by_hand() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The kernel of norm_kernel.py.

    Raises:
        ImportError: no Triton here.
    """
    from benchmarks.gpu.profiling.norm_kernel import group_norm_silu

    return lambda x, weight, bias: group_norm_silu(x, weight, bias, GROUPS, EPSILON)


def _norm(job: Job, shape: tuple[int, int, int], forms: dict[str, Any], bandwidth: float) -> Result:
    """One shape in every form."""
    device = job.device
    xs = [
        torch.randn(1, *shape, device=device.name)
        .to(device.dtype)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    ]
    weight, bias = (torch.randn(shape[0], device=device.name).to(device.dtype) for _ in "wb")
    exact = _norm_silu(xs[0].double(), weight.double(), bias.double())
    ways: dict[str, Result] = {}
    calls: dict[str, Call] = {}
    for name, form in forms.items():

        def call(x: Tensor, form: Any = form) -> Tensor:
            made: Tensor = form(x, weight, bias)
            return made

        try:
            error = float((call(xs[0]).double() - exact).norm() / exact.norm())
            found = profiled(device, call, xs, rounds=9, top=6)
            ways[name] = {"relative_error": error} | {k: found[k] for k in ("kernels_ms", "top")}
            calls[name] = call
        except Exception as error_:  # of a compiler; the others go on
            ways[name] = {"error": in_words(error_)}
    for name, each in in_turns(device, calls, xs, rounds=job.rounds)[0].items():
        ways[name]["latency"] = summary(each)
    moved = 3 * xs[0].numel() * xs[0].element_size()
    sizes = dict(zip(("channels", "height", "width"), shape, strict=True))
    return sizes | {"floor_ms": moved / bandwidth / 1e6, "ways": ways}


@torch.no_grad()
def norms(job: Job) -> None:
    """A group norm of 32 groups with SiLU: inductor's and one written by hand, against the copy bandwidth."""
    bandwidth = copy_gb_s(job.device, 2**22 if job.small else 2**30)
    result = job.facts() | {"copy_gb_s": bandwidth, "shapes": []}
    forms: dict[str, Any] = {"eager": _norm_silu}
    if job.device.is_cuda:
        forms["inductor"] = torch.compile(_norm_silu, dynamic=False)
        try:
            forms["by hand"] = _by_hand()
        except ImportError as error:
            result["by_hand"] = {"not_run": str(error)}
    for shape in [(32, 16, 24)] if job.small else NORM_SHAPES:
        torch.compiler.reset()
        row = _norm(job, shape, forms, bandwidth)
        result["shapes"].append(row)
        said = ", ".join(
            f"{name} {way['error']}"
            if "error" in way
            else f"{name} {way['kernels_ms']:.3f} ({way['relative_error']:.1e})"
            for name, way in row["ways"].items()
        )
        size = "x".join(map(str, shape))
        job.say(f"norm {size}: floor {row['floor_ms']:.3f} ms, kernels {said}")
        job.write("gpu_profile_norms", result)
