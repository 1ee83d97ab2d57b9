"""The specialised graph against the plain one in ONNX Runtime on the CPU: latency in turn in one run, and peak memory.

e2e-tiny also without the upsampling pass; at full size a third session would not fit in memory. All are traced in fp32
from the same checkpoint, from frame to result.

    python -m benchmarks.speed.specialised_speed [--full-size --work DIR] [--rounds 15]
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.full_size import full_size_checkpoint
from benchmarks.gain import gain
from benchmarks.report import write_result
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.graph.norms import shorten_sums
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.export.onnx import trace
from e2e_deploy.frames import parse_size
from e2e_deploy.model.checkpoint import Checkpoint, bundled_checkpoint, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from e2e_deploy.packages import import_onnxruntime
from e2e_deploy.runtime.backends.onnxruntime.options import physical_cores
from e2e_deploy.runtime.timing import summarise

PAUSE_S = 0.5
"""Before each run: the other session's threads spin for a while after theirs, and would hold a core."""

BLOCK = 6
"""Rounds before the sessions are made anew: where one's memory comes to lie is worth up to a fifth of its speed."""

GRAPHS = {
    "plain": {"specialised": False},
    "without_upsampling_pass": {"specialised": True, "upsample": False},
    "specialised": {"specialised": True},
}


def write_graph(
    checkpoint: Checkpoint,
    path: Path,
    frame_hw: tuple[int, int],
    resolution: int,
    *,
    how: dict[str, bool],
) -> tuple[int, int]:
    """Trace and save one graph; returns its processing size."""
    model = load_model(checkpoint)
    plan = model.plan(frame_hw, resolution)
    body: nn.Module = model
    if how["specialised"]:
        upsample = how.get("upsample", True)
        body, _ = specialise(model, sizes_hw=[plan.padded_hw], upsample=upsample)
    shorten_sums(body)  # as every fp32 export
    graph = trace.trace(
        FrameModel(body, plan, checkpoint.identity.outputs).eval(),
        torch.from_numpy(reference_frames(frame_hw, 1)),
        input_name="frame",
        output_names=["result"],
    )
    with trace.WeightFile(path.with_suffix(".data")) as weights:
        trace.save(graph, path, weights)
    return plan.padded_hw


def session(path: Path) -> Any:
    """As the runtime makes it."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def peak_gib(path: Path, frame_1HW3: np.ndarray, answer: Any) -> None:
    """In a process of its own: load, run twice, report the peak."""
    alone = session(path)
    for _ in range(2):
        alone.run(None, {"frame": frame_1HW3})
    # Not getrusage: a new process begins with its parent's peak there.
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    )
    answer.put(int(status["VmHWM"].split()[0]) / 2**20)


def compare(paths: dict[str, Path], frame_1HW3: np.ndarray, rounds: int) -> dict[str, Any]:
    """Peak memory of each alone, then all timed in turn; gains and the difference are those from the first."""
    context = multiprocessing.get_context("spawn")
    memory = {}
    for name, path in paths.items():
        answer = context.Queue()
        child = context.Process(target=peak_gib, args=(path, frame_1HW3, answer))
        child.start()
        memory[name] = answer.get()
        child.join()
    names, results = list(paths), {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        if index % BLOCK == 0:
            sessions = {name: session(path) for name, path in paths.items()}
            results = {name: s.run(None, {"frame": frame_1HW3})[0] for name, s in sessions.items()}
        first = index % len(names)  # each is first as often as the others
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            sessions[name].run(None, {"frame": frame_1HW3})
            seconds[name].append(time.perf_counter() - start)
    plain, special = (results[name].astype(np.float64) for name in (names[0], names[-1]))
    return {
        "peak_gib": memory,
        "latency": {name: vars(summarise(values)) for name, values in seconds.items()},
        "gains": {name: gain(seconds[names[0]], each) for name, each in seconds.items()},
        "relative_difference": float(np.linalg.norm(special - plain) / np.linalg.norm(plain)),
    }


def main() -> None:
    """Trace both graphs, compare, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-full-size")
    parser.add_argument("--frame-size", help="480x640 at full size, 256x320 for e2e-tiny")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    folder = full_size_checkpoint(arguments.work) if arguments.full_size else bundled_checkpoint()
    frame_hw = parse_size(arguments.frame_size or ("480x640" if arguments.full_size else "256x320"))
    resolution = 768 if arguments.full_size else 0
    checkpoint = open_checkpoint(folder)
    arguments.work.mkdir(parents=True, exist_ok=True)
    graphs = {k: v for k, v in GRAPHS.items() if "upsample" not in v or not arguments.full_size}
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        paths = {name: Path(work) / f"{name}.onnx" for name in graphs}
        for name, how in graphs.items():
            processing_hw = write_graph(checkpoint, paths[name], frame_hw, resolution, how=how)
        found = compare(paths, reference_frames(frame_hw, 1), arguments.rounds)
    size = "full_size" if arguments.full_size else "e2e_tiny"
    write_result(
        f"specialised_speed_{size}",
        {
            "frame_size": frame_hw,
            "processing_size": processing_hw,
            "rounds": arguments.rounds,
            **found,
        },
    )


if __name__ == "__main__":
    main()
