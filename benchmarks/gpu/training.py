r"""Training speed: images a second and peak memory of e2e_deploy.train's optimizer steps, on pictures in memory.

    python -m benchmarks.gpu.training --out DIR [--ways WAY ...] [--profile WAY ...] [--seconds N] [--small]

The step is the real one (accumulation, AdamW, clipping); reading files is left out, and the pictures' depth is made up,
which costs the same as a true one. A way is a precision, the images of a pass and what else is done, such as
bf16-8-compiled or fp32-1-checkpointed-tuned. acceptance.py runs the first two of DEFAULT_WAYS: what the settings gave
before the run chose for itself. The last two are what it chooses.

Before and after in one run of under 150 seconds, compilation apart, which the second command has alone:

    python -m benchmarks.gpu.training --out DIR --seconds 150 --profile bf16-8
    python -m benchmarks.gpu.training --out DIR --seconds 400 --name gpu_training_compiled \
        --ways bf16-1-checkpointed bf16-8-compiled --profile bf16-8-compiled
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.contenders.models import make_inputs, make_model
from benchmarks.gpu.profiling.kernels import profiled, table
from benchmarks.gpu.results import writer
from benchmarks.gpu.timing import Device, find_device, in_words
from e2e_deploy.errors import UnavailableError
from e2e_deploy.packages import require
from e2e_deploy.train.config.settings import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    StartConfig,
    TrainConfig,
)
from e2e_deploy.train.data.batches import Batch, collate
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.step.choices import Choices
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.step import Stepper


@dataclass(frozen=True)
class Way:
    """How steps are done.

    Attributes:
        precision: of autocast.
        batch: images a pass; a micro-batch is one.
        checkpointed: activations are computed again in the backward pass.
        compiled: the blocks of UNet and VAE by torch.compile, activations channels last.
        tuned: cuDNN chooses convolutions by trial.
    """

    precision: str
    batch: int = 1
    checkpointed: bool = False
    compiled: bool = False
    tuned: bool = False

    @classmethod
    def parse(cls, text: str) -> "Way":
        """A way from its name.

        Raises:
            ValueError: a word that says nothing.
        """
        precision, batch, *words = text.split("-")
        if unknown := set(words) - {"checkpointed", "compiled", "tuned"}:
            raise ValueError(f"{text}: nobody knows {', '.join(sorted(unknown))}")
        return cls(
            precision,
            int(batch),
            "checkpointed" in words,
            "compiled" in words,
            "tuned" in words,
        )


DEFAULT_WAYS = (
    "fp32-1-checkpointed",
    "bf16-1-checkpointed",
    "fp32-1",
    "bf16-1",
    "bf16-4",
    "bf16-4-tuned",
    "fp32-8",
    "bf16-8",
    "bf16-8-compiled",
)
EFFECTIVE = 8
"""Images a step of a way that is named: the optimizer's share is a few per cent at most."""
FULL = {"size_hw": (480, 640), "effective_batch": 32, "steps": 3}
SMALL = {"size_hw": (64, 64), "effective_batch": 8, "steps": 1}


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


def config_of(precision: str, effective_batch: int, steps: int) -> TrainConfig:
    """The paper's settings; paths are not used."""
    return TrainConfig(
        task="depth",
        start=StartConfig(checkpoint="random"),
        data=(DataConfig(root="memory"),),
        run=RunConfig(out="nowhere"),
        model=ModelConfig(precision=precision),  # type: ignore[arg-type]  # of a Way
        optim=OptimConfig(micro_batch=1, effective_batch=effective_batch, steps=steps + 1),
    )


def prepare(device: Device, way: Way, config: TrainConfig, *, small: bool) -> Stepper:
    """What does the steps of a way."""
    accelerator = require("accelerate", "train").Accelerator(mixed_precision="no")
    model = make_model(device.name, small=small)
    forward = TrainingForward(model, train=config.model.train, gradient_checkpointing=False)
    choices = Choices(
        gradient_checkpointing=way.checkpointed,
        compiled=way.compiled,
        micro_batches_per_pass=way.batch,
    )
    return Stepper(forward, config, accelerator, choices=choices)


def measure(
    device: Device,
    way: Way,
    *,
    size_hw: tuple[int, int],
    effective_batch: int,
    steps: int,
    small: bool,
    profile: bool = False,
) -> dict[str, Any]:
    """One warm-up step and ``steps`` timed ones; with ``profile`` the kernels of one step of one pass, too."""
    torch.backends.cudnn.benchmark = way.tuned
    prepared = time.perf_counter()
    config = config_of(way.precision, effective_batch, steps)
    stepper = prepare(device, way, config, small=small)
    batches: Iterator[Batch] = cycle(make_batches(size_hw, 1))
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
        else:
            prepare_s = time.perf_counter() - prepared
        losses.append(report.loss)
    median = float(np.median(seconds))
    found: dict[str, Any] = {
        "prepare_s": prepare_s,
        "seconds_per_step": median,
        "images_per_second": effective_batch / median,
        "losses": losses,
        "skipped_steps": int(sum(loss is None or not np.isfinite(loss) for loss in losses)),
    }
    if device.is_cuda:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if profile:
        stepper.accumulation = way.batch
        found["profile"] = profiled(
            device,
            lambda step: stepper.run(step, batches, lambda: False),
            [steps + 1],
            rounds=2,
            top=15,
        )
    return found


def run_ways(
    device: Device,
    ways: dict[str, Way],
    settings: dict[str, Any],
    *,
    small: bool,
    say: Callable[[str], None],
    until: float = float("inf"),
    profile: tuple[str, ...] = (),
    write: Callable[[dict[str, Any]], None] = lambda rows: None,
) -> dict[str, Any]:
    """Every way, one after the other; one that fails is in the result with its error."""
    rows: dict[str, Any] = {}
    for name, way in ways.items():
        needed = 150 if way.compiled else 12
        try:
            if time.monotonic() + needed > until:
                raise UnavailableError(f"it may take {needed} s, which are not left")
            rows[name] = measure(device, way, small=small, profile=name in profile, **settings)
        except (UnavailableError, ImportError) as error:
            rows[name] = {"not_run": str(error)}
        except Exception as error:  # of any library, out of memory too
            rows[name] = {"error": in_words(error)}
        torch.compiler.reset()
        device.reserved()
        if "profile" in rows[name]:
            say(table(name, rows[name]["profile"], 15))
        said = {key: value for key, value in rows[name].items() if key != "profile"}
        say(f"{name}: {said}")
        write(rows)
    torch.backends.cudnn.benchmark = False
    return rows


def run_training(device: Device, *, small: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """The paper's settings, in fp32 and in bf16."""
    settings: dict[str, Any] = SMALL if small else FULL
    ways = {name.split("-")[0]: Way.parse(name) for name in DEFAULT_WAYS[:2]}
    return {
        "model": "e2e-tiny, trained" if small else "SD2 size, random weights",
        "trained": "unet, gradient checkpointing",
        "batch": 1,
        **settings,
        "precisions": run_ways(device, ways, settings, small=small, say=say),
    }


def main() -> None:
    """Measure the ways that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--ways", nargs="+", default=list(DEFAULT_WAYS))
    parser.add_argument("--profile", nargs="*", default=[], help="ways whose kernels are listed")
    parser.add_argument("--name", default="gpu_training_ways", help="of the JSON file")
    parser.add_argument("--seconds", type=float, default=600.0, help="nothing begins after this")
    parser.add_argument("--small", action="store_true", help="e2e-tiny, small frames, few rounds")
    parser.add_argument("--commit", help="of the checkout, where it is no git repository")
    arguments = parser.parse_args()
    if others := set(arguments.profile) - set(arguments.ways):
        parser.error(f"--profile names {', '.join(sorted(others))}, which --ways does not")
    until = time.monotonic() + arguments.seconds
    device, small = find_device(), arguments.small
    settings: dict[str, Any] = dict(SMALL if small else FULL)
    if not small:
        settings |= {"effective_batch": EFFECTIVE, "steps": 2}
    held = {
        "model": "e2e-tiny, trained" if small else "SD2 size, random weights",
        "trained": "unet",
        **settings,
    }
    to_file = writer(arguments.out, device, arguments.commit, small=small)

    def write(rows: dict[str, Any]) -> None:
        to_file(arguments.name, held | {"ways": rows})

    rows = run_ways(
        device,
        {name: Way.parse(name) for name in arguments.ways},
        settings,
        small=small,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        until=until,
        profile=tuple(arguments.profile),
        write=write,
    )
    for name, row in rows.items():
        if "images_per_second" in row:
            print(
                f"{name:28} {row['images_per_second']:6.2f} images/s {row.get('peak_gib', 0):6.1f} GiB  "
                f"prepared in {row['prepare_s']:.0f} s"
            )
        else:
            print(f"{name:28} {row}"[:300])


if __name__ == "__main__":
    main()
