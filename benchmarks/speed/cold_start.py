"""What the first result costs, step by step, in new processes; and the share of it that checking hashes takes.

    import    import e2e_deploy, and what the engine needs of it
    open      the manifest, the paths, the hashes, the graph
    load      ONNX Runtime and its session
    first     the first frame
    warm      a later frame, for comparison

With and without ``hash_check`` in turn; the files are in the system's cache, as they are the second time one starts.
The hash's own speed says what a bundle of another size would take.

    python -m benchmarks.speed.cold_start [--bundle DIR] [--rounds 9]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gain import gain
from benchmarks.report import write_result
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.bundle.bundle import open_bundle

STEPS = ("import", "open", "load", "first", "warm")
BYTES_OF_SD2_FP16 = 1_900_000_000  # UNet and VAE, for scale

CHILD = """
import sys, time
marks = [time.perf_counter()]
def mark(): marks.append(time.perf_counter())
import e2e_deploy as e2e
e2e.load
mark()
bundle = e2e.open_bundle(sys.argv[1], hash_check=sys.argv[2] == "hashed")
mark()
engine = e2e.load(bundle, backend="onnxruntime", device="cpu")
mark()
import numpy as np
frame = np.zeros((*engine.frame_size, 3), np.uint8)
marks.append(time.perf_counter())
engine(frame)
mark()
engine(frame)
mark()
seconds = [b - a for a, b in zip(marks, marks[1:])]
del seconds[3]  # the frame is the caller's
import json
print(json.dumps(seconds))
"""


def one_start(bundle: Path, mode: str) -> dict[str, float]:
    """Seconds of each of STEPS in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(bundle), mode],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(zip(STEPS, json.loads(done.stdout), strict=True))


def in_milliseconds(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each step, and of all but the warm frame together."""
    medians = {step: 1e3 * float(np.median([each[step] for each in rounds])) for step in STEPS}
    whole = [sum(each.values()) - each["warm"] for each in rounds]
    return medians | {"to_first_result": 1e3 * float(np.median(whole))}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=READY_BUNDLE)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"hashed": [], "trusted": []}
    for turn in range(given.rounds + 1):
        for mode, rounds in found.items():
            seconds = one_start(given.bundle, mode)
            if turn:  # the first one fills the system's cache
                rounds.append(seconds)
    bundle = open_bundle(given.bundle)
    size = sum(file.bytes for file in bundle.manifest.files.values())
    opened = {mode: [each["open"] for each in rounds] for mode, rounds in found.items()}
    spared_s = float(np.median(opened["hashed"]) - np.median(opened["trusted"]))
    result: dict[str, Any] = {
        "bundle": {"bytes": size, "precision": bundle.manifest.precision},
        "milliseconds": {mode: in_milliseconds(rounds) for mode, rounds in found.items()},
        "opening_without_hashes": gain(opened["hashed"], opened["trusted"]),
        "hashing_ms": 1e3 * spared_s,
    }
    if spared_s > 0:
        result["hashed_bytes_per_second"] = size / spared_s
        result["hashing_ms_of_sd2_fp16"] = 1e3 * BYTES_OF_SD2_FP16 * spared_s / size
    write_result("cold_start", result)


if __name__ == "__main__":
    main()
