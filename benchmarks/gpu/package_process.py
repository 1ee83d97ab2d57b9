"""What one process does to the package: build it, or load it and run it three times. A crash ends that process alone.

    python -m benchmarks.gpu.package_process build|load FILE [--small] [--options JSON]

Facts are the last line of stdout.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.contenders.in_torch import Bodies
from benchmarks.gpu.contenders.models import Staged, make_inputs, make_model, own_size
from benchmarks.gpu.profiling.job import FULL_HW, SMALL_HW
from benchmarks.gpu.results import Result
from benchmarks.gpu.timing import Device, exact_and_tuned, find_device

ROOT = Path(__file__).parents[2]
LOADING_S = 120
"""What a process that loads may take at most."""


class Whole(nn.Module):
    """A Staged model as one call: what is exported."""

    def __init__(self, staged: Staged) -> None:
        super().__init__()
        self.staged = staged

    def forward(self, frame_1HW3: Tensor) -> Tensor:
        """Depth float32 [1, H, W] of a uint8 frame."""
        staged = self.staged
        return staged.decoder(staged.unet(staged.encoder(frame_1HW3)))


def make_whole(device: Device, frame_hw: tuple[int, int], *, small: bool) -> Whole:
    """The module of the fastest contender."""
    body = Bodies(device, small=small).get("specialised", True)
    # Inductor cannot compile a constant without dimensions.
    body.timestep = body.timestep.reshape(1)
    plan = own_size(frame_hw, make_model("meta", small=small).network_stride)
    return Whole(Staged(body, plan, device.dtype, channels_last=True)).eval()


def free_gib() -> float:
    """GPU memory that nobody holds; 0 on a CPU."""
    return torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else 0.0


@torch.no_grad()
@exact_and_tuned()
def build_package(file: Path, options: dict[str, Any], *, small: bool) -> Result:
    """Export and compile; seconds of each step and the size of the file."""
    device, frame_hw = find_device(), SMALL_HW if small else FULL_HW
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


def _words(what: str, file: Path, *, small: bool) -> list[str]:
    words = [sys.executable, "-m", "benchmarks.gpu.package_process", what, str(file)]
    return words + (["--small"] if small else [])


class Building:
    """A package that a process of its own builds below ``work``; one of an earlier call with ``keep``."""

    def __init__(self, work: Path, options: dict[str, Any], *, small: bool, keep: bool) -> None:
        folder = work / f"package-{'tiny' if small else 'full'}"
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self._facts = folder / "frame.pt2", folder / "facts.json"
        self._log = folder / "build.log"
        self._process: Any = None
        if keep and self._facts.is_file():
            return
        self._facts.unlink(missing_ok=True)
        words = [*_words("build", self.file, small=small), "--options", json.dumps(options)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                words, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def finish(self, seconds: float) -> Result:
        """Its facts when the process is over; an error's last lines if it failed."""
        if self._process is not None:
            try:
                said, _ = self._process.communicate(timeout=max(seconds, 1))
            except subprocess.TimeoutExpired:
                self._process.kill()
                return {"error": f"not built within {seconds:.0f} s"}
            if self._process.returncode != 0:
                return {"error": " ".join(self._log.read_text(errors="replace").split())[-600:]}
            self._facts.write_text(said.strip().splitlines()[-1], encoding="utf-8")
        facts: Result = json.loads(self._facts.read_text(encoding="utf-8"))
        return facts


def load_elsewhere(file: Path, *, small: bool, seconds: float) -> Result:
    """load_and_run in a new process, for which ``seconds`` are left."""
    start, limit = time.perf_counter(), max(1.0, min(seconds, LOADING_S))
    try:
        done = subprocess.run(
            _words("load", file, small=small),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not loaded and run within {limit:.0f} s"}
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-500:]
        return {"error": f"exit status {done.returncode}: {said}"}
    facts: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return facts | {"process_s": time.perf_counter() - start}


def main() -> None:
    """Build or load, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["build", "load"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    if given.what == "build":
        found = build_package(given.file, given.options, small=given.small)
    else:
        found = load_and_run(given.file, small=given.small)
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # a package may fail when it is unloaded


if __name__ == "__main__":
    main()
