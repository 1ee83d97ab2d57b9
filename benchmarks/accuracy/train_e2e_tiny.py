"""Trains the bundled e2e-tiny for depth and normals, from random weights to packaged fp16 folders.

    e2e-deploy data render data/rendered --train 2400 --val 100 --test 100
    python -m benchmarks.accuracy.train_e2e_tiny --data data/rendered [--task depth] [--device cuda] [--package]

Stages: autoencoder, then per task the UNet on latents, then end to end with the training loop. Each finished stage
is kept and skipped when the script runs again. --package writes e2e_deploy/assets/e2e-tiny-<task>;
score_e2e_tiny.py measures it and writes its model card.
"""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from e2e_deploy.frames import parse_size
from e2e_deploy.model.checkpoint import CARD, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.tiny import RESOLUTION, build_tiny
from e2e_deploy.train.config import parse_config
from e2e_deploy.train.model_folder import write_model
from e2e_deploy.train.pretrain import (
    Pictures,
    load_pictures,
    pretrain_autoencoder,
    pretrain_unet,
)
from e2e_deploy.train.run.loop import train

ROOT = Path(__file__).parents[2]
TASKS = ("depth", "normals")
STEPS: dict[str, Any] = {"autoencoder": 1200, "unet": {"depth": 12000, "normals": 800}}
NUM_VIEWS = 8
"""Windows of every scene that are encoded before the UNet learns on latents."""
END_TO_END = {
    "depth": (("128x160", 1600), ("256x320", 1200)),
    "normals": (("128x160", 400), ("256x320", 100)),
}
"""Size and steps of each end-to-end run; the last is the size that the model is used at."""

UNET_BATCH, BATCH = 16, 8


def autoencoder(arguments: argparse.Namespace, pictures: Pictures) -> Path:
    """Folder of the model from random weights with a trained autoencoder."""
    folder: Path = arguments.out / "autoencoder"
    if folder.is_dir():
        return folder
    start = open_checkpoint(build_tiny(arguments.out / "start", "depth"))
    model = load_model(start).to(arguments.device)
    pretrain_autoencoder(model, pictures, steps=STEPS["autoencoder"])
    facts = {"autoencoder_steps": STEPS["autoencoder"], "images": len(pictures.rgb)}
    return write_model(folder, model.cpu(), start, resolution=RESOLUTION, trained=facts)


def latent_unet(arguments: argparse.Namespace, pictures: Pictures, task: str) -> Path:
    """Folder of the model whose UNet has learned the task on latents."""
    folder: Path = arguments.out / f"latents-{task}"
    if folder.is_dir():
        return folder
    first = load_model(open_checkpoint(autoencoder(arguments, pictures)))
    start = open_checkpoint(build_tiny(arguments.out / f"start-{task}", task))
    model = load_model(start)
    model.vae, model.scaling_factor = first.vae, first.scaling_factor
    steps = STEPS["unet"][task]
    model = model.to(arguments.device)
    pretrain_unet(model, pictures, steps=steps, batch=UNET_BATCH, num_views=NUM_VIEWS)
    facts = {"unet_steps": steps, "views": NUM_VIEWS, "images": len(pictures.rgb)}
    return write_model(folder, model.cpu(), start, resolution=RESOLUTION, trained=facts)


def run_config(
    arguments: argparse.Namespace, task: str, start: Path, size: str, steps: int
) -> dict[str, Any]:
    """One end-to-end run as a table of the training loop."""
    data = {"root": str(arguments.data), "size": list(parse_size(size))}
    return {
        "task": task,
        "start": {"checkpoint": str(start)},
        "data": [data],
        "model": {"train": ["unet", "vae"], "precision": "bf16", "gradient_checkpointing": False},
        "optim": {
            "lr": 3e-4,
            "steps": steps,
            "warmup_steps": 50,
            "decay_steps": steps,
            "final_lr_ratio": 0.05,
            "micro_batch": BATCH,
            "effective_batch": BATCH,
        },
        "eval": data | {"split": "val", "every": steps // 2, "num_images": 40},
        "run": {
            "out": str(arguments.out / f"run-{task}-{size}"),
            "workers": 0,
            "checkpoint_every": 200,
            "panel_every": 0,
        },
    }


def package(arguments: argparse.Namespace, model: Path, task: str, card: dict[str, Any]) -> Path:
    """Copy a trained folder into the package with fp16 weights and the settings that made it."""
    target = ROOT / "e2e_deploy" / "assets" / f"e2e-tiny-{task}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(model, target)
    # diffusers loads both parts as float32; transformers keeps what a file holds, so the text encoder stays as it is.
    for file in (f for part in ("unet", "vae") for f in (target / part).glob("*.safetensors")):
        weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
        file.chmod(0o644)  # safetensors writes for the owner alone
    # Folders of this machine mean nothing elsewhere.
    text = json.dumps(card).replace(str(arguments.data), "data/rendered")
    card = json.loads(text.replace(str(arguments.out), "runs/e2e-tiny"))
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
    parser.add_argument("--task", choices=TASKS, help="both when left out")
    parser.add_argument("--package", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    pictures = load_pictures(arguments.data, parse_size(END_TO_END["depth"][0][0]))
    pictures = pictures.to(arguments.device)
    for task in [arguments.task] if arguments.task else TASKS:
        folder = latent_unet(arguments, pictures, task)
        stages = [arguments.out / "autoencoder", folder]
        configs = []
        for size, steps in END_TO_END[task]:
            configs.append(run_config(arguments, task, folder, size, steps))
            folder = train(parse_config(configs[-1])).model
        if arguments.package:
            cards = [json.loads((f / CARD).read_text(encoding="utf-8")) for f in stages]
            autoencoder_card, latents_card = (c["trained"] for c in cards)
            facts = {
                "images": latents_card["images"],
                "autoencoder": autoencoder_card,
                "latents": latents_card,
                "end_to_end": configs,
            }
            package(arguments, folder, task, facts)


if __name__ == "__main__":
    main()
