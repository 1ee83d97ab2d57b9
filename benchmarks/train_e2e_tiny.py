"""Trains the bundled e2e-tiny for depth and normals, from random weights to packaged fp16 folders with model cards.

    e2e-deploy data render data/rendered --train 1600 --val 100 --test 100
    python benchmarks/train_e2e_tiny.py --data data/rendered [--device cuda] [--package]

Stages: autoencoder, then per task the UNet on latents, then end to end with the training loop. Each finished stage
is kept and skipped when the script runs again. --package writes e2e_deploy/assets/e2e-tiny-<task>.
"""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from report import commit, machine, versions, write_result
from safetensors.torch import load_file, save_file

from e2e_deploy.checkpoint import CARD, open_checkpoint
from e2e_deploy.frames import parse_size
from e2e_deploy.loading import load_model
from e2e_deploy.tiny import RESOLUTION, build_tiny
from e2e_deploy.train.config import parse_config
from e2e_deploy.train.loop import train
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.pretrain import load_pictures, pretrain_autoencoder, pretrain_unet

ROOT = Path(__file__).parents[1]
TASKS = ("depth", "normals")


def pretrained(arguments: argparse.Namespace) -> dict[str, Path]:
    """Folders with a trained autoencoder and a UNet that has seen latents, by task."""
    folders = {task: arguments.out / f"pretrained-{task}" for task in TASKS}
    if all(folder.is_dir() for folder in folders.values()):
        return folders
    pictures = load_pictures(arguments.data, parse_size(arguments.size)).to(arguments.device)
    starts = {t: open_checkpoint(build_tiny(arguments.out / f"start-{t}", t)) for t in TASKS}
    first = load_model(starts["depth"]).to(arguments.device)
    pretrain_autoencoder(first, pictures, steps=arguments.autoencoder_steps)
    for task, folder in folders.items():
        model = load_model(starts[task]).to(arguments.device)
        model.vae, model.scaling_factor = first.vae, first.scaling_factor
        pretrain_unet(model, pictures, steps=arguments.unet_steps)
        facts = {
            "autoencoder_steps": arguments.autoencoder_steps,
            "unet_steps": arguments.unet_steps,
        }
        write_model(folder, model.cpu(), starts[task], resolution=RESOLUTION, trained=facts)
    return folders


def run_config(arguments: argparse.Namespace, task: str, start: Path) -> dict[str, Any]:
    """The end-to-end run of one task as a table of the training loop."""
    size = list(parse_size(arguments.size))
    steps = arguments.steps
    return {
        "task": task,
        "start": {"checkpoint": str(start)},
        "data": [{"root": str(arguments.data), "size": size}],
        "model": {"train": ["unet", "vae"], "precision": "bf16", "gradient_checkpointing": False},
        "optim": {
            "lr": 3e-4,
            "steps": steps,
            "warmup_steps": 50,
            "decay_steps": steps,
            "final_lr_ratio": 0.05,
            "micro_batch": 8,
            "effective_batch": 8,
        },
        "eval": {
            "root": str(arguments.data),
            "split": "val",
            "size": size,
            "every": 500,
            "num_images": 50,
        },
        "run": {"out": str(arguments.out / f"run-{task}"), "workers": 0, "checkpoint_every": 250},
    }


def package(model: Path, task: str, card: dict[str, Any]) -> Path:
    """Copy a trained folder into the package with fp16 weights and its model card."""
    target = ROOT / "e2e_deploy" / "assets" / f"e2e-tiny-{task}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(model, target)
    for file in target.rglob("*.safetensors"):
        weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    known = json.loads((target / CARD).read_text(encoding="utf-8"))
    (target / CARD).write_text(
        json.dumps(known | {"trained": card}, indent=2) + "\n", encoding="utf-8"
    )
    return target


def main() -> None:
    """Train what is not there yet, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/e2e-tiny"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="128x160")
    parser.add_argument("--autoencoder-steps", type=int, default=900)
    parser.add_argument("--unet-steps", type=int, default=900)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--package", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folders = pretrained(arguments)
    scores = {}
    for task, start in folders.items():
        config = run_config(arguments, task, start)
        result = train(parse_config(config))
        scores[task] = None if result.evaluation is None else result.evaluation.values()
        if arguments.package:
            facts = {
                "commit": commit(),
                "machine": machine(),
                "versions": versions(),
                "config": config,
                "held_out": scores[task],
            }
            package(result.model, task, facts)
    write_result(
        "train_e2e_tiny",
        {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "held_out": scores},
    )


if __name__ == "__main__":
    main()
