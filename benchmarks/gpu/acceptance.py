"""Correct on this GPU, and how near its limit: every measurement of a device in one command, without a network.

    python -m benchmarks.gpu.acceptance --out DIR [--part report|tests|parity|speed|loop|training|all] [--small]

Each part writes its JSON into DIR as soon as it is done, with the device, driver, versions, commit and command. What
cannot run here is in it with the reason. --small is the whole way with the small model and few rounds, on a CPU too.
docs/performance.md says how the results become its tables.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.loop import run_loop
from benchmarks.gpu.parity import run_parity
from benchmarks.gpu.results import writer
from benchmarks.gpu.roofline import copy_gb_s, matrix_tflops, transfer_gb_s
from benchmarks.gpu.speed import SIZES, SMALL_HW, Case, run_case
from benchmarks.gpu.timing import Device, find_device, in_words
from benchmarks.gpu.training import run_training
from e2e_deploy.frames import parse_size
from e2e_deploy.verbs.doctor import doctor

ROOT = Path(__file__).parents[2]
MISSING = "REQUIRE_GPU=1, but"
SMALL_TESTS = "tests/e2e_deploy/nvidia/test_cuda_driver.py"


def say(text: str) -> None:
    """A line on stderr at once: results go to stdout."""
    print(text[:300], file=sys.stderr, flush=True)


def report_device(device: Device, *, small: bool) -> dict[str, Any]:
    """What the device can do, by type, and what is installed."""
    side, size = (256, 2**22) if small else (8192, 2**30)
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    types |= {"fp16": torch.float16} if device.is_cuda else {}
    return {
        "matrix_tflops": {name: matrix_tflops(device, kind, side) for name, kind in types.items()},
        "copy_gb_s": copy_gb_s(device, size),
        "transfer_gb_s": transfer_gb_s(device, 2**28) if device.is_cuda else None,
        "doctor": {
            finding.what: {"works": finding.works, "found": finding.found} for finding in doctor()
        },
    }


def gpu_tests() -> list[str]:
    """The test files with such tests: others import packages that a machine with a GPU need not have."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file) for file in files if "pytest.mark.gpu" in file.read_text(encoding="utf-8")]


def run_tests(out: Path, seconds: float, *, small: bool) -> dict[str, Any]:
    """The ``gpu`` tests in a process of their own; on a GPU a skip is a failure (REQUIRE_GPU=1)."""
    has_gpu = torch.cuda.is_available()
    file = out / "gpu_tests.xml"
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junit-xml={file}"]
    words += ["-W", "default"]  # what other versions of packages warn about is no failure here
    words += [SMALL_TESTS] if small else gpu_tests()
    environment = os.environ | ({"REQUIRE_GPU": "1"} if has_gpu else {})
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
    )
    if not file.is_file():
        raise RuntimeError(f"pytest wrote no report: {done.stdout[-300:]} {done.stderr[-300:]}")
    outcomes: dict[str, list[dict[str, str]]] = {"passed": [], "failed": [], "not_run": []}
    for test in ET.parse(file).iter("testcase"):
        name = f"{test.get('classname', '')}.{test.get('name', '')}"
        why = next((child for child in test if child.tag in ("failure", "error", "skipped")), None)
        said = "" if why is None else " ".join((why.get("message") or "").split())[:300]
        kind = "passed" if why is None else "failed"
        if why is not None and (why.tag == "skipped" or MISSING in said):
            kind = "not_run"
        outcomes[kind].append({"test": name} | ({"why": said} if said else {}))
    file.unlink()
    return {"require_gpu": has_gpu, **outcomes}


def run_part(name: str, arguments: argparse.Namespace, device: Device) -> bool:
    """Run a part and write its file, or files; whether it came to its end."""
    small, work, out = arguments.small, arguments.work, arguments.out
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "gpu_report": lambda: report_device(device, small=small),
        "gpu_tests": lambda: run_tests(out, arguments.seconds, small=small),
        "gpu_parity": lambda: run_parity(device, work, small=small, say=say),
        "gpu_loop": lambda: run_loop(device, work, small=small, say=say),
        "gpu_training": lambda: run_training(device, small=small, say=say),
    }
    until = time.monotonic() + arguments.seconds
    sizes = [SMALL_HW] if small else arguments.sizes or list(SIZES)
    batches = [1] if small else arguments.batches or [1, 4]
    only = tuple(arguments.only or ())
    for batch in batches if name == "speed" else []:
        for size in sizes:
            case = Case(size, batch, small, work, until, only)
            title = f"gpu_speed_{size[0]}x{size[1]}_batch{batch}"
            parts[title] = partial(run_case, case, device, say)
    done = []
    for title in [title for title in parts if title.startswith(f"gpu_{name}")]:
        if time.monotonic() > until:  # an earlier result of that name stays
            say(f"== {title}: not begun, the {arguments.seconds:.0f} s of --seconds are over")
            done.append(False)
            continue
        done.append(write(title, parts[title], arguments, device))
    return all(done)


def write(
    title: str, measure: Callable[[], dict[str, Any]], arguments: argparse.Namespace, device: Device
) -> bool:
    """Measure and write one result file; a part that breaks leaves its error there."""
    say(f"== {title}")
    start = time.perf_counter()
    try:
        content, whole = measure(), True
    except Exception as error:  # the other parts go on
        content, whole = {"error": in_words(error)}, False
    to_file = writer(arguments.out, device, arguments.commit, small=arguments.small, quiet=False)
    to_file(title, {"seconds": time.perf_counter() - start} | content)
    torch.compiler.reset()
    device.reserved()  # networks and graphs that hold each other go before the next part begins
    return whole


PARTS = ("report", "tests", "parity", "speed", "loop", "training")


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--small", action="store_true", help="e2e-tiny, small frames, few rounds")
    parser.add_argument(
        "--sizes", type=parse_size, nargs="+", help="of speed; all three if left out"
    )
    parser.add_argument("--batches", type=int, nargs="+", help="of speed; 1 and 4 if left out")
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="of speed, by name")
    parser.add_argument(
        "--seconds", type=float, default=3600.0, help="a part begins nothing slow after this time"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-gpu", help="checkpoints"
    )
    parser.add_argument("--commit", help="of the checkout, where it is no git repository")
    return parser


def main() -> None:
    """Run the parts; exit 1 when one of them broke or was not begun."""
    arguments = options().parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = find_device()
    say(f"{device.facts()}")
    chosen = PARTS if arguments.part == "all" else (arguments.part,)
    whole = [run_part(name, arguments, device) for name in chosen]
    sys.exit(0 if all(whole) else 1)


if __name__ == "__main__":
    main()
