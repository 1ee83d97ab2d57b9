"""Training steps of e2e-tiny on this CPU: with the speed settings off and with them, in turn in one run.

    python -m benchmarks.speed.training_speed [--size 128x160] [--rounds 20] [--precisions bf16 fp32]

Compilation takes minutes once, and is remembered in torch's cache. Also written: how far the losses of the two ways are
apart, and where the time of a step goes.
"""

import argparse
import time
from itertools import cycle
from typing import Any

import torch

from benchmarks.gain import gain, in_words
from benchmarks.gpu.contenders.models import make_model
from benchmarks.gpu.training import make_batches
from benchmarks.report import write_result
from e2e_deploy.frames import parse_size
from e2e_deploy.packages import require
from e2e_deploy.runtime.timing import summarise
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.step.choices import Choices
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.step import Stepper

MICRO_BATCH = 8
"""As in configs/e2e_tiny_depth.toml."""
WAYS = {
    "off": Choices(gradient_checkpointing=False),
    "compiled": Choices(compiled=True),
}
TOP = 12


def make_stepper(precision: str, choices: Choices) -> Stepper:
    """The trained e2e-tiny, UNet and VAE trained."""
    config = parse_config(
        {
            "task": "depth",
            "start": {"checkpoint": "random"},
            "data": [{"root": "memory"}],
            "run": {"out": "nowhere"},
            "model": {"precision": precision, "train": ["unet", "vae"]},
            "optim": {"micro_batch": MICRO_BATCH, "effective_batch": MICRO_BATCH},
        }
    )
    accelerator = require("accelerate", "train").Accelerator(mixed_precision="no", cpu=True)
    forward = TrainingForward(
        make_model("cpu", small=True), train=config.model.train, gradient_checkpointing=False
    )
    return Stepper(forward, config, accelerator, choices=choices)


def profile_of(stepper: Stepper, step: int, batches: Any) -> dict[str, float]:
    """Share of a step's own time by operator, the largest ones."""
    with torch.profiler.profile() as profiler:
        stepper.run(step, batches, lambda: False)
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    return {row.key: round(row.self_cpu_time_total / whole, 4) for row in rows[:TOP]}


def compare(precision: str, size_hw: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Both ways in turn, each first as often as the other."""
    steppers = {name: make_stepper(precision, choices) for name, choices in WAYS.items()}
    batches = {name: cycle(make_batches(size_hw, MICRO_BATCH)) for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    losses: dict[str, list[float]] = {name: [] for name in WAYS}
    prepare_s = {}
    for number in range(rounds + 1):
        names = list(WAYS)[:: 1 if number % 2 else -1]
        for name in names:
            start = time.perf_counter()
            report = steppers[name].run(number, batches[name], lambda: False)
            took = time.perf_counter() - start
            assert report is not None
            assert report.loss is not None
            losses[name].append(report.loss)
            if number:
                seconds[name].append(took)
            else:
                prepare_s[name] = took
    return {
        "prepare_s": prepare_s,
        "latency": {name: vars(summarise(values)) for name, values in seconds.items()},
        "gain": gain(seconds["off"], seconds["compiled"]),
        "largest_relative_difference_of_losses": max(
            abs(a - b) / abs(a) for a, b in zip(*losses.values(), strict=True)
        ),
        "profile": {name: profile_of(steppers[name], rounds + 1, batches[name]) for name in WAYS},
    }


def main() -> None:
    """Measure every precision and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="128x160")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    arguments = parser.parse_args()
    size_hw = parse_size(arguments.size)
    found = {name: compare(name, size_hw, arguments.rounds) for name in arguments.precisions}
    write_result(
        "training_speed",
        {
            "size": list(size_hw),
            "micro_batch": MICRO_BATCH,
            "rounds": arguments.rounds,
            "precisions": found,
        },
    )
    for name, row in found.items():
        print(f"{name}: compiled against not: {in_words(row['gain'])}")


if __name__ == "__main__":
    main()
