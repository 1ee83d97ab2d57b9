"""What an embedded engine costs: the size of the plain install, and the time from a process's start to its first depth.

    plain      pip install e2e-deploy: runs everything but exports and training
    smallest   pip install --no-deps e2e-deploy, and numpy and onnxruntime: the engine on a CPU, for frames of its own
               size; no pictures, no videos, no command line, nothing for GPUs
    native     examples/native's program in C, built against the installed C library

The wheel is built from this commit and installed into new environments with the versions of constraints.txt. The
packaged bundle is run as it comes: hashed, on every core. ``evicted`` starts after the system was told to forget the
environment's files, as after a boot; Python's own and the system's libraries stay in memory.

    python -m benchmarks.speed.lean_install [--rounds 9] [--native PROGRAM]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.report import HERE, write_result
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.assets.pictures import reference_frames

CONSTRAINTS = HERE.parent / "constraints.txt"
NOT_OURS = ("pip", "setuptools")
"""What an environment begins with."""

FIRST_DEPTH = """
import numpy as np
import e2e_deploy as e2e
engine = e2e.load(e2e.READY_BUNDLE)
engine(np.zeros((*engine.frame_size, 3), np.uint8))
import time, json
done = time.monotonic()
peak, = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([done, int(peak) / 1024]))
"""

SIZES = """
import json, os, sys
from importlib.metadata import distributions
found = {}
for each in distributions():
    files = [os.path.join(str(each.locate_file(file))) for file in each.files or []]
    found[each.metadata["Name"]] = sum(os.path.getsize(file) for file in files if os.path.isfile(file))
print(json.dumps(found))
"""


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def told(folder: Path, code: str) -> Any:
    """What a program in an environment prints, parsed; -I keeps this checkout out of its path."""
    command = [str(python_of(folder)), "-I", "-c", code]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def pip(folder: Path, *words: str) -> None:
    """Run an environment's pip; what it says comes with its failure."""
    command = [str(python_of(folder)), "-m", "pip", "--quiet", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)


def constrained(package: str) -> str:
    """The version of a package in constraints.txt."""
    (found,) = re.findall(rf"^{package}==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    return str(found)


def new_wheel(folder: Path) -> Path:
    """The wheel of the checkout's commit; what an earlier build left in the checkout is not in it."""
    code = folder / "code"
    code.mkdir()
    archive = ["git", "archive", "--output", str(folder / "code.tar"), "HEAD"]
    subprocess.run(archive, cwd=HERE.parent, check=True)
    with tarfile.open(folder / "code.tar") as packed:
        packed.extractall(code, filter="data")
    command = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(code)], check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    return wheel


def new_environment(folder: Path, wheel: Path, *, smallest: bool) -> Path:
    """An environment with the wheel and what it needs; the folder."""
    venv.create(folder, with_pip=True)
    if smallest:
        # onnxruntime and onnxruntime-gpu are one library, released together.
        version = constrained("onnxruntime-gpu")
        pip(folder, "install", "--no-deps", str(wheel))
        pip(folder, "install", "-c", str(CONSTRAINTS), "numpy", f"onnxruntime=={version}")
    else:
        pip(folder, "install", "-c", str(CONSTRAINTS), str(wheel))
    return folder


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every package of an environment, the largest first, without those it began with."""
    found = {name: size for name, size in told(folder, SIZES).items() if name not in NOT_OURS}
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def evict(folder: Path) -> None:
    """Tell the system to forget what it read of a folder's files."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)  # what is not on the disk yet is kept
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def python_start(folder: Path) -> tuple[float, float]:
    """Seconds from the start of a process to its first depth, and its peak memory in MiB."""
    started = time.monotonic()  # the same clock in every process of a machine
    ended, peak_mib = told(folder, FIRST_DEPTH)
    return ended - started, peak_mib


def native_start(program: Path, library: Path, folder: Path) -> float:
    """Seconds from the start of examples/native's C program to its end; it writes the depth before."""
    photo = folder / "photo.ppm"
    if not photo.exists():
        cv2.imwrite(str(photo), reference_frames((480, 640), 1)[0, ..., ::-1])
    depth = folder / "depth.pfm"
    depth.unlink(missing_ok=True)
    started = time.monotonic()
    subprocess.run(
        [program, READY_BUNDLE, photo, depth],
        check=True,
        capture_output=True,
        env=os.environ | {"E2E_DEPLOY_ONNXRUNTIME": str(library)},
    )
    seconds = time.monotonic() - started
    if not depth.stat().st_size:
        raise SystemExit(f"{program} wrote no depth")
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and extremes in milliseconds."""
    return {
        "median": 1e3 * float(np.median(seconds)),
        "least": 1e3 * min(seconds),
        "most": 1e3 * max(seconds),
    }


def repeated(start: Callable[[], float], rounds: int) -> list[float]:
    """The seconds of some starts, after one that fills the system's cache."""
    start()
    return [start() for _ in range(rounds)]


def measured(folder: Path, rounds: int) -> dict[str, Any]:
    """Size, start and memory of an environment."""
    packages = sizes(folder)
    peaks: list[float] = []

    def start() -> float:
        seconds, peak_mib = python_start(folder)
        peaks.append(peak_mib)
        return seconds

    def start_evicted() -> float:
        evict(folder)
        return start()

    return {
        "bytes": sum(packages.values()),
        "packages": packages,
        "first_depth_ms": summary(repeated(start, rounds)),
        "first_depth_evicted_ms": summary(repeated(start_evicted, rounds)),
        "peak_mib": float(np.median(peaks)),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--native", type=Path, help="examples/native's depth, as built")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = new_wheel(folder)
        result: dict[str, Any] = {"wheel_bytes": wheel.stat().st_size}
        for name in ("plain", "smallest"):
            made = new_environment(folder / name, wheel, smallest=name == "smallest")
            result[name] = measured(made, given.rounds)
        if given.native:
            (library,) = (folder / "smallest").rglob("libonnxruntime.so.*")
            times = repeated(lambda: native_start(given.native, library, folder), given.rounds)
            result["native"] = {
                "process_ms": summary(times),
                "onnxruntime_bytes": library.stat().st_size,
            }
    write_result("lean_install", result)


if __name__ == "__main__":
    main()
