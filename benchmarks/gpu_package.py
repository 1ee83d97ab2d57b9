"""The whole frame graph as one package of AOTInductor: what it costs to build, and what it does from host to host.

    python benchmarks/gpu_package.py --out DIR [--seconds N] [--small]

uint8 frame [1, H, W, 3] in, depth [1, H, W] out, around the specialised body in half precision and channels last. A
process of its own exports and compiles it; this one loads the file, records it as a CUDA graph, and times it beside
diffusers and the stages that torch.compile made here. --small is e2e-tiny, on a CPU too (without CUDA graphs).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_contenders import RECIPES, Bodies, build, build_diffusers, recorded
from gpu_kernels import profiled, table
from gpu_models import Staged, make_inputs, make_model, own_size
from gpu_profile import FULL_HW, SMALL_HW, compiled_recipe, stage_profiles, writer
from gpu_speed import distance
from gpu_timing import Call, Device, exact_and_tuned, find_device, in_turns, in_words, summary
from torch import Tensor, nn

from e2e_deploy.model import FrameModel

Result = dict[str, Any]
PACKAGE = "frame.pt2"
LOADING_S = 120


class Whole(nn.Module):
    """A Staged model as one call: what is exported."""

    def __init__(self, staged: Staged) -> None:
        super().__init__()
        self.staged = staged

    def forward(self, frame_1HW3: Tensor) -> Tensor:
        """Depth float32 [1, H, W] of a uint8 frame."""
        staged = self.staged
        return staged.decoder(staged.unet(staged.encoder(frame_1HW3)))


class HostClock(Device):
    """The same device, timed by the host: from before a call to its end there."""

    def time_ms(self, call: Call, value: Any) -> float:
        """Milliseconds of one call on an idle device."""
        self.synchronise()
        start = time.perf_counter()
        call(value)
        self.synchronise()
        return 1000 * (time.perf_counter() - start)


def make_whole(device: Device, frame_hw: tuple[int, int], *, small: bool) -> Whole:
    """The module of the fastest contender."""
    bodies = Bodies(device, small=small)
    body = bodies.get("specialised", True)
    # Inductor cannot compile a constant without dimensions.
    body.timestep = body.timestep.reshape(1)
    plan = own_size(frame_hw, make_model("meta", small=small).network_stride)
    return Whole(Staged(body, plan, device.dtype, channels_last=True)).eval()


@torch.no_grad()
@exact_and_tuned()
def build_package(file: Path, *, small: bool, options: dict[str, Any]) -> Result:
    """Export and compile; seconds of each step and the size of the file."""
    device = find_device()
    frame_hw = SMALL_HW if small else FULL_HW
    start = time.perf_counter()
    whole = make_whole(device, frame_hw, small=small)
    frame = torch.from_numpy(make_inputs(frame_hw, 1, 1)[0]).to(device.name)
    found: Result = {"options": options, "model_s": time.perf_counter() - start}
    start = time.perf_counter()
    exported = torch.export.export(whole, (frame,), strict=False)
    found["export_s"] = time.perf_counter() - start
    found["nodes"] = len(exported.graph.nodes)
    start = time.perf_counter()
    torch._inductor.aoti_compile_and_package(
        exported, package_path=str(file), inductor_configs=options
    )
    found["compile_s"] = time.perf_counter() - start
    found["package_mib"] = file.stat().st_size / 2**20
    if device.is_cuda:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def free_gib() -> float:
    """GPU memory that nobody holds; 0 on a CPU."""
    return torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else 0.0


def start_building(folder: Path, name: str, arguments: argparse.Namespace, options: Result) -> Any:
    """A process that builds ``name``.pt2; its facts are on the last line of what it prints."""
    words = [sys.executable, __file__, "--out", str(folder), "--build", str(folder / name)]
    words += ["--options", json.dumps(options)] + (["--small"] if arguments.small else [])
    log = (folder / f"{name}.log").open("w")
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)


def finish(process: Any, seconds: float, log: Path) -> Result:
    """Facts of a package when its process is over; an error's last lines if it failed."""
    try:
        said, _ = process.communicate(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.kill()
        return {"error": f"not built within {seconds:.0f} s"}
    if process.returncode != 0:
        return {"error": " ".join(log.read_text(errors="replace").split())[-600:]}
    facts: Result = json.loads(said.strip().splitlines()[-1])
    return facts


@torch.no_grad()
def load_and_run(file: Path, *, small: bool) -> Result:
    """Seconds to load a package, to its first result and to one that is warm; nothing else was compiled here."""
    device, frame_hw = find_device(), SMALL_HW if small else FULL_HW
    torch.backends.cudnn.benchmark = True
    frame = torch.from_numpy(make_inputs(frame_hw, 1, 1)[0]).to(device.name)
    device.synchronise()
    free, start = free_gib(), time.perf_counter()
    model = torch._inductor.aoti_load_package(str(file))
    marks = [time.perf_counter()]
    for _ in range(3):
        result = model(frame)
        device.synchronise()
        marks.append(time.perf_counter())
    steps = np.diff([start, *marks])
    names = ("load_s", "first_s", "second_s", "third_s")
    facts = dict(zip(names, map(float, steps), strict=True))
    return facts | {"mean": float(result.mean()), "took_gib": free - free_gib()}


def load_elsewhere(arguments: argparse.Namespace, file: Path) -> Result:
    """load_and_run in a new process."""
    words = [sys.executable, __file__, "--out", str(file.parent), "--load", str(file)]
    words += ["--small"] if arguments.small else []
    start = time.perf_counter()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LOADING_S)
    except subprocess.TimeoutExpired:
        return {"error": f"not loaded and run within {LOADING_S} s"}
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-500:]
        return {"error": f"exit status {done.returncode}: {said}"}
    return json.loads(done.stdout.strip().splitlines()[-1]) | {
        "process_s": time.perf_counter() - start
    }


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
    way(pinned)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            way(pinned)
    torch.cuda.current_stream().wait_stream(stream)
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made):
        way(pinned)

    def replay(frame: Tensor) -> Tensor:
        pinned.copy_(frame)  # a user's frame goes into the memory that the graph reads
        made.replay()
        device.synchronise()
        return taken

    return replay


def tried(rows: dict[str, Result], name: str, make: Callable[[], Call], frame: Tensor) -> Any:
    """A call after it ran once, its facts in ``rows``; None if it failed, with the reason there."""
    start, free = time.perf_counter(), free_gib()
    try:
        call = make()
        for _ in range(3):
            call(frame)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except Exception as error:  # of any library; the others go on
        rows[name] = {"error": in_words(error)}
        print(f"{name}: {rows[name]['error']}", file=sys.stderr, flush=True)
        return None
    rows[name] = {"prepare_s": time.perf_counter() - start, "took_gib": free - free_gib()}
    print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    return call


@torch.no_grad()
@exact_and_tuned()
def run(arguments: argparse.Namespace, device: Device, write: Callable[..., None]) -> list[str]:
    """Build, load, record, compare and time."""
    small, until = arguments.small, time.monotonic() + arguments.seconds
    frame_hw = SMALL_HW if small else FULL_HW
    folder = arguments.work / "package"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{PACKAGE}.json"
    process = None
    if not (arguments.keep and kept.is_file()):
        process = start_building(folder, PACKAGE, arguments, arguments.options)
    frames = list(torch.from_numpy(make_inputs(frame_hw, 1)).to(device.name))
    plan = own_size(frame_hw, make_model("meta", small=small).network_stride)
    rows: dict[str, Result] = {}
    calls: dict[str, Call] = {}
    result: Result = {
        "model": "e2e-tiny, trained" if small else "SD2 size, random weights",
        "frame_size": list(frame_hw),
        "precision": device.precision,
        "rows": rows,
    }

    def keep(name: str, make: Callable[[], Call]) -> None:
        if (call := tried(rows, name, make, frames[0])) is not None:
            calls[name] = call
        write("gpu_package", result)

    exact = make_model(device.name, small=small)
    whole = FrameModel(exact, plan, "depth").eval().to(device.name)
    reference = np.concatenate([whole(frame).cpu().numpy() for frame in frames[:2]])
    del exact, whole
    device.reserved()
    bodies = Bodies(device, small=small)
    recipes = {recipe.name: recipe for recipe in RECIPES}
    stages = compiled_recipe(device)
    keep(
        "diffusers_eager",
        lambda: build_diffusers(device, frame_hw, 1, small=small, compiled=False).call,
    )
    keep(stages.name, lambda: build(stages, bodies, plan, frames[0]).call)
    if device.is_cuda:
        name = f"{stages.name}_graph"
        keep(name, lambda: build(recipes[name], bodies, plan, frames[0]).call)
        keep(
            "diffusers_compiled",
            lambda: build_diffusers(device, frame_hw, 1, small=small, compiled=True).call,
        )
    if process is None:
        result["package"] = json.loads(kept.read_text(encoding="utf-8"))
    else:
        log = folder / f"{PACKAGE}.log"
        result["package"] = finish(process, until - time.monotonic(), log)
        if "error" not in result["package"]:
            kept.write_text(json.dumps(result["package"]), encoding="utf-8")
    write("gpu_package", result)
    print(f"package: {result['package']}", file=sys.stderr, flush=True)
    if "error" not in result["package"]:
        # First in a process of its own: one that crashes there would take these results with it.
        result["fresh_process"] = load_elsewhere(arguments, folder / PACKAGE)
        write("gpu_package", result)
        print(f"fresh process: {result['fresh_process']}", file=sys.stderr, flush=True)
    loaded: list[Any] = []

    def load(single: bool) -> Call:
        model = torch._inductor.aoti_load_package(str(folder / PACKAGE), run_single_threaded=single)
        loaded.append(model)
        return lambda frame: model(frame)

    if "error" not in result.get("fresh_process", {"error": ""}):
        keep("package", lambda: load(False))
        keep("package_single_threaded", lambda: load(True))
        if device.is_cuda and "package_single_threaded" in calls:
            single = calls["package_single_threaded"]
            keep("package_graph", lambda: recorded(single, frames[0], None))
    for name, call in calls.items():
        found = np.concatenate([call(frame).float().cpu().numpy() for frame in frames[:2]])
        rows[name]["parity"] = distance(found, reference)
    rounds = 3 if small else 40
    times, errors = in_turns(device, calls, frames, rounds=rounds)
    for name, each in times.items():
        rows[name]["device_to_device"] = summary(each)
    result["errors"] = errors
    write("gpu_package", result)
    hosts = [frame.cpu() for frame in frames]
    if device.is_cuda:
        hosts = [frame.pin_memory() for frame in hosts]
    ways: dict[str, Call] = {}
    made: dict[str, Result] = {}
    for name, call in calls.items():
        ways[name] = from_host(device, call, hosts[0], graph=False)
    if device.is_cuda and "package_single_threaded" in calls:
        single = calls["package_single_threaded"]
        way = tried(
            made,
            "package_graph_with_copies",
            lambda: from_host(device, single, hosts[0], graph=True),
            hosts[0],
        )
        if way is not None:
            ways["package_graph_with_copies"] = way
            found = np.concatenate([way(frame).numpy().copy() for frame in hosts[:2]])
            made["package_graph_with_copies"]["parity"] = distance(found, reference)
    rows |= made
    result["rows"] = rows
    times, errors = in_turns(HostClock(device.name), ways, hosts, rounds=rounds)
    for name, each in times.items():
        rows[name]["host_to_host"] = summary(each)
    result["errors"] |= errors
    write("gpu_package", result)
    lines = []
    for name in ("package", "diffusers_compiled", "diffusers_eager"):
        if name in calls and arguments.profile:
            rows[name]["profile"] = profiled(device, calls[name], frames)
            print(table(name, rows[name]["profile"], 10), file=sys.stderr, flush=True)
            write("gpu_package", result)
    if arguments.profile:
        result["stages"] = {}
        for name, found in stage_profiles(device, bodies.stages(stages, plan), frames):
            result["stages"][name] = found
            print(table(name, found, 20), file=sys.stderr, flush=True)
        write("gpu_package", result)
    package = result["package"]
    lines.append(str({key: package[key] for key in package if key != "options"}))
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"{name:45} {row['error'][:250]}")
            continue
        device_ms, host_ms = (
            row.get(key, {}).get("p50_ms", float("nan"))
            for key in ("device_to_device", "host_to_host")
        )
        parity = row.get("parity", {})
        lines.append(
            f"{name:45} {device_ms:7.2f} ms device {host_ms:7.2f} ms host  abs_rel "
            f"{parity.get('abs_rel', float('nan')):.2e}  {row['took_gib']:5.2f} GiB  {row['prepare_s']:5.1f} s"
        )
    return lines


def main() -> None:
    """Build in a process of its own and measure here."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--small", action="store_true", help="e2e-tiny, small frames, few rounds")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to wait for it")
    parser.add_argument("--profile", action="store_true", help="kernels, too")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-gpu", help="the package"
    )
    parser.add_argument("--commit", help="of the checkout, where it is no git repository")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help="the package of an earlier call")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="of inductor, as a JSON object"
    )
    arguments = parser.parse_args()
    if arguments.build is not None:
        found = build_package(arguments.build, small=arguments.small, options=arguments.options)
        print(json.dumps(found))
        return
    if arguments.load is not None:
        print(json.dumps(load_and_run(arguments.load, small=arguments.small)))
        sys.stdout.flush()
        os._exit(0)
    device = find_device()
    write = writer(arguments.out, device, arguments.commit, small=arguments.small)
    print("\n".join(run(arguments, device, write)))
    sys.stdout.flush()
    os._exit(0)  # a package that was recorded may fail when it is unloaded


if __name__ == "__main__":
    main()
