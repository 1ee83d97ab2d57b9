"""Makes what the other GPU benchmarks run: bundles, and their packages compiled for the GPU at hand. Times nothing.

    python -m benchmarks.gpu.prepare [--work DIR] [--what full turbo loop] [--small]

Export and compilation are work for the CPU, so it can run beside what needs the GPU; acceptance and profiling with the
same --work find what it made. All at once, each in a process of its own.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.full_size import full_size_checkpoint
from benchmarks.gpu.contenders.of_bundles import make_bundle, with_plan
from benchmarks.gpu.loop import FULL_HW, SMALL_RESOLUTION, TINY_RESOLUTION
from benchmarks.gpu.loop import SMALL_HW as LOOP_SMALL_HW
from benchmarks.gpu.speed import SIZES, SMALL_HW
from benchmarks.gpu.timing import Device, find_device
from e2e_deploy.progress import Stages

WHAT = ("full", "turbo", "loop")
"""Of the comparison at its first size, the same with a small VAE, and e2e-tiny for the loop's clip."""


def bundle_of(name: str, device: Device, *, small: bool) -> tuple[tuple[int, int], dict[str, Any]]:
    """Frame size and options of one of WHAT, as the benchmark that runs it has them."""
    precision = device.precision
    if name == "loop":
        frame_hw, resolution = (
            (LOOP_SMALL_HW, SMALL_RESOLUTION) if small else (FULL_HW, TINY_RESOLUTION)
        )
        return frame_hw, {"small": True, "precision": "fp32", "resolution": resolution}
    how = {"small": small, "precision": precision, "turbo": name == "turbo"}
    return SMALL_HW if small else SIZES[0], how


def prepare(name: str, work: Path, small: bool) -> None:
    """One of WHAT, and how long it took on stderr."""
    start, device = time.perf_counter(), find_device()
    frame_hw, how = bundle_of(name, device, small=small)
    bundle = make_bundle(work, frame_hw, **how)
    made = time.perf_counter()
    with_plan(bundle, "inductor", device.name, stages=Stages())
    end = time.perf_counter()
    print(f"{name}: bundle {made - start:.0f} s, package {end - made:.0f} s", file=sys.stderr)


def main() -> None:
    """Make what is named; exit 1 when one of it fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--small", action="store_true", help="e2e-tiny and small frames")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-gpu", help="checkpoints"
    )
    arguments = parser.parse_args()
    if not arguments.small:
        full_size_checkpoint(arguments.work)  # of several, which would make it at once
    spawn = multiprocessing.get_context("spawn")
    making = [
        spawn.Process(target=prepare, args=(name, arguments.work, arguments.small))
        for name in arguments.what
    ]
    for process in making:
        process.start()
        if arguments.small:  # two of them may be one bundle
            process.join()
    for process in making:
        process.join()
    sys.exit(any(process.exitcode for process in making))


if __name__ == "__main__":
    main()
