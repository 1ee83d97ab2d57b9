"""One case of the speed comparison: a size and a batch, every contender in turn, against the device's own limits.

Knows the order of things and what goes into the result; the contenders, the clock and the limits are beside it.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.contenders.in_torch import RECIPES, Bodies, Contender, build, build_diffusers
from benchmarks.gpu.contenders.models import WORK, make_inputs, make_model, own_size, shapes_only
from benchmarks.gpu.contenders.of_bundles import (
    LIBRARIES,
    SECONDS,
    build_inductor,
    build_onnxruntime,
    build_plan,
    bundle_root,
    compiling_s,
    make_bundle,
    require_backend,
)
from benchmarks.gpu.parity import facts_of
from benchmarks.gpu.roofline import Roof, Work, count, measure_roof, work_of
from benchmarks.gpu.timing import Call, Device, exact_and_tuned, in_turns, in_words, summary
from e2e_deploy.errors import UnavailableError
from e2e_deploy.frames import FramePlan
from e2e_deploy.limits import measure_parity
from e2e_deploy.model.single_step import FrameModel

BASELINE = "diffusers_eager"
SIZES = ((576, 768), (480, 640), (768, 768))
SMALL_HW = (64, 96)
WARM_UP = 3
ROUNDS, SMALL_ROUNDS = 40, 3


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        frame_hw: of the frames, which is what the network sees.
        batch: frames a call.
        small: e2e-tiny and few rounds, to try the script.
        work: folder for checkpoints and bundles.
        until: time.monotonic() at which nothing slow is begun any more.
        only: names of contenders; the default ones if empty.
    """

    frame_hw: tuple[int, int]
    batch: int
    small: bool
    work: Path
    until: float
    only: Collection[str] = ()

    @property
    def rounds(self) -> int:
        """Timed calls of each contender."""
        return SMALL_ROUNDS if self.small else ROUNDS


@dataclass(frozen=True)
class Entry:
    """A contender that may be made: its name, how, how long that may take, and what can be asked before.

    What depends on the others before it is asked when its turn comes.
    """

    name: str
    make: Callable[[], Contender]
    seconds: float | Callable[[], float] = 5.0
    check: Callable[[], object] = lambda: None

    def needed(self) -> float:
        """Seconds that making it may take now."""
        return self.seconds() if callable(self.seconds) else self.seconds


def entries(case: Case, device: Device, plan: FramePlan, example: Tensor) -> list[Entry]:
    """All contenders of a case, cheap ones first: those are never lost to the time limit."""
    bodies = Bodies(device, small=case.small)
    marigold = partial(build_diffusers, device, case.frame_hw, case.batch, small=case.small)
    found = [
        Entry(BASELINE, partial(marigold, compiled=False)),
        Entry("diffusers_compiled", partial(marigold, compiled=True), 120.0),
    ]
    for recipe in RECIPES:
        if recipe.by_default or recipe.name in case.only:
            make = partial(build, recipe, bodies, plan, example)
            found.append(Entry(recipe.name, make, recipe.seconds))

    def bundled(
        make: Callable[..., Contender], *arguments: Any, turbo: bool = False, **options: Any
    ) -> Contender:
        how: dict[str, Any] = {"precision": device.precision, "small": case.small, "turbo": turbo}
        bundle = make_bundle(case.work, case.frame_hw, **how)
        return make(bundle, *arguments, **options)

    def checked(check: Callable[..., object], *arguments: Any) -> None:
        check(*arguments)
        if case.batch != 1:
            raise UnavailableError("a bundle takes one frame")

    for name, on_host in (("onnxruntime_bound", False), ("onnxruntime_from_host", True)):
        make = partial(bundled, build_onnxruntime, on_host=on_host)
        found.append(
            Entry(name, make, SECONDS, partial(checked, require_backend, "onnxruntime", "cuda"))
        )
    for name, on_host in (("inductor_bound", False), ("inductor_from_host", True)):
        make = partial(bundled, build_inductor, on_host=on_host)
        check = partial(checked, require_backend, "inductor", "cuda")
        root = bundle_root(case.work, case.frame_hw, device.precision, small=case.small)
        # The second finds what the first has compiled.
        found.append(Entry(name, make, partial(compiling_s, root), check))
    if "inductor_turbo_from_host" in case.only:
        make = partial(bundled, build_inductor, on_host=True, work="turbo", turbo=True)
        check = partial(checked, require_backend, "inductor", "cuda")
        root = bundle_root(case.work, case.frame_hw, device.precision, small=case.small, turbo=True)
        found.append(Entry("inductor_turbo_from_host", make, partial(compiling_s, root), check))
    for library in LIBRARIES:
        check = partial(checked, require_backend, library, device.name)
        make = partial(bundled, build_plan, library)
        found.append(Entry(library.replace("-", "_"), make, SECONDS, check))
    chosen = [entry for entry in found if not case.only or entry.name in case.only]
    return sorted(chosen, key=lambda entry: entry.needed())


def counted(
    case: Case, device: Device, plan: FramePlan, roof: Roof
) -> dict[str, dict[str, dict[str, float]]]:
    """The work of each network by stage and in all, counted on shapes."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in WORK:
        value = torch.empty(case.batch, *case.frame_hw, 3, dtype=torch.uint8, device="meta")
        stages: dict[str, dict[str, float]] = {}
        for stage, call in shapes_only(name, plan, device.dtype, small=case.small).items():
            operations, value = count(call, value)
            stages[stage] = vars(work_of(operations, roof))
        stages["all"] = {
            key.name: sum(work[key.name] for work in stages.values()) for key in fields(Work)
        }
        result[name] = stages
    return result


def reference_of(case: Case, device: Device, plan: FramePlan, frames: Tensor) -> Any:
    """Depth [N, H, W] of the plain model in fp32 on the same device, without TF32."""
    model = make_model(device.name, small=case.small)
    whole = FrameModel(model, plan, ("depth",)).eval().to(device.name)
    return np.concatenate([whole(frames[i : i + 1]).cpu().numpy() for i in range(len(frames))])


def distance(result: Any, reference: Any) -> dict[str, Any]:
    """Parity of depth [N, H, W], and the error beside the reference's own spread: random weights give flat maps."""
    parity = measure_parity("depth", np.concatenate(result), np.concatenate(reference))
    spread = float(reference.std())
    error = float(np.sqrt(np.mean((np.asarray(result, np.float64) - reference) ** 2)))
    return {
        **facts_of(parity),
        "rms_error_over_spread": error / spread if spread > 0 else float("nan"),
    }


def split_ms(
    device: Device, stages: dict[str, Call], inputs: Sequence[Tensor], rounds: int
) -> dict[str, float]:
    """Median milliseconds of each stage, measured within whole runs."""
    kept: dict[str, list[float]] = {name: [] for name in stages}
    for turn in range(rounds):
        value = inputs[turn % len(inputs)]
        device.synchronise()
        marks = [device.mark()]
        for stage in stages.values():
            value = stage(value)
            marks.append(device.mark())
        device.synchronise()
        for name, start, end in zip(stages, marks, marks[1:], strict=False):
            kept[name].append(device.between_ms(start, end))
    return {name: float(np.median(values)) for name, values in kept.items()}


def warmed(
    entry: Entry, device: Device, inputs: Sequence[Tensor], reference: Any
) -> tuple[Contender, dict[str, Any]]:
    """Make a contender, run it until it is warm, compare it; the facts that need no clock."""
    start = time.perf_counter()
    contender = entry.make()
    for turn in range(max(WARM_UP, len(inputs))):
        contender.call(inputs[turn % len(inputs)])
    device.synchronise()
    facts: dict[str, Any] = {"prepare_s": time.perf_counter() - start}
    needed = device.peak_of(contender.call, inputs[0])
    frames, expected = contender.owns or (inputs[0], reference)
    result = contender.call(frames).float().cpu().numpy()
    facts["parity"] = distance(result, expected)
    if device.is_cuda:
        facts["weights_gib"] = contender.weights_bytes / 2**30
        facts["activations_gib"] = (needed + contender.recorded_bytes) / 2**30
    return contender, facts


def ratios(rows: dict[str, Any], work: dict[str, Any], kinds: dict[str, str]) -> None:
    """Add to every measured row what its median is beside the baseline's and the limits."""
    base = rows.get(BASELINE, {}).get("latency")
    for name, row in rows.items():
        if "latency" not in row:
            continue
        median = row["latency"]["p50_ms"]
        if base is not None:
            row["times_as_fast_as_diffusers"] = base["p50_ms"] / median
        own, plain = work[kinds[name]]["all"], work["plain"]["all"]
        row["work"] = kinds[name]
        row["share_of_roofline"] = own["floor_ms"] / median
        row["share_of_matrix_rate"] = own["arithmetic_ms"] / median
        row["share_of_plain_roofline"] = plain["floor_ms"] / median


@torch.no_grad()
@exact_and_tuned()
def run_case(case: Case, device: Device, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything about one size and batch; a contender that fails is in the result with its error."""
    stride = make_model("meta", small=case.small).network_stride
    plan = own_size(case.frame_hw, stride)
    inputs = list(torch.from_numpy(make_inputs(case.frame_hw, case.batch)).to(device.name))
    roof = measure_roof(device, small=case.small)
    work = counted(case, device, plan, roof)
    reference = reference_of(case, device, plan, inputs[0])
    device.reserved()
    rows: dict[str, Any] = {}
    contenders: dict[str, Contender] = {}
    for entry in entries(case, device, plan, inputs[0]):
        try:
            entry.check()
            left = case.until - time.monotonic()
            if left < (needed := entry.needed()):
                raise UnavailableError(
                    f"it may take {needed:.0f} s to make, and {max(0, left):.0f} s are left"
                )
            contenders[entry.name], rows[entry.name] = warmed(entry, device, inputs, reference)
        except (UnavailableError, ImportError) as error:
            rows[entry.name] = {"not_run": str(error)}
        except Exception as error:  # of any library; the others go on
            rows[entry.name] = {"error": in_words(error)}
        say(
            f"{entry.name}: {rows[entry.name].get('error') or rows[entry.name].get('not_run') or 'ready'}"
        )
    calls = {name: contender.call for name, contender in contenders.items()}
    times, errors = in_turns(device, calls, inputs, rounds=case.rounds)
    for name, values in times.items():
        rows[name]["latency"] = summary(values)
        rows[name]["frames_per_second"] = 1000 * case.batch / rows[name]["latency"]["p50_ms"]
        if stages := contenders[name].stages:
            rows[name]["split_ms"] = split_ms(device, stages, inputs, case.rounds)
    for name, said in errors.items():
        rows[name] = {"error": said}
    ratios(rows, work, {name: contender.work for name, contender in contenders.items()})
    for contender in contenders.values():
        contender.close()
    return {
        "model": "e2e-tiny, trained" if case.small else "SD2 size, random weights",
        "frame_size": list(case.frame_hw),
        "batch": case.batch,
        "precision": device.precision,
        "rounds": case.rounds,
        "clock": device.clock,
        "roof": vars(roof),
        "work": work,
        "contenders": rows,
    }
