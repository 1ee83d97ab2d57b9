"""Frame sizes that halve unevenly: agreement with diffusers at each, and what padding to 64 would cost instead.

Agreement: an fp32 bundle in ONNX Runtime and diffusers' pipeline on the same random weights and picture, with and
without a change of size, depth and normals. Speed: e2e-tiny as diffusers pads (to 8) and padded to 64, in turn.

    python -m benchmarks.accuracy.sizes [--rounds 15]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import e2e_deploy as e2e
from benchmarks.gain import gain
from benchmarks.report import write_result
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.exporter import export_bundle
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.model.tiny import build_tiny
from e2e_deploy.runtime.checks.peer import DiffusersPeer
from e2e_deploy.runtime.timing import summarise

OWN_SIZE = [
    (240, 328), (152, 320), (176, 256), (432, 768), (352, 1216),
    (256, 384), (480, 640), (100, 130), (241, 333), (136, 200),
]  # fmt: skip
RESIZED = [((480, 640), 328), ((240, 427), 320), ((120, 160), 248), ((375, 1242), 616)]
"""Frame and longest edge that the network sees: smaller and larger than the frame."""
SPEED = [(432, 768), (480, 640)]
PAUSE_S = 0.5
"""Before each call: the other side's threads spin for a while after theirs, and would hold a core."""


def agreement(folder: Path, task: str, work: Path) -> list[dict[str, Any]]:
    """Mean and largest difference from diffusers at every size."""
    rows = []
    for hw, resolution in [(hw, 0) for hw in OWN_SIZE] + RESIZED:
        checkpoint = open_checkpoint(folder)
        bundle = export_bundle(checkpoint, work / "bundle", frame_sizes=[hw], resolution=resolution)
        peer = DiffusersPeer(checkpoint, resolution)
        frame = reference_frames(hw, 1)[0]
        with e2e.load(bundle, backend="onnxruntime", device="cpu") as engine:
            difference = np.abs(engine(frame) - peer(frame))
        rows.append(
            {
                "task": task,
                "frame_size": list(hw),
                "resolution": resolution,
                "processing_size": bundle.manifest.graphs[0].processing_size,
                "mean_abs_difference": float(difference.mean()),
                "max_abs_difference": float(difference.max()),
            }
        )
        print(rows[-1], flush=True)
    return rows


def speed(hw: tuple[int, int], rounds: int, work: Path) -> dict[str, Any]:
    """Both paddings of e2e-tiny at one frame size, timed in turn."""
    frame = reference_frames(hw, 1)[0]
    engines, seen = {}, {}
    seconds: dict[str, list[float]] = {}
    for name, pad in (("as diffusers", 0), ("to 64", 64)):
        bundle = export_bundle(
            open_checkpoint(bundled_checkpoint("depth")),
            work / f"pad-{pad}",
            frame_sizes=[hw],
            resolution=max(hw),
            pad=pad,
        )
        seen[name] = bundle.manifest.graphs[0].processing_size
        engines[name] = e2e.load(bundle, backend="onnxruntime", device="cpu")
        seconds[name] = []
    for turn in range(rounds + 2):
        for name in sorted(engines, reverse=bool(turn % 2)):
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            engines[name](frame)
            seconds[name].append(time.perf_counter() - start)
    latency = {name: summarise(values[2:]) for name, values in seconds.items()}
    return {
        "frame_size": list(hw),
        "processing_size": seen,
        "latency": {name: vars(each) for name, each in latency.items()},
        "gain": gain(seconds["to 64"][2:], seconds["as diffusers"][2:]),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = []
        for task in ("depth", "normals"):
            rows += agreement(build_tiny(work / task, task), task, work)
        write_result(
            "sizes",
            {
                "checkpoint": "e2e-tiny, random weights for agreement, trained for speed",
                "agreement": rows,
                "worst_mean_abs_difference": max(row["mean_abs_difference"] for row in rows),
                "rounds": arguments.rounds,
                "speed": [speed(hw, arguments.rounds, work) for hw in SPEED],
            },
        )


if __name__ == "__main__":
    main()
