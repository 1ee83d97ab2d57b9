"""Training speed: images a second and peak memory of e2e_deploy.train's optimizer steps, on pictures in memory.

The step is the real one (accumulation, checkpointing, AdamW, clipping); reading files is left out, and the pictures'
depth is made up, which costs the same as a true one.
"""

import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.contenders.models import make_inputs, make_model
from benchmarks.gpu.timing import Device, in_words
from e2e_deploy.errors import UnavailableError
from e2e_deploy.packages import require
from e2e_deploy.train.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    StartConfig,
    TrainConfig,
)
from e2e_deploy.train.data.batches import Batch, collate
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.step import Stepper

PRECISIONS = ("fp32", "bf16")
FULL = {"size_hw": (480, 640), "batch": 1, "effective_batch": 32, "steps": 3}
SMALL = {"size_hw": (64, 64), "batch": 1, "effective_batch": 2, "steps": 1}


def make_batches(size_hw: tuple[int, int], batch: int) -> list[Batch]:
    """Four micro-batches of real pictures with depth that falls from the top and varies with the picture."""
    batches = []
    for frames in make_inputs(size_hw, batch):
        samples = []
        for rgb in frames:
            fall = np.linspace(8.0, 1.0, size_hw[0], dtype=np.float32)[:, None]
            depth_m = fall + rgb.mean(axis=2).astype(np.float32) / 255
            valid = np.ones(size_hw, dtype=bool)
            samples.append(Sample(rgb=rgb, depth_m=depth_m, normals=None, valid=valid, path=""))
        batches.append(collate(samples))
    return batches


def config_of(precision: str, batch: int, effective_batch: int, steps: int) -> TrainConfig:
    """The paper's settings with gradient checkpointing; paths are not used."""
    return TrainConfig(
        task="depth",
        start=StartConfig(checkpoint="random"),
        data=(DataConfig(root="memory"),),
        run=RunConfig(out="nowhere"),
        model=ModelConfig(precision=precision),  # type: ignore[arg-type]  # one of PRECISIONS
        optim=OptimConfig(micro_batch=batch, effective_batch=effective_batch, steps=steps + 1),
    )


def measure(
    device: Device,
    precision: str,
    *,
    size_hw: tuple[int, int],
    batch: int,
    effective_batch: int,
    steps: int,
    small: bool,
) -> dict[str, Any]:
    """One warm-up step and ``steps`` timed ones."""
    config = config_of(precision, batch, effective_batch, steps)
    accelerator = require("accelerate", "train").Accelerator(mixed_precision="no")
    forward = TrainingForward(
        make_model(device.name, small=small), train=config.model.train, gradient_checkpointing=True
    )
    stepper = Stepper(forward, config, accelerator)
    batches: Iterator[Batch] = cycle(make_batches(size_hw, batch))
    seconds, losses = [], []
    for step in range(steps + 1):
        if step == 1 and device.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        device.synchronise()
        start = time.perf_counter()
        report = stepper.run(step, batches, lambda: False)
        device.synchronise()
        assert report is not None
        if step:
            seconds.append(time.perf_counter() - start)
        losses.append(report.loss)
    median = float(np.median(seconds))
    found: dict[str, Any] = {
        "seconds_per_step": median,
        "images_per_second": effective_batch / median,
        "losses": losses,
        "skipped_steps": int(sum(not np.isfinite(loss) for loss in losses)),
    }
    if device.is_cuda:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def run_training(device: Device, *, small: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Every precision, one after the other; one that fails is in the result with its error."""
    settings: dict[str, Any] = SMALL if small else FULL
    rows: dict[str, Any] = {}
    for precision in PRECISIONS:
        try:
            rows[precision] = measure(device, precision, small=small, **settings)
        except (UnavailableError, ImportError) as error:
            rows[precision] = {"not_run": str(error)}
        except Exception as error:  # of any library, out of memory too
            rows[precision] = {"error": in_words(error)}
        device.reserved()
        say(f"{precision}: {rows[precision]}")
    return {
        "model": "e2e-tiny, trained" if small else "SD2 size, random weights",
        "trained": "unet, gradient checkpointing",
        **settings,
        "precisions": rows,
    }
