"""What a training run needs on many GPUs: hours, memory, and data to be read, from what was measured on one.

    python -m benchmarks.planning [--network-gb-s 25] [--link-gb-s 200]

Measured are images a second on one GPU, memory (counted by benchmarks/speed/training_memory.py) and, by this script,
what reading costs a CPU core. Assumed are the two rates at which gradients travel, which nobody measured here; steps of
several GPUs were not timed either. Gradients are summed when a step is done, so their way adds to it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.report import RESULTS, write_result
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.train.data.batches import MixedBatches, Part
from e2e_deploy.train.data.encoding import encode_depth
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.folder_spec import FolderSpec, save_spec

GPU = "NVIDIA H200"
MEASURED = {
    "bf16": {"images_per_s": 3.233, "peak_gib": 16.9},
    "fp32": {"images_per_s": 3.486, "peak_gib": 17.6},
}
"""One H200, SD2 size, 480x640, micro-batches of one image, gradient checkpointing, not compiled:
benchmarks/gpu/training.py at commit ecdede5 on 2026-11-26. What has made steps faster since was not measured there."""

STEPS, IMAGES = 20_000, 32
"""The paper's run."""

IN_ONE_MACHINE = 8
GPUS = (1, 8, 16, 32, 64)
STORED_HW, TRAINED_HW = (768, 1024), (480, 640)
"""Hypersim's pictures, and the size they are trained at."""


def step_seconds(
    num_gpus: int, images: int, images_per_s: float, gradient_gb: float, gb_s: float
) -> tuple[float, float]:
    """Seconds of a step that compute and that sum gradients, of a ring in which each GPU sends at ``gb_s``."""
    travelling = 2 * (num_gpus - 1) / num_gpus * gradient_gb / gb_s
    return images / num_gpus / images_per_s, travelling


def memory_rows(counted: dict[str, Any]) -> dict[str, dict[str, float]]:
    """GB by precision, UNet trained, gradient checkpointing: what is cut among GPUs by speed.shard, and what is not."""
    rows = {}
    for row in counted["rows"]:
        if row["gradient_checkpointing"] and row["trained"] == ["unet"]:
            parts = row["parts_gb"]
            trained = parts["gradients"]  # as many float32 numbers as weights that are trained
            rows[row["precision"]] = {
                "cut": 2 * trained + parts["optimizer"],
                "whole": parts["weights"] - trained + parts["activations"],
            }
    return rows


def plan(
    reading: dict[str, float], counted: dict[str, Any], *, link_gb_s: float, network_gb_s: float
) -> list[dict[str, Any]]:
    """A row for each number of GPUs and precision.

    Args:
        reading: as of ``measure_reading``.
        counted: result of training_memory.
        link_gb_s: at which a GPU sends inside a machine of 8, GB/s.
        network_gb_s: between machines.
    """
    memory = memory_rows(counted)
    gradient_gb = next(row for row in counted["rows"] if row["trained"] == ["unet"])["parts_gb"][
        "gradients"
    ]
    rows = []
    for precision, measured in MEASURED.items():
        for num in GPUS:
            images = max(IMAGES, num)  # a GPU has one image of a step at least
            rate = network_gb_s if num > IN_ONE_MACHINE else link_gb_s
            compute, travel = step_seconds(num, images, measured["images_per_s"], gradient_gb, rate)
            steps = STEPS * IMAGES // images
            per_s = images / (compute + travel)
            parts = memory[precision]
            rows.append(
                {
                    "precision": precision,
                    "gpus": num,
                    "images_a_step": images,
                    "steps": steps,
                    "compute_s": round(compute, 3),
                    "travel_s": round(travel, 3),
                    "hours": round(steps * (compute + travel) / 3600, 2),
                    "images_per_s": round(per_s, 1),
                    "read_mb_s": round(per_s * reading["mb_an_image"], 1),
                    "cores_that_read": round(per_s * reading["cpu_s_an_image"], 1),
                    "memory_gb": round(parts["whole"] + parts["cut"], 1),
                    "sharded_gb": round(parts["whole"] + parts["cut"] / num, 1),
                }
            )
    return rows


def measure_reading(num_images: int = 40) -> dict[str, float]:
    """CPU seconds and MB that a picture with depth costs, from PNGs to a micro-batch, by one core."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind in ("rgb", "depth"):
            (root / "train" / kind).mkdir(parents=True)
        save_spec(root, FolderSpec(name="planning", depth_format="png16", unit_m=0.001))
        fall = np.linspace(8.0, 1.0, STORED_HW[0], dtype=np.float32)[:, None]
        for index, rgb in enumerate(reference_frames(STORED_HW)):
            depth_m = fall + rgb.mean(axis=2).astype(np.float32) / 255
            cv2.imwrite(str(root / "train" / "rgb" / f"{index}.png"), rgb[..., ::-1])
            depth = encode_depth(depth_m, 0.001)
            cv2.imwrite(str(root / "train" / "depth" / f"{index}.png"), depth)
        files = list((root / "train").rglob("*.png"))
        stored = sum(file.stat().st_size for file in files) / (len(files) / 2)
        cv2.setNumThreads(1)
        data = MixedBatches(
            [Part(FolderDataset(root, task="depth"), 1, TRAINED_HW)], batch_size=1, per_step=1
        )
        data.batch_at(0, 0)
        begun = time.process_time()
        for step in range(num_images):
            data.batch_at(step, 0)
        spent = time.process_time() - begun
    return {"cpu_s_an_image": spent / num_images, "mb_an_image": stored / 1e6}


def table(folder: Path = RESULTS) -> str:
    """The plan as a table in Markdown."""
    path = folder / "planning.json"
    if not path.is_file():
        return "Not measured."
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| GPUs | precision | images a step | steps | computing, s | gradients' way, s | hours | images/s | data, MB/s "
        "| cores that read | GB a GPU, whole | GB a GPU, sharded |",
        "|" + "---|" * 12,
    ]
    lines += [
        f"| {row['gpus']} | {row['precision']} | {row['images_a_step']} | {row['steps']:,} | {row['compute_s']:.2f} "
        f"| {row['travel_s']:.2f} | {row['hours']:.1f} | {row['images_per_s']:.0f} | {row['read_mb_s']:.0f} "
        f"| {row['cores_that_read']:.1f} | {row['memory_gb']:.1f} | {row['sharded_gb']:.1f} |"
        for row in result["rows"]
    ]
    rates = result["assumed_gb_s"]
    lines += [
        "",
        f"Computing: one {GPU}, measured. Gradients' way: assumed {rates['link']:g} GB/s in a machine of "
        f"{IN_ONE_MACHINE} GPUs, {rates['network']:g} GB/s from machine to machine, not measured. Memory: counted. "
        f"Reading: {1000 * result['reading']['cpu_s_an_image']:.0f} ms of a core and "
        f"{result['reading']['mb_an_image']:.1f} MB a picture with depth ({result['machine']['cpu']}, two real photos "
        f"at {STORED_HW[0]}x{STORED_HW[1]}), measured.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure reading, and write and print the plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network-gb-s", type=float, default=25.0)
    parser.add_argument("--link-gb-s", type=float, default=200.0)
    arguments = parser.parse_args()
    counted = json.loads((RESULTS / "training_memory.json").read_text(encoding="utf-8"))
    reading = measure_reading()
    rows = plan(
        reading, counted, link_gb_s=arguments.link_gb_s, network_gb_s=arguments.network_gb_s
    )
    assumed = {"link": arguments.link_gb_s, "network": arguments.network_gb_s}
    write_result(
        "planning",
        {"gpu": GPU, "assumed_gb_s": assumed, "reading": reading, "rows": rows},
        quiet=True,
    )
    print(table())


if __name__ == "__main__":
    main()
