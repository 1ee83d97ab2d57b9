"""The whole frame graph as one package of AOTInductor: what it costs to build, and what it does from host to host.

    python -m benchmarks.gpu.package --out DIR [--seconds N] [--small]

uint8 frame [1, H, W, 3] in, depth [1, H, W] out, around the specialised body in half precision and channels last. A
process of its own exports and compiles it; this one loads the file, records it as a CUDA graph, and times it beside
diffusers and the stages that torch.compile made here. --small is e2e-tiny, on a CPU too (without CUDA graphs).

The first thing to ask a GPU: at full size the package was built and crashed while it was loaded.

    python -m benchmarks.gpu.package --out DIR --work DIR --only package --seconds 400
    python -m benchmarks.gpu.package --out DIR --work DIR --only package --keep --seconds 150
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import package_process
from benchmarks.gpu.contenders.in_torch import RECIPES, Bodies, build, build_diffusers, recorded
from benchmarks.gpu.contenders.models import make_model, own_size
from benchmarks.gpu.profiling.job import Job
from benchmarks.gpu.profiling.kernels import profiled, table
from benchmarks.gpu.profiling.of_torch import compiled_recipe, stage_profiles
from benchmarks.gpu.results import Result, writer
from benchmarks.gpu.speed import distance
from benchmarks.gpu.timing import (
    Call,
    Device,
    exact_and_tuned,
    find_device,
    in_turns,
    in_words,
    summary,
)
from e2e_deploy.model.single_step import FrameModel

NAME = "gpu_package"


class HostClock(Device):
    """The same device, timed by the host: from before a call to its end there."""

    def time_ms(self, call: Call, value: Any) -> float:
        """Milliseconds of one call on an idle device."""
        self.synchronise()
        start = time.perf_counter()
        call(value)
        self.synchronise()
        return 1000 * (time.perf_counter() - start)


def from_host(device: Device, call: Call, frame_1HW3: Tensor, *, graph: bool) -> Call:
    """A call from a page-locked frame to a page-locked result, copies in the same stream or the same CUDA graph."""
    given = torch.empty_like(frame_1HW3, device=device.name)
    pinned = torch.empty(frame_1HW3.shape, dtype=torch.uint8, pin_memory=device.is_cuda)
    taken = torch.empty(frame_1HW3.shape[:3], dtype=torch.float32, pin_memory=device.is_cuda)

    def way(frame: Tensor) -> Tensor:
        given.copy_(frame, non_blocking=True)
        taken.copy_(call(given), non_blocking=True)
        return taken

    if not graph:

        def plain(frame: Tensor) -> Tensor:
            way(frame)
            device.synchronise()
            return taken

        return plain
    replay = recorded(way, pinned, None, clone=False)

    def whole(frame: Tensor) -> Tensor:
        replay(frame)  # a user's frame goes into the memory that the graph reads
        device.synchronise()
        return taken

    return whole


@dataclass
class Comparison:
    """Contenders that are alive, and what is known of each.

    Attributes:
        reference: depth float32 [2, H, W] of the first two frames, in fp32.
        calls: from a frame on the device to depth there.
        rows: the result by name.
    """

    job: Job
    result: Result
    frames: list[Tensor]
    reference: Any
    calls: dict[str, Call] = field(default_factory=dict)
    rows: dict[str, Result] = field(default_factory=dict)

    def write(self) -> None:
        """The result so far."""
        self.job.write(NAME, self.result | {"rows": self.rows})

    def tried(self, name: str, make: Callable[[], Call], frame: Tensor) -> Call | None:
        """A call that ran, its facts in its row; None if it failed, with the reason there."""
        start, free = time.perf_counter(), package_process.free_gib()
        try:
            call = make()
            for _ in range(3):
                call(frame)
            self.job.device.synchronise()
        except Exception as error:  # of any library; the others go on
            self.rows[name] = {"error": in_words(error)}
            return None
        finally:
            self.write()
        self.rows[name] = {
            "prepare_s": time.perf_counter() - start,
            "took_gib": free - package_process.free_gib(),
        }
        self.write()
        return call

    def keep(self, name: str, make: Callable[[], Call]) -> None:
        """Make a contender, which is then called in turn with the others."""
        if (call := self.tried(name, make, self.frames[0])) is not None:
            self.calls[name] = call

    def measure_parity(self) -> None:
        """Each against the fp32 model."""
        for name, call in self.calls.items():
            found = [call(frame).float().cpu().numpy() for frame in self.frames[:2]]
            self.rows[name]["parity"] = distance(np.concatenate(found), self.reference)

    def time(
        self, title: str, device: Device, calls: dict[str, Call], frames: list[Tensor]
    ) -> None:
        """Every call in turn, into its row."""
        rounds = 3 if self.job.small else 40
        times, errors = in_turns(device, calls, frames, rounds=rounds)
        for name, each in times.items():
            self.rows[name][title] = summary(each)
        self.result.setdefault("errors", {}).update(errors)
        self.write()

    def time_from_host(self) -> None:
        """From page-locked frames to page-locked results; the package also with both copies in its CUDA graph."""
        device, frames = self.job.device, [frame.cpu() for frame in self.frames]
        if device.is_cuda:
            frames = [frame.pin_memory() for frame in frames]
        ways = {
            name: from_host(device, call, frames[0], graph=False)
            for name, call in self.calls.items()
        }
        if device.is_cuda and (single := self.calls.get("package_single_threaded")):
            name = "package_graph_with_copies"
            way = self.tried(
                name, lambda: from_host(device, single, frames[0], graph=True), frames[0]
            )
            if way is not None:
                ways[name] = way
                found = np.concatenate([way(frame).numpy().copy() for frame in frames[:2]])
                self.rows[name]["parity"] = distance(found, self.reference)
        self.time("host_to_host", HostClock(device.name), ways, frames)


def reference_of(job: Job, frames: list[Tensor]) -> Any:
    """Depth of two frames by the plain model in fp32."""
    exact = make_model(job.device.name, small=job.small)
    plan = own_size(job.frame_hw, exact.network_stride)
    whole = FrameModel(exact, plan, "depth").eval().to(job.device.name)
    found = np.concatenate([whole(frame).cpu().numpy() for frame in frames[:2]])
    del exact, whole
    job.device.reserved()
    return found


def make_peers(compared: Comparison, bodies: Bodies) -> None:
    """diffusers, and our stages as torch.compile makes them."""
    job, frames = compared.job, compared.frames
    device, small = job.device, job.small
    plan = own_size(job.frame_hw, make_model("meta", small=small).network_stride)
    recipes, stages = {recipe.name: recipe for recipe in RECIPES}, compiled_recipe(device)

    def diffusers(*, compiled: bool) -> Call:
        return build_diffusers(device, job.frame_hw, 1, small=small, compiled=compiled).call

    compared.keep("diffusers_eager", lambda: diffusers(compiled=False))
    compared.keep(stages.name, lambda: build(stages, bodies, plan, frames[0]).call)
    if device.is_cuda:
        graph = recipes[f"{stages.name}_graph"]
        compared.keep(graph.name, lambda: build(graph, bodies, plan, frames[0]).call)
        compared.keep("diffusers_compiled", lambda: diffusers(compiled=True))


def load_package(compared: Comparison, file: Path) -> None:
    """The package in a fresh process, then, if that lived, here: as it is, on one thread, and recorded."""
    job = compared.job
    # One that crashes there leaves these results alone.
    found = package_process.load_elsewhere(file, small=job.small, seconds=job.left())
    compared.result["fresh_process"] = found
    compared.write()
    if "error" in found:
        return

    def load(*, single: bool) -> Call:
        model = torch._inductor.aoti_load_package(str(file), run_single_threaded=single)
        return lambda frame: model(frame)

    compared.keep("package", lambda: load(single=False))
    compared.keep("package_single_threaded", lambda: load(single=True))
    if job.device.is_cuda and (one := compared.calls.get("package_single_threaded")):
        compared.keep("package_graph", lambda: recorded(one, compared.frames[0], None))


def profile(compared: Comparison, bodies: Bodies) -> None:
    """Kernels of the package, of diffusers and of our stages."""
    job, result = compared.job, compared.result
    for name in ("package", "diffusers_compiled", "diffusers_eager"):
        if name in compared.calls:
            found = profiled(job.device, compared.calls[name], compared.frames)
            compared.rows[name]["profile"] = found
            print(table(name, found, 10), file=sys.stderr, flush=True)
    plan = own_size(job.frame_hw, make_model("meta", small=job.small).network_stride)
    stages = bodies.stages(compiled_recipe(job.device), plan)
    result["stages"] = dict(stage_profiles(job.device, stages, compared.frames))
    compared.write()


def lines_of(compared: Comparison) -> list[str]:
    """The result as a few lines."""
    package = compared.result["package"]
    lines = [str({key: value for key, value in package.items() if key != "options"})]
    for name, row in compared.rows.items():
        if "error" in row:
            lines.append(f"{name:45} {row['error'][:250]}")
            continue
        device_ms, host_ms = (
            row.get(key, {}).get("p50_ms", float("nan"))
            for key in ("device_to_device", "host_to_host")
        )
        abs_rel = row.get("parity", {}).get("abs_rel", float("nan"))
        lines.append(
            f"{name:45} {device_ms:7.2f} ms device {host_ms:7.2f} ms host  abs_rel {abs_rel:.2e}  "
            f"{row['took_gib']:5.2f} GiB  {row['prepare_s']:5.1f} s"
        )
    return lines


@torch.no_grad()
@exact_and_tuned()
def run(job: Job, given: argparse.Namespace) -> list[str]:
    """Build, load, record, compare and time."""
    building = package_process.Building(job.work, given.options, small=job.small, keep=given.keep)
    frames = job.frames()
    compared = Comparison(job, job.facts(), frames, reference_of(job, frames))
    bodies = Bodies(job.device, small=job.small)
    if given.only != "package":
        make_peers(compared, bodies)
    compared.result["package"] = building.finish(job.left())
    compared.write()
    if "error" not in compared.result["package"]:
        load_package(compared, building.file)
    compared.measure_parity()
    compared.time("device_to_device", job.device, compared.calls, frames)
    compared.time_from_host()
    if given.profile:
        profile(compared, bodies)
    return lines_of(compared)


def main() -> None:
    """Build in a process of its own and measure here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--small", action="store_true", help="e2e-tiny, small frames, few rounds")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to wait for it")
    parser.add_argument("--profile", action="store_true", help="kernels, too")
    parser.add_argument("--only", choices=["package"], help="without diffusers and our stages")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-gpu", help="the package"
    )
    parser.add_argument("--commit", help="of the checkout, where it is no git repository")
    parser.add_argument("--keep", action="store_true", help="the package of an earlier call")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="of inductor, as a JSON object"
    )
    given = parser.parse_args()
    device, until = find_device(), time.monotonic() + given.seconds
    write = writer(given.out, device, given.commit, small=given.small)
    job = Job(device, given.small, given.work.resolve(), until, write)
    print("\n".join(run(job, given)))
    sys.stdout.flush()
    os._exit(0)  # a package that was recorded may fail when it is unloaded


if __name__ == "__main__":
    main()
